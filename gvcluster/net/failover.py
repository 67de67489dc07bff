"""The failover watch: while callers wait for a shard whose primary is gone, its replicas are asked who is primary now.

During a failover every live node keeps naming the dead primary for 2 to 4 s and more. Whoever only fetches slot maps
meets the new one up to a second late. The watch asks each replica for its ROLE instead, for as long as somebody waits;
a promotion makes the refresher ask the promoted node itself, whose map wakes the callers.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent

from gvcluster.core.resp import encode
from gvcluster.core.retry import SHORTEST_QUESTION_GAP, question_gap
from gvcluster.core.topology import Node
from gvcluster.errors import GvClusterError, ReplyError
from gvcluster.net.loop import HubLoop
from gvcluster.net.nodes import Nodes
from gvcluster.net.refresher import Refresher
from gvcluster.net.state import ClusterState

# How long a replica may take to say what it is, seconds.
ANSWER = 0.150
# Callers come back from their own attempts within this time, seconds; then nobody waits any more.
LINGER = 0.2

_ROLE = encode(("ROLE",))


class FailoverWatch:
    """Watches the shards whose primaries can not be reached, in one hub."""

    def __init__(self, state: ClusterState, loop: HubLoop, nodes: Nodes, refresher: Refresher) -> None:
        self._state, self._loop, self._nodes, self._refresher = state, loop, nodes, refresher
        self._wanted_until: dict[str, float] = {}  # by shard
        self._watched: dict[Node, gevent.Greenlet[..., None]] = {}  # and who asks them

    def __repr__(self) -> str:
        return f"<FailoverWatch of {len(self._watched)} nodes>"

    def wait(self, slot: int | None, seconds: float, left: float) -> None:
        """Wait for a new slot map, at most so many seconds, and have the slot's shard watched meanwhile.

        Where the primary refuses connections, nobody need try it again but the watch: thousands of callers with a
        back-off each would take the hub from the other shards. They wait until it is back, or another is primary.

        Args:
            slot: of the command; None if it has none.
            seconds: the caller's back-off.
            left: until the caller's deadline.
        """
        owner = self._owner(slot)
        if owner is not None:
            if self._nodes.pool_at(owner.address).is_failing():
                seconds = left
                self._begin(owner, self._revive)
            self.attend(slot, seconds)
        self._refresher.wait_for_news(seconds)

    def attend(self, slot: int | None, seconds: float) -> None:
        """Have the slot's shard watched for so long. Never switches."""
        topology, owner = self._state.topology, self._owner(slot)
        if topology is None or owner is None:
            return
        until = monotonic() + seconds + LINGER
        self._wanted_until[owner.shard] = max(self._wanted_until.get(owner.shard, 0.0), until)
        for replica in topology.replicas_of(owner):
            self._begin(replica, self._watch)

    def _owner(self, slot: int | None) -> Node | None:
        topology = self._state.topology
        return topology.owner(slot) if topology is not None and slot is not None else None

    def _begin(self, node: Node, ask: Callable[[Node], None]) -> None:
        if node not in self._watched:
            self._watched[node] = self._loop.spawn(ask, node)

    def _revive(self, primary: Node) -> None:
        """Try to connect to the primary itself; when it is back, those who wait for its shard are woken."""
        pool = self._nodes.pool_at(primary.address)
        try:
            while self._is_wanted(primary):
                try:
                    pool.wait_lane(monotonic() + self._state.options.connect_timeout)
                except GvClusterError:
                    self._loop.sleep(max(SHORTEST_QUESTION_GAP, pool.pause_left()))
                else:
                    self._refresher.tell_news()
                    return
        finally:
            self._watched.pop(primary, None)

    def close(self) -> None:
        """Stop asking. Never switches."""
        for greenlet in tuple(self._watched.values()):
            greenlet.kill(block=False)

    def _watch(self, replica: Node) -> None:
        """Ask one replica again and again, until it is primary or nobody waits. One that is dead holds up no other."""
        began = monotonic()
        try:
            while self._is_wanted(replica):
                if self._is_promoted(replica):
                    self._refresher.schedule(replica.address, urgent=True)
                self._loop.sleep(question_gap(monotonic() - began, self._state.options.rng.random()))
        finally:
            self._watched.pop(replica, None)

    def _is_wanted(self, node: Node) -> bool:
        """Somebody waits for the shard, and the slot map still says the same of the node."""
        topology = self._state.topology
        if self._state.closing or topology is None or topology.node_at(node.address) != node:
            return False
        return monotonic() < self._wanted_until.get(node.shard, 0.0)

    def _is_promoted(self, replica: Node) -> bool:
        try:
            lane = self._nodes.pool_at(replica.address).wait_lane(monotonic() + self._state.options.connect_timeout)
            role = lane.call_within(_ROLE, monotonic() + ANSWER)
        except GvClusterError:
            return False
        if isinstance(role, ReplyError):
            return role.code == "NOPERM"  # its slot map tells as well, at a higher price
        return isinstance(role, list) and role[:1] == [b"master"]
