"""Where the greenlets of a soak get their work: open while a window lasts, closed between two of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import gevent
from gevent.event import Event

from gvcluster.cli.soak.book import Book

# The shortest sleep that libuv knows, seconds.
_TICK = 0.001


class Desk:
    """All workers step while it is open.

    Attributes:
        book: That of the present window.
        is_over: The soak ends; workers do too.
        spares: Nobody is to be interrupted now.
    """

    def __init__(self) -> None:
        self.book = Book("warm-up", strict=True)
        self.is_over = self.spares = False
        self._open = Event()
        self._busy: dict[int, float] = {}  # who steps → since when
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Desk {'open' if self._open.is_set() else 'closed'}, {len(self._busy)} at work, {self.book!r}>"

    def open(self, book: Book) -> None:
        """Let a window begin."""
        self.book = book
        self._open.set()

    def close(self, patience: float) -> list[int]:
        """Let the window end, and all who step with it.

        Returns:
            Who still steps after so many seconds: calls that are stuck.

        Blocks: until nobody steps.
        """
        self._open.clear()
        deadline = monotonic() + patience
        while self._busy and monotonic() < deadline:
            gevent.sleep(0.01)
        return sorted(self._busy)

    def end(self) -> None:
        """Send everybody home."""
        self.is_over = True
        self._open.set()

    def enter(self, who: int) -> Book | None:
        """Begin a step, when the desk is open.

        Returns:
            The book to write into; None if the soak is over.

        Blocks: until then.
        """
        self._open.wait()
        stay_if_copied(self._pid)
        if self.is_over:
            return None
        self._busy[who] = monotonic()
        return self.book

    @contextmanager
    def sparing(self) -> Iterator[None]:
        """Have nobody interrupted: each interruption takes processor time, and what the clients take is to be seen."""
        self.spares = True
        try:
            yield
        finally:
            self.spares = False

    def leave(self, who: int) -> None:
        """End a step."""
        self._busy.pop(who, None)

    def rest(self, seconds: float) -> None:
        """Sleep between two steps. A copy in a forked child sleeps for ever.

        Blocks: for so long.
        """
        gevent.sleep(max(_TICK, seconds))
        stay_if_copied(self._pid)


def stay_if_copied(pid: int) -> None:
    """Wait for ever in a forked child, where the caller is a copy: the original goes on in the process `pid`."""
    if os.getpid() != pid:
        Event().wait()
