"""The methods of the libraries' cluster clients that tell of nodes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

from gvcluster.compat.encoder import Encoder
from gvcluster.compat.nodes import Nodes
from gvcluster.compat.shapes import Shapes
from gvcluster.core.slots import hash_slot
from gvcluster.errors import GvClusterError


class NodeGetters:
    """What a facade knows of nodes: ClusterNodes of the library, as the slot map has them now."""

    _node_class: ClassVar[Callable[..., Any]]
    _shapes: Shapes
    nodes_manager: Nodes
    encoder: Encoder

    def get_nodes(self) -> Any:
        """All nodes, as ClusterNodes. Blocks: for the first slot map only."""
        return self._told(self.nodes_manager.all)

    def get_primaries(self) -> Any:
        """The primaries. Blocks: for the first slot map only."""
        return self._told(self.nodes_manager.primaries)

    def get_replicas(self) -> Any:
        """The replicas. Blocks: for the first slot map only."""
        return self._told(self.nodes_manager.replicas)

    def get_random_node(self) -> Any:
        """Any node. Blocks: for the first slot map only."""
        return random.choice(self.get_nodes())

    def get_node(self, host: str | None = None, port: int | None = None, node_name: str | None = None) -> Any:
        """The node of this address, or None. Blocks: for the first slot map only."""
        return self._told(self.nodes_manager.get_node, host, port, node_name)

    def get_node_from_key(self, key: Any, replica: bool = False) -> Any:
        """The node that serves a key, or one of its replicas, or None. Blocks: for the first slot map only."""
        return self._told(self.nodes_manager.of_slot, self.keyslot(key), replica=replica)

    def get_default_node(self) -> Any:
        """The node for what concerns any one. Blocks: for the first slot map only."""
        return self._told(lambda: self.nodes_manager.default_node)

    def set_default_node(self, node: Any) -> bool:
        """Choose it. Returns whether the node is one of the cluster. Blocks: for the first slot map only."""
        if node is None or self.get_node(node_name=node.name) is None:
            return False
        self.nodes_manager.default_node = node
        return True

    def replace_default_node(self, target_node: Any = None) -> None:
        """Choose this one, or another than it is now. Blocks: for the first slot map only."""
        if target_node is not None:
            self.nodes_manager.default_node = target_node
        else:
            self._told(self.nodes_manager.replace_default)

    def get_redis_connection(self, node: Any) -> Any:
        """A client that sends all commands to this node."""
        return self._node_class(self, node)

    get_valkey_connection = get_redis_connection

    def keyslot(self, key: Any) -> int:
        """The hash slot of a key."""
        return hash_slot(self.encoder.encode(key))

    def _told(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except GvClusterError as error:
            raise self._shapes.translator.translate(error) from error
