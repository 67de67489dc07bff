"""For tests of your own: clusters of real servers on this machine."""

from gvcluster.testing.control import ControlConnection
from gvcluster.testing.errors import ClusterTimeout, LocalClusterError, ServerFailed, ServerMissing
from gvcluster.testing.fake import FakeCluster
from gvcluster.testing.fake_node import FakeNode
from gvcluster.testing.local import LocalCluster
from gvcluster.testing.node import Node
from gvcluster.testing.resharding import SlotMove
from gvcluster.testing.servers import Server, ServerTls, find_server, server_names

__all__ = [
    "LocalCluster",
    "Node",
    "SlotMove",
    "ControlConnection",
    "Server",
    "ServerTls",
    "find_server",
    "server_names",
    "FakeCluster",
    "FakeNode",
    "LocalClusterError",
    "ServerMissing",
    "ServerFailed",
    "ClusterTimeout",
]
