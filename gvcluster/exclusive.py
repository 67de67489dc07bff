"""One connection for oneself: what would harm others on a shared one is welcome here."""

from __future__ import annotations

import sys
import warnings
from time import monotonic
from types import TracebackType
from typing import Any, Self

from gevent.hub import get_hub

from gvcluster.busy import Busy
from gvcluster.checks import seconds
from gvcluster.core.address import Address
from gvcluster.core.commands import Command, block_timeout, find_command
from gvcluster.core.outcome import classify
from gvcluster.core.resp import encode
from gvcluster.errors import ClosedError, ConfigError, ConnectionLost, ReplyError, StatefulCommand, UnknownCommand
from gvcluster.net.conversation import Conversation
from gvcluster.net.loop import HubLoop
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool
from gvcluster.net.state import ClusterState

# After these, replies do not come one for each command, in order: send() and receive() can do with that.
_STREAMS = frozenset(
    [*"MONITOR SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE".split(), "CLIENT REPLY"]
)
# After these comes what is not RESP.
_NOT_RESP = frozenset("SYNC PSYNC HOST: POST".split())
# The table calls them stateful because they concern the writes of their own connection; they leave nothing behind.
_HARMLESS = frozenset(("WAIT", "WAITAOF"))


class ExclusiveConnection:
    """A connection to one node that nobody else uses. Made by `Cluster.connection`.

        with cluster.connection(node) as connection:
            connection.execute("SET", "user:1", "Ada")
            connection.execute("WAIT", 1, 500)

        with cluster.connection(node) as connection:
            connection.send("MONITOR")
            while True:
                print(connection.receive())

    It serves one greenlet at a time, in the hub where it was made. Redirects are not followed: they are raised as
    `Redirected`. At the end of the `with` it goes back to the node's pool if all replies were read and nothing was sent
    that could have left a state on it; else it is closed, so nobody inherits what was set on it.
    """

    def __init__(
        self,
        pool: NodePool,
        connection: MultiplexedConnection,
        state: ClusterState,
        loop: HubLoop,
    ) -> None:
        self._pool, self._connection, self._state, self._loop = pool, connection, state, loop
        self._conversation = Conversation(connection, loop, state.options.max_queued_bytes)
        self._busy = Busy("another greenlet waits for a reply on this connection: make one for each")
        self._is_returned = False
        self._is_clean = True

    def __repr__(self) -> str:
        return f"<ExclusiveConnection to {self.address}{' closed' if self.closed else ''}>"

    @property
    def address(self) -> Address:
        """The node's address."""
        return self._connection.address

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or was given back."""
        return self._is_returned or self._connection.closed

    def execute(self, *args: Any, timeout: float | None = None) -> Any:
        """Send one command over this connection, and return its reply.

        Also one that changes the connection (SELECT, MULTI, WATCH, READONLY, CLIENT TRACKING …), and one that the
        command table does not know. WAIT and WAITAOF belong here: they wait for the writes of their own connection.
        Not one after which replies are no longer one for each command (SUBSCRIBE, MONITOR, CLIENT REPLY …): `send` it.

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
        command = self._command(args)
        if self._conversation.is_stream:
            raise StatefulCommand("nobody can tell which reply is this one's any more: use send() and receive()")
        if command is not None and command.name in _STREAMS:
            instead = "cluster.pubsub(), or " if command.name.endswith("SUBSCRIBE") else ""
            raise StatefulCommand(
                f"{command.name} ends the order of one reply for each command: use {instead}send() and receive()"
            )
        patience += self._server_wait(command, args)
        with self._busy:
            try:
                reply = self._connection.call_within(data, monotonic() + patience)
            except BaseException:
                self.close()
                raise
        return self._value(reply)

    def send(self, *args: Any) -> None:
        """Send one command, and do not wait for its reply: `receive` brings it. Never waits.

        After SUBSCRIBE and its kind, MONITOR and CLIENT REPLY there is no telling what answers which command:
        from then on `receive` brings all that comes, and `execute` is refused. What is not received is kept, up to
        `max_queued_bytes` of it: then the connection ends, and `receive` brings what came before.

        Args:
            args: As for `execute`.

        Raises:
            ConfigError: The arguments make no sense; nothing was sent.
            StatefulCommand: What follows it is not RESP (SYNC, PSYNC).
            ConnectionLost, ClosedError: The connection has ended, or the cluster was closed.
        """
        self._refuse_if_ended()
        data = encode(args)
        command = self._command(args)
        server_wait = self._server_wait(command, args)
        if command is not None and command.name in _STREAMS:
            self._conversation.begin_stream(data)
        else:
            self._conversation.send(data, server_wait)

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next reply of what was sent, in that order. After SUBSCRIBE or MONITOR: the next that comes.

        A subscription's messages are lists: `[b"message", channel, data]`, with its confirmations among them.

        Args:
            timeout: Seconds that it may take, besides the server's own wait of a blocking command; if None, the
                cluster's `command_timeout` for a reply, and for ever after SUBSCRIBE or MONITOR.

        Raises:
            ConfigError: Nothing was sent that is owed a reply, or another greenlet is using the connection.
            ReplyError: The reply is an error, or redirects.
            ReplyTimeout: Nothing came in time. The connection lives on, and what comes later can be received.
            ConnectionLost: The connection has ended, and all that came before was received.

        Blocks: until something is there. A kill or Timeout loses nothing: the next call receives it.
        """
        self._refuse_others()
        conversation = self._conversation
        patience = None if timeout is None else seconds("timeout", timeout)
        if conversation.is_quiet:
            self._refuse_if_ended()
            raise ConfigError("nothing was sent whose reply is not received yet: send() something first")
        if patience is None and not conversation.is_stream:
            patience = self._state.command_timeout
        with self._busy:
            reply = conversation.receive(patience)
        return self._value(reply)

    def _value(self, reply: Any) -> Any:
        if not isinstance(reply, Exception):
            return reply
        if not isinstance(reply, ReplyError):
            self.close()
        raise classify(reply, None, self.address).error

    def _refuse_if_unusable(self) -> None:
        self._refuse_others()
        self._refuse_if_ended()

    def _refuse_others(self) -> None:
        if self._loop.hub is not get_hub():
            raise ConfigError(f"{self!r} belongs to another hub: make one in each thread")
        self._loop.refuse_to_wait_in_hub()
        self._busy.refuse()

    def _refuse_if_ended(self) -> None:
        if self._loop.hub is not get_hub():
            raise ConfigError(f"{self!r} belongs to another hub: make one in each thread")
        if self._state.closing:
            raise ClosedError("the cluster was closed; make a new one")
        if self.closed:
            raise ConnectionLost(f"{self!r} has ended: make a new one", address=self.address)

    def _command(self, args: tuple[Any, ...]) -> Command | None:
        """The command, if anybody knows it, and whether it may leave something behind."""
        try:
            command = find_command(args, self._state.commands)
        except UnknownCommand:
            self._is_clean = False
            return None
        if command.name in _NOT_RESP:
            raise StatefulCommand(
                f"{command.name} ends the order of one reply for each command: nothing here can read it"
            )
        # Also what the table knows from users and servers counts as a script.
        if command.script or (command.stateful is not None and command.name not in _HARMLESS):
            self._is_clean = False
        return command

    @staticmethod
    def _server_wait(command: Command | None, args: tuple[Any, ...]) -> float:
        """How long the server may wait by itself, in seconds."""
        return 0.0 if command is None else block_timeout(command, args) or 0.0

    def close(self) -> None:
        """Close it now. Can be called twice. Never waits."""
        self._return(clean=False)

    def _return(self, *, clean: bool) -> None:
        if self._is_returned:
            return
        self._is_returned = True
        if self._loop.hub is get_hub():
            self._pool.give_back(self._connection, clean=clean)
        else:
            self._loop.from_other_threads(self._pool.give_back, self._connection)

    def __del__(self) -> None:
        """Nobody can use it any more, and nobody else may. Never waits."""
        if getattr(self, "_is_returned", True) or self._connection.closed or sys.is_finalizing():
            return
        self._loop.from_other_threads(self._pool.give_back, self._connection)
        warnings.warn(f"{self!r} was not closed: use it in a with statement", ResourceWarning, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._return(clean=self._is_clean and not self._busy.is_so and self._conversation.is_quiet)
