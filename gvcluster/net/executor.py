"""Send, name the outcome, decide, until answered or out of time: one call from its arguments to its reply."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from gvcluster.call_options import CallOptions, goes_the_same_way
from gvcluster.core.address import Address
from gvcluster.core.merging import asks_several
from gvcluster.core.outcome import Forgotten, Moved, Outcome, Refused, classify, located
from gvcluster.core.packing import Heads, pack
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
    told,
)
from gvcluster.errors import ClosedError, GvClusterError, TopologyUnavailable
from gvcluster.net.attempt import Attempts
from gvcluster.net.doubts import look_into
from gvcluster.net.inquiry import Inquiry
from gvcluster.net.large import BULK
from gvcluster.net.loop import TICK
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.request import Request, look_at
from gvcluster.net.runtime import Runtime

if TYPE_CHECKING:
    from gvcluster.net.everywhere import Everywhere
    from gvcluster.net.submitter import Submitter

NextStep = Follow | Retry | Refetch  # what a call that goes on waits for, and where it goes then


class Executor:
    """What executes the commands of one hub."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.hub, self._loop = runtime, runtime.hub, runtime.loop
        self.active = 0  # calls that do more than wait for their first reply
        self.submitter: Submitter
        self.everywhere: Everywhere
        self._state, self._nodes = runtime.state, runtime.nodes
        self._refresher, self._failover = runtime.refresher, runtime.failover
        self.inquiry, self.attempts = Inquiry(runtime), Attempts(runtime)
        self._large = runtime.nodes.large.known
        self._table, self._heads = runtime.nodes.table, runtime.state.commands.heads
        self.keep_time()

    def keep_time(self) -> None:
        """Take over a changed command timeout."""
        self._patience = self._state.patience
        for pool in self._nodes.all_pools():
            pool.keep_time()

    def execute(self, args: tuple[Any, ...]) -> Any:
        """One command with the options of the cluster. This is the hot path: everything rare takes the long way."""
        lane = None
        try:
            data, slot = pack(args, self._heads)
            pool = self._table[slot]  # None takes the long way, too
            if self._large or len(data) > BULK:
                lane = pool.lane_for(self._nodes.large.is_large(data))  # type: ignore[union-attr]
            else:
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
        if self._large:
            self._nodes.large.forget(data, began)
        return reply

    def execute_by(self, args: tuple[Any, ...], options: CallOptions) -> Any:
        """One command with options of its own, whose names and values are checked already.

        Where they change nothing of its way, its first attempt is as short as that of the hot path, but for its timer:
        8 to 11 µs, of which the long way takes 25 to 30 (`tools/cost_of_a_call.py`).
        """
        lane = None
        if goes_the_same_way(options, self._state.command_timeout):
            try:
                data, slot = pack(args, self._heads)
                lane = self._table[slot].lane_for(self._nodes.large.is_large(data))  # type: ignore[union-attr]
            except (LookupError, TypeError, ValueError, AttributeError):
                pass  # as in the hot path
        if lane is None:
            return self.execute_with(args, options)
        began = monotonic()
        reply = self._call(lane, data, began, options)
        if isinstance(reply, Exception):
            request = look_at(args, options, self._state.commands, self._state, began)
            return self.pursue(request, classify(reply, slot, lane.address), lane.address)
        self._nodes.large.forget(data, began)
        return reply

    def _call(self, lane: MultiplexedConnection, data: bytes, began: float, options: CallOptions) -> Any:
        """A first attempt, with the times of these options."""
        patience = min(
            options.get("command_timeout") or self._state.command_timeout,
            options.get("timeout") or self._state.options.timeout,
        )
        # Who waits no shorter than the others needs no timer of his own.
        return (lane.call if patience >= self._patience else lane.call_within)(data, began + patience)

    def execute_with(self, args: tuple[Any, ...], options: CallOptions) -> Any:
        """One command, however it is to be sent. The options' names and values are checked already."""
        self.runtime.loop.refuse_to_wait_in_hub()
        self.refuse_if_closing()
        request = self.inquiry.look_at(args, options, monotonic(), everywhere=True)
        node = options.get("node")
        if node is None and request.call.slot is None and asks_several(request.command):
            return self.everywhere.execute(request)
        return self.carry_out(request, node)

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
        self._heads = Heads({})

    def is_busy(self) -> bool:
        """Whether any call is under way."""
        return self.active > 0 or self.inquiry.active > 0 or self._nodes.in_flight > 0

    # -- attempts and decisions ---------------------------------------------------------------------------------------

    def _at_node(self, request: Request, address: Address) -> Any:
        """That node only: no redirects, no retries."""
        self.active += 1
        try:
            reply = first = self.attempts.at_node(request, address)
            if isinstance(first, Forgotten):
                reply = self.attempts.at_node(request, address)
        finally:
            self.active -= 1
        if isinstance(reply, Outcome):
            raise told(reply.error, Progress([first.error]))
        return reply

    def pursue(
        self,
        request: Request,
        met: Outcome | None = None,
        asked: Address | None = None,
        place: Callable[[Outcome | None], Address] | None = None,
    ) -> Any:
        """Attempt and decide until there is a reply, beginning with what was met already, if anything.

        `place` tells for each attempt which node it is for, instead of the slot map; given how the last one ended, it
        may raise the end of the call.
        """
        progress, target = Progress(), None
        self.active += 1
        try:
            while True:
                if met is not None:
                    target = self.react(met, request.call, progress, asked)
                if place is not None:
                    target = Follow(place(met), asking=False, after=0.0)
                sent = monotonic()
                reply, asked = self.attempts.make(request, target, progress.avoided)
                if not isinstance(reply, Outcome):
                    return reply
                met = reply
                if request.block_seconds and not isinstance(met, Refused):
                    request = request.after(monotonic() - sent)
        except GvClusterError as error:
            told(error, progress)
            raise
        finally:
            self.active -= 1

    def react(self, met: Outcome, call: Call, progress: Progress, asked: Address | None) -> Follow | None:
        """Decide, and do it, waiting included. Returns where to send next; None: by the slot map."""
        target = self._obey(self.judge(met, call, progress, asked), call, progress)
        self.stop_if_over(call, progress)
        return target

    def judge(self, met: Outcome, call: Call, progress: Progress, asked: Address | None) -> NextStep:
        """Take what was met into the call's progress, and decide. Waits only to confirm what a script claims.

        Raises:
            GvClusterError: this is the end of the call.
        """
        met = self._located(met, asked)
        progress.add(met, asked)
        self._stop_if_closed(progress)
        if self._state.closing:
            raise told(met.error, progress)
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
            progress.repeat(decision.after)
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

    def _obey(self, step: NextStep, call: Call, progress: Progress) -> Follow | None:
        """Wait as was decided. Returns where to send next; None: by the slot map."""
        if isinstance(step, Follow):
            if step.after:
                self.pause(step.after)
            return step
        if isinstance(step, Refetch):
            self.refetch(call)
        elif step.for_news:
            self._failover.wait(call.slot, step.after, call.longest_wait(step.after, monotonic()))
        else:
            self.pause(step.after)
        return None

    def _located(self, met: Outcome, asked: Address | None) -> Outcome:
        topology = self._state.topology
        if asked is None or topology is None or self._state.options.address_map is not None:
            return met
        return located(met, asked, topology.node_at)

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
            self._nodes.pool_at(address).renew()
        return Follow(address, decision.asking, decision.after, decision.anew)

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
