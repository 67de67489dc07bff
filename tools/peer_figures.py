#!/usr/bin/env python3
"""Measure what calls notice of a primary's death, of a frozen one, and of an outage of all: with gvcluster and others.

    python tools/peer_figures.py [kill] [freeze] [outage] [--client gvcluster,redis-py,valkey-py] [--runs 10]
                                 [--peers PYTHON] [--server valkey-9.1.2] [--json FILE]

Each run: a cluster of 3 + 3 real servers with a node timeout of 2 s; a client in a process of its own
(`peer_client.py`), whose 90 greenlets make some 2,000 calls/s, INCR and GET; 4 s of quiet; the event. redis-py and
valkey-py run patched, with their defaults but for `socket_timeout` and `socket_connect_timeout`, which are 1 s as
gvcluster's `command_timeout` is. --peers names the Python that has them and gevent installed.

kill     SIGKILL to a primary. `late` is the time from the first write that the promoted replica accepts of a raw
         client (`failover_probe.py`) to the first reply to any call. All servers refuse everything for `down` before
         the promotion, unless --coverage no (the default here, so that `others` is the client's doing alone).
freeze   The same with SIGSTOP, and 50 writes and 50 reads that are sent when the primary stands still already.
         `others` is the p99 of the calls to the other shards from the event until the shard is back, `quiet` as long
         before. It holds if others <= 2 x quiet + 5 ms. `raw` is the p99 of one raw question to one of these shards
         meanwhile, in a process of its own: the servers' and the machine's part of it. `hub` is the longest time for
         which the client's hub did not come round to a greenlet that wanted no more than that.
         `errors` are those of all calls; `in doubt` are those of them that do not say that nothing was executed;
         `twice` are increments that were executed twice.
outage   SIGKILL to all six nodes for 10 s. `core` is the client's processor time from the 3rd second on, in percent of
         one core; `late` is the time from a shard's first accepted write, of a raw client, to the first reply to any of
         our calls to it, the worst of the three shards.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from platform import python_version
from statistics import median

import gevent
from peer_events import Client, Run, lose_all, lose_primary, restore

from gvcluster.errors import GvClusterError
from gvcluster.testing import LocalCluster

CLIENTS = ("gvcluster", "redis-py", "valkey-py")
EVENTS = ("kill", "freeze", "outage")

# Name, value, and how it is written.
Column = tuple[str, Callable[[Run], float | None], str]

_COLUMNS: tuple[Column, ...] = (
    ("late ms", lambda run: thousandfold(run.late), "{:.0f}"),
    ("errors", lambda run: sum(run.errors.values()), "{:.0f}"),
    ("in doubt", lambda run: run.in_doubt, "{:.0f}"),
    ("twice", lambda run: run.twice, "{:.0f}"),
    ("others p99 ms", lambda run: thousandfold(run.others), "{:.1f}"),
    ("quiet p99 ms", lambda run: thousandfold(run.quiet), "{:.1f}"),
    ("others max ms", lambda run: thousandfold(run.slowest_other), "{:.0f}"),
    ("raw p99 ms", lambda run: thousandfold(run.raw), "{:.1f}"),
    ("hub max ms", lambda run: thousandfold(run.hub), "{:.1f}"),
    ("too slow ms", lambda run: thousandfold(run.over), "{:+.1f}"),
    ("core %", lambda run: None if run.core is None else 100 * run.core, "{:.1f}"),
)


def thousandfold(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def show(run: Run) -> None:
    """One line."""
    shown = ((value(run), text) for _, value, text in _COLUMNS)
    cells = ("–" if value is None else text.format(value) for value, text in shown)
    errors = ", ".join(f"{name} {number}" for name, number in run.errors.items())
    print(f"{run.event:<8}{run.client:<11}" + "".join(f"{cell:>15}" for cell in cells) + f"  {errors}", flush=True)


def conclude(runs: list[Run]) -> None:
    """A Markdown table of medians and maxima for each event."""
    for event in dict.fromkeys(run.event for run in runs):
        table(event, [run for run in runs if run.event == event])


def table(event: str, runs: list[Run]) -> None:
    used = [column for column in _COLUMNS if values(runs, column)]
    print(f"\n{event}: median / maximum\n")
    print("| client | runs | " + " | ".join(name for name, _, _ in used) + " | errors by kind, all runs |")
    print("|---" * (len(used) + 3) + "|")
    for client in dict.fromkeys(run.client for run in runs):
        print(row(client, [run for run in runs if run.client == client], used))


def row(client: str, runs: list[Run], columns: list[Column]) -> str:
    kinds: Counter[str] = Counter()
    for run in runs:
        kinds.update(run.errors)
    told = ", ".join(f"{name} {number}" for name, number in kinds.most_common()) or "none"
    return " | ".join([f"| {client}", str(len(runs)), *(cell(runs, column) for column in columns), f"{told} |"])


def cell(runs: list[Run], column: Column) -> str:
    found, (_, _, text) = values(runs, column), column
    if not found:
        return "–"
    never = f" ({len(runs) - len(found)} never)" if len(found) < len(runs) else ""
    return f"{text.format(median(found))} / {text.format(max(found))}{never}"


def values(runs: list[Run], column: Column) -> list[float]:
    return [each for each in map(column[1], runs) if each is not None]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what calls notice of nodes that fail, beside other clients.")
    parser.add_argument("events", nargs="*", default=EVENTS, metavar="EVENT", help=f"some of {', '.join(EVENTS)}")
    parser.add_argument("--client", default="gvcluster", help=f"some of {','.join(CLIENTS)}")
    parser.add_argument("--runs", type=int, default=10, help="of each event with each client")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="has the other clients, and gevent")
    parser.add_argument("--server", default="valkey-9.1.2", help="as LocalCluster names it")
    parser.add_argument("--coverage", choices=["yes", "no"], default="no", help="cluster-require-full-coverage")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there, too")
    chosen = parser.parse_args(arguments)
    chosen.client = chosen.client.split(",")
    if unknown := {*chosen.events, *chosen.client} - {*EVENTS, *CLIENTS}:
        parser.error(f"not known here: {', '.join(sorted(unknown))}")
    return chosen


def run_event(event: str, chosen: argparse.Namespace, runs: list[Run]) -> None:
    """Every client in turn, so that what the machine does else meets all alike."""
    config = {"cluster-require-full-coverage": chosen.coverage}
    turns = [(number, name) for number in range(chosen.runs) for name in chosen.client]
    with LocalCluster(chosen.server, node_timeout=2.0, config=config) as servers:
        for number, name in turns:
            with Client(name, chosen.peers, servers) as client:
                runs.append((lose_all if event == "outage" else lose_primary)(servers, client, event, number))
            show(runs[-1])
            restore(servers)


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    print(f"{chosen.server}, 3 + 3 nodes, node timeout 2 s, full coverage: {chosen.coverage};")
    print(f"{os.cpu_count()} cores for all; Python {python_version()}, gevent {gevent.__version__}\n")
    print(f"{'event':<8}{'client':<11}" + "".join(f"{name:>15}" for name, _, _ in _COLUMNS) + "  errors", flush=True)
    runs: list[Run] = []
    try:
        for event in chosen.events:
            run_event(event, chosen, runs)
    except GvClusterError as error:
        print(error)
        return 2
    conclude(runs)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    return int(any(run.twice for run in runs if run.client == "gvcluster"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
