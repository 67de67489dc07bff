"""The hub's event loop, as this library uses it: the one place that touches `hub.loop`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import gevent
from gevent._hub_local import get_hub_if_exists
from gevent.exceptions import LoopExit
from gevent.hub import Hub
from greenlet import GreenletExit, getcurrent

from gvcluster.core.steps import Steps
from gvcluster.errors import BlockedInHub
from gvcluster.net import forks
from gvcluster.net.doorbell import Doorbell

_T = TypeVar("_T")

READ, WRITE = 1, 2

# Seconds of waking per turn of the loop, shared by all connections of a hub. Without a bound, replies for 10,000
# greenlets held the hub for 424 ms (p99); with this one for 13 ms, at the same throughput (measured with the sketch).
TURN = 0.002


# libuv counts in milliseconds, and warns of less; and it has no number for "for ever": a year will do.
TICK, YEAR = 0.001, 365 * 86400.0

# Seconds after its deadline by which everything a call waits for has had its end, unless a signal handler has raised in
# the midst of telling: then the call ends it.
GRACE = 0.2


def remaining(deadline: float) -> float:
    """Seconds until the deadline, and at least a tick: a wait that is over at once, not one that fails."""
    return min(YEAR, max(TICK, deadline - monotonic()))


class Awaited(Protocol):
    """What can be waited for: gevent's Event, or a Crowd."""

    def is_set(self) -> bool:
        """Whether it has come."""

    def wait(self, timeout: float) -> bool:
        """Wait, at most so many seconds. Returns whether it has come."""


class Abandoned(Protocol):
    """What has a socket: it can be let go where its hub will not do it."""

    def abandon(self) -> None:
        """Close the socket: no shutdown, no goodbye, nobody is told. Never switches."""


class _LibuvWatcher:
    """gevent's libuv loop has one real watcher for each fd, and ignores the `ref` of those that it hands out."""

    __slots__ = ("_real", "close", "start", "stop")

    def __init__(self, watcher: Any) -> None:
        self._real: Any = watcher._watcher_ref
        self.start, self.stop, self.close = watcher.start, watcher.stop, watcher.close

    @property
    def ref(self) -> bool:
        return bool(self._real.ref)

    @ref.setter
    def ref(self, value: bool) -> None:
        self._real.ref = value


class HubLoop:
    """Parking, callbacks, watchers and timers of one hub, and the budget of its turns.

    In a forked child it is a *copy*: the original goes on in the parent. Whatever of ours waited with it waits for
    ever in the child, even if a copied timer or a copied `gevent.Timeout` wakes it.
    """

    __slots__ = (
        "__weakref__", "_doorbell", "_is_libuv", "_loop", "_sockets", "_turn", "_turn_ends", "hub", "is_copy", "park",
        "soon",
    )  # fmt: skip

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.is_copy = False
        self.park: Callable[[], Any] = hub.switch
        self.soon: Callable[..., Any] = hub.loop.run_callback
        self._loop: Any = hub.loop  # a destroyed hub forgets it
        self._is_libuv = "libuv" in type(hub.loop).__module__
        self._sockets: WeakSet[Abandoned] = WeakSet()
        # A callback that does nothing, in C: once it is no longer pending, another turn of the loop has begun.
        self._turn = self.soon(int)
        self._turn_ends = 0.0
        self._doorbell: Doorbell | None = Doorbell(self)
        forks.remember(self)

    def refuse_to_wait_in_hub(self) -> None:
        """Raise BlockedInHub if the hub itself would have to wait: every greenlet would."""
        if getcurrent() is self.hub:
            raise BlockedInHub("this call would wait, and the hub must not: spawn a greenlet for it")

    def from_other_threads(self, callback: Callable[..., object], *args: Any) -> None:
        """Have the hub call it, unless it was destroyed: the one way in from another thread's hub."""
        doorbell = self._doorbell  # as long as it is held here, its descriptor is open
        if doorbell is not None and self.has_hub():
            doorbell.ring(callback, args)

    def tell_user(self, callback: Callable[..., object], *args: Any) -> None:
        """Have the hub call a callback of the user soon, in this process only."""
        self.soon(self._unless_copy, callback, args)

    def _unless_copy(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not self.is_copy:
            function(*args)

    def spawn(self, function: Callable[..., object], *args: Any) -> gevent.Greenlet[..., None]:
        """Run it in a greenlet of its own, in this process only."""
        return gevent.spawn(self._unless_copy, function, args)

    # -- waiting ------------------------------------------------------------------------------------------------------

    @contextmanager
    def only_here(self) -> Iterator[None]:
        """Whatever waits in here does not come back in a forked child."""
        try:
            yield
        except BaseException as error:
            self.halt_copy(error)
            raise
        self.halt_copy()

    def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        with self.only_here():
            gevent.sleep(max(TICK, seconds))

    def wait(self, event: Awaited, seconds: float) -> bool:
        """Wait for the event, at most so many seconds. Returns whether it is set.

        One that is set is not waited for: between `set()` and its callback, gevent would let us wait without a timeout,
        and for ever if all who waited before leave just then.
        """
        with self.only_here():
            return event.is_set() or bool(event.wait(max(TICK, seconds)))

    def in_turns(self, steps: Steps[_T]) -> _T:
        """Do all steps, for 2 ms in each turn of the loop: others are served in between. Returns the result."""
        ends = monotonic() + TURN
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: _T = end.value
                return result
            if monotonic() > ends:
                self.sleep(TICK)
                ends = monotonic() + TURN

    def halt_copy(self, error: BaseException | None = None) -> None:
        """Wait for ever, if this is a copy: what woke the caller was meant for the original.

        Two things end the wait: that somebody in the child kills the greenlet, and that nothing is left to run.
        """
        if not self.is_copy:
            return
        # The frame holds its own greenlet, which is therefore never collected: that would throw GreenletExit into it.
        me = getcurrent()
        while me is not None and not isinstance(error, GreenletExit | LoopExit):
            try:
                self.park()
            except BaseException as another:
                error = another
        if error is not None:
            raise error

    def close_to_other_threads(self) -> None:
        """Whatever other threads want from now on is not done. Never switches."""
        doorbell, self._doorbell = self._doorbell, None
        if doorbell is not None:
            doorbell.stop()

    # -- the end ------------------------------------------------------------------------------------------------------

    def watch_over(self, somebody: Abandoned) -> None:
        """Have its socket closed where this hub will not do it: in a forked child, or after the hub's own end."""
        self._sockets.add(somebody)

    def has_hub(self) -> bool:
        """Whether the hub was not destroyed."""
        return self.hub.loop is not None

    def abandon(self, *, is_over: bool = False) -> None:
        """Close all sockets here and now: the hub is gone, or this is a copy of it. Never switches.

        Two threads may come at once, the one that ends and one that finds it out: each socket falls to one of them.
        `is_over`: its thread has ended, so that it never runs again, though nobody has destroyed it.
        """
        doorbell = self._doorbell
        if doorbell is not None and (is_over or not self.has_hub()):
            doorbell.forsake()
            self._doorbell = None
        while True:
            try:
                somebody = self._sockets.pop()
            except KeyError:
                return
            somebody.abandon()

    def _after_fork(self) -> None:
        self.is_copy = True
        if self.hub is get_hub_if_exists():
            # The kernel's list of what to watch is still the parent's. gevent.os.fork replaces it, os.fork does not:
            # libev does so by itself, but with libuv the parent stopped hearing of its sockets.
            self._loop.reinit()
        self.abandon()

    def drop(self, *watchers: Any) -> None:
        """Stop and close watchers and timers. Those of a destroyed loop are gone already, and must not be touched."""
        if self._loop.ptr:
            for watcher in watchers:
                watcher.stop()
                watcher.close()

    def end(self, *watchers: Any, then: Callable[[], object] | None = None) -> None:
        """Stop and close watchers and timers for good, then do something. Never switches.

        While libuv calls us it keeps lists of what is ready on the C stack of the hub, which is swapped out while a
        greenlet runs: who stops a ready timer or closes a ready socket there, writes into a stranger's stack. The hub
        itself must do it, a moment later. What goes off meanwhile must find out that it is not wanted any more.
        """
        if self._is_libuv and getcurrent() is not self.hub and self.hub is get_hub_if_exists():
            self.soon(self._end, watchers, then)
        else:
            self._end(watchers, then)

    def _end(self, watchers: tuple[Any, ...], then: Callable[[], object] | None) -> None:
        self.drop(*watchers)
        if then is not None:
            then()

    # -- watchers -----------------------------------------------------------------------------------------------------

    def io(self, fd: int, events: int) -> Any:
        """A watcher for a file descriptor; it keeps the loop alive only while its `ref` is set."""
        watcher: Any = self.hub.loop.io(fd, events, ref=False)
        if hasattr(watcher, "_watcher_ref"):
            watcher = _LibuvWatcher(watcher)
            watcher.ref = False
        return watcher

    @property
    def tells_of_errors_once(self) -> bool:
        """Whether a watcher is dead after an error of its socket: libuv stops it then, and gevent thinks that it runs.

        Whoever reads must go on until there is no more, or the reset behind the last bytes is never heard of.
        """
        return self._is_libuv

    def timer(self, after: float, again: float = 0.0, *, ref: bool = False) -> Any:
        """A timer that goes off after so many seconds; it keeps the loop alive only if `ref`.

        Args:
            after: seconds; 0 is the next turn.
            again: go off again and again, after so many seconds each, until stopped: a signal handler that raises can
                strike before the first line of what the timer calls.
            ref: whether it keeps the loop alive.
        """
        if self._is_libuv:
            again = 0.0  # gevent stops a timer there whose callback raises; stopping it once more crashed in C
        return self.hub.loop.timer(max(TICK, after) if after else 0, again, ref=ref)

    def turn_ends(self) -> float:
        """When waking must stop for this turn of the loop, on the monotonic clock."""
        if not self._turn.pending:
            self._turn = self.soon(int)
            self._turn_ends = monotonic() + TURN
        return self._turn_ends
