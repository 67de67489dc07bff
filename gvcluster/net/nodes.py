"""Which node serves a slot, as pools: the slot → pool table and the pool of each address, rebuilt at each map."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from gvcluster.core.address import Address, translate
from gvcluster.core.slots import SLOTS
from gvcluster.core.topology import Topology
from gvcluster.errors import ConnectFailed
from gvcluster.net.large import LargeReplies
from gvcluster.net.loop import HubLoop
from gvcluster.net.pool import NodePool
from gvcluster.net.readers import Readers
from gvcluster.net.state import ClusterState
from gvcluster.reports import Lent, PoolStatistics, past, total


class Nodes:
    """The pools of one hub. `table` is always the same list: the hot path keeps it."""

    def __init__(self, state: ClusterState, loop: HubLoop) -> None:
        self.table: list[NodePool | None] = [None] * SLOTS
        self.pools: dict[Address, NodePool] = {}
        self.large = LargeReplies()
        self.on_trouble: Callable[[], object] = list  # whoever keeps the slot map is told of lost connections
        self._state, self._loop = state, loop
        self._commands_of_departed = 0
        self._lent_by_departed = PoolStatistics(), PoolStatistics()  # exclusive and blocking, up to their departure
        self._leaving: list[NodePool] = []  # departed, with work in flight still
        # What MOVED said since the last map: slot → (address, when). A map that was asked for earlier cannot know it.
        self._patches: dict[int, tuple[Address, float]] = {}
        self.readers = Readers(state, loop, self._new_reading_pool, self.pool_at)

    def __repr__(self) -> str:
        return f"<Nodes {len(self.pools)} pools, {sum(pool.connections for pool in self.all_pools())} connections>"

    def pool_at(self, address: Address) -> NodePool:
        """The pool of a node, made if there is none. No connection is opened yet."""
        pool = self.pools.get(address)
        if pool is None:
            pool = self.pools[address] = NodePool(address, self._state, self._loop, self.large, self._trouble)
        return pool

    def _new_reading_pool(self, address: Address) -> NodePool:
        return NodePool(address, self._state, self._loop, self.large, self._trouble, read_only=True)

    def all_pools(self) -> list[NodePool]:
        """The pools of all nodes, those for reading from replicas included."""
        return [*self.pools.values(), *self.readers.pools.values()]

    def redirected_to(self, address: Address, maybe_executed: bool) -> Address:
        """Where a redirect leads, by the user's `address_map`.

        Raises:
            ConnectFailed: it refused the address. `maybe_executed` is for this error.
        """
        try:
            return translate(address, self._state.options.address_map)
        except ValueError as cause:
            raise ConnectFailed(str(cause), address=address, maybe_executed=maybe_executed) from cause

    def _trouble(self) -> None:
        self.on_trouble()

    def adopt(self, topology: Topology, begun: float) -> None:
        """Serve by a new map. Connections live on by address; nodes that are not in it any more are retired.

        Args:
            begun: when the map was asked for: what MOVED said later is newer.
        """
        if self._state.closing:
            return
        self._carry_over_seeds(topology)
        self._patches = {slot: patch for slot, patch in self._patches.items() if patch[1] > begun}
        pools = {id(node): self.pool_at(node.address) for node in topology.primaries}
        table = topology.spread(pools)  # None where nobody owns the slot
        for slot, (address, _) in self._patches.items():
            table[slot] = self.pool_at(address)
        self.table[:] = table
        departed = self.readers.adopt(topology, self._patches)
        self._dismiss_all_but(topology)
        for pool in departed:
            self._retire(pool)

    def _dismiss_all_but(self, topology: Topology) -> None:
        serving = {node.address for node in topology.primaries}.union(self._patched_to())
        for address in self.pools.keys() - serving:
            self.pools[address].release_waiters()
        self._retire_all_but(serving.union(node.address for node in topology.replicas))

    def _patched_to(self) -> list[Address]:
        return [address for address, _ in self._patches.values()]

    def _retire_all_but(self, staying: set[Address]) -> None:
        self._leaving = [pool for pool in self._leaving if pool.connections]
        for address in self.pools.keys() - staying:
            self._retire(self.pools.pop(address))

    def _retire(self, departed: NodePool) -> None:
        self._commands_of_departed += departed.commands
        self._lent_by_departed = total([self._lent_by_departed, past(departed.lent)])
        departed.retire()
        self._leaving.append(departed)

    @property
    def commands(self) -> int:
        """How many commands were sent, to nodes that left as well."""
        return self._commands_of_departed + sum(pool.commands for pool in self.all_pools())

    @property
    def lent(self) -> Lent:
        """The sums over all nodes, exclusive and blocking."""
        return total([self._lent_by_departed, *(pool.lent for pool in self.all_pools())])

    def _carry_over_seeds(self, topology: Topology) -> None:
        """A seed given by name, whose connection leads to an address in the map: the connection is that node's."""
        for address, pool in list(self.pools.items()):
            peername = pool.peername
            if peername is None or peername == address or topology.node_at(address) is not None:
                continue
            if topology.node_at(peername) is not None and peername not in self.pools:
                self.pools[peername] = self.pools.pop(address)
                pool.rename(peername)

    def patch(self, slot: int, address: Address) -> None:
        """Serve one slot by what MOVED said."""
        self._patches[slot] = (address, monotonic())
        self.readers.patch(slot)
        self.table[slot] = self.pool_at(address)

    def is_patched(self) -> bool:
        """Whether MOVED has said anything since the last map."""
        return bool(self._patches)

    @property
    def in_flight(self) -> int:
        """How many calls are queued or owed a reply, at departed nodes as well."""
        return sum(pool.in_flight for pool in [*self.all_pools(), *self._leaving])

    def close_idle(self) -> int:
        """Close the connections that nobody uses now. Returns how many there were."""
        return sum(pool.close_idle() for pool in self.all_pools())

    def close(self, cause: BaseException | None = None) -> None:
        """End every connection now; no slot is served any more. Never switches."""
        self.table[:] = [None] * SLOTS
        self.readers.close(cause)
        for pool in [*self.pools.values(), *self._leaving]:
            pool.close(cause)
