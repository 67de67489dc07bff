"""`gvcluster bench`: its arguments, and what is refused before anything starts.

`course.py` runs it; `rounds.py` says who has a turn when, and `worker.py` is one turn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gvcluster.cli.arguments import between, words, words_of, writable
from gvcluster.cli.bench.clients import ALL, why_absent
from gvcluster.errors import ConfigError, GvClusterError
from gvcluster.seeds import parse_seeds
from gvcluster.testing.errors import ServerMissing
from gvcluster.testing.servers import find_server

if TYPE_CHECKING:
    from gvcluster.cli.bench.course import Settings
    from gvcluster.cli.bench.rounds import Plan

IN_SHORT = "how fast it is here, beside the other clients"

_DEFAULT_SERVER = "valkey-9.1.2"
# Rounds, those of the cases that only a full run has, seconds of warm-up and seconds of a turn.
_TIMES, _QUICK_TIMES = (5, 3, 0.25, 0.5), (2, 2, 0.2, 0.3)
_DESCRIPTION = """\
Starts a cluster of 3 nodes on this machine and lets each client do the same
work, each turn in a process of its own, round by round in a random order. What
counts is paired: gvcluster's result by the peer's of the same round.

A plain run takes some 5 minutes, --quick less than one, --full about 15.
Peers that are not installed are left out, with what installs them:
    python3 -m pip install 'gvcluster[bench]'

With --nodes it uses your cluster, without a password and without TLS. Its keys
begin with gvcluster-bench: and are found by a scan and deleted after each case.
What needs other servers than three nodes is left out or scripted.
"""
_EXIT_CODES = """\
exit codes:
  0    done; with --check: everything that must hold was measured and holds
  1    with --check: something does not hold, or was not measured; or something
       is not installed; or the cluster is not to be had
  2    the arguments make no sense
  130  Ctrl-C; what was measured until then is printed, and written to --json
Whatever happens, no server and no process is left behind.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command is about."""
    parser.description, parser.epilog = _DESCRIPTION, _EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--list", action="store_true", help="show all work, cases and clients, and end")
    add("--work", type=words, default=[], metavar="W,…", help="some of --list: calls,sizes/1MiB")
    add("--clients", type=words_of(ALL), metavar="C,…", help=f"some of {', '.join(ALL)}".replace("%", "%%"))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the most telling cases, 2 short rounds")
    size.add_argument("--full", action="store_true", help="every case")
    add(
        "--rounds",
        type=between(int, 1, 100),
        metavar="N",
        help="turns of each client (default 5 or 3)",
    )
    add("--seconds", type=between(float, 0.05, 60), metavar="S", help="measured time of a usual turn (default 0.5)")
    add("--warmup", type=between(float, 0.05, 60), metavar="S", help="time before it (default 0.25)")
    add("--seed", type=int, default=1, metavar="N", help="of the order of turns (default 1)")
    add("--nodes", metavar="H:P,…", help="your cluster: some of its nodes")
    add("--server", metavar="NAME", help=f"what to start (default {_DEFAULT_SERVER})")
    add("--json", type=writable, metavar="FILE", help="write every turn there")
    add("--report", type=Path, metavar="FILE", help="measure nothing: print a --json file's tables as Markdown")
    add("--plots", type=Path, metavar="DIR", help="draw pictures into this folder")
    add("--check", action="store_true", help="say of each bar whether it is met; the exit code, too")
    add("--plain", action="store_true", help="plain lines, as when the output is no terminal")
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    if chosen.list:
        return _list()
    if chosen.plots is not None and find_spec("matplotlib") is None:
        return _refuse("matplotlib is not installed here. Install it with: python3 -m pip install 'gvcluster[bench]'")
    try:
        return _report(parser, chosen) if chosen.report is not None else _measure(parser, chosen)
    except ConfigError as error:
        parser.error(str(error))
    except GvClusterError as error:
        return _refuse(str(error))


def _measure(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    _check_nodes(chosen.nodes, chosen.server)
    try:
        plan, settings = _plan(chosen)
    except ValueError as error:
        parser.error(str(error))
    except ServerMissing as error:
        return _refuse(str(error))
    if not plan.clients:
        return _refuse("; ".join(map(": ".join, settings.absent.items())))
    if not any(map(plan.clients_of, plan.cases)):
        parser.error(f"none of {', '.join(plan.clients)} does any of this work")
    from gvcluster.cli.bench.course import run

    return run(plan, settings)


def _check_nodes(nodes: str | None, server: str | None) -> None:
    if nodes is None:
        return
    if server is not None:
        raise ConfigError("--nodes is your own cluster, --server one that is started here: choose")
    if "://" in nodes or "@" in nodes:
        raise ConfigError("--nodes takes h:p,…: the peers are opened without TLS and without a password")
    parse_seeds(nodes)


def _plan(chosen: argparse.Namespace) -> tuple[Plan, Settings]:
    from gvcluster.cli.bench.catalogue import FULL, QUICK, USUAL, choose
    from gvcluster.cli.bench.course import Settings
    from gvcluster.cli.bench.rounds import Plan

    level = {(True, False): QUICK, (False, True): FULL}.get((chosen.quick, chosen.full), USUAL)
    cases = choose(chosen.work, level, everybody=bool(chosen.clients))
    present, absent = _clients_here(chosen.clients or ALL)
    rounds, beyond, warmup, seconds = _QUICK_TIMES if chosen.quick else _TIMES
    rounds, beyond = (chosen.rounds,) * 2 if chosen.rounds else (rounds, beyond)
    times = (chosen.warmup or warmup, chosen.seconds or seconds)
    plan = Plan(cases, present, rounds, beyond, *times, chosen.seed)
    server = "" if chosen.nodes else find_server(chosen.server or _DEFAULT_SERVER).name
    settings = Settings(server, chosen.nodes, absent, chosen.json, chosen.plots, chosen.check, chosen.plain)
    return plan, settings


def _clients_here(wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Who can run here, and why the others can not."""
    absent = {name: why for name in wanted if (why := why_absent(name)) is not None}
    return [name for name in ALL if name in wanted and name not in absent], absent


def _report(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    from gvcluster.cli.bench.bars import judge
    from gvcluster.cli.bench.measured import load
    from gvcluster.cli.bench.tables import page

    try:
        results = load(chosen.report)
    except (OSError, ValueError) as error:
        parser.error(f"{chosen.report}: {error}")
    found = judge(results)
    print(page(results, found))
    if chosen.plots is not None:
        from gvcluster.cli.bench.plots import draw

        for path in draw(results, chosen.plots):
            print(f"drawn: {path}", file=sys.stderr)
    return int(chosen.check and not all(verdict.met for verdict in found))


def _list() -> int:
    from gvcluster.cli.bench.catalogue import CASES, FULL, QUICK, USUAL, WORKS

    marks = {QUICK: "also with --quick", USUAL: "", FULL: "with --full, or when named"}
    for work, what in WORKS.items():
        print(f"{work}: {what}")
        for case in CASES.values():
            if case.work == work:
                print(f"    {case.name:<22}{case.title}" + (f"  ({marks[case.level]})" if marks[case.level] else ""))
    print("clients:")
    for name in ALL:
        print(f"    {name:<22}{why_absent(name) or 'is here'}")
    return 0


def _refuse(reason: str) -> int:
    print(f"gvcluster bench: {reason}", file=sys.stderr)
    return 1
