"""Asks a node about commands that the table does not list, and where a call has its keys if only a server can tell."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from time import monotonic
from typing import Any

from gevent.event import Event

from gvcluster.call_options import CallOptions
from gvcluster.core.address import Address
from gvcluster.core.command_spec import Command, check_arity
from gvcluster.core.commands import COMMANDS, CommandTable, find_command
from gvcluster.core.descriptions import command_from, described_by_server, display_name
from gvcluster.core.outcome import Failed, classify
from gvcluster.core.resp import encode
from gvcluster.core.retry import backoff
from gvcluster.errors import (
    ClosedError,
    ConfigError,
    GvClusterError,
    ProtocolError,
    ReplyError,
    RetriesExhausted,
    TopologyUnavailable,
    UnknownCommand,
)
from gvcluster.net.loop import TICK, remaining
from gvcluster.net.pool import NodePool
from gvcluster.net.request import Request, look_at
from gvcluster.net.runtime import Runtime
from gvcluster.records import replace

_NO_KEYS = "The command has no key arguments"


class _LookUp:
    """One question about a command, made by a greenlet of its own for all who wait for the answer.

    `answer`: the commands that a node told, none if it does not know the name, or an error.
    """

    __slots__ = ("answer", "asked", "deadline", "done")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.done = Event()
        self.answer: list[Command] | GvClusterError = []
        self.asked: Address | None = None


class Inquiry:
    """What one hub asks about commands. What it learns is known to the whole Cluster."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._loop, self._state = runtime, runtime.loop, runtime.state
        self._under_way: dict[str, _LookUp] = {}
        self.active = 0  # calls that wait for an answer

    def look_at(
        self, args: tuple[Any, ...], options: CallOptions, began: float, *, everywhere: bool = False
    ) -> Request:
        """Make a Request of a call. A node is asked for what the table does not tell of the command.

        Raises:
            ConfigError, GvClusterError: as `request.look_at`; or there was no answer in time.

        Blocks: until a node has answered, where one is asked.
        """
        state = self._state
        try:
            return look_at(args, options, state.commands, state, began, everywhere=everywhere)
        except UnknownCommand:
            pass  # the error that follows tells more
        self.active += 1
        try:
            commands, keys = self._about(args, began + (options.get("timeout") or state.options.timeout))
        finally:
            self.active -= 1
        return look_at(args, options, commands, state, began, keys, everywhere=everywhere)

    def _about(self, args: Sequence[Any], deadline: float) -> tuple[CommandTable, tuple[Any, ...] | None]:
        """The table with the command in it; and the keys of this call, if only a server can tell them, else None.

        Raises:
            UnknownCommand: no table lists it, and neither does the node that was asked.
        """
        commands = self._state.commands
        try:
            command = find_command(args, commands)
        except UnknownCommand as error:
            unlisted = str(error)
        else:
            return commands, self._keys(command, args, deadline)
        name = args[0] if isinstance(args[0], str) else args[0].decode("latin-1")
        found, asked = self._wait_look_up(display_name(name), deadline)
        self._state.add_commands(found)
        commands = self._state.commands.plus(found)  # another thread may just have published one without them
        try:
            command = find_command(args, commands)
        except UnknownCommand:
            raise UnknownCommand(f"{asked} does not know this command, and {unlisted}") from None
        return commands, self._keys(command, args, deadline)

    # -- COMMAND INFO -------------------------------------------------------------------------------------------------

    def _wait_look_up(self, name: str, deadline: float) -> tuple[list[Command], Address | None]:
        """What a node tells of a name, and which; asked once for all who want to know it now."""
        look_up = self._under_way.get(name)
        if look_up is None:
            look_up = _LookUp(deadline)
            self._loop.spawn(self._look_up, name, look_up)
            self._under_way[name] = look_up  # only now: one without a greenlet would never end
        look_up.deadline = max(look_up.deadline, deadline)
        if not self._loop.wait(look_up.done, remaining(deadline)):
            raise RetriesExhausted(f"no node told in time what {name[:32]!r} is, which the command table does not list")
        if self._state.closed:
            raise ClosedError("the cluster was closed")
        if isinstance(look_up.answer, GvClusterError):
            raise copy(look_up.answer) from look_up.answer.__cause__  # each caller has a traceback of its own
        return look_up.answer, look_up.asked

    def _look_up(self, name: str, look_up: _LookUp) -> None:
        try:
            reply, look_up.asked = self._ask(("COMMAND", "INFO", name), look_up)
            if isinstance(reply, GvClusterError):
                look_up.answer = _refused(name, look_up.asked, reply)
            else:
                look_up.answer = _told(name, look_up.asked, reply)
        except GvClusterError as error:
            look_up.answer = error
        finally:
            self._under_way.pop(name, None)
            look_up.done.set()

    # -- COMMAND GETKEYS ----------------------------------------------------------------------------------------------

    def _keys(self, command: Command, args: Sequence[Any], deadline: float) -> tuple[Any, ...] | None:
        if not command.ask_keys:
            return None
        check_arity(command, args)
        reply, asked = self._ask(("COMMAND", "GETKEYS", *args), _LookUp(deadline))
        if isinstance(reply, ReplyError):
            if _NO_KEYS in reply.message:
                return ()
            raise ConfigError(f"{asked} finds no keys in these arguments of {command.name}: {reply}")
        if not isinstance(reply, list) or not all(isinstance(key, bytes) for key in reply):
            raise ProtocolError(f"{asked} answered COMMAND GETKEYS with no list of keys", address=asked)
        return tuple(reply)

    # -- both ---------------------------------------------------------------------------------------------------------

    def _ask(self, question: tuple[Any, ...], look_up: _LookUp) -> tuple[Any, Address]:
        """Ask one node after another until one has an answer, or refuses; connected ones first."""
        data = encode(question)
        self._wait_first_map(look_up)
        met: list[GvClusterError] = []
        avoided: set[Address] = set()
        while True:
            pool = self._choose(avoided)
            avoided.add(pool.address)
            reply = self._answer(pool, data, look_up.deadline)
            if not isinstance(reply, GvClusterError) or _is_final(reply, pool.address):
                return reply, pool.address
            met.append(reply)
            self._loop.wait(self._runtime.ended, min(backoff(len(met), 0.0), remaining(look_up.deadline)))
            if self._state.closed:
                raise ClosedError("the cluster was closed")
            if monotonic() >= look_up.deadline - 3 * TICK:
                message = f"nobody could tell about the command in time: {reply}"
                raise RetriesExhausted(message, attempts=met) from reply

    def _wait_first_map(self, look_up: _LookUp) -> None:
        """Wait for the slot map, for as long as any of those who want the answer may; some join meanwhile."""
        while True:
            deadline = look_up.deadline
            try:
                self._runtime.refresher.wait_first(deadline)
                return
            except TopologyUnavailable:
                if monotonic() < deadline - 3 * TICK or look_up.deadline <= deadline:
                    raise

    def _answer(self, pool: NodePool, data: bytes, deadline: float) -> Any:
        try:
            lane = pool.wait_lane(deadline)
            return lane.call_within(data, min(deadline, monotonic() + self._state.command_timeout))
        except GvClusterError as error:
            return error

    def _choose(self, avoided: set[Address]) -> NodePool:
        """Any primary's pool: rather one that was not asked yet, then one that is connected and answers."""
        assert self._state.topology is not None
        pools = [self._runtime.nodes.pool_at(node.address) for node in self._state.topology.primaries]
        self._state.options.rng.shuffle(pools)
        return min(pools, key=lambda pool: (pool.address in avoided, not pool.lanes.are_responsive()))


def _is_final(error: GvClusterError, asked: Address) -> bool:
    """Whether another node would answer the same. BUSY is not: one node alone runs that script."""
    if not isinstance(error, ReplyError) or error.code == "BUSY":
        return False
    return isinstance(classify(error, None, asked), Failed)


def _refused(name: str, asked: Address, error: GvClusterError) -> UnknownCommand:
    refused = UnknownCommand(
        f"the command table does not list {name[:32]!r}, and {asked} does not tell what it is ({error}). Say where to"
        " send it: node= or route_key="
    )
    refused.__cause__ = error
    return refused


def _told(name: str, asked: Address, reply: Any) -> list[Command]:
    """What COMMAND INFO says of the name, and of its subcommands."""
    try:
        commands = [command_from(described, stranger=True) for described in described_by_server(reply)]
    except ConfigError as error:
        raise ProtocolError(f"{asked} answered COMMAND INFO with nonsense: {error}", address=asked) from error
    return [_renamed(command, name) for command in commands]


def _renamed(command: Command, name: str) -> Command:
    """The command by the name that was asked for: a server whose file renames it tells the original one."""
    original, blank, subcommand = command.name.partition(" ")
    if original == name:
        return command
    known = COMMANDS.named(command.name)
    stateful = known.stateful if known is not None else None
    return replace(command, name=f"{name}{blank}{subcommand}", stateful=stateful)
