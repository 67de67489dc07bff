"""One node of a FakeCluster: what answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import gevent

from gvcluster.errors import ConfigError
from gvcluster.testing import fake_server
from gvcluster.testing.answers import Answer, Close, Handler, NotHandled
from gvcluster.testing.fake_connection import FakeConnection, NoCommand
from gvcluster.testing.fake_listener import FakeListener
from gvcluster.testing.script import Script, Step

if TYPE_CHECKING:
    from gvcluster.testing.fake import FakeCluster


_OF_THE_CLIENT = frozenset((b"HELLO", b"AUTH", b"CLIENT", b"CLUSTER"))


class Received(NamedTuple):
    """A command that a node has received: over its how many-th connection, and what."""

    connection: int
    args: list[bytes]


@dataclass
class _Rule:
    """A handler set with `on`, and how many times it is still asked."""

    handler: Handler
    times: float


class FakeNode(FakeListener):
    """A node of a FakeCluster. Made by the cluster.

    Attributes:
        cluster: The cluster it belongs to.
        index: Its place in `cluster.nodes`.
        id: 40 hexadecimal digits.
        address: Where it listens. The port is its own from the beginning, also while it is stopped.
        primary: The node that it replicates, or None when it is a primary itself.
        epoch: Its configuration epoch, which CLUSTER NODES tells.
        availability_zone: What CLUSTER SLOTS tells of it, or None.
        data: Its keys and values; a replica shares those of its primary.
        received: Every command, in the order of arrival over all connections.
        override: A handler that is asked first, for every command.
        errors: What handlers have raised; `FakeCluster.stop()` raises the first.
    """

    def __init__(self, cluster: FakeCluster, index: int, primary: FakeNode | None = None, *, port: int = 0) -> None:
        super().__init__(cluster.host, port)
        self.cluster = cluster
        self.index = index
        self.id = f"{index + 1:04x}" * 10
        self.primary = primary
        self.epoch = index + 1
        self.availability_zone: str | None = None
        self.data: dict[bytes, Any] = {} if primary is None else primary.data
        self.received: list[Received] = []
        self.override: Handler | None = None
        self.errors: list[BaseException] = []
        self._rules: dict[str, _Rule] = {}
        self._script: Script | None = None

    def __repr__(self) -> str:
        frozen = "" if self._thawed.is_set() else ", frozen"
        state = "stopped" if self._listener is None else f"{len(self._open)} connections"
        return f"<FakeNode {self.index} {self.role} {self.address}: {state}{frozen}>"

    @property
    def role(self) -> Literal["primary", "replica"]:
        """`"primary"` or `"replica"`."""
        return "primary" if self.primary is None else "replica"

    def commands(self, name: str) -> list[list[bytes]]:
        """List the arguments of each command of this name that was received, the name included.

        Args:
            name: `"GET"`, or with a subcommand `"CLUSTER SLOTS"`, in any case.
        """
        words = name.upper().encode().split()
        return [args for _, args in self.received if [word.upper() for word in args[: len(words)]] == words]

    def work(self) -> list[list[bytes]]:
        """List the arguments of each command received, without what clients say for themselves: handshakes, maps."""
        return [args for _, args in self.received if args[0].upper() not in _OF_THE_CLIENT]

    def on(self, name: str, handler: Handler | Answer, times: int | None = None) -> None:
        """Answer the commands of this name with a handler, or always with the same answer.

        Args:
            name: `"GET"`, or with a subcommand `"CLUSTER SLOTS"`, in any case. The longer name is asked first.
            handler: A function `(node, connection, args)` that returns an answer, or an answer: raw bytes, None to
                stay silent, Close, Reset, Pieces, Delay, or NOT_HANDLED for the default. It replaces an earlier one.
            times: So many times; then the default answers again. None for always.
        """
        answer = handler if callable(handler) else lambda _node, _connection, _args: handler
        self._rules[name.upper()] = _Rule(cast(Handler, answer), float("inf") if times is None else times)

    def play(self, *steps: Step, timeout: float = 5.0) -> None:
        """Let a script drive the node instead of handlers: it must meet exactly this traffic.

        Whatever else comes, or does not come in time, ends the node at once: all its connections are closed and it
        listens no more. `wait_played()` and `FakeCluster.stop()` raise why.

        Args:
            steps: ExpectConnect, Expect, Send, ExpectClose, Close, Reset and Sleep, in order.
            timeout: Seconds that each step may take.

        Raises:
            ConfigError: The node runs already: give it its script before the cluster is started.

        Blocks:
            Never.
        """
        if self._listener is not None:
            raise ConfigError(f"{self!r} runs already: give it its script before")
        self._script = Script(self, steps, timeout)

    def wait_played(self, timeout: float = 5.0) -> None:
        """Wait until the last step of the script is done.

        Args:
            timeout: Seconds.

        Raises:
            ScriptFailed: The traffic was another one, or the script is not done in time.

        Blocks:
            Until then. A kill or Timeout changes nothing.
        """
        if self._script is not None:
            self._script.wait_done(timeout)

    def reset_connections(self, rst: bool = True) -> None:
        """End all connections and go on listening.

        Args:
            rst: Whether the clients meet ECONNRESET, or an orderly close.

        Raises:
            ConfigError: A script drives the node: it has the steps Close and Reset.

        Blocks:
            Until the greenlets of the connections have ended, about a turn of the hub.
        """
        if self._script is not None:
            raise ConfigError(f"{self!r} plays a script: use its steps Close and Reset")
        super().reset_connections(rst)

    def finish(self, *, wait: bool) -> list[BaseException]:
        """Stop for good and list what went wrong. For FakeCluster.

        Args:
            wait: Whether a script may still come to its end.

        Blocks:
            As `wait_played()` and `stop()` do.
        """
        failures = list(self.errors)
        try:
            if self._script is not None:
                failures += self._script.finish(wait=wait and self._acceptor is not None)
        finally:
            self.release()
        return failures

    def accept_all(self) -> None:
        """Play the script, or accept and serve, until killed."""
        if self._script is None:
            super().accept_all()
        else:
            self._script.run()

    def serve(self, connection: FakeConnection) -> None:
        """Answer each command in turn."""
        try:
            while not connection.closed and (args := connection.wait_command()) is not None:
                self.record(connection, args)
                connection.perform(self._answer(connection, args))
                if args[0].upper() != b"ASKING":
                    connection.asking = False
        except NoCommand as error:
            connection.send(f"-ERR Protocol error: {error}\r\n".encode())
        except OSError:
            pass  # the client is gone, or a handler has closed the connection
        except TypeError as error:
            self.errors.append(error)

    def record(self, connection: FakeConnection, args: list[bytes]) -> None:
        """Take a command into `received`."""
        self.received.append(Received(connection.number, args))
        self._changed.set()

    def _answer(self, connection: FakeConnection, args: list[bytes]) -> Answer:
        try:
            for handler in self._handlers(args):
                answer = handler(self, connection, args)
                if not isinstance(answer, NotHandled):
                    return answer
        except ConnectionError:
            raise
        except (Exception, gevent.Timeout) as error:
            self.errors.append(error)
            return Close()
        return self.answer(connection, args)

    def answer(self, connection: FakeConnection, args: list[bytes]) -> Answer:
        """Answer a command as no handler did: see `gvcluster.testing.fake_server.answer`."""
        return fake_server.answer(self, connection, args)

    def _handlers(self, args: list[bytes]) -> Iterator[Handler]:
        if self.override is not None:
            yield self.override
        words = [word.decode("latin-1").upper() for word in args[:2]]
        for name in (" ".join(words), words[0]):
            rule = self._rules.get(name)
            if rule is not None and rule.times > 0:
                rule.times -= 1
                yield rule.handler
