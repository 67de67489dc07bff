"""How long the servers alone need for a failover: asked without gvcluster's client, which is the one being judged."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import gevent
from gevent.event import Event

from gvcluster.core.address import Address
from gvcluster.errors import NodeError
from gvcluster.testing import Node

# Seconds between two questions: how exact the answer is.
INTERVAL = 0.005


class Probe:
    """Writes to each replica of a shard again and again, until one is promoted and accepts it.

    Attributes:
        accepted: Set when a replica accepts the write.
        accepted_at: When that was, on the monotonic clock.
        accepted_by: Which one it was.
    """

    def __init__(self, replicas: Sequence[Node], key: str) -> None:
        self.accepted = Event()
        self.accepted_at = 0.0
        self.accepted_by: Address | None = None
        self._replicas, self._key = replicas, key

    def __repr__(self) -> str:
        return f"<Probe of {', '.join(str(node.address) for node in self._replicas)}: {self.accepted_by}>"

    def run(self) -> None:
        """Ask until one accepts; each replica on a connection of its own.

        Blocks: until then. A kill ends it.
        """
        asking = [gevent.spawn(self._ask, node) for node in self._replicas]
        try:
            gevent.joinall(asking, raise_error=True)
        finally:
            gevent.killall(asking)

    def _ask(self, node: Node) -> None:
        while not self.accepted.is_set():
            try:
                self._ask_on_one_connection(node)
            except NodeError:
                gevent.sleep(INTERVAL)

    def _ask_on_one_connection(self, node: Node) -> None:
        with node.connection(timeout=1.0) as connection:
            while not self.accepted.is_set():
                (reply,) = connection.calls([("SET", self._key, "probe")])
                if reply == b"OK" and not self.accepted.is_set():
                    self.accepted_at, self.accepted_by = monotonic(), node.address
                    self.accepted.set()
                gevent.sleep(INTERVAL)
