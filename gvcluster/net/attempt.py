"""One attempt at a command: which pool, over which of its connections, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from time import monotonic
from typing import Any

from gvcluster.core.address import Address
from gvcluster.core.outcome import Outcome, Unserved, classify
from gvcluster.core.retry import Call, Follow
from gvcluster.errors import ClosedError, GvClusterError, ReplyError, SlotNotCovered, TopologyUnavailable
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool
from gvcluster.net.readers import IMPATIENCE
from gvcluster.net.refresher import PATIENCE
from gvcluster.net.request import Request
from gvcluster.net.runtime import Runtime
from gvcluster.net.scripting import Scripts

# After this a server that has become a replica ends the connection.
_LAST_WORD = "UNBLOCKED"


class Attempts:
    """What makes the attempts of one hub. It decides nothing: how an attempt ended is an Outcome."""

    def __init__(self, runtime: Runtime) -> None:
        self._state, self._nodes, self._table = runtime.state, runtime.nodes, runtime.nodes.table
        self._refresher, self._failover, self._readers = runtime.refresher, runtime.failover, runtime.nodes.readers
        self.scripts = Scripts(runtime)

    def make(
        self, request: Request, target: Follow | None, avoided: Collection[Address] = ()
    ) -> tuple[Any, Address | None]:
        """Send once, by the slot map if there is no target, and say who was asked. An Outcome instead of an error.

        avoided: nodes that could not serve this read.
        """
        call = request.call
        if target is None and call.read_from is not None:
            return self._read(request, avoided)
        pool = self.pool_for(call) if target is None else self._nodes.pool_at(target.address)
        if isinstance(pool, Unserved):
            return pool, None
        on_slow = partial(self._failover.attend_while_connecting, call.slot, pool)
        return self._send(request, pool, on_slow, asking=target is not None and target.asking), pool.address

    def at_node(self, request: Request, address: Address) -> Any:
        """Send once, to that node only. An Outcome instead of an error."""
        return self._send(request, self._nodes.pool_at(address))

    def _read(self, request: Request, avoided: Collection[Address]) -> tuple[Any, Address | None]:
        """Send a read once, to whom its policy prefers."""
        call = request.call
        pool = self.pool_to_read_from(call, avoided)
        if isinstance(pool, Unserved):
            return pool, None
        # Whoever waits for a loan waits for other borrowers, not for the node.
        opened_by = None if request.exclusive else self.opened_by(call, pool, avoided)
        reply = self._send(request, pool, opened_by=opened_by)
        if isinstance(reply, Outcome):
            reply = self._readers.judge(reply, call, pool.address, avoided)
        else:
            self._readers.is_well(pool.address)
        return reply, pool.address

    def pool_to_read_from(self, call: Call, avoided: Collection[Address]) -> NodePool | Unserved:
        """The pool of whom the call's policy prefers now, of all but those to be avoided."""
        self.wait_for_first_map(call.deadline)
        reader = self._readers.choose(call, avoided)
        if reader is not None:
            return reader.pool
        pool = self.pool_for(call)
        if isinstance(pool, Unserved) or call.read_from is None or not call.read_from.never_primary:
            return pool
        error = SlotNotCovered(f"slot {call.slot} has no replica in the slot map", slot=call.slot)
        return Unserved(error, fresh=self._state.fetched > call.began)

    def opened_by(self, call: Call, pool: NodePool, avoided: Collection[Address]) -> float:
        """Until when a read waits for a connection: not for long, if another node may serve it."""
        has_others = self._readers.has_others(call, {pool.address, *avoided})
        return min(call.deadline, monotonic() + IMPATIENCE) if has_others else call.deadline

    def pool_for(self, call: Call) -> NodePool | Unserved:
        """The pool of the slot's owner; of any primary for a command without a slot."""
        self.wait_for_first_map(call.deadline)
        topology = self._state.topology
        assert topology is not None
        if call.slot is None:
            return self._nodes.pool_at(self._state.options.rng.choice(topology.primaries).address)
        pool = self._table[call.slot]
        if pool is not None:
            return pool
        owner = topology.owner(call.slot) if self._state.closing else None  # no map is adopted any more
        if owner is not None:
            return self._nodes.pool_at(owner.address)
        error = SlotNotCovered(f"no node serves slot {call.slot}: the slot map has no owner for it", slot=call.slot)
        return Unserved(error, fresh=self._state.fetched > call.began)

    def wait_for_first_map(self, deadline: float) -> None:
        """Wait until a slot map is known, if none is.

        Raises:
            TopologyUnavailable, ClosedError: there will be none.
        """
        if self._state.topology is not None:
            return
        try:
            self._refresher.wait_first(deadline)
        except TopologyUnavailable:
            if self._state.closed:
                raise ClosedError("the cluster was closed") from None
            raise

    def wait_for_undisputed_map(self, deadline: float) -> None:
        """Wait until a slot map is known that no redirect has contradicted, for those whom it tells whom to ask.

        Raises:
            TopologyUnavailable, ClosedError: there will be none.

        Blocks: for the first map; for a newer one that long only in which one node can give it, and for half of the
            time that is left.
        """
        self.wait_for_first_map(deadline)
        if self._nodes.is_patched():
            now = monotonic()
            try:
                self._refresher.fetch(now + min((deadline - now) / 2, PATIENCE))
            except TopologyUnavailable:
                pass  # then the one that we have must do

    def _send(
        self,
        request: Request,
        pool: NodePool,
        on_slow: Callable[[], object] | None = None,
        *,
        asking: bool = False,
        opened_by: float | None = None,
    ) -> Any:
        """The reply, or how the attempt ended instead."""
        call = request.call
        data, large, began = request.data, self._nodes.large, monotonic()
        try:
            lane = self._wait_connection(request, pool, on_slow, call.deadline if opened_by is None else opened_by)
        except GvClusterError as error:
            return classify(error, call.slot, pool.address)
        is_answered = False
        try:
            if request.script is not None:
                data = self.scripts.bytes_for(request.script, lane, is_shared=not request.exclusive)
            patience = min(request.command_timeout, call.deadline - monotonic()) + request.block_seconds
            reply = lane.call_within(data, monotonic() + patience, asking=asking)
            is_answered = not isinstance(reply, Exception) or (
                isinstance(reply, ReplyError) and reply.code != _LAST_WORD
            )
        finally:
            # Unanswered, it could still take an element, later, that nobody receives: not if the connection is closed.
            if request.exclusive:
                pool.give_back(lane, clean=is_answered)
        large.forget(data, began)
        return self._named(reply, request, pool) if isinstance(reply, Exception) else reply

    def _named(self, error: Exception, request: Request, pool: NodePool) -> Outcome:
        """How the attempt ended."""
        call = request.call
        met = classify(error, call.slot, pool.address, script=call.script)
        return self.scripts.judge(met, request.script, pool.address, call)

    def _wait_connection(
        self, request: Request, pool: NodePool, on_slow: Callable[[], object] | None, deadline: float
    ) -> MultiplexedConnection:
        if request.exclusive:
            return pool.wait_exclusive(deadline, on_slow, blocking=request.blocking)
        is_bulk = self._nodes.large.is_large(request.data) if request.bulk is None else request.bulk
        return pool.wait_lane_for(is_bulk, deadline, on_slow)
