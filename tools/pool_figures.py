#!/usr/bin/env python3
"""See whether the pools of exclusive connections keep what they promise, on real servers.

    python tools/pool_figures.py [--server valkey-9.1.2] [--greenlets 5000] [--cycles 100000] [--kills 1000]

Burst: so many greenlets want a connection of one node, whose pool is cold and has 16;
the ideal time is that of 16 greenlets which have one each for the same work. Cycles: greenlets borrow, use and
give back, and are killed while they wait or while they use; in the end nothing may be open that was not at the start.
Kills: consumers in BLPOP are killed and replaced while elements are pushed. In the first half the server has noticed
the kill before the next push: nothing may be lost. In the second half it may hand an element to a consumer that is
just being killed: such losses are counted, and may not be more than kills. Exit status 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
from collections import Counter
from time import perf_counter
from typing import Any

import gevent
from gevent.event import Event

from gvcluster import Cluster, GvClusterError, Node, connect
from gvcluster.testing import LocalCluster

CONNECTIONS = 16
HOLD = 0.010  # seconds that each greenlet of the burst keeps its connection
WORKERS = 64
LISTS = [f"list:{number}" for number in range(8)]

failures: list[str] = []


def expect(holds: bool, what: str) -> None:
    """Say whether it holds, and remember if not."""
    print(f"  {'holds' if holds else 'DOES NOT HOLD'}: {what}")
    if not holds:
        failures.append(what)


def info(cluster: Cluster, node: Node, field: str) -> int:
    """A number that the server tells of itself."""
    text = cluster.execute("INFO", "everything", node=node)
    text = text if isinstance(text, str) else text.decode()
    return int(next(line for line in text.splitlines() if line.startswith(f"{field}:")).partition(":")[2])


def burst(seeds: str, greenlets: int) -> None:
    """All at once on a cold pool."""
    print(f"\nburst: {greenlets:,} greenlets, {CONNECTIONS} connections, {HOLD * 1000:g} ms each")
    with connect(seeds, max_connections=CONNECTIONS, timeout=600, client_info=False) as cluster:
        node = cluster.primaries()[0]
        before = info(cluster, node, "total_connections_received")
        served: list[int] = []

        def work(number: int) -> None:
            with cluster.connection(node) as connection:
                served.append(number)
                connection.execute("PING")
                gevent.sleep(HOLD)

        began = perf_counter()
        gevent.joinall([gevent.spawn(work, number) for number in range(greenlets)], raise_error=True)
        took = perf_counter() - began
        opened = info(cluster, node, "total_connections_received") - before
        lent = cluster.statistics().exclusive
        ideal = without_pool(cluster, node, greenlets)
        held = greenlets / CONNECTIONS * HOLD
        print(
            f"  {took:.2f} s, ideal {ideal:.2f} s, of which {held:.2f} s held on purpose; {opened} connections; {lent}"
        )
        expect(opened <= CONNECTIONS, f"the server saw {opened} connections, at most {CONNECTIONS}")
        expect(served == sorted(served) and len(served) == greenlets, "all were served, in the order of arrival")
        expect(took <= 1.5 * ideal, f"within 1.5 times the ideal time: {took / ideal:.2f}")


def without_pool(cluster: Cluster, node: Node, greenlets: int) -> float:
    """The ideal time: the same work by as many greenlets as there are connections, each with one of its own."""
    left = greenlets

    def work() -> None:
        nonlocal left
        with cluster.connection(node) as connection:
            while left > 0:
                left -= 1
                connection.execute("PING")
                gevent.sleep(HOLD)

    began = perf_counter()
    gevent.joinall([gevent.spawn(work) for _ in range(CONNECTIONS)], raise_error=True)
    return perf_counter() - began


class Cycles:
    """Borrow, use, give back; now and then be killed in the middle."""

    def __init__(self, cluster: Cluster, cycles: int) -> None:
        self.cluster, self.left = cluster, cycles
        self.nodes = cluster.primaries()
        self.ends: Counter[str] = Counter()
        self.errors: list[BaseException] = []

    def __repr__(self) -> str:
        return f"<Cycles, {self.left} left>"

    def run(self) -> None:
        workers = [gevent.spawn(self.work, random.Random(number)) for number in range(WORKERS)]
        gevent.joinall(workers, raise_error=True)

    def work(self, rng: random.Random) -> None:
        while self.left > 0:
            self.left -= 1
            cycle = gevent.spawn(self.cycle, rng.choice(self.nodes))
            if rng.random() < 0.3:
                gevent.sleep(rng.random() * 0.003)
                cycle.kill()
            cycle.join()
            self.ends["killed" if isinstance(cycle.value, gevent.GreenletExit) else "ended"] += 1

    def cycle(self, node: Node) -> None:
        try:
            with self.cluster.connection(node) as connection:
                connection.execute("PING")
        except GvClusterError as error:
            self.errors.append(error)


def state(cluster: Cluster) -> dict[str, int]:
    """What must be the same in the end. Idle connections are closed first."""
    cluster.close_idle()
    with gevent.Timeout(10):
        while sum(node.connections for node in cluster.statistics().nodes):
            gevent.sleep(0.01)
    for node in cluster.primaries():
        cluster.execute("PING", node=node)
    gevent.sleep(0.2)
    gc.collect()
    clients = sum(info(cluster, node, "connected_clients") for node in cluster.primaries())
    greenlets = sum(isinstance(each, gevent.Greenlet) and not each.dead for each in gc.get_objects())
    return {"open files": len(os.listdir("/proc/self/fd")), "greenlets": greenlets, "connected_clients": clients}


def cycle(seeds: str, cycles: int) -> None:
    """So many cycles of lend, kill and return."""
    print(f"\ncycles: {cycles:,}, {WORKERS} greenlets, {CONNECTIONS} connections per node")
    with connect(seeds, max_connections=CONNECTIONS, timeout=600, client_info=False) as cluster:
        before = state(cluster)
        work = Cycles(cluster, cycles)
        began = perf_counter()
        work.run()
        print(f"  {perf_counter() - began:.1f} s; {dict(work.ends)}; {cluster.statistics().exclusive}")
        after = state(cluster)
        print(f"  before {before}, after {after}")
        expect(not work.errors, f"no error: {work.errors[:1]}")
        expect(before == after, "all ends as it began")
        lent = cluster.statistics().exclusive
        expect((lent.used, lent.pending_requests) == (0, 0), "nothing is lent, nobody waits")


class Consumers:
    """One in BLPOP for each list; each can be killed, and is replaced."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.pushed = 0
        self.received: Counter[int] = Counter()
        self.kills = 0
        self.greenlets = {key: gevent.spawn(self.consume, key) for key in LISTS}

    def __repr__(self) -> str:
        return f"<Consumers: {self.pushed} pushed, {self.received.total()} received, {self.kills} kills>"

    def consume(self, key: str) -> None:
        while True:
            popped = self.cluster.execute("BLPOP", key, 0)
            self.received[int(popped[1])] += 1

    def push(self, key: str) -> None:
        self.pushed += 1
        self.cluster.execute("RPUSH", key, self.pushed)

    def kill(self, key: str) -> None:
        self.kills += 1
        self.greenlets[key].kill()

    def replace(self, key: str) -> None:
        self.greenlets[key] = gevent.spawn(self.consume, key)

    def blocked(self) -> int:
        return sum(info(self.cluster, node, "blocked_clients") for node in self.cluster.primaries())

    def wait_blocked(self, count: int) -> None:
        with gevent.Timeout(10):
            while self.blocked() != count:
                gevent.sleep(0.001)

    def lost(self) -> int:
        """How many elements nobody has, when all consumers wait again."""
        self.wait_blocked(len(LISTS))
        return self.pushed - len(self.received)


def kill_quietly(consumers: Consumers, kills: int) -> None:
    """The server has noticed each kill before the next push to that list."""
    for number in range(kills):
        key = LISTS[number % len(LISTS)]
        consumers.wait_blocked(len(LISTS))
        consumers.kill(key)
        consumers.wait_blocked(len(LISTS) - 1)
        consumers.push(key)
        consumers.replace(key)
        consumers.push(key)


def kill_in_the_middle(consumers: Consumers, kills: int) -> None:
    """Producers push all the time."""
    over = Event()

    def produce(key: str) -> None:
        while not over.is_set():
            consumers.push(key)
            gevent.sleep(0.001)

    producers = [gevent.spawn(produce, key) for key in LISTS]
    rng = random.Random(7)
    for _ in range(kills):
        key = rng.choice(LISTS)
        gevent.sleep(rng.random() * 0.003)
        consumers.kill(key)
        consumers.replace(key)
    over.set()
    gevent.joinall(producers, raise_error=True)


def kill(seeds: str, kills: int) -> None:
    """Consumers are killed; no element may be lost because of it, but for those that are counted."""
    print(f"\nkills: {kills:,} of {len(LISTS)} consumers in BLPOP")
    for name, way, count in (
        ("quiet", kill_quietly, kills - kills // 2),
        ("while producers push", kill_in_the_middle, kills // 2),
    ):
        with connect(seeds, timeout=600, client_info=False) as cluster:
            for key in LISTS:
                cluster.execute("DEL", key)
            consumers = Consumers(cluster)
            way(consumers, count)
            lost = consumers.lost()
            print(f"  {name}: {consumers}, {cluster.statistics().blocking}")
            allowed = 0 if way is kill_quietly else consumers.kills
            expect(lost <= allowed, f"{name}: {lost} elements lost of {consumers.pushed:,}, at most {allowed}")
            expect(max(consumers.received.values()) == 1, f"{name}: none was received twice")
            gevent.killall(list(consumers.greenlets.values()))


def parse(arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser(description="See whether the pools keep what they promise.")
    parser.add_argument("--greenlets", type=int, default=5_000)
    parser.add_argument("--cycles", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--server", default="valkey-9.1.2", help="as LocalCluster names it")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    try:
        servers = LocalCluster(chosen.server, primaries=3, replicas=0)
    except GvClusterError as error:
        print(error)
        return 2
    with servers:
        seeds = ",".join(map(str, servers.addresses[:3]))
        burst(seeds, chosen.greenlets)
        cycle(seeds, chosen.cycles)
        kill(seeds, chosen.kills)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
