"""One command of the facade → its parts: what is sent, and to which node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gvcluster.compat.encoder import Encoder
from gvcluster.compat.library import Library
from gvcluster.compat.nodes import Nodes
from gvcluster.core.commands import COMMANDS
from gvcluster.core.slots import hash_slot

# These take keys of any slots. (redis-py does so for the last four; its mget and mset refuse.)
_SPLIT: Mapping[str, int] = MappingProxyType({"MGET": 1, "MSET": 2, "DEL": 1, "UNLINK": 1, "EXISTS": 1, "TOUCH": 1})
_BY_SLOT = "slot-id"


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A registered script that is called: its source decides, not only its digest."""

    source: str | bytes
    keys: tuple[Any, ...]
    args: tuple[Any, ...]


@dataclass(slots=True)
class Queued:
    """One command as the user gave it. (`command_stack` of the libraries' pipelines has such objects.)

    follows: whether a redirect is followed where `target_nodes` has named a node.
    """

    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    position: int = 0
    script: ScriptCall | None = None
    follows: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """What is sent to one node; `node` is None where the key decides."""

    words: tuple[bytes, ...]
    node: Any = None
    script: ScriptCall | None = None
    follows: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """What decides where no key does: a channel's messages go by one node, as the libraries' do, and keep order."""
        by_channel = len(self.words) > 1 and self.words[0].upper() == b"PUBLISH"
        return {"route_key": self.words[1]} if by_channel else {}


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a command, and what becomes of their replies."""

    parts: Sequence[Part]
    # Where one reply is made of several before anybody looks at it: of keys of several slots.
    join: Callable[[Sequence[Any]], Any] | None = None
    # Whether the client chose the nodes, and may choose others.
    is_chosen: bool = False


class Router:
    """Plans commands for one facade."""

    def __init__(self, library: Library, encoder: Encoder, nodes: Nodes) -> None:
        self.encoder, self._nodes = encoder, nodes
        self._flags = library.flags
        self._containers = frozenset(name.split()[0] for name in self._flags if " " in name)
        # Commands of which only the keys say where they go: nothing else need be looked at.
        several = library.cluster_class.RESULT_CALLBACKS
        strange = (*self._flags, *self._containers, *_SPLIT, *several, "PUBLISH")
        self.plain = frozenset(name for name in COMMANDS.names() if name not in strange)
        self._no_targets = library.error("RedisClusterException")

    def plan(self, queued: Queued) -> Plan:
        """Say where a command goes.

        Raises:
            DataError: An argument is None, a bool or an object. Nothing was sent.
            TypeError, RedisClusterException: `target_nodes` makes no sense, or means nobody.
        """
        args, words, targets = queued.args, self.encoder.command(queued.args), queued.options.get("target_nodes")
        if queued.script is not None:
            return Plan([Part(words, None, queued.script)])
        flag = self._flag(args, words)
        if targets is None and flag is None:
            return self._by_key(words)
        nodes = self._asked(flag or "", words) if targets is None else self._nodes.targets(targets)
        if not nodes:
            raise self._no_targets(f"No targets were found to execute {args} command on")
        parts = [Part(words, node, follows=queued.follows) for node in nodes]
        return Plan(parts, is_chosen=isinstance(targets, str | None))

    def _asked(self, flag: str, words: tuple[bytes, ...]) -> list[Any]:
        """The nodes that a command's flag means."""
        return self._nodes.asked_of_slot(int(words[2])) if flag == _BY_SLOT else self._nodes.flagged(flag)

    def _flag(self, args: tuple[Any, ...], words: tuple[bytes, ...]) -> str | None:
        """Which nodes the library asks, where it does not look for a key."""
        name = words[0].decode("latin-1").upper()
        if name in self._containers and len(words) > 1:
            name = f"{name} {words[1].decode('latin-1').upper()}"
        return self._flags.get(name) or self._flags.get(str(args[0]).upper())

    def _by_key(self, words: tuple[bytes, ...]) -> Plan:
        name = words[0].decode("latin-1").upper()
        width = _SPLIT.get(name)
        if width is None or len(words) < 2 + width or (len(words) - 1) % width:
            return Plan([Part(words)])
        by_slot: dict[int, list[int]] = {}
        for at in range(1, len(words), width):
            by_slot.setdefault(hash_slot(words[at]), []).append(at)
        if len(by_slot) == 1:
            return Plan([Part(words)])
        parts = [Part((words[0], *_taken(words, places, width))) for places in by_slot.values()]
        return Plan(parts, _joined(name, list(by_slot.values())))


def _taken(words: tuple[bytes, ...], places: list[int], width: int) -> tuple[bytes, ...]:
    return tuple(word for at in places for word in words[at : at + width])


def _joined(name: str, places: list[list[int]]) -> Callable[[Sequence[Any]], Any]:
    def values(replies: Sequence[Any]) -> Any:
        found = {
            at: each
            for group, reply in zip(places, replies, strict=True)
            for at, each in zip(group, reply, strict=True)
        }
        return [found[at] for at in sorted(found)]

    def first(replies: Sequence[Any]) -> Any:
        return replies[0]

    return values if name == "MGET" else first if name == "MSET" else sum
