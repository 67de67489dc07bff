"""FakeGarnet: scripted nodes that speak as Microsoft's Garnet does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypedDict, Unpack

from gvcluster.core.slots import SLOTS, hash_slot
from gvcluster.errors import ConfigError
from gvcluster.testing.fake import FakeCluster
from gvcluster.testing.fake_node import FakeNode
from gvcluster.testing.garnet import maps, moving
from gvcluster.testing.garnet.config import OpenSlot
from gvcluster.testing.garnet.node import GarnetNode

EndpointType = Literal["ip", "hostname", "unknown"]
Script = Callable[[GarnetNode, list[bytes], list[bytes]], object]


class ClusterOptions(TypedDict, total=False):
    """What FakeGarnet takes as FakeCluster does."""

    replicas: int
    username: str
    password: str | None
    host: str


class FakeGarnet(FakeCluster):
    """A FakeCluster whose nodes speak Garnet's dialect, for tests of how an application fares with Garnet.

        with FakeGarnet(nodes=3, replicas=1, endpoint_type="hostname", hostname="localhost") as fake:
            cluster = gvcluster.connect(fake.seeds)
            cluster.execute("SET", "k", 1)
            fake.begin_migration(hash_slot("k"), 2)      # ASK for keys that are absent
            cluster.execute("INCR", "k")
            fake.move_slot(hash_slot("k"), 2)            # MOVED
            assert cluster.execute("GET", "k") == b"2"

    Everything of FakeCluster is there: handlers, scripts, frozen nodes. What is different (the version is 2.1.4, read
    from its source; no Garnet was asked):

    - Each node has a view of the cluster of its own (`GarnetNode.config`), and answers by it. Changes are gossiped at
      once; with `gossips=False` only when you call `gossip()`, so that views are old or have holes.
    - Replicas serve reads without READONLY. READWRITE would let them write: `GarnetNode.sent_readwrite` counts it.
    - A transaction's slots are looked at when EXEC comes, which then answers MOVED, ASK, TRYAGAIN or CLUSTERDOWN.
    - Lua is off. Messages of shard channels are called `message`, and there is no SUNSUBSCRIBE.
    - Nobody is ever found dead: a stopped primary keeps its slots until you call `promote()`, or send CLUSTER FAILOVER.

    Args:
        nodes: How many primaries. They share the slots evenly, in order.
        replicas: How many replicas each of them has.
        username: The user whom AUTH and HELLO let in; any with `"default"`.
        password: The password. None lets everybody do everything.
        endpoint_type: How redirects and maps name nodes: `--cluster-preferred-endpoint-type`.
        hostname: What all nodes announce; set `GarnetNode.hostname` for one of them. By default the machine's name,
            which clients must not connect to.
        lua: Whether scripts may run: `--lua`. See `scripts`.
        aof: Whether there is a log: without it CLUSTER FAILOVER is refused.
        gossips: Whether all nodes hear of a change at once.

    Attributes:
        scripts: Lua source → function `(node, keys, args)` that is called in its place and returns the reply.
        absent: Names of commands that are answered `ERR unknown command`: for older Garnets.
        highest_protocol: 3; 2 for a node that refuses HELLO 3.

    Raises:
        ConfigError: No primaries, fewer than no replicas, or no such type of endpoint.
    """

    nodes: tuple[GarnetNode, ...]

    def __init__(
        self,
        nodes: int = 3,
        *,
        endpoint_type: EndpointType = "ip",
        hostname: str = "box.a",
        lua: bool = False,
        aof: bool = True,
        gossips: bool = True,
        **options: Unpack[ClusterOptions],
    ) -> None:
        if endpoint_type not in ("ip", "hostname", "unknown"):
            raise ConfigError(f"endpoint_type must be 'ip', 'hostname' or 'unknown', not {endpoint_type!r}")
        self.endpoint_type, self.hostname, self.lua, self.aof = endpoint_type, hostname, lua, aof
        self.gossips = gossips
        self.scripts: dict[bytes, Script] = {}
        self.absent: set[str] = set()
        self.highest_protocol = 3
        super().__init__(nodes, **options)
        self._introduce_all()

    def _new_node(self, index: int, primary: FakeNode | None) -> GarnetNode:
        return GarnetNode(self, index, primary)

    def _introduce_all(self) -> None:
        """Everybody knows everybody, as after a while of gossip."""
        for node in self.nodes:
            node.config.change(epoch=node.epoch)
        owners = [None if owner is None else owner.id for owner in self._owners]
        for node in self.nodes:
            node.config.workers |= {each.id: each.config.mine for each in self.nodes if each is not node}
            node.config.owners = list(owners)

    # -- what a test asks, and does ------------------------------------------------------------------------------------

    def owner(self, slot: int) -> GarnetNode | None:
        """The node that believes to own the slot; of several, the one with the highest epoch."""
        claims = [node for node in self.nodes if node.config.owners[slot] == node.id]
        return max(claims, key=lambda node: node.config.mine.epoch, default=None)

    def owners(self) -> list[FakeNode | None]:
        """The owner of each slot."""
        found: list[FakeNode | None] = [None] * SLOTS
        for node in sorted(self.nodes, key=lambda node: node.config.mine.epoch):
            for slot in node.config.slots_of(node.id):
                found[slot] = node
        return found

    def node_lines(self, asked: FakeNode) -> bytes:
        """What CLUSTER NODES answers now at this node."""
        return maps.nodes(self.nodes[asked.index])

    def gossip(self, teller: int | GarnetNode | None = None, hearer: int | GarnetNode | None = None) -> None:
        """Let one node tell another what it believes; without one, all of them. For `gossips=False`.

        The order matters: who hears the old owner of a slot before the new one has a hole there.

        Blocks:
            Never.
        """
        for told_by in self.nodes if teller is None else [self._garnet(teller)]:
            for told_to in self.nodes if hearer is None else [self._garnet(hearer)]:
                if told_by is not told_to and told_by.is_listening and told_to.is_listening:
                    told_to.config.hear(told_by.config.told())

    def move_slot(self, slot: int, to: int | FakeNode | None) -> None:
        """Give a slot, with its keys, to another node, or to nobody. A migration of it is over.

        Source and target know at once, the target first; the others when they hear the gossip.

        Args:
            slot: 0 to 16383.
            to: The new owner, or its index; None leaves the slot unserved at all nodes.

        Blocks:
            Never.
        """
        source = self.owner(slot)
        if to is None:
            for node in self.nodes:
                node.config.give([slot], None)
            return
        target = self._garnet(to)
        if source is not None and source is not target:
            moving.move(source, slot, target.id)
            source.config.bump()
            self.changed(source)
        else:
            target.config.give([slot], target.id)
            target.config.bump()
            self.changed(target)

    def begin_migration(self, slot: int, to: int | FakeNode) -> None:
        """Open a slot: its owner answers ASK for the keys it does not have, `to` serves them after ASKING.

        Args:
            slot: 0 to 16383. `move_slot` ends it.
            to: The node that is to own it, or its index.

        Blocks:
            Never.
        """
        source, target = self.owner(slot), self._garnet(to)
        if source is None:
            raise ConfigError(f"slot {slot} has no owner that it could leave")
        target.config.open[slot] = OpenSlot("importing", source.id)
        source.config.open[slot] = OpenSlot("migrating", target.id)

    def move_keys(self, *keys: bytes) -> None:
        """Send keys of open slots to the nodes that they are moving to, as MIGRATE … KEYS does.

        Blocks:
            Never.
        """
        for key in keys:
            source = self.node_for_key(key)
            assert isinstance(source, GarnetNode)
            target = next(node for node in self.nodes if node.id == source.config.open[hash_slot(key)].peer)
            target.data[key] = source.data.pop(key)

    def begin_failover(self, replica: int | GarnetNode) -> None:
        """Let the primary send its writers to the replica, which still sends them back. `promote` ends it.

        So it is while the replica reads the rest of the log. Its reads go to the old primary, too, which answers them.

        Args:
            replica: The replica, or its index.

        Blocks:
            Never.
        """
        node = self._garnet(replica)
        node.is_recovering = True
        moving.stop_writes(self._primary_of(node), node.id)

    def promote(self, replica: int | FakeNode) -> None:
        """Let a replica take over from its primary, alive or dead, as CLUSTER FAILOVER FORCE does.

        Set its `is_recovering` to see what comes first: CLUSTERDOWN.

        Args:
            replica: The replica, or its index.

        Raises:
            ConfigError: It is a primary.

        Blocks:
            Never.
        """
        node = self._garnet(replica)
        self._primary_of(node)
        moving.take_over(node)

    # -- what nodes do -------------------------------------------------------------------------------------------------

    def carry(self, _teller: GarnetNode, host: str, port: int, word: str, *values: Any) -> Any:
        """Bring a node what another one says; None if nobody is there."""
        there = (node for node in self.nodes if node.address == (host, port) and node.is_listening)
        hearer = next(there, None)
        return None if hearer is None else hearer.hear(word, *values)

    def changed(self, node: GarnetNode) -> None:
        """A node believes something new."""
        if self.gossips:
            self.gossip(teller=node)

    def woke(self, node: GarnetNode) -> None:
        """A node listens again."""
        if self.gossips:
            self.gossip(hearer=node)

    def attach(self, node: GarnetNode, primary_id: str) -> None:
        """A node begins to replicate another one: from now on they have the same keys."""
        node.primary = next(each for each in self.nodes if each.id == primary_id)
        node.data = node.primary.data

    def promoted(self, node: GarnetNode, former_id: str) -> None:
        """A replica has taken over: those that followed its primary, and that one, follow it."""
        node.primary = None
        for other in self.nodes:
            if other is not node and former_id in (other.id, other.config.mine.primary_id):
                other.primary = node
                if other.is_listening:
                    moving.follow(other, node.id)

    def replicate(self, node: GarnetNode, word: str, *values: Any) -> None:
        """A node has written, and its replicas are to hear it: these have the very same keys already."""

    def _primary_of(self, node: GarnetNode) -> GarnetNode:
        primary_id = node.config.mine.primary_id
        if primary_id is None:
            raise ConfigError(f"{node!r} is a primary already")
        return next(each for each in self.nodes if each.id == primary_id)

    def _garnet(self, node: int | FakeNode) -> GarnetNode:
        return self.nodes[node if isinstance(node, int) else node.index]
