"""pymemcache 4's HashClient, whose own ring goes over three nodes, while one of them is killed, and a fourth reads for it.

Usage: PORTS="PORT PORT PORT" memcached_pymemcache_gutter.py VICTIM, one of these ports, with the loader of `tests/src/cluster.rs` for `user:*`. Ends with 0 if all holds.
"""

import json
import os
import signal
import sys
import time
from importlib.metadata import version

from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheError

SERVERS = [("127.0.0.1", int(port)) for port in os.environ["PORTS"].split()]
VICTIM = ("127.0.0.1", int(sys.argv[1]))
PATIENCE_S = 30
IDS = range(1, 201)


def main():
    assert VICTIM in SERVERS
    ring = HashClient(SERVERS, retry_attempts=1, retry_timeout=0.1)
    assert read_all(ring) == 0
    os.kill(Client(VICTIM).stats()[b"pid"], signal.SIGKILL)
    # The ring finds out by itself, and spreads the node's part over the others; they know who reads for it.
    deadline = time.monotonic() + PATIENCE_S
    while read_all(ring) > 0:
        assert time.monotonic() < deadline, "reads fail still"
    for _ in range(3):
        assert read_all(ring) == 0
        users = ring.get_many([f"user:{number}" for number in IDS])
        assert [json.loads(users[f"user:{number}"])["id"] for number in IDS] == list(IDS)
    print(f"pymemcache {version('pymemcache')}: a ring over {len(SERVERS)} nodes reads on when one is killed")


def read_all(ring):
    """Reads all users; how many reads have failed."""
    errors = 0
    for number in IDS:
        try:
            user = ring.get(f"user:{number}")
        except (OSError, MemcacheError):
            errors += 1
            continue
        # A node that is tried rarely reads as a miss there.
        if user is None:
            errors += 1
        else:
            assert json.loads(user)["id"] == number
    return errors


main()
