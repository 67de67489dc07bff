#!/usr/bin/env python3
"""Where the CPU time of a command goes: of its steps alone, and of whole commands of each kind.

    python tools/cost_of_a_call.py

Microseconds of this process's CPU time, so that others on the machine disturb less; the least of many turns, which is
what the work costs when nothing disturbs it. A whole command has the client's share of the kernel's work in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from time import monotonic, process_time
from typing import Any

import gevent
import hiredis
from gevent.hub import Waiter as Parking
from gevent.hub import get_hub

import gvcluster
from gvcluster.core.commands import COMMANDS
from gvcluster.core.packing import pack
from gvcluster.core.resp import ReplyReader, encode
from gvcluster.core.slots import hash_slot
from gvcluster.net.waiter import Waiter
from gvcluster.testing import LocalCluster

KEY, VALUE = "bench:12:7", b"x" * 64
TURNS = 15
CROWDS = (100, 1_000, 10_000)  # greenlets, with 20 commands each at least


def least(work: Callable[[int], object], number: int, turns: int = TURNS) -> float:
    """Microseconds of `work(number)`, for each of the number."""
    best = float("inf")
    for _ in range(turns):
        began = process_time()
        work(number)
        best = min(best, process_time() - began)
    return best / number * 1e6


def repeated(step: Callable[[], object]) -> Callable[[int], object]:
    """The step again and again."""

    def work(number: int) -> None:
        for _ in range(number):
            step()

    return work


def parse(number: int) -> None:
    """Read so many replies, 32 of them at a time."""
    reader, replies = ReplyReader(), b"$64\r\n%b\r\n" % VALUE * 32
    for _ in range(number // 32):
        reader.feed(replies)
        for _ in range(32):
            reader.gets()


def switch(number: int, greenlets: int = 100) -> None:
    """Park, and be woken by the hub's next turn: two switches each time."""
    hub = get_hub()

    def park(times: int) -> None:
        for _ in range(times):
            parked: Parking[object] = Parking(hub)
            hub.loop.run_callback(parked.switch, None)
            parked.get()

    in_greenlets(park, greenlets, number)


def steps() -> dict[str, Callable[[int], object]]:
    """What one command consists of, and what it is compared with."""
    get, store = ("GET", KEY), ("SET", KEY, VALUE)
    hub = get_hub()
    return {
        "an empty call, which is in all of these": repeated(lambda: None),
        "GET: bytes and slot (core.packing)": repeated(lambda: pack(get, COMMANDS.heads)),
        "GET: by encode and hash_slot": repeated(lambda: (encode(get), hash_slot(KEY))),
        "SET: bytes and slot (core.packing)": repeated(lambda: pack(store, COMMANDS.heads)),
        "SET: by encode and hash_slot": repeated(lambda: (encode(store), hash_slot(KEY))),
        "hiredis.pack_command alone": repeated(lambda: hiredis.pack_command(store)),  # type: ignore[arg-type]
        "a waiter": repeated(lambda: Waiter(b"", hub, 0.0)),
        "the time": repeated(monotonic),
        "one reply of 64 bytes": parse,
        "parking, being woken by the loop": switch,
    }


def in_greenlets(work: Callable[[int], object], greenlets: int, number: int) -> None:
    """Share the number out among greenlets."""
    gevent.joinall([gevent.spawn(work, number // greenlets) for _ in range(greenlets)])


def pairs(cluster: gvcluster.Cluster, number: int, **options: Any) -> None:
    for _ in range(number // 2):
        cluster.execute("SET", KEY, VALUE, **options)
        cluster.execute("GET", KEY, **options)


def pipelines(cluster: gvcluster.Cluster, number: int) -> None:
    for _ in range(number // 100):
        pipe = cluster.pipeline()
        for each in range(50):
            pipe.append("SET", f"bench:{each}", VALUE)
            pipe.append("GET", f"bench:{each}")
        pipe.execute()


def submitted(cluster: gvcluster.Cluster, number: int) -> None:
    for _ in range(number // 100):
        for reply in [cluster.submit("SET", f"bench:{each}", VALUE) for each in range(100)]:
            reply.get()


def many_keys(cluster: gvcluster.Cluster, number: int) -> None:
    for _ in range(number // 1000):
        cluster.mget([f"bench:{each}" for each in range(1000)])


def kinds(cluster: gvcluster.Cluster) -> dict[str, Callable[[int], object]]:
    """Whole commands."""
    return {
        "execute, 1 greenlet": partial(pairs, cluster),
        "execute, 100 greenlets": partial(in_greenlets, partial(pairs, cluster), 100),
        "the same with timeout=": partial(in_greenlets, partial(pairs, cluster, timeout=20.0), 100),
        "the same with command_timeout=": partial(in_greenlets, partial(pairs, cluster, command_timeout=0.9), 100),
        "the same with route_key=": partial(in_greenlets, partial(pairs, cluster, route_key=KEY), 100),
        "a command of a pipeline of 100, 10 greenlets": partial(in_greenlets, partial(pipelines, cluster), 10),
        "submit, 100 at once": partial(submitted, cluster),
        "a key of an mget of 1,000": partial(many_keys, cluster),
    }


def crowds(cluster: gvcluster.Cluster) -> dict[str, Callable[[int], object]]:
    """What more greenlets cost: gevent alone, and us."""
    work: dict[str, Callable[[int], object]] = {}
    for greenlets in CROWDS:
        work[f"parking, {greenlets:,} greenlets"] = partial(switch, greenlets=greenlets)
        work[f"execute, {greenlets:,} greenlets"] = partial(in_greenlets, partial(pairs, cluster), greenlets)
    return work


def main() -> int:
    for name, work in steps().items():
        print(f"{name:<46}{least(work, 20_000):6.2f} µs")
    with LocalCluster("valkey-9.1.2", primaries=3, replicas=0) as nodes:
        cluster = gvcluster.connect(nodes.addresses[:3])
        for name, work in kinds(cluster).items():
            work(2_000)
            print(f"{name:<46}{least(work, 10_000):6.2f} µs")
        for name, work in crowds(cluster).items():
            print(f"{name:<46}{least(work, 20 * max(CROWDS), turns=4):6.2f} µs")
        cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
