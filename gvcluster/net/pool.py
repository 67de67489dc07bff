"""A node's connections in one hub: its lane, and the exclusive connections that are out."""

from __future__ import annotations

from _socket import socket
from collections.abc import Callable
from functools import partial
from time import monotonic

from greenlet import GreenletExit

from gvcluster.core.address import Address
from gvcluster.core.resp import encode
from gvcluster.core.retry import LONGEST_WAIT, backoff
from gvcluster.errors import AuthFailed, ConnectFailed, GvClusterError
from gvcluster.net.dial import Connection, dial
from gvcluster.net.handshake import credentials_for, shake_hands
from gvcluster.net.loop import HubLoop, remaining
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.opening import Opening
from gvcluster.net.state import ClusterState
from gvcluster.net.tls import Transport, wait_tls
from gvcluster.net.transport import PlainTransport

# A node that owes a reply for so many seconds is not asked for a slot map if there is another.
_LATE = 0.1
# An attempt to connect that takes so many seconds may be to a node that is dead without refusing: see whether it is
# still what it was. Half a second would be late after a failover; connecting over a continent takes a tenth of one.
_SLOW = 0.25


class NodePool:
    """One node, seen from one hub."""

    def __init__(self, address: Address, state: ClusterState, loop: HubLoop, on_trouble: Callable[[], object]) -> None:
        self.address = address
        self.lane: MultiplexedConnection | None = None
        self.opened = 0
        self.commands_before = 0  # sent over connections that are closed by now
        self._state, self._loop, self._on_trouble = state, loop, on_trouble
        self._opening: Opening | None = None  # of the lane
        self._openings: set[Opening] = set()  # of any connection
        self._exclusive: set[MultiplexedConnection] = set()
        self._failures = 0
        self._closed_to_attempts_until = 0.0
        self._last_failure: GvClusterError | None = None
        self._retired = False
        self._renewed = float("-inf")

    def __repr__(self) -> str:
        return f"<NodePool {self.address} lane={self.lane} exclusive={len(self._exclusive)} failures={self._failures}>"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return (self.lane is not None) + len(self._exclusive)

    def is_responsive(self) -> bool:
        """Whether there is a lane, and no reply on it is late."""
        return self.lane is not None and self.lane.owes_since(monotonic()) < _LATE

    def is_failing(self) -> bool:
        """Whether the last attempt to connect has failed."""
        return self._failures > 0 and self.lane is None

    def pause_left(self) -> float:
        """Seconds until the node may be tried again."""
        return self._closed_to_attempts_until - monotonic()

    @property
    def in_flight(self) -> int:
        """How many calls are queued or owed a reply, on any connection."""
        return sum(each.in_flight for each in self._all_open())

    @property
    def commands(self) -> int:
        """How many commands were sent to the node."""
        return self.commands_before + sum(each.commands for each in self._all_open())

    def _all_open(self) -> list[MultiplexedConnection]:
        return [*self._exclusive] + ([self.lane] if self.lane is not None else [])

    def rename(self, address: Address) -> None:
        """Be the pool of this address from now on: the node was met under another name."""
        self.address = address
        for connection in self._all_open():
            connection.address = address

    # -- the lane -----------------------------------------------------------------------------------------------------

    def wait_lane(self, deadline: float, on_slow: Callable[[], object] | None = None) -> MultiplexedConnection:
        """The lane, opened if it is not. Waits until the deadline; a caller that leaves does not abort the opening.

        Args:
            deadline: on the monotonic clock.
            on_slow: called if it takes long. Who gives it has come for a slot, and is sent away when the slot moves.

        Raises:
            ConnectFailed, AuthFailed: no connection. A node that just refused is not asked again at once.
        """
        if self.lane is not None:
            return self.lane
        opening = self._opening
        if opening is None:
            opening = self._opening = self._begin_to_open("multiplexed")
        return self._wait_for(opening, deadline, on_slow)

    def _wait_for(
        self, opening: Opening, deadline: float, on_slow: Callable[[], object] | None
    ) -> MultiplexedConnection:
        event = opening.done if on_slow is None else opening.released
        if on_slow is not None and not self._loop.wait(event, min(_SLOW, remaining(deadline))):
            on_slow()
        if not self._loop.wait(event, remaining(deadline)):
            raise ConnectFailed(f"no connection to {self.address} in time", address=self.address)
        if opening.connection is not None:
            return opening.connection
        if not opening.done.is_set():
            raise ConnectFailed(f"{self.address} lost its slots while it was connected", address=self.address)
        raise _again(opening.error, self.address)

    def release_waiters(self) -> None:
        """The node serves no slot any more: who waits for a connection because of a slot goes elsewhere."""
        for opening in tuple(self._openings):
            opening.released.set()

    def _begin_to_open(self, purpose: str) -> Opening:
        self._refuse_if_hopeless()
        opening = Opening()
        self._openings.add(opening)
        opening.greenlet = self._loop.spawn(self._open_connection, opening, purpose)
        return opening

    def _refuse_if_hopeless(self) -> None:
        if self._retired or self._state.closed:
            raise ConnectFailed(f"{self.address} left the slot map", address=self.address)
        if monotonic() < self._closed_to_attempts_until:
            raise _again(self._last_failure, self.address)

    def _open_connection(self, opening: Opening, purpose: str) -> None:
        try:
            connection = self._connect(purpose)
            self._failures = 0
            if self._state.closed:
                connection.close()
                return
            opening.connection = connection
            if opening is self._opening:
                self.lane = connection
                self.keep_time()
            else:
                self._exclusive.add(connection)
        except Exception as error:
            opening.error = error if isinstance(error, GvClusterError) else ConnectFailed(str(error))
            self._failed(opening.error)
        finally:
            self._openings.discard(opening)
            if opening is self._opening:
                self._opening = None
            opening.finish()
            if self._retired:
                self._loop.soon(self._close_lane_when_empty)  # after those who wait have had their turn

    def _failed(self, error: GvClusterError) -> None:
        """Leave the node alone for a while: longer after each failure, and at once 1 s where it refuses the user."""
        pause = backoff(self._failures, self._state.options.rng.random())
        if isinstance(error, AuthFailed):
            pause = LONGEST_WAIT
        self._failures += 1
        self._last_failure = error
        self._closed_to_attempts_until = monotonic() + pause
        self._on_trouble()

    def _connect(self, purpose: str) -> MultiplexedConnection:
        options = self._state.options
        deadline = monotonic() + options.connect_timeout
        peer, connection = Connection(self.address, purpose), None
        try:
            with self._loop.only_here():
                who = credentials_for(options, self.address)
            transport = self._wait_transport(dial(peer, deadline, options, self._loop), deadline)
            connection = MultiplexedConnection(transport, self._loop, peer, self._on_lost)
            connection.hoard.most = options.max_reply_bytes
            expected_id = self._state.id_expected_at(self.address)
            shake_hands(partial(_ask, connection, deadline), options, who, self.address, expected_id)
        except BaseException as error:
            # Who aborts it is the user: by close(), or by leaving a call that needs a connection of its own.
            cause = None if isinstance(error, GreenletExit) else error
            if connection is not None:
                connection.close(cause)
            elif peer.socket is not None:
                peer.socket.close()
                self._tell_end(peer, cause)
            raise
        self.opened += 1
        return connection

    def _wait_transport(self, sock: socket, deadline: float) -> Transport:
        tls, topology = self._state.tls, self._state.topology
        if tls is None:
            return PlainTransport(sock, self._loop)
        node = topology.node_at(self.address) if topology is not None else None
        return wait_tls(sock, self._loop, tls, (self.address, node), deadline)

    def _on_lost(self, connection: MultiplexedConnection, cause: BaseException | None) -> None:
        """A connection has ended. No switch: this may run in anybody's frame."""
        self.commands_before += connection.commands
        self._exclusive.discard(connection)
        if connection is self.lane:
            self.lane = None
        if cause is not None and not self._retired and not self._state.closed:
            self._on_trouble()
        self._tell_end(connection.peer, cause)

    def _tell_end(self, peer: Connection, cause: BaseException | None) -> None:
        if self._state.options.on_disconnect is not None:
            self._loop.tell_user(self._state.options.on_disconnect, peer, cause)

    def renew_lane(self) -> None:
        """Open the lane anew for the next call, at most once a second; the old one is closed when it owes nothing."""
        lane, now = self.lane, monotonic()
        if lane is not None and now - self._renewed >= LONGEST_WAIT:
            self._renewed = now
            self.lane = None
            self._exclusive.add(lane)  # until it is closed
            _close_when_empty(lane, ConnectionError("it may not lead to the same node as before"))

    # -- exclusive connections ----------------------------------------------------------------------------------------

    def wait_exclusive(self, deadline: float, on_slow: Callable[[], object] | None = None) -> MultiplexedConnection:
        """A connection of one's own, opened now. Whoever gets it closes it. The arguments are those of `wait_lane`.

        Raises:
            ConnectFailed, AuthFailed: no connection.
        """
        opening = self._begin_to_open("exclusive")
        try:
            return self._wait_for(opening, deadline, on_slow)
        except BaseException:
            opening.abort()
            raise

    # -- the end ------------------------------------------------------------------------------------------------------

    def keep_time(self) -> None:
        """Take over a changed command timeout."""
        if self.lane is not None:
            self.lane.keep_time(self._state.command_timeout, self._state.patience)

    def retire(self) -> None:
        """The node left the slot map: no new work; what is in flight ends, then the lane is closed."""
        self._retired = True
        self._close_lane_when_empty()

    def _close_lane_when_empty(self) -> None:
        if self.lane is not None:
            _close_when_empty(self.lane, ConnectionError("the node left the slot map"))

    def close_idle(self) -> int:
        """Close the lane if nothing is in flight on it. Returns how many connections were closed."""
        if self.lane is None or self.lane.in_flight:
            return 0
        self.lane.close()
        return 1

    def close(self, cause: BaseException | None = None) -> None:
        """End every connection now. Never switches."""
        self._retired = True
        for opening in tuple(self._openings):
            opening.abort()
        for connection in self._all_open():
            connection.close(cause)


def _ask(connection: MultiplexedConnection, deadline: float, *args: object) -> object:
    """One command of the handshake."""
    return connection.call_within(encode(args), deadline)


def _close_when_empty(lane: MultiplexedConnection, cause: BaseException) -> None:
    if lane.in_flight:
        lane.on_empty = lambda: lane.close(cause)
    else:
        lane.close(cause)


def _again(error: GvClusterError | None, address: Address) -> GvClusterError:
    """A failure that several callers share, as an exception object of one's own."""
    copy: GvClusterError
    if isinstance(error, AuthFailed):
        copy = AuthFailed(error.message)
    else:
        copy = ConnectFailed(str(error) if error is not None else f"no connection to {address}", address=address)
    copy.__cause__ = error
    return copy
