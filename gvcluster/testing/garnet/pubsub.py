"""Subscriptions at a Garnet node: sharded and plain channels are the same ones, and messages are called `message`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING

from gvcluster.errors import ReplyError
from gvcluster.testing import fake_pubsub
from gvcluster.testing.answers import encode_reply
from gvcluster.testing.garnet.command import Command, Raw, Table

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.garnet.node import GarnetNode

# What a RESP2 connection with subscriptions may send. There is no SUNSUBSCRIBE.
_ALLOWED = frozenset(("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "PING", "QUIT"))


def refused_to_subscriber(connection: FakeConnection, name: str) -> ReplyError | None:
    """What a subscriber in RESP2 is told that sends something else."""
    if connection.protocol == 3 or not connection.subscriptions or name in _ALLOWED:
        return None
    return ReplyError(f"ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT are allowed")


def _subscribe(_node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    return _make(connection, "SUBSCRIBE", b"subscribe", args)


def _psubscribe(_node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    return _make(connection, "PSUBSCRIBE", b"psubscribe", args)


def _ssubscribe(_node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    return _make(connection, "SUBSCRIBE", b"ssubscribe", args)


def _make(connection: FakeConnection, kind: str, word: bytes, names: list[bytes]) -> Raw:
    confirmations = []
    for name in names:
        connection.subscriptions[kind, name] = None
        confirmations.append(_confirmation(connection, word, name))
    return Raw(b"".join(confirmations))


def _unsubscribe(_node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    return _end(connection, "SUBSCRIBE", b"unsubscribe", args)


def _punsubscribe(_node: GarnetNode, connection: FakeConnection, args: list[bytes]) -> object:
    return _end(connection, "PSUBSCRIBE", b"punsubscribe", args)


def _end(connection: FakeConnection, kind: str, word: bytes, names: list[bytes]) -> Raw:
    confirmations = []
    for name in names or [name for made, name in connection.subscriptions if made == kind]:
        connection.subscriptions.pop((kind, name), None)
        confirmations.append(_confirmation(connection, word, name))
    return Raw(b"".join(confirmations) or _confirmation(connection, word, None))


def _confirmation(connection: FakeConnection, word: bytes, name: bytes | None) -> bytes:
    """A plain list, in RESP3 as well: only messages are pushes."""
    return encode_reply([word, name, len(connection.subscriptions)], connection.protocol)


def _publish(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    """To all nodes that it knows; the reply counts the subscribers of this one."""
    channel, data = args
    node.tell_all(node.config.workers, "publish", channel, data)
    return deliver(node, channel, data)


def _spublish(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    """To the nodes of its shard."""
    channel, data = args
    mine = node.config.mine
    primary = mine.primary_id or mine.id
    node.tell_all([primary, *(each.id for each in node.config.replicas_of(primary))], "publish", channel, data)
    return deliver(node, channel, data)


def deliver(node: GarnetNode, channel: bytes, data: bytes) -> int:
    """Send a message to a node's own subscribers, and count them.

    Blocks:
        As `FakeConnection.send`.
    """
    told = 0
    for connection in node.open_connections:
        for kind, name in list(connection.subscriptions):
            if kind == "SUBSCRIBE" and name == channel:
                item: list[object] = [b"message", channel, data]
            elif kind == "PSUBSCRIBE" and fnmatchcase(channel.decode("latin-1"), name.decode("latin-1")):
                item = [b"pmessage", name, channel, data]
            else:
                continue
            connection.send(fake_pubsub.push(connection, item))
            told += 1
    return told


def _pubsub(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    match [args[0].upper(), *args[1:]]:
        case [b"CHANNELS", *_]:
            return sorted(set(_held(node, "SUBSCRIBE")))
        case [b"NUMSUB", *names]:
            return [part for name in names for part in (name, _held(node, "SUBSCRIBE").count(name))]
        case [b"NUMPAT"]:
            return len(set(_held(node, "PSUBSCRIBE")))
    # No SHARDCHANNELS, no SHARDNUMSUB.
    return ReplyError(f"ERR unknown subcommand '{args[0].decode('latin-1')}'.")


def _held(node: GarnetNode, kind: str) -> list[bytes]:
    return [name for connection in node.open_connections for made, name in connection.subscriptions if made == kind]


COMMANDS: Table = MappingProxyType(
    {
        "SUBSCRIBE": Command(_subscribe, -2, no_multi=True),
        "PSUBSCRIBE": Command(_psubscribe, -2, no_multi=True),
        "SSUBSCRIBE": Command(_ssubscribe, -2, (1, -1, 1), no_multi=True),
        "UNSUBSCRIBE": Command(_unsubscribe, -1, no_multi=True),
        "PUNSUBSCRIBE": Command(_punsubscribe, -1, no_multi=True),
        "PUBLISH": Command(_publish, 3),
        "SPUBLISH": Command(_spublish, 3, (1, 1, 1)),
        "PUBSUB": Command(_pubsub, -2),
    }
)
