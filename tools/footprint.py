"""What gvcluster weighs: large slot maps, a parked call, the import. Prints figures; exits with 1 if a bar is missed.

    python tools/footprint.py            # all, about a minute
    python tools/footprint.py maps       # or any of: maps, parked, imports

CPU time throughout, of this thread or of a child, so that a machine with other work tells nearly the same; a *turn* is
what the hub spends between two chances for other greenlets to run. The bars hold for a machine that is otherwise idle:
one whose cores are shared also computes more slowly.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import pairwise
from statistics import median
from time import process_time, thread_time

import gevent
from gevent.hub import Waiter

import gvcluster
from gvcluster import Address
from gvcluster.core.slots import SLOTS
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import encode_reply

ROUNDS, CALLS, IMPORTS = 7, 10_000, 25

# Milliseconds in all and in one turn; the map of 1,000 nodes would fit into one.
MAP_BARS = {500: (15.0, 15.0), SLOTS: (250.0, 15.0)}  # by the number of ranges
SHARDS = 500  # each of a primary and a replica
OF_THE_NODE = ("*/gvcluster/testing/*", "<string>")  # the latter: its records of what it has received
PARKED_BAR, IMPORT_BAR = 400.0, 30.0  # bytes, milliseconds

Verdicts = Iterator[bool]


def say(what: str, figure: float, unit: str, bar: float) -> bool:
    """Print one figure beside its bar. Returns whether it is met."""
    met = figure <= bar
    print(f"{what:<70} {figure:8.1f} {unit:<2} of {bar:3.0f}{'' if met else '   MISSED'}", flush=True)
    return met


# -- slot maps ---------------------------------------------------------------------------------------------------------


def identity(number: int) -> bytes:
    """A node id."""
    return b"%040x" % (number + 1)


def place(number: int, here: Address) -> Address:
    """Where a node is: the first one here, the others where nothing ever connects to."""
    return Address(f"10.0.{number // 250}.{number % 250}", 7000) if number else here


def spans(ranges: int) -> list[tuple[int, int]]:
    """All slots in so many ranges of the same length."""
    edges = [SLOTS * number // ranges for number in range(ranges + 1)]
    return [(first, after - 1) for first, after in pairwise(edges)]


def slots_reply(ranges: int, moved: int, here: Address, protocol: int) -> bytes:
    """CLUSTER SLOTS: so many ranges over all shards, with the hostname that Valkey tells beside each address."""

    def told(number: int) -> list[object]:
        host, port = place(number, here)
        return [host.encode(), port, identity(number), {b"hostname": b"node-%d.example.test" % number}]

    owners = [(number + moved) % SHARDS for number in range(ranges)]
    told_of = [[*span, told(owner), told(SHARDS + owner)] for span, owner in zip(spans(ranges), owners, strict=True)]
    return encode_reply(told_of, protocol)


def nodes_reply(ranges: int, moved: int, here: Address, protocol: int) -> bytes:
    """CLUSTER NODES of the same cluster."""
    owned: dict[int, list[str]] = {}
    for number, (first, last) in enumerate(spans(ranges)):
        owned.setdefault((number + moved) % SHARDS, []).append(f"{first}-{last}" if first < last else str(first))
    lines = []
    for number in range(2 * SHARDS):
        role = f"slave {identity(number - SHARDS).decode()}" if number >= SHARDS else "master -"
        where = f"{place(number, here)}@17000,node-{number}.example.test"
        epoch = number % SHARDS + 1 + moved * 10_000
        slots = " ".join(owned.get(number, []))
        lines.append(f"{identity(number).decode()} {where} {role} 0 0 {epoch} connected {slots}\n")
    return encode_reply("".join(lines).encode(), protocol)


SOURCES: dict[str, Callable[[int, int, Address, int], bytes]] = {"slots": slots_reply, "nodes": nodes_reply}


class Turns:
    """The longest turn of this hub, in seconds of CPU, as a greenlet sees it that wants every one of them."""

    def __init__(self) -> None:
        self.longest = 0.0

    def __enter__(self) -> Turns:
        self._greenlet = gevent.spawn(self._look)
        gevent.sleep(0.01)
        self.longest = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._greenlet.kill()

    def _look(self) -> None:
        before = thread_time()
        while True:
            gevent.sleep(0.0001)
            now = thread_time()
            self.longest, before = max(self.longest, now - before), now


def accept(source: str, ranges: int, protocol: int, watched: Turns | None) -> float:
    """Learn the first map, then one in which every slot has moved.

    Returns:
        CPU milliseconds for the dearer of the two, the scripted node's share included.
    """
    name, dearest = f"CLUSTER {source.upper()}", 0.0
    with FakeCluster(1) as fake:
        node = fake.nodes[0]
        cluster = gvcluster.Cluster(fake.seeds, protocol=protocol, topology_source=source, client_info=False)
        replies = [SOURCES[source](ranges, moved, node.address, protocol) for moved in (0, 1)]
        node.on(name, b"-LOADING\r\n")
        with suppress(gvcluster.TopologyUnavailable):
            cluster.connect()  # the connection is not what is measured
        # Full collections come while a large reply is read; what else a program keeps is no matter of the map.
        gc.collect()
        gc.freeze()
        with watched or nullcontext():
            for reply in replies:
                node.on(name, reply)
                before = process_time()
                cluster.refresh(timeout=30.0)
                dearest = max(dearest, process_time() - before)
        assert cluster.route_version == len(replies)
        cluster.close()
    gc.unfreeze()
    return dearest * 1e3


def maps() -> Verdicts:
    """Accept large slot maps from every source. Turns are watched in rounds of their own: to look costs time."""
    for ranges, (in_all, in_one_turn) in MAP_BARS.items():
        for source, protocol in (("slots", 3), ("slots", 2), ("nodes", 3)):
            turns = [Turns() for _ in range(ROUNDS)]
            whole = median(accept(source, ranges, protocol, None) for _ in range(ROUNDS))
            for each in turns:
                accept(source, ranges, protocol, each)
            longest = median(each.longest for each in turns) * 1e3
            what = f"a map of {2 * SHARDS:,} nodes and {ranges:,} ranges, CLUSTER {source.upper()}, RESP{protocol}"
            yield say(f"{what}: in all", whole, "ms", in_all)
            yield say(f"{what}: longest turn", longest, "ms", in_one_turn)


# -- parked calls ------------------------------------------------------------------------------------------------------


def parked() -> Verdicts:
    """Park greenlets in `execute`, beside others that are parked with a gevent Waiter each and nothing else."""
    with FakeCluster(1) as fake:
        fake.nodes[0].on("GET", None)
        cluster = gvcluster.Cluster(fake.seeds, client_info=False, timeout=600.0, command_timeout=600.0)
        cluster.connect()
        cluster.execute("SET", "k", "v")
        waiters: list[Waiter[object]] = [Waiter() for _ in range(CALLS)]
        tracemalloc.start()
        bare = Parked([lambda waiter=waiter: wait(waiter, "GET", "k") for waiter in waiters])  # type: ignore[misc]
        calls = Parked([lambda: cluster.execute("GET", "k")] * CALLS)
        tracemalloc.stop()
        bare.end()
        calls.end()
        cluster.close()
    # The greenlets' saved stacks end in a Waiter's `get` in both: what is beyond includes the call's own Waiter.
    yield say("a parked call, beyond its greenlet", calls.weight - bare.weight, "B", PARKED_BAR)


def wait(waiter: Waiter[object], *_args: str, **_options: object) -> None:
    """Park with the arguments of a call, which are the caller's: Python holds them while any function waits."""
    waiter.get()


class Parked:
    """Greenlets that wait in these functions. `weight`: bytes for each, without what the scripted node keeps."""

    def __init__(self, functions: Sequence[Callable[[], object]]) -> None:
        gc.collect()
        before = traced()
        self._greenlets = [gevent.spawn(function) for function in functions]
        gevent.sleep(2.0)
        gevent.idle()  # until all wait, and the scripted node has read everything
        gc.collect()
        self.weight = (traced() - before) / len(functions)

    def end(self) -> None:
        """Wait no longer."""
        gevent.killall(self._greenlets)


def traced() -> int:
    """Bytes that Python code but for the scripted nodes' has allocated."""
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, name) for name in OF_THE_NODE])
    return sum(trace.size for trace in snapshot.traces)


# -- the import --------------------------------------------------------------------------------------------------------


def imports() -> Verdicts:
    """Import gvcluster where gevent and hiredis are imported already, in fresh interpreters, in turn with others."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", os.path.dirname(gvcluster.__file__)], check=True)
    others = "import gevent.monkey, gevent.socket, hiredis"  # what every program with gevent has
    costs = [child(f"{others}, gvcluster") - child(others) for _ in range(IMPORTS)]
    yield say("import gvcluster, beyond gevent and hiredis", median(costs), "ms", IMPORT_BAR)


def child(code: str) -> float:
    """Milliseconds of user CPU for an interpreter that runs this."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", code], check=True)
    return (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before) * 1e3


PARTS: dict[str, Callable[[], Verdicts]] = {"maps": maps, "parked": parked, "imports": imports}


def main() -> int:
    """Measure what was asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them if none is named")
    chosen = parser.parse_args().parts or list(PARTS)
    for name in chosen:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}")
    verdicts = [met for name in chosen for met in PARTS[name]()]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
