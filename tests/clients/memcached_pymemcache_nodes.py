"""pymemcache 4 with three nodes: a client at each of them, and a HashClient whose own ring goes over all.

Usage: PORTS="PORT PORT PORT" memcached_pymemcache_nodes.py, with the loader of `tests/src/cluster.rs` for `user:*`. Ends with 0 if all holds.
"""

import json
import os
from importlib.metadata import version

from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient

SERVERS = [("127.0.0.1", int(port)) for port in os.environ["PORTS"].split()]


def main():
    assert len(SERVERS) == 3
    clients = [Client(server, default_noreply=False) for server in SERVERS]
    clients += [PooledClient(server, max_pool_size=2, default_noreply=False) for server in SERVERS]
    ring = HashClient(SERVERS, use_pooling=True, ignore_exc=False, default_noreply=False)
    every = clients + [ring]
    for turn, client in enumerate(every):
        strings(turn, client, every)
        many(turn, client, every)
        loaders(client)
    print(f"pymemcache {version('pymemcache')}: clients and rings at {len(SERVERS)} nodes")


def strings(turn, client, every):
    for number in range(60):
        key, other = f"s:{turn}:{number}", every[(turn + number) % len(every)]
        assert client.set(key, b"v") is True and other.get(key) == b"v"
        assert other.add(key, b"no") is False and client.append(key, b"w") is True
        value, unique = other.gets(key)
        assert value == b"vw" and client.cas(key, b"1", unique) is True and other.cas(key, b"2", unique) is False
        assert other.incr(key, 4) == 5 and client.touch(key, 100) is True
        assert other.delete(key) is True and client.get(key) is None


def many(turn, client, every):
    keys = [f"m:{turn}:{number}" for number in range(200)]
    assert client.set_many({key: key.encode() for key in keys}) == []
    for other in every:
        assert other.get_many(keys + ["none"]) == {key: key.encode() for key in keys}
    assert client.delete_many(keys) is True


def loaders(client):
    users = client.get_many([f"user:{number}" for number in range(1, 51)] + ["user:100001"])
    assert {json.loads(user)["id"] for user in users.values()} == set(range(1, 51))


main()
