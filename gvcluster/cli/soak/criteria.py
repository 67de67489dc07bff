"""Whether a soak has passed: each criterion with what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gvcluster.cli.soak.book import EVERYWHERE, SILENT
from gvcluster.cli.soak.course import Report
from gvcluster.cli.soak.history import Fate
from gvcluster.cli.soak.plan import CALM, SORTS
from gvcluster.cli.soak.resources import Sample, slope

MET, NOT_MET, NOT_APPLICABLE = "met", "not met", "not applicable"
# A slope of the memory means something over so many seconds.
_LONG = 1800.0
_MIB = 2**20


# name, the checks, and what was counted
_CHECKS = (
    ("no reply to somebody else (C1)", "C1", "answers"),
    ("registers are linearizable in STRICT windows (C2)", "C2", "registers"),
    ("no increment twice; none lost in STRICT windows (C3)", "C3", "increments"),
    ("no token twice; order kept; none lost in STRICT windows (C4, C7)", "C4 C7", "tokens"),
    ("the wire had no command twice, and agrees with the servers (C5)", "C5", "overheard"),
    ("no money made or lost in transactions (C6)", "C6", "balances"),
)
# What calls meet that are not served in time, if only because the machine is too busy.
_OVERDUE = ("ReplyTimeout", "RetriesExhausted", "PoolTimeout", "ConnectFailed", "TransactionAborted", SILENT)
# What every soak has, also the one that only counts: one without has checked nothing.
_ALWAYS = ("answers", "increments", "tokens", "overheard")


@dataclass(frozen=True)
class Criterion:
    """One criterion and what became of it. `is_timing`: a busy machine alone can break it."""

    name: str
    measured: str
    verdict: str
    is_timing: bool = False

    def __str__(self) -> str:
        return f"{self.verdict:14} {self.name}: {self.measured}"


@dataclass(frozen=True)
class Outcome:
    """All that is judged."""

    reports: Sequence[Report]
    samples: Sequence[Sample]
    complaints: Sequence[str]
    seconds: float


def judge(outcome: Outcome) -> list[Criterion]:
    """Judge all criteria."""
    return [*_correctness(outcome), *_order(outcome), *_timings(outcome)]


def _correctness(outcome: Outcome) -> Iterator[Criterion]:
    reports = outcome.reports
    for name, which, counted in _CHECKS:
        yield _checked(reports, name, which, counted)
    stuck = sum(len(each.stuck) for each in reports)
    yield _of("no call is stuck", not stuck, f"{stuck} greenlets")


def _checked(reports: Sequence[Report], name: str, which: str, counted: str) -> Criterion:
    found = [told for each in reports for key in which.split() for told in _told(each, key)]
    if found:
        return Criterion(name, f"{len(found)} problems, {found[0]}", NOT_MET)
    of = sum(each.checked.get(counted, 0) for each in reports)
    return _of(name, bool(of), f"0 problems in {of:,} {counted}", bool(of) or counted in _ALWAYS)


def _told(report: Report, key: str) -> list[str]:
    return [f"window {report.number}, {report.fault}: {told}" for told in report.checks.get(key, [])]


def _order(outcome: Outcome) -> Iterator[Criterion]:
    reports = outcome.reports
    problems = [f"window {each.number}, {each.fault}: {each.problem}" for each in reports if each.problem]
    yield _none("every fault was played", problems, f"{len(reports)} windows")
    yield from _planned([each for each in reports if SORTS[each.fault].planned])
    leaks = [told for each in reports[-1:] for told in _told(each, "C8")]
    yield _none("files, greenlets, clients in the end as after the first window (C8)", leaks, "no difference")
    pools = [told for each in reports for told in _told(each, "pools")]
    yield _none("after each window nothing is lent, in flight or waited for (C8)", pools, "nothing")
    yield _none("no warning, no greenlet that died", list(outcome.complaints), "none")
    yield _in_doubt(reports)


def _in_doubt(reports: Sequence[Report]) -> Criterion:
    """Each connection that is said to have been lost with a write is one that has ended."""
    untrue = [f"window {each.number}, {each.fault}: {told}" for each in reports for told in each.unexplained]
    told = f"{sum(each.errors_of(Fate.DOUBTFUL) for each in reports):,} in doubt"
    return _none("ConnectionLost in doubt only at nodes whose connections ended", untrue, told)


def _planned(reports: Sequence[Report]) -> Iterator[Criterion]:
    """Nor may calm cost one; alone it shows nothing of the others. Where calls were late, nothing else is certain."""
    busy = [each for each in reports if any(map(_is_overdue, each.errors))]
    name = "planned failover and resharding cost no"
    yield _free_of_errors(f"{name} error", [each for each in reports if each not in busy])
    told = f"{len(busy)} of {len(reports)} windows, calm ones included, have timeouts"
    for each in busy[:1]:
        told = f"{told}, {each.fault}: {next(iter(each.first_errors.values()), '')}"
    yield _of(f"{name} timeout", not busy, told, bool(busy) or any(each.fault != CALM for each in reports), timing=True)


def _is_overdue(name: str) -> bool:
    """Whether an error, or each error of a call's parts, says that something was not done in time."""
    return set(name.removeprefix("PartialFailure of ").split(", ")).issubset(_OVERDUE)


def _free_of_errors(name: str, reports: Sequence[Report]) -> Criterion:
    failed = [each for each in reports if each.errors_of()]
    windows = [each for each in reports if each.fault != CALM]
    told = f"{sum(each.errors_of() for each in failed)} errors in {len(windows)} windows without timeouts, and in calm"
    for each in failed[:1]:
        told = f"{told}, in {each.fault}: {next(iter(each.first_errors.values()), '')}"
    return _of(name, not failed, told, bool(windows or failed))


def _timings(outcome: Outcome) -> Iterator[Criterion]:
    reports = outcome.reports
    late = max((each.overshoot - each.stall for each in reports), default=0.0)
    told = f"{late * 1000:.0f} ms beyond it" if late > 0 else "none"
    yield _of("no call later than its deadline + 50 ms + the hub's stall", late <= 0.05, told, timing=True)
    yield _healthy_shards(reports)
    longest = max(reports, key=lambda each: each.recovered, default=None)
    if longest is not None:
        told = f"at most {longest.recovered * 1000:.0f} ms, after {longest.fault}"
        yield _of("served within 500 ms when the servers agree", longest.recovered <= 0.5, told, timing=True)
    yield _memory(outcome)
    refreshes = sum(each.counts.get("refreshes", 0) for each in reports)
    rate = refreshes / 2 / max(1.0, outcome.seconds)
    yield _of("at most one slot map a second by each client, on average", rate <= 1, f"{rate:.2f}/s", timing=True)
    yield _all_down(reports)


def _healthy_shards(reports: Sequence[Report]) -> Criterion:
    """During a fault of one shard the others hardly notice."""
    name = "healthy shards: p99 at most 2 × quiet + 5 ms"
    of_one = [(each, of) for each in reports for of in each.latencies if of["shard"] != EVERYWHERE]
    quiet = max((of["p99"] for each, of in of_one if each.fault == CALM), default=0.0)
    hit = [(each, of) for each, of in of_one if SORTS[each.fault].one_shard]
    others = [(of["p99"], each.fault) for each, of in hit if of["shard"] not in each.victims]
    if not quiet or not others:
        return Criterion(name, "no quiet window, or no fault of one shard", NOT_APPLICABLE, is_timing=True)
    worst, where = max(others)
    return _of(name, worst <= 2 * quiet + 5, f"{worst:.1f} ms in {where}, {quiet:.1f} ms quiet", timing=True)


def _memory(outcome: Outcome) -> Criterion:
    name = "memory grows by at most 1 MiB/h in the last half"
    half = outcome.samples[len(outcome.samples) // 2 :]
    told = f"{slope(half) / _MIB:.1f} MiB/h over {len(half)} quiet moments"
    if outcome.seconds < _LONG:
        return Criterion(name, f"{told}: too short a run to say", NOT_APPLICABLE, is_timing=True)
    return _of(name, slope(half) <= _MIB, told, timing=True)


def _all_down(reports: Sequence[Report]) -> Criterion:
    """The soak's own work is in it: waiting greenlets, and the proxies of the second client in this process."""
    name = "at most 25 % of a core from 3 s after all nodes died"
    busy = [each.cpu_down for each in reports if each.fault == "all-down"]
    if not busy:
        return Criterion(name, "they never were", NOT_APPLICABLE, is_timing=True)
    return _of(name, max(busy) <= 0.25, f"{max(busy):.0%}, the load and the proxies included", timing=True)


def _of(name: str, is_met: bool, measured: str, applies: bool = True, *, timing: bool = False) -> Criterion:
    return Criterion(name, measured, NOT_APPLICABLE if not applies else MET if is_met else NOT_MET, timing)


def _none(name: str, problems: Sequence[str], otherwise: str) -> Criterion:
    return _of(name, not problems, f"{len(problems)}, {problems[0]}" if problems else otherwise)


def passed(criteria: Sequence[Criterion], *, timings: bool) -> bool:
    """Whether all that decide are met."""
    return all(each.verdict != NOT_MET for each in criteria if timings or not each.is_timing)
