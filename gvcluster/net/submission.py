"""One submitted command: what it is about, who waits for it, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent.event import Event
from greenlet import getcurrent

from gvcluster.call_options import CallOptions
from gvcluster.core.address import Address
from gvcluster.core.packing import pack
from gvcluster.core.routing import may_leave_primary
from gvcluster.errors import ClosedError, GvClusterError
from gvcluster.net.executor import Executor
from gvcluster.net.request import Request, look_at
from gvcluster.net.watch import SHORTEST
from gvcluster.records import replace

Callback = Callable[[Any, Exception | None], object]  # callback(reply, error)


class Submission:
    """One submitted command, from here to its callbacks. Belongs to one hub."""

    __slots__ = (
        *("_called", "_callbacks", "_done", "_executor", "_is_told", "_options", "_request", "_timer"),
        *("args", "began", "data", "deadline", "error", "is_done", "may_read", "patience", "reply", "slot"),
    )

    def __init__(self, executor: Executor, args: tuple[Any, ...], options: CallOptions) -> None:
        self._executor, self.args, self._options = executor, args, options
        self.began = monotonic()
        self.is_done = False
        self.reply: Any = None
        self.error: Exception | None = None
        self._callbacks: list[Callback] = []
        self._called = 0  # how many of them were
        self._is_told = False
        self._done: Event | None = None
        self._timer: Any = None
        self._request: Request | None = None
        self.look()

    def look(self) -> None:
        """See what it is about. Raises what is wrong with it."""
        commands = self._executor.runtime.state.commands
        if not self._options:
            try:
                self.data, slot = pack(self.args, commands.heads)
            except (LookupError, TypeError, ValueError):
                pass  # and the long way not from in here: this error, which shows values, would be its context
            else:
                state = self._executor.runtime.state
                self.may_read = state.read_from is not None and may_leave_primary(commands.get(self.args[0]))
                self.slot: int | None = slot
                self.deadline = self.began + state.options.timeout
                self.patience = state.command_timeout
                return
        self._request = request = self._looked_at()
        self.slot, self.data, self.deadline = request.call.slot, request.data, request.call.deadline
        self.patience = request.command_timeout
        self.may_read = request.call.read_from is not None  # from others than the primary

    @property
    def request(self) -> Request:
        """The call, looked at. Its bytes are those of the beginning: a bytearray may have changed meanwhile."""
        if self._request is None:
            request = self._looked_at()
            self._request = replace(request, data=self.data, call=replace(request.call, slot=self.slot))
        return self._request

    def _looked_at(self) -> Request:
        executor = self._executor
        return look_at(self.args, self._options, executor.runtime.state.commands, executor.runtime.state, self.began)

    @property
    def node(self) -> Address | None:
        """The only node that may be asked."""
        return self._options.get("node")

    @property
    def is_exclusive(self) -> bool:
        """Whether it needs a connection of its own."""
        return self._request is not None and self._request.exclusive

    @property
    def is_ordinary(self) -> bool:
        """Whether it has no options of its own, and so the patience of most calls."""
        return not self._options

    # -- the end ------------------------------------------------------------------------------------------------------

    def settle(self, reply: Any, error: Exception | None = None) -> None:
        """This is the end of it. Whatever comes later changes nothing. Never switches.

        A signal handler that raises may have ended an earlier call in the midst: this one goes on with the rest.
        """
        if not self.is_done:
            self.reply, self.error, self.is_done = reply, error, True
        if self._is_told:
            return
        self.set_timer(None)
        if getcurrent() is self._executor.hub:
            self._tell()
        else:
            self._executor.runtime.loop.tell_user(self._tell)

    def then(self, callback: Callback) -> None:
        """Have the hub call it at the end, soon if that was already."""
        self._callbacks.append(callback)
        if self.is_done:
            self._executor.runtime.loop.tell_user(self._tell)

    def _tell(self) -> None:
        try:
            self._call_back()
        except BaseException:
            self._executor.runtime.loop.tell_user(self._tell)
            raise
        if self._done is not None:
            self._done.set()
        if not self._is_told:
            self._is_told = True
            self._executor.active -= 1

    def _call_back(self) -> None:
        loop, callbacks = self._executor.runtime.loop, self._callbacks
        reply, error = self.reply, self.error
        while self._called < len(callbacks) and not loop.is_copy:
            callback = callbacks[self._called]
            try:
                self._called += 1  # nothing can come between this and the call
                callback(reply, error)
            except BaseException as raised:
                loop.hub.handle_error(callback, type(raised), raised, raised.__traceback__)

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so many seconds. Returns whether it is there."""
        loop = self._executor.runtime.loop
        if not self.is_done:
            loop.refuse_to_wait_in_hub()
            if loop.is_copy:
                raise ClosedError("the command was submitted before the fork, by another process", maybe_executed=True)
            done = Event()  # a collection may run anything here: what is there by now counts
            if self._done is None:
                self._done = done
            if not self.is_done:
                loop.wait(self._done, seconds)
        return self.is_done

    # -- time ---------------------------------------------------------------------------------------------------------

    def expire_with(self, error: Callable[[], GvClusterError]) -> None:
        """End it with this error at its deadline, if it has not ended or been sent before."""
        timer = self._executor.runtime.loop.timer(self.deadline - monotonic(), again=SHORTEST)
        timer.start(self._expire, timer, error, update=True)
        self.set_timer(timer)

    def _expire(self, timer: Any, error: Callable[[], GvClusterError]) -> None:
        if timer is self._timer and not self._executor.runtime.loop.is_copy:
            self.settle(None, error())

    def set_timer(self, timer: Any) -> None:
        """Have this timer instead of the one before."""
        old, self._timer = self._timer, timer
        if old is not None:
            self._executor.runtime.loop.end(old)
