"""A node's block of a pipeline that is under way, and the commands in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any, Protocol, TypeVar

from gvcluster.core.address import Address
from gvcluster.core.commands import Command
from gvcluster.core.outcome import Outcome
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call, Follow, Progress
from gvcluster.errors import GvClusterError, PoolFull, ReplyError, ReplyTimeout
from gvcluster.net.large import BULK
from gvcluster.net.loop import HubLoop
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.scripting import ScriptCall
from gvcluster.net.waiter import Block

ASKING = encode(("ASKING",))
NOTHING: Any = object()  # no reply yet: None is one


class _HasNode(Protocol):
    @property
    def node(self) -> Address | None: ...  # the only one that may be asked


_Placed = TypeVar("_Placed", bound=_HasNode)


class Case:
    """What a command has met that did not go straight to its reply."""

    __slots__ = ("call", "met", "progress", "target")

    def __init__(self, call: Call) -> None:
        self.call, self.progress = call, Progress()
        self.target: Follow | None = None  # None: by the slot map
        self.met: Outcome | None = None  # where it was not a reply


class Entry:
    """One command of a pipeline; at the end `reply` is its reply or its error. `node`: that one only.

    `script`: what it calls, where the connection decides how. `is_told`: its error is the caller's, and not only that
    of an attempt.
    """

    __slots__ = ("case", "command", "data", "is_told", "node", "reply", "script", "slot")

    def __init__(self, data: bytes, command: Command, slot: int | None, node: Address | None = None) -> None:
        self.data, self.command, self.slot, self.node = data, command, slot, node
        self.case: Case | None = None
        self.script: ScriptCall | None = None
        self.reply: Any = NOTHING
        self.is_told = False

    @property
    def end(self) -> Any:
        """What the caller is told; NOTHING as long as another attempt may be under way."""
        return self.reply if self.is_told or not isinstance(self.reply, Exception) else NOTHING

    @property
    def only_at(self) -> Address | None:
        """The node that it must go to: where a redirect leads, or the user says."""
        case = self.case
        return case.target.address if case is not None and case.target is not None else self.node

    @property
    def is_asking(self) -> bool:
        """Whether ASKING goes in front of it."""
        return self.case is not None and self.case.target is not None and self.case.target.asking

    @property
    def sent(self) -> bytes:
        """Its bytes, with ASKING in front if needed."""
        return ASKING + self.data if self.is_asking else self.data


class Rows:
    """Commands to send, as columns: a command that meets no trouble needs no object of its own.

    nodes: those that go to one node only, and the address of each. scripts: those where the connection decides how they
    are sent.
    """

    __slots__ = ("commands", "data", "nodes", "scripts", "slots")

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.commands: list[Command] = []
        self.slots: list[int | None] = []
        self.nodes: dict[int, Address] = {}
        self.scripts: dict[int, ScriptCall] = {}

    def __len__(self) -> int:
        return len(self.data)

    def add(self, data: bytes, command: Command, slot: int | None, node: Address | None = None) -> None:
        """Put one more at the end."""
        if node is not None:
            self.nodes[len(self.data)] = node
        self.commands.append(command)
        self.slots.append(slot)
        self.data.append(data)

    def entry(self, number: int) -> Entry:
        """One of them as an object."""
        entry = Entry(self.data[number], self.commands[number], self.slots[number], self.nodes.get(number))
        entry.script = self.scripts.get(number)
        return entry


class Entries:
    """The commands of a block, each as an Entry."""

    __slots__ = ("entries",)

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def share_out(self, block: Block) -> list[Entry]:
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


class Numbers:
    """The commands of a block, each as its number among the Rows. They become Entries only if one got an error."""

    __slots__ = ("_entry", "_numbers", "_replies")

    def __init__(self, numbers: list[int], replies: list[Any], entry: Callable[[int], Entry]) -> None:
        self._numbers, self._replies, self._entry = numbers, replies, entry

    def __len__(self) -> int:
        return len(self._numbers)

    def share_out(self, block: Block) -> list[Entry]:
        """Put what came for each command into `replies`. Returns those that got an error."""
        has_failed = block.owed > 0
        if not has_failed:
            replies = self._replies
            for number, reply in zip(self._numbers, [*block.earlier, block.reply], strict=True):
                replies[number] = reply
                if isinstance(reply, Exception):
                    has_failed = True
        return Entries([self._entry(number) for number in self._numbers]).share_out(block) if has_failed else []


class Volley:
    """A node's block that is under way."""

    __slots__ = ("_answered", "_block", "_is_over", "_loop", "_timer", "lane", "load")

    def __init__(
        self, block: Block, load: Entries | Numbers, loop: HubLoop, answered: Callable[[Volley, list[Entry]], object]
    ) -> None:
        self.load, self._loop = load, loop
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
            failed = self.load.share_out(block)
            if not block.owed:
                self.lane.commands += len(self.load) - 1
            self.leave()
            self._answered(self, failed)


def is_bulk(entries: list[Entry]) -> bool:
    """Whether the block goes by the lane for large commands: as a whole, for it is one write and keeps its order."""
    return any(len(entry.data) > BULK for entry in entries)


def parted(commands: Iterable[_Placed]) -> tuple[list[_Placed], list[_Placed]]:
    """Those that came for a slot or whatever node, and those that came for this node."""
    listed = list(commands)
    return [each for each in listed if each.node is None], [each for each in listed if each.node is not None]


def late(entry: Entry | None) -> ReplyTimeout:
    """The hub was late: nobody has ended this command. What its last attempt met tells nothing of the next one."""
    error = ReplyTimeout("no reply in time", maybe_executed=True)
    error.__cause__ = entry.reply if entry is not None and isinstance(entry.reply, Exception) else None
    return error


def own(error: GvClusterError) -> GvClusterError:
    """An error that several commands share, as an exception object of one's own."""
    twin = copy(error)
    twin.__cause__ = error.__cause__
    return twin


def _first_refusal(replies: list[Any]) -> Any:
    """The command's reply; but where ASKING was refused, too, say what was wrong first."""
    asking, reply = replies[0], replies[-1]
    return asking if isinstance(asking, ReplyError) and isinstance(reply, ReplyError) else reply
