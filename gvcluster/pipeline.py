"""Pipelines: many commands, one write per node, all nodes at once, and the replies in the order of the commands."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack, cast

from gvcluster.busy import Busy
from gvcluster.call_options import CallOptions, call_options_from
from gvcluster.core.commands import CommandTable
from gvcluster.core.formatting import format_command
from gvcluster.core.packing import pack
from gvcluster.errors import ConfigError, PartialFailure, UnknownCommand
from gvcluster.net.batch import run
from gvcluster.net.executor import Executor
from gvcluster.net.request import look_at
from gvcluster.net.scripting import ScriptCall
from gvcluster.net.state import ClusterState
from gvcluster.net.volley import Rows
from gvcluster.scripts import Script


class Place(TypedDict, total=False):
    """Where a command of a pipeline goes; `Pipeline.append` explains each."""

    node: Any
    route_key: str | bytes | None


class PipelineOptions(TypedDict, total=False):
    """The keyword arguments of `Cluster.pipeline`, which explains each."""

    timeout: float | None
    retry: str | None
    read_from: str | None


class Pipeline:
    """Commands that are sent together. Made by `Cluster.pipeline`.

        with cluster.pipeline() as pipe:
            pipe.append("INCR", "visits")
            pipe.append("GET", "user:1")
            visits, user = pipe.execute()

    It is no transaction: commands of others may run in between, and each command succeeds or fails for itself. It may
    be used again and again, by one greenlet at a time.
    """

    def __init__(
        self, state: ClusterState, commands: CommandTable, here: Callable[[], Executor], options: CallOptions
    ) -> None:
        self._state, self._commands, self._here, self._options = state, commands, here, options
        self._rows = Rows()  # not sent yet
        self._replies: deque[Any] = deque()  # not handed out yet
        self._busy = Busy("this pipeline waits for its replies: give each greenlet a pipeline of its own")

    def __repr__(self) -> str:
        return f"<Pipeline {len(self._rows)} commands to send, {len(self._replies)} replies to fetch>"

    def __len__(self) -> int:
        """How many replies can be fetched with `get_reply`, of commands sent and not."""
        return len(self._rows) + len(self._replies)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Reset. What was appended and not executed is not sent."""
        self._forget()

    def append(self, *args: Any, **place: Unpack[Place]) -> None:
        """Add one command. Nothing is sent yet. (libvalkey: valkeyClusterAppendCommandArgv, …ToNode.)

        Args:
            args: The command and its arguments, as for `Cluster.execute`.
            place: `node`: a Node, an Address or "host:port": that node only, no redirects and no retries.
                `route_key`: choose the node by this key instead of those in the command.

        Raises:
            ConfigError: The arguments make no sense, or the command may wait in the server: use `Cluster.execute`.
            RoutingError: No node can be chosen, or the command would change the connection.

        In each case the pipeline stays as it was.

        Blocks: never; but for a command that no table lists, until a node has told where it has its keys.
        """
        self._busy.refuse()
        if not place:
            try:
                data, slot = pack(args, self._commands.heads)
                command = self._commands.get(args[0])
                if command is not None:
                    self._rows.add(data, command, slot)
                    return
            except (LookupError, TypeError, ValueError):
                pass  # the long way tells what is wrong, if anything is
        self._look_at(args, call_options_from(cast(CallOptions, place), Place))

    def append_script(
        self, script: Script, keys: Sequence[Any] = (), args: Sequence[Any] = (), **place: Unpack[Place]
    ) -> None:
        """Add one call of a script. See `Script`: the connection decides whether the source goes with it.

        A node that has forgotten the script (SCRIPT FLUSH) is sent the source, behind what else it was sent: the order
        is that of commands that are sent again, see `execute`.

        Args:
            script: What `Cluster.script` made.
            keys: A list of the keys, all in one hash slot.
            args: A list of whatever else it is given.
            place: As for `append`.

        Raises:
            ConfigError, RoutingError: As `append`.
        """
        self._busy.refuse()
        if not isinstance(script, Script):
            raise ConfigError(f"script must be what Cluster.script made, not {type(script).__name__}")
        text = script.text
        self._look_at(text.command(keys, args), call_options_from(cast(CallOptions, place), Place))
        self._rows.scripts[len(self._rows) - 1] = ScriptCall(text, self._rows.data[-1])

    def append_command(self, format: str | bytes, *values: Any, **place: Unpack[Place]) -> None:
        """Add one command, written as C's printf would. (libvalkey: valkeyClusterAppendCommand, …ToNode.)

            pipe.append_command("SET user:%d %s", 7, "a name with blanks")

        Args:
            format: See `gvcluster.core.formatting.format_command`: only its own blanks split, those of values do not.
            values: One for each specifier.
            place: As for `append`.

        Raises:
            ConfigError, RoutingError: As `append`, and where format and values do not fit.
        """
        self.append(*format_command(format, *values), **place)

    def _look_at(self, args: tuple[Any, ...], place: CallOptions) -> None:
        try:
            request = look_at(args, place, self._commands, self._state, 0.0)
        except UnknownCommand:
            request = None
        if request is None:
            executor = self._here()
            executor.runtime.loop.refuse_to_wait_in_hub()
            executor.refuse_if_closing()
            request = executor.inquiry.look_at(args, place, monotonic())
        if request.exclusive:
            raise ConfigError(
                f"{request.command.name} may wait in the server, and all that share the connection would wait with it:"
                " use execute(), which gives it a connection of its own"
            )
        self._rows.add(request.data, request.command, request.call.slot, place.get("node"))

    def execute(self, *, raise_errors: bool = False) -> list[Any]:
        """Send what was appended, and return all replies that were not fetched yet, in the order of the commands.

        Each node gets its commands in one write, all nodes at once. Redirects and retries are those of
        `Cluster.execute`, for each command alone: those that are to be sent again wait until their node has answered
        the rest, and go together, in their order. The pipeline is empty afterwards.

        Args:
            raise_errors: Raise PartialFailure if there is any error among the replies.

        Returns:
            For each command its reply, or the error with which it ended: a GvClusterError, whose `maybe_executed` is
            about this command alone.

        Raises:
            PartialFailure: With `raise_errors`: `results` has all replies and errors, `__cause__` is the first error.
            ClosedError: The cluster takes no work any more. Nothing was sent.
            ConfigError: Another greenlet uses this pipeline now.

        Blocks: until each command has ended, at most the option `timeout` from now. A kill or a gevent.Timeout ends the
            wait at once: what was not sent yet is not sent, the replies to the rest are dropped, the connections live
            on, and the pipeline has forgotten these commands.
        """
        self._run()
        replies = list(self._replies)
        self._replies.clear()
        if raise_errors:
            raise_first_error(replies)
        return replies

    def get_reply(self) -> Any:
        """Return the next reply, in the order of the commands. (libvalkey: valkeyClusterGetReply.)

        The first call sends all that was appended, as `execute` does; more can be appended before all replies are
        fetched.

        Raises:
            GvClusterError: That of the command whose turn it is. The next call returns the next reply.
            ConfigError: No reply is left, for nothing was appended; or another greenlet uses this pipeline now.

        Blocks: as `execute`, if something is to be sent first.
        """
        self._busy.refuse()
        if not self._replies:
            if not self._rows:
                raise ConfigError("no reply is left: append a command first")
            self._run()
        reply = self._replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def reset(self) -> None:
        """Forget what was appended and is not sent, and the replies that were not fetched. (valkeyClusterReset.)

        Raises:
            ConfigError: Another greenlet uses this pipeline now.
        """
        self._busy.refuse()
        self._forget()

    def _forget(self) -> None:
        self._rows = Rows()
        self._replies.clear()

    def _run(self) -> None:
        self._busy.refuse()
        executor = self._here()
        executor.runtime.loop.refuse_to_wait_in_hub()
        rows, self._rows = self._rows, Rows()
        with self._busy:
            self._replies.extend(run(executor, rows, self._options))


def raise_first_error(replies: list[Any]) -> None:
    """Raise PartialFailure if there is any error among the replies."""
    errors = [reply for reply in replies if isinstance(reply, Exception)]
    if errors:
        text = f"{len(errors)} of {len(replies)} commands failed; the first error: {errors[0]}"
        has_run = len(errors) < len(replies) or any(getattr(error, "maybe_executed", True) for error in errors)
        raise PartialFailure(text, results=replies, maybe_executed=has_run) from errors[0]
