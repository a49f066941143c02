"""pymemcache 4 against the server, as an application would use it: serialised values, many keys, CAS, a pool, a hash ring.

Usage: memcached_pymemcache.py PORT, with the database of `tests/src/client_scripts.rs` behind `user:*`. Ends with 0 if all holds.
"""

import json
import sys
import threading
from importlib.metadata import version

from pymemcache import serde
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.client.retrying import RetryingClient
from pymemcache.exceptions import MemcacheClientError, MemcacheIllegalInputError, MemcacheServerError

SERVER = ("127.0.0.1", int(sys.argv[1]))
NAME = f"pymemcache {version('pymemcache')}"


def main():
    client = Client(SERVER, default_noreply=False)
    client.flush_all()
    for test in [basics, noreply, many, cas, numbers, times, limits, server]:
        test(client)
        print(f"{NAME}: {test.__name__}")
    for test in [serialised, pooled, ring, retrying, loaders]:
        test()
        print(f"{NAME}: {test.__name__}")
    print(f"{NAME}: all")


def basics(client):
    assert client.get("none") is None and client.get("none", default=b"d") == b"d"
    assert client.set("k", b"v") is True and client.get("k") == b"v"
    assert client.add("k", b"no") is False and client.add("a", b"yes") is True
    assert client.replace("a", b"r") is True and client.replace("none", b"r") is False
    assert client.append("a", b"-end") is True and client.prepend("a", b"start-") is True
    assert client.get("a") == b"start-r-end"
    assert client.append("none", b"x") is False
    assert client.delete("a") is True and client.delete("a") is False
    assert client.set("flags", b"v", flags=77) and client.get("flags") == b"v"
    every_byte = bytes(range(256)) * 100
    assert client.set("bytes", every_byte) and client.get("bytes") == every_byte
    assert client.set("empty", b"") and client.get("empty") == b""


def noreply(client):
    quiet = Client(SERVER)
    assert quiet.set("q", b"1") is True and quiet.incr("q", 4) == 5
    quiet.set("q", b"10", noreply=True)
    quiet.incr("q", 5, noreply=True)
    quiet.append("q", b"0", noreply=True)
    quiet.touch("q", 100, noreply=True)
    assert quiet.get("q") == b"150"
    quiet.delete("q", noreply=True)
    assert quiet.get("q") is None


def many(client):
    pairs = {f"m:{i}": str(i).encode() for i in range(500)}
    assert client.set_many(pairs) == []
    assert client.get_many([*pairs, "none"]) == pairs
    assert client.get_many([]) == {}
    assert client.delete_many(list(pairs)[:250]) is True
    assert len(client.get_many(list(pairs))) == 250
    found = client.gets_many(list(pairs)[240:260])
    assert len(found) == 10 and all(len(pair) == 2 for pair in found.values())


def cas(client):
    assert client.gets("none") == (None, None)
    client.set("c", b"1")
    value, unique = client.gets("c")
    assert value == b"1" and client.cas("c", b"2", unique) is True
    assert client.cas("c", b"3", unique) is False and client.get("c") == b"2"
    client.delete("c")
    assert client.cas("c", b"3", unique) is None


def numbers(client):
    assert client.incr("n", 1) is None
    client.set("n", b"10")
    assert client.incr("n", 5) == 15 and client.decr("n", 100) == 0
    client.set("n", str(2**64 - 1).encode())
    assert client.incr("n", 2) == 1
    client.set("n", b"text")
    try:
        client.incr("n", 1)
    except MemcacheClientError as error:
        assert b"non-numeric" in error.args[0], error
    else:
        raise AssertionError("text counts")


def times(client):
    assert client.set("t", b"v", expire=100) and client.touch("t", 1000) is True and client.touch("none", 1) is False
    assert client.raw_command("gat 500 t", end_tokens=b"END\r\n") == b"VALUE t 0 1\r\nv\r\n"
    assert client.set("t", b"v", expire=-1) and client.get("t") is None
    assert client.set("t", b"v", expire=4_000_000_000 % 2**31) and client.get("t") is not None


def limits(client):
    for key in ["a b", "k" * 251, "new\nline"]:
        try:
            client.get(key)
        except MemcacheIllegalInputError:
            pass
        else:
            raise AssertionError(key)
    assert client.set("k" * 250, b"v") and client.get("k" * 250) == b"v"
    try:
        client.set("large", b"x" * 2_000_000)
    except MemcacheServerError as error:
        assert b"too large" in error.args[0], error
    else:
        raise AssertionError("an entry of two megabytes is stored")
    assert client.set("after", b"v") and client.get("after") == b"v"
    assert client.set("nearly", b"x" * 1_000_000) and client.get("nearly") == b"x" * 1_000_000


def server(client):
    stats = client.stats()
    assert stats[b"curr_connections"] >= 1 and stats[b"cmd_get"] > 0 and b"version" in stats, stats
    assert client.stats("settings")
    assert client.version().split(b".")[0].isdigit()
    assert client.raw_command("mn", end_tokens=b"\r\n") == b"MN"
    client.set("gone", b"v")
    assert client.flush_all() is True and client.get("gone") is None
    assert client.flush_all(delay=100_000) is True
    client.quit()


def serialised():
    client = Client(SERVER, serde=serde.compressed_serde, default_noreply=False)
    for value in ["text", "\u20ac", 7, b"bytes", {"a": [1, 2.5, None]}, "long" * 1000]:
        assert client.set("s", value) and client.get("s") == value, value
    client.set_many({"x": 1, "y": [2]})
    assert client.get_many(["x", "y"]) == {"x": 1, "y": [2]}


def pooled():
    client = PooledClient(SERVER, max_pool_size=8, default_noreply=False)
    client.set("pool", b"0")

    def work():
        for _ in range(200):
            client.incr("pool", 1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert client.get("pool") == b"1600"


def ring():
    client = HashClient([SERVER], use_pooling=True, ignore_exc=False, default_noreply=False)
    assert client.set_many({f"r:{i}": b"v" for i in range(50)}) == []
    assert len(client.get_many([f"r:{i}" for i in range(60)])) == 50
    assert client.delete_many([f"r:{i}" for i in range(50)])
    client.flush_all()


def retrying():
    client = RetryingClient(Client(SERVER), attempts=3, retry_for=[ConnectionError])
    client.set("again", b"v")
    assert client.get("again") == b"v"


def loaders():
    client = Client(SERVER, default_noreply=False)
    assert json.loads(client.get("user:42"))["name"] == "user 42"
    assert client.get("user:100000") is None
    users = client.get_many([f"user:{i}" for i in range(1, 51)] + ["user:100001"])
    assert {json.loads(user)["id"] for user in users.values()} == set(range(1, 51))
    value, unique = client.gets("user:7")
    assert client.cas("user:7", b"mine", unique) and client.get("user:7") == b"mine"


main()
