#!/usr/bin/env python3
"""Measure whether gvcluster is fair: to a hub with 10,000 greenlets, and to small calls beside large ones.

    python tools/fairness.py [--greenlets 10000] [--readers 20] [--size 8388608] [--seconds 5] [--ways bulk,plain]

Turns: so many greenlets GET 64 bytes without a pause, all in flight at once. A turn of the hub is the time between two
looks of its loop at the sockets, the work of the greenlets within it included. Neighbours: 4 greenlets GET 64 bytes
from the node from which others read large values, one after the other; their times are compared with those of a quiet
node, before and after. The large reads say `bulk=True`, or say nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

import gevent
from gevent.hub import get_hub

from gvcluster import Cluster, connect
from gvcluster.errors import GvClusterError
from gvcluster.testing import LocalCluster

SMALL = b"x" * 64
NEIGHBOURS = 4
# A greenlet sleeps so long between two small calls, seconds: they are looked at, not the load they make.
PAUSE = 0.001


class Turns:
    """How long each turn of the hub's loop takes, in seconds, waiting for sockets left out."""

    def __init__(self) -> None:
        loop: Any = get_hub().loop
        self.took: list[float] = []
        self._began: float | None = None
        self._before, self._after = loop.prepare(ref=False, priority=-2), loop.check(ref=False, priority=2)

    def start(self) -> None:
        self._before.start(self._ends)
        self._after.start(self._begins)

    def stop(self) -> None:
        self._before.stop()
        self._after.stop()

    def _begins(self) -> None:
        self._began = perf_counter()

    def _ends(self) -> None:
        if self._began is not None:
            self.took.append(perf_counter() - self._began)


class Work:
    """Greenlets that do one thing again and again until they are stopped. `took`: seconds of each call."""

    def __init__(self, do: Callable[[], object], greenlets: int, pause: float = 0.0) -> None:
        self.took: list[float] = []
        self._do, self._pause, self._stopped = do, pause, False
        self._greenlets = [gevent.spawn(self._run) for _ in range(greenlets)]

    def _run(self) -> None:
        do, took = self._do, self.took
        while not self._stopped:
            began = perf_counter()
            do()
            took.append(perf_counter() - began)
            if self._pause:
                gevent.sleep(self._pause)

    def stop(self) -> None:
        """Let each end its call. Raises what a call raised."""
        self._stopped = True
        gevent.joinall(self._greenlets, raise_error=True)


@contextmanager
def working(do: Callable[[], object], greenlets: int, pause: float = 0.0) -> Iterator[Work]:
    work = Work(do, greenlets, pause)
    try:
        yield work
    finally:
        work.stop()


def measure_turns(cluster: Cluster, greenlets: int, seconds: float) -> None:
    """Print how long the turns of the hub are while so many calls are in flight."""
    cluster.execute("SET", "small", SMALL)
    turns = Turns()
    with working(partial(cluster.execute, "GET", "small"), greenlets) as work:
        gevent.sleep(1)
        turns.start()
        before = len(work.took)
        gevent.sleep(seconds)
        turns.stop()
        done = len(work.took) - before
    print(f"{greenlets:,} greenlets: {done / seconds:,.0f} calls/s; turns of the hub, {show(turns.took)}")


def measure_neighbours(cluster: Cluster, readers: int, size: int, seconds: float, ways: list[str]) -> None:
    """Print how long small calls take with a node to themselves, and beside large ones."""
    cluster.execute("SET", "{k}large", b"x" * size)
    cluster.execute("SET", "{k}small", SMALL)
    for way in ways:
        options: Any = {"bulk": True} if way == "bulk" else {}
        large = partial(cluster.execute, "GET", "{k}large", **options)
        quiet = small_calls(cluster, seconds)
        turns = Turns()
        with working(large, readers) as work:
            gevent.sleep(1)
            turns.start()
            loud = small_calls(cluster, seconds)
            turns.stop()
        quiet += small_calls(cluster, seconds)
        rate = len(work.took) * size / 2**20 / (seconds + 1)
        print(
            f"\n{readers} greenlets read {size:,} bytes, {way}: {rate:,.0f} MiB/s; turns of the hub, {show(turns.took)}"
        )
        print(f"  small calls, quiet: {show(quiet)}\n  small calls beside: {show(loud)}")


def small_calls(cluster: Cluster, seconds: float) -> list[float]:
    with working(partial(cluster.execute, "GET", "{k}small"), NEIGHBOURS, PAUSE) as work:
        gevent.sleep(seconds)
    return work.took


def show(seconds: list[float]) -> str:
    """Percentiles, in milliseconds."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    at = [f"{name} {ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000:.1f}" for name, part in PARTS]
    return f"ms: {', '.join(at)} of {len(ordered):,}"


PARTS = (("median", 0.5), ("p99", 0.99), ("longest", 1.0))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure turns of the hub, and small calls beside large ones.")
    parser.add_argument("--greenlets", type=int, default=10_000)
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--size", type=int, default=8 * 2**20, help="bytes of a large value")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=["bulk", "plain"])
    parser.add_argument("--server", default="valkey-9.1.2", help="as LocalCluster names it")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    try:
        servers = LocalCluster(chosen.server, primaries=3, replicas=0)
    except GvClusterError as error:
        print(error)
        return 2
    with servers, connect(",".join(map(str, servers.addresses[:3]))) as cluster:
        measure_turns(cluster, chosen.greenlets, chosen.seconds)
        measure_neighbours(cluster, chosen.readers, chosen.size, chosen.seconds, chosen.ways)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
