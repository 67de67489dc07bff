"""An attempt to open a connection, for those who wait for it."""

from __future__ import annotations

from _socket import socket
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from greenlet import GreenletExit

from gvcluster.core.address import Address
from gvcluster.core.resp import encode
from gvcluster.errors import AuthFailed, ClosedError, ConnectFailed, GvClusterError
from gvcluster.net.dial import Connection, dial
from gvcluster.net.handshake import Words, credentials_for, shake_hands
from gvcluster.net.loop import HubLoop, remaining
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.state import ClusterState
from gvcluster.net.transport import PlainTransport

if TYPE_CHECKING:
    from gvcluster.net.tls import Transport

# An attempt to connect that takes so many seconds may be to a node that is dead without refusing: see whether it is
# still what it was. Half a second would be late after a failover; connecting over a continent takes a tenth of one.
SLOW = 0.25


class Opening:
    """One attempt to open a connection, made by a greenlet of its own: several callers may wait for it.

    `done` is set at its end; `released` then, too, or earlier if the node serves no slot any more: who came for a slot
    goes on by the new map, while who came for the node waits on. `lane` is which lane it is to be; None: exclusive.
    """

    __slots__ = ("began", "connection", "done", "error", "greenlet", "lane", "released")

    def __init__(self, lane: int | None) -> None:
        self.lane, self.began = lane, monotonic()
        self.done, self.released = Event(), Event()
        self.greenlet: gevent.Greenlet[..., None] | None = None
        self.connection: MultiplexedConnection | None = None
        self.error: GvClusterError | None = None

    def wait(
        self, address: Address, loop: HubLoop, deadline: float, on_slow: Callable[[], object] | None
    ) -> MultiplexedConnection:
        """Wait for what becomes of it. See `NodePool.wait_lane_for`."""
        event = self.done if on_slow is None else self.released
        if on_slow is not None and not loop.wait(event, min(SLOW, remaining(deadline))):
            on_slow()
        if not loop.wait(event, remaining(deadline)):
            raise ConnectFailed(f"no connection to {address} in time", address=address)
        if self.connection is not None:
            return self.connection
        raise again(self.error, address) if self.done.is_set() else without_slots(address)

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


def without_slots(address: Address) -> ConnectFailed:
    """What is said to those who came for a slot that the node does not serve any more."""
    return ConnectFailed(f"{address} lost its slots while it was connected", address=address)


def again(error: GvClusterError | None, address: Address) -> GvClusterError:
    """A failure that several callers share, as an exception object of one's own."""
    copy: GvClusterError
    if isinstance(error, AuthFailed):
        copy = AuthFailed(error.message)
    elif isinstance(error, ClosedError):
        return ClosedError(str(error))
    else:
        copy = ConnectFailed(str(error) if error is not None else f"no connection to {address}", address=address)
    copy.__cause__ = error
    return copy


def open_connection(
    address: Address,
    purpose: str,
    state: ClusterState,
    loop: HubLoop,
    on_lost: Callable[[MultiplexedConnection, BaseException | None], object],
    *,
    read_only: bool = False,
) -> MultiplexedConnection:
    """Connect and shake hands, within the connect timeout. `read_only`: for reading from a replica."""
    options = state.options
    deadline = monotonic() + options.connect_timeout
    peer, connection = Connection(address, purpose, read_only=read_only), None
    try:
        with loop.only_here():
            who = credentials_for(options, address, deadline)
        transport = _wait_transport(dial(peer, deadline, options, loop), peer, deadline, state, loop)
        connection = MultiplexedConnection(transport, loop, peer, on_lost)
        connection.hoard.most = options.max_reply_bytes
        if options.on_push is not None:
            connection.on_push = partial(loop.tell_user, options.on_push, peer)
        expected_id = state.id_expected_at(address)
        shake_hands(partial(_ask, connection, deadline), options, who, address, expected_id, read_only=read_only)
        # After its last greeting was answered it may have ended, while nobody had it yet who could throw it away.
        if connection.closed:
            raise ConnectFailed(f"the connection to {address} ended as soon as it was open", address=address)
    except BaseException as error:
        # Who aborts it is the user, by close().
        cause = None if isinstance(error, GreenletExit) else error
        if connection is not None:
            connection.close(cause)
        elif peer.socket is not None:
            peer.socket.close()
            tell_end(peer, cause, state, loop)
        if isinstance(error, gevent.Timeout):  # which a callback of the user has started: nobody else does here
            raise ConnectFailed(
                f"no connection to {address}: Timeout in a callback: {error}", address=address
            ) from error
        raise
    connection.greetings = connection.commands
    return connection


def _wait_transport(sock: socket, peer: Connection, deadline: float, state: ClusterState, loop: HubLoop) -> Transport:
    tls, topology = state.tls, state.topology
    if tls is None:
        return PlainTransport(sock, loop)
    node = topology.node_at(peer.address) if topology is not None else None
    from gvcluster.net.tls import wait_tls  # OpenSSL is loaded where it is used: 10 ms

    return wait_tls(sock, loop, tls, (peer.address, node), deadline)


def _ask(connection: MultiplexedConnection, deadline: float, *commands: Words) -> list[Any]:
    """Some commands of the handshake, in one write."""
    return connection.call_together(b"".join(map(encode, commands)), len(commands), deadline)


def tell_end(peer: Connection, cause: BaseException | None, state: ClusterState, loop: HubLoop) -> None:
    """Tell the user that a connection has ended. Never switches."""
    if state.options.on_disconnect is not None:
        loop.tell_user(state.options.on_disconnect, peer, cause)
