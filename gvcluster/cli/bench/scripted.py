"""Scripted nodes for the benchmark, in a process of their own: `python -c … PRIMARIES REPLICAS RANGES`.

It prints the addresses of the primaries, and runs until its standard input ends.
"""

from __future__ import annotations

import os
import sys

import gevent
import gevent.os

from gvcluster.cli.bench.worker import allow_many_sockets
from gvcluster.core.slots import SLOTS
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import encode_reply

# What the peers ask for before they begin.
_COMMANDS = (("get", 2, ("readonly", "fast"), 1, 1, 1), ("set", -3, ("write", "denyoom"), 1, 1, 1))


def main() -> None:
    """Serve until nobody wants it any more."""
    primaries, replicas, ranges = map(int, sys.argv[1:])
    allow_many_sockets()
    with FakeCluster(primaries, replicas=replicas) as fake:
        if ranges > primaries:
            for slot in range(SLOTS):
                fake.move_slot(slot, slot * ranges // SLOTS % primaries)
        # Written once: it is asked for again and again, and each time would take the nodes longer than the client.
        slots = {protocol: encode_reply(fake.slot_ranges(), protocol) for protocol in (2, 3)}
        for node in fake.nodes:
            node.on("CLUSTER SLOTS", lambda _node, connection, _args: slots[connection.protocol])
            node.on("COMMAND", encode_reply(_COMMANDS))
            node.on("CONFIG", encode_reply([b"cluster-require-full-coverage", b"yes"]))
            node.on("CLIENT", b"+OK\r\n")
            node.on("INFO", encode_reply(b"# Server\r\nredis_version:7.2.4\r\nredis_mode:cluster\r\n"))
        print(*(node.address for node in fake.nodes[:primaries]), flush=True)
        while gevent.os.tp_read(0, 1):
            pass
    os._exit(0)
