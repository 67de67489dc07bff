"""One call, looked at before anything is sent: may it go, where to, and how long may it take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gvcluster.call_options import CallOptions
from gvcluster.core.commands import Command, CommandTable, Route, block_timeout, route, with_timeout
from gvcluster.core.merging import asks_several
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call
from gvcluster.core.routing import ReadPolicy, may_leave_primary, read_policy
from gvcluster.core.slots import hash_slot
from gvcluster.errors import NoKey, StatefulCommand, UnknownCommand
from gvcluster.net.scripting import ScriptCall
from gvcluster.net.state import ClusterState
from gvcluster.records import Record, replace


class Request(Record):
    """One call, looked at. Times are in seconds.

    data: the packed command. exclusive: it needs a connection of its own; blocking: because the server may let it wait.
    bulk: whether it goes by the lane for large ones; None: if it is.
    command_timeout: one attempt's wait for its reply. block_seconds: how much longer the server may wait by itself,
    which the deadline does not count. script: what it calls, where the connection decides how. args: of one that the
    server may let wait for so many seconds, but not for ever.
    """

    _unsaid = ("data", "args")
    data: bytes
    command: Command
    call: Call
    exclusive: bool
    blocking: bool
    bulk: bool | None
    command_timeout: float
    block_seconds: float
    script: ScriptCall | None = None
    args: tuple[Any, ...] | None = None

    def after(self, seconds: float) -> Request:
        """What is sent after an attempt that took so many seconds, in which the server may have let it wait.

        The server waits for the rest of its time only, and the deadline does not count what it has waited.
        """
        waited = min(seconds, self.block_seconds)
        call = replace(self.call, deadline=self.call.deadline + waited)
        if self.args is None:
            return replace(self, call=call)
        left = self.block_seconds - waited
        data = encode(with_timeout(self.command, self.args, left))
        return replace(self, data=data, call=call, block_seconds=left)


def look_at(
    args: tuple[Any, ...],
    options: CallOptions,
    commands: CommandTable,
    state: ClusterState,
    began: float,
    told: Sequence[object] | None = None,
    everywhere: bool = False,
) -> Request:
    """Make a Request of a call. The options' names and values are checked already. `told`: keys that a server found.

    `everywhere`: the caller can send it to all nodes, if that is what its request policy asks for.

    Raises:
        ConfigError, RoutingError: the call makes no sense, or no node can be chosen for it.
        UnknownCommand: net/inquiry.py may find out more.
    """
    way = _way(args, options, commands, told)
    _check(way, options, everywhere)
    default = state.command_timeout
    command_timeout = options.get("command_timeout") or default
    route_key = options.get("route_key")
    slot = way.slot if route_key is None else hash_slot(route_key)
    call = call_of(way.command, slot, options, state, began)
    block_seconds = (block_timeout(way.command, args) or 0.0) if way.blocking else 0.0
    # A longer wait than the lane's would be cut short by its watch over the node's silence.
    exclusive = way.blocking or command_timeout > default
    bulk, waiting = options.get("bulk"), args if 0 < block_seconds < math.inf else None
    return Request(
        *(encode(args), way.command, call, exclusive, way.blocking, bulk, command_timeout, block_seconds), args=waiting
    )


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
        read_from=_who_serves(command, slot, options, state),
    )


def _who_serves(command: Command, slot: int | None, options: CallOptions, state: ClusterState) -> ReadPolicy | None:
    """Who may serve it, if not only the primary."""
    chosen = options.get("read_from")
    policy = state.read_from if chosen is None else read_policy(chosen)
    return policy if policy is not None and slot is not None and may_leave_primary(command) else None


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


def _check(way: Route, options: CallOptions, everywhere: bool) -> None:
    command = way.command
    if command.stateful is not None:
        is_wait = command.blocking
        why = "is about the writes of its own connection" if is_wait else "would change a connection that others share"
        raise StatefulCommand(f"{command.name} {why}: {command.stateful}")
    if way.slot is not None or _is_placed(options) or command.request_policy is None:
        return
    if not (everywhere and asks_several(command)):
        raise _no_key(command)


def _no_key(command: Command) -> NoKey:
    better = "execute() asks them all; or " if asks_several(command) else ""
    if command.name in ("SCAN", "CLUSTERSCAN"):
        better = "scan_iter() goes over them all; or "
    return NoKey(f"{command.name} concerns several nodes: {better}name one with node=, such as one of cluster.nodes()")
