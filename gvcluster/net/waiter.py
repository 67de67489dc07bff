"""Waiters: the calls that stand in the queue and in the line of a multiplexed connection."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from gevent.hub import Hub
from gevent.hub import Waiter as Parking

from gvcluster.core.resp import INCOMPLETE, Push


class Waiter:
    """One call: its bytes, whom to wake, and at the end its reply.

    It parks with gevent's own Waiter, which is C: a wake that comes before the park (because a `__del__`, say, that a
    collection ran after queueing, waited for something) is kept; one that comes twice, or late, switches to nobody.
    """

    __slots__ = ("data", "deadline", "is_queued", "parking", "reply", "scheduled", "unsent", "wake")
    unsent: int  # of a Block

    def __init__(self, data: bytes, hub: Hub, deadline: float) -> None:
        self.data = data
        self.parking: Parking[Any] = Parking(hub)  # each of its bound methods would be 64 bytes more
        # Called by the hub as wake(waiter). Who does not park puts a function here, which must bear to be called twice:
        # a signal handler that raises in it has it called again. Whoever stops waiting sets it to None.
        self.wake: Callable[[Waiter], object] | None = _unpark
        self.deadline = deadline
        self.is_queued = True  # until the flush takes it out of the queue, or it is given up there: nothing is sent yet
        self.reply: Any = None
        self.scheduled: Any = None  # the loop's callback that will wake, where the reader does not do it itself

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits, and is not told yet."""
        return self.wake is not None and self.scheduled is None

    def wake_later(self, soon: Callable[..., Any]) -> None:
        """Have the loop wake it. Who parks is woken by C alone: no signal handler can come between and lose it."""
        if self.wake is not None and self.scheduled is None:
            self.scheduled = soon(self.parking.switch if self.wake is _unpark else self.wake, self)

    def leave(self) -> None:
        """Wait no longer. Unsent, it will not be sent; sent, its reply will be dropped."""
        self.wake = None
        if self.scheduled is not None:
            self.scheduled.stop()

    def abandon(self) -> None:
        """Never wake it. What would have woken it is kept: a parked greenlet that is collected runs its `finally`s."""
        self.reply = (self.wake, self.parking, self.reply)
        self.leave()


def _unpark(waiter: Waiter) -> None:
    waiter.parking.switch(waiter)


class Block(Waiter):
    """Several commands sent as one, owed one reply each. `reply` is the last one, `earlier` has those before it.

    `unsent`: when the connection was lost, so many of its last bytes were not with the kernel, though the first were.
    """

    __slots__ = ("earlier", "owed")

    def __init__(self, data: bytes, owed: int, hub: Hub, deadline: float) -> None:
        super().__init__(data, hub, deadline)
        self.owed = owed
        self.unsent = 0
        self.earlier: list[Any] = []

    def is_complete_with(self, reply: object) -> bool:
        """Count a reply. It is kept here unless it is the last one, or nobody waits any more."""
        self.owed -= 1
        if self.owed and self.wake is not None:
            self.earlier.append(reply)
        return not self.owed

    def take(self, gets: Callable[[], Any], on_push: Callable[[Push], object] | None) -> int:
        """Take the replies that have come already, but for the last one that is owed. Returns how many.

        In C, if somebody waits for them: one by one they cost three times as much.
        """
        if self.wake is None:
            return 0
        before = len(self.earlier)
        try:
            self.earlier.extend(islice(iter(gets, INCOMPLETE), self.owed - 1))
        finally:  # where the bytes are none of RESP any more, those before them are replies
            came = self._keep_replies(before, on_push)
        return came

    def _keep_replies(self, before: int, on_push: Callable[[Push], object] | None) -> int:
        """Count what was taken, and take the pushes out of it: they answer nobody. Returns how many came."""
        came = self.earlier[before:]
        if Push in map(type, came):
            self.earlier[before:] = [each for each in came if type(each) is not Push]
        self.owed -= len(self.earlier) - before
        if len(self.earlier) - before < len(came) and on_push is not None:
            for each in came:
                if type(each) is Push:
                    on_push(each)
        return len(came)
