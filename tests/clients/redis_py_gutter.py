"""redis-py's RedisCluster while one of three nodes is killed, and a fourth reads for it.

Usage: redis_py_gutter.py PORT, of one of the nodes, with the port of the one to be killed as VICTIM in the environment, and the loader of
`tests/tests/gutter.rs` for `user:*`. Ends with 0 if all holds.
"""

import json
import os
import signal
import sys
import time

import redis
from redis.cluster import RedisCluster

PORT, VICTIM = int(sys.argv[1]), int(os.environ["VICTIM"])
PATIENCE_S = 30
IDS = range(1, 201)


def main():
    client = RedisCluster(host="127.0.0.1", port=PORT, decode_responses=True)
    assert read_all(client) == 0
    victim = client.get_node(host="127.0.0.1", port=VICTIM)
    lost = [number for number in IDS if client.get_node_from_key(f"user:{number}") == victim]
    assert len(lost) > 20, lost
    os.kill(client.info("server", target_nodes=victim)["process_id"], signal.SIGKILL)
    # The client finds out by itself, from the nodes that are left.
    deadline = time.monotonic() + PATIENCE_S
    while read_all(client) > 0:
        assert time.monotonic() < deadline, "reads fail still"
    for _ in range(3):
        assert read_all(client) == 0
    # Changes wait for their node.
    try:
        client.set(f"user:{lost[0]}", "x")
        raise AssertionError("it has been set")
    except redis.exceptions.RedisError:
        pass
    kept = next(number for number in IDS if number not in lost)
    assert client.set(f"user:{kept}", "x")
    print(f"redis-py {redis.__version__}: RedisCluster reads {len(lost)} keys of a node that was killed")


def read_all(client):
    """Reads all users; how many reads have failed."""
    errors = 0
    for number in IDS:
        try:
            assert json.loads(client.get(f"user:{number}"))["id"] == number
        except redis.exceptions.RedisError:
            errors += 1
    return errors


main()
