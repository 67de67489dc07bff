"""An attempt to open a connection, for those who wait for it."""

from __future__ import annotations

from _socket import socket
from collections.abc import Callable
from functools import partial
from time import monotonic

import gevent
from gevent.event import Event
from greenlet import GreenletExit

from gvcluster.core.address import Address
from gvcluster.core.resp import encode
from gvcluster.errors import GvClusterError
from gvcluster.net.dial import Connection, dial
from gvcluster.net.handshake import credentials_for, shake_hands
from gvcluster.net.loop import HubLoop
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.state import ClusterState
from gvcluster.net.tls import Transport, wait_tls
from gvcluster.net.transport import PlainTransport


class Opening:
    """One attempt to open a connection, made by a greenlet of its own: several callers may wait for it.

    `done` is set at its end; `released` then, too, or earlier if the node serves no slot any more: who came for a slot
    goes on by the new map, while who came for the node waits on. `lane` is which lane it is to be; None: exclusive.
    """

    __slots__ = ("connection", "done", "error", "greenlet", "lane", "released")

    def __init__(self, lane: int | None) -> None:
        self.lane = lane
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


def open_connection(
    address: Address,
    purpose: str,
    state: ClusterState,
    loop: HubLoop,
    on_lost: Callable[[MultiplexedConnection, BaseException | None], object],
) -> MultiplexedConnection:
    """Connect and shake hands, within the connect timeout."""
    options = state.options
    deadline = monotonic() + options.connect_timeout
    peer, connection = Connection(address, purpose), None
    try:
        with loop.only_here():
            who = credentials_for(options, address, deadline)
        transport = _wait_transport(dial(peer, deadline, options, loop), peer, deadline, state, loop)
        connection = MultiplexedConnection(transport, loop, peer, on_lost)
        connection.hoard.most = options.max_reply_bytes
        if options.on_push is not None:
            connection.on_push = partial(loop.tell_user, options.on_push, peer)
        expected_id = state.id_expected_at(address)
        shake_hands(partial(_ask, connection, deadline), options, who, address, expected_id)
    except BaseException as error:
        # Who aborts it is the user: by close(), or by leaving a call that needs a connection of its own.
        cause = None if isinstance(error, GreenletExit) else error
        if connection is not None:
            connection.close(cause)
        elif peer.socket is not None:
            peer.socket.close()
            tell_end(peer, cause, state, loop)
        raise
    return connection


def _wait_transport(sock: socket, peer: Connection, deadline: float, state: ClusterState, loop: HubLoop) -> Transport:
    tls, topology = state.tls, state.topology
    if tls is None:
        return PlainTransport(sock, loop)
    node = topology.node_at(peer.address) if topology is not None else None
    return wait_tls(sock, loop, tls, (peer.address, node), deadline)


def _ask(connection: MultiplexedConnection, deadline: float, *args: object) -> object:
    """One command of the handshake."""
    return connection.call_within(encode(args), deadline)


def tell_end(peer: Connection, cause: BaseException | None, state: ClusterState, loop: HubLoop) -> None:
    """Tell the user that a connection has ended. Never switches."""
    if state.options.on_disconnect is not None:
        loop.tell_user(state.options.on_disconnect, peer, cause)
