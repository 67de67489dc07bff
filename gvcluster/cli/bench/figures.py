"""The arithmetic: what many turns say together. Machines are noisy, so what counts is paired.

In each round every client has its turn with the machine to itself, and gvcluster's result is compared with the peer's
of the same round. A turn that failed gives no ratio, nor does one whose partner did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from gvcluster.cli.bench.clients import GVCLUSTER
from gvcluster.cli.bench.measured import Measured, Results


@dataclass(frozen=True)
class Row:
    """One client at one case, over all rounds.

    faster, cheaper: gvcluster's gain over it in each round, in commands per second and in CPU time per command.
    latency, figures: lists of what each round has shown, by name. failed: of `rounds` turns; `error` is that of the
    worst, in which `broken` of `greenlets` ended early.
    """

    client: str
    how: str
    rates: list[float]
    costs: list[float]
    connections: list[int]
    faster: list[float]
    cheaper: list[float]
    latency: dict[str, list[float]] = field(default_factory=dict)
    hub: dict[str, list[float]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)
    rounds: int = 0
    failed: int = 0
    broken: int = 0
    greenlets: int = 0
    error: str = ""


def summarize(results: Results, case: str, client: str) -> Row:
    """One line of a table. Turns that failed are shown only if none went well."""
    turns = list(results.of(case, client).values())
    sound = [turn for turn in turns if turn.is_sound]
    shown = sound or turns
    worst = max(turns, key=lambda turn: (bool(turn.error), turn.failed))
    ours, theirs = (case, GVCLUSTER), (case, client)
    return Row(
        client,
        shown[-1].how,
        [turn.rate for turn in shown],
        [turn.cost for turn in shown if turn.cpu],
        shown[-1].connections,
        _unless_same(results, ours, theirs, lambda turn: turn.rate),
        _unless_same(results, theirs, ours, lambda turn: turn.cost),
        _by_name([turn.latency for turn in shown]),
        _by_name([turn.hub for turn in shown]),
        _by_name([turn.figures for turn in shown]),
        len(turns),
        len(turns) - len(sound),
        worst.failed,
        worst.greenlets,
        worst.error,
    )


def _unless_same(
    results: Results, above: tuple[str, str], below: tuple[str, str], value: Callable[[Measured], float]
) -> list[float]:
    return [] if above == below else paired(results, above, below, value)


def _by_name(found: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for each in found for name in each)
    return {name: [each[name] for each in found if name in each] for name in names}


def paired(
    results: Results, above: tuple[str, str], below: tuple[str, str], value: Callable[[Measured], float | None]
) -> list[float]:
    """One value divided by another of the same round, for each round in which both went well.

    Args:
        results: The run.
        above: Case and client of what is divided.
        below: Case and client of what it is divided by.
        value: What of a turn. None and 0 give no ratio.
    """
    dividends, divisors = results.of(*above), results.of(*below)
    ratios = []
    for number in sorted(dividends.keys() & divisors.keys()):
        pair = dividends[number], divisors[number]
        values = [value(turn) for turn in pair if turn.is_sound]
        if len(values) == 2 and values[0] and values[1]:
            ratios.append(values[0] / values[1])
    return ratios


def spread(values: Sequence[float], text: Callable[[float], str], *, middle_only: bool = False) -> str:
    """The median, with the smallest and the largest; a dash for nothing."""
    if not values:
        return "–"
    if middle_only or len(values) == 1:
        return text(median(values))
    return f"{text(median(values))} ({text(min(values))}–{text(max(values))})"


def readable(value: float) -> str:
    """A figure with as many digits as say something."""
    for least, form in ((1000, ",.0f"), (100, ".0f"), (10, ".1f"), (0.1, ".2f")):
        if abs(value) >= least:
            return format(value, form)
    return format(value, ".3f") if value else "0"


def per_node(connections: Sequence[int]) -> str:
    """Connections of each node, shortened where all have as many, or there are many nodes."""
    if not connections:
        return "–"
    least, most = min(connections), max(connections)
    if least == most:
        return str(least)
    return " ".join(map(str, connections)) if len(connections) <= 3 else f"{least}–{most}"
