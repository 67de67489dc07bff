"""For code that was written for redis-py or valkey-py: their cluster clients, over gvcluster.

    from gvcluster.compat.redis import RedisCluster      # pip install gvcluster[redis]
    from gvcluster.compat.valkey import ValkeyCluster    # pip install gvcluster[valkey]

Or, for code that can not be touched, once and early: `gvcluster.compat.patch()`.
"""

from gvcluster.compat.patching import patch

__all__ = ["patch"]
