"""Pub/sub on the wire: the commands, what a subscribed connection receives, and the records that users get of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from gvcluster.core.slots import hash_slot
from gvcluster.errors import ReplyError
from gvcluster.records import Record


class Kind(Enum):
    """The three kinds of subscription; the value is the command that makes one."""

    CHANNEL = "SUBSCRIBE"
    PATTERN = "PSUBSCRIBE"
    SHARD = "SSUBSCRIBE"


# How each kind is ended.
ENDED_BY: Mapping[Kind, str] = MappingProxyType(
    {Kind.CHANNEL: "UNSUBSCRIBE", Kind.PATTERN: "PUNSUBSCRIBE", Kind.SHARD: "SUNSUBSCRIBE"}
)

Key = tuple[Kind, bytes]  # a subscription: its kind, and the channel or pattern


class Message(Record):
    """What somebody published.

    channel, data: as they were sent.
    pattern: the pattern that has matched the channel; None for a subscription to the channel itself.
    shard: whether it came from SPUBLISH.

    No message comes twice, but perhaps behind a Gap: what a shard's old primary has passed on may also come from its
    successor, and what one node has passed on in a channel from another one, to which the servers' bus has brought it
    later.
    """

    channel: bytes
    data: bytes
    pattern: bytes | None = None
    shard: bool = False

    @property
    def kind(self) -> str:
        """`"message"`, `"pmessage"` or `"smessage"`: the word that the server uses."""
        return "smessage" if self.shard else "message" if self.pattern is None else "pmessage"


class Gap(Record):
    """Messages may be missing here: after those that came before, and before those that follow.

    `channels`, `patterns`, `shard_channels`: of which subscriptions. `since`: when it began, in seconds like
    `time.time()`; where a connection was lost, when the client last heard of the node. `seconds`: how long it lasted.
    `reason`: a sentence for a log. `dropped`: how many messages the client has dropped itself because nobody took them
    in time; of those that it never received, nobody knows the number.

    A slot that moves may be served by its new owner a moment before the old one says so: what is missed in that moment
    belongs to the Gap, too, though it was published before `since`.
    """

    channels: tuple[bytes, ...]
    patterns: tuple[bytes, ...]
    shard_channels: tuple[bytes, ...]
    since: float
    seconds: float
    reason: str
    dropped: int = 0

    @property
    def kind(self) -> str:
        """`"gap"`, where a Message has the server's word."""
        return "gap"

    @property
    def keys(self) -> list[Key]:
        """The subscriptions, each a kind and a name."""
        named = ((Kind.CHANNEL, self.channels), (Kind.PATTERN, self.patterns), (Kind.SHARD, self.shard_channels))
        return [(kind, name) for kind, names in named for name in names]


def gap(keys: Iterable[Key], since: float, until: float, reason: str, dropped: int = 0) -> Gap:
    """A Gap of these subscriptions, each named once. Times are in seconds like `time.time()`."""
    names: dict[Kind, dict[bytes, None]] = {kind: {} for kind in Kind}
    for kind, name in keys:
        names[kind][name] = None
    channels, patterns, shard_channels = (tuple(names[kind]) for kind in Kind)
    return Gap(channels, patterns, shard_channels, since, max(0.0, until - since), reason, dropped)


class Confirmation(Record):
    """A subscription was made or ended, because somebody asked for it or not. `name` None: there was none to end."""

    kind: Kind
    is_subscribed: bool
    name: bytes | None


class Pong(Record):
    """The reply to PING."""


_CONFIRMED: Mapping[bytes, tuple[Kind, bool]] = MappingProxyType(
    {kind.value.lower().encode(): (kind, True) for kind in Kind}
    | {word.lower().encode(): (kind, False) for kind, word in ENDED_BY.items()}
)


def parse_item(item: Any, *, shard: bool) -> Message | Confirmation | Pong | ReplyError | None:
    """Read what came over a subscribed connection. None for what has nothing to do with pub/sub.

    RESP3 makes pushes of what RESP2 writes as plain lists, and Garnet writes lists among its pushes: only the content
    counts. In RESP2 the reply to PING is a list while there are subscriptions.

    Args:
        item: A reply or a push.
        shard: Whether the connection is for shard channels: Garnet calls their messages `message`, too, and ends them
            with UNSUBSCRIBE.
    """
    if isinstance(item, ReplyError):
        return item
    if item == b"PONG":
        return Pong()
    return _parse_list(item, shard) if isinstance(item, list) else None


def _parse_list(item: list[Any], shard: bool) -> Message | Confirmation | Pong | None:
    match item:
        case [b"message", bytes(channel), bytes(data)]:
            return Message(channel, data, shard=shard)
        case [b"smessage", bytes(channel), bytes(data)]:
            return Message(channel, data, shard=True)
        case [b"pmessage", bytes(pattern), bytes(channel), bytes(data)]:
            return Message(channel, data, pattern)
        case [b"pong", _]:
            return Pong()
        case [b"unsubscribe", bytes(channel), int()] if shard:
            return Confirmation(Kind.SHARD, False, channel)
        case [bytes(word), None | bytes() as name, int()] if word in _CONFIRMED:
            return Confirmation(*_CONFIRMED[word], name)
    return None


def key_of(message: Message) -> Key:
    """The subscription that a message came for."""
    if message.pattern is not None:
        return Kind.PATTERN, message.pattern
    return (Kind.SHARD if message.shard else Kind.CHANNEL), message.channel


def groups(keys: Iterable[Key]) -> list[list[Key]]:
    """The subscriptions that one command can name together: those of one kind, and shard channels of one slot.

    In the order given; each once.
    """
    together: dict[tuple[Kind, int | None], list[Key]] = {}
    for kind, name in dict.fromkeys(keys):
        slot = hash_slot(name) if kind is Kind.SHARD else None
        together.setdefault((kind, slot), []).append((kind, name))
    return list(together.values())


def fits(error: ReplyError, keys: list[Key]) -> bool:
    """Whether it may answer a command that names these subscriptions: a redirect names their slot."""
    if error.code not in ("MOVED", "ASK"):
        return True
    slot = error.message.split(" ")[1:2]
    return bool(keys) and keys[0][0] is Kind.SHARD and slot == [str(hash_slot(keys[0][1]))]
