"""gvcluster: the gevent-native client for Valkey, Redis and Garnet Cluster.

    cluster = gvcluster.connect("127.0.0.1:7000,127.0.0.1:7001")
    cluster.execute("SET", "greeting", "hello")

Everything public can be imported from here; `errors`, `events` and `options` explain their own.
"""

from gvcluster._version import __version__
from gvcluster.cluster import Cluster, connect
from gvcluster.core.address import Address
from gvcluster.core.slots import hash_slot
from gvcluster.core.subscriptions import Gap, Message
from gvcluster.core.topology import Node
from gvcluster.errors import (
    AuthFailed,
    BlockedInHub,
    Busy,
    ClosedError,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    CrossSlot,
    GvClusterError,
    NodeError,
    NoKey,
    NoScript,
    PartialFailure,
    PoolError,
    PoolFull,
    PoolTimeout,
    ProtocolError,
    ReadOnly,
    Redirected,
    ReplyError,
    ReplyTimeout,
    RetriesExhausted,
    RoutingError,
    SlotNotCovered,
    StatefulCommand,
    TopologyUnavailable,
    TransactionAborted,
    UnknownCommand,
)
from gvcluster.events import Closed, Event, Ready, SlotMapUpdated
from gvcluster.exclusive import ExclusiveConnection
from gvcluster.net.dial import Connection
from gvcluster.options import Options
from gvcluster.pending import PendingReply
from gvcluster.pipeline import Pipeline
from gvcluster.pubsub import PubSub
from gvcluster.reports import Explanation, NodeStatistics, PoolStatistics, Statistics
from gvcluster.scan import ElementIterator, ScanIterator
from gvcluster.scripts import Script
from gvcluster.transaction import Transaction

__all__ = [
    "Address",
    "AuthFailed",
    "BlockedInHub",
    "Busy",
    "Closed",
    "ClosedError",
    "Cluster",
    "ConfigError",
    "ConnectFailed",
    "Connection",
    "ConnectionLost",
    "CrossSlot",
    "Event",
    "Explanation",
    "Gap",
    "GvClusterError",
    "Message",
    "NoKey",
    "NoScript",
    "Node",
    "NodeError",
    "NodeStatistics",
    "PoolStatistics",
    "Options",
    "PartialFailure",
    "PendingReply",
    "ExclusiveConnection",
    "Pipeline",
    "PoolError",
    "PoolFull",
    "PoolTimeout",
    "ProtocolError",
    "PubSub",
    "ReadOnly",
    "Ready",
    "Redirected",
    "ReplyError",
    "ReplyTimeout",
    "RetriesExhausted",
    "RoutingError",
    "ScanIterator",
    "ElementIterator",
    "Script",
    "SlotMapUpdated",
    "SlotNotCovered",
    "StatefulCommand",
    "Statistics",
    "TopologyUnavailable",
    "Transaction",
    "TransactionAborted",
    "UnknownCommand",
    "__version__",
    "connect",
    "hash_slot",
]
