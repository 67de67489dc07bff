"""MULTI, EXEC, DISCARD, WATCH and scripts at a Garnet node: slots are looked at when EXEC comes, and not before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from gvcluster.errors import ReplyError
from gvcluster.testing.garnet import verify
from gvcluster.testing.garnet.command import Command, Raw, Table, encode

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.garnet.node import GarnetNode

_OK = "OK"
_ABORTED = "EXECABORT Transaction discarded because of previous errors."
_NOSCRIPT = "NOSCRIPT No matching script. Please use EVAL."
_NO_LUA = "ERR This instance has Lua scripting support disabled"


@dataclass
class Session:
    """What one connection has begun. `watched`: key → how often it had been written then."""

    queue: list[list[bytes]] | None = None
    is_flawed: bool = False
    watched: dict[bytes, int] = field(default_factory=dict)
    readwrite: bool = False

    def end(self) -> None:
        """The transaction is over, and nothing is watched."""
        self.queue, self.is_flawed, self.watched = None, False, {}


def queue(node: GarnetNode, session: Session, args: list[bytes]) -> object:
    """Take a command between MULTI and EXEC: on whichever node, whatever its slot."""
    assert session.queue is not None
    command = node.table.get(args[0].decode("latin-1").upper())
    if command is None or command.no_multi:
        session.is_flawed = True
        return ReplyError("ERR unknown command")
    if not command.takes(args):
        session.is_flawed = True
        return ReplyError(f"ERR wrong number of arguments for '{args[0].decode('latin-1').upper()}' command")
    session.queue.append(args)
    return "QUEUED"


def _multi(node: GarnetNode, connection: FakeConnection, _args: list[bytes]) -> object:
    session = node.session(connection)
    if session.queue is not None:
        session.is_flawed = True
        return ReplyError("ERR MULTI calls can not be nested")
    session.queue = []
    return _OK


def _exec(node: GarnetNode, connection: FakeConnection, _args: list[bytes]) -> object:
    session = node.session(connection)
    queued, watched, is_flawed = session.queue, session.watched, session.is_flawed
    if queued is None:
        return ReplyError("ERR EXEC without MULTI")
    session.end()
    if is_flawed:
        return ReplyError(_ABORTED)
    return _refused(node, queued, watched, readwrite=session.readwrite) or _executed(node, connection, queued, watched)


def _refused(
    node: GarnetNode, queued: list[list[bytes]], watched: dict[bytes, int], *, readwrite: bool
) -> ReplyError | None:
    """ASKING in front of MULTI has expired by now, and inside of it was only queued."""
    keys = [key for args in queued for key in _command_of(node, args).keys_of(args)]
    writes = any(_command_of(node, args).writes for args in queued)
    return verify.refusal(node, [*keys, *watched], writes=writes, asking=False, readwrite=readwrite)


def _executed(
    node: GarnetNode, connection: FakeConnection, queued: list[list[bytes]], watched: dict[bytes, int]
) -> Raw:
    if any(node.versions[key] != version for key, version in watched.items()):
        return Raw(b"_\r\n" if connection.protocol == 3 else b"*-1\r\n")
    replies = [encode(node.run(connection, args), connection.protocol) for args in queued]
    return Raw(b"*%d\r\n" % len(replies) + b"".join(replies))


def _command_of(node: GarnetNode, args: list[bytes]) -> Command:
    return node.table[args[0].decode("latin-1").upper()]


def _discard(node: GarnetNode, connection: FakeConnection, _args: list[bytes]) -> object:
    session = node.session(connection)
    if session.queue is None:
        return ReplyError("ERR DISCARD without MULTI")
    session.end()
    return _OK


def _watch(node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    session = node.session(connection)
    if session.queue is not None:
        return ReplyError("ERR WATCH inside MULTI is not allowed")
    for key in args:
        session.watched.setdefault(key, node.versions[key])
    return _OK


def _unwatch(node: GarnetNode, connection: FakeConnection, _args: list[bytes]) -> object:
    node.session(connection).watched.clear()
    return _OK


# -- scripts -----------------------------------------------------------------------------------------------------------


def _eval(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _call(node, args[0], args[1:]) if node.cluster.lua else ReplyError(_NO_LUA)


def _evalsha(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    if not node.cluster.lua:
        return ReplyError(_NO_LUA)
    source = node.scripts.get(args[0].lower())
    return ReplyError(_NOSCRIPT) if source is None else _call(node, source, args[1:])


def _call(node: GarnetNode, source: bytes, args: list[bytes]) -> object:
    """Nobody runs Lua here: the script's Python twin is called."""
    twin = node.cluster.scripts.get(source)
    if twin is None:
        return ReplyError("ERR Lua encountered an error: FakeGarnet.scripts has no function for this source")
    node.scripts[hashlib.sha1(source).hexdigest().encode()] = source
    count = int(args[0])
    return twin(node, args[1 : 1 + count], args[1 + count :])


def _script(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    if not node.cluster.lua:
        return ReplyError(_NO_LUA)
    match [args[0].upper(), *args[1:]]:
        case [b"LOAD", source]:
            digest = hashlib.sha1(source).hexdigest().encode()
            node.scripts[digest] = source
            return digest
        case [b"EXISTS", *digests]:
            return [int(digest.lower() in node.scripts) for digest in digests]
        case [b"FLUSH", *_]:
            node.scripts.clear()
            return _OK
    return ReplyError(f"ERR unknown subcommand '{args[0].decode('latin-1')}'.")


# These are never queued.
AT_ONCE = frozenset(("MULTI", "EXEC", "DISCARD", "WATCH"))
COMMANDS: Table = MappingProxyType(
    {
        "MULTI": Command(_multi, 1),
        "EXEC": Command(_exec, 1),
        "DISCARD": Command(_discard, 1),
        "WATCH": Command(_watch, -2, (1, -1, 1)),
        "UNWATCH": Command(_unwatch, 1),
        "EVAL": Command(_eval, -3, writes=True, counted=2),
        "EVALSHA": Command(_evalsha, -3, writes=True, counted=2),
        "SCRIPT": Command(_script, -2, no_multi=True),
    }
)
