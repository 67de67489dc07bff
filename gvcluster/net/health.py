"""Whether a node can be connected to, as its failures show: those of connecting count, never a call's own.

A node that accepts and hangs up before its first reply is as good as one that refuses, from the second time on.
"""

from __future__ import annotations

import math
from time import monotonic

from gvcluster.core.retry import LONGEST_WAIT, backoff
from gvcluster.errors import AuthFailed, ConnectFailed, GvClusterError

# Seconds after which a node's hanging up is forgotten: one that goes on with it does so again after each pause.
FORGOTTEN = 10.0


class Health:
    """One node's. `failures`: attempts to connect that failed since the last that did not."""

    __slots__ = ("_hung_up", "_hung_up_at", "_last", "failures", "paused_until")

    def __init__(self) -> None:
        self.failures = self._hung_up = 0
        self._hung_up_at = -math.inf
        self.paused_until = 0.0  # on the monotonic clock
        self._last: GvClusterError | None = None

    def __repr__(self) -> str:
        return f"<Health {self.failures} failures>"

    def failed(self, error: GvClusterError, jitter: float) -> None:
        """Leave the node alone for a while: longer after each failure, and at once 1 s where it refuses the user."""
        pause = LONGEST_WAIT if isinstance(error, AuthFailed) else backoff(self.failures, jitter)
        self.failures += 1
        self._last = error
        self.paused_until = monotonic() + pause

    def lost(self, cause: BaseException, owed_for: float | None, jitter: float) -> None:
        """A connection has ended. `owed_for`: seconds for which it owed its first reply; None: it did not.

        Those that are lost together are lost once: only one that was in use after the last counts as the next.
        """
        now = monotonic()
        if owed_for is None or not isinstance(cause, ConnectionError):
            self._hung_up = 0
            return
        if now - owed_for <= self._hung_up_at:
            return
        self._hung_up = self._hung_up + 1 if now - self._hung_up_at < FORGOTTEN else 1
        self._hung_up_at = now
        if self._hung_up > 1:
            self.failures = self._hung_up - 2
            self.failed(ConnectFailed(f"it ended {self._hung_up} connections before a reply: {cause}"), jitter)

    def pause_left(self) -> float:
        """Seconds until the node may be tried again."""
        return self.paused_until - monotonic()

    def objection(self) -> GvClusterError | None:
        """What the last attempt met, if it is too early for another."""
        return self._last if monotonic() < self.paused_until else None
