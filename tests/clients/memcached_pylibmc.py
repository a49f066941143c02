"""pylibmc on libmemcached, speaking text and as its documentation recommends: TCP without delay, ketama, CAS.

Usage: memcached_pylibmc.py PORT, with the database of `tests/src/client_scripts.rs` behind `user:*`. Ends with 0 if all holds.
"""

import json
import sys

import pylibmc

PORT = sys.argv[1]
NAME = f"pylibmc {pylibmc.__version__}"


def connect(**behaviors):
    return pylibmc.Client([f"127.0.0.1:{PORT}"], behaviors={"tcp_nodelay": True, **behaviors})


def main():
    client = connect(ketama=True, cas=True)
    client.flush_all()
    for test in [basics, many, cas, numbers, times, server, loaders]:
        test(client)
        print(f"{NAME}: {test.__name__}")
    quiet()
    pools(client)
    print(f"{NAME}: all")


def basics(client):
    for value in ["text", "\u20ac", b"bytes", 7, 2**70, 2.5, True, None, [1, {"a": 2}], "long" * 10_000]:
        assert client.set("k", value) and client.get("k") == value, value
    assert client.get("none") is None and client.get("none", "d") == "d"
    assert client.add("k", 1) is False and client.add("a", "b") is True
    assert client.replace("a", "c") and client.replace("none", 1) is False
    assert client.append("a", "d") and client.prepend("a", "b") and client.get("a") == "bcd"
    assert client.delete("a") and not client.delete("a")
    assert client.set("compressed", "x" * 100_000, min_compress_len=100) and client.get("compressed") == "x" * 100_000
    assert client.set("k" * 250, 1) and client.get("k" * 250) == 1
    assert "k" * 250 in client


def many(client):
    assert client.set_multi({f"{i}": i for i in range(500)}, key_prefix="m:") == []
    found = client.get_multi([f"{i}" for i in range(510)], key_prefix="m:")
    assert found == {f"{i}": i for i in range(500)}
    assert client.delete_multi([f"{i}" for i in range(500)], key_prefix="m:")
    assert client.get_multi(["m:1"]) == {}


def cas(client):
    client.set("c", 1)
    value, unique = client.gets("c")
    assert value == 1 and client.cas("c", 2, unique) and client.get("c") == 2
    assert client.cas("c", 3, unique) is False


def numbers(client):
    client.set("n", 10)
    assert client.incr("n") == 11 and client.incr("n", 9) == 20 and client.decr("n", 5) == 15 and client.decr("n", 50) == 0
    client.set_multi({"n1": 1, "n2": 2})
    client.incr_multi(("n1", "n2"), delta=10)
    assert client.get_multi(["n1", "n2"]) == {"n1": 11, "n2": 12}
    try:
        client.incr("none")
    except pylibmc.NotFound:
        pass
    else:
        raise AssertionError("nothing counts")


def times(client):
    assert client.set("t", 1, time=100) and client.touch("t", 1000) and client.get("t") == 1
    assert not client.touch("none", 10)


def server(client):
    [(name, stats)] = client.get_stats()
    assert name.startswith(b"127.0.0.1") and int(stats["curr_connections"]) >= 1, stats
    assert client.get_stats("settings")
    assert client.flush_all() and client.get("k") is None


def loaders(client):
    assert json.loads(client.get("user:42"))["name"] == "user 42"
    assert client.get("user:100000") is None
    users = client.get_multi([f"user:{i}" for i in range(1, 51)])
    assert {json.loads(user)["id"] for user in users.values()} == set(range(1, 51))


def quiet():
    client = connect(no_block=True, _noreply=True, buffer_requests=False)
    client.set("quiet", 1)
    client.set("quiet", 2)
    assert client.get("quiet") == 2


def pools(client):
    pool = pylibmc.ClientPool(client, 4)
    for index in range(8):
        with pool.reserve() as one:
            assert one.set("pool", index) and one.get("pool") == index


main()
