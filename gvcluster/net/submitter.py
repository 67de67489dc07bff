"""Submitted commands: sent at once, their callbacks called in the hub, and no greenlet parked for each.

What goes straight to its reply takes only the connection's line. What must wait for a connection, or for the first slot
map, stands in a row, one for each node, and a greenlet sees to the row: so the order of the submissions is kept. From
the second attempt on a command has a greenlet of its own, which goes on by the rules of `execute`.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from time import monotonic
from typing import Any

from gvcluster.call_options import CallOptions
from gvcluster.core.address import Address
from gvcluster.core.outcome import Failed, Outcome, Unserved, classify
from gvcluster.errors import ClosedError, ConnectFailed, GvClusterError, PoolFull, TopologyUnavailable
from gvcluster.net.executor import Executor
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool
from gvcluster.net.readers import IMPATIENCE
from gvcluster.net.submission import Callback, Submission
from gvcluster.net.volley import own, parted
from gvcluster.net.waiter import Waiter

# Seconds between two looks for a first slot map that nobody gave: the refresher has a pace of its own.
_LOOK_AGAIN = 0.05
# Of several lanes all submitted commands take this one: between two of them there is no order.
_LANE = 0


class Submitter:
    """What sends the submitted commands of one hub."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._state, self._loop, self._nodes = executor.runtime.state, executor.runtime.loop, executor.runtime.nodes
        self._rows: dict[NodePool | None, deque[Submission]] = {}  # None: those who wait for the first slot map
        self._no_map: TopologyUnavailable | None = None

    def __repr__(self) -> str:
        return f"<Submitter, {sum(map(len, self._rows.values()))} wait for a connection>"

    def submit(self, args: tuple[Any, ...], options: CallOptions, callback: Callback | None) -> Submission:
        """Send it, or have it wait for its turn. Never switches.

        Raises:
            GvClusterError: it makes no sense, or no work is taken. Then the callback is never called.
        """
        self._executor.refuse_if_closing()
        submission = Submission(self._executor, args, options)
        if callback is not None:
            submission.then(callback)
        self._dispatch(submission, is_first=True)
        self._executor.active += 1
        return submission

    def _dispatch(self, submission: Submission, *, is_first: bool = False) -> None:
        """Send it where it belongs, or put it into a row."""
        if submission.is_exclusive:
            self._pursue(submission)
            return
        pool = self._pool_for(submission)
        if isinstance(pool, Unserved):
            self._pursue(submission, pool)
        elif pool is None or (lane := pool.lanes[_LANE]) is None or pool in self._rows:
            self._queue_up(submission, pool)
        else:
            self._post_first(submission, lane, is_first=is_first)

    def _post_first(self, submission: Submission, lane: MultiplexedConnection, *, is_first: bool) -> None:
        """Send it over a lane that is open. Who submits right now can be told that there is no room."""
        if is_first and lane.is_full():
            raise lane.full()
        self._post(submission, lane, hurry=not (is_first and submission.is_ordinary))

    def _pool_for(self, submission: Submission) -> NodePool | Unserved | None:
        node, slot = submission.node, submission.slot
        if node is not None:
            return self._nodes.pool_at(node)
        if self._state.topology is None or None in self._rows:
            return None
        if submission.may_read:
            return self._executor.attempts.pool_to_read_from(submission.request.call, ())
        pool = self._nodes.table[slot] if slot is not None else None
        return pool or self._executor.attempts.pool_for(submission.request.call)

    def _post(self, submission: Submission, lane: MultiplexedConnection, *, hurry: bool) -> None:
        """Send it. `hurry`: its deadline is nearer than that of most calls."""
        now = monotonic()
        waiter = Waiter(submission.data, self._loop.hub, min(now + submission.patience, submission.deadline))
        waiter.wake = partial(self._answered, submission, lane)
        full = lane.full() if lane.is_full() else lane.post(waiter)
        if full is not None:
            submission.settle(None, full)
            return
        submission.set_timer(lane.time(waiter) if hurry else None)

    def _answered(self, submission: Submission, lane: MultiplexedConnection, waiter: Waiter) -> None:
        """The reply is in, or an error instead. Called in the hub, once more if a signal handler raises in it."""
        reply = waiter.reply
        if not isinstance(reply, Exception):
            submission.settle(reply)
        elif not submission.is_done:
            request = submission.request
            met = classify(reply, submission.slot, lane.address, script=request.call.script)
            self._go_on(submission, self._judged(submission, met, lane.address), lane.address)
        waiter.leave()

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _queue_up(self, submission: Submission, pool: NodePool | None) -> None:
        row = self._rows.get(pool)
        if row is not None and len(row) >= self._state.options.max_in_flight:
            raise PoolFull(f"{len(row):,} submitted commands wait for a connection already")
        if pool is None:
            submission.expire_with(self._too_late_for_map)
        else:
            submission.expire_with(partial(_no_connection, pool.address))
        if row is None:
            row = deque()
            self._loop.spawn(self._see_to_row, row, pool)
            self._rows[pool] = row  # only now: to one without a greenlet nobody would see
        row.append(submission)

    def _see_to_row(self, row: deque[Submission], pool: NodePool | None) -> None:
        try:
            while row:
                if row[0].is_done:
                    row.popleft()
                elif pool is None:
                    self._wait_for_map(row)
                else:
                    self._wait_for_lane(row, pool)
        finally:
            if self._rows.get(pool) is row:
                del self._rows[pool]

    def _wait_for_lane(self, row: deque[Submission], pool: NodePool) -> None:
        """Send all that wait for this connection, in their order; if there is none, each goes on by itself."""
        latest = max(each.deadline for each in row)
        on_slow, (for_slot, _) = None, parted(row)
        if pool.read_only:
            latest = min(latest, monotonic() + IMPATIENCE)
        elif for_slot:
            on_slow = partial(self._executor.runtime.failover.attend_while_connecting, for_slot[0].slot, pool)
        try:
            lane = pool.wait_lane_number(_LANE, latest, on_slow)
        except GvClusterError as error:
            leaving, staying = parted(_drain(row))
            if on_slow is not None:  # the node may have lost its slots, for which these did not come
                row.extend(staying)
                staying = []
            for submission in leaving + staying:
                met = classify(own(error), submission.slot, pool.address)
                self._go_on(submission, self._judged(submission, met, pool.address), pool.address)
        else:
            for submission in _drain(row):
                self._post(submission, lane, hurry=True)

    def _wait_for_map(self, row: deque[Submission]) -> None:
        """Send all that wait for the first slot map to where they belong."""
        try:
            self._executor.attempts.wait_for_first_map(max(each.deadline for each in row))
        except TopologyUnavailable as error:
            self._no_map = error
            self._loop.sleep(_LOOK_AGAIN)
        except ClosedError as error:
            for submission in _drain(row):
                submission.settle(None, own(error))
        else:
            del self._rows[None]
            for submission in _drain(row):
                try:
                    self._dispatch(submission)
                except GvClusterError as error:  # none of them may keep the others from being sent
                    submission.settle(None, error)

    def _too_late_for_map(self) -> GvClusterError:
        if self._no_map is None:
            return TopologyUnavailable("no slot map in time")
        return own(self._no_map)

    # -- after the first attempt --------------------------------------------------------------------------------------

    def _judged(self, submission: Submission, met: Outcome, asked: Address) -> Outcome:
        """What was met, seen as of a read if it may be served by others."""
        if not submission.may_read:
            return met
        return self._nodes.readers.judge(met, submission.request.call, asked, ())

    def _go_on(self, submission: Submission, met: Outcome, asked: Address) -> None:
        """After an error: the end, or a second attempt."""
        if isinstance(met, Failed) or submission.node is not None or self._state.closing:
            self._end_with(submission, met.error)
        else:
            self._pursue(submission, met, asked)

    def _end_with(self, submission: Submission, error: GvClusterError) -> None:
        if self._state.closed:
            error = ClosedError("the cluster was closed", maybe_executed=error.maybe_executed)
        submission.settle(None, error)

    def _pursue(self, submission: Submission, met: Outcome | None = None, asked: Address | None = None) -> None:
        """Have a greenlet see to it from now on."""
        submission.set_timer(None)
        self._loop.spawn(self._see_to_it, submission, met, asked)

    def _see_to_it(self, submission: Submission, met: Outcome | None, asked: Address | None) -> None:
        request, executor = submission.request, self._executor
        try:
            if met is None:
                reply = executor.carry_out(request, submission.node)
            else:
                reply = executor.pursue(request, met, asked)
        except Exception as error:
            submission.settle(None, error)
        except BaseException:
            text = f"{request.call.name}: the greenlet that saw to it was killed"
            submission.settle(None, GvClusterError(text, maybe_executed=True))
            raise
        else:
            submission.settle(reply)


def _drain(row: deque[Submission]) -> list[Submission]:
    """Take all out of the row. Returns those that have not ended meanwhile."""
    waiting = [submission for submission in row if not submission.is_done]
    row.clear()
    return waiting


def _no_connection(address: Address) -> GvClusterError:
    return ConnectFailed(f"no connection to {address} in time", address=address)
