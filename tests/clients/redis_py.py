"""redis-py 8 against the server, connected as an application would: RESP3, pools, pipelines, asyncio.

Usage: redis_py.py PORT, with the database of `tests/tests/clients.rs` behind `user:*`. Ends with 0 if all holds.
"""

import asyncio
import json
import sys
import threading
import time
import uuid

import redis
import redis.asyncio

PORT = int(sys.argv[1])


def main():
    client = redis.Redis(port=PORT, decode_responses=True, client_name="redis-py")
    client.flushall()
    for test in [
        connection,
        strings,
        bitmaps,
        keys,
        many,
        pipelines,
        scripts_of_frameworks,
        leases,
        loaders,
        errors,
    ]:
        test(client)
        print(f"redis-py {redis.__version__}: {test.__name__}")
    binary()
    old_protocol()
    pool()
    asyncio.run(asynchronous())
    print(f"redis-py {redis.__version__}: all")


def connection(client):
    assert client.ping() is True
    assert client.echo("hello") == "hello"
    assert client.client_getname() == "redis-py"
    assert isinstance(client.client_id(), int)
    info = client.client_info()
    assert info["name"] == "redis-py" and info["lib-name"] == "redis-py" and info["resp"] == "3", info
    assert any(line["name"] == "redis-py" for line in client.client_list())
    server = client.info()
    assert server["redis_version"] == "7.4.0" and server["role"] == "master" and server["loading"] == 0, server
    assert server["tcp_port"] == PORT
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": server["maxmemory_policy"]}
    assert client.config_set("timeout", 0)
    now, _ = client.time()
    assert abs(now - time.time()) < 60
    assert client.command_count() == len(client.command_list())
    assert client.execute_command("COMMAND", "INFO", "get")
    assert client.command_getkeys("MSET", "a", 1, "b", 2) == ["a", "b"]
    assert client.client_no_evict("ON") and client.client_no_touch("OFF")
    other = redis.Redis(port=PORT, db=3)
    other.set("only-here", 1)
    assert other.dbsize() == 1 and client.exists("only-here") == 0
    other.flushdb()


def strings(client):
    assert client.set("s", "v") is True
    assert client.get("s") == "v"
    assert client.set("s", "w", nx=True) is None
    assert client.set("s", "w", xx=True, get=True) == "v"
    assert client.set("s", "x", ex=100) and 90 < client.ttl("s") <= 100
    assert client.set("s", "y", keepttl=True) and client.ttl("s") > 90
    assert client.getex("s", persist=True) == "y" and client.ttl("s") == -1
    assert client.getset("s", "z") == "y" and client.getdel("s") == "z" and client.get("s") is None
    assert client.setex("s", 50, "v") and client.psetex("s", 50_000, "v") and 40_000 < client.pttl("s") <= 50_000
    assert client.setnx("s", "no") is False
    assert client.append("text", "Hello") == 5 and client.append("text", " World") == 11
    assert client.getrange("text", 0, 4) == "Hello" and client.setrange("text", 6, "Redis") == 11
    assert client.strlen("text") == 11 and client.get("text") == "Hello Redis"
    assert client.incr("n") == 1 and client.incrby("n", 41) == 42 and client.decr("n") == 41 and client.decrby("n", 1) == 40
    assert client.incrbyfloat("n", 0.5) == 40.5
    client.mset({"key1": "ohmytext", "key2": "mynewtext"})
    assert client.lcs("key1", "key2") == "mytext" and client.lcs("key1", "key2", len=True) == 6
    matches = client.lcs("key1", "key2", idx=True)
    # redis-py gives the map of RESP3 as a flat list, as RESP2 has it.
    assert matches[matches.index("len") + 1] == 6, matches


def bitmaps(client):
    assert client.setbit("bits", 7, 1) == 0 and client.getbit("bits", 7) == 1
    assert client.bitcount("bits") == 1 and client.bitpos("bits", 1) == 7
    client.mset({"x": "\x0f", "y": "\x3c"})
    assert client.bitop("AND", "z", "x", "y") == 1 and client.get("z") == "\x0c"
    assert client.bitfield("field").set("u8", 0, 255).incrby("u8", 0, 1).get("u8", 0).execute() == [0, 0, 0]
    assert client.bitfield_ro("field", "u8", 0) == [0]


def keys(client):
    client.flushdb()
    client.mset({f"k:{i}": i for i in range(500)})
    assert client.dbsize() == 500 and client.exists("k:0", "k:1", "no") == 2
    assert set(client.scan_iter(match="k:*", count=50)) == {f"k:{i}" for i in range(500)}
    assert sorted(client.keys("k:1?")) == sorted(f"k:1{i}" for i in range(10))
    assert client.type("k:0") == "string" and client.type("no") == "none"
    assert client.randomkey().startswith("k:")
    assert client.expire("k:0", 100) and client.expire("k:0", 50, gt=True) is False and client.persist("k:0")
    assert client.pexpireat("k:0", 4102444800123) and client.pexpiretime("k:0") == 4102444800123
    assert client.expiretime("k:0") == 4102444800 and client.touch("k:0", "no") == 1
    assert client.rename("k:0", "r") and client.renamenx("r", "k:1") is False and client.copy("r", "c") is True
    assert client.object("encoding", "k:5") == "int" and client.object("idletime", "k:5") >= 0
    assert client.memory_usage("k:5") > 0
    assert client.unlink("r", "c") == 2 and client.delete("k:1", "no") == 1
    client.set("short", "x", px=50)
    deadline = time.monotonic() + 10
    while client.get("short") is not None:
        assert time.monotonic() < deadline
    assert client.flushdb() and client.dbsize() == 0


def many(client):
    assert client.mset({"a": 1, "b": 2}) and client.mget("a", "no", "b") == ["1", None, "2"]
    assert client.msetnx({"b": 3, "c": 3}) is False and client.exists("c") == 0


def pipelines(client):
    pipe = client.pipeline(transaction=False)
    for i in range(1000):
        pipe.set(f"p:{i}", i).get(f"p:{i}")
    replies = pipe.execute()
    assert replies == [reply for i in range(1000) for reply in (True, str(i))]
    pipe = client.pipeline(transaction=False)
    pipe.set("n", "x").incr("n").get("n")
    replies = pipe.execute(raise_on_error=False)
    assert replies[0] is True and isinstance(replies[1], redis.ResponseError) and replies[2] == "x"


def scripts_of_frameworks(client):
    """What Django's cache backend and a rate limiter send."""
    assert client.set("django", "v", ex=300) and client.get("django") == "v" and client.expire("django", 10)
    assert client.incrby("limit", 1) == 1 and client.expire("limit", 60, nx=True) and not client.expire("limit", 60, nx=True)
    assert client.set("lock", uuid.uuid4().hex, nx=True, px=10_000) and not client.set("lock", "other", nx=True, px=10_000)


def leases(client):
    status, value, token, left, version = client.execute_command("GETL", "lease")
    assert (status, value, version) == ("LEASE", None, 0) and int(token) > 1 and 0 < left <= 10_000
    status, _, second, _, _ = redis.Redis(port=PORT, decode_responses=True).execute_command("GETL", "lease")
    assert (status, second) == ("WAIT", "1")
    answers = []

    def wait():
        waiter = redis.Redis(port=PORT, decode_responses=True)
        answers.append(waiter.execute_command("GETL", "lease", "WAIT", 10_000))

    thread = threading.Thread(target=wait)
    thread.start()
    assert client.execute_command("SETL", "lease", token, "value", "EX", 100) == "STORED"
    thread.join(20)
    assert answers[0][:3] == ["HIT", "value", "0"], answers
    assert client.execute_command("INVAL", "lease", "HARD") == 1
    _, _, token, _, _ = client.execute_command("GETL", "lease")
    client.delete("lease")
    assert client.execute_command("SETL", "lease", token, "stale") == "LOST revoked"
    assert client.get("lease") is None


def loaders(client):
    assert json.loads(client.get("user:42"))["name"] == "user 42"
    assert client.get("user:100000") is None
    users = client.mget([f"user:{i}" for i in range(1, 51)])
    assert [json.loads(user)["id"] for user in users] == list(range(1, 51))
    assert json.loads(client.execute_command("LOADTHROUGH", "user:7"))["id"] == 7
    names = [loader["name"] for loader in client.execute_command("LOADER", "LIST")]
    assert names == ["user"], names


def errors(client):
    for argv, text in [
        (["NOSUCHCOMMAND"], "unknown command"),
        (["GET"], "wrong number of arguments"),
        (["SET", "k", "v", "NOSUCH"], "syntax error"),
        (["LOADTHROUGH", "nomatch:1"], "NOLOADER"),
        (["SELECT", "99"], "out of range"),
    ]:
        try:
            reply = client.execute_command(*argv)
        except redis.ResponseError as error:
            assert text in str(error), (argv, str(error))
        else:
            raise AssertionError((argv, reply))
    assert client.ping()


def binary():
    client = redis.Redis(port=PORT)
    every_byte = bytes(range(256))
    assert client.set(every_byte, every_byte * 1000) and client.get(every_byte) == every_byte * 1000


def old_protocol():
    client = redis.Redis(port=PORT, protocol=2, decode_responses=True)
    assert client.set("old", "v") and client.get("old") == "v" and client.get("no") is None
    assert client.config_get("timeout") == {"timeout": "0"}
    assert client.client_info()["resp"] == "2"


def pool():
    pool = redis.BlockingConnectionPool(port=PORT, max_connections=8)
    client = redis.Redis(connection_pool=pool)
    client.set("pool", 0)

    def work():
        for _ in range(200):
            client.incr("pool")

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert client.get("pool") == b"3200"


async def asynchronous():
    client = redis.asyncio.Redis(port=PORT, decode_responses=True)
    await client.set("async", "v")
    assert await asyncio.gather(*[client.get("async") for _ in range(50)]) == ["v"] * 50
    async with client.pipeline(transaction=False) as pipe:
        assert await pipe.set("a", 1).incr("a").execute() == [True, 2]
    assert json.loads(await client.get("user:43"))["id"] == 43
    await client.aclose()


main()
