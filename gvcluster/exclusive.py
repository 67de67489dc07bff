"""One connection for oneself: what would harm others on a shared one is welcome here."""

from __future__ import annotations

import sys
import warnings
from time import monotonic
from types import TracebackType
from typing import Any, Self

from gevent.hub import get_hub

from gvcluster.checks import seconds
from gvcluster.core.address import Address
from gvcluster.core.commands import CommandTable, block_timeout, find_command
from gvcluster.core.outcome import classify
from gvcluster.core.resp import encode
from gvcluster.errors import ClosedError, ConfigError, ConnectionLost, ReplyError, StatefulCommand, UnknownCommand
from gvcluster.net.loop import HubLoop
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.state import ClusterState

# After these, replies do not come one for each command, in order.
_NOT_ONE_REPLY = frozenset(
    "MONITOR SYNC PSYNC SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE HOST: POST".split()
) | {"CLIENT REPLY"}


class ExclusiveConnection:
    """A connection to one node that nobody else uses. Made by `Cluster.connection`.

        with cluster.connection(node) as connection:
            connection.execute("CLIENT", "NO-TOUCH", "ON")
            connection.execute("GET", "user:1")

    It serves one greenlet at a time, in the hub where it was made, and it is closed at the end: nobody inherits what
    was set on it. Redirects are not followed: they are raised as `Redirected`.
    """

    def __init__(
        self, connection: MultiplexedConnection, state: ClusterState, loop: HubLoop, commands: CommandTable
    ) -> None:
        self._connection, self._state, self._loop, self._commands = connection, state, loop, commands
        self._is_busy = False

    def __repr__(self) -> str:
        return f"<ExclusiveConnection to {self.address}{' closed' if self.closed else ''}>"

    @property
    def address(self) -> Address:
        """The node's address."""
        return self._connection.address

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.closed

    def execute(self, *args: Any, timeout: float | None = None) -> Any:
        """Send one command over this connection, and return its reply.

        Also one that changes the connection (SELECT, MULTI, WATCH, READONLY, CLIENT TRACKING, WAIT …), and one that the
        command table does not know. Not one after which replies are no longer one for each command (SUBSCRIBE,
        MONITOR, CLIENT REPLY …).

        Args:
            args: As for `Cluster.execute`.
            timeout: Seconds that the reply may take, besides the server's own wait of a blocking command; the
                cluster's `command_timeout` if None.

        Raises:
            ConfigError: The arguments make no sense, or another greenlet is using the connection; nothing was sent.
            StatefulCommand: See above.
            ReplyError: The server refused, or redirects.
            ReplyTimeout, ConnectionLost: No reply; `maybe_executed` says whether the command may have run. The
                connection is closed: what state it is in is anybody's guess.
            ClosedError: The cluster was closed.

        Blocks: until the reply is in. A kill or Timeout closes the connection.
        """
        self._refuse_if_unusable()
        patience = self._state.command_timeout if timeout is None else seconds("timeout", timeout)
        data = encode(args)
        patience += self._server_wait(args)
        self._is_busy = True
        try:
            reply = self._connection.call_within(data, monotonic() + patience)
        except BaseException:
            self.close()
            raise
        finally:
            self._is_busy = False
        if not isinstance(reply, Exception):
            return reply
        if not isinstance(reply, ReplyError):
            self.close()
        raise classify(reply, None, self.address).error

    def _refuse_if_unusable(self) -> None:
        if self._loop.hub is not get_hub():
            raise ConfigError(f"{self!r} belongs to another hub: make one in each thread")
        self._loop.refuse_to_wait_in_hub()
        if self._state.closing:
            raise ClosedError("the cluster was closed; make a new one")
        if self._is_busy:
            raise ConfigError(f"{self!r} is used by another greenlet: make one for each")
        if self._connection.closed:
            raise ConnectionLost(f"{self!r} has ended: make a new one", address=self.address)

    def _server_wait(self, args: tuple[Any, ...]) -> float:
        """How long the server may wait by itself, in seconds."""
        try:
            command = find_command(args, self._commands)
        except UnknownCommand:
            return 0.0
        if command.name in _NOT_ONE_REPLY:
            raise StatefulCommand(f"{command.name} ends the order of one reply for each command, also here")
        return block_timeout(command, args) or 0.0

    def close(self) -> None:
        """Close it now. Can be called twice. Never waits."""
        if self._loop.hub is get_hub():
            self._connection.close()
        else:
            self._loop.from_other_threads(self._connection.close)

    def __del__(self) -> None:
        """Nobody can use it any more, and nobody else may. Never waits."""
        connection = getattr(self, "_connection", None)
        if connection is not None and not connection.closed and not sys.is_finalizing():
            warnings.warn(f"{self!r} was not closed: use it in a with statement", ResourceWarning, stacklevel=2)
            self._loop.from_other_threads(connection.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
