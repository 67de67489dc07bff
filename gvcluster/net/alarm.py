"""An alarm clock: calls a function at the earliest of the times that it was asked for. It keeps no loop alive."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gvcluster.net.loop import HubLoop, remaining


class Alarm:
    """Calls `ring` in the hub, where it must not wait. After each call it is silent until it is set again."""

    __slots__ = ("__weakref__", "_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: HubLoop, ring: Callable[[], object]) -> None:
        self._loop, self._ring = loop, ring
        self._timer: Any = None
        self._due = math.inf

    def set(self, due: float) -> None:
        """Ring at this time, on the monotonic clock, or earlier if that was asked for before. Never switches."""
        if due >= self._due:
            return
        self._loop.watch_over(self)  # only now: most alarms are never set, and a map may bring a thousand nodes
        old, after = self._timer, remaining(due)
        timer = self._loop.timer(after, again=after)
        timer.start(self._go_off, timer)
        self._timer, self._due = timer, due  # only now: what is set for certain, nobody sets again
        if old is not None:
            self._loop.end(old)

    def _go_off(self, timer: Any) -> None:
        if timer is not self._timer:
            timer.stop()
            return
        self.stop()
        self._ring()

    def stop(self) -> None:
        """Do not ring. Never switches."""
        timer, self._timer, self._due = self._timer, None, math.inf
        if timer is not None:
            self._loop.end(timer)

    def abandon(self) -> None:
        """The timer is a forked child's copy, or its hub is gone. Never switches."""
        if self._timer is not None:
            self._loop.drop(self._timer)
