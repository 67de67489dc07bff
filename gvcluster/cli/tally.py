"""Counts of a demo run: commands, latencies, errors, wrong replies."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from gvcluster.errors import GvClusterError, ReplyError

# Latencies are counted in steps of 10 µs: exact enough, and the memory does not grow with the run.
_STEPS = 100_000
# How many wrong replies and bad errors are kept to be shown.
_KEPT = 5


class Latencies:
    """How long calls took, in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self._by_step: defaultdict[int, int] = defaultdict(int)

    def __repr__(self) -> str:
        return f"<Latencies of {self.count} calls, p99 {self.percentile(99):.4f} s>"

    def add(self, seconds: float) -> None:
        """Note one call."""
        self.count += 1
        self._by_step[int(seconds * _STEPS)] += 1

    def percentile(self, percent: float) -> float:
        """The time within which so many percent of the calls were over; 100 is the longest, 0.0 if there were none."""
        left = self.count * percent / 100
        for step in sorted(self._by_step):
            left -= self._by_step[step]
            if left <= 0:
                return (step + 1) / _STEPS
        return 0.0


@dataclass
class Kind:
    """Errors of one type: how many, and how many of them were writes that may have run."""

    count: int = 0
    ambiguous: int = 0


class Phase:
    """A part of the demo's course: what became of the calls that ended in it.

    Attributes:
        name: What happened, in a few words.
        is_planned: Whether it is something that an administrator orders, which promises that no call fails.
        took: Seconds that the event itself has taken; None if it is not over, or is no event.
        redirects: How many were followed meanwhile.
        errors: How many calls failed; `first_error` is the first, in words.
        problem: Why the event did not happen, if it did not.
    """

    def __init__(self, name: str, *, is_planned: bool = False) -> None:
        self.name, self.is_planned = name, is_planned
        self.took: float | None = None
        self.redirects = self.errors = 0
        self.first_error = self.problem = ""
        self.latencies = Latencies()

    def __repr__(self) -> str:
        return f"<Phase {self.name}: {self.latencies.count} calls, {self.errors} errors>"

    @property
    def commands(self) -> int:
        """How many were executed, those that failed included."""
        return self.latencies.count


class Tally:
    """What the workers have met so far.

    Attributes:
        latencies: Of all calls.
        meanwhile: Of the calls to the other shards while one was without service.
        is_one_out: Whether one is.
        phases: Of the course; the last one is under way.
        errors: By kind.
        wrong: How many replies no correct client could have returned.
        lost: Acknowledged writes that a failover has lost.
        wrong_replies, bad_errors: The first few, in words. A bad error is any but that of an ambiguous write.
    """

    def __init__(self) -> None:
        self.latencies, self.meanwhile = Latencies(), Latencies()
        self.is_one_out = False
        self.phases = [Phase("calm")]
        self.errors: defaultdict[str, Kind] = defaultdict(Kind)
        self.bad = self.wrong = self.lost = 0
        self.wrong_replies: list[str] = []
        self.bad_errors: list[str] = []

    def __repr__(self) -> str:
        return f"<Tally {self.commands} commands, {self.failed} failed, {self.wrong} wrong replies>"

    @property
    def commands(self) -> int:
        """How many were executed, those that failed included."""
        return self.latencies.count

    @property
    def failed(self) -> int:
        """How many ended with an error."""
        return sum(kind.count for kind in self.errors.values())

    def begin(self, phase: Phase) -> None:
        """Calls that end from now on belong to another phase."""
        self.phases.append(phase)

    def took(self, seconds: float, *, hit: bool) -> None:
        """Note how long a call took; `hit`: it went to the shard whose primary was killed."""
        self.latencies.add(seconds)
        self.phases[-1].latencies.add(seconds)
        if self.is_one_out and not hit:
            self.meanwhile.add(seconds)

    def fail(self, command: str, error: GvClusterError, *, read: bool) -> None:
        """Note an error."""
        name = type(error).__name__
        kind = self.errors[f"{name} {error.code}" if isinstance(error, ReplyError) else name]
        kind.count += 1
        phase = self.phases[-1]
        phase.errors += 1
        phase.first_error = phase.first_error or f"{command}: {name}: {error}"
        if error.maybe_executed and not read:
            kind.ambiguous += 1
            return
        self.bad += 1
        if len(self.bad_errors) < _KEPT:
            self.bad_errors.append(f"{command}: {name}: {error}")

    def judge(self, command: tuple[object, ...], reply: object, lost: int | None, known: object) -> None:
        """Note the verdict on a reply: how many lost writes it shows; None if it is wrong, by what was known."""
        if lost is not None:
            self.lost += lost
            return
        self.wrong += 1
        if len(self.wrong_replies) < _KEPT:
            self.wrong_replies.append(f"{' '.join(map(str, command))} was answered {reply!r}; known is {known!r}")
