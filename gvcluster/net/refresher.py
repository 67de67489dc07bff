"""Fetches slot maps: one at a time, from a node chosen at random, and never on a caller's time unless it has no map."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import MappingProxyType
from typing import Any

import gevent
from gevent.event import Event

from gvcluster.core.address import Address
from gvcluster.core.resp import encode
from gvcluster.core.topology import Topology, UnusableMap, read_nodes, read_slots
from gvcluster.core.views import Verdict, View
from gvcluster.errors import GvClusterError, ReplyError, ReplyTimeout, TopologyUnavailable
from gvcluster.net.loop import HubLoop, remaining
from gvcluster.net.nodes import Nodes
from gvcluster.net.state import ClusterState
from gvcluster.net.turns import Claim

# A node that does not answer this one small question within a second is asked later; meanwhile another one is.
PATIENCE = 1.0
_NONE = "no usable slot map"
# Seconds by which a fetch may exceed its own limits, in a hub that is busy, before another hub takes its turn.
_GRACE = 1.0

_SOURCES = MappingProxyType(
    {
        "slots": (encode(("CLUSTER", "SLOTS")), read_slots),
        "nodes": (encode(("CLUSTER", "NODES")), read_nodes),
    }
)

_OTHER = MappingProxyType({"slots": "nodes", "nodes": "slots"})

Accept = Callable[[View], Verdict]  # publish a map if it is to be believed


class Round:
    """One fetch: whoever waits for it gets what it brought."""

    __slots__ = ("asking", "done", "failures", "topology")

    def __init__(self) -> None:
        self.done = Event()
        self.topology: Topology | None = None
        self.failures: list[tuple[Address, Exception]] = []
        self.asking: Address | None = None  # who is being asked now

    def failed(self, what: str) -> TopologyUnavailable:
        """Why it brought none, as far as is known yet."""
        told = [f"{address}: {error}" for address, error in self.failures]
        if self.asking is not None:
            told.append(f"{self.asking}: no answer yet")
        return TopologyUnavailable(f"{what} ({'; '.join(told)})" if told else what, failures=self.failures)


class Refresher:
    """The slot map's keeper in one hub."""

    def __init__(self, state: ClusterState, loop: HubLoop, nodes: Nodes, accept: Accept) -> None:
        self.refreshes = 0
        self.until_ready = False
        self._state, self._loop, self._nodes, self._accept = state, loop, nodes, accept
        self._source = state.options.topology_source  # the one that was answered last
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._wanted = False
        self._wanted_at = 0.0
        self._claim: Claim | None = None
        self._their_turn_is_over = Event()
        self._first: Address | None = None
        self._current: Round | None = None  # the one that is under way
        self._next = Round()  # the first one that begins from now on
        self._urgent = Event()
        self._news = Event()  # set, and replaced, when a map with other routes is accepted

    def __repr__(self) -> str:
        return f"<Refresher {self.refreshes} fetched, {'at work' if self._greenlet is not None else 'at rest'}>"

    def schedule(self, first: Address | None = None, *, urgent: bool = False) -> None:
        """Have a map fetched soon. Never switches.

        Args:
            first: the node to ask first: one that sent a MOVED, or was promoted, knows more than others.
            urgent: there is news for certain: do not wait for the pace.
        """
        self._wanted, self._wanted_at = True, monotonic()
        if urgent or self._first is None:
            self._first = first
        if urgent:
            self._urgent.set()
        self._begin()

    def _begin(self) -> None:
        if self._greenlet is None and not self._state.closed and self._loop.has_hub():
            self._greenlet = self._loop.spawn(self._run)

    def fetch(self, deadline: float) -> Topology:
        """Wait for a map that is asked for from now on.

        Raises:
            TopologyUnavailable: nobody gave one, or not before the deadline.
        """
        self._loop.refuse_to_wait_in_hub()
        fetched = self._next
        self.schedule()
        return self._result(fetched, deadline)

    def wait_first(self, deadline: float) -> Topology:
        """Wait for the first map; one that was asked for earlier will do.

        Raises:
            TopologyUnavailable: nobody gave one, or not before the deadline.
        """
        if self._state.topology is not None:
            return self._state.topology
        if self._current is None:
            return self.fetch(deadline)
        self._loop.refuse_to_wait_in_hub()
        return self._result(self._current, deadline)

    def _result(self, fetched: Round, deadline: float) -> Topology:
        if not self._loop.wait(fetched.done, remaining(deadline)):
            raise fetched.failed("no slot map in time")
        if fetched.topology is None:
            raise fetched.failed(_NONE if fetched.failures else f"{_NONE}: there was nobody to ask")
        return fetched.topology

    def tell_news(self) -> None:
        """A map with other routes was accepted: wake those who wait for one."""
        news, self._news = self._news, Event()
        news.set()

    def wait_for_news(self, seconds: float) -> None:
        """Wait until a map with other routes is accepted, at most so many seconds."""
        self._loop.wait(self._news, seconds)

    def _run(self) -> None:
        try:
            while (self._wanted or self._persistent()) and not self._state.closed:
                pause = self._state.pace.wait(monotonic(), self._state.options.rng.random())
                if pause:
                    self._loop.wait(self._urgent, pause)
                self._urgent.clear()
                if self._is_my_turn():
                    self._wanted = False
                    self._one_round()
        finally:
            self._give_back()
            self._greenlet = None
            if self._wanted or self._persistent():  # a kill, or what a signal handler raised: another one goes on
                self._begin()

    def _persistent(self) -> bool:
        """Whether to go on after a failure: who has started the cluster waits for Ready, however long it takes."""
        return self.until_ready and self._state.topology is None

    def close(self) -> None:
        """End the fetch that is under way, and wake all that wait. Never switches."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        for unfinished in (self._current, self._next):
            if unfinished is not None:
                unfinished.done.set()
        self.tell_news()

    # -- one hub at a time --------------------------------------------------------------------------------------------

    def _is_my_turn(self) -> bool:
        """Claim the turn; if another hub has it, wait until it is over. What others brought may be enough."""
        claim = self._state.turns.claim(self, monotonic(), self._lease())
        if claim.holder is not self:
            self._their_turn_is_over.clear()
            if not claim.is_over:
                self._loop.wait(self._their_turn_is_over, remaining(claim.until))
            return False
        self._claim = claim
        if self._first is not None or self._state.fetched <= self._wanted_at:
            return True
        self._give_back()
        self._wanted = False
        if self._state.topology is not None:  # what that hub has told this one may not have been heard yet
            self._nodes.adopt(self._state.topology, self._state.fetched)
        this, self._next = self._next, Round()
        this.topology = self._state.topology
        this.done.set()
        return False

    def _lease(self) -> float:
        return self._state.options.connect_timeout + PATIENCE + _GRACE

    def _give_back(self) -> None:
        """My turn is over: tell the other hubs. Never switches."""
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.is_over = True
            for runtime in tuple(self._state.runtimes):
                if runtime.refresher is not self:
                    runtime.loop.from_other_threads(runtime.refresher.turn_is_over)

    def turn_is_over(self) -> None:
        """Another hub has finished its fetch."""
        self._their_turn_is_over.set()

    # -- one fetch ----------------------------------------------------------------------------------------------------

    def _one_round(self) -> None:
        this, self._next = self._next, Round()
        self._current = this
        begun = monotonic()
        self._state.pace.begin(begun)
        first, self._first = self._first, None
        try:
            view = self._ask_around(this, first, begun)
            self.refreshes += 1
            self._state.adrift = False
            verdict = self._accept(view)
            this.topology = view.topology
            if verdict.topology is None:
                self.schedule(verdict.ask)
        except TopologyUnavailable:
            self._state.adrift = True
        finally:
            self._current = None
            self._give_back()
            this.done.set()

    def _ask_around(self, this: Round, first: Address | None, begun: float) -> View:
        """The first usable map that anybody gives: any error means asking another."""
        asked = [(self._source, address) for address in self._whom_to_ask(first)]
        for source, address in asked:  # which grows meanwhile
            if self._state.closed:
                break
            if self._claim is not None:
                self._claim.until = monotonic() + self._lease()
            this.asking = address
            try:
                topology = self._ask(address, source)
            except (GvClusterError, UnusableMap) as error:
                this.failures.append((address, error))
                if source == self._source and self._may_answer_the_other(error):
                    asked.append((_OTHER[source], address))
            else:
                self._source = source
                return View(topology, address, begun)
            finally:
                this.asking = None
        raise TopologyUnavailable(_NONE)  # what was met, `this` tells those who wait

    def _whom_to_ask(self, first: Address | None) -> list[Address]:
        """Known nodes in random order, those first that are connected and answer, then the seeds.

        Last of the known nodes comes one whose map waits for a second opinion.
        """
        state, pools = self._state, self._nodes.pools
        known = [node.address for node in state.topology.nodes] if state.topology is not None else []
        seeds = list(state.seeds)
        state.options.rng.shuffle(known)
        state.options.rng.shuffle(seeds)
        doubted = state.memory.smaller.told_by if state.memory.smaller is not None else None
        responsive = {address for address, pool in pools.items() if pool.lanes.are_responsive()}
        known.sort(key=lambda address: (address == doubted, address not in responsive))
        return list(dict.fromkeys([*([first] if first is not None else []), *known, *seeds]))

    def _may_answer_the_other(self, error: Exception) -> bool:
        """Whether only this question found no answer: the user may not ask it, or it takes too long from the start."""
        if isinstance(error, ReplyError):
            return error.code == "NOPERM" or "unknown" in error.message.lower()
        return isinstance(error, ReplyTimeout) and self._state.topology is None

    def _ask(self, address: Address, source: str) -> Topology:
        _, read = _SOURCES[source]
        # Nobody else may hold the reply: it is let go as it is read. Other maps may come meanwhile: `judge` compares.
        topology = self._loop.in_turns(read(self._answer(address, source), address))
        return topology.readdressed(self._state.options.address_map)

    def _answer(self, address: Address, source: str) -> Any:
        """What the node says of the cluster."""
        command, _ = _SOURCES[source]
        patience = min(PATIENCE, self._state.command_timeout)
        # Connecting has its own limit, and at its end it says what was wrong: who has no map yet waits for that. Later
        # another node is asked instead: the fetch is one for all, and a frozen node must not hold up a promotion.
        limit = PATIENCE if self._state.topology is not None else self._state.options.connect_timeout + PATIENCE
        pool = self._nodes.pool_at(address)
        if source == self._source:
            reply = pool.wait_lane(monotonic() + limit).call_within(command, monotonic() + patience)
        else:
            connection = pool.wait_exclusive(monotonic() + limit)
            try:
                reply = connection.call_within(command, monotonic() + patience)
            finally:
                pool.give_back(connection)
        if isinstance(reply, GvClusterError):
            raise reply
        return reply
