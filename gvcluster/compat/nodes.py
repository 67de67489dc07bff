"""Nodes as the libraries show them: ClusterNodes, the flags that mean several, and who is the default one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from gvcluster.cluster import Cluster
from gvcluster.compat.library import Library
from gvcluster.core.address import Address
from gvcluster.core.slots import hash_slot
from gvcluster.core.topology import Node

_SEVERAL = ("primaries", "replicas", "all")
_ANY_NODE = (*_SEVERAL, "random", "default-node")


class Nodes:
    """What `nodes_manager` is to those who look into it; and where commands without a key go."""

    def __init__(self, library: Library, cluster: Callable[[], Cluster], connection_kwargs: dict[str, Any]) -> None:
        self._library, self._cluster, self.connection_kwargs = library, cluster, connection_kwargs
        self._default: Address | None = None

    @property
    def nodes_cache(self) -> dict[str, Any]:
        """Name → ClusterNode."""
        return {node.name: node for node in self.all()}

    @property
    def default_node(self) -> Any:
        """The node for what concerns any one; another, where it is not of the cluster any more."""
        nodes = self.all()
        for node in nodes:
            if (node.host, node.port) == self._default:
                return node
        self.default_node = nodes[0]
        return nodes[0]

    @default_node.setter
    def default_node(self, node: Any) -> None:
        self._default = Address(node.host, node.port)

    def replace_default(self) -> None:
        """Take another primary, if there is one; else a replica."""
        now = self.default_node
        for nodes in (self.primaries(), self.replicas()):
            others = [node for node in nodes if node != now]
            if others:
                self.default_node = random.choice(others)
                return

    def primaries(self) -> list[Any]:
        return self._shown(self._cluster().primaries())

    def replicas(self) -> list[Any]:
        return self._shown(self._cluster().replicas())

    def all(self) -> list[Any]:
        return self.primaries() + self.replicas()

    def get_node(self, host: str | None = None, port: int | None = None, node_name: str | None = None) -> Any:
        """The node of this address or name, or None."""
        if node_name is None:
            node_name = f"{host}:{port}"
        return self.nodes_cache.get(node_name)

    def of_slot(self, slot: int, *, replica: bool = False) -> Any:
        """The primary that serves a slot, or one of its replicas, or None."""
        self._cluster().primaries()
        topology = self._cluster()._state.topology
        owner = None if topology is None else topology.owner(slot)
        if owner is None:
            raise self._library.error("SlotNotCoveredError")(f'Slot "{slot}" is not covered by the cluster.')
        if not replica:
            return self._shown([owner])[0]
        replicas = self._cluster().replicas(owner)
        return self._shown(replicas)[0] if replicas else None

    def get_node_from_slot(self, slot: int, read_from_replicas: bool = False, *_: Any) -> Any:
        """The primary that serves a slot, or with `read_from_replicas` a replica, if it has one."""
        return (read_from_replicas and self.of_slot(slot, replica=True)) or self.of_slot(slot)

    def of_key(self, key: bytes, *, replica: bool) -> Any:
        return self.of_slot(hash_slot(key), replica=replica)

    def asked_of_slot(self, slot: int) -> list[Any]:
        """The primary that is asked about a slot. Blocks: as `flagged` where that means several."""
        self._wait_for_undisputed_map()
        return [self.of_slot(slot)]

    def _wait_for_undisputed_map(self) -> None:
        cluster = self._cluster()
        cluster._executor_here().attempts.wait_for_undisputed_map(cluster._deadline(None))

    def flagged(self, flag: str) -> list[Any]:
        """The nodes that a flag means.

        Blocks: where it means several, and a redirect has shown the slot map to be out of date, for a newer one.
        """
        if flag in _SEVERAL:
            self._wait_for_undisputed_map()
        if flag == "primaries":
            return self.primaries()
        if flag == "replicas":
            return self.replicas()
        if flag == "all":
            return self.all()
        return [random.choice(self.primaries())] if flag == "random" else [self.default_node]

    def targets(self, targets: Any) -> list[Any]:
        """The nodes of `target_nodes`: a flag, a node, a list or a dict of them. Raises TypeError."""
        if isinstance(targets, str) and targets in _ANY_NODE:
            return self.flagged(targets)
        if isinstance(targets, self._library.cluster.ClusterNode):
            return [targets]
        if isinstance(targets, list):
            return targets
        if isinstance(targets, dict):
            return list(targets.values())
        raise TypeError(
            "target_nodes type can be one of the following: node_flag (PRIMARIES, REPLICAS, RANDOM, ALL_NODES),"
            f"ClusterNode, list<ClusterNode>, or dict<any, ClusterNode>. The passed type is {type(targets)}"
        )

    def _shown(self, nodes: Iterable[Node]) -> list[Any]:
        return [self._library.node(node.address.host, node.address.port, node.role) for node in nodes]
