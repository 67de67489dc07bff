"""What a cluster tells about itself: frozen records for people, tests and dashboards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gvcluster.core.address import Address
from gvcluster.core.topology import Node


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the client would do with a command.

    keys: as given. slot and node: None where the command names no key, or no map is known yet.
    """

    command: str
    keys: tuple[Any, ...]
    slot: int | None
    node: Node | None
    read_only: bool
    blocking: bool


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """One node, seen from one hub: connections open now and opened ever, commands sent, calls in flight.

    in_flight: queued, or owed a reply. waiting: those of them that wait for room on a lane that is full.
    """

    address: Address
    connections: int
    opened: int
    commands: int
    in_flight: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the cluster was made, over all hubs of this process.

    commands: sent, handshakes and fetches of slot maps included. redirects: followed. retries: made.
    refreshes: slot maps fetched.
    """

    route_version: int
    commands: int
    redirects: int
    retries: int
    refreshes: int
    nodes: tuple[NodeStatistics, ...]
