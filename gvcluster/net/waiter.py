"""Waiters: the calls that stand in the queue and in the line of a multiplexed connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Waiter:
    """One call: its bytes, whom to wake, and at the end its reply.

    A switch can end in another wait of the same greenlet: of a `__del__`, say, that a collection ran between queueing
    and parking. So who is woken says so, by setting `wake` to None; if not, it is woken again.
    """

    __slots__ = ("data", "deadline", "reply", "scheduled", "wake")

    def __init__(self, data: bytes, wake: Callable[[Waiter], object], deadline: float) -> None:
        self.data = data
        self.wake: Callable[[Waiter], object] | None = wake  # called by the hub as wake(waiter)
        self.deadline = deadline
        self.reply: Any = None
        self.scheduled: Any = None  # the loop's callback that will wake, where the reader does not do it itself

    def wake_later(self, soon: Callable[..., Any]) -> None:
        """Have the loop wake it. That callback is C all the way: no signal handler can come between and lose it."""
        wake, self.wake = self.wake, None
        if wake is not None:
            self.scheduled = soon(wake, self)
            soon(self._insist, soon, wake)

    def _insist(self, soon: Callable[..., Any], wake: Callable[[Waiter], object]) -> None:
        if self.scheduled is not None:
            self.scheduled = soon(wake, self)
            soon(self._insist, soon, wake)

    def leave(self) -> None:
        """Wait no longer. Unsent, it will not be sent; sent, its reply will be dropped."""
        self.wake = None
        if self.scheduled is not None:
            self.scheduled.stop()
            self.scheduled = None

    def abandon(self) -> None:
        """Never wake it. What would have woken it is kept: a parked greenlet that is collected runs its `finally`s."""
        self.reply = (self.wake, self.scheduled and self.scheduled.callback, self.reply)
        self.leave()


class Block(Waiter):
    """Several commands sent as one, owed one reply each. `reply` is the last one, `earlier` has those before it."""

    __slots__ = ("earlier", "owed")

    def __init__(self, data: bytes, owed: int, wake: Callable[[Waiter], object], deadline: float) -> None:
        super().__init__(data, wake, deadline)
        self.owed = owed
        self.earlier: list[Any] = []

    def is_complete_with(self, reply: object) -> bool:
        """Count a reply. It is kept here unless it is the last one."""
        self.owed -= 1
        if self.owed:
            self.earlier.append(reply)
        return not self.owed
