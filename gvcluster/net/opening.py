"""An attempt to open a connection, for those who wait for it."""

from __future__ import annotations

import gevent
from gevent.event import Event

from gvcluster.errors import GvClusterError
from gvcluster.net.multiplexed import MultiplexedConnection


class Opening:
    """One attempt to open a connection, made by a greenlet of its own: several callers may wait for it."""

    __slots__ = ("connection", "done", "error", "greenlet")

    def __init__(self) -> None:
        self.done = Event()
        self.greenlet: gevent.Greenlet[..., None] | None = None
        self.connection: MultiplexedConnection | None = None
        self.error: GvClusterError | None = None

    def abort(self) -> None:
        """Have the attempt end, and close what it opened. Never switches."""
        if self.greenlet is not None:
            self.greenlet.kill(block=False)
        if self.connection is not None:
            self.connection.close()
        self.done.set()
