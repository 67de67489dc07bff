"""An attempt to open a connection, for those who wait for it."""

from __future__ import annotations

import gevent
from gevent.event import Event

from gvcluster.errors import GvClusterError
from gvcluster.net.multiplexed import MultiplexedConnection


class Opening:
    """One attempt to open a connection, made by a greenlet of its own: several callers may wait for it.

    `done` is set at its end; `released` then, too, or earlier if the node serves no slot any more: who came for a slot
    goes on by the new map, while who came for the node waits on.
    """

    __slots__ = ("connection", "done", "error", "greenlet", "released")

    def __init__(self) -> None:
        self.done, self.released = Event(), Event()
        self.greenlet: gevent.Greenlet[..., None] | None = None
        self.connection: MultiplexedConnection | None = None
        self.error: GvClusterError | None = None

    def abort(self) -> None:
        """Have the attempt end, and close what it opened. Never switches."""
        if self.greenlet is not None:
            self.greenlet.kill(block=False)
        if self.connection is not None:
            self.connection.close()
        self.finish()

    def finish(self) -> None:
        """Tell all that wait. Never switches."""
        self.done.set()
        self.released.set()
