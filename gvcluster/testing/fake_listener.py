"""What listens: the port of a fake node, its connections, and how they end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

import gevent
import gevent.socket
from gevent.event import Event
from gevent.monkey import get_original

from gvcluster.core.address import Address
from gvcluster.errors import ConfigError
from gvcluster.testing.fake_connection import FakeConnection


class Connections(NamedTuple):
    """How many connections a node has accepted so far, and how many of them are open."""

    accepted: int
    open: int


class FakeListener:
    """The networking half of a FakeNode: it accepts connections, and hands each to `serve` in a greenlet of its own.

    Attributes:
        address: Where it listens. The port is its own from the beginning, also while it is stopped.
    """

    def __init__(self, host: str, port: int = 0) -> None:
        self._reserved, self.address = reserve(host, port)
        self._listener: gevent.socket.socket | None = None
        self._acceptor: gevent.Greenlet[..., None] | None = None
        # A script reads its connections itself: they have no greenlet.
        self._open: dict[FakeConnection, gevent.Greenlet[..., None] | None] = {}
        self._accepted = 0
        self._changed = Event()
        self._thawed = Event()
        self._thawed.set()

    @property
    def is_listening(self) -> bool:
        """Whether the node was started and not stopped since."""
        return self._listener is not None

    def fileno(self) -> int:
        """The number of the listening socket, -1 while it does not listen."""
        return -1 if self._listener is None else self._listener.fileno()

    @property
    def open_connections(self) -> tuple[FakeConnection, ...]:
        """The connections that are open, in the order in which they were accepted."""
        return tuple(self._open)

    def accept_all(self) -> None:
        """Accept and serve, until killed."""
        while True:
            connection = self.wait_connection()
            self._open[connection] = gevent.spawn(self._serve_one, connection)

    def serve(self, connection: FakeConnection) -> None:
        """Read and answer what comes over the connection, until it ends."""
        raise NotImplementedError

    @property
    def connections(self) -> Connections:
        """How many connections it has accepted so far, and how many of them are open."""
        return Connections(self._accepted, len(self._open))

    def wait_until(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:
        """Wait until something about this node is true: a command was received, a connection came or went.

        Args:
            predicate: A function such as `lambda: node.commands("GET")`; asked again after each of these events, and
                every 20 ms, for it may look at the client too.
            timeout: Seconds.

        Raises:
            TimeoutError: It did not become true.

        Blocks:
            Until then. A kill or Timeout changes nothing.
        """
        until = time.monotonic() + timeout
        while not predicate():
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not true within {timeout} s: {self!r}")
            self._changed.clear()
            self._changed.wait(min(max(left, 0.001), 0.02))  # libuv warns of shorter timers

    def start(self) -> None:
        """Listen. `FakeCluster.start()` does it for all nodes; a stopped node comes back with its data.

        Blocks:
            Never.
        """
        if self._listener is None:
            self._listener = gevent.socket.socket(fileno=self._reserved.detach())
            self._listener.listen(1024)
            self._acceptor = gevent.spawn(self.accept_all)

    def stop(self) -> None:
        """Listen no more and close all connections, as a process does that ends. The port stays reserved.

        Blocks:
            Until the greenlets of the connections have ended, about a turn of the hub.
        """
        _kill(self._acceptor)
        listener, self._listener = self._listener, None
        if listener is not None:
            refuse(listener)
            self._reserved = get_original("socket", "socket")(fileno=listener.detach())
        self._end_connections(rst=False)
        # Last: who is dead does not answer what came while it was frozen.
        self._thawed.set()

    def stop_accepting(self) -> None:
        """End the greenlet that accepts, and leave everything else as it is.

        Blocks:
            Until it has ended, about a turn of the hub.
        """
        _kill(self._acceptor)

    def release(self) -> None:
        """Stop, and give the port back.

        Blocks:
            As `stop()` does.
        """
        self.stop()
        self._reserved.close()

    def reset_connections(self, rst: bool = True) -> None:
        """End all connections and go on listening.

        Args:
            rst: Whether the clients meet ECONNRESET, or an orderly close.

        Blocks:
            Until the greenlets of the connections have ended, about a turn of the hub.
        """
        self._end_connections(rst=rst)

    def freeze(self) -> None:
        """Accept, read and send nothing from now on, as under SIGSTOP. The kernel still completes connections.

        Blocks:
            Never.
        """
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on where `freeze()` stopped.

        Blocks:
            Never.
        """
        self._thawed.set()

    def wait_thawed(self) -> None:
        """Wait while the node is frozen.

        Blocks:
            Until then. A kill or Timeout changes nothing.
        """
        self._thawed.wait()

    def wait_connection(self) -> FakeConnection:
        """Accept the next connection. For scripts: a node that answers by itself accepts by itself.

        Raises:
            ConfigError: The node does not listen.

        Blocks:
            Until one comes and the node is not frozen. A kill or Timeout loses none.
        """
        listener = self._listener
        if listener is None:
            raise ConfigError(f"{self!r} does not listen")
        gevent.socket.wait_read(listener.fileno())
        self.wait_thawed()
        accepted, _ = listener.accept()
        self._accepted += 1
        connection = FakeConnection(self, self._accepted, accepted)
        self._open[connection] = None
        self._changed.set()
        return connection

    def forget(self, connection: FakeConnection) -> None:
        """Close the connection and count it no more."""
        connection.close()
        if self._open.pop(connection, self) is not self:
            self._changed.set()

    def _serve_one(self, connection: FakeConnection) -> None:
        try:
            self.serve(connection)
        finally:
            self.forget(connection)

    def _end_connections(self, *, rst: bool) -> None:
        ending = dict(self._open)
        if rst:
            for connection in ending:
                connection.prepare_reset()  # before the dying greenlet closes it
        _kill(*ending.values())
        for connection in ending:
            self.forget(connection)


def _kill(*greenlets: gevent.Greenlet[..., None] | None) -> None:
    """End the greenlets, but for the one that asks for it: a handler may stop its own node."""
    gevent.killall([greenlet for greenlet in greenlets if greenlet not in (None, gevent.getcurrent())])


def reserve(host: str, port: int) -> tuple[socket.socket, Address]:
    """A socket that is bound and does not listen: connecting is refused, and nobody else gets the port."""
    found, address = _bind(host, port)
    if port == 0:
        # Again, by its number: else the kernel gives the port away when a listener is shut down.
        with found:
            return _bind(*address)
    return found, address


def _bind(host: str, port: int) -> tuple[socket.socket, Address]:
    # Not gevent's: a gevent socket binds itself to the hub of the thread that makes it.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound: socket.socket = get_original("socket", "socket")(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound, Address(*bound.getsockname()[:2])


def refuse(listener: gevent.socket.socket) -> None:
    """Listen no more, and keep the port: that is what the kernel does when a socket that listens is shut down."""
    listener.shutdown(socket.SHUT_RDWR)
