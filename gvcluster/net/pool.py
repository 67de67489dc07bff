"""A node's connections in one hub: its lanes, and the exclusive connections that are out."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from gvcluster.core.address import Address
from gvcluster.core.retry import LONGEST_WAIT
from gvcluster.errors import ClosedError, ConnectFailed, GvClusterError
from gvcluster.net.exclusive import Loans
from gvcluster.net.health import Health
from gvcluster.net.lanes import Caller, Lanes, close_when_empty
from gvcluster.net.large import LargeReplies
from gvcluster.net.loop import HubLoop
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.opening import SLOW, Opening, again, open_connection, tell_end, without_slots
from gvcluster.net.state import ClusterState
from gvcluster.reports import Lent, NodeStatistics

# So many are opened at a time, lanes aside, for everybody waits for those; after a failure, one: is the node back?
_AT_ONCE = 2


class NodePool:
    """One node, seen from one hub."""

    def __init__(
        self,
        address: Address,
        state: ClusterState,
        loop: HubLoop,
        large: LargeReplies,
        on_trouble: Callable[[], object],
        *,
        read_only: bool = False,
    ) -> None:
        self.address = address
        self.read_only = read_only  # its connections are for reading from a replica
        # What the hot path takes: the one lane of ordinary calls. None also where there are several.
        self.lane: MultiplexedConnection | None = None
        self.opened = 0
        self.commands_before = 0  # sent over connections that are closed by now
        self._state, self._loop, self._on_trouble = state, loop, on_trouble
        self.lanes, self._large = Lanes(state.options.lanes), large
        self._openings: set[Opening] = set()  # of any connection
        self._old: set[MultiplexedConnection] = set()  # lanes that were replaced, until they are closed
        # Exclusive connections: for whatever their borrowers like, and for blocking calls.
        self._loans = Loans("max_connections", self, state, loop), Loans("max_blocking", self, state, loop)
        self.health = Health()
        self._retired = False
        self._renewed = float("-inf")

    def __repr__(self) -> str:
        return f"<NodePool {self.address} {self.lanes} {self._loans} {self.health}>"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._all_open())

    @property
    def peername(self) -> Address | None:
        """To what numeric address the lanes lead, if one is open."""
        return next((lane.peer.peername for lane in self.lanes.open), None)

    def is_failing(self) -> bool:
        """Whether the last attempt to connect has failed."""
        return self.health.failures > 0 and not self.lanes.open

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
        return sum(lane.waiting_for_room for lane in self.lanes.open)

    def _all_open(self) -> list[MultiplexedConnection]:
        return [*self._loans[0].open, *self._loans[1].open, *self._old, *self.lanes.open]

    def rename(self, address: Address) -> None:
        """Be the pool of this address from now on: the node was met under another name."""
        self.address = address
        for connection in self._all_open():
            connection.address = address

    # -- the lanes ----------------------------------------------------------------------------------------------------

    def lane_for(self, bulk: bool, caller: Caller = None) -> MultiplexedConnection | None:
        """The lane for a call of this greenlet, or of the one that runs now, if it is open. Never switches."""
        return self.lanes[self.lanes.number(bulk, caller)]

    def wait_lane_for(
        self, bulk: bool, deadline: float, on_slow: Callable[[], object] | None = None, caller: Caller = None
    ) -> MultiplexedConnection:
        """The same, opened if it is not. Waits until the deadline; a caller that leaves does not abort the opening.

        Args:
            bulk, caller: whether the call is a large one; and whose it is, if another greenlet waits in his stead.
            deadline: on the monotonic clock.
            on_slow: called if it takes long. Who gives it has come for a slot, and is sent away when the slot moves.

        Raises:
            ConnectFailed, AuthFailed: no connection. A node that just refused is not asked again at once.
        """
        return self.wait_lane_number(self.lanes.number(bulk, caller), deadline, on_slow)

    def wait_lane(self, deadline: float) -> MultiplexedConnection:
        """Any lane of ordinary calls, for questions of the client itself. Otherwise like `wait_lane_for`."""
        return self.wait_lane_number(self.lanes.number_of_any(), deadline)

    def wait_lane_number(
        self, number: int, deadline: float, on_slow: Callable[[], object] | None = None
    ) -> MultiplexedConnection:
        """This lane. Otherwise like `wait_lane_for`."""
        lane, opening = self.lanes[number], self.lanes.openings[number]
        if lane is not None:
            return lane
        if opening is None:
            refusal = self.refusal()
            if refusal is not None:
                raise again(refusal, self.address)
            opening = self.lanes.openings[number] = self._begin_to_open(number)
        return opening.wait(self.address, self._loop, deadline, on_slow)

    def release_waiters(self) -> None:
        """The node serves no slot any more: who waits for a connection because of a slot goes elsewhere."""
        for opening in tuple(self._openings):
            opening.released.set()
        for loans in self._loans:
            loans.tell_all(without_slots(self.address), only_for_slot=True)

    def _begin_to_open(self, lane: int | None, loans: Loans | None = None) -> Opening:
        opening = Opening(lane)
        opening.greenlet = self._loop.spawn(self._open_connection, opening, loans)
        self._openings.add(opening)  # only now: one without a greenlet would never end
        return opening

    def _open_connection(self, opening: Opening, loans: Loans | None) -> None:
        number, purpose = opening.lane, self.lanes.purpose(opening.lane)
        try:
            connection = open_connection(
                self.address, purpose, self._state, self._loop, self._on_lost, read_only=self.read_only
            )
            self.opened += 1
            self.health.failures = 0
            if self._state.closed:
                return connection.close()
            opening.connection = connection
            if number is not None:
                self.lanes.put(number, connection, self._state, self._large)
                self.lane = self.lanes.only
        except Exception as error:
            opening.error = error if isinstance(error, GvClusterError) else ConnectFailed(str(error))
            self.health.failed(opening.error, self._state.options.rng.random())
            self._on_trouble()
        finally:
            self._openings.discard(opening)
            self.lanes.forget(opening)
            if loans is not None:
                self._tell(loans, opening)
            opening.finish()
            if self._retired:
                self._loop.soon(self.lanes.end)  # after those who wait have had their turn

    def _tell(self, loans: Loans, opening: Opening) -> None:
        """Tell who asked for it, and let others open theirs."""
        loans.ended(opening.connection, monotonic() - opening.began)
        for each in self._loans:
            each.go_on()

    def _on_lost(self, connection: MultiplexedConnection, cause: BaseException | None) -> None:
        """A connection has ended. No switch: this may run in anybody's frame."""
        self.commands_before += connection.commands
        self._old.discard(connection)
        self.lanes.remove(connection)
        self.lane = self.lanes.only
        if cause is not None and not self._retired and not self._state.closed:
            self.health.lost(cause, connection.owed_from_the_first, self._state.options.rng.random())
            self._on_trouble()
        for loans in self._loans:
            loans.lost(connection)
        tell_end(connection.peer, cause, self._state, self._loop)

    def renew(self) -> None:
        """Open all connections anew for the next calls, at most once a second; the old ones are closed when empty."""
        lanes, now = self.lanes.open, monotonic()
        if now - self._renewed < LONGEST_WAIT:
            return
        self._renewed = now
        self._old.update(lanes)
        self.lane = None
        for lane in lanes:
            self.lanes.remove(lane)
            close_when_empty(lane, ConnectionError("it may not lead to the same node as before"))
        for loans in self._loans:
            loans.renew()

    # -- exclusive connections ----------------------------------------------------------------------------------------

    def wait_exclusive(
        self, deadline: float, on_slow: Callable[[], object] | None = None, *, blocking: bool = False
    ) -> MultiplexedConnection:
        """Borrow a connection for oneself, to be given back. `deadline` and `on_slow`: see `wait_lane_for`.

        A caller that leaves does not abort what is being opened: it is for the next.

        Args:
            blocking: for a call that the server may make wait, or a subscription: these count for themselves.

        Raises:
            ConnectFailed, AuthFailed: no connection. A node that just refused is not asked again at once.
            PoolTimeout, PoolFull: all are lent, and none came free in time; or too many wait for one already.
            ClosedError: the cluster was closed.
        """
        return self._loans[blocking].wait(deadline, on_slow)

    def give_back(self, connection: MultiplexedConnection, *, clean: bool = False) -> None:
        """Take back what `wait_exclusive` lent: for the next one if it is clean, else it is closed. Never switches.

        `clean`: every reply that it owed was read, and nothing was set on it.
        """
        for loans in self._loans:
            loans.give_back(connection, clean)

    @property
    def lent(self) -> Lent:
        """Of the exclusive connections and of those for blocking calls."""
        return self._loans[0].statistics(), self._loans[1].statistics()

    def statistics(self) -> NodeStatistics:
        """What is, and what was so far."""
        counts = (self.connections, self.opened, self.commands, self.in_flight, self.waiting, *self.lent)
        return NodeStatistics(self.address, *counts, self.read_only)

    # -- what their loans ask ---------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the node left the slot map, or the cluster was closed."""
        return self._retired or self._state.closed

    def refusal(self) -> GvClusterError | None:
        """Why no connection can be opened now."""
        if self._state.closed:
            return ClosedError("the cluster was closed")
        if self._retired:
            return ConnectFailed(f"{self.address} left the slot map", address=self.address)
        return self.health.objection()

    def open_for(self, loans: Loans) -> bool:
        """Begin to open an exclusive connection, unless enough are being opened. Never switches."""
        under_way = sum(opening.lane is None for opening in self._openings)
        if under_way >= (1 if self.health.failures else _AT_ONCE):
            return False
        self._begin_to_open(None, loans)
        return True

    def is_slow(self) -> bool:
        """Whether connecting takes long. A timer may go off a little early."""
        return any(monotonic() - each.began > 0.9 * SLOW for each in self._openings)

    # -- the end ------------------------------------------------------------------------------------------------------

    def keep_time(self) -> None:
        """Take over a changed command timeout."""
        for lane in self.lanes.open:
            lane.keep_time(self._state.command_timeout, self._state.patience)

    def retire(self) -> None:
        """The node left the slot map: no new work; what is in flight ends, then the lanes are closed."""
        self._retired = True
        self.lanes.end()
        for loans in self._loans:
            loans.end()

    def close_idle(self) -> int:
        """Close the connections that nobody uses now. Returns how many."""
        idle = [lane for lane in self.lanes.open if not lane.in_flight]
        for lane in idle:
            lane.close()
        return len(idle) + sum(loans.close_idle() for loans in self._loans)

    def close(self, cause: BaseException | None = None) -> None:
        """End every connection now. Never switches."""
        self._retired = True
        for opening in tuple(self._openings):
            opening.abort()
        for loans in self._loans:
            loans.end()
        for connection in self._all_open():
            connection.close(cause)
