"""`valkey.ValkeyCluster`, over gvcluster: valkey-py's methods, arguments, exceptions and replies, for greenlets."""

from __future__ import annotations

import valkey
import valkey.cluster
import valkey.exceptions
from valkey.cluster import AbstractValkeyCluster, ClusterNode
from valkey.commands import CoreCommands, ValkeyClusterCommands, ValkeyModuleCommands
from valkey.commands.core import Script
from valkey.connection import parse_url
from valkey.lock import Lock

from gvcluster.compat.client import Facade
from gvcluster.compat.library import Library
from gvcluster.compat.locking import LockRules
from gvcluster.compat.node_client import NodeClient
from gvcluster.compat.pipeline import FacadePipeline
from gvcluster.compat.scripts import ScriptRules

__all__ = ["ClusterNode", "ClusterPipeline", "ValkeyCluster"]

LIBRARY = Library(valkey, valkey.exceptions, valkey.cluster, parse_url)


class FacadeScript(ScriptRules, Script):
    """valkey-py's Script."""


class FacadeLock(LockRules, Lock):
    """valkey-py's Lock."""


class ValkeyNode(NodeClient, CoreCommands, ValkeyModuleCommands):
    """What `ValkeyCluster.get_valkey_connection(node)` returns."""


class ClusterPipeline(FacadePipeline, AbstractValkeyCluster, ValkeyClusterCommands):
    """What `ValkeyCluster.pipeline()` returns."""


class ValkeyCluster(Facade, AbstractValkeyCluster, ValkeyClusterCommands):
    """valkey-py's cluster client: its methods, over a `gvcluster.Cluster`. See `gvcluster.compat.client.Facade`."""

    _library = LIBRARY
    _pipeline_class = ClusterPipeline
    _node_class = ValkeyNode
    _script_class = FacadeScript
    _lock_class = FacadeLock
