"""MULTI … EXEC on a connection: one entry of its line, so that nothing of anybody else can come in between.

Two dangers, and what is done about each. A server or proxy that refuses MULTI would execute the commands one by one:
so the first transaction of a connection sends an empty one ahead, alone, and waits for its replies. And a connection
that is still inside MULTI after EXEC would queue the commands of others, and answer QUEUED to them: so whether it is
over is seen in the hub, as the last reply comes, also when the caller has left long ago; if not, the connection ends.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from gevent.event import Event

from gvcluster.core.commands import Command
from gvcluster.core.multi import EXEC, MULTI, PROBE, is_over, result_of
from gvcluster.core.outcome import Failed, Outcome, classify
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call
from gvcluster.errors import GvClusterError, ReplyError, ReplyTimeout
from gvcluster.net.loop import GRACE, HubLoop, remaining
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.waiter import Block
from gvcluster.records import Record

ASKING = encode(("ASKING",))
_ALL = slice(None)


class Work(Record):
    """A transaction, ready to be sent. `data`: from MULTI to EXEC; `count`: how many commands are between them,
    `scripts`: whether each of them runs code of others."""

    _unsaid = ("data",)
    data: bytes
    count: int
    call: Call
    scripts: tuple[bool, ...]

    @classmethod
    def of(cls, commands: list[tuple[bytes, Command]], call: Call) -> Work:
        """Put packed commands between MULTI and EXEC."""
        data = b"".join((MULTI, *(packed for packed, _ in commands), EXEC))
        return cls(data, len(commands), call, tuple(command.script for _, command in commands))


class Exchange:
    """A block that ends with EXEC, from here to its replies."""

    __slots__ = ("_block", "_lane", "_loop", "_part", "_replied")

    def __init__(self, data: bytes, owed: int, loop: HubLoop, deadline: float, part: slice = _ALL) -> None:
        """The deadline is absolute. `part`: which of the replies are those of MULTI, the commands, and EXEC."""
        self._loop, self._part = loop, part
        self._block = Block(data, owed, loop.hub, deadline)
        self._block.wake = self._told  # type: ignore[assignment]  # it is this block that it is called with
        self._replied = Event()

    def wait(self, lane: MultiplexedConnection) -> list[Any] | GvClusterError:
        """Send it, and wait for all replies; or what came instead.

        Blocks: until then, or the deadline. A kill or Timeout leaves the connection sound: what is unsent is not sent,
            else the replies are looked at and dropped.
        """
        self._loop.refuse_to_wait_in_hub()
        self._lane, block, timer = lane, self._block, None
        if block.deadline <= monotonic():  # what is sent now would only be ambiguous
            return ReplyTimeout(f"no reply from {lane.address} in time: nothing was sent yet", address=lane.address)
        try:
            full = lane.post(block)
            if full is not None:
                return full
            timer = lane.time(block)
            self._loop.wait(self._replied, remaining(block.deadline) + GRACE)
        finally:
            if lane.give_up(block):
                block.leave()
            if timer is not None:
                self._loop.end(timer)
        if not block.owed:
            lane.commands += len(block.earlier)
            return [*block.earlier, block.reply]
        if isinstance(block.reply, GvClusterError):
            return block.reply
        return ReplyTimeout(f"no reply from {lane.address} in time", address=lane.address, maybe_executed=True)

    def _told(self, block: Block) -> None:
        """All replies are in, or no more will come for the caller. Called in the hub, perhaps twice."""
        if not block.owed:
            block.wake = None
            if not is_over([*block.earlier, block.reply][self._part]):
                self._lane.close(ConnectionError("it may still be inside MULTI"))
        self._replied.set()


def send(work: Work, lane: MultiplexedConnection, loop: HubLoop, patience: float, *, asking: bool) -> Any:
    """Send a transaction once over a connection that others may share. EXEC's list, or how the attempt ended instead.

    Blocks: as `Exchange.wait`.
    """
    if not lane.takes_multi:
        met = _prove(lane, loop, _deadline(patience, work.call))
        if met is not None:
            return met
    data = ASKING + work.data if asking else work.data
    exchange = Exchange(data, work.count + 2 + asking, loop, _deadline(patience, work.call), slice(asking, None))
    replies = exchange.wait(lane)
    if isinstance(replies, GvClusterError):
        return classify(replies, work.call.slot, lane.address)
    result = result_of(replies[asking:], work.call.slot, lane.address, work.scripts)
    if asking and isinstance(replies[0], ReplyError) and isinstance(result, Outcome):
        return classify(replies[0], work.call.slot, lane.address)  # ASKING was refused: that explains the rest
    return result


def _deadline(patience: float, call: Call) -> float:
    return min(monotonic() + patience, call.deadline)


def _prove(lane: MultiplexedConnection, loop: HubLoop, deadline: float) -> Outcome | None:
    """See that the connection takes transactions. What is wrong if it does not; nothing was executed then."""
    return proved_by(Exchange(PROBE, 2, loop, deadline).wait(lane), lane)


def proved_by(replies: list[Any] | GvClusterError, lane: MultiplexedConnection) -> Outcome | None:
    """Take what came of the empty transaction, or of what began with it. Returns what is wrong, if anything."""
    if isinstance(replies, GvClusterError):
        replies.maybe_executed = False
        return classify(replies, None, lane.address)
    result = result_of(replies[:2], None, lane.address)
    if isinstance(result, Outcome):
        result.error.maybe_executed = False
        return Failed(result.error) if not is_over(replies[:2]) else result
    lane.takes_multi = True
    return None
