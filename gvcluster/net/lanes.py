"""A node's lanes in one hub: the multiplexed connections of ordinary calls, and the one of large calls."""

from __future__ import annotations

from time import monotonic

from greenlet import getcurrent, greenlet

from gvcluster.net.large import LargeReplies
from gvcluster.net.multiplexed import BURST, LARGE_BURST, MultiplexedConnection
from gvcluster.net.opening import Opening
from gvcluster.net.state import ClusterState

# A node that owes a reply for so many seconds is not asked for a slot map if there is another.
LATE = 0.1
# Bytes of memory for unfinished replies that the lane for large calls keeps from one to the next: to grow it anew each
# time took some 90 of 650 µs for 1 MiB. What is above is given back.
KEPT = 4 * 2**20
# Whose call it is; None: that of the greenlet that runs now.
Caller = greenlet | None


class Lanes:
    """Which connection serves whom. Each lane is opened when somebody first needs it, and anew when it was lost.

    A greenlet keeps to one ordinary lane: its commands reach the node in the order in which it sent them, those
    included that it gave up. Nothing is promised between an ordinary lane and the one for large calls.
    """

    __slots__ = ("_connections", "_ordinary", "openings")

    def __init__(self, ordinary: int) -> None:
        self._ordinary = ordinary
        self._connections: list[MultiplexedConnection | None] = [None] * (ordinary + 1)  # large calls have the last
        self.openings: list[Opening | None] = [None] * (ordinary + 1)

    def __repr__(self) -> str:
        return f"<Lanes {self._connections}>"

    def __getitem__(self, lane: int) -> MultiplexedConnection | None:
        return self._connections[lane]

    @property
    def open(self) -> list[MultiplexedConnection]:
        """All that are open."""
        return [each for each in self._connections if each is not None]

    @property
    def only(self) -> MultiplexedConnection | None:
        """The one that serves every ordinary call, if one does and it is open."""
        return self._connections[0] if self._ordinary == 1 else None

    def are_responsive(self) -> bool:
        """Whether one is open, and no reply on any is late."""
        return bool(self.open) and not self.are_late()

    def are_late(self) -> bool:
        """Whether a reply is late on any."""
        now = monotonic()
        return any(lane.owes_since(now) >= LATE for lane in self.open)

    def number(self, bulk: bool, caller: Caller = None) -> int:
        """Which lane the greenlet is to use for a call; None: the one that runs now."""
        if bulk:
            return self._ordinary
        # The hash of a tuple is well mixed; that of a greenlet is its address, a multiple of its size.
        return hash((caller if caller is not None else getcurrent(),)) % self._ordinary if self._ordinary > 1 else 0

    def number_of_any(self) -> int:
        """Which lane to use for a call that nobody's order depends on: one that is open, if any is."""
        return next((lane for lane in range(self._ordinary) if self._connections[lane] is not None), 0)

    def purpose(self, lane: int | None) -> str:
        """What a connection callback is told."""
        return "exclusive" if lane is None else "bulk" if lane == self._ordinary else "multiplexed"

    def forget(self, opening: Opening) -> None:
        """An attempt to open a lane has ended."""
        if opening in self.openings:
            self.openings[self.openings.index(opening)] = None

    def put(self, lane: int, connection: MultiplexedConnection, state: ClusterState, large: LargeReplies) -> None:
        """Serve by this connection from now on."""
        options, burst = state.options, LARGE_BURST if lane == self._ordinary else BURST
        connection.limit(options.max_in_flight, options.max_queued_bytes, options.max_waiting, burst)
        connection.keep_time(state.command_timeout, state.patience)
        connection.on_large = large.note
        if lane == self._ordinary:
            connection.keep_memory(KEPT)
        self._connections[lane] = connection

    def remove(self, connection: MultiplexedConnection) -> None:
        """Serve by it no longer, if it is a lane."""
        if connection in self._connections:
            self._connections[self._connections.index(connection)] = None

    def end(self) -> None:
        """The node left the slot map: close those that are open when they owe nothing any more."""
        for lane in self.open:
            close_when_empty(lane, ConnectionError("the node left the slot map"))


def close_when_empty(lane: MultiplexedConnection, cause: BaseException | None) -> None:
    """Close it when it owes nothing any more."""
    if lane.in_flight:
        lane.on_empty = lambda: lane.close(cause)
    else:
        lane.close(cause)
