"""What `gvcluster topology` shows, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gvcluster.cli.inspect.facts import INFO, SLOTS, facts_of, ranges_of, write_ranges
from gvcluster.cli.inspect.survey import Answers, ask_all
from gvcluster.cluster import Cluster
from gvcluster.core.address import Address
from gvcluster.core.slots import SLOTS as ALL_SLOTS
from gvcluster.core.topology import Node, Topology
from gvcluster.errors import TopologyUnavailable


@dataclass(frozen=True, slots=True)
class Member:
    """A node: what the slot map says of it, its version, and why it can not be reached (or `""`)."""

    node: Node
    version: str
    trouble: str


@dataclass(frozen=True, slots=True)
class Shard:
    """Nodes with the same slots, the primary first. `number` counts them in the order of their first slots, from 1."""

    number: int
    members: tuple[Member, ...]
    slots: tuple[int, ...]

    @property
    def ranges(self) -> str:
        """The slots as `0-99, 105`."""
        return write_ranges(self.slots)


@dataclass(frozen=True, slots=True)
class Overview:
    """A slot map, who told it, and the slots that nobody serves."""

    told_by: Address
    shards: tuple[Shard, ...]
    uncovered: tuple[int, ...]

    @property
    def versions(self) -> list[str]:
        """Those of all nodes that tell one, each once."""
        return sorted({member.version for shard in self.shards for member in shard.members if member.version})

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return sum(len(shard.members) for shard in self.shards)


def look_around(cluster: Cluster) -> Overview:
    """Fetch the slot map anew, and ask each of its nodes who it is.

    The client's own map tells no slots of a node to its users, so a node is asked for the whole of it.

    Raises:
        TopologyUnavailable: Nobody tells one.

    Blocks: until all have answered, or their time is over.
    """
    cluster.refresh()
    known = [*cluster.primaries(), *cluster.replicas()]
    answers = ask_all(cluster, [node.address for node in known], (INFO, SLOTS), None)
    for each in answers:
        facts = facts_of(each)
        if facts.topology is not None:
            return overview_of(facts.topology, each.address, answers)
    raise TopologyUnavailable(
        f"none of {len(answers)} nodes tells its slot map now",
        failures=[(each.address, each.trouble) for each in answers if each.trouble is not None],
    )


def overview_of(topology: Topology, told_by: Address, answers: Sequence[Answers]) -> Overview:
    """Put a slot map and what its nodes have answered together."""
    facts = {each.address: facts_of(each) for each in answers}
    slots: dict[Address, list[int]] = {}
    for slot, owner in enumerate(topology.owners):
        if owner is not None:
            slots.setdefault(owner.address, []).append(slot)

    def member(node: Node) -> Member:
        known = facts.get(node.address)
        return Member(node, known.version if known else "", str(known.trouble or "") if known else "not asked yet")

    shards = tuple(
        Shard(
            number,
            tuple(map(member, (primary, *topology.replicas_of(primary)))),
            tuple(slots.get(primary.address, ())),
        )
        for number, primary in enumerate(topology.primaries, 1)
    )
    return Overview(told_by, shards, tuple(slot for slot in range(ALL_SLOTS) if topology.owners[slot] is None))


def as_json(overview: Overview) -> dict[str, object]:
    """The same for machines. Slots are pairs of first and last."""
    return {
        "told_by": str(overview.told_by),
        "covered": ALL_SLOTS - len(overview.uncovered),
        "uncovered": ranges_of(overview.uncovered),
        "shards": [
            {
                "number": shard.number,
                "slots": len(shard.slots),
                "ranges": ranges_of(shard.slots),
                "nodes": [_member_as_json(member) for member in shard.members],
            }
            for shard in overview.shards
        ],
    }


def _member_as_json(member: Member) -> dict[str, object]:
    node = member.node
    return {
        "address": str(node.address),
        "id": node.id,
        "role": node.role,
        "zone": node.availability_zone,
        "hostname": node.hostname,
        "version": member.version or None,
        "trouble": member.trouble or None,
    }
