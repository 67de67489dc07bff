"""Scan many keys while slots move and a primary fails over, and count what is missed: nothing must be.

    python tools/scan_figures.py                                  all servers, 200,000 keys, 500 slots: some minutes
    python tools/scan_figures.py --servers redis-6.2.14 --keys 20000 --slots 50 --ways classic

Each line is one scan: how the slots moved meanwhile, how many keys were returned, how many of them twice, how many were
missed, and the time. Exit status 1 if any key was missed, or the slots did not move while the scan was under way.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

import gevent
from gevent import Greenlet

import gvcluster
from gvcluster import Cluster
from gvcluster.testing import LocalCluster, server_names
from gvcluster.testing.node import Node
from gvcluster.testing.resharding import SlotMove

WAYS = ("quiet", "classic", "stirred", "atomic", "open", "failover", "stored")


@dataclass
class Figures:
    """What one scan gave."""

    returned: int
    distinct: int
    missed: int
    seconds: float
    moved: int
    moved_meanwhile: int

    def __str__(self) -> str:
        return (
            f"{self.returned:7} keys returned, {self.returned - self.distinct:6} again, {self.missed:5} missed,"
            f" {self.seconds:5.1f} s; {self.moved_meanwhile} of {self.moved} events meanwhile"
            f"{'' if self.holds else '  DOES NOT HOLD'}"
        )

    @property
    def holds(self) -> bool:
        """Whether nothing was missed, and what was to happen did happen while it was scanned."""
        return not self.missed and self.moved_meanwhile == self.moved


def main() -> int:
    """Run, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default=",".join(server_names()))
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--slots", type=int, default=500)
    parser.add_argument("--count", type=int, default=100, help="keys for each answer; fewer make a longer scan")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds after each 1,000 keys")
    parser.add_argument("--control", choices=sorted(CONTROLS), help="scan in another way, which is to miss keys")
    parser.add_argument("--ways", default=",".join(WAYS))
    given = parser.parse_args()
    names = [name for name in given.ways.split(",") if name]
    holds = [measured(server, names, given) for server in given.servers.split(",")]
    return not all(holds)


def measured(server: str, ways: list[str], given: argparse.Namespace) -> bool:
    """All scans on one server: whether each holds."""
    holds = True
    with LocalCluster(server) as servers, gvcluster.connect(servers.seeds, timeout=30) as cluster:
        fill(cluster, given.keys)
        for way in ways:
            if way == "atomic" and not servers.server.has_atomic_moves:
                continue
            scanned = CONTROLS.get(given.control, ours)
            figures = scan(cluster, servers, way, given, scanned)
            holds &= figures.holds
            print(f"{server:13} {way:9} {figures}", flush=True)
    return holds


def fill(cluster: Cluster, keys: int) -> None:
    """Set so many keys."""
    for first in range(0, keys, 10_000):
        cluster.mset({f"key:{number}": number for number in range(first, min(first + 10_000, keys))})


Keys = Iterator[bytes]


def ours(cluster: Cluster, count: int, stored: bool) -> Keys:
    """What `scan_iter` returns; with `stored` it goes on from its own cursor after every 1,000 keys."""
    scanning = cluster.scan_iter(count=count)
    for number, key in enumerate(scanning, 1):
        yield key
        if stored and number % 1000 == 0:
            yield from ours_from(cluster, count, scanning.cursor)
            return


def ours_from(cluster: Cluster, count: int, cursor: str) -> Keys:
    """The rest, by one iterator after the other."""
    while True:
        scanning = cluster.scan_iter(count=count, cursor=cursor)
        keys = list(itertools.islice(scanning, 1000))
        yield from keys
        cursor = scanning.cursor
        if len(keys) < 1000:
            return


def each_primary(cluster: Cluster, count: int, _stored: bool) -> Keys:
    """The control: SCAN at one primary after the other, as most clients do it."""
    for node in cluster.primaries():
        cursor = b"0"
        while True:
            cursor, keys = cluster.execute("SCAN", cursor, "COUNT", count, node=node)
            yield from keys
            if cursor == b"0":
                break


def server_side(cluster: Cluster, count: int, _stored: bool) -> Keys:
    """The other control: CLUSTERSCAN, its redirects followed."""
    cursor = b"0"
    while True:
        cursor, keys = cluster.execute("CLUSTERSCAN", cursor, "COUNT", count)
        yield from keys
        if cursor == b"0":
            return


CONTROLS = {"scan": each_primary, "clusterscan": server_side}


def scan(
    cluster: Cluster,
    servers: LocalCluster,
    way: str,
    given: argparse.Namespace,
    scanned: Callable[[Cluster, int, bool], Keys],
) -> Figures:
    """One scan, beside a greenlet that does what the way says."""
    disturbance = Disturbance(servers, given.slots)
    stirring: Greenlet[..., None] = gevent.spawn(getattr(disturbance, way))
    began, seen, returned = monotonic(), set[bytes](), 0
    for key in scanned(cluster, given.count, way == "stored"):
        seen.add(key)
        returned += 1
        if returned % 1000 == 0:
            gevent.sleep(given.pause)  # what an application does with its keys, and a chance for the moves
        if returned == given.keys * 9 // 10:
            stirring.join()  # so that all of it happens meanwhile
    ended = monotonic()
    stirring.get()
    disturbance.end()
    events = disturbance.events
    missed = given.keys - sum(key.startswith(b"key:") for key in seen)
    return Figures(returned, len(seen), missed, ended - began, len(events), sum(at < ended for at in events))


class Disturbance:
    """What happens during a scan; a method for each way. `events`: when something happened."""

    def __init__(self, servers: LocalCluster, slots: int) -> None:
        self.servers, self.slots = servers, slots
        self.events: list[float] = []
        self._opened: list[SlotMove] = []

    def quiet(self) -> None:
        """Nothing."""

    def classic(self) -> None:
        """All from the last node, which is scanned last, to the first, one by one."""
        target, *_, source = self.servers.primaries()
        first = first_slot(self.servers, source)
        for slot in range(first, first + self.slots):
            self.servers.move_slots(slot, target)
            self.events.append(monotonic())

    stored = classic

    def stirred(self) -> None:
        """Slots go round among the primaries: from each to the next one."""
        for slot, target in self._round(self.slots):
            self.servers.move_slots(slot, target)
            self.events.append(monotonic())

    def atomic(self) -> None:
        """The same, ten slots at a time."""
        for slot, target in self._round(self.slots // 10):
            self.servers.move_slots_atomically(slot, slot + 9, target)
            self.events.append(monotonic())

    def open(self) -> None:
        """Slots in the midst of the first node's have half of their keys at the last node, until the scan is over."""
        source, *_, target = self.servers.primaries()
        first = first_slot(self.servers, source) + 1000
        for slot in range(first, first + self.slots // 10):
            keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            self._opened.append(self.servers.begin_move(slot, target))
            if len(keys) > 1:
                self._opened[-1].move_keys(*keys[::2])
            self.events.append(monotonic())

    def failover(self) -> None:
        """Two primaries, one after the other."""
        for primary in self.servers.primaries()[:2]:
            self.servers.failover(primary)
            self.events.append(monotonic())

    def _round(self, steps: int) -> Iterator[tuple[int, Node]]:
        primaries = self.servers.primaries()
        for number in range(steps):
            yield first_slot(self.servers, primaries[number % 3]), primaries[(number + 1) % 3]

    def end(self) -> None:
        """Close what is open."""
        for move in self._opened:
            self.servers.finish_move(move)
        self.servers.wait_until_agreed()


def first_slot(servers: LocalCluster, source: Node) -> int:
    """The lowest slot that a node has."""
    view = servers.primaries()[0].view()
    return min(first for first, _, id_, _ in view.slot_map if id_ == source.id)


if __name__ == "__main__":
    sys.exit(main())
