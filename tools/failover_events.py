"""What `tools/failover_figures.py` measures: a primary that dies or stands still, and what an administrator plans."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from pathlib import Path
from time import monotonic
from typing import IO, cast

import gevent
from failover_load import Crowd, Load
from gevent import subprocess

from gvcluster import Address
from gvcluster.testing import LocalCluster, Node

PROBE = Path(__file__).with_name("failover_probe.py")
COMMAND_TIMEOUT = 1.0
# How long a failover may take before the tool gives up, seconds.
PATIENCE = 30.0
# Writes that are sent to a primary that stands still already; and as many reads.
STUCK = 50


@dataclass(frozen=True)
class Times:
    """How much of it: seconds without an event before each, and how many slots are moved at once."""

    quiet: float
    slots: int


@dataclass(frozen=True)
class Run:
    """One event. Times are in seconds; None where they make no sense.

    took: from the event to the first reply, or until it was over. late, down, over: `failover_figures.py` says.
    others, control: p99.9. slowest: the longest call. failed: how many calls did, `unsure` of them say
    maybe_executed. redirects: followed. problem: what must not be, in words.
    """

    event: str
    took: float
    others: float
    control: float
    slowest: float
    failed: int
    unsure: int
    redirects: int
    problem: str
    late: float | None = None
    down: float | None = None
    over: float | None = None


@dataclass(frozen=True)
class Seen:
    """What `failover_probe.py` says of a failover."""

    promoted: float
    refused: float
    asked: list[tuple[float, float]]

    def raw(self, since: float, until: float) -> float:
        """The p99 of the time that one raw question took meanwhile, seconds."""
        return percentile([took for began, took in self.asked if since <= began < until], 99)


# -- a primary that is gone -------------------------------------------------------------------------------------------


def lose_primary(servers: LocalCluster, times: Times, freeze: bool, number: int) -> Run:
    """Kill or freeze the primary of one shard under load, and bring it back."""
    primary = servers.primaries()[number % 3]
    (replica,) = servers.replicas_of(primary)
    with Load(servers.seeds, COMMAND_TIMEOUT) as load, _probe(replica, primary, load) as seen:
        gevent.sleep(times.quiet)
        load.expect_losses(primary.address)
        at = monotonic()
        if freeze:
            servers.pause(primary)
            load.crowd(primary.address, STUCK)
        else:
            servers.kill(primary)
        told = seen()
        back = _wait_until_back(load, primary, at)
        run = Run(
            "freeze" if freeze else "kill",
            back - at,
            percentile(load.latencies(at, back, primary.address), 99.9),
            percentile(load.latencies(at - (back - at), at, primary.address), 99.9),
            max(load.latencies(at - 0.1, monotonic())),
            len(load.failures()),
            sum(failure.error.maybe_executed for failure in load.failures()),
            load.cluster.statistics().redirects,
            _problem(load, may_fail=True),
            back - told.promoted,
            told.refused,
            _exceeded(load, at) if freeze else None,
        )
    if freeze:
        servers.resume(primary)
    else:
        servers.restart(primary)
    servers.wait_until_agreed(60.0)
    return run


def _wait_until_back(load: Load, primary: Node, at: float) -> float:
    """When the shard has answered again. Replies that were on their way at its death come within milliseconds."""
    calls, deadline = load.calls[primary.address], monotonic() + PATIENCE
    while (back := calls.first_after(at + 0.5)) > deadline and monotonic() < deadline:
        gevent.sleep(0.02)
    gevent.sleep(1.0)
    return back


def _exceeded(load: Load, at: float) -> float:
    """By how much the longest write that was sent to the frozen primary exceeded its time."""
    sent = [each for each in load.failures() if each.command == "INCR" and each.began < at + COMMAND_TIMEOUT / 2]
    return max((each.ended - each.began for each in sent), default=nan) - COMMAND_TIMEOUT


@contextmanager
def _probe(replica: Node, primary: Node, load: Load) -> Iterator[Callable[[], Seen]]:
    """Ask the replica and another primary meanwhile. Yields what waits for the end, and returns what was seen."""
    other = next(address for address in load.workers if address != primary.address)
    keys = [f"{load.workers[address][0].key}:probe" for address in (primary.address, other)]
    asked = (*replica.address, keys[0], *other, keys[1])
    with subprocess.Popen([sys.executable, str(PROBE), *map(str, asked)], stdout=subprocess.PIPE, text=True) as process:
        told = cast("IO[str]", process.stdout)
        try:
            assert told.readline() == "ready\n"
            yield lambda: Seen(**json.loads(told.readline()))
        finally:
            process.kill()


# -- what is planned --------------------------------------------------------------------------------------------------


def fail_over(servers: LocalCluster, times: Times, number: int) -> Run:
    """Let a replica and its primary change places."""
    primary = servers.primaries()[number % 3]
    with Load(servers.seeds, COMMAND_TIMEOUT) as load:
        run = _planned(load, times, "planned failover", lambda: servers.failover(primary), but=primary.address)
    servers.wait_until_agreed(60.0)
    return run


def move(servers: LocalCluster, times: Times, atomically: bool, number: int) -> Run:
    """Move slots to another shard, and back."""
    primaries = servers.primaries()
    source, target = primaries[number % 3], primaries[(number + 1) % 3]
    first, last = max(source.view().me.slots, key=lambda span: span[1] - span[0])
    slots = range(first, min(last + 1, first + times.slots))

    def there_and_back() -> None:
        for to in (target, source):
            if atomically:
                servers.move_slots_atomically(slots[0], slots[-1], to)
            else:
                servers.move_slots(slots, to)

    with Load(servers.seeds, COMMAND_TIMEOUT, Crowd(source.address, slots)) as load:
        run = _planned(
            load, times, f"{times.slots} slots {'atomically' if atomically else 'key by key'}", there_and_back
        )
    servers.wait_until_agreed(60.0)
    return run


def _planned(load: Load, times: Times, event: str, act: Callable[[], object], but: Address | None = None) -> Run:
    """Do it under load. `but`: the shard whose calls do not count as the others'."""
    gevent.sleep(times.quiet)
    at = monotonic()
    act()
    took = monotonic() - at
    after = min(1.0, times.quiet)
    gevent.sleep(after)
    looked_at = max(took, after)
    return Run(
        event,
        took,
        percentile(load.latencies(at, at + looked_at, but), 99.9),
        percentile(load.latencies(at - looked_at, at, but), 99.9),
        max(load.latencies(at, at + looked_at), default=nan),
        len(load.failures()),
        sum(failure.error.maybe_executed for failure in load.failures()),
        load.cluster.statistics().redirects,
        _problem(load, may_fail=False),
    )


def _problem(load: Load, *, may_fail: bool) -> str:
    """The first thing that must not be, in words."""
    broken = load.wrong()
    for failure in load.failures():
        is_honest = failure.command == "INCR" and failure.error.maybe_executed
        if not (may_fail and is_honest):
            broken.append(f"{failure.command}: {type(failure.error).__name__}: {failure.error}")
    return broken[0] if broken else ""


def percentile(values: list[float], percent: float) -> float:
    """The value within which so many percent are; nan if there are none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))] if ranked else nan
