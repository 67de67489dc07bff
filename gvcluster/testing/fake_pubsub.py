"""Subscriptions at fake nodes. Nothing is published by itself: `publish` and `withdraw` are for tests to call."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gvcluster.testing.answers import encode_reply

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.fake_node import FakeNode

COMMANDS = frozenset(
    ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE")
)  # fmt: skip


def answer(connection: FakeConnection, command: str, names: list[bytes]) -> bytes:
    """Subscribe a connection or end it, one confirmation for each name. Without names it ends nothing.

    Blocks:
        Never.
    """
    made = command.replace("UNSUB", "SUB")
    confirmations = []
    for name in names:
        if command == made:
            connection.subscriptions[made, name] = None
        else:
            connection.subscriptions.pop((made, name), None)
        confirmations.append(confirmation(connection, command, name))
    return b"".join(confirmations)


def confirmation(connection: FakeConnection, command: str, name: bytes) -> bytes:
    """What says that a subscription was made or ended.

    Blocks:
        Never.
    """
    return push(connection, [command.lower().encode(), name, len(connection.subscriptions)])


def push(connection: FakeConnection, item: list[object]) -> bytes:
    """A push, as this connection's protocol writes it.

    Blocks:
        Never.
    """
    data = encode_reply(item, connection.protocol)
    return b">" + data[1:] if connection.protocol == 3 else data


def publish(node: FakeNode, channel: str, data: str, *, shard: bool = False) -> int:
    """Send a message to the subscribers of one node. Returns how many were told.

    Blocks:
        As `FakeConnection.send`.
    """
    told = 0
    for connection in node.open_connections:
        for subscription in list(connection.subscriptions):
            item = _item(subscription, channel, shard)
            if item:
                connection.send(push(connection, [*item, channel.encode(), data.encode()]))
                told += 1
    return told


def _item(subscription: tuple[str, bytes], channel: str, shard: bool) -> list[object]:
    """How a message to this subscription begins; empty if it does not concern it."""
    command, name = subscription
    if command == "PSUBSCRIBE":
        return [b"pmessage", name] if not shard and fnmatchcase(channel, name.decode()) else []
    if name != channel.encode() or (command == "SSUBSCRIBE") != shard:
        return []
    return [b"smessage" if shard else b"message"]


def withdraw(node: FakeNode, shard_channel: str) -> None:
    """End the subscriptions to a shard channel, as a node does that has lost its slot.

    Blocks:
        As `FakeConnection.send`.
    """
    name = shard_channel.encode()
    for connection in node.open_connections:
        if ("SSUBSCRIBE", name) in connection.subscriptions:
            connection.send(answer(connection, "SUNSUBSCRIBE", [name]))
