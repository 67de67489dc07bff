"""Which view of the cluster is newer. Nodes learn of a change one after another, and CLUSTER SLOTS tells no epoch.

After a failover the other nodes are 20 to 40 ms behind the promoted one; a node that was restarted may know of nothing
at all. A map is believed unless it would take back what is known better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import gt
from types import MappingProxyType

from gvcluster.core.address import Address
from gvcluster.core.topology import Node, Topology
from gvcluster.records import Record, replace


class View(Record):
    """A fetched map: who told it, and when it was asked for (seconds, monotonic)."""

    topology: Topology
    told_by: Address
    begun: float


class Memory(Record):
    """What is known of the maps so far.

    accepted: when the last accepted map was asked for.
    replaced: address of a former primary → address of the replica that was promoted in its place.
    smaller: the last map that was refused because it covers fewer slots.
    returned: those of `replaced` that have told themselves, since the last accepted map, that they are primaries again.
    """

    accepted: float = float("-inf")
    replaced: Mapping[Address, Address] = MappingProxyType({})
    smaller: View | None = None
    returned: frozenset[Address] = frozenset()


class Verdict(Record):
    """What to do with a map: `topology` is to be believed, and is the known one itself where the routes are the same.

    None: refuse it, and ask `ask` next (None: anybody else).
    """

    topology: Topology | None
    memory: Memory
    ask: Address | None = None


def judge(known: Topology | None, view: View, memory: Memory) -> Verdict:
    """Decide whether a fetched map replaces the one that is known.

    - Of overlapping fetches the one that was begun later wins.
    - Where both tell configuration epochs, the higher one wins for each slot.
    - A map with fewer covered slots is believed when a second node, if there is one, tells the same.
    - A map that names as primary an address that a promotion has replaced is believed when that node says so itself;
      with several of them, when each of them has.
    """
    if known is None:
        return Verdict(view.topology, replace(memory, accepted=view.begun))
    if view.begun < memory.accepted:
        return Verdict(None, memory)
    if view.topology.same_routes(known):
        return Verdict(known, replace(memory, accepted=view.begun, smaller=None, returned=frozenset()))
    if view.topology.covered < known.covered and not _is_seconded(view, known, memory.smaller):
        return Verdict(None, replace(memory, smaller=view))
    memory = _heard(view, memory)
    relapsed = _relapsed(known, view, memory)
    if relapsed is not None:
        return Verdict(None, memory, ask=relapsed)
    topology = _merged(known, view.topology)
    replaced = {**memory.replaced, **_promotions(known, topology)}
    for node in topology.primaries:
        replaced.pop(node.address, None)
    return Verdict(topology, Memory(view.begun, replaced))


def _is_seconded(view: View, known: Topology, smaller: View | None) -> bool:
    if len(known.nodes) == 1:
        return True
    return smaller is not None and smaller.told_by != view.told_by and smaller.topology.same_routes(view.topology)


def _heard(view: View, memory: Memory) -> Memory:
    """Note what a node that was replaced says of itself."""
    former = view.told_by
    if former not in memory.replaced:
        return memory
    node = view.topology.node_at(former)
    is_back = node is not None and node.role == "primary"
    return replace(memory, returned=memory.returned | {former} if is_back else memory.returned - {former})


def _relapsed(known: Topology, view: View, memory: Memory) -> Address | None:
    """A replaced primary that the map names again, and that did not tell so itself."""
    for former, promoted in memory.replaced.items():
        node, heir = view.topology.node_at(former), known.node_at(promoted)
        if former in memory.returned or node is None or node.role != "primary":
            continue
        if heir is not None and _owns_any(view.topology, node) and _owns_any(known, heir):
            return former
    return None


def _owns_any(topology: Topology, node: Node) -> bool:
    return any(owner is node for _, owner in topology.spans())


def _promotions(known: Topology, topology: Topology) -> dict[Address, Address]:
    """Former primary → replica of its shard that serves its slots now."""
    replicas = {replica.address: replica for replica in known.replicas}
    promoted = {id(node): replicas[node.address] for node in topology.primaries if node.address in replicas}
    if not promoted:
        return {}  # nor need a map be gone through in which every slot has moved
    return {
        before.address: after.address
        for before, after in known.moves_to(topology)
        if before is not None and after is not None and id(after) in promoted
        if promoted[id(after)].shard == before.shard
    }


def _merged(known: Topology, told: Topology) -> Topology:
    """The told map; where both tell epochs and the known one is higher, its owner stays, if it is still a member.

    The known map itself if that leaves nothing new.
    """
    # In C where no epoch is higher, which is nearly always: for the hub waits.
    if known.epochs is None or told.epochs is None or not any(map(gt, known.epochs, told.epochs)):
        return told
    merged = _with_higher_epochs(known, known.epochs, told, told.epochs)
    return known if merged.same_routes(known) else merged


def _with_higher_epochs(known: Topology, before: Sequence[int], told: Topology, after: Sequence[int]) -> Topology:
    members = {node.address for node in told.primaries}
    owners, epochs = list(told.owners), list(after)
    for slot, (epoch, owner) in enumerate(zip(before, known.owners, strict=True)):
        if epoch > epochs[slot] and owner is not None and owner.address in members:
            owners[slot], epochs[slot] = told.node_at(owner.address), epoch
    return told.with_owners(owners, epochs)
