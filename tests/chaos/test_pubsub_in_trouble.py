"""Slots move, connections are killed, a primary is replaced: nothing is missed in silence.

tools/pubsub_figures.py has more of it, and prints figures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import gevent
from gevent.event import Event

from gvcluster import Cluster, Gap, Message, PubSub, hash_slot
from gvcluster.testing import LocalCluster, Node


class Ledger:
    """Publishes 1, 2, 3 … in each channel, and notes what came. A number may be missing only where a Gap is.

    missed: (channel, number) that lies in no Gap. twice: those that came again. Right behind a Gap that does not count,
    for it is the servers' doing: another node may have got later, over the cluster bus, what the one before has passed
    on already. came_again: the channels with a message after their last Gap.
    """

    def __init__(self, cluster: Cluster, command: str, names: list[str], node: Node | None = None) -> None:
        self.missed: list[tuple[bytes, int]] = []
        self.twice: list[tuple[bytes, int]] = []
        self.gaps: dict[bytes, int] = {name.encode(): 0 for name in names}
        self.came_again = set(self.gaps)
        self._cluster, self._command = cluster, command
        self._node = None if node is None else node.address
        self._last = dict.fromkeys(self.gaps, 0)
        self._missing: set[tuple[bytes, int]] = set()
        self._behind_gap: set[bytes] = set()  # channels without a new message since their last Gap
        self._stopping = Event()

    @contextmanager
    def kept(self, pubsub: PubSub) -> Iterator[None]:
        """As long as it lasts, and until each channel is heard again."""
        publishers = [gevent.spawn(self._publish, name) for name in self.gaps]
        reader = gevent.spawn(lambda: list(map(self._take, pubsub)))
        yield
        with gevent.Timeout(15):
            while self.came_again != set(self.gaps):
                gevent.sleep(0.01)
        self._stopping.set()
        gevent.joinall(publishers, timeout=10, raise_error=True)
        pubsub.close()
        reader.get(timeout=5)

    def wait_for_gaps(self, names: set[bytes]) -> None:
        """Until these have each had a Gap."""
        with gevent.Timeout(15):
            while not all(self.gaps[name] for name in names):
                gevent.sleep(0.01)

    def _publish(self, name: bytes) -> None:
        for number in count(1):
            if self._stopping.is_set():
                return
            self._cluster.execute(self._command, name, number, node=self._node)
            gevent.sleep(0.003)

    def _take(self, item: Message | Gap) -> None:
        if isinstance(item, Gap):
            for name in item.channels + item.shard_channels:
                self.gaps[name] += 1
                self.came_again.discard(name)
                self._behind_gap.add(name)
            return
        name, number = item.channel, int(item.data)
        if (name, number) in self._missing:  # late, over the cluster bus
            self._missing.remove((name, number))
        elif number <= self._last[name]:
            if name not in self._behind_gap:
                self.twice.append((name, number))
        else:
            self._behind_gap.discard(name)
            missing = {(name, each) for each in range(self._last[name] + 1, number)}
            self._missing |= missing
            if name in self.came_again:
                self.missed += missing
            self._last[name] = number
        self.came_again.add(name)


def test_shard_channels_follow_their_slots_and_every_gap_is_announced(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node]
) -> None:
    if live_cluster.server.name.startswith("redis-6"):
        return  # it has none: tests/live/test_pubsub_live.py
    pubsub = cluster.pubsub()
    names = [f"shard{number}" for number in range(20)]
    pubsub.ssubscribe(*names)
    ledger = Ledger(cluster, "SPUBLISH", names)
    moving = [name for name in names if cluster.node_for_key(name).address == shards[1].address]
    with ledger.kept(pubsub):
        for name in moving:
            live_cluster.move_slots(hash_slot(name), shards[2])
        assert ledger.twice == []
        live_cluster.failover(shards[0])
        failed_over = {name.encode() for name in names if live_cluster.primary_of(hash_slot(name)) not in shards[1:]}
        interrupted = failed_over | {name.encode() for name in moving}
        ledger.wait_for_gaps(interrupted)  # until then all are still heard, and nobody has told the client
    assert ledger.missed == []
    assert {name for name, gaps in ledger.gaps.items() if gaps} == interrupted


def test_channels_outlive_killed_connections_and_every_gap_is_announced(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node]
) -> None:
    pubsub = cluster.pubsub()
    names = [f"news{number}" for number in range(5)]
    pubsub.subscribe(*names)
    ledger = Ledger(cluster, "PUBLISH", names, shards[0])
    with ledger.kept(pubsub):
        for _ in range(3):
            gevent.sleep(0.2)
            for node in live_cluster.live_nodes():
                node.command("CLIENT", "KILL", "TYPE", "pubsub")
    assert (ledger.missed, ledger.twice) == ([], [])
    assert min(ledger.gaps.values()) >= 1
