"""The failover watch: while callers wait for a shard whose primary is gone, its replicas are asked who is primary now.

During a failover every live node keeps naming the dead primary for 2 to 4 s and more. Whoever only fetches slot maps
meets the new one up to a second late. The watch asks each replica for its ROLE instead, for as long as somebody waits;
a promotion makes the refresher ask the promoted node itself, whose map wakes the callers. A primary that refuses for
now, because the cluster is down or it loads its data, is asked for its state in the same way.
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
from gvcluster.net.pool import NodePool
from gvcluster.net.refresher import Refresher
from gvcluster.net.state import ClusterState

# How long a replica may take to say what it is, seconds.
ANSWER = 0.150
# Callers come back from their own attempts within this time, seconds; then nobody waits any more.
LINGER = 0.2

_ROLE = encode(("ROLE",))
_STATE = encode(("CLUSTER", "INFO"))


class FailoverWatch:
    """Watches the shards whose primaries can not be reached, in one hub."""

    def __init__(self, state: ClusterState, loop: HubLoop, nodes: Nodes, refresher: Refresher) -> None:
        self._state, self._loop, self._nodes, self._refresher = state, loop, nodes, refresher
        self._wanted_until: dict[str, float] = {}  # by shard
        self._waiting: dict[str, set[object]] = {}  # by shard: one for each who waits for news of it
        self._connecting: dict[str, set[NodePool]] = {}  # by shard: where connecting took long when one looked last
        self._watched: dict[tuple[Node, str], gevent.Greenlet[..., None]] = {}  # and who asks them, and what for

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
        if owner is None:
            self._refresher.wait_for_news(seconds)
            return
        if self._nodes.pool_at(owner.address).is_failing():
            seconds = left
            self._begin(owner, "to be back", self._revive)
        else:
            self._begin(owner, "to serve", self._await_service)
        waiting, me = self._waiting.setdefault(owner.shard, set()), object()
        try:
            waiting.add(me)
            self.attend(slot, 0.0)
            self._refresher.wait_for_news(seconds)
        finally:  # the news may have come long before the deadline, and who was killed waits no more
            waiting.discard(me)
            self._linger(owner.shard)

    def attend(self, slot: int | None, seconds: float) -> None:
        """Have the slot's shard watched for so long. Never switches."""
        topology, owner = self._state.topology, self._owner(slot)
        if topology is None or owner is None:
            return
        self._linger(owner.shard, seconds)
        for replica in topology.replicas_of(owner):
            self._begin(replica, "to be primary", self._watch)

    def _linger(self, shard: str, seconds: float = 0.0) -> None:
        until = monotonic() + seconds + LINGER
        self._wanted_until[shard] = max(self._wanted_until.get(shard, 0.0), until)

    def attend_while_connecting(self, slot: int | None, pool: NodePool) -> None:
        """Have the slot's shard watched for as long as it takes to connect to this pool's node. Never switches."""
        topology, owner = self._state.topology, self._owner(slot)
        if topology is not None and owner is not None and topology.replicas_of(owner):
            self._connecting.setdefault(owner.shard, set()).add(pool)
            self.attend(slot, 0.0)

    def _owner(self, slot: int | None) -> Node | None:
        topology = self._state.topology
        return topology.owner(slot) if topology is not None and slot is not None else None

    def _begin(self, node: Node, expected: str, ask: Callable[[Node], None]) -> None:
        if (node, expected) not in self._watched:
            self._watched[node, expected] = self._loop.spawn(self._ask, node, expected, ask)

    def _ask(self, node: Node, expected: str, ask: Callable[[Node], None]) -> None:
        try:
            ask(node)
        except BaseException:  # a kill, or what a signal handler raised: who relies on it tries again, and begins anew
            self._refresher.tell_news()
            raise
        finally:
            self._watched.pop((node, expected), None)

    def _revive(self, primary: Node) -> None:
        """Try to connect to the primary itself; when it is back, those who wait for its shard are woken."""
        while self._is_wanted(primary):
            pool = self._nodes.pool_at(primary.address)  # another one, where it has left the map and come back
            try:
                pool.wait_lane(monotonic() + self._state.options.connect_timeout)
            except GvClusterError:
                self._loop.sleep(max(SHORTEST_QUESTION_GAP, pool.health.pause_left()))
            else:
                self._refresher.tell_news()
                return

    def _await_service(self, primary: Node) -> None:
        """Ask a primary that refuses for now; when it serves again, those who wait need not wait out their back-off."""
        began, has_refused = monotonic(), False
        while self._is_wanted(primary):
            told = self._question(primary, _STATE)
            if isinstance(told, bytes) and b"cluster_state:ok" in told:
                if has_refused:
                    self._refresher.tell_news()
                    return
            elif isinstance(told, bytes) or (isinstance(told, ReplyError) and told.code == "LOADING"):
                has_refused = True
            self._loop.sleep(question_gap(monotonic() - began, self._state.options.rng.random()))

    def close(self) -> None:
        """Stop asking. Never switches."""
        for greenlet in tuple(self._watched.values()):
            greenlet.kill(block=False)

    def _watch(self, replica: Node) -> None:
        """Ask one replica again and again, until it is primary or nobody waits. One that is dead holds up no other."""
        began = monotonic()
        while self._is_wanted(replica):
            if self._is_promoted(replica):
                self._refresher.schedule(replica.address, urgent=True)
            self._loop.sleep(question_gap(monotonic() - began, self._state.options.rng.random()))

    def _is_wanted(self, node: Node) -> bool:
        """Somebody waits for the shard, and the slot map still says the same of the node."""
        slow = {pool for pool in self._connecting.pop(node.shard, ()) if pool.is_slow()}
        topology = self._state.topology
        if self._state.closing or topology is None or topology.node_at(node.address) != node:
            return False
        if slow:
            self._connecting[node.shard] = slow
        if slow or self._waiting.get(node.shard):
            self._linger(node.shard)
        return monotonic() < self._wanted_until.get(node.shard, 0.0)

    def _is_promoted(self, replica: Node) -> bool:
        role = self._question(replica, _ROLE)
        if isinstance(role, ReplyError):
            return role.code == "NOPERM"  # its slot map tells as well, at a higher price
        return isinstance(role, list) and role[:1] == [b"master"]

    def _question(self, node: Node, question: bytes) -> object:
        """What the node answers; None: nothing."""
        try:
            lane = self._nodes.pool_at(node.address).wait_lane(monotonic() + self._state.options.connect_timeout)
            return lane.call_within(question, monotonic() + ANSWER)
        except GvClusterError:
            return None
