"""For tests of your own: real servers, scripted nodes, proxies that do what bad networks do, throws at every wait."""

from gvcluster.testing.black_hole import black_hole
from gvcluster.testing.control import ControlConnection
from gvcluster.testing.errors import ClusterTimeout, LocalClusterError, ServerFailed, ServerMissing
from gvcluster.testing.fake import FakeCluster
from gvcluster.testing.fake_node import FakeNode
from gvcluster.testing.faults import Rule
from gvcluster.testing.garnet import FakeGarnet, GarnetNode
from gvcluster.testing.local import LocalCluster
from gvcluster.testing.node import Node
from gvcluster.testing.proxied_cluster import ProxiedCluster
from gvcluster.testing.proxy import FaultProxy
from gvcluster.testing.recorder import Recorder
from gvcluster.testing.resharding import SlotMove
from gvcluster.testing.servers import Server, ServerTls, find_server, server_names
from gvcluster.testing.switching import SwitchReport, Thrown, throw_at_every_switch

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
    "FaultProxy",
    "ProxiedCluster",
    "Recorder",
    "Rule",
    "black_hole",
    "FakeGarnet",
    "GarnetNode",
    "throw_at_every_switch",
    "SwitchReport",
    "Thrown",
    "LocalClusterError",
    "ServerMissing",
    "ServerFailed",
    "ClusterTimeout",
]
