"""A node's block of a pipeline that is under way, and the commands in it."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from gvcluster.core.address import Address
from gvcluster.core.commands import Command
from gvcluster.core.outcome import Outcome
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call, Follow, Progress
from gvcluster.errors import GvClusterError, PoolFull, ReplyError
from gvcluster.net.loop import HubLoop
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.waiter import Block

ASKING = encode(("ASKING",))
NOTHING: Any = object()  # no reply yet: None is one


class Case:
    """What a command has met that did not go straight to its reply."""

    __slots__ = ("call", "met", "progress", "target")

    def __init__(self, call: Call) -> None:
        self.call, self.progress = call, Progress()
        self.target: Follow | None = None  # None: by the slot map
        self.met: Outcome | None = None  # where it was not a reply


class Entry:
    """One command of a pipeline; at the end `reply` is its reply or its error. `node`: that one only."""

    __slots__ = ("case", "command", "data", "node", "reply", "slot")

    def __init__(self, data: bytes, command: Command, slot: int | None, node: Address | None = None) -> None:
        self.data, self.command, self.slot, self.node = data, command, slot, node
        self.case: Case | None = None
        self.reply: Any = NOTHING

    @property
    def is_asking(self) -> bool:
        """Whether ASKING goes in front of it."""
        return self.case is not None and self.case.target is not None and self.case.target.asking


class Volley:
    """A node's block that is under way."""

    __slots__ = ("_answered", "_block", "_is_over", "_loop", "_timer", "entries", "lane")

    def __init__(
        self, block: Block, entries: list[Entry], loop: HubLoop, answered: Callable[[Volley, list[Entry]], object]
    ) -> None:
        self.entries, self._loop = entries, loop
        self._block, self._answered, self._is_over = block, answered, False
        block.wake = self._end  # type: ignore[assignment]  # it is this block that it is called with
        self._timer: Any = None

    def fire(self, lane: MultiplexedConnection) -> PoolFull | None:
        """Send it. Returns PoolFull if there is no room for it."""
        self.lane = lane
        self._timer = lane.time(self._block)
        return lane.post(self._block)

    def leave(self) -> None:
        """Wait no longer: unsent, it will not be sent; sent, its replies will be dropped. Never switches."""
        self._is_over = True
        self._block.leave()
        self.lane.give_up(self._block)
        self._loop.end(self._timer)

    def _end(self, block: Block) -> None:
        """All replies are in, or no more will come. Called in the hub."""
        if not self._is_over:
            failed = self._share_out(block)
            if not block.owed:
                self.lane.commands += len(self.entries) - 1
            self.leave()
            self._answered(self, failed)

    def _share_out(self, block: Block) -> list[Entry]:
        """Give each command what came for it. Returns those that got an error."""
        replies = block.earlier if block.owed else [*block.earlier, block.reply]
        if len(replies) == len(self.entries) and not block.owed:
            for entry, reply in zip(self.entries, replies, strict=True):
                entry.reply = reply
        else:
            self._share_out_carefully(block, replies)
        return [entry for entry in self.entries if isinstance(entry.reply, Exception)]

    def _share_out_carefully(self, block: Block, replies: list[Any]) -> None:
        """Some have two replies, or none came for them. Not executed is what the kernel did not take wholly."""
        at, end, sent = 0, 0, len(block.data) - block.unsent
        for entry in self.entries:
            width = 1 + entry.is_asking
            end += len(entry.data) + len(ASKING) * entry.is_asking
            mine, at = replies[at : at + width], at + width
            if len(mine) == width:
                entry.reply = _first_refusal(mine)
            else:
                entry.reply = own(block.reply)
                entry.reply.maybe_executed = end <= sent if block.unsent else block.reply.maybe_executed


def own(error: GvClusterError) -> GvClusterError:
    """An error that several commands share, as an exception object of one's own."""
    twin = copy(error)
    twin.__cause__ = error.__cause__
    return twin


def _first_refusal(replies: list[Any]) -> Any:
    """The command's reply; but where ASKING was refused, too, say what was wrong first."""
    asking, reply = replies[0], replies[-1]
    return asking if isinstance(asking, ReplyError) and isinstance(reply, ReplyError) else reply
