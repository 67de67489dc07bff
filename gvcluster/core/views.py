"""Which view of the cluster is newer. Nodes learn of a change one after another, and CLUSTER SLOTS tells no epoch.

After a failover the other nodes are 20 to 40 ms behind the promoted one; a node that was restarted may know of nothing
at all. A map is believed unless it would take back what is known better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gvcluster.core.address import Address
from gvcluster.core.topology import Node, Topology


@dataclass(frozen=True, slots=True)
class View:
    """A fetched map: who told it, and when it was asked for (seconds, monotonic)."""

    topology: Topology
    told_by: Address
    begun: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of the maps so far.

    accepted: when the last accepted map was asked for.
    replaced: address of a former primary → address of the replica that was promoted in its place.
    smaller: the last map that was refused because it covers fewer slots.
    """

    accepted: float = float("-inf")
    replaced: Mapping[Address, Address] = field(default_factory=dict)
    smaller: View | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a map. `topology` None: refuse it, and ask `ask` next (None: anybody else)."""

    topology: Topology | None
    memory: Memory
    ask: Address | None = None


def judge(known: Topology | None, view: View, memory: Memory) -> Verdict:
    """Decide whether a fetched map replaces the one that is known.

    - Of overlapping fetches the one that was begun later wins.
    - Where both tell configuration epochs, the higher one wins for each slot.
    - A map with fewer covered slots is believed when a second node, if there is one, tells the same.
    - A map that names as primary an address that a promotion has replaced is believed from that node itself.
    """
    if known is None:
        return Verdict(view.topology, replace(memory, accepted=view.begun))
    if view.begun < memory.accepted:
        return Verdict(None, memory)
    if view.topology.same_routes(known):
        return Verdict(view.topology, replace(memory, accepted=view.begun, smaller=None))
    if view.topology.covered < known.covered and not _is_seconded(view, known, memory.smaller):
        return Verdict(None, replace(memory, smaller=view))
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


def _relapsed(known: Topology, view: View, memory: Memory) -> Address | None:
    """A replaced primary that the map names again, and that did not tell so itself."""
    for former, promoted in memory.replaced.items():
        node, heir = view.topology.node_at(former), known.node_at(promoted)
        if view.told_by == former or node is None or node.role != "primary":
            continue
        if heir is not None and _owns_any(view.topology, node) and _owns_any(known, heir):
            return former
    return None


def _owns_any(topology: Topology, node: Node) -> bool:
    return any(owner is node for owner in topology.owners)


def _promotions(known: Topology, topology: Topology) -> dict[Address, Address]:
    """Former primary → replica of its shard that serves its slots now."""
    found: dict[Address, Address] = {}
    for before, after in known.owner_pairs(topology):
        if before is None or after is None or before.address == after.address:
            continue
        if after.address in (replica.address for replica in known.replicas_of(before)):
            found[before.address] = after.address
    return found


def _merged(known: Topology, told: Topology) -> Topology:
    """The told map; where both tell epochs and the known one is higher, its owner stays, if it is still a member."""
    if known.epochs is None or told.epochs is None:
        return told
    members = {node.address for node in told.primaries}
    owners, epochs = list(told.owners), list(told.epochs)
    for slot, (epoch, owner) in enumerate(zip(known.epochs, known.owners, strict=True)):
        if epoch > epochs[slot] and owner is not None and owner.address in members:
            owners[slot], epochs[slot] = told.node_at(owner.address), epoch
    return replace(told, owners=tuple(owners), epochs=tuple(epochs))
