"""A run from its first server to its last table."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from platform import python_version
from typing import Any

import gevent

import gvcluster
from gvcluster.cli.bench.bars import judge
from gvcluster.cli.bench.measured import Results, save
from gvcluster.cli.bench.rounds import Plan, measure
from gvcluster.cli.bench.screen import Screen, open_screen
from gvcluster.cli.bench.sites import Sites
from gvcluster.cli.bench.tables import heading, table_of, verdicts, who
from gvcluster.cli.signals import signals_to_this_greenlet


@dataclass(frozen=True)
class Settings:
    """What a run needs to know beside its plan.

    server: what LocalCluster is to start; nodes: the user's cluster instead. absent: who is not installed, and why.
    """

    server: str
    nodes: str | None
    absent: dict[str, str]
    json: Path | None
    plots: Path | None
    check: bool
    plain: bool


def run(plan: Plan, settings: Settings) -> int:
    """Measure, and show each case as soon as it is done.

    Returns:
        The exit code: with `check` 1 if something does not hold.

    Raises:
        KeyboardInterrupt: Ctrl-C. No server and no process is left; what was measured is shown and written.
        GvClusterError: The cluster is not to be had.

    Blocks: for about `plan.estimate` seconds.
    """
    results = Results(_about(plan, settings), [])
    screen = open_screen(plan.estimate, plain=settings.plain)
    screen.title(f"gvcluster {gvcluster.__version__} bench", _in_short(plan), heading(results.about))
    try:
        with signals_to_this_greenlet(), Sites(settings.server, settings.nodes) as sites, screen.live():
            for case, turns in measure(plan, sites, screen.tell):
                results.turns.extend(turns)
                screen.table(table_of(results, case.name))
    finally:
        if results.turns:
            if settings.json is not None:
                save(results, settings.json)  # before anything is shown: perhaps nobody reads that any more
            screen.notes(who(results))
            _tell_where(settings, screen)
    return _end(results, settings, screen)


def _end(results: Results, settings: Settings, screen: Screen) -> int:
    found = judge(results)
    if settings.plots is not None:
        from gvcluster.cli.bench.plots import draw

        screen.notes([f"drawn: {path}" for path in draw(results, settings.plots)])
    if settings.check:
        screen.table(verdicts(found))
    return int(settings.check and not all(verdict.met for verdict in found))


def _tell_where(settings: Settings, screen: Screen) -> None:
    if settings.json is not None:
        screen.notes([f"every turn is in {settings.json}; `gvcluster bench --report {settings.json}` prints Markdown"])


def _in_short(plan: Plan) -> str:
    minutes, seconds = divmod(round(plan.estimate), 60)
    takes = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"{len(plan.cases)} cases, {len(plan.clients)} clients, about {takes}"


def _about(plan: Plan, settings: Settings) -> dict[str, Any]:
    local = f"{settings.server}, 3 primaries, no replicas, on 127.0.0.1"
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": _command(sys.argv[1:]),
        "gvcluster": gvcluster.__version__,
        "accelerated": bool(getattr(gvcluster, "accelerated", False)),
        "server": local if settings.nodes is None else f"the cluster at {settings.nodes}",
        "cores": os.cpu_count(),
        "load": list(os.getloadavg()),
        "python": python_version(),
        "gevent": f"{gevent.__version__} ({gevent.config.loop.__module__.rpartition('.')[2]})",
        "rounds": plan.rounds,
        "beyond": plan.beyond,
        "warmup": plan.warmup,
        "seconds": plan.seconds,
        "seed": plan.seed,
        "clients": plan.clients,
        "absent": settings.absent,
    }


def _command(arguments: Sequence[str]) -> str:
    return shlex.join(["gvcluster", *arguments])
