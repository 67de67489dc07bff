"""Send, name the outcome, decide, until answered or out of time: one call from its arguments to its reply."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from gvcluster.core.address import Address
from gvcluster.core.outcome import Moved, Outcome, Refused, Unserved, classify
from gvcluster.core.resp import encode
from gvcluster.core.retry import (
    Call,
    Confirm,
    Decision,
    Fail,
    Follow,
    Progress,
    Refetch,
    Retry,
    decide,
    exhausted,
    hints_at_stale_map,
)
from gvcluster.core.slots import hash_slot
from gvcluster.errors import ClosedError, GvClusterError, SlotNotCovered, TopologyUnavailable
from gvcluster.net.doubts import look_into
from gvcluster.net.inquiry import Inquiry
from gvcluster.net.large import BULK
from gvcluster.net.loop import TICK
from gvcluster.net.pool import NodePool
from gvcluster.net.request import Request, look_at
from gvcluster.net.runtime import Runtime
from gvcluster.options import CallOptions

if TYPE_CHECKING:
    from gvcluster.net.submitter import Submitter


NextStep = Follow | Retry | Refetch  # what a call that goes on waits for, and where it goes then


class Executor:
    """What executes the commands of one hub."""

    def __init__(self, runtime: Runtime) -> None:
        self.hub = runtime.hub
        self.runtime, self._loop = runtime, runtime.loop
        self.active = 0  # calls that do more than wait for their first reply
        self.submitter: Submitter
        self._state, self._nodes = runtime.state, runtime.nodes
        self._refresher, self._failover = runtime.refresher, runtime.failover
        self.inquiry = Inquiry(runtime)
        self._large = runtime.nodes.large.known
        self._table, self._lone_keys = runtime.nodes.table, runtime.state.commands.lone_keys
        self.keep_time()

    def keep_time(self) -> None:
        """Take over a changed command timeout."""
        self._patience = self._state.patience
        for pool in self._nodes.pools.values():
            pool.keep_time()

    def execute(self, args: tuple[Any, ...]) -> Any:
        """One command with the options of the cluster. This is the hot path: everything rare takes the long way."""
        lane = None
        try:
            slot = hash_slot(args[self._lone_keys[args[0]]])
            data = encode(args)
            pool = self._table[slot]  # None takes the long way, too
            if len(data) > BULK:
                lane = pool.lane_for(True)  # type: ignore[union-attr]
            elif not self._large or data not in self._large:
                lane = pool.lane or pool.lane_for(False)  # type: ignore[union-attr]
        except (LookupError, TypeError, ValueError, AttributeError):
            pass  # and the long way not from in here: this error, which shows values, would be the context of any other
        if lane is None:
            return self.execute_with(args, {})
        began = monotonic()
        reply = lane.call(data, began + self._patience)
        if isinstance(reply, Exception):
            request = look_at(args, {}, self._state.commands, self._state, began)
            return self.pursue(request, classify(reply, slot, lane.address), lane.address)
        return reply

    def execute_with(self, args: tuple[Any, ...], options: CallOptions) -> Any:
        """One command, however it is to be sent. The options' names and values are checked already."""
        self.runtime.loop.refuse_to_wait_in_hub()
        self.refuse_if_closing()
        request = self.inquiry.look_at(args, options, monotonic())
        return self.carry_out(request, options.get("node"))

    def carry_out(self, request: Request, node: Address | None) -> Any:
        """Execute what was looked at, at that node only if one is named."""
        return self.pursue(request) if node is None else self._at_node(request, node)

    def refuse_if_closing(self) -> None:
        """Raise ClosedError if no new calls are taken."""
        if self._state.closing:
            raise ClosedError("the cluster was closed; make a new one")

    def close(self) -> None:
        """End every call and connection of this hub now. Never switches."""
        self.refuse()
        self.runtime.close()

    def refuse(self) -> None:
        """Take no new command: without a known key each of them takes the long way, where it is refused."""
        self._lone_keys = {}

    def is_busy(self) -> bool:
        """Whether any call is under way."""
        return self.active > 0 or self.inquiry.active > 0 or self._nodes.in_flight > 0

    # -- attempts and decisions ---------------------------------------------------------------------------------------

    def _at_node(self, request: Request, address: Address) -> Any:
        """That node only: no redirects, no retries."""
        self.active += 1
        try:
            reply = self._send(request, self._nodes.pool_at(address), is_pinned=True)
        finally:
            self.active -= 1
        if isinstance(reply, Outcome):
            raise reply.error
        return reply

    def pursue(self, request: Request, met: Outcome | None = None, asked: Address | None = None) -> Any:
        """Attempt and decide until there is a reply, beginning with what was met already, if anything."""
        progress = Progress()
        target = None
        self.active += 1
        try:
            while True:
                if met is not None:
                    target = self._react(met, request.call, progress, asked)
                sent = monotonic()
                reply, asked = self._attempt(request, target)
                if not isinstance(reply, Outcome):
                    return reply
                met = reply
                if request.block_seconds and not isinstance(met, Refused):
                    request = request.excused(monotonic() - sent)
        finally:
            self.active -= 1

    def _react(self, met: Outcome, call: Call, progress: Progress, asked: Address | None) -> Follow | None:
        """Decide, and do it, waiting included. Returns where to send next; None: by the slot map."""
        target = self._obey(self.judge(met, call, progress, asked), call, progress)
        self.stop_if_over(call, progress)
        return target

    def judge(self, met: Outcome, call: Call, progress: Progress, asked: Address | None) -> NextStep:
        """Take what was met into the call's progress, and decide. Waits only to confirm what a script claims.

        Raises:
            GvClusterError: this is the end of the call.
        """
        progress.errors.append(met.error)
        self._stop_if_closed(progress)
        if self._state.closing:
            raise met.error
        self._refresh_because_of(met, asked)
        decision = decide(met, call, progress, monotonic(), self._state.options.rng.random())
        if isinstance(decision, Confirm):
            met = decision.claim
            decision = self._confirm(met, call, progress, asked)
        if isinstance(decision, Fail):
            raise decision.error
        if isinstance(decision, Follow):
            return self._redirect(decision, met, progress)
        if isinstance(decision, Retry):
            progress.retries += 1
            self._state.retries += 1
        assert not isinstance(decision, Confirm)
        return decision

    def stop_if_over(self, call: Call, progress: Progress) -> None:
        """Raise what the caller is told if the cluster was closed, or no time is left for another attempt."""
        self._stop_if_closed(progress)
        now = monotonic()
        if now >= call.deadline - 3 * TICK:  # libuv's timers go off early; what is sent now would only be ambiguous
            raise exhausted(call, progress, now)

    def _stop_if_closed(self, progress: Progress) -> None:
        if self._state.closed:
            raise ClosedError("the cluster was closed", maybe_executed=progress.maybe_executed)

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the cluster is closed."""
        self._loop.wait(self.runtime.ended, seconds)

    def _attempt(self, request: Request, target: Follow | None) -> tuple[Any, Address | None]:
        """Send once, and say who was asked. Returns an Outcome instead of an error."""
        call = request.call
        pool = self.pool_for(call) if target is None else self._nodes.pool_at(target.address)
        if isinstance(pool, Unserved):
            return pool, None
        return self._send(request, pool, asking=target is not None and target.asking), pool.address

    def pool_for(self, call: Call) -> NodePool | Unserved:
        """The pool of the slot's owner; of any primary for a command without a slot."""
        self.wait_for_first_map(call.deadline)
        topology = self._state.topology
        assert topology is not None
        if call.slot is None:
            return self._nodes.pool_at(self._state.options.rng.choice(topology.primaries).address)
        pool = self._table[call.slot]
        if pool is not None:
            return pool
        owner = topology.owner(call.slot) if self._state.closing else None  # no map is adopted any more
        if owner is not None:
            return self._nodes.pool_at(owner.address)
        error = SlotNotCovered(f"no node serves slot {call.slot}: the slot map has no owner for it", slot=call.slot)
        return Unserved(error, fresh=self._state.fetched > call.began)

    def wait_for_first_map(self, deadline: float) -> None:
        """Wait until a slot map is known, if none is.

        Raises:
            TopologyUnavailable, ClosedError: there will be none.
        """
        if self._state.topology is not None:
            return
        try:
            self._refresher.wait_first(deadline)
        except TopologyUnavailable:
            self._stop_if_closed(Progress())
            raise

    def _send(self, request: Request, pool: NodePool, *, asking: bool = False, is_pinned: bool = False) -> Any:
        """The reply, or how the attempt ended instead."""
        call = request.call
        on_slow = None if is_pinned else partial(self._failover.attend, call.slot, call.deadline - monotonic())
        data, large, began = request.data, self._nodes.large, monotonic()
        is_bulk = large.is_large(data) if request.bulk is None else request.bulk
        try:
            wait = pool.wait_exclusive if request.exclusive else partial(pool.wait_lane_for, is_bulk)
            lane = wait(call.deadline, on_slow)
        except GvClusterError as error:
            return classify(error, call.slot, pool.address)
        try:
            patience = min(request.command_timeout, call.deadline - monotonic()) + request.block_seconds
            reply = lane.call_within(data, monotonic() + patience, asking=asking)
        finally:
            if request.exclusive:
                lane.close()
        large.forget(data, began)
        if isinstance(reply, Exception):
            return classify(reply, call.slot, pool.address, script=call.script)
        return reply

    def _obey(self, step: NextStep, call: Call, progress: Progress) -> Follow | None:
        """Wait as was decided. Returns where to send next; None: by the slot map."""
        if isinstance(step, Follow):
            if step.after:
                self.pause(step.after)
            return step
        if isinstance(step, Refetch):
            self.refetch(call)
        elif step.for_news:
            self._failover.wait(call.slot, step.after, call.deadline - monotonic())
        else:
            self.pause(step.after)
        return None

    def _refresh_because_of(self, met: Outcome, asked: Address | None) -> None:
        """Have the map fetched if it looks stale; who sent a MOVED knows more than others."""
        if hints_at_stale_map(met):
            self._refresher.schedule(asked if isinstance(met, Moved) else None)

    def _redirect(self, decision: Follow, met: Outcome, progress: Progress) -> Follow:
        """Note where a redirect leads, if the user's `address_map` lets us go there."""
        address = self._nodes.redirected_to(decision.address, progress.maybe_executed)
        progress.redirects += 1
        self._state.redirects += 1
        if isinstance(met, Moved):
            self._nodes.patch(met.slot, address)
        if decision.anew:
            self._nodes.pool_at(address).renew_lanes()
        return replace(decision, address=address)

    def refetch(self, call: Call) -> None:
        """Wait for a slot map that is asked for from now on."""
        try:
            self._refresher.fetch(call.deadline)
        except TopologyUnavailable:
            if self._state.topology is None or monotonic() >= call.deadline:
                raise
            self.pause(0.01)

    def _confirm(self, claim: Outcome, call: Call, progress: Progress, asked: Address | None) -> Decision:
        """Act upon what a script says only if the node itself says the same; then the script has not run."""
        error = progress.errors[-1]
        if asked is None or not look_into(claim, call, self._nodes.pool_at(asked)):
            return Fail(error)
        error.maybe_executed = False
        self._refresh_because_of(claim, asked)
        return decide(claim, call, progress, monotonic(), self._state.options.rng.random())
