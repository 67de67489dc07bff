"""Waiters: the calls that stand in the queue and in the line of a multiplexed connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.hub import Hub
from gevent.hub import Waiter as Parking


class Waiter:
    """One call: its bytes, whom to wake, and at the end its reply.

    It parks with gevent's own Waiter, which is C: a wake that comes before the park (because a `__del__`, say, that a
    collection ran after queueing, waited for something) is kept; one that comes twice, or late, switches to nobody.
    """

    __slots__ = ("data", "deadline", "is_queued", "park", "reply", "scheduled", "unsent", "wake")
    unsent: int  # of a Block

    def __init__(self, data: bytes, hub: Hub, deadline: float) -> None:
        self.data = data
        parking: Parking[Any] = Parking(hub)
        self.park: Callable[[], Any] = parking.get
        # Called by the hub as wake(waiter). Who does not park puts a function here, which must bear to be called twice:
        # a signal handler that raises in it has it called again. Whoever stops waiting sets it to None.
        self.wake: Callable[[Waiter], object] | None = parking.switch
        self.deadline = deadline
        self.is_queued = True  # until the flush takes it out of the queue, or it is given up there: nothing is sent yet
        self.reply: Any = None
        self.scheduled: Any = None  # the loop's callback that will wake, where the reader does not do it itself

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits, and is not told yet."""
        return self.wake is not None and self.scheduled is None

    def wake_later(self, soon: Callable[..., Any]) -> None:
        """Have the loop wake it. The callback is C all the way: no signal handler can come between and lose it."""
        if self.wake is not None and self.scheduled is None:
            self.scheduled = soon(self.wake, self)

    def leave(self) -> None:
        """Wait no longer. Unsent, it will not be sent; sent, its reply will be dropped."""
        self.wake = None
        if self.scheduled is not None:
            self.scheduled.stop()

    def abandon(self) -> None:
        """Never wake it. What would have woken it is kept: a parked greenlet that is collected runs its `finally`s."""
        self.reply = (self.wake, self.park, self.reply)
        self.leave()


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
