"""A node's exclusive connections in one hub: each is lent to one borrower at a time, first come, first served.

Every open connection is either *idle* or *lent*. Who finds none stands in *line*. What comes free, from a borrower or
newly opened, goes to the oldest in line at once: it counts as lent to him before he runs again, so nobody can come in
between. He acknowledges by taking it; if he was killed meanwhile, he hands it on from his own frame. Whoever changes
anything calls `go_on`, which never switches; so nothing is lost between two steps.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from gevent.event import Event

from gvcluster.core.address import Address
from gvcluster.errors import ConnectFailed, GvClusterError, PoolFull, PoolTimeout
from gvcluster.net.alarm import Alarm
from gvcluster.net.health import Health
from gvcluster.net.loop import HubLoop, remaining
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.opening import SLOW, again
from gvcluster.net.state import ClusterState
from gvcluster.reports import PoolStatistics

# A connection lives for so many parts of `max_lifetime`, at random: those opened together must not end together.
_SHORTEST_LIFE, _SPREAD = 0.8, 0.2


class Opener(Protocol):
    """The node's pool, which opens connections and tells `Loans` of their end. Nothing here switches."""

    address: Address
    health: Health

    @property
    def is_over(self) -> bool: ...  # the node left the slot map, or the cluster was closed

    def refusal(self) -> GvClusterError | None: ...  # why none can be opened now, if so

    def open_for(self, loans: Loans) -> bool: ...  # begin to open one, unless enough are being opened

    def is_slow(self) -> bool: ...  # whether connecting takes long


class Borrower:
    """One who stands in line. `connection` or `error` says what became of it, and `told` is set."""

    __slots__ = ("connection", "error", "is_for_slot", "told")

    def __init__(self, is_for_slot: bool) -> None:
        self.is_for_slot, self.told = is_for_slot, Event()
        self.connection: MultiplexedConnection | None = None
        self.error: GvClusterError | None = None


class Loans:
    """The exclusive connections of one kind: for whatever their borrower likes, or for blocking calls."""

    def __init__(self, option: str, opener: Opener, state: ClusterState, loop: HubLoop) -> None:
        self._option, self._opener, self._state, self._loop = option, opener, state, loop
        self.most: int = getattr(state.options, option)
        self._until: dict[MultiplexedConnection, float] = {}  # all that are open, and how long each may live
        self._idle: dict[MultiplexedConnection, float] = {}  # since when; the one used last is at the end
        self._lent: dict[MultiplexedConnection, float] = {}
        self._line: OrderedDict[Borrower, None] = OrderedDict()
        self._openings = 0
        self._alarm = Alarm(loop, self._look)
        self._timeouts = self._creations = self._grants = self._uses = 0
        self._create_time = self._wait_time = self._use_time = 0.0

    def __repr__(self) -> str:
        return f"<Loans {len(self._lent)} lent, {len(self._idle)} idle, {len(self._line)} wait, most {self.most}>"

    @property
    def open(self) -> list[MultiplexedConnection]:
        """All that are open."""
        return list(self._until)

    def statistics(self) -> PoolStatistics:
        """What is, and what was so far."""
        return PoolStatistics(
            *(len(self._idle), len(self._lent), self.most, self.most, len(self._line), self._timeouts),
            *(self._creations, self._create_time, self._grants, self._wait_time, self._uses, self._use_time),
        )

    # -- borrowing ----------------------------------------------------------------------------------------------------

    def wait(self, deadline: float, on_slow: Callable[[], object] | None) -> MultiplexedConnection:
        """Borrow a connection. See `NodePool.wait_exclusive`."""
        began = monotonic()
        connection = None if self._line else self._take_idle()
        if connection is not None:
            self._lent[connection] = began
        else:
            patience = self._state.options.pool_timeout
            until = deadline if patience is None else min(deadline, began + patience)
            connection = self._wait_in_line(until, on_slow)
        self._grants += 1
        self._wait_time += monotonic() - began
        return connection

    def _wait_in_line(self, until: float, on_slow: Callable[[], object] | None) -> MultiplexedConnection:
        self._refuse_if_full()
        borrower = Borrower(on_slow is not None)
        try:
            self._line[borrower] = None
            while True:
                self.go_on()
                self._wait_to_be_told(borrower, until, on_slow)
                connection = self._outcome(borrower)
                if not connection.closed:
                    return connection
                # It was lost on the way to him: he is the oldest again.
                borrower.connection = None
                borrower.told.clear()
                self._line[borrower] = None
                self._line.move_to_end(borrower, last=False)
        except BaseException:
            self._leave(borrower)
            raise

    def _refuse_if_full(self) -> None:
        """Those for whom there is room to open another do not count as waiting."""
        beyond = len(self._lent) + len(self._line) - self.most
        if beyond >= self._state.options.max_waiting:
            raise PoolFull(
                f"all {self.most} connections of {self._option} to {self._opener.address} are lent, and {beyond}"
                f" callers wait for one already: lend them for shorter, or raise {self._option} or max_waiting",
                **self._sizes(),
            )

    def _wait_to_be_told(self, borrower: Borrower, until: float, on_slow: Callable[[], object] | None) -> None:
        told = borrower.told
        if told.is_set():
            return
        if on_slow is not None and not self._loop.wait(told, min(SLOW, remaining(until))) and self._opener.is_slow():
            on_slow()
        self._loop.wait(told, remaining(until))

    def _outcome(self, borrower: Borrower) -> MultiplexedConnection:
        if borrower.connection is not None:
            return borrower.connection
        if borrower.error is not None:
            raise borrower.error
        self._timeouts += 1
        if len(self._lent) < self.most:  # there was room, and nothing to fill it with
            raise ConnectFailed(f"no connection to {self._opener.address} in time", address=self._opener.address)
        raise PoolTimeout(
            f"none of the {self.most} connections of {self._option} to {self._opener.address} came free in time, and"
            f" {len(self._line) - 1} other callers wait: lend them for shorter, or raise {self._option}",
            **self._sizes(),
        )

    def _sizes(self) -> dict[str, Any]:
        return {"address": self._opener.address, "limit": self.most, "waiting": len(self._line)}

    def _leave(self, borrower: Borrower) -> None:
        """Wait no longer; what was handed over meanwhile is for the next."""
        self._line.pop(borrower, None)
        if borrower.connection is not None:
            self._take_back(borrower.connection)

    # -- serving ------------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Serve the oldest in line with what is idle, and see that as many are opened as are needed. Never switches."""
        while self._line and (connection := self._take_idle()) is not None:
            self._grant(connection)
        if self._line:
            refusal = self._opener.refusal()
            if refusal is None:
                self._open()
            elif (self._lent or self._openings) and not self._opener.is_over:
                # One may come free, or tell that the node is back.
                self._alarm.set(self._opener.health.paused_until)
            else:
                self.tell_all(refusal)

    def _open(self) -> None:
        """Have as many opened as those in line need, or as there is room for."""
        while self._openings < min(len(self._line), self.most - len(self._until)) and self._opener.open_for(self):
            self._openings += 1

    def _take_idle(self) -> MultiplexedConnection | None:
        """The idle one that was used last, if it is still fit for use. It is neither idle nor lent then."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if monotonic() < self._until.get(connection, 0.0) and connection.is_untouched():
                return connection
            connection.close()
        return None

    def _grant(self, connection: MultiplexedConnection) -> None:
        borrower = next(iter(self._line))
        self._lent[connection] = monotonic()
        borrower.connection = connection
        self._line.popitem(last=False)
        borrower.told.set()

    def tell_all(self, error: GvClusterError, *, only_for_slot: bool = False) -> None:
        """Have those in line raise it, each an object of his own. Never switches."""
        for borrower in list(self._line):
            if borrower.is_for_slot or not only_for_slot:
                borrower.error = again(error, self._opener.address)
                self._line.pop(borrower, None)
                borrower.told.set()

    # -- giving back --------------------------------------------------------------------------------------------------

    def give_back(self, connection: MultiplexedConnection, clean: bool) -> None:
        """See `NodePool.give_back`. Never switches."""
        since = self._lent.get(connection)
        if since is None:
            return
        self._uses += 1
        self._use_time += monotonic() - since
        if clean:
            self._take_back(connection)
        else:
            connection.close()

    def _take_back(self, connection: MultiplexedConnection) -> None:
        now = monotonic()
        if self._lent.pop(connection, None) is None or connection.closed:
            return
        if self._opener.is_over or connection.in_flight or connection.is_stream or now >= self._until[connection]:
            connection.close()
            return
        self._idle[connection] = now
        self.go_on()
        self._wind_up()

    # -- what the opener tells ----------------------------------------------------------------------------------------

    def ended(self, connection: MultiplexedConnection | None, seconds: float) -> None:
        """One of those that were asked for is open after so many seconds, or could not be opened. Never switches."""
        self._openings -= 1
        if connection is None or connection.closed:
            return
        if self._opener.is_over:
            connection.close()
            return
        self._creations += 1
        self._create_time += seconds
        now, life = monotonic(), self._state.options.max_lifetime
        jitter = _SHORTEST_LIFE + _SPREAD * self._state.options.rng.random()
        self._until[connection] = math.inf if life is None else now + life * jitter
        self._idle[connection] = now
        self.go_on()
        self._wind_up()

    def lost(self, connection: MultiplexedConnection) -> None:
        """A connection has ended, whoever's it was. Never switches."""
        if self._until.pop(connection, None) is not None:
            self._idle.pop(connection, None)
            self._lent.pop(connection, None)
            self.go_on()

    # -- the end of what is idle --------------------------------------------------------------------------------------

    def close_idle(self, *, only_overdue: bool = False) -> int:
        """Close those that nobody has, or that were idle for too long or are too old. Returns how many."""
        now = monotonic()
        ending = [each for each in self._idle if not only_overdue or self._due(each) <= now]
        for connection in ending:
            connection.close()
        return len(ending)

    def _due(self, connection: MultiplexedConnection) -> float:
        longest = self._state.options.max_idle_time
        return min(self._until[connection], math.inf if longest is None else self._idle[connection] + longest)

    def _wind_up(self) -> None:
        """Have the first that is due looked at then."""
        if self._idle:
            self._alarm.set(min(map(self._due, self._idle)))

    def _look(self) -> None:
        self.close_idle(only_overdue=True)
        self.go_on()
        self._wind_up()

    def renew(self) -> None:
        """Lend none of these again. Never switches."""
        self._until = dict.fromkeys(self._until, 0.0)
        self.close_idle()

    def end(self) -> None:
        """Lend no more, for the opener is over; who has one may go on. Never switches."""
        refusal = self._opener.refusal()
        assert refusal is not None
        self.tell_all(refusal)
        self.close_idle()
        self._alarm.stop()
