"""redis-py's RedisCluster against three nodes, connected as an application would.

Usage: redis_py_cluster.py PORT, of one of the nodes, with the loader of `tests/tests/cluster.rs` for `user:*`. Ends with 0 if all holds.
"""

import json
import sys
import threading

import redis
from redis.cluster import RedisCluster

PORT = int(sys.argv[1])


def main():
    client = RedisCluster(host="127.0.0.1", port=PORT, decode_responses=True)
    for test in (topology, strings, several_keys, pipelines, leases, tags, loaders, errors):
        test(client)
    one_load(client)
    print(f"redis-py {redis.__version__}: RedisCluster on {len(client.get_primaries())} nodes")


def topology(client):
    assert len(client.get_primaries()) == 3 and not client.get_replicas()
    for node in client.get_primaries():
        assert client.ping(target_nodes=node)
        assert client.info("cluster", target_nodes=node)["cluster_enabled"] == 1
    assert client.cluster_info(target_nodes=client.get_random_node())["cluster_size"] == "3"
    assert client.keyslot("{user1000}.following") == client.cluster_keyslot("user1000")
    shards = client.cluster_shards(target_nodes=client.get_random_node())
    assert len(shards) == 3, shards


def strings(client):
    assert client.flushall(target_nodes=RedisCluster.PRIMARIES)
    for number in range(1000):
        assert client.set(f"k:{number}", number)
    for number in range(1000):
        assert client.get(f"k:{number}") == str(number)
    assert client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 1000
    counts = [client.dbsize(target_nodes=node) for node in client.get_primaries()]
    assert all(count > 200 for count in counts), counts
    assert client.incr("n") == 1 and client.expire("n", 100) and 0 < client.ttl("n") <= 100
    assert client.delete("k:1") == 1 and client.get("k:1") is None


def several_keys(client):
    assert client.mset({"{tag}a": 1, "{tag}b": 2})
    assert client.mget("{tag}a", "{tag}b", "{tag}c") == ["1", "2", None]
    assert client.exists("{tag}a", "{tag}b") == 2
    slot = client.keyslot("{tag}a")
    owner = client.get_node_from_key("{tag}a")
    assert client.cluster_countkeysinslot(slot) == 2
    found = client.execute_command("CLUSTER GETKEYSINSLOT", slot, 10, target_nodes=owner)
    assert sorted(found) == ["{tag}a", "{tag}b"], found


def pipelines(client):
    with client.pipeline() as pipe:
        for number in range(500):
            pipe.set(f"p:{number}", number)
            pipe.get(f"p:{number}")
        replies = pipe.execute()
    assert replies == [reply for number in range(500) for reply in (True, str(number))]


def leases(client):
    for number in range(50):
        status, value, token, _, _ = client.execute_command("GETL", f"lease:{number}")
        assert status == "LEASE" and value is None
        assert client.execute_command("SETL", f"lease:{number}", token, "filled", "EX", 60) == "STORED"
        assert client.execute_command("GETL", f"lease:{number}")[:2] == ["HIT", "filled"]
        assert client.execute_command("INVAL", f"lease:{number}", "HARD") == 1


def tags(client):
    """What is about all nodes says so, and is sent to each."""
    keys = [f"tagged:{number}" for number in range(30)]
    described = redis.Redis(port=PORT, decode_responses=True, protocol=2).execute_command
    for command, name in (("INVALTAG", "colour"), ("INVALPREFIX", "tagged:")):
        for key in keys:
            token = client.execute_command("GETL", key)[2]
            assert client.execute_command("SETL", key, token, "red", "TAGS", 1, "colour") == "STORED"
            assert client.get(key) == "red"
        tips = str(described("COMMAND", "INFO", command))
        assert "request_policy:all_shards" in tips and "response_policy:all_succeeded" in tips, tips
        for node in client.get_primaries():
            assert client.execute_command(command, name, target_nodes=node) in (True, "OK")
        assert [client.get(key) for key in keys] == [None] * 30, command


def loaders(client):
    for number in range(1, 50):
        assert json.loads(client.get(f"user:{number}"))["id"] == number
        assert json.loads(client.execute_command("LOADTHROUGH", f"user:{number}"))["id"] == number
    with client.pipeline() as pipe:
        for number in range(50, 150):
            pipe.get(f"user:{number}")
        assert [json.loads(reply)["id"] for reply in pipe.execute()] == list(range(50, 150))


def errors(client):
    plain = redis.Redis(port=PORT, decode_responses=True)
    for argv, text in [
        (["SELECT", "1"], "SELECT is not allowed in cluster mode"),
        (["RENAME", "a", "b"], "hash to the same slot"),
        (["COPY", "{a}1", "{a}2", "DB", "1"], ("not allowed in cluster mode", "127.0.0.1:")),
    ]:
        try:
            reply = plain.execute_command(*argv)
        except redis.ResponseError as error:
            texts = (text,) if isinstance(text, str) else text
            assert any(text in str(error) for text in texts), (argv, str(error))
        else:
            raise AssertionError((argv, reply))


def loaded(client):
    """Keys that all nodes together have asked the database for."""
    total = 0
    for node in client.get_primaries():
        fields = client.execute_command("LOADER", "STATS", "user", target_nodes=node)
        total += fields["keys"]
    return total


def one_load(client):
    clients = [RedisCluster(host="127.0.0.1", port=PORT, decode_responses=True) for _ in range(6)]
    before, replies = loaded(client), []

    def work(mine):
        for _ in range(10):
            replies.append(json.loads(mine.get("user:999"))["id"])

    threads = [threading.Thread(target=work, args=(mine,)) for mine in clients for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert replies == [999] * 300, len(replies)
    assert loaded(client) == before + 1, (before, loaded(client))


main()
