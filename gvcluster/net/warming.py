"""Opens connections before anybody needs them: all nodes at once."""

from __future__ import annotations

from collections.abc import Iterable

from gevent.event import Event

from gvcluster.errors import GvClusterError
from gvcluster.net.loop import HubLoop, remaining
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool


class Warming:
    """One warm-up. Each node has a greenlet, which goes on to the deadline if the caller leaves."""

    def __init__(self, pools: Iterable[NodePool], lanes: int, exclusive: int, deadline: float) -> None:
        self._pools = list(pools)
        self._lanes, self._exclusive, self._deadline = lanes, exclusive, deadline
        self._left = len(self._pools)
        self._done = Event()
        self.ready = 0  # how many of the connections are open

    def __repr__(self) -> str:
        return f"<Warming of {len(self._pools)} nodes, {self._left} left>"

    def wait(self, loop: HubLoop) -> int:
        """Do it. Returns how many of the connections are open."""
        for pool in self._pools:
            loop.spawn(self._warm, pool)
        if self._pools:
            loop.wait(self._done, remaining(self._deadline))
        return self.ready

    def _warm(self, pool: NodePool) -> None:
        borrowed: list[MultiplexedConnection] = []
        try:
            for number in range(self._lanes):
                pool.wait_lane_number(number, self._deadline)
                self.ready += 1
            # All at once: one that came back would be lent again. But who borrowed on when all are open would wait for
            # other borrowers, and they perhaps for him.
            while _open(pool) < self._exclusive:
                borrowed.append(pool.wait_exclusive(self._deadline))
        except GvClusterError:
            pass
        finally:
            self.ready += min(_open(pool), self._exclusive)
            for connection in borrowed:
                pool.give_back(connection, clean=True)
            self._left -= 1
            if not self._left:
                self._done.set()


def _open(pool: NodePool) -> int:
    """How many exclusive connections are open, lent or not."""
    lent, _ = pool.lent
    return lent.idle + lent.used
