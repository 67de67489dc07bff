"""What a Garnet node does with its keys: strings, lists, hashes and sets, without their expiry."""

from __future__ import annotations

from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from gvcluster.errors import ReplyError
from gvcluster.testing.garnet.command import Command, Table

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.garnet.node import GarnetNode

_WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value."
_NO_INTEGER = "ERR value is not an integer or out of range."
_READ_ONLY = "ERR You can't write against a read only replica."
_SYNTAX = "ERR syntax error"
_OK = "OK"
_SET_OPTIONS = frozenset((b"NX", b"XX", b"EX", b"PX", b"GET", b"KEEPTTL"))
_Kind = TypeVar("_Kind")


def _typed(node: GarnetNode, key: bytes, kind: type[_Kind]) -> _Kind | None:
    """The value of a key, or None; another type than the command's is answered WRONGTYPE."""
    value = node.data.get(key)
    if value is not None and not isinstance(value, kind):
        raise ReplyError(_WRONGTYPE)
    return value


def _made(node: GarnetNode, key: bytes, kind: type[_Kind]) -> _Kind:
    """The value of a key, made if there is none."""
    value = _typed(node, key, kind)
    if value is None:
        value = node.data[key] = kind()
    return value


def _tidy(node: GarnetNode, key: bytes) -> None:
    if not node.data.get(key):
        node.data.pop(key, None)


# -- strings -----------------------------------------------------------------------------------------------------------


def _get(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _typed(node, args[0], bytes)


def _set(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    key, value, *options = args
    words = {option.upper() for option in options if not option.isdigit()}
    if not words <= _SET_OPTIONS:
        return ReplyError(_SYNTAX)
    old = node.data.get(key)
    is_kept = words & ({b"XX"} if old is None else {b"NX"})
    if not is_kept:
        node.data[key] = value
    if b"GET" in words:
        return old
    return None if is_kept else _OK


def _mget(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    values = (node.data.get(key) for key in args)
    return [value if isinstance(value, bytes) else None for value in values]


def _mset(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    if len(args) % 2:
        return ReplyError("ERR wrong number of arguments for 'MSET' command")
    node.data.update(zip(args[::2], args[1::2], strict=True))
    return _OK


def _incr(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _add(node, args[0], b"1", 1)


def _decr(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _add(node, args[0], b"1", -1)


def _incrby(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _add(node, args[0], args[1], 1)


def _decrby(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _add(node, args[0], args[1], -1)


def _add(node: GarnetNode, key: bytes, by: bytes, sign: int) -> object:
    try:
        total = int(_typed(node, key, bytes) or b"0") + sign * int(by)
    except ValueError:
        return ReplyError(_NO_INTEGER)
    node.data[key] = b"%d" % total
    return total


def _append(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    node.data[args[0]] = (_typed(node, args[0], bytes) or b"") + args[1]
    return len(node.data[args[0]])


def _strlen(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return len(_typed(node, args[0], bytes) or b"")


# -- keys --------------------------------------------------------------------------------------------------------------


def _del(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return sum(node.data.pop(key, None) is not None for key in args)


def _exists(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return sum(key in node.data for key in args)


def _type(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    kinds: dict[type, str] = {bytes: "string", list: "list", dict: "hash", set: "set"}
    return kinds.get(type(node.data.get(args[0])), "none")


def _expire(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return int(args[0] in node.data)


def _ttl(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return -1 if args[0] in node.data else -2


def _dbsize(node: GarnetNode, _connection: FakeConnection, _args: list[bytes]) -> object:
    return len(node.data)


def _flush(node: GarnetNode, connection: FakeConnection | None, _args: list[bytes]) -> object:
    if node.config.mine.primary_id is not None and connection is not None:
        return ReplyError(_READ_ONLY)
    node.data.clear()
    return _OK


def _keys(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return [key for key in node.data if _matches(key, args[0])]


def _memory(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    value = node.data.get(args[-1]) if args[0].upper() == b"USAGE" else None
    return None if value is None else 64 + len(value)


def _scan(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    """The cursor stands for an address in the log: far above any count of keys."""
    try:
        cursor, asked = int(args[0]), _asked_of_scan(args[1:])
    except (ValueError, IndexError):
        return ReplyError(_SYNTAX)
    keys = sorted(node.data)
    begin = cursor >> 32
    page = keys[begin : begin + asked[1]]
    after = begin + asked[1]
    following = b"%d" % (after << 32 if after < len(keys) else 0)
    return [following, [key for key in page if _matches(key, asked[0])]]


def _asked_of_scan(words: list[bytes]) -> tuple[bytes, int]:
    pattern, count = b"*", 10
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name.upper() == b"MATCH":
            pattern = value
        elif name.upper() == b"COUNT":
            count = int(value)
        elif name.upper() != b"TYPE":
            raise ValueError(name)
    return pattern, count


def _matches(key: bytes, pattern: bytes) -> bool:
    return fnmatchcase(key.decode("latin-1"), pattern.decode("latin-1"))


# -- lists, hashes, sets -----------------------------------------------------------------------------------------------


def _rpush(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    found: list[bytes] = _made(node, args[0], list)
    found.extend(args[1:])
    return len(found)


def _lpush(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    found: list[bytes] = _made(node, args[0], list)
    found[:0] = reversed(args[1:])
    return len(found)


def _lpop(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _pop(node, args[0], 0)


def _rpop(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _pop(node, args[0], -1)


def _pop(node: GarnetNode, key: bytes, place: int) -> object:
    found: list[bytes] | None = _typed(node, key, list)
    taken = found.pop(place) if found else None
    _tidy(node, key)
    return taken


def _lrange(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    found: list[bytes] = _typed(node, args[0], list) or []
    first, last = int(args[1]), int(args[2])
    return found[first : None if last == -1 else last + 1]


def _llen(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return len(_typed(node, args[0], list) or ())


def _hset(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    found: dict[bytes, bytes] = _made(node, args[0], dict)
    before = len(found)
    found.update(zip(args[1::2], args[2::2], strict=True))
    return len(found) - before


def _hget(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    found: dict[bytes, bytes] = _typed(node, args[0], dict) or {}
    return found.get(args[1])


def _hgetall(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    found: dict[bytes, bytes] = _typed(node, args[0], dict) or {}
    return dict(found)


def _sadd(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    found: set[bytes] = _made(node, args[0], set)
    before = len(found)
    found.update(args[1:])
    return len(found) - before


def _smembers(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return sorted(_typed(node, args[0], set) or ())


def _key(run: Any, arity: int, *, writes: bool = False) -> Command:
    """A command whose first argument is its key."""
    return Command(run, arity, (1, 1, 1), writes)


COMMANDS: Table = MappingProxyType(
    {
        "GET": _key(_get, 2),
        "SET": _key(_set, -3, writes=True),
        "MGET": Command(_mget, -2, (1, -1, 1)),
        "MSET": Command(_mset, -3, (1, -1, 2), writes=True),
        "INCR": _key(_incr, 2, writes=True),
        "DECR": _key(_decr, 2, writes=True),
        "INCRBY": _key(_incrby, 3, writes=True),
        "DECRBY": _key(_decrby, 3, writes=True),
        "APPEND": _key(_append, 3, writes=True),
        "STRLEN": _key(_strlen, 2),
        "DEL": Command(_del, -2, (1, -1, 1), writes=True),
        "UNLINK": Command(_del, -2, (1, -1, 1), writes=True),
        "EXISTS": Command(_exists, -2, (1, -1, 1)),
        "TYPE": _key(_type, 2),
        "EXPIRE": _key(_expire, -3, writes=True),
        "PEXPIRE": _key(_expire, -3, writes=True),
        "TTL": _key(_ttl, 2),
        "PTTL": _key(_ttl, 2),
        "RPUSH": _key(_rpush, -3, writes=True),
        "LPUSH": _key(_lpush, -3, writes=True),
        "RPOP": _key(_rpop, 2, writes=True),
        "LPOP": _key(_lpop, 2, writes=True),
        "LRANGE": _key(_lrange, 4),
        "LLEN": _key(_llen, 2),
        "HSET": _key(_hset, -4, writes=True),
        "HGET": _key(_hget, 3),
        "HGETALL": _key(_hgetall, 2),
        "SADD": _key(_sadd, -3, writes=True),
        "SMEMBERS": _key(_smembers, 2),
        # Whatever node gets these obeys, for its own keys: they are not slot-checked.
        "DBSIZE": Command(_dbsize, 1),
        "FLUSHALL": Command(_flush, -1, writes=True),
        "FLUSHDB": Command(_flush, -1, writes=True),
        "KEYS": Command(_keys, 2),
        "SCAN": Command(_scan, -2),
        "MEMORY": Command(_memory, -2),
    }
)
