#!/usr/bin/env python3
"""Kills a node of a cluster that up.py has started while clients read, starts it again, and shows what they have noticed.

    conf/cluster/kill.py [CONF]

Clients of the first node read users of all nodes all the time. After two seconds the second node is killed (kill -9), six seconds
later it is started again. Each line of the chart is a quarter of a second: reads that were answered, reads that were answered with an error, the slowest
one, and the queries that all nodes have asked of the database.
"""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from cluster import Connection, ask, nodes_of

CLIENTS = 4
PAUSE_S = 0.004
BIN_S = 0.25
KILL_AT_S, START_AT_S, END_AT_S = 2.0, 8.0, 10.0
USERS = 500
BAR = 32


class Reader(threading.Thread):
    """Reads one user after the other, and notes when and how each read ended."""

    def __init__(self, port, first, until):
        super().__init__(daemon=True)
        self.port, self.first, self.until = port, first, until
        self.reads = []

    def run(self):
        connection = Connection(self.port)
        number = self.first
        while (begun := time.monotonic()) < self.until:
            number = number % USERS + 1
            try:
                is_answered = connection.ask("GET", f"user:{number}") is not None
            except RuntimeError:
                is_answered = False
            ended = time.monotonic()
            self.reads.append((ended, ended - begun, is_answered, number))
            time.sleep(PAUSE_S)


def queries(nodes):
    """What each node has asked of the database so far, by name; nothing of one that does not answer."""
    counts = {}
    for name, port in nodes:
        stats = ask(port, "LOADER", "STATS", "user")
        if stats is not None:
            counts[name] = dict(zip(stats[::2], stats[1::2]))["keys"]
    return counts


def added(before, now):
    """How much more was asked; a node that has started anew counts from nothing."""
    return sum(count - (before.get(name, 0) if count >= before.get(name, 0) else 0) for name, count in now.items())


def users_of(port, node):
    """The users of the node with this port, as another one tells."""
    connection = Connection(node)
    ranges = [(first, last) for first, last, owner, *_ in connection.ask("CLUSTER", "SLOTS") if owner[1] == port]
    slots = {number: connection.ask("CLUSTER", "KEYSLOT", f"user:{number}") for number in range(1, USERS + 1)}
    return {number for number, slot in slots.items() if any(first <= slot <= last for first, last in ranges)}


def main():
    conf = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "cluster.toml")
    nodes = nodes_of(conf)
    (name, port), first = nodes[1], nodes[0][1]
    info = ask(port, "INFO", "server")
    if info is None:
        sys.exit(f"node {name} does not answer on port {port}: are the nodes up (conf/cluster/up.py)?")
    victim = int(next(line for line in info.splitlines() if line.startswith("process_id:")).partition(":")[2])
    command = pathlib.Path(f"/proc/{victim}/cmdline").read_bytes().decode().split("\0")[:-1]
    folder = os.readlink(f"/proc/{victim}/cwd")

    lost = users_of(port, first)
    # All is in memory before.
    Connection(first).ask("MGET", *[f"user:{number}" for number in range(1, USERS + 1)])
    begun = time.monotonic()
    readers = [Reader(first, USERS * place // CLIENTS, begun + END_AT_S) for place in range(CLIENTS)]
    for reader in readers:
        reader.start()
    print(f"{CLIENTS} clients read {USERS} users of all nodes by way of node {nodes[0][0]}\n")
    print(f"{'':>7}  {'reads answered':<{BAR + 6}}{'errors':>6}{'slowest':>10}{'queries':>9}")
    before, seen, told = queries(nodes), [0] * CLIENTS, set()
    errors_in_all = 0
    for number in range(1, int(END_AT_S / BIN_S) + 1):
        end = begun + number * BIN_S
        time.sleep(max(0, end - time.monotonic()))
        now = queries(nodes)
        reads = []
        for place, reader in enumerate(readers):
            ready = len(reader.reads)
            reads += reader.reads[seen[place] : ready]
            seen[place] = ready
        answered = sum(is_answered for _, _, is_answered, _ in reads)
        errors = len(reads) - answered
        errors_in_all += errors
        slowest_ms = max((took for _, took, _, _ in reads), default=0) * 1000
        bar = "█" * min(BAR, round(answered / (CLIENTS * BIN_S / PAUSE_S) * BAR))
        at = (number - 1) * BIN_S
        print(f"{at:5.2f} s  {bar:<{BAR}}{answered:>6}{errors:>6}{slowest_ms:>7.1f} ms{added(before, now):>9}", flush=True)
        before.update(now)
        if at + BIN_S >= KILL_AT_S and "killed" not in told:
            told.add("killed")
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            print(f"         ── node {name} is killed (kill -9) ──", flush=True)
        if at + BIN_S >= START_AT_S and "started" not in told:
            told.add("started")
            log = open(pathlib.Path(folder) / f"leasehold-{name}.log", "ab")
            subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
            print(f"         ── node {name} is started again, empty ──", flush=True)
    after = [ended - killed for reader in readers for ended, took, is_answered, number in reader.reads
             if is_answered and number in lost and ended - took > killed]
    print(f"\nof the {len(lost)} users of node {name}, the first was answered {min(after) * 1000:.1f} ms after the kill")
    total = sum(len(reader.reads) for reader in readers)
    print(f"{total} reads, {errors_in_all} errors")
    for line in ask(first, "INFO", "cluster").splitlines():
        if line.startswith(f"x_peer_{name}:"):
            print(line)


main()
