"""What is said over one lent connection: commands that nobody waits for at once, and what comes back, in its order."""

from __future__ import annotations

import math
from collections import deque
from sys import maxsize
from time import monotonic
from typing import Any

from gevent.event import Event

from gvcluster.errors import ConnectionLost, ReplyTimeout
from gvcluster.net.loop import YEAR, HubLoop
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.waiter import Block, Waiter

_OBJECT = 50  # bytes that an object takes besides its contents, roughly


class Conversation:
    """One borrower's sends and receives.

    At first each command is owed one reply. From the command that ends this (SUBSCRIBE, MONITOR …) it is a *stream*:
    whatever comes is received in the order in which it came, pushes of RESP3 included. For the connection the command
    is a block that is owed replies for ever. Who sends then is not asked whether anybody wants it: if nobody receives
    it, the connection ends before the memory does.
    """

    __slots__ = ("_arrived", "_connection", "_loop", "_most", "_news", "_owed", "_size", "is_stream")

    def __init__(self, connection: MultiplexedConnection, loop: HubLoop, most: int) -> None:
        """most: so many bytes of a stream are kept."""
        self._connection, self._loop, self._most = connection, loop, most
        self._arrived: deque[tuple[Any, int]] = deque()  # and how much memory it takes; only of a stream
        self._size = 0
        self._owed: dict[Waiter, float] = {}  # and how long the server may wait by itself, in seconds
        self._news = Event()
        self.is_stream = False

    def __repr__(self) -> str:
        return f"<Conversation {len(self._owed)} owed, {len(self._arrived)} arrived{', stream' * self.is_stream}>"

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is left to be received."""
        return not (self.is_stream or self._owed or self._arrived)

    def send(self, data: bytes, server_wait: float) -> None:
        """Send one command. Never switches."""
        waiter = Waiter(data, self._loop.hub, math.inf)
        if self.is_stream:
            waiter.wake = _ignore
        else:
            self._owed[waiter] = server_wait
            waiter.wake = self._answered
        self._connection.post(waiter)

    def begin_stream(self, data: bytes) -> None:
        """Send one command after which anything may come. Never switches."""
        if self.is_stream:
            self.send(data, 0.0)
            return
        self.is_stream = True
        block = Block(data, maxsize, self._loop.hub, math.inf)
        block.earlier = _Inbox(self)
        block.wake = self._answered
        self._connection.on_push = self.arrive
        self._connection.post_stream(block)

    def arrive(self, item: Any) -> None:
        """Something of a stream has come. Called in the hub."""
        if self._connection.closed:
            return
        size = _size(item)
        self._keep(item, size)
        if self._size > self._most:
            what = f"nobody received what came, and it is more than max_queued_bytes ({self._most:,})"
            self._connection.close(BufferError(what))

    def _keep(self, item: Any, size: int = 0) -> None:
        self._arrived.append((item, size))
        self._size += size
        self._news.set()

    def _answered(self, waiter: Waiter) -> None:
        """A reply is in, or the connection has ended. Called in the hub; once more if a signal handler raises in it."""
        waiter.leave()
        if self._owed.pop(waiter, None) is not None or isinstance(waiter, Block):
            self._keep(waiter.reply)

    def receive(self, patience: float | None) -> Any:
        """Wait for the next that comes, so many seconds; None: for ever, plus the server's own wait in any case.

        Raises:
            ReplyTimeout: nothing came. It can still be received later.
            ConnectionLost: the connection ended, and all that came before is received.
        """
        server_wait = next(iter(self._owed.values()), 0.0)
        until = monotonic() + (math.inf if patience is None else patience + server_wait)
        while not self._arrived:
            address = self._connection.address
            if self._connection.closed and (self._loop.is_copy or not self._owed):  # a copy is told of no end
                text, is_owed = f"the connection to {address} has ended", bool(self._owed)
                raise ConnectionLost(text, address=address, maybe_executed=is_owed)
            self._news.clear()
            if not self._loop.wait(self._news, min(YEAR, until - monotonic())):
                raise ReplyTimeout(f"nothing came from {address} in time", address=address, maybe_executed=True)
        item, size = self._arrived.popleft()
        self._size -= size
        return item


class _Inbox(list[Any]):
    """Where a block puts its replies; they are handed on instead."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__()
        self.append = conversation.arrive  # type: ignore[method-assign]


def _size(item: Any) -> int:
    """Bytes of memory, roughly. Never nested deeper than the parser bears."""
    if isinstance(item, bytes | str):
        return _OBJECT + len(item)
    if isinstance(item, dict):
        return _OBJECT + sum(map(_size, item)) + sum(map(_size, item.values()))
    return _OBJECT + (sum(map(_size, item)) if isinstance(item, list | tuple | set) else 0)


def _ignore(_waiter: Waiter) -> None:
    """In a stream nothing says which reply belongs to which command."""
