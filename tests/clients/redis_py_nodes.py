"""redis-py's plain client, which knows nothing of several nodes, at each of three nodes.

Usage: redis_py_nodes.py PORT, of one of the nodes, with the loader of `tests/src/cluster.rs` for `user:*`. Ends with 0 if all holds.
"""

import json
import sys

import redis


def main():
    first = redis.Redis(port=int(sys.argv[1]), decode_responses=True)
    ports = sorted(int(address.rsplit(":", 1)[1].split("@")[0]) for address in first.cluster("nodes"))
    assert len(ports) == 3, ports
    for protocol in (2, 3):
        clients = [redis.Redis(port=port, decode_responses=True, protocol=protocol) for port in ports]
        for test in (strings, pipelines, many, leases, loaders, errors):
            test(clients)
    print(f"redis-py {redis.__version__}: plain clients at {len(ports)} nodes")


def strings(clients):
    for number in range(300):
        assert clients[number % 3].set(f"k:{number}", number, ex=100)
    for number in range(300):
        assert clients[(number + 1) % 3].get(f"k:{number}") == str(number)
        assert 0 < clients[(number + 2) % 3].ttl(f"k:{number}") <= 100
    assert clients[0].incrby("k:7", 3) == 10 and clients[1].getrange("k:10", 0, 0) == "1"
    assert clients[2].getdel("k:7") == "10" and clients[0].get("k:7") is None


def pipelines(clients):
    for client in clients:
        pipeline = client.pipeline(transaction=False)
        for number in range(500):
            pipeline.set(f"p:{number}", number)
            pipeline.get(f"p:{number}")
            pipeline.echo(str(number))
        replies = pipeline.execute()
        assert replies == [reply for number in range(500) for reply in (True, str(number), str(number))]


def many(clients):
    keys = [f"m:{number}" for number in range(100)]
    assert clients[0].mset({key: key.upper() for key in keys})
    for client in clients:
        assert client.mget(keys + ["none"]) == [key.upper() for key in keys] + [None]
        assert client.exists(*keys) == 100 and client.touch(*keys) == 100
    assert clients[1].delete(*keys[:50]) == 50 and clients[2].unlink(*keys) == 50


def leases(clients):
    for number in range(30):
        key = f"lease:{number}"
        status, _, token, *_ = clients[0].execute_command("GETL", key)
        assert status == "LEASE", status
        assert clients[1].execute_command("SETL", key, token, "v") == "STORED"
        assert clients[2].execute_command("GETL", key)[:2] == ["HIT", "v"]
        assert clients[0].execute_command("INVAL", key, "HARD") == 1


def loaders(clients):
    ids = range(1, 40)
    for client in clients:
        rows = client.mget([f"user:{number}" for number in ids])
        assert [json.loads(row)["id"] for row in rows] == list(ids)
        assert json.loads(client.get("user:77"))["name"] == "user 77"
        assert client.get("user:5000") is None


def errors(clients):
    for client in clients:
        assert client.set("text", "a")
        try:
            client.incr("text")
            raise AssertionError("a text is no number")
        except redis.ResponseError as error:
            assert "not an integer" in str(error), error
        try:
            client.rename("a", "b")
            raise AssertionError("two slots")
        except redis.RedisError as error:
            assert "CROSSSLOT" in str(error) or "same slot" in str(error), error


main()
