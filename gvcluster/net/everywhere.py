"""One command for many nodes: sent to all of them at once, over one snapshot of the slot map, replies merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent.event import Event

from gvcluster.core.address import Address
from gvcluster.core.merging import merge, nodes_to_ask
from gvcluster.core.outcome import Outcome
from gvcluster.core.retry import Call
from gvcluster.core.topology import Node
from gvcluster.errors import ClosedError, GvClusterError, ReplyTimeout
from gvcluster.net.loop import GRACE, remaining
from gvcluster.net.request import Request
from gvcluster.net.state import ClusterState
from gvcluster.records import replace

if TYPE_CHECKING:
    from gvcluster.net.executor import Executor


class Everywhere:
    """What executes the commands that concern several nodes, in one hub.

    Each node's part is a call of its own: refused and not executed, it is tried again until the deadline by the rules
    of `core/retry.py`; perhaps executed, it is not, unless it only reads. A part never goes to a stranger: only to its
    node, or, where each shard is asked once, to the replica that became that node's successor.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor, self._loop = executor, executor.runtime.loop
        self._state = executor.runtime.state

    def execute(self, request: Request) -> Any:
        """Send it to all whom it concerns, and return the merged reply.

        Raises:
            PartialFailure, GvClusterError: as `core.merging.merge`.
            ClosedError: the cluster was closed meanwhile.

        Blocks: until each node's part has ended, or the deadline is over; where a redirect has shown the slot map to be
        out of date, first for a newer one, for a second at most. A kill or Timeout there sends no more.
        """
        self._executor.attempts.wait_for_undisputed_map(request.call.deadline)
        topology = self._state.topology
        assert topology is not None
        # With a slot of its own a call has the shard watched while its primary is gone.
        slots = topology.first_slots()
        nodes = {node.address: node for node in nodes_to_ask(request.command, topology)}
        parts = [
            Part(request, node, slots.get(address), topology.replicas_of(node), self._state)
            for address, node in nodes.items()
        ]
        replies = self._ask(parts, request.call)
        for reply in replies.values():
            if isinstance(reply, ClosedError) or (
                isinstance(reply, Exception) and not isinstance(reply, GvClusterError)
            ):
                raise reply
        return merge(request.command, replies, self._state.options.rng.random())

    def _ask(self, parts: list[Part], call: Call) -> dict[Address, Any]:
        """What each has answered or met, in the order of the parts."""
        replies: dict[Address, Any] = {}
        done = Event()

        def run(part: Part) -> None:
            try:
                replies[part.node.address] = self._executor.pursue(part.request, place=part.place)
            except Exception as error:
                replies[part.node.address] = error
            if len(replies) == len(parts):
                done.set()

        greenlets = [self._loop.spawn(run, part) for part in parts]
        try:
            self._loop.wait(done, remaining(call.deadline) + GRACE)
        finally:
            for greenlet in greenlets:
                greenlet.kill(block=False)
        for part in parts:
            if part.node.address not in replies:
                replies[part.node.address] = ReplyTimeout(f"{call.name} had no reply in time", maybe_executed=True)
        return {part.node.address: replies[part.node.address] for part in parts}


class Part:
    """One node's part of a command."""

    def __init__(
        self, request: Request, node: Node, slot: int | None, replicas: tuple[Node, ...], state: ClusterState
    ) -> None:
        self.node, self._state = node, state
        is_for_shard = request.command.request_policy == "all_shards"
        self._heirs = tuple(replica.address for replica in replicas) if is_for_shard else ()
        self.request = replace(request, call=replace(request.call, slot=slot if is_for_shard else None))

    def place(self, met: Outcome | None) -> Address:
        """Where the next attempt goes, given how the last one ended.

        Raises:
            GvClusterError: what was met: the node is in the slot map no more.
        """
        own, current = self.node.address, self._state.topology
        if met is None or current is None:
            return own
        primaries = {node.address for node in current.primaries}
        for address in (own, *self._heirs):
            if address in primaries:
                return address
        if current.node_at(own) is None:
            raise met.error
        return own
