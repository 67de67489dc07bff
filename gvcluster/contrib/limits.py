"""limits and flask-limiter over a cluster: import this, and there are storages at gvcluster://host:port,host:port."""

from __future__ import annotations

import time
from typing import ClassVar, Unpack, cast

from limits.storage import MovingWindowSupport, RedisStorage, SlidingWindowCounterSupport, Storage

from gvcluster.checks import flag, one_of
from gvcluster.cluster import Cluster
from gvcluster.contrib.prefixes import delete_prefix
from gvcluster.errors import ConfigError, GvClusterError
from gvcluster.options import ClusterOptions

_SCHEMES = ("gvcluster", "gvcluster+valkey", "gvcluster+valkeys", "gvcluster+redis", "gvcluster+rediss")


class GvClusterStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """The counters of all strategies, each at the node of its key, for all greenlets of a process.

        import gvcluster.contrib.limits
        storage = limits.storage.storage_from_string("gvcluster://10.0.0.1:6379,10.0.0.2:6379")

    `gvcluster+valkeys://user:password@…` is TLS. The query of the URL may have options of `Cluster`.

    Keys, values and scripts are those of limits' own storages for Redis: applications that use `redis+cluster://` share
    their counters with those that use this one.

    Each hit is one script at one node. Where a connection is lost before the answer is in, the hit may have been
    counted, and is never sent again in silence: `in_doubt` says what becomes of it.

    Attributes:
        cluster: The `gvcluster.Cluster`, to be closed by who closes anything.
    """

    STORAGE_SCHEME: ClassVar[list[str]] = list(_SCHEMES)

    def __init__(
        self,
        uri: str,
        wrap_exceptions: bool = False,
        key_prefix: str = "LIMITS",
        in_doubt: str = "raise",
        cluster: Cluster | None = None,
        **options: Unpack[ClusterOptions],
    ) -> None:
        """What limits calls; nothing is sent.

        Args:
            uri: `gvcluster://host:port,host:port`, or `gvcluster://` alone with `cluster`.
            wrap_exceptions: Raise limits' StorageError, whose `storage_error` is the GvClusterError.
            key_prefix: In front of each key, with a colon behind it.
            in_doubt: "raise": where nobody knows whether a hit was counted, the error is raised, with
                `maybe_executed`; then it was counted once or not at all. "repeat": it is sent again until it is
                answered; then it was counted at least once, and perhaps more often.
            cluster: A Cluster that exists already, which takes no options here.
            options: As for `Cluster`; they win over those in the URL.

        Raises:
            ConfigError: Something makes no sense.
        """
        flag("wrap_exceptions", wrap_exceptions)
        one_of("in_doubt", in_doubt, ("raise", "repeat"))
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self.key_prefix = key_prefix
        self.cluster = cluster or _cluster_at(uri, options)
        if cluster is not None and (options or not uri.endswith("://")):
            raise ConfigError("a Cluster that exists takes neither hosts nor options: gvcluster:// and nothing else")
        self._retry = "always" if in_doubt == "repeat" else None
        script = self.cluster.script
        self._incr = script(RedisStorage.SCRIPT_INCR_EXPIRE)
        self._acquire_moving = script(RedisStorage.SCRIPT_ACQUIRE_MOVING_WINDOW)
        self._moving = script(RedisStorage.SCRIPT_MOVING_WINDOW)
        self._acquire_sliding = script(RedisStorage.SCRIPT_ACQUIRE_SLIDING_WINDOW)
        self._sliding = script(RedisStorage.SCRIPT_SLIDING_WINDOW)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What `wrap_exceptions` wraps."""
        return GvClusterError

    # -- fixed windows ------------------------------------------------------------------------------------------------

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count a hit, and return the count; the first one lets the counter expire after so many seconds.

        Blocks: as `Cluster.execute`.
        """
        return int(self._incr([self._key(key)], [expiry, amount], retry=self._retry))

    def get(self, key: str) -> int:
        """Return the count. Blocks: as `Cluster.execute`."""
        return int(self.cluster.execute("GET", self._key(key)) or 0)

    def get_expiry(self, key: str) -> float:
        """Return when the counter expires, in seconds of `time.time`. Blocks: as `Cluster.execute`."""
        milliseconds = cast(int, self.cluster.execute("PTTL", self._key(key)))
        return max(milliseconds, 0) / 1000 + time.time()

    # -- moving windows -----------------------------------------------------------------------------------------------

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit unless it were one too many, and return whether it was counted. Blocks: as `Cluster.execute`."""
        args = [time.time(), limit, expiry, amount]
        return bool(self._acquire_moving([self._key(key)], args, retry=self._retry))

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the window began, and how many hits are in it. Blocks: as `Cluster.execute`."""
        now = time.time()
        window = self._moving([self._key(key)], [now - expiry, limit], retry="always")  # it only reads
        return (float(window[0]), int(window[1])) if window else (now, 0)

    # -- sliding windows: two counters, in one slot -------------------------------------------------------------------

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit unless it were one too many, and return whether it was counted. Blocks: as `Cluster.execute`."""
        return bool(self._acquire_sliding(self._windows(key), [limit, expiry, amount], retry=self._retry))

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the count of the previous window and its seconds to live, and those of the current one.

        Blocks: as `Cluster.execute`.
        """
        # It may shift an old window, and finds nothing to shift when it comes again.
        window = self._sliding(self._windows(key), [expiry], retry="always")
        counts = [int(each or 0) for each in window]
        return counts[0], max(counts[1], 0) / 1000, counts[2], max(counts[3], 0) / 1000

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget the hits. Blocks: as `Cluster.execute`."""
        self.cluster.delete(*self._windows(key), retry=self._retry)

    # -- all ----------------------------------------------------------------------------------------------------------

    def clear(self, key: str) -> None:
        """Forget the hits of fixed and moving windows. Blocks: as `Cluster.execute`."""
        self.cluster.delete(self._key(key), retry=self._retry)

    def check(self) -> bool:
        """Return whether all primaries answer. Blocks: as `Cluster.execute`."""
        try:
            self.cluster.execute("PING")
        except GvClusterError:
            return False
        return True

    def reset(self) -> int:
        """Delete all counters with this prefix, on all nodes, and return how many. Blocks: until all were scanned."""
        return delete_prefix(self.cluster, self._key(""))

    def _key(self, key: str) -> str:
        return f"{self.key_prefix}:{key}"

    def _windows(self, key: str) -> list[str]:
        """The previous and the current one, whose hash tag is the key."""
        return [self._key(f"{{{key}}}/-1"), self._key(f"{{{key}}}")]


def _cluster_at(uri: str, options: ClusterOptions) -> Cluster:
    scheme, _, rest = uri.partition("://")
    if scheme not in _SCHEMES:
        raise ConfigError(f"the URL must begin with one of {', '.join(f'{each}://' for each in _SCHEMES)}")
    return Cluster.from_url(f"{scheme.partition('+')[2] or 'valkey'}://{rest}", **options)
