"""`redis.RedisCluster`, over gvcluster: redis-py's methods, arguments, exceptions and replies, for greenlets."""

from __future__ import annotations

import redis
import redis.cluster
import redis.exceptions
from redis.cluster import AbstractRedisCluster, ClusterNode
from redis.commands import CoreCommands, RedisClusterCommands, RedisModuleCommands
from redis.commands.core import Script
from redis.connection import parse_url
from redis.lock import Lock

from gvcluster.compat.client import Facade
from gvcluster.compat.library import Library
from gvcluster.compat.locking import LockRules
from gvcluster.compat.node_client import NodeClient
from gvcluster.compat.pipeline import FacadePipeline
from gvcluster.compat.scripts import ScriptRules

__all__ = ["ClusterNode", "ClusterPipeline", "RedisCluster"]

LIBRARY = Library(redis, redis.exceptions, redis.cluster, parse_url)


class FacadeScript(ScriptRules, Script):
    """redis-py's Script."""


class FacadeLock(LockRules, Lock):
    """redis-py's Lock."""


class RedisNode(NodeClient, CoreCommands, RedisModuleCommands):
    """What `RedisCluster.get_redis_connection(node)` returns."""


class ClusterPipeline(FacadePipeline, AbstractRedisCluster, RedisClusterCommands):
    """What `RedisCluster.pipeline()` returns."""


class RedisCluster(Facade, AbstractRedisCluster, RedisClusterCommands):
    """redis-py's cluster client: its methods, over a `gvcluster.Cluster`. See `gvcluster.compat.client.Facade`."""

    _library = LIBRARY
    _pipeline_class = ClusterPipeline
    _node_class = RedisNode
    _script_class = FacadeScript
    _lock_class = FacadeLock
