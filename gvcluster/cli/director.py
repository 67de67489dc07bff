"""The demo's course: a cluster, many greenlets, the death of a primary, and what the greenlets notice of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import gevent

from gvcluster._version import __version__
from gvcluster.cli.load import CALL_TIMEOUT, Load, Plan
from gvcluster.cli.meter import Meter
from gvcluster.cli.probe import Probe
from gvcluster.cli.screen import Screen, open_screen
from gvcluster.cli.shards import Shard
from gvcluster.cli.summary import Outcome, objections, rows
from gvcluster.testing import LocalCluster

__all__ = ["Plan", "run"]

NODE_TIMEOUT = 2.0
# Seconds that the servers and the client get for a failover; 3 to 4 are normal.
_PATIENCE = 20.0
# Seconds within which the client notices that a connection has ended.
_NOTICE = 1.0
# Seconds that the load goes on at least when the shard is back: how it goes on is part of the story.
_AFTERMATH = 2.0


def run(plan: Plan, *, plain: bool) -> int:
    """Play the demo.

    Args:
        plan: What to do.
        plain: Lines instead of a picture, also on a terminal.

    Returns:
        The exit code: 0, or 1 if something is wrong, which is printed.

    Raises:
        KeyboardInterrupt: Ctrl-C. The servers are gone.

    Blocks: until it is over: the plan's seconds, and about 3 s to start the servers.
    """
    screen = open_screen(plan.seconds, plain=plain)
    screen.title(
        f"gvcluster {__version__} demo",
        f"{plan.server}, 3 + 3 nodes, {plan.greenlets:,} greenlets, seed {plan.seed}",
    )
    with _signals_to_this_greenlet():
        began = monotonic()
        with LocalCluster(plan.server, node_timeout=NODE_TIMEOUT) as servers:
            screen.tell(
                f"started 3 primaries and 3 replicas in {monotonic() - began:.1f} s; node timeout {NODE_TIMEOUT:g} s"
            )
            with Load(plan, servers.seeds, screen.tell) as load:
                _introduce(plan, screen)
                return _Demo(plan, screen, servers, load).play()


def _introduce(plan: Plan, screen: Screen) -> None:
    screen.tell(f"{plan.greenlets:,} greenlets read and write, each its own keys, and check every reply")
    screen.tell(
        f"paced: about {plan.rest * 1000:.0f} ms of rest between two steps; "
        f"client and servers share {os.cpu_count()} cores"
    )


class _Demo:
    def __init__(self, plan: Plan, screen: Screen, servers: LocalCluster, load: Load) -> None:
        self.plan, self.screen, self.servers, self.load = plan, screen, servers, load
        self.began = monotonic()
        self.victim: Shard | None = None
        self.probe: Probe | None = None

    def play(self) -> int:
        """From the first command to the verdict."""
        load, screen = self.load, self.screen
        screen.start_clock()
        with screen.live():
            load.spawn(self._report)
            if not load.ended.wait(self.plan.kill_at):
                self._kill()
            seconds, stuck = self._end()
        outcome = Outcome(self.victim, seconds, self._servers_took(), self._client_took(), stuck)
        screen.table(rows(load, outcome))
        reasons = list(objections(load, outcome))
        screen.verdict(reasons)
        return 1 if reasons else 0

    def _kill(self) -> None:
        """Kill a primary, and wait until its shard is back."""
        load = self.load
        self.victim = shard = load.choose_victim()
        node = self.servers.node_at(shard.primary)
        self.probe = Probe(self.servers.replicas_of(node), f"{{{shard.tag}}}:probe")
        load.spawn(self.probe.run)
        load.spawn(self._tell_recovery, shard, self.probe)
        shard.kill(monotonic())
        load.tally.is_one_out = True
        self.servers.kill(node)
        shard.bury()
        self.screen.tell(f"killed primary {node.address} (shard {shard.number}) with SIGKILL", "bad")
        if not shard.is_lost.wait(_NOTICE):
            shard.is_lost.set()
        gevent.wait([shard.is_back, load.ended], timeout=_PATIENCE, count=1)
        load.tally.is_one_out = False

    def _tell_recovery(self, shard: Shard, probe: Probe) -> None:
        probe.accepted.wait()
        self.screen.tell(f"the servers have promoted its replica {probe.accepted_by}", "good")
        shard.is_back.wait()
        took = f"{shard.back_at - shard.killed_at:.2f} s (the servers took {probe.accepted_at - shard.killed_at:.2f} s)"
        self.screen.tell(f"shard {shard.number} answers again after {took}", "good")

    def _end(self) -> tuple[float, int]:
        """Let the load run to its end. Returns how long it has run, and how many of its greenlets are stuck."""
        ends = self.began + self.plan.seconds
        if self.victim is not None:
            ends = max(ends, self.victim.back_at + _AFTERMATH)
        self.load.ended.wait(max(0.0, ends - monotonic()))
        seconds = monotonic() - self.began
        return seconds, self.load.finish(CALL_TIMEOUT + _NOTICE)

    def _report(self) -> None:
        meter = Meter(self.load, self.began)
        while not self.load.ended.wait(self.screen.period):
            self.screen.show(meter.read())

    def _servers_took(self) -> float | None:
        if self.victim is None or self.probe is None or not self.probe.accepted.is_set():
            return None
        return self.probe.accepted_at - self.victim.killed_at

    def _client_took(self) -> float | None:
        if self.victim is None or not self.victim.is_back.is_set():
            return None
        return self.victim.back_at - self.victim.killed_at


@contextmanager
def _signals_to_this_greenlet() -> Iterator[None]:
    """Ctrl-C and SIGTERM end this greenlet, which cleans up, and not whatever happens to run when they come."""
    here = gevent.getcurrent()
    wanted = {signal.SIGINT: KeyboardInterrupt(), signal.SIGTERM: SystemExit(128 + signal.SIGTERM)}
    before = {number: signal.getsignal(number) for number in wanted}
    watchers = [gevent.signal_handler(number, gevent.kill, here, error) for number, error in wanted.items()]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
