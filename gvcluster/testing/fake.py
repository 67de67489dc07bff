"""FakeCluster: scripted nodes on loopback, for tests of what real servers do only on a bad day.

    with FakeCluster(nodes=3) as fake:
        cluster = gvcluster.connect(fake.seeds)
        owner = fake.owner(hash_slot("k"))
        owner.on("GET", b"-TRYAGAIN Multiple keys request during rehashing of slot\\r\\n", times=1)
        cluster.execute("GET", "k")
        assert len(owner.commands("GET")) == 2

Needs no monkey-patching. The nodes live in greenlets of the hub that starts them: beside them never block it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, groupby
from types import TracebackType
from typing import Self

from gvcluster.core.slots import SLOTS, hash_slot
from gvcluster.errors import ConfigError
from gvcluster.testing import fake_server
from gvcluster.testing.answers import Answer, Handler
from gvcluster.testing.fake_node import FakeNode


class FakeCluster:
    """A few fake nodes that agree on who owns which slot.

    By itself each node answers as a small server does (`gvcluster.testing.fake_server.answer` lists the commands). Give
    a node a handler with `on()` or `override`, or a script with `play()`, to make it do something else.

    Args:
        nodes: How many primaries. They share the slots evenly, in order.
        replicas: How many replicas each of them has. They come after all primaries in `nodes`.
        username: The user whom AUTH and HELLO let in.
        password: The password of that user. None lets everybody do everything.
        host: Where the nodes listen: "127.0.0.1" or "::1".
        dialect: "valkey", or "redis": what the nodes say they are, and what they tell of availability zones. For
            Garnet's there is `FakeGarnet`.

    Attributes:
        nodes: The nodes. Their ports are reserved from now on; they listen when the cluster is started.
        migrations: slot → the node that it is moving to (`begin_migration`).

    Raises:
        ConfigError: No primaries, fewer than no replicas, or no such dialect.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        replicas: int = 0,
        username: str = "default",
        password: str | None = None,
        host: str = "127.0.0.1",
        dialect: str = "valkey",
    ) -> None:
        if nodes < 1 or replicas < 0:
            raise ConfigError(f"a cluster has primaries, not {nodes}, and perhaps replicas, not {replicas}")
        if dialect not in fake_server.VERSIONS:
            raise ConfigError(f"dialect must be 'valkey' or 'redis', not {dialect!r}; for 'garnet' use FakeGarnet")
        self.dialect = dialect
        self.host = host
        self.username = username
        self.password = password
        primaries = [self._new_node(index, None) for index in range(nodes)]
        self.nodes: tuple[FakeNode, ...] = (
            *primaries,
            *(self._new_node(nodes + index, primaries[index % nodes]) for index in range(nodes * replicas)),
        )
        self._owners: list[FakeNode | None] = [primaries[slot * nodes // SLOTS] for slot in range(SLOTS)]
        self.migrations: dict[int, FakeNode] = {}

    def __repr__(self) -> str:
        return f"<FakeCluster {', '.join(map(repr, self.nodes))}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failures = self._finish(wait=error is None)
        if error is None:
            self._raise_first(failures)
        else:
            for failure in failures:
                error.add_note(f"and {failure!r}")

    @property
    def seeds(self) -> str:
        """The addresses as a client wants them: `127.0.0.1:p,127.0.0.1:p`."""
        return ",".join(str(node.address) for node in self.nodes)

    def start(self) -> Self:
        """Let all nodes listen.

        Returns:
            The cluster itself.

        Blocks:
            Never.
        """
        for node in self.nodes:
            node.start()
        return self

    def stop(self) -> None:
        """End everything: no greenlet, socket or port is left. A stopped cluster can not be started again.

        Raises:
            ScriptFailed: A node met other traffic than its script says, or less.
            Exception: The first error that a handler raised.

        Blocks:
            Until scripts that still run have come to their end, each step within its timeout. A kill or Timeout there
            ends everything too.
        """
        self._raise_first(self._finish(wait=True))

    def on(self, node: int | FakeNode, name: str, handler: Handler | Answer, times: int | None = None) -> None:
        """Answer the commands of this name at this node with a handler: see `FakeNode.on`.

        Blocks:
            Never.
        """
        self._node(node).on(name, handler, times)

    def owner(self, slot: int) -> FakeNode | None:
        """The node that owns the slot, or None."""
        return self._owners[slot]

    def owners(self) -> list[FakeNode | None]:
        """The owner of each slot."""
        return list(self._owners)

    def node_for_key(self, key: str | bytes) -> FakeNode | None:
        """The node that owns the key's slot, or None."""
        return self.owner(hash_slot(key))

    def key_at(self, node: FakeNode, prefix: str = "key") -> str:
        """Find a key that a node serves.

        Args:
            node: One of `nodes` that owns slots.
            prefix: What the key begins with; a number follows. Another prefix is another key, usually in another slot.

        Returns:
            The same key each time, as long as the node keeps its slot.

        Raises:
            ConfigError: The node owns no slot.
        """
        if node not in self.owners():
            raise ConfigError(f"{node!r} owns no slot, so it serves no key")
        return next(key for key in (f"{prefix}{number}" for number in count()) if self.node_for_key(key) is node)

    def move_slot(self, slot: int, to: int | FakeNode | None) -> None:
        """Give a slot, with its keys, to another node, or to nobody. A migration of it is over.

        Args:
            slot: 0 to 16383.
            to: The new owner, or its index; None leaves the slot unserved.

        Blocks:
            Never.
        """
        source, target = self._owners[slot], None if to is None else self._node(to)
        self.migrations.pop(slot, None)
        self._owners[slot] = target
        if target is not None:
            target.epoch = self._next_epoch()
        if source is not None and target is not None and source.data is not target.data:
            for key in [key for key in source.data if hash_slot(key) == slot]:
                target.data[key] = source.data.pop(key)

    def begin_migration(self, slot: int, to: int | FakeNode) -> None:
        """Open a slot: its owner answers ASK for the keys it does not have, `to` serves them after ASKING.

        Args:
            slot: 0 to 16383. `move_slot` ends it.
            to: The node that is to own it, or its index.

        Blocks:
            Never.
        """
        self.migrations[slot] = self._node(to)

    def promote(self, replica: int | FakeNode) -> None:
        """Let a replica and its primary swap their roles. Its slots and the other replicas follow it.

        Args:
            replica: The replica, or its index.

        Raises:
            ConfigError: It is a primary.

        Blocks:
            Never.
        """
        node = self._node(replica)
        old = node.primary
        if old is None:
            raise ConfigError(f"{node!r} is a primary already")
        self._owners = [node if owner is old else owner for owner in self._owners]
        for other in self.nodes:
            if other is old or other.primary is old:
                other.primary = node
        node.primary = None
        node.epoch = self._next_epoch()

    def slot_ranges(self) -> list[object]:
        """What CLUSTER SLOTS answers now, for `encode_reply`.

        Blocks:
            Never.
        """
        ranges: list[object] = []
        owners = self.owners()
        for owner, group in groupby(range(SLOTS), key=lambda slot: owners[slot]):
            slots = list(group)
            if owner is not None:
                shard = [owner, *(node for node in self.nodes if node.primary is owner)]
                ranges.append([slots[0], slots[-1], *(self._told_of(node) for node in shard)])
        return ranges

    def _told_of(self, node: FakeNode) -> list[object]:
        """What CLUSTER SLOTS tells of a node: Valkey its zone, too."""
        zone = node.availability_zone if self.dialect == "valkey" else None
        metadata = {b"availability-zone": zone.encode()} if zone is not None else {}
        return [node.address.host.encode(), node.address.port, node.id.encode(), metadata]

    def node_lines(self, asked: FakeNode) -> bytes:
        """What CLUSTER NODES answers now at this node. Who gets a slot gets the highest configuration epoch.

        Blocks:
            Never.
        """
        return "".join(f"{self._line(node, asked)}\n" for node in self.nodes).encode()

    def _line(self, node: FakeNode, asked: FakeNode) -> str:
        host, port = node.address
        flags = ("myself," if node is asked else "") + ("slave" if node.primary else "master")
        primary, epoch = (node.primary.id, node.primary.epoch) if node.primary else ("-", node.epoch)
        parts = [node.id, f"{host}:{port}@{port}", flags, primary, "0", "0", str(epoch), "connected"]
        for is_mine, group in groupby(range(SLOTS), key=lambda slot: self._owners[slot] is node):
            slots = list(group)
            if is_mine:
                parts.append(f"{slots[0]}-{slots[-1]}" if len(slots) > 1 else str(slots[0]))
        return " ".join([*parts, *(self._open_slots(node) if node is asked else ())])

    def _open_slots(self, node: FakeNode) -> Iterator[str]:
        """What a node says in its own line about the slots that are moving to or from it."""
        for slot, target in self.migrations.items():
            source = self._owners[slot]
            if source is node:
                yield f"[{slot}->-{target.id}]"
            elif target is node and source is not None:
                yield f"[{slot}-<-{source.id}]"

    @property
    def is_covered(self) -> bool:
        """Whether every slot has an owner: else CLUSTER INFO says `cluster_state:fail`."""
        return None not in self.owners()

    def _new_node(self, index: int, primary: FakeNode | None) -> FakeNode:
        return FakeNode(self, index, primary)

    @staticmethod
    def _raise_first(failures: list[BaseException]) -> None:
        if failures:
            raise failures[0]

    def _next_epoch(self) -> int:
        return 1 + max(node.epoch for node in self.nodes)

    def _node(self, node: int | FakeNode) -> FakeNode:
        return self.nodes[node] if isinstance(node, int) else node

    def _finish(self, *, wait: bool) -> list[BaseException]:
        failures: list[BaseException] = []
        try:
            for node in self.nodes:
                failures += node.finish(wait=wait)
        finally:
            for node in self.nodes:
                node.release()
        return failures
