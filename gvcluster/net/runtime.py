"""Everything of a Cluster that belongs to one hub: its pools, its slot table and its refresher."""

from __future__ import annotations

import sys
import weakref
from collections import deque
from time import monotonic
from typing import Any, Protocol

import gevent
from gevent.event import Event as Signal
from gevent.hub import Hub

from gvcluster.core.topology import Topology
from gvcluster.core.views import Verdict, View, judge
from gvcluster.events import Event, Ready, SlotMapUpdated
from gvcluster.net.failover import FailoverWatch
from gvcluster.net.loop import HubLoop
from gvcluster.net.nodes import Nodes
from gvcluster.net.refresher import Refresher
from gvcluster.net.state import ClusterState

# A replica that has left the slot map and comes back says so to nobody: seconds between two looks for it.
LOOK_FOR_REPLICAS = 30.0


class _Thread:
    """Lives as long as the native thread that keeps it."""


class Follower(Protocol):
    """What goes where the slot map says, and ends with the cluster: a subscription object."""

    def reconsider(self) -> None:
        """There is a new slot map. Never switches."""

    def close(self) -> None:
        """The cluster is closed. Never switches."""


class Runtime:
    """One hub's side of a Cluster. It never refers to the Cluster, which may be collected while greenlets still run."""

    def __init__(self, state: ClusterState, hub: Hub) -> None:
        self.hub = hub
        self.loop = HubLoop(hub)
        self.state = state
        self.nodes = Nodes(state, self.loop)
        self.refresher = Refresher(state, self.loop, self.nodes, self._accept)
        self.failover = FailoverWatch(state, self.loop, self.nodes, self.refresher)
        self.nodes.on_trouble = self.refresher.schedule
        self.subscribers: set[Follower] = set()
        self.ended = Signal()
        self._untold: deque[Event] = deque()
        self._teller: gevent.Greenlet[..., None] | None = None
        self._clock: Any = None
        if not hasattr(state.thread, "token"):
            state.thread.token = _Thread()
        self._thread = weakref.ref(state.thread.token, self._thread_ended)
        interval = state.options.refresh_interval
        if interval is None and state.read_from is not None:
            interval = LOOK_FOR_REPLICAS
        if interval is not None:
            self._wind_up(interval)

    def __repr__(self) -> str:
        return f"<Runtime of {self.hub!r}: {self.nodes}>"

    def begin(self) -> None:
        """Serve by the slot map, and by what another hub publishes meanwhile: first be told of it, then look."""
        self.state.runtimes.append(self)
        if self.state.topology is not None:
            self.nodes.adopt(self.state.topology, self.state.fetched)

    def _accept(self, view: View) -> Verdict:
        """Publish a fetched map, if it is to be believed. Runs in the refresher's greenlet."""
        state, known = self.state, self.state.topology
        verdict = judge(known, view, state.memory)
        state.memory = verdict.memory
        topology = verdict.topology
        if topology is None:
            return verdict
        state.fetched = max(state.fetched, view.begun)
        if topology is known:
            if self.nodes.is_patched():
                self.nodes.adopt(known, view.begun)
            return verdict
        version = 1 if known is None else known.route_version + 1
        self._publish(topology.with_version(version), view.begun)
        if known is None:
            self._tell(Ready(version))
        self._tell(SlotMapUpdated(version, topology.covered, len(topology.primaries), len(topology.replicas)))
        return verdict

    def _tell(self, event: Event) -> None:
        """Tell the observer, in order, from a greenlet of its own: one that waits must hold up no slot map."""
        self._untold.append(event)
        if self._teller is None:
            self._teller = self.loop.spawn(self._tell_all)

    def _tell_all(self) -> None:
        try:
            while self._untold:
                self.state.tell(self._untold.popleft())
        finally:
            self._teller = None
            if self._untold and not self.state.closed:  # a gevent.Timeout or a kill: another greenlet tells the rest
                self._teller = self.loop.spawn(self._tell_all)

    def _publish(self, topology: Topology, begun: float) -> None:
        self.state.topology = topology
        for runtime in tuple(self.state.runtimes):
            if runtime is self:
                runtime.adopt(topology, begun)
            else:
                runtime.loop.from_other_threads(runtime.adopt, topology, begun)

    def adopt(self, topology: Topology, begun: float) -> None:
        """Serve by a new map in this hub, and wake those who wait for one."""
        self.nodes.adopt(topology, begun)
        self.refresher.tell_news()
        for each in tuple(self.subscribers):
            each.reconsider()

    def _wind_up(self, interval: float) -> None:
        """Have a look at the slot map's age after about so many seconds. Clients must not all look at once."""
        old, self._clock = self._clock, self._next_look(interval)
        self._clock.start(self._on_clock, interval)
        if old is not None:
            self.loop.end(old)

    def _next_look(self, interval: float) -> Any:
        after = interval * (0.9 + 0.2 * self.state.options.rng.random())
        return self.loop.timer(after, again=after)

    def _on_clock(self, interval: float) -> None:
        if not self.state.closing:
            self._wind_up(interval)
            if monotonic() - self.state.fetched >= 0.8 * interval:  # another hub may have fetched one
                self.refresher.schedule()

    def close(self, cause: BaseException | None = None) -> None:
        """End every connection and every wait now. Never switches."""
        if self._clock is not None:
            self.loop.end(self._clock)
        for each in tuple(self.subscribers):
            each.close()
        self.nodes.close(cause)
        self.failover.close()
        self.refresher.close()
        self.loop.close_to_other_threads()
        self.ended.set()

    # -- when the hub is no more --------------------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Whether its hub was destroyed, its thread has ended, or this is a forked child's copy of it."""
        return self.loop.is_copy or not self.loop.has_hub() or self._thread() is None

    def abandon(self) -> None:
        """Let its connections go, for its hub will not end them. Never switches."""
        if self._clock is not None:
            self.loop.drop(self._clock)
        self.loop.abandon(is_over=self._thread() is None)

    def _thread_ended(self, _thread: object) -> None:
        """Runs in the thread, when Python has taken down most of it. At the end of the process there is no hurry."""
        if not sys.is_finalizing():
            self.abandon()
