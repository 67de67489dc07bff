#!/usr/bin/env python3
"""Subscribe while slots move, primaries fail and connections are killed, and see whether anything is missed in silence.

    python tools/pubsub_figures.py [move] [kill] [failover] [crash] [--server valkey-9.1.2] [--protocol 3]

A cluster of 3 + 3 real servers, any but Redis 6.2, which has no shard channels. Each channel has a publisher that sends
1, 2, 3 …, each when the one before is acknowledged; one subscription object takes them all. A number that was
acknowledged and did not come must lie where a Gap names its channel: after the last message before the Gap, and before
the first one after it. None may come twice but behind a Gap (`again`), where another node may have got it later over
the cluster bus, or when nodes change their roles: what an old primary has accepted reaches its successor over the bus,
perhaps late, and perhaps after we have had it from the old one.

All messages of an ordinary channel are sent to one node, for the bus keeps no order between those of several.

move      100 shard channels; the slot of each moves to another primary, one after the other, and back.
kill      10 channels, a pattern and 20 shard channels; CLIENT KILL TYPE pubsub at all nodes, 20 times.
failover  20 shard channels and 5 channels; CLUSTER FAILOVER of each shard.
crash     The same, with SIGKILL to the primary of the channels' connection. The channels are published at another
          node: what a node has acknowledged and not passed on when it dies, nobody can see.

Exits with 1 if anything was missed in silence, came twice, or did not come again in the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic

import gevent
from gevent.event import Event

import gvcluster
from gvcluster import Cluster, Gap, GvClusterError, Message, PubSub, hash_slot
from gvcluster.testing import LocalCluster, Node

# Seconds between two messages of a channel, and for the last messages to come.
PACE, PATIENCE = 0.002, 30.0
ROLES_CHANGE = ("failover", "crash")


@dataclass
class Channel:
    """One channel: what was acknowledged, and what came, in order."""

    name: str
    command: str
    node: object = None
    sent: int = 0
    unsure: set[int] = field(default_factory=set)  # whose publishing failed
    last: int = 0
    received: int = 0
    late: int = 0
    twice: int = 0
    again: int = 0  # behind a Gap: from another node, to which the bus has brought it later
    behind_gap: bool = False
    missing: set[int] = field(default_factory=set)
    gaps: int = 0
    may_miss: bool = False
    wrong: list[str] = field(default_factory=list)

    def publish(self, cluster: Cluster, stopping: Event) -> None:
        """Send numbers until it is over."""
        while not stopping.is_set():
            self.sent += 1
            try:
                cluster.execute(self.command, self.name, self.sent, node=self.node)
            except GvClusterError:
                self.unsure.add(self.sent)
            gevent.sleep(PACE)

    def take(self, number: int) -> None:
        """A message has come."""
        self.received += 1
        if number in self.missing:
            self.missing.remove(number)
            self.late += 1
            return
        missing = {each for each in range(self.last + 1, number) if each not in self.unsure}
        if number <= self.last:
            self.again += self.behind_gap
            self.twice += not self.behind_gap
        else:
            self.behind_gap = False
        if missing and not self.may_miss:
            self.wrong.append(f"{self.name}: {sorted(missing)[:5]} missed in silence before {number}")
        self.missing |= missing
        self.last = max(self.last, number)
        self.may_miss = False

    def skip(self) -> None:
        """A Gap has come."""
        self.gaps += 1
        self.may_miss = self.behind_gap = True


class Trial:
    """Publishers and one subscription object, and what came of them."""

    def __init__(self, cluster: Cluster, pubsub: PubSub, channels: Iterable[Channel], *, pattern: str = "") -> None:
        self.channels = {channel.name.encode(): channel for channel in channels}
        self.by_pattern = {name: Channel(each.name, each.command) for name, each in self.channels.items() if pattern}
        self.longest = 0.0
        self._cluster, self._pubsub = cluster, pubsub
        self._stopping = Event()
        self._subscribe("PUBLISH", pubsub.subscribe)
        self._subscribe("SPUBLISH", pubsub.ssubscribe)
        if pattern:
            pubsub.psubscribe(pattern)
        self._reader = gevent.spawn(self._read)
        self._publishers = [
            gevent.spawn(each.publish, cluster, self._stopping) for each in self.channels.values()
        ]  # fmt: skip

    def _subscribe(self, command: str, subscribe: Callable[..., None]) -> None:
        names = [each.name for each in self.channels.values() if each.command == command]
        if names:
            subscribe(*names)

    @property
    def all(self) -> list[Channel]:
        return [*self.channels.values(), *self.by_pattern.values()]

    def _read(self) -> None:
        for item in self._pubsub:
            if isinstance(item, Message):
                group = self.channels if item.pattern is None else self.by_pattern
                group[item.channel].take(int(item.data))
            else:
                self._skip(item)

    def _skip(self, gap: Gap) -> None:
        self.longest = max(self.longest, gap.seconds)
        for name in gap.channels + gap.shard_channels:
            self.channels[name].skip()
        for channel in self.by_pattern.values() if gap.patterns else ():
            channel.skip()

    def finish(self) -> None:
        """Stop publishing; each channel must have its last message, or one that is sent now."""
        self._stopping.set()
        gevent.joinall(self._publishers)
        until = monotonic() + PATIENCE
        while monotonic() < until and any(each.last < each.sent for each in self.channels.values()):
            for channel in self.channels.values():
                if channel.last < channel.sent:
                    channel.sent += 1
                    self._cluster.execute(channel.command, channel.name, channel.sent, node=channel.node)
            gevent.sleep(0.2)
        self._pubsub.close()
        self._reader.join()
        for channel in self.channels.values():
            if channel.last < channel.sent:
                channel.wrong.append(f"{channel.name}: the last is {channel.last} of {channel.sent}")

    def report(self, name: str, seconds: float) -> bool:
        """Print the figures. Returns whether all is well."""
        wrong = [problem for each in self.all for problem in each.wrong]
        if self._sum("twice") and name not in ROLES_CHANGE:
            wrong.append("some came twice")
        print(
            f"{name:9} {seconds:5.1f} s  {self._sum('sent'):7,} sent  {self._sum('received'):7,} received"
            f"  {self._sum('missing'):6,} missed within  {self._sum('gaps'):4,} gaps, the longest {self.longest:.2f} s"
            f"  {self._sum('late'):3,} late  {self._sum('again'):3,} again  {self._sum('twice'):3,} twice"
            f"  {self._sum('unsure'):4,} unsure  {len(wrong)} wrong",
            flush=True,
        )
        for problem in wrong[:10]:
            print("   ", problem)
        return not wrong

    def _sum(self, what: str) -> int:
        values = [getattr(each, what) for each in self.all]
        return sum(value if isinstance(value, int) else len(value) for value in values)


def shard_channels(number: int) -> list[Channel]:
    return [Channel(f"shard{index}", "SPUBLISH") for index in range(number)]


def classic_channels(number: int, node: Node) -> list[Channel]:
    return [Channel(f"news{index}", "PUBLISH", node=node.address) for index in range(number)]


def move(servers: LocalCluster, cluster: Cluster) -> Trial:
    trial = Trial(cluster, cluster.pubsub(), shard_channels(100))
    for each in list(trial.channels) * 2:
        slot = hash_slot(each)
        owner = servers.primary_of(slot)
        servers.move_slots(slot, next(node for node in servers.primaries() if node is not owner))
    return trial


def kill(servers: LocalCluster, cluster: Cluster) -> Trial:
    trial = Trial(
        cluster, cluster.pubsub(), [*classic_channels(10, servers.nodes[0]), *shard_channels(20)], pattern="news*"
    )
    for _ in range(20):
        for node in servers.live_nodes():
            node.command("CLIENT", "KILL", "TYPE", "pubsub")
        gevent.sleep(0.2)
    return trial


def failover(servers: LocalCluster, cluster: Cluster) -> Trial:
    pubsub = cluster.pubsub()
    trial = Trial(cluster, pubsub, [*shard_channels(20), *classic_channels(5, servers.nodes[0])])
    for primary in servers.primaries():
        gevent.sleep(0.5)
        servers.failover(primary)
    gevent.sleep(2)
    return trial


def crash(servers: LocalCluster, cluster: Cluster) -> Trial:
    pubsub = cluster.pubsub(ping_interval=1.0)
    pubsub.subscribe("news0")
    (listened,) = [node for node in servers.live_nodes() if node.command("PUBSUB", "CHANNELS", "news0")]
    other = next(node for node in servers.primaries() if node is not listened)
    trial = Trial(cluster, pubsub, [*shard_channels(20), *classic_channels(5, other)])
    gevent.sleep(0.5)
    servers.kill(listened)
    gevent.sleep(8)
    return trial


TRIALS: dict[str, Callable[[LocalCluster, Cluster], Trial]] = {
    "move": move,
    "kill": kill,
    "failover": failover,
    "crash": crash,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trials", nargs="*", choices=[*TRIALS, []], help="which; default all")
    parser.add_argument("--server", default="valkey-9.1.2")
    parser.add_argument("--protocol", type=int, default=3)
    options = parser.parse_args()
    is_well = True
    with LocalCluster(options.server) as servers:
        print(f"{options.server}, RESP{options.protocol}")
        for name in options.trials or TRIALS:
            with gvcluster.connect(servers.seeds, protocol=options.protocol, timeout=20) as cluster:
                began = monotonic()
                trial = TRIALS[name](servers, cluster)
                trial.finish()
                is_well &= trial.report(name, monotonic() - began)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
