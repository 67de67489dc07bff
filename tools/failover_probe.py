#!/usr/bin/env python3
"""Ask two nodes, on raw sockets in a process of its own: what a failover looks like without any client's doing.

`tools/failover_figures.py` starts it: `failover_probe.py HOST PORT KEY HOST PORT KEY`. The first node is a replica: it
answers MOVED to each write, and the first OK is its promotion. The second is the primary of another shard, which says
CLUSTERDOWN for a while where the servers insist on full coverage. At the end it prints a JSON object, in seconds on the
monotonic clock that all processes share: when the promotion was (`promoted`), for how long the other primary has
refused (`refused`), and when each question to that one began and how long it took (`asked`): what the servers and the
machine alone cost those who have to do with healthy shards.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Self

# Seconds between two questions: how exact the answer is.
INTERVAL = 0.002


class Raw:
    """A connection to one node, and the one write that it is asked again and again."""

    def __init__(self, host: str, port: str, key: str) -> None:
        word = key.encode()
        self._command = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$5\r\nprobe\r\n" % (len(word), word)
        self._socket = socket.create_connection((host, int(port)), timeout=60.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def accepts(self) -> bool:
        """Write once."""
        self._socket.sendall(self._command)
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += self._socket.recv(4096)
        return answer == b"+OK\r\n"


class Witness:
    """What the two nodes have answered so far."""

    def __init__(self) -> None:
        self.promoted = self.refused = self._refusing_since = 0.0
        self.asked: list[tuple[float, float]] = []

    def is_over(self) -> bool:
        """The promotion is seen, and the other primary accepts writes."""
        return self.promoted > 0 and not self._refusing_since

    def look(self, replica: Raw, bystander: Raw) -> None:
        """Ask both."""
        if not self.promoted and replica.accepts():
            self.promoted = time.monotonic()
        began = time.monotonic()
        accepts = bystander.accepts()
        self.asked.append((began, time.monotonic() - began))
        if not accepts:
            self._refusing_since = self._refusing_since or time.monotonic()
        elif self._refusing_since:
            self.refused += time.monotonic() - self._refusing_since
            self._refusing_since = 0.0


def main(*arguments: str) -> int:
    with Raw(*arguments[:3]) as replica, Raw(*arguments[3:]) as bystander:
        witness = Witness()
        print("ready", flush=True)
        while not witness.is_over():
            witness.look(replica, bystander)
            time.sleep(INTERVAL)
    print(json.dumps({"promoted": witness.promoted, "refused": witness.refused, "asked": witness.asked}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
