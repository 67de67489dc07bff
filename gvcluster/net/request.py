"""One call, looked at before anything is sent: may it go, where to, and how long may it take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gvcluster.core.commands import Command, CommandTable, Route, block_timeout, route
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call
from gvcluster.core.slots import hash_slot
from gvcluster.errors import NoKey, StatefulCommand, UnknownCommand
from gvcluster.net.state import ClusterState
from gvcluster.options import CallOptions


@dataclass(frozen=True, slots=True)
class Request:
    """One call, looked at. Times are in seconds.

    data: the packed command. exclusive: it needs a connection of its own. bulk: whether it goes by the lane
        for large ones; None: if it is.
    command_timeout: one attempt's wait for its reply. block_seconds: how much longer the server may wait by itself,
    which the deadline does not count.
    """

    data: bytes = field(repr=False)
    command: Command
    call: Call
    exclusive: bool
    bulk: bool | None
    command_timeout: float
    block_seconds: float

    def excused(self, seconds: float) -> Request:
        """The same with a deadline that many seconds later."""
        return replace(self, call=replace(self.call, deadline=self.call.deadline + seconds))


def look_at(
    args: tuple[Any, ...],
    options: CallOptions,
    commands: CommandTable,
    state: ClusterState,
    began: float,
    told: Sequence[object] | None = None,
) -> Request:
    """Make a Request of a call. The options' names and values are checked already. `told`: keys that a server found.

    Raises:
        ConfigError, RoutingError: the call makes no sense, or no node can be chosen for it.
        UnknownCommand: net/inquiry.py may find out more.
    """
    way = _way(args, options, commands, told)
    _check(way, options)
    default = state.command_timeout
    command_timeout = options.get("command_timeout") or default
    route_key = options.get("route_key")
    slot = way.slot if route_key is None else hash_slot(route_key)
    call = call_of(way.command, slot, options, state, began)
    block_seconds = (block_timeout(way.command, args) or 0.0) if way.blocking else 0.0
    # A longer wait than the lane's would be cut short by its watch over the node's silence.
    exclusive = way.blocking or command_timeout > default
    bulk = options.get("bulk")
    return Request(encode(args), way.command, call, exclusive, bulk, command_timeout, block_seconds)


def call_of(command: Command, slot: int | None, options: CallOptions, state: ClusterState, began: float) -> Call:
    """What decisions need to know of a call."""
    configured = state.options
    return Call(
        name=command.name,
        slot=slot,
        read_only=command.read_only,
        script=command.script,
        policy=options.get("retry") or configured.retry,
        began=began,
        deadline=began + (options.get("timeout") or configured.timeout),
        max_redirects=configured.max_redirects,
    )


def _way(args: tuple[Any, ...], options: CallOptions, commands: CommandTable, told: Sequence[object] | None) -> Route:
    """What the table knows of the command. A stranger goes only where the caller says, trusted like a script."""
    try:
        way = route(args, commands, told)
    except UnknownCommand:
        if not _is_placed(options):
            raise
        name = args[0] if isinstance(args[0], str) else args[0].decode("latin-1")
        return Route(Command(name.upper(), -1, script=True), (), None, False, False)
    if way.command.ask_keys and told is None and not _is_placed(options):
        raise UnknownCommand(f"only a server can tell where {way.command.name} has its keys: pass route_key=")
    return way


def _is_placed(options: CallOptions) -> bool:
    """Whether the caller says where to send it."""
    return options.get("node") is not None or options.get("route_key") is not None


def _check(way: Route, options: CallOptions) -> None:
    command = way.command
    if command.stateful is not None:
        raise StatefulCommand(f"{command.name} would change a connection that others share: {command.stateful}")
    if way.slot is None and not _is_placed(options) and command.request_policy is not None:
        raise NoKey(f"{command.name} concerns several nodes: name one with node=, such as one of cluster.nodes()")
