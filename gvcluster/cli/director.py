"""The demo's course: a cluster, many greenlets, what befalls the cluster, and what the greenlets notice of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic

import gevent

from gvcluster import Cluster
from gvcluster._version import __version__
from gvcluster.cli.acts import Acts
from gvcluster.cli.load import CALL_TIMEOUT, Load, Plan
from gvcluster.cli.meter import Meter
from gvcluster.cli.probe import Probe
from gvcluster.cli.screen import Screen, open_screen
from gvcluster.cli.shards import Shard
from gvcluster.cli.signals import signals_to_this_greenlet
from gvcluster.cli.summary import PRAISE, Outcome, objections, phases, rows
from gvcluster.cli.tally import Phase
from gvcluster.options import ClusterOptions
from gvcluster.testing import LocalCluster

NODE_TIMEOUT = 2.0
# Seconds that the servers and the client get for a failover; 3 to 4 are normal.
_PATIENCE = 20.0
# Seconds within which the client notices that a connection has ended.
_NOTICE = 1.0
# Seconds that the load goes on at least between two events: how it goes on is part of the story.
_AFTERMATH = 1.5
# When the events are due, as parts of the whole time. An outage of 3 to 4 s follows the first.
_KILL, _FAIL_OVER, _ONE_BY_ONE, _AT_ONCE = 1 / 6, 1 / 2, 2 / 3, 5 / 6


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
    with signals_to_this_greenlet():
        began = monotonic()
        with LocalCluster(plan.server, node_timeout=NODE_TIMEOUT) as servers:
            screen.tell(
                f"started 3 primaries and 3 replicas in {monotonic() - began:.1f} s; node timeout {NODE_TIMEOUT:g} s"
            )
            with Load(plan, partial(_client, servers.seeds), screen.tell) as load:
                _introduce(plan, screen)
                return _Demo(plan, screen, servers, load).play()


def _client(seeds: str, observers: ClusterOptions) -> Cluster:
    observers["client_name"] = "gvcluster-demo"
    return Cluster(seeds, **observers)


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
            for part, event in self._course():
                due = self.began + part * self.plan.seconds
                if not load.ended.wait(max(due - monotonic(), _AFTERMATH if part > _KILL else 0.0)):
                    event()
            seconds, stuck = self._end()
        outcome = Outcome(self.victim, seconds, self._servers_took(), self._client_took(), stuck)
        screen.phases(phases(load.tally))
        screen.table(rows(load, outcome))
        reasons = list(objections(load, outcome))
        screen.verdict(reasons, PRAISE)
        return 1 if reasons else 0

    def _course(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """What happens when. The shard whose primary is killed has no replica afterwards, and is left alone."""
        yield _KILL, self._kill
        acts = Acts(self.load, self.servers, self.screen.tell)
        first, second, *_ = (shard for shard in self.load.shards if shard is not self.victim)
        yield _FAIL_OVER, partial(acts.fail_over, first)
        yield _ONE_BY_ONE, partial(acts.move_one_by_one, second, first)
        if self.servers.server.has_atomic_moves:
            yield _AT_ONCE, partial(acts.move_at_once, second, first)

    def _kill(self) -> None:
        """Kill a primary, and wait until its shard is back."""
        load = self.load
        self.victim = shard = load.choose_victim()
        phase = Phase("kill -9")
        node = self.servers.node_at(shard.primary)
        self.probe = Probe(self.servers.replicas_of(node), f"{{{shard.tag}}}:probe")
        load.spawn(self.probe.run)
        load.spawn(self._tell_recovery, shard, self.probe)
        load.begin(phase)
        shard.kill(monotonic())
        load.tally.is_one_out = True
        self.servers.kill(node)
        shard.bury()
        self.screen.tell(f"killed primary {node.address} (shard {shard.number}) with SIGKILL", "bad")
        if not shard.is_lost.wait(_NOTICE):
            shard.is_lost.set()
        gevent.wait([shard.is_back, load.ended], timeout=_PATIENCE, count=1)
        load.tally.is_one_out = False
        phase.took = monotonic() - shard.killed_at

    def _tell_recovery(self, shard: Shard, probe: Probe) -> None:
        probe.accepted.wait()
        self.screen.tell(f"the servers have promoted its replica {probe.accepted_by}", "good")
        shard.is_back.wait()
        took = f"{shard.back_at - shard.killed_at:.2f} s (the servers took {probe.accepted_at - shard.killed_at:.2f} s)"
        self.screen.tell(f"shard {shard.number} answers again after {took}", "good")

    def _end(self) -> tuple[float, int]:
        """Let the load run to its end. Returns how long it has run, and how many of its greenlets are stuck."""
        self.load.ended.wait(max(_AFTERMATH, self.began + self.plan.seconds - monotonic()))
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
