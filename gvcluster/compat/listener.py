"""A greenlet that listens: what `run_in_thread` of a facade's pubsub returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import Timeout

from gvcluster.errors import ClosedError
from gvcluster.net.loop import HubLoop

# Seconds between two looks whether to stop, where the caller names no time.
_LOOK = 0.1


class Listener:
    """Calls the handlers of a pubsub until `stop`. Has the methods of the libraries' PubSubWorkerThread."""

    def __init__(
        self, pubsub: Any, loop: HubLoop, sleep_time: float, exception_handler: Callable[..., object] | None
    ) -> None:
        self._pubsub, self._look, self._exception_handler = pubsub, sleep_time or _LOOK, exception_handler
        self._is_running, self._loop = True, loop
        self._greenlet = loop.spawn(self.run)

    def run(self) -> None:
        """Listen. Blocks: until `stop`."""
        try:
            while self._is_running:
                self._look_once()
        finally:
            self._is_running = False
            self._pubsub.close()

    def _look_once(self) -> None:
        try:
            self._pubsub.get_message(ignore_subscribe_messages=True, timeout=self._look)
        except (Exception, Timeout) as error:  # a handler's own Timeout, too
            if self._exception_handler is None:
                raise
            self._exception_handler(error, self._pubsub, self)
            if self._is_running and (isinstance(error, ClosedError) or isinstance(error.__cause__, ClosedError)):
                self._loop.sleep(self._look)  # the client was closed: the next look fails at once, and so for ever

    def stop(self) -> None:
        """End after the message that is being handled, and close the pubsub. Never waits."""
        self._is_running = False

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self._greenlet.dead

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end. Blocks: until then, at most `timeout` seconds."""
        self._greenlet.join(timeout)
