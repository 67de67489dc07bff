"""One execution of a pipeline: a block for each node, all nodes at once, and each command to an end of its own.

The caller parks once, and is woken once, when each command has its reply or its error. A node's block is answered by
the reader, in the hub; only where something went wrong is a greenlet begun, which decides for each command by the rules
of `execute`, waits, and sends those of one node together again, in their order. So a node in trouble holds up none of
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from gvcluster.core.address import Address
from gvcluster.core.outcome import Failed, Unserved, classify
from gvcluster.core.retry import Follow, Refetch, Retry
from gvcluster.errors import GvClusterError, ReplyTimeout, TopologyUnavailable
from gvcluster.net.executor import Executor, NextStep
from gvcluster.net.large import BULK
from gvcluster.net.loop import remaining
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool
from gvcluster.net.request import call_of
from gvcluster.net.volley import ASKING, NOTHING, Case, Entry, Volley, own
from gvcluster.net.waiter import Block
from gvcluster.options import CallOptions

# Seconds after the deadline by which every command has had its end, unless a signal handler has raised in the midst of
# telling: then the caller ends it.
_GRACE = 0.2


class Batch:
    """The commands of one execution, from here to their ends. Belongs to one hub."""

    def __init__(self, executor: Executor, entries: list[Entry], options: CallOptions) -> None:
        self._executor, self._entries, self._options = executor, entries, options
        self._state, self._loop, self._nodes = executor.runtime.state, executor.runtime.loop, executor.runtime.nodes
        self._began = monotonic()
        self._deadline = self._began + (options.get("timeout") or self._state.options.timeout)
        self._owed = len(entries)
        self._done = Event()
        self._volleys: set[Volley] = set()
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def wait(self) -> list[Any]:
        """Send all, and wait for the reply or the error of each.

        Blocks: until all have ended, or the deadline is over. A kill or Timeout there leaves the connections sound:
            what is unsent is not sent, the replies to the rest are dropped.
        """
        self._executor.active += 1
        try:
            if self._has_map():
                self._send(self._entries)
            if self._owed:
                self._loop.wait(self._done, remaining(self._deadline) + _GRACE)
        finally:
            self._executor.active -= 1
            self._abandon()
        return [self._result(entry) for entry in self._entries]

    def _result(self, entry: Entry) -> Any:
        if entry.reply is not NOTHING:
            return entry.reply
        return ReplyTimeout(f"{entry.command.name} had no reply in time", maybe_executed=True)

    def _abandon(self) -> None:
        """Nobody waits any more. Never switches."""
        if not self._owed:
            return
        for volley in self._volleys:
            volley.leave()
        for greenlet in self._greenlets:
            greenlet.kill(block=False)

    def _has_map(self) -> bool:
        """Whether there is a slot map. Else all commands have failed, each with an error of its own."""
        try:
            self._executor.wait_for_first_map(self._deadline)
        except GvClusterError as error:
            for entry in self._entries:
                self._settle(entry, own(error))
            return False
        return True

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send(self, entries: Iterable[Entry]) -> None:
        """Send each where it belongs now, those for one node as one block. Never switches."""
        blocks: dict[NodePool, list[Entry]] = {}
        unserved = []
        anybody: NodePool | None = None  # one node for all commands without a key
        for entry in entries:
            pool = self._pool_for(entry, anybody)
            if isinstance(pool, Unserved):
                self._case(entry).met = pool
                unserved.append(entry)
                continue
            if entry.slot is None and entry.node is None:
                anybody = pool
            blocks.setdefault(pool, []).append(entry)
        for pool, block in blocks.items():
            self._send_block(block, pool)
        if unserved:
            self._spawn(self._mend, unserved, None)

    def _send_block(self, entries: list[Entry], pool: NodePool) -> None:
        is_bulk = _is_bulk(entries)
        lane = (None if is_bulk else pool.lane) or pool.lane_for(is_bulk)
        if lane is None:
            self._spawn(self._open, entries, pool)
        else:
            self._post(lane, entries)

    def _pool_for(self, entry: Entry, anybody: NodePool | None) -> NodePool | Unserved:
        case, target = entry.case, entry.node
        if case is not None and case.target is not None:
            target = case.target.address
        if target is not None:
            return self._nodes.pool_at(target)
        if entry.slot is None:
            return anybody or self._executor.pool_for(self._case(entry).call)
        return self._nodes.table[entry.slot] or self._executor.pool_for(self._case(entry).call)

    def _open(self, entries: list[Entry], pool: NodePool) -> None:
        """Send over a connection that is not open yet."""
        slot = next((entry.slot for entry in entries if entry.slot is not None and entry.node is None), None)
        left = self._deadline - monotonic()
        on_slow = None if slot is None else partial(self._executor.runtime.failover.attend, slot, left)
        try:
            lane = pool.wait_lane_for(_is_bulk(entries), self._deadline, on_slow)
        except GvClusterError as error:
            for entry in entries:
                self._case(entry).met = classify(own(error), entry.slot, pool.address)
            self._mend(entries, pool.address)
        else:
            self._post(lane, entries)

    def _post(self, lane: MultiplexedConnection, entries: list[Entry]) -> None:
        parts = [ASKING + entry.data if entry.is_asking else entry.data for entry in entries]
        owed = len(parts) + sum(entry.is_asking for entry in entries)
        deadline = min(monotonic() + self._state.command_timeout, self._deadline)
        block = Block(b"".join(parts), owed, self._executor.hub, deadline)
        volley = Volley(block, entries, self._loop, self._answered)
        self._volleys.add(volley)
        full = volley.fire(lane)
        if full is not None:
            volley.leave()
            self._volleys.discard(volley)
            for entry in entries:
                self._case(entry).met = Failed(own(full))
            self._spawn(self._mend, entries, lane.address)

    def _answered(self, volley: Volley, failed: list[Entry]) -> None:
        """A block has come back. Called in the hub."""
        self._volleys.discard(volley)
        if failed:
            self._spawn(self._mend, failed, volley.lane.address)
        self._count_off(len(volley.entries) - len(failed))

    def _settle(self, entry: Entry, reply: Exception) -> None:
        entry.reply = reply
        self._count_off(1)

    def _count_off(self, settled: int) -> None:
        self._owed -= settled
        if not self._owed:
            self._done.set()

    def _spawn(self, function: Callable[..., None], *args: Any) -> None:
        self._greenlets.append(self._loop.spawn(function, *args))

    # -- after an error -----------------------------------------------------------------------------------------------

    def _case(self, entry: Entry) -> Case:
        if entry.case is None:
            call = call_of(entry.command, entry.slot, self._options, self._state, self._began)
            entry.case = Case(call)
        return entry.case

    def _mend(self, entries: list[Entry], asked: Address | None) -> None:
        """Decide for each, wait, and send again what is to be sent again. Runs in a greenlet of its own.

        What waits for a new slot map, which may take long, holds up only commands of the same slots.
        """
        steps: list[tuple[Entry, NextStep]] = []
        for entry in entries:
            try:
                steps.append((entry, self._judge(entry, asked)))
            except Exception as error:
                self._settle(entry, error)
        slow = {entry.slot for entry, step in steps if _waits_for_news(step)}
        self._go_on([each for each in steps if each[0].slot not in slow])
        self._go_on([each for each in steps if each[0].slot in slow])

    def _judge(self, entry: Entry, asked: Address | None) -> NextStep:
        case = self._case(entry)
        met, case.met = case.met, None
        if met is None:
            assert asked is not None
            met = classify(entry.reply, entry.slot, asked, script=entry.command.script)
        if entry.node is not None:
            raise met.error
        step = self._executor.judge(met, case.call, case.progress, asked)
        case.target = step if isinstance(step, Follow) else None
        return step

    def _go_on(self, steps: list[tuple[Entry, NextStep]]) -> None:
        """Wait, once for all, and send those again that have time left."""
        if steps:
            self._wait_before(steps)
        again = []
        for entry, _ in steps:
            case = self._case(entry)
            try:
                self._executor.stop_if_over(case.call, case.progress)
            except GvClusterError as error:
                self._settle(entry, error)
            else:
                again.append(entry)
        self._send(again)

    def _wait_before(self, steps: list[tuple[Entry, NextStep]]) -> None:
        call = self._case(steps[0][0]).call
        if any(isinstance(step, Refetch) for _, step in steps):
            try:
                self._executor.refetch(call)
            except TopologyUnavailable:
                pass  # then no time is left, and what each command had met is told
            return
        longest = max(step.after for _, step in steps if not isinstance(step, Refetch))
        if any(_waits_for_news(step) for _, step in steps):
            self._executor.runtime.failover.wait(call.slot, longest, call.deadline - monotonic())
        elif longest:
            self._executor.pause(longest)


def _waits_for_news(step: NextStep) -> bool:
    return isinstance(step, Refetch) or (isinstance(step, Retry) and step.for_news)


def _is_bulk(entries: list[Entry]) -> bool:
    """Whether the block goes by the lane for large commands: as a whole, for it is one write and keeps its order."""
    return any(len(entry.data) > BULK for entry in entries)
