"""The end of a demo: what the table says, and whether all is well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gvcluster.cli.load import Load
from gvcluster.cli.shards import Shard
from gvcluster.cli.tally import Tally
from gvcluster.core.address import Address

PRAISE = (
    "All is well: no wrong reply; no error while anything planned went on; and no other error but those of writes "
    "that may have run."
)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    value: str
    unit: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Outcome:
    """What is known when all is over. Times are in seconds; None: it did not happen.

    stuck: greenlets that have not ended.
    """

    victim: Shard | None
    seconds: float
    servers_took: float | None
    client_took: float | None
    stuck: int


def objections(load: Load, outcome: Outcome) -> Iterator[str]:
    """Why the demo has failed, one line each."""
    tally = load.tally
    yield from _wrong_replies(tally)
    if tally.bad:
        yield f"{tally.bad:,} errors that are not those of ambiguous writes, such as: {tally.bad_errors[0]}"
    if load.failure is not None:
        yield _death(load.failure)
    elif outcome.victim is None:
        yield "no primary was killed"
    elif outcome.servers_took is None:
        yield f"the servers have promoted nobody for shard {outcome.victim.number}"
    elif outcome.client_took is None:
        yield f"shard {outcome.victim.number} is not back, though its replica has been promoted"
    yield from _broken_plans(tally)
    yield from _stuck(outcome.stuck)


def guest_objections(load: Load, stuck: int) -> Iterator[str]:
    """What went wrong on somebody's cluster, one line each."""
    yield from _wrong_replies(load.tally)
    if load.failure is not None:
        yield _death(load.failure)
    for phase in load.tally.phases:
        if phase.errors:
            yield f"{phase.errors:,} errors, such as: {phase.first_error}"
    yield from _stuck(stuck)


def _wrong_replies(tally: Tally) -> Iterator[str]:
    if tally.wrong:
        yield f"{tally.wrong:,} wrong replies, such as: {tally.wrong_replies[0]}"


def _death(failure: BaseException) -> str:
    return f"a greenlet died of {type(failure).__name__}: {failure}; the traceback is on standard error"


def _stuck(greenlets: int) -> Iterator[str]:
    if greenlets:
        yield f"{greenlets:,} greenlets are stuck in a call"


def _broken_plans(tally: Tally) -> Iterator[str]:
    for phase in tally.phases:
        if phase.problem:
            yield f"{phase.name}: the servers have not done it: {phase.problem}"
        elif phase.is_planned and phase.errors:
            yield f"{phase.name}: {phase.errors:,} errors, such as: {phase.first_error}"


def phases(tally: Tally) -> Iterator[tuple[str, ...]]:
    """The table of the course, its heading first."""
    yield "", "took", "commands", "errors", "redirects", "p99 ms", "slowest ms"
    for phase in tally.phases:
        slow = (_milliseconds(phase.latencies.percentile(percent)) for percent in (99, 100))
        took = "" if phase.took is None else f"{phase.took:.2f} s"
        yield phase.name, took, f"{phase.commands:,}", f"{phase.errors:,}", f"{phase.redirects:,}", *slow


def rows(load: Load, outcome: Outcome) -> Iterator[Row]:
    """The table."""
    yield from _speed(load, outcome.seconds, "a call that waited for the failover" if outcome.client_took else "")
    yield _service("servers", outcome.servers_took, "raw probe: kill to accepted write")
    yield _service("gvcluster", outcome.client_took, "our calls: kill to first reply")
    yield from _counts(load)
    yield from _connections(load)
    yield from _errors(load)
    yield Row("writes lost by the servers", f"{load.tally.lost:,}", "", "acknowledged, but not replicated")
    yield Row("wrong replies", f"{load.tally.wrong:,}")


def guest_rows(load: Load, seconds: float) -> Iterator[Row]:
    """The table of what was seen of somebody's cluster."""
    yield from _speed(load, seconds, "")
    yield from _counts(load)
    known = {node.address for node in load.cluster.primaries()}
    for node in load.cluster.statistics().nodes:
        part = "primary" if node.address in known else "replica, or gone"
        remark = f"commands, over {node.opened:,} connections; {part}"
        yield Row(f"node {node.address}", f"{node.commands:,}", "", remark)
    yield from _errors(load)
    if load.tally.lost:
        yield Row("writes lost by the servers", f"{load.tally.lost:,}", "", "acknowledged, but not replicated")
    yield Row("wrong replies", f"{load.tally.wrong:,}")


def _counts(load: Load) -> Iterator[Row]:
    statistics = load.cluster.statistics()
    yield Row("redirects followed", f"{statistics.redirects:,}")
    yield Row("retries", f"{statistics.retries:,}", "", "of reads, and of what had not run")
    yield Row("refreshes", f"{statistics.refreshes:,}", "", "of the slot map")


def _speed(load: Load, seconds: float, waited: str) -> Iterator[Row]:
    tally = load.tally
    took, meanwhile = tally.latencies, tally.meanwhile
    yield Row("commands", f"{tally.commands:,}", "", f"by {load.plan.greenlets:,} greenlets")
    yield Row("commands/s", f"{tally.commands / seconds:,.0f}", "/s", "on average, outages included")
    yield Row("latency p50", _milliseconds(took.percentile(50)), "ms")
    yield Row("latency p99", _milliseconds(took.percentile(99)), "ms")
    yield Row("latency max", _milliseconds(took.percentile(100)), "ms", waited)
    if meanwhile.count:
        remark = "while one was down: for a moment the servers refuse all"
        yield Row("other shards p99", _milliseconds(meanwhile.percentile(99)), "ms", remark)
        yield Row("other shards max", _milliseconds(meanwhile.percentile(100)), "ms", remark)


def _service(whose: str, seconds: float | None, remark: str) -> Row:
    value, unit = ("for ever", "") if seconds is None else (f"{seconds:.2f}", "s")
    return Row(f"without service, {whose}", value, unit, remark)


def _connections(load: Load) -> Iterator[Row]:
    now = {node.address: node.connections for node in load.cluster.statistics().nodes}
    for address in sorted({*load.opened, *now}, key=lambda address: _part(load, address)):
        opened = f"{load.opened[address]:,} / {now.get(address, 0):,}"
        yield Row(f"connections {address}", opened, "", f"opened / now; {_part(load, address)[1]}")


def _part(load: Load, address: Address) -> tuple[int, str]:
    """The number of a node's shard, or a higher one, and its part in the story."""
    for shard in load.shards:
        if address == shard.killed:
            return shard.number, f"shard {shard.number}, killed"
        if address == shard.handed_over:
            return shard.number, f"shard {shard.number}, has handed over"
        if address == shard.primary:
            return shard.number, f"shard {shard.number}" + (", promoted" if shard.killed else "")
    return len(load.shards) + 1, "gave slot maps"


def _errors(load: Load) -> Iterator[Row]:
    if not load.tally.errors:
        yield Row("errors", "0")
    for name, kind in sorted(load.tally.errors.items()):
        yield Row(f"errors {name}", f"{kind.count:,}", "", f"{kind.ambiguous:,} ambiguous: may have run")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.2f}"
