"""EXPECT and SEND: a node that meets exactly the traffic of a script, or dies; as libvalkey's simulated-valkey.pl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import gevent
import gevent.select
from gevent.event import Event

from gvcluster.testing.answers import Close, Reset
from gvcluster.testing.fake_connection import FakeConnection, NoCommand

if TYPE_CHECKING:
    from gvcluster.testing.fake_node import FakeNode


class ScriptFailed(AssertionError):
    """The traffic was not that of the script. The message names the step and what came instead."""


@dataclass(frozen=True)
class ExpectConnect:
    """The client opens a connection. `on` gives it a name, for steps that mean another one than the latest."""

    on: str | None = None


@dataclass(frozen=True)
class ExpectClose:
    """The client closes the connection, and has sent nothing more."""

    on: str | None = None


@dataclass(frozen=True, init=False)
class Expect:
    """The next command on the connection is exactly this one.

    Args:
        args: `str` (as UTF-8), `bytes` and `int`; anything else is compared as it is (`unittest.mock.ANY`).
        on: The name of the connection, if it is not the latest.
    """

    args: tuple[object, ...]
    on: str | None

    def __init__(self, *args: object, on: str | None = None) -> None:
        object.__setattr__(self, "args", tuple(map(_on_the_wire, args)))
        object.__setattr__(self, "on", on)


@dataclass(frozen=True)
class Send:
    """The node sends these bytes, in pieces of `size` if that is given."""

    data: bytes
    size: int | None = None
    on: str | None = None


@dataclass(frozen=True)
class Sleep:
    """The node does nothing for some seconds."""

    seconds: float


_Timed: TypeAlias = ExpectConnect | ExpectClose | Expect | Send | Close | Reset
Step: TypeAlias = _Timed | Sleep


class Script:
    """A script and how far it has come. Belongs to one node, whose accepting greenlet runs it."""

    def __init__(self, node: FakeNode, steps: Sequence[Step], timeout: float) -> None:
        self._node = node
        self._steps = steps
        self._timeout = timeout
        self._at = 0
        self._named: dict[str | None, FakeConnection] = {}
        self._failure: ScriptFailed | None = None
        self._is_done = False
        self._ended = Event()

    def run(self) -> None:
        """Play the steps, then see to it that nothing else comes, until killed."""
        try:
            for step in self._steps:
                self._at += 1
                self._play(step)
            self._is_done = True
            self._ended.set()
            while True:
                self._look_for_more(None)
        except Exception as error:
            # Whatever it is: a client that waits for a dead script would only add its own timeout.
            self._failure = error if isinstance(error, ScriptFailed) else self._failed(f"raised {error!r}")
            self._node.stop()
        finally:
            self._ended.set()

    def wait_done(self, timeout: float) -> None:
        """Wait until the last step is done, or raise ScriptFailed."""
        self._ended.wait(timeout)
        if self._failure is not None:
            raise self._failure
        if not self._is_done:
            raise self._failed("is not done")

    def finish(self, *, wait: bool) -> list[BaseException]:
        """End the script and list what went wrong: also steps that were not reached, and what came after the last."""
        try:
            if wait:
                limits = (step.seconds if isinstance(step, Sleep) else self._timeout for step in self._steps)
                self.wait_done(sum(limits) + 1.0)
            self._node.stop_accepting()
            if self._is_done and self._node.is_listening:
                self._look_for_more(0.0)
        except ScriptFailed as failure:
            return [failure]
        return [] if self._failure is None else [self._failure]

    def _play(self, step: Step) -> None:
        if isinstance(step, Sleep):
            gevent.sleep(step.seconds)
            return
        overdue = gevent.Timeout(self._timeout)
        try:
            with overdue:
                self._meet(step)
        except gevent.Timeout as timeout:
            if timeout is not overdue:
                raise
            raise self._failed(f"did not happen within {self._timeout} s") from None
        except NoCommand as error:
            raise self._failed(f"met no command: {error}") from None
        except OSError as error:
            raise self._failed(f"met {error!r}") from None

    def _meet(self, step: _Timed) -> None:
        match step:
            case ExpectConnect(name):
                self._named[name] = self._named[None] = self._node.wait_connection()
            case Expect(args):
                self._expect(self._connection(step), args)
            case ExpectClose():
                self._expect_close(self._connection(step))
            case Send(data, size):
                self._connection(step).send_in_pieces(data, size or len(data) or 1)
            case Close() | Reset():
                connection = self._connection(step)
                self._refuse_more(connection)
                connection.perform(step)
                self._node.forget(connection)

    def _expect_close(self, connection: FakeConnection) -> None:
        if connection.unread or connection.wait_bytes():
            raise self._failed(f"met {connection.unread!r}")
        self._node.forget(connection)

    def _expect(self, connection: FakeConnection, wanted: tuple[object, ...]) -> None:
        args = connection.wait_command()
        if args is None:
            raise self._failed(f"met the end of connection {connection.number}")
        self._node.record(connection, args)
        if len(args) != len(wanted) or any(one != other for one, other in zip(wanted, args, strict=True)):
            raise self._failed(f"met {args!r} on connection {connection.number}")

    def _connection(self, step: _Timed) -> FakeConnection:
        connection = self._named.get(step.on)
        if connection is None or connection.closed:
            raise self._failed("has no connection")
        return connection

    def _refuse_more(self, connection: FakeConnection) -> None:
        """Fail if the client has sent something that the script does not mention."""
        while not connection.unread:
            readable, _, _ = gevent.select.select([connection], [], [], 0)
            if not readable or not connection.wait_bytes():
                return
        raise self._failed(f"met {connection.unread!r} on connection {connection.number}")

    def _look_for_more(self, timeout: float | None) -> None:
        """Fail if something comes after the last step. Clients may close their connections."""
        node = self._node
        for connection in node.open_connections:
            self._refuse_more(connection)
        readable, _, _ = gevent.select.select([node, *node.open_connections], [], [], timeout)
        if node in readable:
            raise self._failed("met one more connection")
        for connection in readable:
            self._refuse_more(connection)
            node.forget(connection)

    def _failed(self, how: str) -> ScriptFailed:
        if self._is_done:
            where = f"after the last of {len(self._steps)} steps"
        else:
            where = f"step {self._at} of {len(self._steps)}, {self._steps[max(0, self._at - 1)]!r},"
        return ScriptFailed(f"node {self._node.index} at {self._node.address}: {where} {how}")


def _on_the_wire(arg: object) -> object:
    if isinstance(arg, str):
        return arg.encode()
    return b"%d" % arg if type(arg) is int else arg
