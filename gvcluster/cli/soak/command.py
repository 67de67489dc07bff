"""`gvcluster soak`, played: servers one after the other, progress, and the ledger at the end."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import gevent

from gvcluster.cli.signals import signals_to_this_greenlet
from gvcluster.cli.soak.course import Course
from gvcluster.cli.soak.crew import Crew
from gvcluster.cli.soak.criteria import Criterion, Outcome, judge, passed
from gvcluster.cli.soak.ledger import happened, in_short, ledger, versions, write
from gvcluster.cli.soak.plan import Window, plan_windows
from gvcluster.cli.soak.scene import Scene
from gvcluster.cli.soak.volume import GREENLETS, Goal, reached, volume_windows
from gvcluster.testing import find_server
from gvcluster.testing.errors import LocalClusterError

_INTERRUPTED = 130


@dataclass(frozen=True)
class Settings:
    """What was asked for. goal: for the mode that counts commands instead of minutes."""

    servers: tuple[str, ...]
    minutes: float
    seed: int
    faults: tuple[str, ...]
    crew: Crew
    node_timeout: float
    fault_seconds: float
    timings: bool
    json_file: Path | None
    html_file: Path | None
    goal: Goal | None = None

    @classmethod
    def of(cls, chosen: argparse.Namespace) -> Settings:
        """Read the arguments, which are checked."""
        seed = random.randrange(1_000_000) if chosen.seed is None else chosen.seed
        goal = None
        crew = Crew(chosen.greenlets, chosen.pace)
        if chosen.commands is not None:
            goal = Goal(chosen.commands, chosen.interruptions, chosen.kills)
            crew = Crew(GREENLETS, 0.0, width=chosen.width, pipelines_only=True)
        return cls(
            servers=tuple(find_server(name).name for name in chosen.servers),
            minutes=chosen.minutes,
            seed=seed,
            faults=tuple(chosen.faults),
            crew=crew,
            node_timeout=chosen.node_timeout,
            fault_seconds=chosen.fault_seconds,
            timings=chosen.timings,
            json_file=chosen.json,
            html_file=chosen.html,
            goal=goal,
        )


def run(settings: Settings) -> int:
    """Play the soak over each of the servers.

    Returns:
        The exit code: 0, or 1 if a criterion that decides is not met, or 130 after Ctrl-C.
    """
    told = ", ".join(f"{name} {version}" for name, version in versions().items())
    _say(f"gvcluster soak: seed {settings.seed}, {settings.crew.greenlets} greenlets, {told}")
    codes = []
    with signals_to_this_greenlet():
        for server in settings.servers:
            codes.append(_Run(settings, server).play())
            if codes[-1] == _INTERRUPTED:
                break
    return max(codes)


class _Run:
    """The soak over one server."""

    def __init__(self, settings: Settings, server: str) -> None:
        self._settings, self._server = settings, server
        self._began = monotonic()
        self._is_terminal = sys.stdout.isatty()

    def play(self) -> int:
        """Play, judge, write down; also when it is interrupted."""
        settings, stopped = self._settings, ""
        with Scene(self._server, settings.seed, settings.node_timeout) as scene:
            self._tell(f"started {scene.servers!r}")
            course = Course(scene, settings.crew, settings.seed, self._tell)
            try:
                with self._progress(course):
                    course.play(self._windows(course))
            except (KeyboardInterrupt, SystemExit):
                stopped = "interrupted"
            except LocalClusterError as error:
                stopped = f"the servers have failed: {error}"
        return self._end(course, stopped)

    def _windows(self, course: Course) -> Iterator[Window]:
        settings = self._settings
        if settings.goal is not None:
            yield from volume_windows(settings.goal, settings.seed, course)
            return
        faults = [name for name in settings.faults if name != "atomic" or find_server(self._server).has_atomic_moves]
        seconds = settings.minutes * 60
        for window in plan_windows(settings.seed, seconds, faults, fault_seconds=settings.fault_seconds):
            # Each fault comes once, also where the servers are slow; nothing begins after the time is over.
            if window.number <= len(faults) or monotonic() - self._began < seconds:
                yield window

    def _end(self, course: Course, stopped: str) -> int:
        settings = self._settings
        seconds = monotonic() - self._began
        criteria = judge(Outcome(course.reports, course.meter.samples, course.complaints, seconds))
        if settings.goal is not None:
            criteria.append(reached(settings.goal, course))
        settings_told: dict[str, Any] = {
            "server": self._server,
            "seed": settings.seed,
            "greenlets": settings.crew.greenlets,
            "stopped": stopped,
        }
        written = ledger(course, criteria, settings_told, seconds)
        write(written, self._file(settings.json_file), self._file(settings.html_file))
        self._report(course, criteria)
        for line in in_short(written):
            _say(line)
        if stopped:
            _say(f"stopped: {stopped}")
            return _INTERRUPTED if stopped == "interrupted" else 1
        return 0 if course.reports and passed(criteria, timings=settings.timings) else 1

    def _report(self, course: Course, criteria: Sequence[Criterion]) -> None:
        """The fault log, what the checks have found, and the criteria."""
        for line in happened(course.reports):
            _say(line)
        for criterion in criteria:
            decides = self._settings.timings or not criterion.is_timing
            _say(f"{criterion}{'' if decides else ' (does not decide here)'}")

    def _file(self, path: Path | None) -> Path | None:
        if path is None or len(self._settings.servers) == 1:
            return path
        return path.with_stem(f"{path.stem}-{self._server}")

    @contextmanager
    def _progress(self, course: Course) -> Iterator[None]:
        showing = gevent.spawn(self._show, course)
        try:
            yield
        finally:
            showing.kill()
            if self._is_terminal:
                print("\r\x1b[K", end="", flush=True)

    def _show(self, course: Course) -> None:
        while True:
            course.desk.rest(1.0 if self._is_terminal else 10.0)
            book = course.desk.book
            done = sum(each.commands for each in course.reports)
            line = (
                f"{monotonic() - self._began:6.0f} s  {book.name}  {done + book.commands:,} commands,"
                f" {course.interrupted + book.interrupted:,} interrupted, {sum(book.errors.values()):,} errors now"
            )
            print(f"\r\x1b[K{line}", end="", flush=True) if self._is_terminal else _say(line)

    def _tell(self, text: str) -> None:
        lead = "\r\x1b[K" if self._is_terminal else ""
        _say(f"{lead}{monotonic() - self._began:6.0f} s  {self._server}: {text}")


def _say(line: str) -> None:
    print(line, flush=True)
