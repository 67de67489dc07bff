"""A node's connections in one hub: its lanes, and the exclusive connections that are out."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from gvcluster.core.address import Address
from gvcluster.core.retry import LONGEST_WAIT, backoff
from gvcluster.errors import AuthFailed, ConnectFailed, GvClusterError
from gvcluster.net.lanes import Lanes, close_when_empty
from gvcluster.net.large import LargeReplies
from gvcluster.net.loop import HubLoop, remaining
from gvcluster.net.multiplexed import BURST, LARGE_BURST, MultiplexedConnection
from gvcluster.net.opening import Opening, open_connection, tell_end
from gvcluster.net.state import ClusterState

# A node that owes a reply for so many seconds is not asked for a slot map if there is another.
_LATE = 0.1
# An attempt to connect that takes so many seconds may be to a node that is dead without refusing: see whether it is
# still what it was. Half a second would be late after a failover; connecting over a continent takes a tenth of one.
_SLOW = 0.25


class NodePool:
    """One node, seen from one hub."""

    def __init__(
        self,
        address: Address,
        state: ClusterState,
        loop: HubLoop,
        large: LargeReplies,
        on_trouble: Callable[[], object],
    ) -> None:
        self.address = address
        # What the hot path takes: the one lane of ordinary calls. None also where there are several.
        self.lane: MultiplexedConnection | None = None
        self.opened = 0
        self.commands_before = 0  # sent over connections that are closed by now
        self._state, self._loop, self._on_trouble = state, loop, on_trouble
        self._lanes, self._large = Lanes(state.options.lanes), large
        self._openings: set[Opening] = set()  # of any connection
        self._exclusive: set[MultiplexedConnection] = set()
        self._failures = 0
        self._closed_to_attempts_until = 0.0
        self._last_failure: GvClusterError | None = None
        self._retired = False
        self._renewed = float("-inf")

    def __repr__(self) -> str:
        return f"<NodePool {self.address} {self._lanes} exclusive={len(self._exclusive)} failures={self._failures}>"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._all_open())

    @property
    def peername(self) -> Address | None:
        """To what numeric address the lanes lead, if one is open."""
        return next((lane.peer.peername for lane in self._lanes.open), None)

    def is_responsive(self) -> bool:
        """Whether there is a lane, and no reply on any is late."""
        lanes, now = self._lanes.open, monotonic()
        return bool(lanes) and all(lane.owes_since(now) < _LATE for lane in lanes)

    def is_failing(self) -> bool:
        """Whether the last attempt to connect has failed."""
        return self._failures > 0 and not self._lanes.open

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

    @property
    def waiting(self) -> int:
        """How many calls wait for room on a lane that is full."""
        return sum(lane.waiting_for_room for lane in self._lanes.open)

    def _all_open(self) -> list[MultiplexedConnection]:
        return [*self._exclusive, *self._lanes.open]

    def rename(self, address: Address) -> None:
        """Be the pool of this address from now on: the node was met under another name."""
        self.address = address
        for connection in self._all_open():
            connection.address = address

    # -- the lanes ----------------------------------------------------------------------------------------------------

    def lane_for(self, bulk: bool) -> MultiplexedConnection | None:
        """The lane for a call of the greenlet that runs now, if it is open. Never switches."""
        return self._lanes[self._lanes.number(bulk)]

    def wait_lane_for(
        self, bulk: bool, deadline: float, on_slow: Callable[[], object] | None = None
    ) -> MultiplexedConnection:
        """The same, opened if it is not. Waits until the deadline; a caller that leaves does not abort the opening.

        Args:
            bulk: whether the call is a large one.
            deadline: on the monotonic clock.
            on_slow: called if it takes long. Who gives it has come for a slot, and is sent away when the slot moves.

        Raises:
            ConnectFailed, AuthFailed: no connection. A node that just refused is not asked again at once.
        """
        return self._wait_lane(self._lanes.number(bulk), deadline, on_slow)

    def wait_lane(self, deadline: float) -> MultiplexedConnection:
        """Any lane of ordinary calls, for questions of the client itself. Otherwise like `wait_lane_for`."""
        return self._wait_lane(self._lanes.number_of_any(), deadline, None)

    def _wait_lane(self, number: int, deadline: float, on_slow: Callable[[], object] | None) -> MultiplexedConnection:
        lane, opening = self._lanes[number], self._lanes.openings[number]
        if lane is not None:
            return lane
        if opening is None:
            opening = self._lanes.openings[number] = self._begin_to_open(number)
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

    def _begin_to_open(self, lane: int | None) -> Opening:
        self._refuse_if_hopeless()
        opening = Opening(lane)
        self._openings.add(opening)
        opening.greenlet = self._loop.spawn(self._open_connection, opening)
        return opening

    def _refuse_if_hopeless(self) -> None:
        if self._retired or self._state.closed:
            raise ConnectFailed(f"{self.address} left the slot map", address=self.address)
        if monotonic() < self._closed_to_attempts_until:
            raise _again(self._last_failure, self.address)

    def _open_connection(self, opening: Opening) -> None:
        number = opening.lane
        try:
            connection = open_connection(
                self.address, self._lanes.purpose(number), self._state, self._loop, self._on_lost
            )
            self.opened += 1
            self._failures = 0
            if self._state.closed:
                connection.close()
                return
            opening.connection = connection
            self._put(number, connection)
        except Exception as error:
            opening.error = error if isinstance(error, GvClusterError) else ConnectFailed(str(error))
            self._failed(opening.error)
        finally:
            self._openings.discard(opening)
            self._lanes.forget(opening)
            opening.finish()
            if self._retired:
                self._loop.soon(self._close_lanes_when_empty)  # after those who wait have had their turn

    def _put(self, number: int | None, connection: MultiplexedConnection) -> None:
        if number is None:
            self._exclusive.add(connection)
            return
        options = self._state.options
        burst = LARGE_BURST if number == options.lanes else BURST
        connection.limit(options.max_in_flight, options.max_queued_bytes, options.max_waiting, burst)
        connection.keep_time(self._state.command_timeout, self._state.patience)
        connection.on_large = self._large.note
        self._lanes.put(number, connection)
        self.lane = self._lanes.only

    def _failed(self, error: GvClusterError) -> None:
        """Leave the node alone for a while: longer after each failure, and at once 1 s where it refuses the user."""
        pause = backoff(self._failures, self._state.options.rng.random())
        if isinstance(error, AuthFailed):
            pause = LONGEST_WAIT
        self._failures += 1
        self._last_failure = error
        self._closed_to_attempts_until = monotonic() + pause
        self._on_trouble()

    def _on_lost(self, connection: MultiplexedConnection, cause: BaseException | None) -> None:
        """A connection has ended. No switch: this may run in anybody's frame."""
        self.commands_before += connection.commands
        self._exclusive.discard(connection)
        self._lanes.remove(connection)
        self.lane = self._lanes.only
        if cause is not None and not self._retired and not self._state.closed:
            self._on_trouble()
        tell_end(connection.peer, cause, self._state, self._loop)

    def renew_lanes(self) -> None:
        """Open the lanes anew for the next calls, at most once a second; the old ones are closed when empty."""
        lanes, now = self._lanes.open, monotonic()
        if not lanes or now - self._renewed < LONGEST_WAIT:
            return
        self._renewed = now
        for lane in lanes:
            self._lanes.remove(lane)
            self._exclusive.add(lane)  # until it is closed
        self.lane = None
        for lane in lanes:
            close_when_empty(lane, ConnectionError("it may not lead to the same node as before"))

    # -- exclusive connections ----------------------------------------------------------------------------------------

    def wait_exclusive(self, deadline: float, on_slow: Callable[[], object] | None = None) -> MultiplexedConnection:
        """A connection of one's own, opened now. Whoever gets it closes it. The arguments: see `wait_lane_for`.

        Raises:
            ConnectFailed, AuthFailed: no connection.
        """
        opening = self._begin_to_open(None)
        try:
            return self._wait_for(opening, deadline, on_slow)
        except BaseException:
            opening.abort()
            raise

    # -- the end ------------------------------------------------------------------------------------------------------

    def keep_time(self) -> None:
        """Take over a changed command timeout."""
        for lane in self._lanes.open:
            lane.keep_time(self._state.command_timeout, self._state.patience)

    def retire(self) -> None:
        """The node left the slot map: no new work; what is in flight ends, then the lanes are closed."""
        self._retired = True
        self._close_lanes_when_empty()

    def _close_lanes_when_empty(self) -> None:
        for lane in self._lanes.open:
            close_when_empty(lane, ConnectionError("the node left the slot map"))

    def close_idle(self) -> int:
        """Close the lanes on which nothing is in flight. Returns how many connections were closed."""
        idle = [lane for lane in self._lanes.open if not lane.in_flight]
        for lane in idle:
            lane.close()
        return len(idle)

    def close(self, cause: BaseException | None = None) -> None:
        """End every connection now. Never switches."""
        self._retired = True
        for opening in tuple(self._openings):
            opening.abort()
        for connection in self._all_open():
            connection.close(cause)


def _again(error: GvClusterError | None, address: Address) -> GvClusterError:
    """A failure that several callers share, as an exception object of one's own."""
    copy: GvClusterError
    if isinstance(error, AuthFailed):
        copy = AuthFailed(error.message)
    else:
        copy = ConnectFailed(str(error) if error is not None else f"no connection to {address}", address=address)
    copy.__cause__ = error
    return copy
