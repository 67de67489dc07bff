"""How other threads reach a hub."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gvcluster.net.loop import HubLoop

_READ = 1


class Doorbell:
    """A file descriptor that a hub watches, and the callbacks that other threads have left for it.

    gevent's own way in, `run_callback_threadsafe`, touches the other thread's loop: where that is just on its way out
    it reads freed memory, and the process crashes, on libuv within seconds and on libev seldom. A descriptor of our own
    outlives the loop: it is closed when nobody is left who could ring. So ringing harms nobody, at whatever moment.
    """

    __slots__ = ("_fd", "_held", "_inbox", "_loop", "_watcher")

    def __init__(self, loop: HubLoop) -> None:
        self._loop = loop
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._fd = -1
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watcher = loop.io(self._fd, _READ)
        self._held = [self]
        self._watcher.start(_answer, self._held)

    def ring(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Have the hub call it, if it still listens. From any thread; never switches."""
        self._inbox.append((callback, args))
        os.eventfd_write(self._fd, 1)

    def answer(self) -> None:
        """Have the hub call what was left for it. Never switches."""
        if self._loop.is_copy:  # the descriptor is shared with the parent: what rings there is not for us
            self.stop()
            return
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        for _ in range(len(self._inbox)):  # who rings meanwhile rings again
            callback, args = self._inbox.popleft()
            self._loop.soon(callback, *args)

    def stop(self) -> None:
        """Listen no more, and then hold the descriptor no longer. Only where the hub runs; never switches."""
        self._loop.end(self._watcher, then=self.forsake)

    def forsake(self) -> None:
        """Hold the descriptor no longer. gevent never lets go of what a destroyed loop has watched."""
        self._held.clear()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _answer(held: list[Doorbell]) -> None:
    for doorbell in held:
        doorbell.answer()
