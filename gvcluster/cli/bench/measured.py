"""What turns have shown, as values: one turn, all turns of a run, and the file they are kept in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# The layout of the file; another number is another layout.
FORMAT = 1
PERCENTILES = (("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9))


@dataclass(frozen=True)
class Measured:
    """What one turn of one client has shown.

    how: the client's version, and how it was set up. commands: answered within `seconds`, for which its process used
    `cpu` seconds. connections: of each node, at the end. latency, hub: percentiles in milliseconds, of calls and of how
    late a timer of the event loop came. figures: what is no rate, by its name. failed: so many of `greenlets` ended
    early; `error` is the first one's.
    """

    how: str
    commands: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    connections: list[int] = field(default_factory=list)
    latency: dict[str, float] = field(default_factory=dict)
    hub: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    greenlets: int = 0
    failed: int = 0
    error: str = ""

    @property
    def rate(self) -> float:
        """Commands per second."""
        return self.commands / self.seconds if self.seconds else 0.0

    @property
    def cost(self) -> float:
        """Microseconds of CPU time per command, in the client's process."""
        return self.cpu / max(1, self.commands) * 1e6

    @property
    def is_sound(self) -> bool:
        """Nothing failed, and something was measured."""
        return not self.error and bool(self.commands or self.figures)


@dataclass(frozen=True)
class Turn:
    """One client's turn at one case, in one round."""

    case: str
    client: str
    round: int
    measured: Measured


@dataclass(frozen=True)
class Results:
    """A whole run: where and how it was made, by names of its own, and every turn in the order of time."""

    about: dict[str, Any]
    turns: list[Turn]

    def of(self, case: str, client: str) -> dict[int, Measured]:
        """One client's turns at one case, by round."""
        return {turn.round: turn.measured for turn in self.turns if (turn.case, turn.client) == (case, client)}

    def clients_of(self, case: str) -> list[str]:
        """Who had a turn at the case, in the order of the run's list of clients."""
        met = {turn.client for turn in self.turns if turn.case == case}
        return [client for client in self.about["clients"] if client in met]

    def has(self, case: str) -> bool:
        """Whether anybody had a turn at it."""
        return any(turn.case == case for turn in self.turns)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The percentiles (nearest rank) and the largest, in milliseconds; nothing of nothing."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    found = {name: _rank(ordered, share) * 1000 for name, share in PERCENTILES}
    return {**found, "max": ordered[-1] * 1000}


def _rank(ordered: Sequence[float], share: float) -> float:
    # Rounded before it is rounded up: 99.9 % of 1,000 is the 999th, and 999.0000000001 would be another.
    place = -int(-round(len(ordered) * share / 100, 6) // 1)
    return ordered[max(0, min(len(ordered), place) - 1)]


def save(results: Results, file: Path) -> None:
    """Write a run as JSON.

    Raises:
        OSError: The file can not be written.
    """
    file.write_text(json.dumps({"format": FORMAT, **asdict(results)}, indent=1) + "\n")


def load(file: Path) -> Results:
    """Read what `save` wrote.

    Raises:
        OSError: The file can not be read.
        ValueError: It is no such file.
    """
    read = json.loads(file.read_text())
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise ValueError("it was not written by `gvcluster bench --json` of this version")
    try:
        turns = [Turn(**{**turn, "measured": Measured(**turn["measured"])}) for turn in read["turns"]]
        return Results(read["about"], turns)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is damaged: {error}") from error
