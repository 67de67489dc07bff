"""The hub's event loop, as this library uses it: the one place that touches `hub.loop`."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent.hub import Hub
from greenlet import getcurrent

from gvcluster.errors import BlockedInHub

READ, WRITE = 1, 2

# Seconds of waking per turn of the loop, shared by all connections of a hub. Without a bound, replies for 10,000
# greenlets held the hub for 424 ms (p99); with this one for 13 ms, at the same throughput (measured with the sketch).
TURN = 0.002


# libuv counts in milliseconds, and warns of less.
TICK = 0.001


def remaining(deadline: float) -> float:
    """Seconds until the deadline, and at least a tick: a wait that is over at once, not one that fails."""
    return max(TICK, deadline - monotonic())


class HubLoop:
    """Parking, callbacks, watchers and timers of one hub, and the budget of its turns."""

    __slots__ = ("_turn", "_turn_ends", "hub", "park", "soon")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.park: Callable[[], Any] = hub.switch
        self.soon: Callable[..., Any] = hub.loop.run_callback
        # A callback that does nothing, in C: once it is no longer pending, another turn of the loop has begun.
        self._turn = self.soon(int)
        self._turn_ends = 0.0

    def refuse_to_wait_in_hub(self) -> None:
        """Raise BlockedInHub if the hub itself would have to wait: every greenlet would."""
        if getcurrent() is self.hub:
            raise BlockedInHub("this call would wait, and the hub must not: spawn a greenlet for it")

    def from_other_threads(self, callback: Callable[..., object], *args: Any) -> None:
        """Have the hub call it: the one way in from another thread's hub."""
        self.hub.loop.run_callback_threadsafe(callback, *args)

    def io(self, fd: int, events: int) -> Any:
        """A watcher for a file descriptor; it keeps the loop alive only while its `ref` is set."""
        return self.hub.loop.io(fd, events, ref=False)

    def timer(self, after: float, *, ref: bool = False) -> Any:
        """A timer that goes off once, after so many seconds; it keeps the loop alive only if `ref`."""
        return self.hub.loop.timer(max(TICK, after) if after else 0, ref=ref)

    def turn_ends(self) -> float:
        """When waking must stop for this turn of the loop, on the monotonic clock."""
        if not self._turn.pending:
            self._turn = self.soon(int)
            self._turn_ends = monotonic() + TURN
        return self._turn_ends
