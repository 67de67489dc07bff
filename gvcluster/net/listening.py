"""A connection that was opened like any other, and that from now on only listens: what comes answers nobody."""

from __future__ import annotations

import math
from time import monotonic
from typing import Any, Protocol

from gvcluster.core.resp import INCOMPLETE
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.waiter import Waiter


class Listener(Protocol):
    """Whom a connection tells. Both are called where nothing may switch or raise."""

    def take(self, item: Any) -> None:
        """A reply or a push, in the order in which they came. In the hub."""

    def ended(self, cause: BaseException | None) -> None:
        """The connection has ended. In anybody's frame, perhaps more than once."""


class ListeningConnection(MultiplexedConnection):
    """A MultiplexedConnection after `listen_on`. In RESP2 messages look like replies, and several replies can answer
    one command: so none is matched with a waiter here, and everything goes to the listener in order.

    It never keeps the loop alive: whoever waits for a message does.
    """

    __slots__ = ()

    def send(self, data: bytes) -> None:
        """Send a packed command. Never switches."""
        waiter = Waiter(data, self._hub, math.inf)
        waiter.wake = _nobody
        self.post(waiter)

    @property
    def heard(self) -> float:
        """When the last byte came, on the monotonic clock."""
        return self._heard

    def _begin(self) -> None:
        """Nothing will be owed: what is sent is no sign of life, and an end of the stream is seen at once anyway."""

    def _write(self, data: bytes, commands: int) -> None:
        super()._write(data, commands)
        self._let_loop_end()

    def _let_loop_end(self) -> None:
        """Forget who was sent: nobody waits for a reply."""
        if not self._is_stuck:
            self._line.clear()
        super()._let_loop_end()

    def _deliver(self) -> int:
        """Give each item to the listener, until none is left or the turn is over. Returns how many."""
        gets, ends, listener = self._reader.gets, self._loop.turn_ends(), self.listener
        count = 0
        while (item := gets()) is not INCOMPLETE:
            count += 1
            listener.take(item)
            if self.closed:
                return count
            if not count & 31 and monotonic() > ends:
                self._readable.stop()
                self._again.start(self._resume)
                return count
        return count

    def _clear_away(self) -> None:
        super()._clear_away()
        self.listener.ended(self._cause)


def listen_on(connection: MultiplexedConnection, listener: Listener) -> ListeningConnection:
    """Turn a connection on which nothing is in flight into one that listens. There is no way back."""
    connection.listener = listener
    # It has its pool, its place among those that a fork closes, perhaps a TLS session: everything but its job remains.
    connection.__class__ = ListeningConnection
    assert isinstance(connection, ListeningConnection)
    return connection


def _nobody(_waiter: Waiter) -> None:
    pass
