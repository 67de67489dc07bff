#!/usr/bin/env python3
"""Measure what calls notice of a primary's death, of a frozen one, and of what an administrator plans.

    python tools/failover_figures.py [kill] [freeze] [planned] [reshard] [migrate] [--runs 5] [--coverage no]
                                     [--quiet 6] [--slots 200] [--json FILE]

    python tools/failover_figures.py planned reshard migrate --runs 100 --quiet 0.5 --slots 10      (ten minutes)

A cluster of 3 + 3 real servers with a node timeout of 2 s, and one client, whose 90 greenlets make some 2,000 calls
per second, INCR and GET, each on a key of its own; each reply is checked. Before each event the same load runs
undisturbed for --quiet seconds: its last part, as long as the event took, is the control, because machines are noisy.

kill     SIGKILL to a primary. A raw client in a process of its own (`failover_probe.py`) writes to the replica every
         2 ms; `late` is the time from the first write that it accepts to the first reply to any of our calls.
         `others` is the p99.9 latency of the calls to the other shards from the kill to that reply. With the servers'
         default, `cluster-require-full-coverage yes`, all of them refuse every command between agreeing that the
         primary is dead and the promotion: `down` is for how long, as the raw client sees it. With `--coverage no`
         they serve on, and what `others` exceeds the control by is the client's doing alone.
freeze   The same with SIGSTOP. `over` is by how much the longest of 50 writes, sent when the primary already stood
         still, exceeded `command_timeout` (1 s) when it ended. Reads are repeated, and wait for the failover.
planned  CLUSTER FAILOVER. The primary itself lets its clients wait until the replica has caught up.
reshard  --slots slots there and back, key by key. Half of the shard's greenlets have their keys in these slots.
migrate  The same, atomically, where the server can. In these two `others` is about all shards.

Each line is one run; the medians follow, with the smallest and the largest. Exits with 1 if a reply was wrong, if a
write failed without saying `maybe_executed`, or if any call failed in what was planned. Times decide nothing here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from platform import python_version
from statistics import median

import gevent
from failover_events import Run, Times, fail_over, lose_primary, move

from gvcluster.errors import GvClusterError
from gvcluster.testing import LocalCluster

EVENTS = ("kill", "freeze", "planned", "reshard", "migrate")
NODE_TIMEOUT = 2.0

# Name, value, and how it is written.
_COLUMNS: tuple[tuple[str, Callable[[Run], float | None], str], ...] = (
    ("took s", lambda run: run.took, "{:.2f}"),
    ("late ms", lambda run: _milliseconds(run.late), "{:.0f}"),
    ("down ms", lambda run: _milliseconds(run.down), "{:.0f}"),
    ("over ms", lambda run: _milliseconds(run.over), "{:.0f}"),
    ("others ms", lambda run: run.others * 1000, "{:.1f}"),
    ("control ms", lambda run: run.control * 1000, "{:.1f}"),
    ("differ ms", lambda run: (run.others - run.control) * 1000, "{:+.1f}"),
    ("slowest ms", lambda run: run.slowest * 1000, "{:.0f}"),
    ("failed", lambda run: run.failed, "{:.0f}"),
    ("may have run", lambda run: run.unsure, "{:.0f}"),
    ("redirects", lambda run: run.redirects, "{:.0f}"),
)


def job(event: str, servers: LocalCluster, times: Times) -> Callable[[int], Run]:
    """What is to be run for it, again and again."""
    if event == "planned":
        return partial(fail_over, servers, times)
    if event in ("reshard", "migrate"):
        return partial(move, servers, times, event == "migrate")
    return partial(lose_primary, servers, times, event == "freeze")


def repeat(act: Callable[[int], Run], times: int) -> Iterator[Run]:
    """The runs of a job, each shown when it is over."""
    for number in range(times):
        run = act(number)
        show(run)
        yield run


def head(servers: LocalCluster, coverage: str) -> None:
    """What is measured where."""
    print(f"{servers.server.name}, 3 + 3 nodes, node timeout {NODE_TIMEOUT:g} s, full coverage: {coverage};")
    print(f"{os.cpu_count()} cores for all; Python {python_version()}, gevent {gevent.__version__}\n")
    print(f"{'event':<22}" + "".join(f"{name:>13}" for name, _, _ in _COLUMNS), flush=True)


def show(run: Run) -> None:
    """One line, and what was wrong."""
    values = ((value(run), text) for _, value, text in _COLUMNS)
    cells = ("–" if value is None else text.format(value) for value, text in values)
    print(f"{run.event:<22}" + "".join(f"{cell:>13}" for cell in cells), flush=True)
    if run.problem:
        print(f"  MUST NOT BE: {run.problem}", flush=True)


def conclude(runs: list[Run]) -> None:
    """The median of each column, and the smallest and the largest."""
    for event in dict.fromkeys(run.event for run in runs):
        mine = [run for run in runs if run.event == event]
        print(f"\n{event}: median (smallest to largest) of {len(mine)} runs")
        for name, value, text in _COLUMNS:
            found = [each for each in map(value, mine) if each is not None]
            if found:
                low, middle, high = (text.format(each) for each in (min(found), median(found), max(found)))
                print(f"    {name:<14}{middle:>8}  ({low} to {high})")


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what calls notice of failovers and of moving slots.")
    parser.add_argument("events", nargs="*", default=EVENTS, metavar="EVENT", help=f"some of {', '.join(EVENTS)}")
    parser.add_argument("--runs", type=int, default=5, help="of each event")
    parser.add_argument("--server", default="valkey-9.1.2", help="as LocalCluster names it")
    parser.add_argument("--coverage", choices=["yes", "no"], default="yes", help="cluster-require-full-coverage")
    parser.add_argument("--quiet", type=float, default=6.0, help="seconds without an event, before each")
    parser.add_argument("--slots", type=int, default=200, help="how many are moved at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there, too")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.events) - set(EVENTS):
        parser.error(f"no such event: {', '.join(sorted(unknown))}")
    return chosen


def run_all(event: str, servers: LocalCluster, chosen: argparse.Namespace) -> Iterator[Run]:
    """What is asked for of an event, if this server can have it."""
    if event != "migrate" or servers.server.has_atomic_moves:
        yield from repeat(job(event, servers, Times(chosen.quiet, chosen.slots)), chosen.runs)


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    config = {"cluster-require-full-coverage": chosen.coverage}
    try:
        servers = LocalCluster(chosen.server, node_timeout=NODE_TIMEOUT, config=config)
    except GvClusterError as error:
        print(error)
        return 2
    head(servers, chosen.coverage)
    with servers:
        runs = [run for event in chosen.events for run in run_all(event, servers, chosen)]
    conclude(runs)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    return int(any(run.problem for run in runs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
