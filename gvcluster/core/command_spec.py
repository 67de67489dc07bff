"""What the table says of one command, and where in its arguments the keys stand.

The servers describe most commands by key specifications (https://valkey.io/topics/key-specs). Six read their options
one by one instead, and decide by that which node may answer; they have a function each, below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from gvcluster.errors import ConfigError
from gvcluster.records import Record, derived

# What the servers take for a number, leading zeros aside; they count in 64 bits.
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_LARGEST = 2**63 - 1
# Options of XREAD and XREADGROUP, and how many values follow each.
_STREAM_OPTIONS = MappingProxyType({"BLOCK": 1, "COUNT": 1, "GROUP": 2, "NOACK": 0})
_SORT_OPTIONS = MappingProxyType({"LIMIT": 2, "GET": 1, "BY": 1})
_MIGRATE_OPTIONS = MappingProxyType({"COPY": 0, "REPLACE": 0, "AUTH": 1, "AUTH2": 2})


class KeySpec(NamedTuple):
    """One key specification: where to begin, and which of the arguments from there on are keys.

    Positions count the command's name as 0. With `numkeys` the keys are counted by an argument, else they are a range.
    """

    begin: int  # the first argument looked at; negative: from the end; 0: only the server can tell
    keyword: str = ""  # if given, look from `begin` on for this word (backwards if negative) and begin after it
    last: int = 0  # the last key, counted from the first; negative: from the end of the arguments
    step: int = 1  # from one key to the next
    limit: int = 0  # 2 and more: of what is left, only this fraction are keys
    numkeys: int | None = None  # where the number of keys stands, counted from the beginning
    first: int = 0  # with numkeys: where the first key stands, counted from the beginning
    not_key: bool = False  # hashed like a key, but names none: a shard channel, a CLUSTERSCAN cursor
    incomplete: bool = False  # not all keys are found by it


class Command(Record):
    """One command, or one subcommand of a container, as the router sees it. Compared and hashed by identity."""

    name: str  # in upper case; a subcommand after a blank: "CLUSTER SLOTS"
    arity: int  # how many arguments, name included; negative: at least so many
    keys: tuple[KeySpec, ...] = ()
    read_only: bool = False
    write: bool = False
    blocking: bool = False  # whether this call blocks is told by may_block
    script: bool = False  # users' code runs in it: the text of its errors may be anyone's
    movable_keys: bool = False  # only the arguments tell where the keys are
    stateful: str | None = None  # it would change a connection that others share; what to use instead, as a sentence
    request_policy: str | None = None  # all_nodes, all_shards, multi_shard or special (valkey.io/topics/command-tips)
    response_policy: str | None = None
    timeout_at: int | str = 0  # where a blocking command has its timeout: a position, or the option that it follows
    timeout_scale: int = 1  # how many of the timeout's units are a second
    ask_keys: bool = False  # only a server can tell where the keys of a call are: COMMAND GETKEYS
    # The hot path's only question: where THE key stands, if no look at the arguments is needed to know it and the call
    # can neither block nor do harm; else 0. The caller makes sure that there are so many arguments.
    lone_key: int = derived()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        """Derive `lone_key`."""
        object.__setattr__(self, "lone_key", _lone_key(self))


def key_positions(command: Command, args: Sequence[object]) -> tuple[int, ...]:
    """Find the arguments by which a command is routed: its keys, or what the servers hash like keys.

    Args:
        command: What `find_command(args)` returned.
        args: The whole command, its name first.

    Returns:
        Positions in `args`, ascending; `()` if this call names no key.

    Raises:
        ConfigError: There are too few arguments, or a number of keys is not one.
    """
    check_arity(command, args)
    if command.lone_key:
        return (command.lone_key,)
    search = _SEARCHES.get(command.name)
    if search is not None:
        return search(command.name, args)
    positions: list[int] = []
    for spec in command.keys:
        positions += _positions(command.name, spec, args)
    return tuple(positions)


def check_arity(command: Command, args: Sequence[object]) -> None:
    """Refuse too few arguments. Too many are left to the server: a newer one may take them."""
    if len(args) >= abs(command.arity):
        return
    words = command.name.count(" ") + 1
    needed, got = abs(command.arity) - words, max(len(args) - words, 0)
    at_least = "at least " if command.arity < 0 else ""
    raise ConfigError(f"{command.name} needs {at_least}{needed} argument{'s' * (needed > 1)} after its name, got {got}")


def word(argument: object) -> str:
    """An argument in the way the servers compare options: without case, and up to a NUL."""
    if isinstance(argument, bytes | bytearray | memoryview):
        argument = bytes(argument).decode("latin-1")
    return argument.partition("\0")[0].upper() if isinstance(argument, str) else ""


def whole_number(argument: object) -> int | None:
    """An argument as the number that the server will read in it, None if it will read none."""
    if isinstance(argument, bytes | bytearray | memoryview):
        argument = bytes(argument).decode("latin-1")
    if isinstance(argument, str):
        argument = int(argument) if _WHOLE_NUMBER.fullmatch(argument) else None
    if not isinstance(argument, int) or isinstance(argument, bool) or abs(argument) > _LARGEST:
        return None
    return int(argument)


def stream_options(args: Sequence[object]) -> Iterator[tuple[str, int]]:
    """The options of XREAD and XREADGROUP with their positions, up to and with STREAMS.

    A group or a consumer may be called "STREAMS" or "BLOCK"; a stream, too. Options that only newer servers know are
    passed over word by word.
    """
    return _options(args, 1, _STREAM_OPTIONS, "STREAMS")


def _lone_key(command: Command) -> int:
    reasons = (command.blocking, command.movable_keys, command.request_policy, command.stateful, command.script)
    if any(reasons) or command.ask_keys or " " in command.name or len(command.keys) != 1:
        return 0
    spec = command.keys[0]
    # One argument, counted from the front, and nothing else. A channel is as good as a key.
    return max(spec.begin, 0) * (spec == KeySpec(spec.begin, not_key=spec.not_key))


def _positions(name: str, spec: KeySpec, args: Sequence[object]) -> range:
    """What one specification finds."""
    begin = _begin(spec, args)
    if begin == 0:
        return range(0)
    if spec.numkeys is not None:
        return _counted(name, spec, begin, args)
    last = begin + spec.last if spec.last >= 0 else len(args) + spec.last
    if spec.limit > 1:
        last = begin + (len(args) - begin) // spec.limit + spec.last
    if begin < len(args) <= last:
        raise ConfigError(f"{name}: the keys from argument {begin} on are not all there")
    return range(begin, min(last + 1, len(args)), spec.step)


def _begin(spec: KeySpec, args: Sequence[object]) -> int:
    """Where a specification begins, 0 if its keyword is not there."""
    if not spec.keyword:
        return spec.begin
    # As the servers do it: the last argument, or the name, is not looked at.
    start, stop, step = (spec.begin, len(args) - 1, 1) if spec.begin > 0 else (len(args) + spec.begin, 1, -1)
    return next((i + 1 for i in range(start, stop, step) if word(args[i]) == spec.keyword), 0)


def _counted(name: str, spec: KeySpec, begin: int, args: Sequence[object]) -> range:
    """Keys whose number is itself an argument, as in EVAL and ZUNION."""
    at, first = begin + (spec.numkeys or 0), begin + spec.first
    count = whole_number(args[at]) if at < len(args) else None
    if count is None or count < 0:
        raise ConfigError(f"{name}: argument {at} is the number of keys, it must be 0 or more")
    end = first + count * spec.step
    if end > max(first, len(args)):
        there = max(len(args) - first, 0)
        raise ConfigError(f"{name}: argument {at} promises {count} keys, but {there} arguments follow")
    return range(first, end, spec.step)


def _options(args: Sequence[object], i: int, values: Mapping[str, int], last: str | None) -> Iterator[tuple[str, int]]:
    """From `i` on, the words that stand where options may stand, with their positions; ends with the option `last`."""
    while i < len(args):
        option = word(args[i])
        yield option, i
        if option == last:
            return
        i += 1 + values.get(option, 0)


def _stream_keys(name: str, args: Sequence[object]) -> tuple[int, ...]:
    # After STREAMS: as many keys as ids.
    first = next((i + 1 for option, i in stream_options(args) if option == "STREAMS"), len(args))
    count, odd = divmod(len(args) - first, 2)
    if not count or odd:
        raise ConfigError(f"{name} needs STREAMS, then keys, then as many ids")
    return tuple(range(first, first + count))


def _sort_keys(name: str, args: Sequence[object]) -> tuple[int, ...]:
    # Of several STORE the last counts. The keys that BY and GET make up are the server's business.
    stores = [i + 1 for option, i in _options(args, 2, _SORT_OPTIONS, None) if option == "STORE" and i + 1 < len(args)]
    return (1, *stores[-1:])


def _georadius_keys(name: str, args: Sequence[object]) -> tuple[int, ...]:
    # Of several STORE and STOREDIST the last counts.
    options = _options(args, 5, MappingProxyType({"STORE": 1, "STOREDIST": 1}), None)
    stores = [i + 1 for option, i in options if option in ("STORE", "STOREDIST") and i + 1 < len(args)]
    return (1, *stores[-1:])


def _migrate_keys(name: str, args: Sequence[object]) -> tuple[int, ...]:
    # One key as argument 3, or "" there and any number of them after KEYS.
    keys_at = next((i for option, i in _options(args, 6, _MIGRATE_OPTIONS, "KEYS") if option == "KEYS"), 0)
    if keys_at and args[3] not in ("", b""):
        raise ConfigError(f"{name}: argument 3 must be empty where KEYS follows")
    return tuple(range(keys_at + 1, len(args))) if 0 < keys_at < len(args) - 1 else (3,)


_SEARCHES: Mapping[str, Callable[[str, Sequence[object]], tuple[int, ...]]] = MappingProxyType(
    {
        "XREAD": _stream_keys,
        "XREADGROUP": _stream_keys,
        "SORT": _sort_keys,
        "GEORADIUS": _georadius_keys,
        "GEORADIUSBYMEMBER": _georadius_keys,
        "MIGRATE": _migrate_keys,
    }
)
