#!/usr/bin/env python3
"""Compare gvcluster with valkey-py and redis-py under gevent, on a local cluster of real servers.

    python tools/bench.py [--greenlets 1,100,1000] [--clients gvcluster,valkey-py,redis-py@2000] [--pipeline 100]

Machines are noisy, so what counts is paired: in each round every client has one turn, in a process of its own and with
the machine to itself, and gvcluster's result is divided by the peer's of the same round. The medians of these ratios
are shown, with the smallest and the largest. A turn is SET and GET of 64 bytes, half and half, by so many greenlets;
with --pipeline each greenlet sends so many commands at once, again and again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from statistics import median

import gevent
from bench_worker import VALUE_SIZE, Measured

from gvcluster.errors import GvClusterError
from gvcluster.testing import LocalCluster

WORKER = Path(__file__).with_name("bench_worker.py")
# A turn that lasts so many seconds more than it should is ended: a client in trouble may hang.
PATIENCE = 60.0

SUBJECT = "gvcluster"
# client → what pip installs it by, with its own parser in C; before the bracket stands the package to import
PACKAGES = {
    SUBJECT: "gvcluster",
    f"{SUBJECT}-patched": "gvcluster",
    "valkey-py": "valkey[libvalkey]",
    "redis-py": "redis[hiredis]",
}

Round = dict[str, Measured]


@dataclass(frozen=True)
class Plan:
    """What to measure. Times are in seconds."""

    clients: list[str]
    greenlets: list[int]
    rounds: int
    warmup: float
    seconds: float
    pipeline: int  # commands in one execution; 0: one after the other


@dataclass(frozen=True)
class Row:
    """One client over all rounds. The ratios are gvcluster's gain over it, in commands per second and in CPU time."""

    client: str
    rates: list[float]
    costs: list[float]
    connections: list[int]
    faster: list[float]
    cheaper: list[float]
    failed: int
    error: str


def measure(plan: Plan, seeds: str) -> Iterator[tuple[int, list[Round]]]:
    """All rounds for each number of greenlets."""
    for greenlets in plan.greenlets:
        rounds = []
        for number in range(plan.rounds):
            print(f"{greenlets} greenlets, round {number + 1} of {plan.rounds}", file=sys.stderr)
            first = number % len(plan.clients)  # each client is first once, and last
            turns = plan.clients[first:] + plan.clients[:first]
            rounds.append({client: take_turn(plan, client, seeds, greenlets) for client in turns})
        yield greenlets, rounds


def take_turn(plan: Plan, client: str, seeds: str, greenlets: int) -> Measured:
    """Let one client work in a process of its own, which is gone afterwards whatever happens."""
    numbers = (greenlets, plan.warmup, plan.seconds, plan.pipeline)
    command = [sys.executable, str(WORKER), client, seeds, *map(str, numbers)]
    limit = plan.warmup + plan.seconds + PATIENCE
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return _nothing(client, plan, greenlets, f"not ended after {limit:g} s")
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
        return _nothing(client, plan, greenlets, last[0])
    return Measured(**json.loads(ended.stdout))


def _nothing(client: str, plan: Plan, greenlets: int, error: str) -> Measured:
    return Measured(client, 0, plan.seconds, 0.0, [], greenlets, error)


def summarize(client: str, rounds: list[Round]) -> Row:
    """One line of the table. Turns that failed count only if all did; one of a pair that failed gives no ratio."""
    turns = [each[client] for each in rounds]
    shown = _sound(turns) or turns
    pairs = _pairs(client, rounds)
    worst = max(turns, key=lambda turn: turn.failed)
    return Row(
        client,
        [turn.rate for turn in shown],
        [turn.cost for turn in shown],
        shown[-1].connections,
        [ours.rate / theirs.rate for ours, theirs in pairs],
        [theirs.cost / ours.cost for ours, theirs in pairs],
        worst.failed,
        worst.error,
    )


def _sound(turns: Iterable[Measured]) -> list[Measured]:
    return [turn for turn in turns if not turn.failed]


def _pairs(client: str, rounds: list[Round]) -> list[tuple[Measured, Measured]]:
    """gvcluster's turn and the client's, of each round in which both went well."""
    if client == SUBJECT or SUBJECT not in rounds[0]:
        return []
    pairs = [(each[SUBJECT], each[client]) for each in rounds]
    return [pair for pair in pairs if len(_sound(pair)) == 2]


def show(greenlets: int, rows: list[Row]) -> None:
    """Print one table."""
    print(f"\n{greenlets} greenlet{'s' if greenlets > 1 else ''}")
    line = "  {:<18}{:>26}{:>22}{:>18}{:>20}{:>20}".format
    print(line("client", "commands/s", "CPU µs/command", "connections", "times as fast", "times as cheap"))
    for row in rows:
        per_node = " ".join(map(str, row.connections)) or "–"
        ratios = (_spread(row.faster, "{:.1f}".format), _spread(row.cheaper, "{:.1f}".format))
        rate, cost = _spread(row.rates, "{:,.0f}".format), _spread(row.costs, "{:.1f}".format)
        print(line(row.client, rate, cost, per_node, *ratios))
        if row.failed:
            print(f"    failed in {row.failed} of {greenlets} greenlets: {row.error}")


def _spread(values: list[float], text: Callable[[float], str]) -> str:
    """The median, and the smallest and the largest."""
    return f"{text(median(values))} ({text(min(values))}–{text(max(values))})" if values else "–"


def heading(plan: Plan, cluster: str) -> str:
    in_pipelines = f", in pipelines of {plan.pipeline}" if plan.pipeline else ""
    loop = f"gevent {gevent.__version__} ({gevent.config.loop.__module__.rpartition('.')[2]})"
    return (
        f"{cluster} on 127.0.0.1, {os.cpu_count()} cores for all; Python {python_version()}, {loop}\n"
        f"SET and GET of {VALUE_SIZE} bytes, half and half{in_pipelines}; {plan.rounds} rounds of {plan.seconds:g} s"
        f" after {plan.warmup:g} s of warm-up; median (smallest–largest)\n"
        f"connections of each node, at the end; how many times as fast, and as cheap in CPU time, {SUBJECT} is"
    )


def installed(clients: list[str]) -> list[str]:
    """Those that can run here; what installs the others is printed."""
    found = []
    for client in clients:
        package = PACKAGES[client.partition("@")[0]]
        if find_spec(package.partition("[")[0]) is not None:
            found.append(client)
        else:
            print(f"{client} is left out, it is not installed: {sys.executable} -m pip install '{package}'")
    return found


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare gvcluster with valkey-py and redis-py under gevent.")
    parser.add_argument(
        "--clients",
        type=_clients,
        default=[SUBJECT, "valkey-py", "redis-py"],
        help=f"some of {', '.join(PACKAGES)}; peer@N sets its max_connections, which is its default otherwise",
    )
    parser.add_argument("--greenlets", type=_numbers, default=[1, 100], help="numbers of greenlets: 1,100,1000")
    parser.add_argument("--pipeline", type=_number, default=0, help="commands in one execution; without: no pipelines")
    parser.add_argument("--rounds", type=_number, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of a turn")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before it")
    parser.add_argument("--server", default="valkey-9.1.2", help="as LocalCluster names it")
    parser.add_argument("--replicas", type=int, default=0, help="of each of the 3 primaries; 0 leaves more CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every turn there, too")
    return parser.parse_args(arguments)


def _clients(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        kind, at, most = name.partition("@")
        if kind not in PACKAGES or (at and not most.isdigit()):
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PACKAGES)}, nor peer@N of one")
    return names


def _numbers(text: str) -> list[int]:
    return [_number(number) for number in text.split(",")]


def _number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def write(file: Path, head: str, measured: dict[int, list[Round]]) -> None:
    turns = {
        str(greenlets): [{client: asdict(turn) for client, turn in each.items()} for each in rounds]
        for greenlets, rounds in measured.items()
    }
    file.write_text(json.dumps({"heading": head, "rounds": turns}, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    plan = Plan(
        installed(chosen.clients), chosen.greenlets, chosen.rounds, chosen.warmup, chosen.seconds, chosen.pipeline
    )
    if not plan.clients:
        return 2
    try:
        cluster = LocalCluster(chosen.server, primaries=3, replicas=chosen.replicas)
    except GvClusterError as error:
        print(error)
        return 2
    head = heading(plan, f"{cluster.server.name}, 3 primaries, {chosen.replicas} replicas of each")
    print(head)
    measured: dict[int, list[Round]] = {}
    with cluster:
        seeds = ",".join(map(str, cluster.addresses[:3]))
        for greenlets, rounds in measure(plan, seeds):
            measured[greenlets] = rounds
            show(greenlets, [summarize(client, rounds) for client in plan.clients])
    print("\n" + "\n".join(dict.fromkeys(turn.how for turn in measured[plan.greenlets[0]][0].values())))
    if chosen.json:
        write(chosen.json, head, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
