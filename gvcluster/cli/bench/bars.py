"""What must hold, as the project has set it: `gvcluster bench --check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from gvcluster.cli.bench.clients import BARE, GVCLUSTER
from gvcluster.cli.bench.figures import paired, readable
from gvcluster.cli.bench.measured import Measured, Results

_Limits = tuple[float, float]
# Stands for the connections of a turn that failed.
_FAILED = 1_000_000


@dataclass(frozen=True)
class Bar:
    """One thing that must hold.

    values: what each round has shown; the median counts. cases: what must have been measured for it. limits: of the
    pure Python client, and with the compiled path; the value is to be at least so large, or at most where `at_most`.
    """

    name: str
    cases: tuple[str, ...]
    values: Callable[[Results], list[float]]
    limits: _Limits
    unit: str = "×"
    at_most: bool = False


@dataclass(frozen=True)
class Verdict:
    """A bar and what was measured: None where nothing was, for the reason given."""

    bar: Bar
    limit: float
    value: float | None
    why: str = ""

    @property
    def met(self) -> bool:
        """Whether it holds. What was not measured does not."""
        if self.value is None:
            return False
        return self.value <= self.limit if self.bar.at_most else self.value >= self.limit

    @property
    def told(self) -> tuple[str, str, str, str]:
        """In words: the bar, what is asked for, what was measured, and the verdict."""
        sign, unit = "≤" if self.bar.at_most else "≥", self.bar.unit
        value = f"{self.why}" if self.value is None else f"{readable(self.value)} {unit}"
        verdict = "not measured" if self.value is None else "met" if self.met else "NOT met"
        return self.bar.name, f"{sign} {readable(self.limit)} {unit}", value, verdict


def judge(results: Results) -> list[Verdict]:
    """A verdict on each bar whose first case was part of the run."""
    compiled = bool(results.about.get("accelerated"))
    return [_judge(bar, results, compiled) for bar in BARS if results.has(bar.cases[0])]


def _judge(bar: Bar, results: Results, compiled: bool) -> Verdict:
    limit, values = bar.limits[compiled], bar.values(results)
    return Verdict(bar, limit, median(values) if values else None, "" if values else _why_none(bar, results))


def _why_none(bar: Bar, results: Results) -> str:
    missing = [case for case in bar.cases if not results.has(case)]
    if missing:
        return f"{missing[0]} was not part of the run"
    failed = [turn for turn in results.turns if turn.case in bar.cases and turn.measured.error]
    return f"{failed[0].client} failed" if failed else "a client is not installed, or was left out"


def _rate(turn: Measured) -> float:
    return turn.rate


def _times(case: str, peer: str, what: str, limits: _Limits) -> Bar:
    """How many times as fast as a peer."""
    return Bar(
        f"{what}, × {peer}",
        (case,),
        lambda results: paired(results, (case, GVCLUSTER), (case, peer), _rate),
        limits,
    )


def _best_of(case: str, peers: tuple[str, ...], what: str, limit: float) -> Bar:
    """How many times as fast as each of the peers: the smallest of the medians, as one value."""

    def values(results: Results) -> list[float]:
        ratios = [paired(results, (case, GVCLUSTER), (case, peer), _rate) for peer in peers]
        return [min(map(median, ratios))] if all(ratios) else []

    return Bar(what, (case,), values, (limit, limit))


def _own(case: str, other: str, what: str, limit: float) -> Bar:
    """Our own rate against our own rate elsewhere."""
    ours = (case, GVCLUSTER), (other, GVCLUSTER)
    return Bar(what, (case, other), lambda results: paired(results, *ours, _rate), (limit, limit))


def _one_connection(case: str, what: str) -> Bar:
    """The most connections that a node had, in any round; a failed round counts as many."""

    def values(results: Results) -> list[float]:
        turns = list(results.of(case, GVCLUSTER).values())
        most = [max(turn.connections, default=0) if turn.is_sound else _FAILED for turn in turns]
        return [float(max(most))] if most else []

    return Bar(what, (case,), values, (1.0, 1.0), "connection per node", at_most=True)


def _figure(case: str, name: str, what: str, limit: float, unit: str) -> Bar:
    """A figure of our own that is to stay small."""

    def values(results: Results) -> list[float]:
        turns = results.of(case, GVCLUSTER).values()
        return [turn.figures[name] for turn in turns if turn.is_sound and name in turn.figures]

    return Bar(what, (case,), values, (limit, limit), unit, at_most=True)


def _bars() -> Iterator[Bar]:
    for peer, limits in (("valkey-py", (10, 15)), ("redis-py", (25, 35)), ("valkey-glide-sync", (10, 15))):
        yield _times("calls/100", peer, "SET/GET, 100 greenlets", limits)
    for peer, small in (("valkey-py", (2.3, 2.5)), ("redis-py", (4.0, 4.5))):
        yield _times("calls/1", peer, "SET/GET, 1 greenlet", small)
    for greenlets, share in ((1000, 0.9), (10_000, 0.7)):
        what = f"SET/GET, {greenlets:,} greenlets"
        yield _own(f"calls/{greenlets}", "calls/100", f"{what}, × our rate at 100", share)
        yield _one_connection(f"calls/{greenlets}", f"{what}, no error and")
    for peer, limits in (("valkey-py", (5, 6)), ("redis-py", (10, 12))):
        yield _times("pipelines/100", peer, "pipelines of 100", limits)
    either = ("valkey-py", "redis-py")
    yield _best_of("keys/mget-1000", either, "mget of 1,000 keys, × the best way of valkey-py and redis-py", 5)
    yield _times("sizes/1MiB", BARE, "values of 1 MiB", (0.9, 0.9))
    yield Bar(
        "p99 at 5,000/s, × valkey-py's",
        ("pace/5000",),
        lambda results: paired(
            results, ("pace/5000", GVCLUSTER), ("pace/5000", "valkey-py"), lambda turn: turn.latency.get("p99")
        ),
        (0.5, 0.5),
        at_most=True,
    )
    yield _figure("maps/500-ranges", "longest turn ms", "map of 1,000 nodes and 500 ranges, in one turn", 15, "ms")
    yield _figure("maps/16384-ranges", "CPU in all ms", "map of 16,384 ranges, in all", 250, "ms")
    yield _figure("maps/16384-ranges", "longest turn ms", "map of 16,384 ranges, the longest turn", 15, "ms")
    yield _figure("memory/calls", "bytes beyond the greenlet", "a parked call, beyond its greenlet", 400, "B")
    yield _figure("import/cpu", "CPU ms", "import beyond gevent and hiredis", 30, "ms")


BARS = tuple(_bars())
