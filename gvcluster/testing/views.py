"""What each node says about the cluster. Pure: replies come in as arguments.

It has a parser of its own: the test tool must not believe a slot map because the client under test can read it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

VIEW_COMMANDS = (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"), ("INFO", "replication"))
# First slot, last slot, the primary's id, the replicas' ids.
Range: TypeAlias = tuple[int, int, str, frozenset[str]]


@dataclass(frozen=True)
class Member:
    """One line of CLUSTER NODES: what a node knows about a node."""

    id: str
    port: int
    flags: frozenset[str]
    primary_id: str | None
    epoch: int
    is_linked: bool
    slots: tuple[tuple[int, int], ...]
    is_moving_slots: bool

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read one line."""
        id_, address, flags, primary, _ping, _pong, epoch, link, *slots = line.split()
        ranges = [part.partition("-") for part in slots if not part.startswith("[")]
        return cls(
            id=id_,
            port=int(address.partition("@")[0].rpartition(":")[2]),
            flags=frozenset(flags.split(",")),
            primary_id=None if primary == "-" else primary,
            epoch=int(epoch),
            is_linked=link == "connected",
            slots=tuple((int(first), int(last or first)) for first, _, last in ranges),
            is_moving_slots=any(part.startswith("[") for part in slots),
        )

    def owns(self, slot: int) -> bool:
        """Tell whether the line claims the slot."""
        return any(first <= slot <= last for first, last in self.slots)


@dataclass(frozen=True)
class View:
    """What one node says about itself and the others."""

    me: Member
    is_ok: bool
    """`cluster_state:ok`"""
    has_synced: bool
    """The replication link is up. True on primaries."""
    slot_map: frozenset[Range]
    members: Mapping[str, Member]

    @classmethod
    def parse(cls, replies: Sequence[Any]) -> Self:
        """Read the replies to `VIEW_COMMANDS`."""
        state, slots, nodes, replication = replies
        members = [Member.parse(line) for line in nodes.decode().splitlines() if line]
        return cls(
            me=next(member for member in members if "myself" in member.flags),
            is_ok=parse_info(state).get("cluster_state") == "ok",
            has_synced=parse_info(replication).get("master_link_status", "up") == "up",
            slot_map=frozenset(
                (first, last, primary[2].decode(), frozenset(replica[2].decode() for replica in replicas))
                for first, last, primary, *replicas in slots
            ),
            members={member.id: member for member in members},
        )

    def __str__(self) -> str:
        return f"127.0.0.1:{self.me.port}"

    def gives(self, first: int, last: int, primary: str) -> bool:
        """Tell whether CLUSTER SLOTS gives all these slots, first to last, to this primary."""
        return any(begin <= first and last <= end and id_ == primary for begin, end, id_, _ in self.slot_map)


def parse_info(reply: bytes) -> dict[str, str]:
    """Read the reply to INFO or CLUSTER INFO."""
    pairs = (line.partition(":") for line in reply.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


def owner_of(views: Collection[View], slot: int) -> str | None:
    """The id of the slot's owner. Where nodes differ, the claim with the highest epoch counts, as in the cluster."""
    claims = [member for view in views for member in view.members.values() if member.owns(slot)]
    return max(claims, key=lambda member: member.epoch).id if claims else None
