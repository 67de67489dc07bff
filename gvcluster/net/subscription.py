"""One channel or pattern: where it is asked for, where it is confirmed, and who waits for it."""

from __future__ import annotations

import copy
from time import monotonic

from gevent.event import Event

from gvcluster.core.address import Address
from gvcluster.core.slots import hash_slot
from gvcluster.core.subscriptions import Key, Kind
from gvcluster.errors import GvClusterError
from gvcluster.net.link import Link

# After a link or a confirmation that has lasted so long, a failure is the first one, not one more; seconds.
GOOD = 1.0


class Request:
    """One call of subscribe(), which waits until all its subscriptions are confirmed, or one is refused."""

    __slots__ = ("done", "error", "open")

    def __init__(self) -> None:
        self.done = Event()
        self.open: set[Key] = set()
        self.error: GvClusterError | None = None

    def settle(self, key: Key, error: GvClusterError | None) -> None:
        """One of them is confirmed, or refused. Never switches."""
        self.open.discard(key)
        self.error = self.error or error
        if self.error is not None or not self.open:
            self.done.set()


class Subscription:
    """One channel or pattern.

    home: the link where it is asked for, or will be once that is open. holder: the one that has it confirmed; another
    one than home until home is asked. since: from when on it was confirmed nowhere (monotonic clock), and why.
    was_confirmed: ever; confirmed_at: when last. is_kept: a call of subscribe() has ended well; until then it is wanted
    only as long as the calls (`requests`) that wait for it. failures: in a row, each soon after the one before.
    not_before: when to try again. ended_by, ended_at: which node has ended it by itself, and when.
    """

    __slots__ = (
        *(
            "confirmed_at",
            "ended_at",
            "ended_by",
            "error",
            "failures",
            "holder",
            "home",
            "is_kept",
            "key",
            "not_before",
            "requests",
            "since",
            "slot",
        ),
        *("was_confirmed", "why"),
    )

    def __init__(self, key: Key) -> None:
        self.key = key
        self.slot = hash_slot(key[1]) if key[0] is Kind.SHARD else None
        self.home: Link | None = None
        self.holder: Link | None = None
        self.since: float | None = None
        self.why = ""
        self.was_confirmed = self.is_kept = False
        self.requests: set[Request] = set()
        self.failures, self.not_before = 0, 0.0
        self.ended_by: Address | None = None
        self.ended_at = self.confirmed_at = 0.0
        self.error: GvClusterError | None = None

    def settle(self, error: GvClusterError | None) -> None:
        """Tell those who wait for it. Each gets an exception object of its own."""
        for request in tuple(self.requests):
            request.settle(self.key, copy.copy(error))

    def confirm(self, holder: Link) -> None:
        """The server has confirmed it."""
        self.holder, self.was_confirmed, self.error = holder, True, None
        self.confirmed_at = monotonic()
        self.settle(None)

    def interrupt(self, since: float, why: str) -> None:
        """It is confirmed nowhere any more."""
        self.holder = None
        if self.was_confirmed and self.since is None:
            self.since, self.why = since, why

    def note_end(self, by: Address) -> None:
        """The node has ended it by itself."""
        self.ended_by, self.ended_at = by, monotonic()
        if self.ended_at - self.confirmed_at >= GOOD:
            self.failures = 0

    def fail(self, error: GvClusterError, pause: float) -> None:
        """It was not confirmed: it may be tried again after so many seconds."""
        self.failures += 1
        self.error = error
        self.not_before = monotonic() + pause

    def refuse(self, error: GvClusterError, pause: float) -> None:
        """The same, and waiting for it makes no sense."""
        self.fail(error, pause)
        self.settle(error)
