"""The course of a soak: window by window a fault under load, then a quiet moment in which everything is checked."""

from __future__ import annotations

import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import gevent

from gvcluster.cli.soak import faults
from gvcluster.cli.soak.book import Book
from gvcluster.cli.soak.crew import Crew, Working, shared
from gvcluster.cli.soak.desk import Desk
from gvcluster.cli.soak.history import Fate
from gvcluster.cli.soak.meter import Meter
from gvcluster.cli.soak.plan import LOSSY, STRICT, Window
from gvcluster.cli.soak.scene import Scene
from gvcluster.cli.soak.truth import Truth
from gvcluster.cli.soak.wire import lost_problems, truth_problems, wire_problems
from gvcluster.cli.soak.workers import CALL_TIMEOUT, LUA_APPEND, Banker
from gvcluster.core.address import Address

# A step has up to 3 calls, each of which may take all its time.
_PATIENCE = 3 * CALL_TIMEOUT + 5
# Whoever can not be reached for so long never will be: how soon it should be is a criterion of time.
_REACHED = 120.0
# What may still come after the last call has ended: a command that was in the kernel, seconds.
_SETTLE = 0.3
# To be served again takes milliseconds; what takes longer is in the log, seconds.
_LONG = 0.5
_COUNTS = ("commands", "redirects", "retries", "refreshes")


@dataclass
class Report:
    """One window, as the ledger has it. Times in seconds, latencies in milliseconds."""

    number: int
    fault: str
    phase: str
    at: float = 0.0
    seconds: float = 0.0
    commands: int = 0
    interrupted: int = 0
    errors: dict[str, dict[str, int]] = field(default_factory=dict)
    first_errors: dict[str, str] = field(default_factory=dict)
    latencies: list[dict[str, float]] = field(default_factory=list)
    victims: list[int] = field(default_factory=list)
    checks: dict[str, list[str]] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    opened: int = 0
    unexplained: list[str] = field(default_factory=list)
    recovered: float = 0.0
    overshoot: float = 0.0
    stall: float = 0.0
    cpu: float = 0.0
    cpu_down: float = 0.0
    stuck: list[int] = field(default_factory=list)
    problem: str = ""
    log: list[tuple[float, str]] = field(default_factory=list)

    def errors_of(self, fate: Fate | None = None) -> int:
        """How many calls failed, or failed with this fate."""
        return sum(times for by in self.errors.values() for name, times in by.items() if fate in (None, Fate(name)))


class Course:
    """Plays the windows.

    Args:
        scene: What it is played with, started.
        crew: Who works.
        tell: Says a line.

    Attributes:
        reports: Of the windows that are over.
        complaints: What the interpreter and the hub complained about: unclosed sockets, greenlets that died.
    """

    def __init__(self, scene: Scene, crew: Crew, seed: int, tell: Callable[[str], None]) -> None:
        self.scene, self.desk = scene, Desk()
        self.meter = Meter(scene, self.desk)
        self.reports: list[Report] = []
        self.complaints: list[str] = []
        self.interrupted = 0
        self._tell = tell
        clients = [line.cluster for line in scene.lines]
        self._workers: Sequence[Working] = list(crew.hire(scene.places, clients, seed))
        self._crew, self._seed = crew, seed
        self._working: dict[int, gevent.Greenlet[..., Any]] = {}

    def __repr__(self) -> str:
        return f"<Course of {len(self.reports)} windows, {self.desk!r}>"

    def play(self, windows: Iterator[Window]) -> None:
        """Play windows until there are no more. What is under way at an interruption is not in the reports.

        Blocks: until then.
        """
        working = self._crew.spawn(self._workers, self.desk, self._seed)
        self._working = {worker.who: greenlet for worker, greenlet in zip(self._workers, working, strict=True)}
        beside = [gevent.spawn(self.meter.run), gevent.spawn(self.meter.pulse)]
        try:
            with listening(self.complaints):
                for window in windows:
                    self._play(window)
                self.desk.end()
                gevent.joinall(working, timeout=_PATIENCE)
        finally:
            gevent.killall([*working, *beside])

    def _play(self, window: Window) -> None:
        book = Book(f"w{window.number}", strict=window.sort.phase == STRICT, is_rough=not window.sort.planned)
        report = Report(window.number, window.fault, window.sort.phase, at=monotonic() - self.meter.began)
        with Truth(self.scene) as truth:
            truth.prepare(book, shared(self.scene.places, Banker))
        # Else two clients meet what the last window has flushed: where one has loaded the script again, the other is
        # not told whether its own call has run (docs/decisions/0008-scripts.md).
        self.scene.everywhere("SCRIPT", "LOAD", LUA_APPEND)
        primaries = self.scene.failed_over()
        self.scene.recorder.clear()
        self._tell(f"window {window.number}: {window.fault} ({window.sort.phase}), {window.seconds:.0f} s")
        self._under_load(window, book, report)
        if not window.sort.planned and self.scene.failed_over() != primaries and book.strict:
            book.strict, report.phase = False, LOSSY
            report.log.append((monotonic() - self.meter.began, "the servers have failed over by themselves"))
        self._check(book, report, keeps=window.fault != "all-down")
        self._write_down(book, report)

    def _under_load(self, window: Window, book: Book, report: Report) -> None:
        """The fault, and what it takes until all is well."""

        def tell(text: str) -> None:
            report.log.append((round(monotonic() - self.meter.began, 2), text))

        counts, opened, cpu, began = self._counts(), self._opened(), process_time(), monotonic()
        ended = self._ended()
        act = faults.Act(self.scene, random.Random(window.seed), began + window.seconds, tell, set(), self.desk)
        self.desk.open(book)
        report.problem = faults.play(window.fault, act)
        report.cpu = (process_time() - cpu) / max(0.001, monotonic() - began)
        self.scene.heal()
        self._see_it_serve(report, tell)
        report.stuck = self.desk.close(_PATIENCE)
        for who in report.stuck:
            tell(f"greenlet {who} is stuck: {self._where(who)}")
        report.seconds = monotonic() - began
        report.victims, report.cpu_down = sorted(act.victims), act.cpu_down
        report.counts = dict(Counter(self._counts()) - Counter(counts))
        report.opened = self._opened() - opened
        report.unexplained = lost_problems(book.lost, self._ended() - ended)

    def _see_it_serve(self, report: Report, tell: Callable[[str], None]) -> None:
        """The servers agree: each client must reach each shard again soon."""
        for where, took in self.scene.serving_again(_REACHED):
            report.recovered += took
            if took > _LONG:
                tell(f"the {where} was served after {took:.2f} s")
            if took >= _REACHED:
                report.problem = report.problem or f"the {where} was not served within {took:.0f} s"

    def _check(self, book: Book, report: Report, *, keeps: bool) -> None:
        """Compare what the greenlets wrote down with what the servers have, and the wire had."""
        gevent.sleep(_SETTLE)
        if not keeps:
            book.accounts.clear()
        kept = {kind: dict(getattr(book, kind)) for kind in ("counters", "lists", "queues")}
        recorder = self.scene.recorder
        with Truth(self.scene) as truth:
            report.checks = dict(book.problems(truth.read))
            here, elsewhere = book.asked()
            executed = self._executed(truth, kept, here, elsewhere)
            truth.forget()
        report.checks["C5"] = [
            *wire_problems(here, recorder.sent, recorder.refused),
            *truth_problems(executed, recorder.forwarded, recorder.refused),
        ]
        report.checks |= self.meter.leaks()
        report.checked = {
            "answers": book.answers,
            "increments": sum(map(len, kept["counters"].values())),
            "tokens": sum(map(len, kept["lists"].values())) + sum(map(len, kept["queues"].values())),
            "registers": sum(map(len, book.registers.values())) if book.strict else 0,
            "balances": sum(map(len, book.accounts.values())),
            "overheard": recorder.sent.total(),
        }

    @staticmethod
    def _executed(
        truth: Truth, kept: dict[str, Any], here: Counter[bytes], elsewhere: Counter[bytes]
    ) -> Counter[bytes]:
        """What the servers have executed of what went over the wire of the oracle, at least."""
        executed: Counter[bytes] = Counter()
        for key in kept["counters"]:
            token = key.encode()
            executed[token] = max(0, truth.read("count", key) - elsewhere[token])
        for key in kept["lists"]:
            executed.update(token for token in truth.read("list", key) if token in here)
        return executed

    def _write_down(self, book: Book, report: Report) -> None:
        for (name, fate), times in sorted(book.errors.items(), key=str):
            report.errors.setdefault(name, {})[fate.value] = times
        report.first_errors = book.first_errors
        report.commands, report.interrupted = book.commands, book.interrupted
        report.overshoot, report.stall = book.overshoot, book.stall
        self.interrupted += book.interrupted
        for shard in sorted(book.latencies):
            of = book.latencies[shard]
            figures = {f"p{percent}": of.percentile(percent) * 1000 for percent in (50, 99, 100)}
            report.latencies.append({"shard": shard, "calls": of.count, **figures})
        self.reports.append(report)

    def _where(self, who: int) -> str:
        """Where a greenlet waits, the innermost place first."""
        frames = traceback.extract_stack(self._working[who].gr_frame)
        return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))

    def _counts(self) -> dict[str, int]:
        every = [line.cluster.statistics() for line in self.scene.lines]
        return {name: sum(getattr(statistics, name) for statistics in every) for name in _COUNTS}

    def _ended(self) -> Counter[Address]:
        return sum((line.lost for line in self.scene.lines), Counter[Address]())

    def _opened(self) -> int:
        return sum(line.opened for line in self.scene.lines)


@contextmanager
def listening(complaints: list[str]) -> Iterator[None]:
    """Collect what Python and gevent print: ResourceWarnings, errors that nobody can raise, greenlets that died."""
    hub = gevent.get_hub()
    handle_error, unraisable = hub.handle_error, sys.unraisablehook

    def note(context: Any, kind: Any, value: Any, tb: Any) -> None:
        if not issubclass(kind, hub.NOT_ERROR):
            complaints.append(f"{context!r}: {kind.__name__}: {value}")
        handle_error(context, kind, value, tb)

    def note_unraisable(told: Any) -> None:
        complaints.append(f"{told.object!r}: {told.exc_value!r}")
        unraisable(told)

    def show(message: Any, category: Any, *_: Any) -> None:
        complaints.append(f"{category.__name__}: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        hub.handle_error, sys.unraisablehook = note, note_unraisable  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            hub.handle_error, sys.unraisablehook = handle_error, unraisable  # type: ignore[method-assign]
