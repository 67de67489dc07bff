"""The slot map: CLUSTER SLOTS or CLUSTER NODES reply → validated, immutable Topology.

Replies are what hiredis makes of them, in RESP2 or RESP3. Entries that make no sense are skipped and the rest is used
(libvalkey refuses the whole map for one node in handshake); a reply that assigns no slot at all is an UnusableMap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress, count, repeat
from operator import is_not, sub
from typing import Any, ClassVar, TypeVar

from gvcluster.core.address import Address, translate
from gvcluster.core.members import MAX_NODES, Members, Node, UnusableMap, kind_of, lines_of, read_members, spans_of
from gvcluster.core.slots import SLOTS
from gvcluster.core.steps import Steps, at_once
from gvcluster.records import Record, derived, replace

__all__ = ["MAX_RANGES", "Node", "Topology", "UnusableMap", "parse_nodes", "parse_slots", "read_nodes", "read_slots"]

_T = TypeVar("_T")

# Every slot alone is the most that a map can hold.
MAX_RANGES = SLOTS
# Ranges between two steps. Those of nodes that are new take 20 µs each, others 3 µs; to give them their slots, 1 µs.
_NEW_RANGES, _RANGES = 31, 255  # all bits set: `not count & _RANGES`


class Topology(Record):
    """Who serves which slot: a snapshot that never changes.

    Attributes:
        nodes: Every usable node: primaries by their first slot, those without slots after them, then the replicas.
        owners: The primary of each of the 16384 slots, or None.
        epochs: The owner's configuration epoch of each slot, -1 without an owner; None when the source was
            CLUSTER SLOTS, which tells none.
        route_version: The number of slot maps accepted so far, this one included; 0 before it is accepted.
        starts: Slots in ascending order, 0 first, between which the owner does not change; found if they are not given.
            Maps have a handful, and whoever goes by them instead of by all slots holds up the hub for 10 µs, not 3 ms.
        primaries: The nodes that are primaries.
        replicas: The nodes that are replicas.
        covered: The number of slots that have an owner.
    """

    nodes: tuple[Node, ...]
    owners: tuple[Node | None, ...]
    epochs: tuple[int, ...] | None = None
    route_version: int = 0
    starts: tuple[int, ...] = ()
    # Derived here once; functools.cached_property of Python 3.11 would create a lock at import.
    primaries: tuple[Node, ...] = derived()
    replicas: tuple[Node, ...] = derived()
    covered: int = derived()
    _by_address: Mapping[Address, Node] = derived()
    _replicas_by_shard: Mapping[str, tuple[Node, ...]] = derived()

    _uncompared: ClassVar[tuple[str, ...]] = ("starts",)

    def __post_init__(self) -> None:
        replicas_by_shard: dict[str, tuple[Node, ...]] = {}
        for node in self.nodes:
            if node.role == "replica":
                replicas_by_shard[node.shard] = (*replicas_by_shard.get(node.shard, ()), node)
        self._derive(
            {
                "primaries": tuple(node for node in self.nodes if node.role == "primary"),
                "replicas": tuple(node for node in self.nodes if node.role == "replica"),
                "covered": len(list(filter(None, self.owners))),
                "starts": self.starts or (0, *_borders(self.owners)),
                # Two nodes at one address: the one that comes first, which owns slots if any of them does.
                "_by_address": {node.address: node for node in reversed(self.nodes)},
                "_replicas_by_shard": replicas_by_shard,
            }
        )

    def owner(self, slot: int) -> Node | None:
        """The primary that serves `slot` (0 to 16383), or None."""
        return self.owners[slot]

    def node_at(self, address: Address) -> Node | None:
        """The node at `address`, or None."""
        return self._by_address.get(address)

    def first_slots(self) -> dict[Address, int]:
        """The first slot of each primary that has any, by its address."""
        found: dict[Address, int] = {}
        for slot, owner in self.spans():
            if owner is not None:
                found.setdefault(owner.address, slot)
        return found

    def spans(self) -> Iterator[tuple[int, Node | None]]:
        """The first slot of each span of slots, in ascending order, and who owns them all."""
        return zip(self.starts, map(self.owners.__getitem__, self.starts), strict=True)

    def spread(self, of_owner: Mapping[int, _T]) -> list[_T | None]:
        """A list of 16384: for each slot what `of_owner` has for the id() of its owner; None where it has nothing."""
        values = [of_owner.get(id(owner)) for _, owner in self.spans()]
        lengths = map(sub, (*self.starts[1:], SLOTS), self.starts)
        return list(chain.from_iterable(map(repeat, values, lengths)))

    def replicas_of(self, node: Node) -> tuple[Node, ...]:
        """The replicas of the shard that `node` belongs to."""
        return self._replicas_by_shard.get(node.shard, ())

    def same_routes(self, other: Topology) -> bool:
        """Tell whether both have the same nodes in the same roles, and the same owner address for every slot."""
        return set(self.nodes) == set(other.nodes) and next(self.moves_to(other), None) is None

    def moves_to(self, other: Topology) -> Iterator[tuple[Node | None, Node | None]]:
        """Who owns slots here and who does there, once or more for each two between whose addresses slots move."""
        starts = self.starts if self.starts == other.starts else sorted({*self.starts, *other.starts})
        before, after = ([each.owners[slot] for slot in starts] for each in (self, other))
        # In C, for the hub waits: each owner as the node that stands for its address.
        here = {id(node): other.node_at(node.address) or node for node in self.nodes}
        there = {id(node): other.node_at(node.address) for node in other.nodes}
        mine, theirs = map(here.get, map(id, before)), map(there.get, map(id, after))
        return compress(zip(before, after, strict=True), map(is_not, mine, theirs))

    def with_owners(self, owners: Iterable[Node | None], epochs: Iterable[int]) -> Topology:
        """A copy in which these serve the slots, by these configuration epochs."""
        return replace(self, owners=tuple(owners), epochs=tuple(epochs), starts=())

    def with_version(self, route_version: int) -> Topology:
        """A copy with this `route_version`."""
        return replace(self, route_version=route_version)

    def readdressed(self, address_map: Callable[[Address], Any] | None) -> Topology:
        """A copy with every node where `address_map` says; nodes that it refuses, and their slots, are left out.

        Raises:
            UnusableMap: No slot is left.
        """
        if address_map is None:
            return self
        # By identity, and None stays None: see `_build`.
        moved: dict[int, Node | None] = {id(node): _readdressed(node, address_map) for node in self.nodes}
        owners = tuple(owner and moved[id(owner)] for owner in self.owners)
        if not any(owners):
            raise UnusableMap("address_map refuses every node that has slots")
        nodes = tuple(node for node in moved.values() if node is not None)
        return replace(self, nodes=nodes, owners=owners)

    def __repr__(self) -> str:
        return (
            f"<Topology version {self.route_version}: {len(self.primaries)} primaries, {len(self.replicas)} replicas, "
            f"{self.covered} of {SLOTS} slots>"
        )


def parse_slots(reply: object, answered_by: Address) -> Topology:
    """Read the reply to CLUSTER SLOTS (https://valkey.io/commands/cluster-slots/).

    A range whose primary makes no sense is skipped. Of overlapping ranges the first wins. A host that is NULL or empty
    is the host that answered. For the host `?` (a node without a name where names are preferred) the `ip` of the
    metadata is used, which is what the other nodes connect to; without one the node is skipped.

    Raises:
        UnusableMap: It is no list, it is too large, or it assigns no slot.
    """
    return at_once(read_slots(list(reply) if isinstance(reply, (list, tuple)) else reply, answered_by))


def read_slots(reply: object, answered_by: Address) -> Steps[Topology]:
    """The same in steps. They take the list apart: 16384 ranges that nobody else holds take 8 ms to be let go."""
    if not isinstance(reply, list):
        raise UnusableMap(f"CLUSTER SLOTS was answered with {kind_of(reply)}, not with a list")
    if len(reply) > MAX_RANGES:
        raise UnusableMap(f"CLUSTER SLOTS named {len(reply)} ranges: more than there are slots")
    members = Members(answered_by)
    claims: list[_Claim] = []
    reply.reverse()
    while reply:
        entry = reply.pop()
        primary = members.primary(entry[2]) if _is_range(entry) else None
        if primary is not None:
            claims.append((entry[0], entry[1], -1, primary))
            members.note_replicas(entry[3:], primary.shard)
        if not len(reply) & _NEW_RANGES:
            yield
    # Whoever is the primary of any range is no replica.
    yield from members.add_replicas()
    return (yield from _build(members.nodes(), claims, epochs_known=False))


def parse_nodes(reply: object, answered_by: Address) -> Topology:
    """Read the reply to CLUSTER NODES (https://valkey.io/commands/cluster-nodes/).

    Lines in handshake, without address or that make no sense are skipped, and so are nodes flagged `fail`, as CLUSTER
    SLOTS does; only a failed primary that still owns slots stays, for nobody else serves them. Slots on their way
    (`[93-<-id]`) belong to their owner still. Of overlapping ranges the higher configuration epoch wins. The address is
    the IP address: a hostname after it is told, never connected to.

    Raises:
        UnusableMap: It is no text, it is too large, or it assigns no slot.
    """
    return at_once(read_nodes(reply, answered_by))


def read_nodes(reply: object, answered_by: Address) -> Steps[Topology]:
    """The same in steps."""
    told = yield from read_members(lines_of(reply), answered_by)
    claims: list[_Claim] = []
    for node, epoch, ranges in told:
        for first, last in spans_of(ranges if node.role == "primary" else ()):
            claims.append((first, last, epoch, node))
            if not len(claims) & _RANGES:
                yield
    if len(claims) > MAX_RANGES:
        raise UnusableMap(f"CLUSTER NODES named {len(claims)} ranges: more than there are slots")
    claims.sort(key=lambda claim: claim[2], reverse=True)
    return (yield from _build([node for node, _, _ in told], claims, epochs_known=True))


# First slot, last slot, configuration epoch, owner.
_Claim = tuple[int, int, int, Node]


def _is_range(entry: Any) -> bool:
    """Three elements or more, the first two a range of slots."""
    if not isinstance(entry, (list, tuple)) or not 3 <= len(entry) <= 2 + MAX_NODES:
        return False
    first, last = entry[0], entry[1]
    return type(first) is int and type(last) is int and 0 <= first <= last < SLOTS


def _build(nodes: Iterable[Node], claims: Iterable[_Claim], *, epochs_known: bool) -> Steps[Topology]:
    """Put the nodes in order, the owners first."""
    owners, epochs = yield from _assign(claims)
    # By identity: to hash 16384 Nodes takes ten times as long.
    starts = (0, *_borders(owners))
    serving = {id(owner): owner for owner in map(owners.__getitem__, starts) if owner is not None}
    if not serving:
        raise UnusableMap("the slot map assigns no slot to a node that can be used")
    yield
    idle = [node for node in nodes if id(node) not in serving]
    idle.sort(key=lambda node: node.role)  # "primary" before "replica"
    return Topology((*serving.values(), *idle), tuple(owners), tuple(epochs) if epochs_known else None, starts=starts)


def _assign(claims: Iterable[_Claim]) -> Steps[tuple[list[Node | None], list[int]]]:
    """Give each slot to the first who claims it, with the epoch of the claim."""
    owners: list[Node | None] = [None] * SLOTS
    epochs = [-1] * SLOTS
    claimed = 0
    for number, (first, last, epoch, node) in enumerate(claims):
        if not number & _RANGES:
            yield
        count = last + 1 - first
        claimed += count
        if claimed > 2 * SLOTS:
            # Servers never tell overlaps; without a bound, 16384 times all slots would hold the hub for 15 s.
            raise UnusableMap("the slot map assigns its slots more than twice")
        if count > 1 and not any(owners[first : last + 1]):
            owners[first : last + 1] = [node] * count
            epochs[first : last + 1] = [epoch] * count
            continue
        for slot in range(first, last + 1):
            if owners[slot] is None:
                owners[slot], epochs[slot] = node, epoch
    return owners, epochs


def _borders(owners: Sequence[Node | None]) -> Iterator[int]:
    """The slots that have another owner than the slot before. In C: meanwhile the hub does nothing else."""
    return compress(count(1), map(is_not, owners[1:], owners))


def _readdressed(node: Node, address_map: Callable[[Address], Any]) -> Node | None:
    try:
        return replace(node, address=translate(node.address, address_map))
    except ValueError:
        return None
