#!/usr/bin/env python3
"""Starts all nodes of a cluster on this machine, and ends them with Ctrl-C.

    conf/cluster/up.py [CONF]

CONF is conf/cluster/cluster.toml if not given. The program is $LEASEHOLD, else `leasehold` in the PATH. What the nodes say
goes to leasehold-NAME.log in the working directory.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

from cluster import nodes_of, ask


def main():
    conf = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "cluster.toml")
    program = os.environ.get("LEASEHOLD", "leasehold")
    running = []

    def end(*_):
        # Also those that somebody has started anew in the place of one that was killed.
        for _, port in nodes_of(conf):
            info = ask(port, "INFO", "server") or ""
            for line in info.splitlines():
                if line.startswith("process_id:"):
                    os.kill(int(line.partition(":")[2]), signal.SIGTERM)
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        sys.exit(0)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    for name, port in nodes_of(conf):
        with open(f"leasehold-{name}.log", "ab") as log:
            command = [program, "--conf", str(conf), "--port", str(port), "--set", f"node={name}"]
            # In a session of its own: Ctrl-C is for this process, which ends the nodes in order.
            running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        # One after the other: the first makes the database.
        while ask(port, "PING") is None:
            if running[-1].poll() is not None:
                print(f"node {name} has ended; leasehold-{name}.log says why", file=sys.stderr)
                end()
            time.sleep(0.05)
        print(f"node {name} listens on port {port}", flush=True)
    print("all are up; Ctrl-C ends them", flush=True)
    while True:
        signal.pause()


main()
