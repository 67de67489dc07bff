"""What the doctor says, and the case that it looks at: values, and what several checks ask of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from gvcluster.cli.inspect.facts import Facts, nodes_of
from gvcluster.core.address import Address
from gvcluster.core.topology import Node, Topology
from gvcluster.errors import GvClusterError
from gvcluster.options import Options


class Severity(IntEnum):
    """The worst one decides about the exit code.

    NOTE: good to know. WARNING: calls will fail on a bad day. ERROR: calls fail now.
    """

    NOTE = 0
    WARNING = 1
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor has found.

    name: what it is, for machines: it never changes. what: the observation, with figures. means: what follows from it.
    client: what gvcluster does about it by itself. todo: what a person can do. nodes: whom it concerns.
    """

    name: str
    severity: Severity
    what: str
    means: str
    client: str
    todo: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """All that is known of a cluster.

    seeds: as the user named them. every: each node that was asked, seeds first. connecting: why a client of these
    seeds can not start; None if it can. options: those of that client.
    """

    seeds: tuple[Address, ...]
    every: tuple[Facts, ...]
    options: Options
    connecting: GvClusterError | None = None

    @property
    def reached(self) -> tuple[Facts, ...]:
        """The nodes that answer. One that was named in two ways is in it once."""
        once = {facts.id or str(facts.address): facts for facts in reversed(self.every) if facts.trouble is None}
        return tuple(reversed(once.values()))

    @property
    def nodes(self) -> dict[Address, Node]:
        """All nodes that any slot map names."""
        return nodes_of(self.every)

    @property
    def topology(self) -> Topology | None:
        """The slot map that most nodes tell; of those told equally often, the one with most slots."""
        maps = [facts.topology for facts in self.reached if facts.topology is not None]
        counts = Counter(map(signature, maps))
        return max(maps, key=lambda each: (counts[signature(each)], each.covered), default=None)

    def role(self, address: Address) -> str:
        """`primary`, `replica`, or `seed` where no slot map names it."""
        facts = next((each for each in self.every if each.address == address), None)
        known = {node.id: node for node in self.nodes.values() if node.id}
        node = self.nodes.get(address) or (known.get(facts.id) if facts else None)
        return node.role if node is not None else "seed"


def signature(topology: Topology) -> tuple[object, ...]:
    """Two slot maps with the same one lead clients to the same nodes."""
    firsts = ((slot, topology.owners[slot]) for slot in borders(topology))
    return tuple((slot, None if owner is None else owner.address) for slot, owner in firsts)


def borders(topology: Topology) -> list[int]:
    """The slots that have another owner than the one before, and slot 0."""
    owners = topology.owners
    return [slot for slot in range(len(owners)) if slot == 0 or owners[slot] is not owners[slot - 1]]


def named(nodes: Iterable[object], most: int = 6) -> str:
    """`a, b and 3 more`."""
    texts = [str(node) for node in nodes]
    shown = ", ".join(texts[:most])
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown


def counted(things: Sequence[object] | int, one: str, many: str = "") -> str:
    """`1 node`, `2 nodes`."""
    count = things if isinstance(things, int) else len(things)
    return f"{count} {one if count == 1 else many or one + 's'}"
