"""What a cluster tells about itself: frozen records for people, tests and dashboards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gvcluster.core.address import Address
from gvcluster.core.topology import Node
from gvcluster.records import Record, replace


class Explanation(Record):
    """What the client would do with a command.

    command: its name in capitals, with its subcommand.
    keys: as given.
    slot, node: None where the command names no key, or no map is known yet.
    read_only: it changes nothing, so that it may be repeated.
    blocking: the server may let it wait, so that it gets a connection of its own.
    nodes: all that the command would be sent to, where it concerns several.
    readers: who may serve it instead of `node`, the best first, where it only reads and the option `read_from` is not
        "primary".
    """

    command: str
    keys: tuple[Any, ...]
    slot: int | None
    node: Node | None
    read_only: bool
    blocking: bool
    nodes: tuple[Node, ...] = ()
    readers: tuple[Node, ...] = ()


class PoolStatistics(Record):
    """Exclusive connections of one kind: of one node, seen from one hub, or of all. Times are sums, in seconds.

    The names are those of OpenTelemetry's `db.client.connection.*`; what is a histogram there has a count and a sum.

    idle, used: `count`, by state.
    max, idle_max: how many there may be.
    pending_requests: callers that wait for one.
    timeouts: callers that got none in time.
    created, create_time: connections opened, and how long that took.
    granted, wait_time: how often one was lent, and how long the callers waited.
    returned, use_time: how often one was given back, and how long they were lent.
    """

    idle: int = 0
    used: int = 0
    max: int = 0
    idle_max: int = 0
    pending_requests: int = 0
    timeouts: int = 0
    created: int = 0
    create_time: float = 0.0
    granted: int = 0
    wait_time: float = 0.0
    returned: int = 0
    use_time: float = 0.0

    def __add__(self, other: PoolStatistics) -> PoolStatistics:
        return PoolStatistics(*(getattr(self, name) + getattr(other, name) for name in self.__match_args__))

    def past(self) -> PoolStatistics:
        """Without what is no more when the pool is not."""
        return replace(self, idle=0, used=0, max=0, idle_max=0, pending_requests=0)


Lent = tuple[PoolStatistics, PoolStatistics]  # exclusive, blocking


def total(parts: Iterable[Lent]) -> Lent:
    """The sums of each kind."""
    exclusive = blocking = PoolStatistics()
    for part in parts:
        exclusive, blocking = exclusive + part[0], blocking + part[1]
    return exclusive, blocking


def past(lent: Lent) -> Lent:
    """What is left of it when the pools are no more."""
    return lent[0].past(), lent[1].past()


class NodeStatistics(Record):
    """One node, seen from one hub.

    address: of the node.
    connections, opened: lanes open now, and opened ever.
    commands: sent over them.
    in_flight: calls that are queued, or owed a reply.
    waiting: those of them that wait for room on a lane that is full.
    exclusive, blocking: the connections that are lent, see the options max_connections and max_blocking.
    read_only: these connections are for reading from a replica (`read_from`); it can have others besides.
    """

    address: Address
    connections: int
    opened: int
    commands: int
    in_flight: int
    waiting: int = 0
    exclusive: PoolStatistics = PoolStatistics()
    blocking: PoolStatistics = PoolStatistics()
    read_only: bool = False


class Statistics(Record):
    """Counts since the cluster was made, over all hubs of this process.

    route_version: slot maps with other routes that were accepted; 0 before the first.
    commands: sent, handshakes and fetches of slot maps included.
    redirects: followed.
    retries: made.
    refreshes: slot maps fetched.
    nodes: each node that some hub is connected to, or was.
    exclusive, blocking: sums over all nodes, those that left included.
    """

    route_version: int
    commands: int
    redirects: int
    retries: int
    refreshes: int
    nodes: tuple[NodeStatistics, ...]
    exclusive: PoolStatistics = PoolStatistics()
    blocking: PoolStatistics = PoolStatistics()
