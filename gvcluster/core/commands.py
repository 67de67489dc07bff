"""Arguments → what the router must know: the keys and their slot, whether it only reads, whether it may block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from gvcluster.core import command_table
from gvcluster.core.command_spec import Command, KeySpec, check_arity, key_positions, stream_options, whole_number
from gvcluster.core.packing import Heads
from gvcluster.core.slots import Key, hash_slot
from gvcluster.errors import ConfigError, CrossSlot, UnknownCommand

__all__ = [
    "COMMANDS",
    "Command",
    "CommandTable",
    "KeySpec",
    "Route",
    "block_timeout",
    "find_command",
    "key_positions",
    "may_block",
    "route",
    "with_timeout",
]

# How much of a name that is no command an error shows, and how many slots of a CrossSlot.
_SHOWN_NAME = 32
_SHOWN_SLOTS = 5


class CommandTable:
    """The commands that a Cluster knows. Never changes; with one command more it is another table.

    Three mappings are for the hot path, which asks them with `args[0]` as it is: they know names as `str` and `bytes`,
    in upper and lower case. What they do not know takes the long way, by find_command.

    Attributes:
        lone_keys: name → the position of the command's only key, for the commands that have a `Command.lone_key`.
        heads: what `core.packing.pack` packs these with.
        get: name → command or container, or None.
    """

    __slots__ = ("_by_name", "_containers", "get", "heads", "lone_keys")

    def __init__(self, commands: Iterable[Command]) -> None:
        self._by_name = {command.name: command for command in commands}
        self._containers = frozenset(name.partition(" ")[0] for name in self._by_name if " " in name)
        spelled: dict[str | bytes, Command] = {}
        for name, command in self._by_name.items():
            if " " not in name:
                for spelling in (name, name.lower()):
                    spelled[spelling] = spelled[spelling.encode()] = command
        # A dict's own method, and a dict: 40 ns each, three times that behind a method of ours.
        self.get: Callable[[Any], Command | None] = spelled.get
        self.lone_keys: Mapping[Any, int] = {key: known.lone_key for key, known in spelled.items() if known.lone_key}
        self.heads = Heads(self.lone_keys)

    def __iter__(self) -> Iterator[Command]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<CommandTable of {len(self)} commands>"

    def plus(self, commands: Iterable[Command]) -> CommandTable:
        """A table that has these as well. What it has already stays: somebody has looked through that."""
        by_name = {command.name: command for command in commands} | self._by_name
        containers = {name.partition(" ")[0] for name in by_name} - by_name.keys()
        return CommandTable([*by_name.values(), *(Command(name, -2) for name in sorted(containers))])

    def named(self, name: str) -> Command | None:
        """The command of this name in upper case, a subcommand after a blank."""
        return self._by_name.get(name)

    def is_container(self, command: Command) -> bool:
        """Whether it has subcommands."""
        return command.name in self._containers

    def names(self, container: str = "") -> list[str]:
        """The names of all commands and containers, or of a container's subcommands."""
        if not container:
            return [name for name in self._by_name if " " not in name]
        return [name.partition(" ")[2] for name in self._by_name if name.startswith(f"{container} ")]


COMMANDS: Final = CommandTable(command_table.COMMANDS)


def find_command(args: Sequence[object], table: CommandTable = COMMANDS) -> Command:
    """Look up the command, or the subcommand of a container, that the arguments begin with.

    Args:
        args: The whole command; its name, and that of a subcommand, as `str` or `bytes` in any case.
        table: The commands to choose from.

    Raises:
        ConfigError: There is no name, or it is no name, or it is several words.
        UnknownCommand: The table does not list it.
    """
    if not args:
        raise ConfigError("an empty command: pass at least its name")
    command = table.get(args[0]) if isinstance(args[0], str | bytes) else None
    if command is None:
        command = _named(_name_at(args, 0, table), "", table)
    if not table.is_container(command) or (len(args) == 1 and command.arity == -1):  # COMMAND alone is a command
        return command
    if len(args) == 1:
        raise ConfigError(f"{command.name} needs a subcommand: one of {', '.join(table.names(command.name))}")
    return _named(_name_at(args, 1, table), command.name, table)


def may_block(command: Command, args: Sequence[object]) -> bool:
    """Tell whether the server may make this call wait, and with it all that is sent after it on that connection.

    XREAD and XREADGROUP do so only with BLOCK. MIGRATE, DEBUG SLEEP and long scripts hold the whole server instead,
    and no connection is better off than another.
    """
    return command.blocking and (isinstance(command.timeout_at, int) or _timeout_position(command, args) > 0)


def block_timeout(command: Command, args: Sequence[object]) -> float | None:
    """Read how long the server may make this call wait.

    Args:
        command: What `find_command(args)` returned.
        args: The whole command, its name first.

    Returns:
        Seconds; `inf` where the arguments say 0, for ever; None if the call does not block, or nobody knows how long.

    Raises:
        ConfigError: The timeout is missing, negative or no number.
    """
    if not may_block(command, args) or command.timeout_at == 0:
        return None
    check_arity(command, args)
    at = _timeout_position(command, args)
    timeout = _timeout(args[at], command.timeout_scale) if at < len(args) else math.nan
    if not 0 <= timeout < math.inf:
        kind = "seconds" if command.timeout_scale == 1 else "whole milliseconds"
        raise ConfigError(f"{command.name}: argument {at} is the timeout, it must be {kind}, 0 (for ever) or more")
    return timeout or math.inf


def with_timeout(command: Command, args: Sequence[object], seconds: float) -> tuple[object, ...]:
    """The same blocking call, with another timeout, in seconds: at least 1 ms, for 0 would be for ever."""
    at, scale = _timeout_position(command, args), command.timeout_scale
    timeout = f"{max(seconds, 0.001):.3f}" if scale == 1 else str(max(1, round(seconds * scale)))
    return *args[:at], timeout, *args[at + 1 :]


class Route(NamedTuple):
    """What the arguments of one call tell about its way. `keys` as given; `slot` is None if there are none."""

    command: Command
    keys: tuple[object, ...]
    slot: int | None
    read_only: bool
    blocking: bool


def route(args: Sequence[object], table: CommandTable = COMMANDS, told: Sequence[object] | None = None) -> Route:
    """Find out all that the router must know of a call.

    Args:
        args: The whole command, its name first. Keys are `str`, `bytes`, `int` or `float`.
        table: The commands to choose from.
        told: The keys, where only a server can tell them (`Command.ask_keys`); without, the call seems to have none.

    Raises:
        ConfigError: The arguments make no sense.
        CrossSlot: The keys belong to several hash slots.
        UnknownCommand: The table does not list the command.
    """
    command = find_command(args, table)
    if command.ask_keys:
        check_arity(command, args)
        keys = tuple(told or ())
        slots = {hash_slot(cast(Key, key)) for key in keys}
    else:
        positions = key_positions(command, args)
        keys = tuple(args[position] for position in positions)
        slots = {_slot(command, args, position) for position in positions}
    if len(slots) > 1:
        raise _cross_slot(command, keys, sorted(slots))
    return Route(command, keys, slots.pop() if slots else None, command.read_only, may_block(command, args))


def _name_at(args: Sequence[object], position: int, table: CommandTable) -> str:
    """A name among the arguments in upper case."""
    name = args[position]
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    if not isinstance(name, str):
        what = "subcommand" if position else "command"
        raise ConfigError(f"argument {position}, the {what}'s name, must be str or bytes, not {type(name).__name__}")
    words = name.split()
    if not words:
        raise ConfigError(f"argument {position} must be a name, and is empty")
    if words != [name]:
        # Only the first word may be shown: what follows could be a value.
        shown = f" ({words[0]} …)" if table.get(words[0].upper()) else ""
        raise ConfigError(f"argument {position} is several words{shown}: pass each as an argument of its own")
    return name.upper() if name.isascii() else name


def _named(name: str, container: str, table: CommandTable) -> Command:
    """The command of this name, or the subcommand."""
    prefix = f"{container} " if container else ""
    command = table.named(prefix + name)
    if command is not None:
        return command
    from difflib import get_close_matches  # here, because it costs 2 ms to import

    shown = name[:_SHOWN_NAME]
    near = get_close_matches(shown, table.names(container), 1)
    meant = f"; did you mean {prefix}{near[0]}?" if near else "."
    raise UnknownCommand(
        f"the command table does not list {prefix}{shown!r}{meant} If your servers know it, say where to"
        " send it: node= or route_key="
    )


def _slot(command: Command, args: Sequence[object], position: int) -> int:
    try:
        return hash_slot(cast(Key, args[position]))
    except ConfigError as error:
        raise ConfigError(f"{command.name}: argument {position}: {error}") from None


def _cross_slot(command: Command, keys: tuple[object, ...], slots: list[int]) -> CrossSlot:
    shown = ", ".join(map(str, slots[:_SHOWN_SLOTS])) + (", …" if len(slots) > _SHOWN_SLOTS else "")
    return CrossSlot(
        f"{command.name}: its {len(keys)} keys belong to {len(slots)} hash slots ({shown}), which may be on different"
        " nodes. Give them one hash tag, such as {user:1}:name and {user:1}:mail, or send one command for each slot",
        keys=keys,
    )


def _timeout_position(command: Command, args: Sequence[object]) -> int:
    """Where the timeout stands, 0 if the option before it is not given."""
    at = command.timeout_at
    if isinstance(at, int):
        return at if at >= 0 else len(args) + at
    return max((i + 1 for option, i in stream_options(args) if option == at), default=0)  # the last one counts


def _timeout(argument: object, scale: int) -> float:
    """Seconds; nan if it is no number. Only timeouts in seconds may have a fraction."""
    if scale != 1 or isinstance(argument, int):
        number = whole_number(argument)
        return math.nan if number is None else number / scale
    if isinstance(argument, bytes | bytearray | memoryview):
        argument = bytes(argument).decode("latin-1")
    try:
        return float(argument) if isinstance(argument, str | float) else math.nan
    except ValueError:
        return math.nan
