"""Replies that are not in yet: what `Cluster.submit` returns."""

from __future__ import annotations

from typing import Any

from gvcluster.checks import seconds
from gvcluster.errors import ConfigError, ReplyTimeout
from gvcluster.net.loop import YEAR
from gvcluster.net.submission import Callback, Submission


class PendingReply:
    """The reply to a submitted command, now or later. It belongs to the thread that has submitted it."""

    __slots__ = ("_submission",)

    def __init__(self, submission: Submission) -> None:
        self._submission = submission

    def __repr__(self) -> str:
        if not self._submission.is_done:
            return "<PendingReply, not ready>"
        error = self._submission.error
        return "<PendingReply, ready>" if error is None else f"<PendingReply {type(error).__name__}>"

    def ready(self) -> bool:
        """Whether the reply is in, or the error that came instead."""
        return self._submission.is_done

    def get(self, timeout: float | None = None) -> Any:
        """Return the reply, as `Cluster.execute` would.

        Args:
            timeout: Seconds to wait; None: until the command's own deadline has ended it.

        Raises:
            GvClusterError: The error with which the command ended.
            ReplyTimeout: It has not ended after `timeout`. It goes on: this call alone has given up.

        Blocks: until the command has ended. A kill or Timeout ends the wait alone, the command goes on.
        """
        if not self.wait(timeout):
            raise ReplyTimeout(f"no reply within {timeout:g} s; the command goes on", maybe_executed=True)
        if self._submission.error is not None:
            raise self._submission.error
        return self._submission.reply

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the command.

        Args:
            timeout: Seconds; None: until the command's own deadline has ended it.

        Returns:
            Whether it has ended.

        Blocks: as `get`.
        """
        return self._submission.wait(YEAR if timeout is None else seconds("timeout", timeout))

    def then(self, callback: Callback) -> None:
        """Have the hub call `callback(reply, error)` once: at the end of the command, soon if that was already.

        `error` is None exactly when the command succeeded. What the callback raises, the hub reports.

        Raises:
            ConfigError: It can not be called.
        """
        if callback is None:
            raise ConfigError("callback must be callable, not NoneType")
        self._submission.then(checked_callback(callback))


def checked_callback(callback: object) -> Any:
    """Refuse what can not be called."""
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback must be callable, not {type(callback).__name__}")
    return callback
