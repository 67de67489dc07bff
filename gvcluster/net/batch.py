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
from greenlet import getcurrent

from gvcluster.call_options import CallOptions
from gvcluster.core.address import Address
from gvcluster.core.outcome import Failed, Forgotten, Unserved, classify
from gvcluster.core.retry import Follow, Refetch, Retry
from gvcluster.errors import GvClusterError, TopologyUnavailable
from gvcluster.net.executor import Executor, NextStep
from gvcluster.net.large import BULK
from gvcluster.net.loop import GRACE, remaining
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool
from gvcluster.net.request import call_of
from gvcluster.net.targets import Targets, read_policy_of
from gvcluster.net.volley import NOTHING, Case, Entries, Entry, Numbers, Rows, Volley, is_bulk, late, own, parted
from gvcluster.net.waiter import Block
from gvcluster.records import replace


def run(executor: Executor, rows: Rows, options: CallOptions) -> list[Any]:
    """Execute the commands, and return the reply or the error of each. Raises BlockedInHub."""
    executor.runtime.loop.refuse_to_wait_in_hub()
    return Batch(executor, rows, options).wait() if rows else []


class Batch:
    """The commands of one execution, from here to their ends. Belongs to one hub."""

    def __init__(self, executor: Executor, rows: Rows, options: CallOptions) -> None:
        self._executor, self._rows, self._options = executor, rows, options
        self._replies: list[Any] = [NOTHING] * len(rows)
        self._entries: dict[int, Entry] = {}  # of those that have met something, or went another way than most
        self._state, self._loop, self._nodes = executor.runtime.state, executor.runtime.loop, executor.runtime.nodes
        self._read_from = read_policy_of(rows.commands, options, self._state)
        self._began = monotonic()
        self._deadline = self._began + (options.get("timeout") or self._state.options.timeout)
        self._owed, self._caller = len(rows), getcurrent()
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
            if self._has_map() and not self._send_rows():
                self._send(self._all_entries())
            if self._owed:
                self._loop.wait(self._done, remaining(self._deadline) + GRACE)
        finally:
            self._executor.active -= 1
            self._abandon()
        for number, entry in self._entries.items():
            self._replies[number] = entry.end
        if self._owed:
            entry_at, ends = self._entries.get, self._replies
            self._replies = [each if each is not NOTHING else late(entry_at(at)) for at, each in enumerate(ends)]
        return self._replies

    def _entry(self, number: int) -> Entry:
        entry = self._entries[number] = self._rows.entry(number)
        return entry

    def _all_entries(self) -> list[Entry]:
        return [self._entry(number) for number in range(len(self._rows))]

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
            self._executor.attempts.wait_for_first_map(self._deadline)
        except GvClusterError as error:
            for entry in self._all_entries():
                self._settle(entry, own(error))
            return False
        return True

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send_rows(self) -> bool:
        """Send all by their slots, if all have one that is served. Else nothing is done. Never switches."""
        if self._rows.nodes or self._rows.scripts:
            return False
        blocks: dict[NodePool | None, list[int]] = {}
        for number, pool in enumerate(self._targets().by_slots(self._rows.slots)):
            if pool in blocks:
                blocks[pool].append(number)
            else:
                blocks[pool] = [number]
        if None in blocks:
            return False
        for pool, numbers in blocks.items():
            assert pool is not None
            self._send_numbers(numbers, pool)
        return True

    def _send_numbers(self, numbers: list[int], pool: NodePool) -> None:
        parts = [self._rows.data[number] for number in numbers]
        block = b"".join(parts)
        is_large = len(block) > BULK and max(map(len, parts)) > BULK
        lane = (None if is_large else pool.lane) or pool.lane_for(is_large, self._caller)
        if lane is None:
            self._spawn(self._open, [self._entry(number) for number in numbers], pool)
        else:
            self._fire(lane, block, len(numbers), Numbers(numbers, self._replies, self._entry))

    def _send(self, entries: Iterable[Entry]) -> None:
        """Send each where it belongs now, those for one node as one block. Never switches."""
        blocks: dict[NodePool, list[Entry]] = {}
        unserved = []
        targets = self._targets()
        for entry in entries:
            pool = targets.of(entry)
            if isinstance(pool, Unserved):
                self._case(entry).met = pool
                unserved.append(entry)
                continue
            blocks.setdefault(pool, []).append(entry)
        for pool, block in blocks.items():
            self._send_block(block, pool)
        if unserved:
            self._spawn(self._mend, unserved, None)

    def _targets(self) -> Targets:
        return Targets(self._executor, self._read_from, self._case)

    def _send_block(self, entries: list[Entry], pool: NodePool) -> None:
        is_large = is_bulk(entries)
        lane = (None if is_large else pool.lane) or pool.lane_for(is_large, self._caller)
        if lane is None:
            self._spawn(self._open, entries, pool)
        else:
            self._post(lane, entries)

    def _open(self, entries: list[Entry], pool: NodePool) -> None:
        """Send over a connection that is not open yet."""
        for_slot, for_node = parted(entries)
        slot = next((entry.slot for entry in for_slot if entry.slot is not None), None)
        deadline, on_slow = self._deadline, None
        if pool.read_only:
            deadline = self._executor.attempts.opened_by(self._case(entries[0]).call, pool, ())
        elif slot is not None:
            on_slow = partial(self._executor.runtime.failover.attend_while_connecting, slot, pool)
        try:
            lane = pool.wait_lane_for(is_bulk(entries), deadline, on_slow, self._caller)
        except GvClusterError as error:
            if on_slow is not None and for_node:  # the node may have lost its slots, for which these did not come
                self._spawn(self._open, for_node, pool)
                entries = for_slot
            for entry in entries:
                self._case(entry).met = classify(own(error), entry.slot, pool.address)
            self._mend(entries, pool.address)
        else:
            self._post(lane, entries)

    def _post(self, lane: MultiplexedConnection, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.script is not None:
                entry.data = self._executor.attempts.scripts.bytes_for(entry.script, lane)
        parts = [entry.sent for entry in entries]
        owed = len(parts) + sum(entry.is_asking for entry in entries)
        self._fire(lane, b"".join(parts), owed, Entries(entries))

    def _fire(self, lane: MultiplexedConnection, data: bytes, owed: int, load: Entries | Numbers) -> None:
        deadline = min(monotonic() + self._state.command_timeout, self._deadline)
        block = Block(data, owed, self._executor.hub, deadline)
        volley = Volley(block, load, self._loop, self._answered)
        self._volleys.add(volley)
        full = volley.fire(lane)
        if full is None:
            return
        volley.leave()
        self._volleys.discard(volley)
        block.reply = full
        entries = load.share_out(block)
        for entry in entries:
            self._case(entry).met = Failed(own(full))
        self._spawn(self._mend, entries, lane.address)

    def _answered(self, volley: Volley, failed: list[Entry]) -> None:
        """A block has come back. Called in the hub."""
        self._volleys.discard(volley)
        if self._read_from is not None and not failed:
            self._nodes.readers.is_well(volley.lane.address)
        if failed:
            self._spawn(self._mend, failed, volley.lane.address)
        self._count_off(len(volley.load) - len(failed))

    def _settle(self, entry: Entry, reply: Exception) -> None:
        entry.reply, entry.is_told = reply, True
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
            entry.case = Case(call if self._read_from is not None else replace(call, read_from=None))
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
            met = self._executor.attempts.scripts.judge(met, entry.script, asked, case.call)
        if entry.node is not None and not isinstance(met, Forgotten):
            raise met.error
        if case.call.read_from is not None and case.target is None and asked is not None:
            met = self._nodes.readers.judge(met, case.call, asked, case.progress.avoided)
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
            self._executor.runtime.failover.wait(call.slot, longest, call.longest_wait(longest, monotonic()))
        elif longest:
            self._executor.pause(longest)


def _waits_for_news(step: NextStep) -> bool:
    return isinstance(step, Refetch) or (isinstance(step, Retry) and step.for_news)
