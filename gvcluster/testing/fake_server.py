"""How a fake node answers by itself: the few commands that make a tiny cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from gvcluster.core.slots import hash_slot
from gvcluster.errors import ReplyError
from gvcluster.testing import fake_pubsub
from gvcluster.testing.answers import encode_reply

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.fake_node import FakeNode

# A reply as Python value; a ReplyError is answered, not raised.
_Command: TypeAlias = "Callable[[FakeNode, FakeConnection, list[bytes]], object]"

# Dialect → the version that HELLO tells.
VERSIONS: Mapping[str, str] = MappingProxyType({"valkey": "9.1.2", "redis": "7.0.15"})
_OK = "OK"
_BEFORE_AUTH = frozenset(("HELLO", "AUTH"))
_WRONGPASS = "WRONGPASS invalid username-password pair or user is disabled."


def answer(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> bytes:
    """Answer a command as a small Valkey would.

    HELLO, AUTH, CLIENT SETINFO, SETNAME, GETNAME and ID, PING, ECHO, SELECT, READONLY, READWRITE, ASKING, ROLE, CLUSTER
    SLOTS, NODES, INFO, MYID and KEYSLOT, and GET, SET, DEL, EXISTS, MGET, MSET and INCR on the node's `data`, with
    MOVED, ASK, CROSSSLOT and CLUSTERDOWN; SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE and what ends them: see `fake_pubsub`.
    """
    name = args[0].decode("latin-1").upper()
    if node.cluster.password is not None and not connection.authenticated and name not in _BEFORE_AUTH:
        return encode_reply(ReplyError("NOAUTH Authentication required."))
    if name in fake_pubsub.COMMANDS:
        return _subscribe(node, connection, name, args[1:])
    command = _COMMANDS.get(name)
    try:
        reply = command(node, connection, args[1:]) if command else ReplyError(f"ERR unknown command '{name}'")
    except (LookupError, ValueError):
        reply = ReplyError(f"ERR wrong number of arguments for '{name.lower()}' command")
    return encode_reply(reply, connection.protocol)


def _subscribe(node: FakeNode, connection: FakeConnection, name: str, args: list[bytes]) -> bytes:
    is_sharded = name in ("SSUBSCRIBE", "SUNSUBSCRIBE")
    refusal = _elsewhere(node, connection, args) if is_sharded else None
    return encode_reply(refusal) if refusal else fake_pubsub.answer(connection, name, args)


def _hello(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    refusal = _refused_hello(node, connection, args)
    if refusal is not None:
        return ReplyError(refusal)
    connection.protocol = int(args[0]) if args else connection.protocol
    return {
        b"server": node.cluster.dialect.encode(),
        b"version": VERSIONS[node.cluster.dialect].encode(),
        b"proto": connection.protocol,
        b"id": connection.number,
        b"mode": b"cluster",
        b"role": b"master" if node.role == "primary" else b"replica",
        b"modules": [],
    }


def _refused_hello(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> str | None:
    """HELLO [version [AUTH user password] [SETNAME name]]: what is wrong with it, else do what its options say."""
    if args and args[0] not in (b"2", b"3"):
        return "NOPROTO unsupported protocol version"
    options = args[1:]
    if b"".join(options[:1]).upper() == b"AUTH":
        if not _let_in(node, connection, options[1], options[2]):
            return _WRONGPASS
        options = options[3:]
    if node.cluster.password is not None and not connection.authenticated:
        return "NOAUTH HELLO must be called with the client already authenticated"
    if b"".join(options[:1]).upper() == b"SETNAME":
        connection.name = options[1]
    return None


def _auth(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    user, password = args if len(args) == 2 else (b"default", args[0])
    return _OK if _let_in(node, connection, user, password) else ReplyError(_WRONGPASS)


def _let_in(node: FakeNode, connection: FakeConnection, user: bytes, password: bytes) -> bool:
    wanted = node.cluster.password
    connection.authenticated = wanted is None or (user, password) == (node.cluster.username.encode(), wanted.encode())
    return connection.authenticated


def _client(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    match [args[0].upper(), *args[1:]]:
        case [b"SETINFO", _, _] if node.cluster.dialect == "valkey":
            return _OK  # which Redis learned with 7.2
        case [b"SETNAME", name]:
            connection.name = name
            return _OK
        case [b"GETNAME"]:
            return connection.name
        case [b"ID"]:
            return connection.number
    return ReplyError(f"ERR unknown subcommand '{args[0].decode('latin-1')}'. Try CLIENT HELP.")


def _cluster(node: FakeNode, _connection: FakeConnection, args: list[bytes]) -> object:
    match [args[0].upper(), *args[1:]]:
        case [b"SLOTS"]:
            return node.cluster.slot_ranges()
        case [b"NODES"]:
            return node.cluster.node_lines(node)
        case [b"INFO"]:
            return f"cluster_state:{'ok' if node.cluster.is_covered else 'fail'}\r\n".encode()
        case [b"MYID"]:
            return node.id.encode()
        case [b"KEYSLOT", key]:
            return hash_slot(key)
    return ReplyError(f"ERR unknown subcommand '{args[0].decode('latin-1')}'. Try CLUSTER HELP.")


def _role(node: FakeNode, _connection: FakeConnection, _args: list[bytes]) -> object:
    if node.primary is None:
        return [b"master", 0, []]
    host, port = node.primary.address
    return [b"slave", host.encode(), port, b"connected", 0]


def ping(_node: object, connection: FakeConnection, args: list[bytes]) -> object:
    """PONG, or what was said; a subscriber of RESP2 gets an array."""
    if connection.subscriptions and connection.protocol == 2:
        return [b"pong", args[0] if args else b""]
    return args[0] if args else "PONG"


def echo(_node: object, _connection: FakeConnection, args: list[bytes]) -> object:
    """What was said."""
    return args[0]


def _select(_node: FakeNode, _connection: FakeConnection, args: list[bytes]) -> object:
    return _OK if args[0] == b"0" else ReplyError("ERR DB index is out of range")


def _readonly(_node: FakeNode, connection: FakeConnection, _args: list[bytes]) -> object:
    connection.readonly = True
    return _OK


def _readwrite(_node: FakeNode, connection: FakeConnection, _args: list[bytes]) -> object:
    connection.readonly = False
    return _OK


def _asking(_node: FakeNode, connection: FakeConnection, _args: list[bytes]) -> object:
    connection.asking = True
    return _OK


def _get(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    (key,) = args
    return _elsewhere(node, connection, [key], reads=True) or node.data.get(key)


def _set(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    key, value = args
    refusal = _elsewhere(node, connection, [key])
    if refusal is None:
        node.data[key] = value
    return refusal or _OK


def _del(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    refusal = _elsewhere(node, connection, args)
    return refusal or sum(node.data.pop(key, None) is not None for key in args)


def _exists(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    return _elsewhere(node, connection, args, reads=True) or sum(key in node.data for key in args)


def _mget(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    return _elsewhere(node, connection, args, reads=True) or [node.data.get(key) for key in args]


def _mset(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    refusal = _elsewhere(node, connection, args[::2])
    if refusal is None:
        node.data.update(zip(args[::2], args[1::2], strict=True))
    return refusal or _OK


def _incr(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> object:
    (key,) = args
    refusal = _elsewhere(node, connection, [key])
    if refusal is not None:
        return refusal
    value = node.data.get(key, b"0")
    if not value.lstrip(b"-").isdigit():
        return ReplyError("ERR value is not an integer or out of range")
    node.data[key] = b"%d" % (int(value) + 1)
    return int(value) + 1


def _elsewhere(
    node: FakeNode, connection: FakeConnection, keys: list[bytes], *, reads: bool = False
) -> ReplyError | None:
    """The refusal of a node that does not serve these keys, in the order in which a server looks."""
    slot, *others = set(map(hash_slot, keys))
    if others:
        return ReplyError("CROSSSLOT Keys in request don't hash to the same slot")
    owner = node.cluster.owner(slot)
    if owner is None:
        return ReplyError("CLUSTERDOWN Hash slot not served")
    if owner is node:
        return _departed(node, slot, keys)
    if node.cluster.migrations.get(slot) is node:
        is_guest = connection.asking
    else:
        is_guest = reads and connection.readonly and node.primary is owner
    return None if is_guest else ReplyError(f"MOVED {slot} {_host_port(owner)}")


def _departed(node: FakeNode, slot: int, keys: list[bytes]) -> ReplyError | None:
    """The refusal of the owner of an open slot that does not have these keys (any more)."""
    target = node.cluster.migrations.get(slot)
    if target is None or all(key in node.data for key in keys):
        return None
    return ReplyError(f"ASK {slot} {_host_port(target)}")


def _host_port(node: FakeNode) -> str:
    return f"{node.address.host}:{node.address.port}"


_COMMANDS: Mapping[str, _Command] = MappingProxyType(
    {
        "HELLO": _hello,
        "AUTH": _auth,
        "CLIENT": _client,
        "CLUSTER": _cluster,
        "ROLE": _role,
        "PING": ping,
        "ECHO": echo,
        "SELECT": _select,
        "READONLY": _readonly,
        "READWRITE": _readwrite,
        "ASKING": _asking,
        "GET": _get,
        "SET": _set,
        "DEL": _del,
        "EXISTS": _exists,
        "MGET": _mget,
        "MSET": _mset,
        "INCR": _incr,
    }
)
