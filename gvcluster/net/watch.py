"""The two clocks of a connection: calls that are overdue, and a node that is silent while it owes replies.

The calls share one timer. It is not moved at every call: it goes off, looks who is overdue, and is set for the next
one. A call that is overdue fails alone; the connection is lost only when not a byte has come for `silence` seconds
(libvalkey's rule: any reply restarts its timer). Before either verdict the connection is read once more: after a
stalled hub the reply is often in the kernel already.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from gvcluster.errors import ReplyTimeout
from gvcluster.net.loop import HubLoop
from gvcluster.net.waiter import Waiter

if TYPE_CHECKING:
    from gvcluster.net.multiplexed import MultiplexedConnection

# How close together the scans for overdue calls may be, and how far apart where calls have no common deadline; seconds.
SHORTEST, LONGEST = 0.010, 1.0


class Watch:
    """The clocks of one connection."""

    __slots__ = ("_connection", "_loop", "_timer", "is_running", "patience", "silence")

    def __init__(self, connection: MultiplexedConnection, loop: HubLoop) -> None:
        self.silence: float | None = None  # seconds; None: the node may be silent for ever
        self.patience = LONGEST  # seconds from the call to the deadline that most calls have
        self.is_running = False
        self._connection, self._loop = connection, loop
        self._timer = loop.timer(0)

    def start(self, after: float | None = None) -> None:
        """Look after so many seconds; by default when a call that begins now will be overdue."""
        after = after or self.patience
        # The old timer goes on until the new one runs, and only one that runs is said to: a signal handler that raises
        # must not leave us without any, nor with one that the next call takes to be at work.
        timer = self._loop.timer(after, again=max(after, SHORTEST))
        timer.start(self._on_timer, timer, update=True)
        old, self._timer = self._timer, timer
        self.is_running = True
        self._loop.end(old)

    def stop(self) -> None:
        """Stop the timer for good, or until the next start."""
        self.is_running = False
        self._loop.end(self._timer)

    def abandon(self) -> None:
        """Stop the timer, if its loop is still there."""
        self._loop.drop(self._timer)

    def wait(self, wait: Callable[[Waiter], object], waiter: Waiter) -> object:
        """Wait with a timer for this waiter alone."""
        if waiter.deadline == math.inf:
            return wait(waiter)
        if waiter.deadline <= monotonic():
            return self._too_late(is_unsent=True)
        timer = self._timer_for(waiter)
        try:
            timer.start(self._on_deadline, waiter, timer, update=True)
            return wait(waiter)
        finally:
            self._loop.end(timer)

    def time(self, waiter: Waiter) -> Any:
        """Start a timer for this waiter alone."""
        timer = self._timer_for(waiter)
        timer.start(self._on_deadline, waiter, timer, update=True)
        return timer

    def _timer_for(self, waiter: Waiter) -> Any:
        return self._loop.timer(waiter.deadline - monotonic(), again=SHORTEST)

    def _on_deadline(self, waiter: Waiter, timer: Any) -> None:
        """A waiter's own timer has gone off."""
        if waiter.wake is None:
            timer.stop()  # a signal handler that raised has kept the one who left from doing it
            return
        self._connection.look()
        is_silent = self._is_silent(monotonic())
        if waiter.is_waiting:
            self._overdue(waiter)
        if is_silent and not self._connection.is_behind():
            self._end()  # before the one that is given up tries again over it

    def _on_timer(self, timer: Any) -> None:
        """The timer that the calls share has gone off."""
        if timer is self._timer and self.is_running:
            self._look_after_calls()
        else:
            timer.stop()

    def _look_after_calls(self) -> None:
        connection = self._connection
        connection.look()
        if not connection.in_flight:
            self.stop()
            return
        now = monotonic()
        if connection.is_behind():  # with replies that have come already: no verdict now
            self.start(SHORTEST)
            return
        is_silent = self._is_silent(now)
        next_deadline = now + self.patience
        for waiter in connection.waiting():
            if waiter.deadline <= now:
                self._overdue(waiter)
            else:
                next_deadline = min(next_deadline, waiter.deadline)
        if is_silent:
            self._end()
        else:
            self.start(max(SHORTEST, next_deadline - now))

    def _is_silent(self, now: float) -> bool:
        return self.silence is not None and self._connection.owes_since(now) >= self.silence

    def _end(self) -> None:
        self._connection.close(TimeoutError(f"not a byte for {self.silence:g} s while replies were owed"))

    def _overdue(self, waiter: Waiter) -> None:
        waiter.reply = self._too_late(self._connection.give_up(waiter))
        waiter.wake_later(self._loop.soon)

    def _too_late(self, is_unsent: bool) -> ReplyTimeout:
        address = self._connection.address
        text = f"no reply from {address} in time" + (": nothing was sent yet" if is_unsent else "")
        return ReplyTimeout(text, address=address, maybe_executed=not is_unsent)
