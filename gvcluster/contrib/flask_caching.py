"""Flask-Caching over a cluster: CACHE_TYPE = "gvcluster.contrib.flask_caching.GvClusterCache"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Self, Unpack, cast

from cachelib.serializers import RedisSerializer
from flask_caching.backends.base import BaseCache

from gvcluster.checks import one_of
from gvcluster.cluster import Cluster
from gvcluster.contrib.prefixes import delete_prefix
from gvcluster.errors import ConfigError, GvClusterError, PartialFailure
from gvcluster.options import ClusterOptions
from gvcluster.seeds import Seeds, parse_url


class GvClusterCache(BaseCache):
    """A cache whose keys may be in any slots, for all greenlets of a process.

        app.config["CACHE_TYPE"] = "gvcluster.contrib.flask_caching.GvClusterCache"
        app.config["CACHE_REDIS_CLUSTER"] = "10.0.0.1:6379,10.0.0.2:6379"

    Settings, those of Flask-Caching's RedisClusterCache:

        CACHE_REDIS_CLUSTER     "host:port,host:port"
        CACHE_REDIS_URL         or a URL, as for `Cluster.from_url`: "valkeys://user:password@h1:p,h2:p"
        CACHE_REDIS_PASSWORD    where the URL has none
        CACHE_KEY_PREFIX        in front of each key; a function is asked for it each time
        CACHE_DEFAULT_TIMEOUT   seconds; 0: for ever
        CACHE_IGNORE_ERRORS     whether `delete_many` is silent of keys that it could not delete
        CACHE_OPTIONS           a dict of what `GvClusterCache` takes: `in_doubt`, `cluster`, options of `Cluster`

    Keys and values are those of RedisClusterCache: applications that use the one and the other share a cache.

    Making one does no I/O. What cannot be had raises a GvClusterError; in `cached` and `memoize` Flask-Caching logs it
    and calls the function.

    Attributes:
        cluster: The `gvcluster.Cluster`, to be closed by who closes anything.
        key_prefix: In front of each key.
        serializer: Makes bytes of values. CACHE_SERIALIZER puts another one here.
    """

    serializer = RedisSerializer()

    def __init__(
        self,
        cluster: Cluster | Seeds,
        default_timeout: int | timedelta = 300,
        key_prefix: str | Callable[[], str] = "",
        ignore_delete_many_errors: bool = False,
        in_doubt: str = "raise",
        **options: Unpack[ClusterOptions],
    ) -> None:
        """Name the cluster.

        Args:
            cluster: A URL, seeds, or a `Cluster` that exists already, which then takes no options here.
            default_timeout: Seconds; 0: for ever.
            key_prefix: A str, or a function that returns one.
            ignore_delete_many_errors: See `delete_many`.
            in_doubt: What becomes of a write when nobody knows whether the server has executed it. "raise": its error
                is raised, with `maybe_executed`. "repeat": set, set_many, delete, delete_many and unlink are sent
                again, and may thus undo what another has written in between; add, inc and dec raise.
            options: As for `Cluster`.

        Raises:
            ConfigError: Something makes no sense.
        """
        super().__init__(default_timeout, ignore_delete_many_errors)
        one_of("in_doubt", in_doubt, ("raise", "repeat"))
        self._retry = "always" if in_doubt == "repeat" else None
        self.key_prefix = key_prefix
        self.cluster = _cluster_of(cluster, options)

    @classmethod
    def factory(cls, app: Any, config: Mapping[str, Any], args: list[Any], kwargs: dict[str, Any]) -> Self:
        """What Flask-Caching calls: make one from an application's settings.

        Args:
            app: The application.
            config: Its settings.
            args, kwargs: CACHE_ARGS and CACHE_OPTIONS, which win.

        Raises:
            ConfigError: No cluster is named, or something makes no sense.
        """
        given = {"key_prefix": config.get("CACHE_KEY_PREFIX") or "", **kwargs}
        if not args and "cluster" not in given:
            given["cluster"] = _named(config)
        if _wants_password(args[0] if args else given["cluster"], given):
            given["password"] = config.get("CACHE_REDIS_PASSWORD") or None
        return cls(*args, **given)

    def get(self, key: str) -> Any:
        """Return the value, or None. Blocks: as `Cluster.execute`."""
        return self._loads(self.cluster.execute("GET", self._key(key)))

    def get_many(self, *keys: str) -> list[Any]:
        """Return the value of each key, or None, in the order of the keys.

        Raises:
            PartialFailure: Some could not be had; `results` has the others, not yet read by the serializer.

        Blocks: as `Cluster.mget`.
        """
        return [self._loads(value) for value in self.cluster.mget(map(self._key, keys))]

    def set(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value for so many seconds, 0: for ever; None: the default timeout. Blocks: as `Cluster.execute`."""
        self.cluster.execute(*self._set(key, value, timeout), retry=self._retry)
        return True

    def add(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value unless there is one, and return whether there was none. Blocks: as `Cluster.execute`."""
        return self.cluster.execute(*self._set(key, value, timeout), "NX") is not None

    def set_many(self, mapping: Mapping[str, Any], timeout: int | timedelta | None = None) -> list[str]:
        """Store values, and return their keys.

        Raises:
            PartialFailure: Some could not be stored; `results` has an error or b"OK" for each.

        Blocks: as `Pipeline.execute`.
        """
        with self.cluster.pipeline(retry=self._retry) as pipe:
            for key, value in mapping.items():
                pipe.append(*self._set(key, value, timeout))
            pipe.execute(raise_errors=True)
        return list(mapping)

    def delete(self, key: str) -> bool:
        """Delete a key, and return whether there was one. Blocks: as `Cluster.execute`."""
        return bool(self.cluster.delete(self._key(key), retry=self._retry))

    def delete_many(self, *keys: str) -> list[str]:
        """Delete keys, and return those that are gone.

        Raises:
            RuntimeError: Not all could be deleted; `__cause__` says why. Not with `ignore_delete_many_errors`.

        Blocks: as `Cluster.delete`.
        """
        try:
            self.cluster.delete(*map(self._key, keys), retry=self._retry)
        except GvClusterError as error:
            if not self.ignore_delete_many_errors:
                raise RuntimeError(f"not all of {len(keys)} keys could be deleted: {error}") from error
            if not isinstance(error, PartialFailure):
                return []
            outcomes = zip(keys, error.results, strict=True)
            return [key for key, outcome in outcomes if not isinstance(outcome, GvClusterError)]
        return list(keys)

    def unlink(self, *keys: str) -> int:
        """Delete keys, their memory later, and return how many there were. Blocks: as `Cluster.unlink`."""
        return self.cluster.unlink(*map(self._key, keys), retry=self._retry)

    def has(self, key: str) -> bool:
        """Return whether there is such a key. Blocks: as `Cluster.execute`."""
        return bool(self.cluster.exists(self._key(key)))

    def clear(self) -> bool:
        """Delete all keys with the prefix, on all nodes, and return True. Keys that are stored meanwhile may stay.

        Raises:
            ConfigError: There is no prefix: whatever else is in the cluster would be deleted.

        Blocks: until all nodes were scanned.
        """
        delete_prefix(self.cluster, self._key(""))
        return True

    def inc(self, key: str, delta: int = 1) -> int:
        """Add to a number, and return it; where there is none it is 0, and stays for ever.

        Raises:
            ReplyError: The value is no number.

        Blocks: as `Cluster.execute`.
        """
        return cast(int, self.cluster.execute("INCRBY", self._key(key), delta))

    def dec(self, key: str, delta: int = 1) -> int:
        """Subtract from a number; otherwise as `inc`. Blocks: as `Cluster.execute`."""
        return self.inc(key, -delta)

    def _key(self, key: str) -> str:
        prefix = self.key_prefix if isinstance(self.key_prefix, str) else self.key_prefix()
        return f"{prefix}{key}"

    def _set(self, key: str, value: Any, timeout: int | timedelta | None) -> tuple[Any, ...]:
        """The command. Its time is relative: the servers' clocks decide, not ours."""
        seconds = self._normalize_timeout(timeout)
        lasting = () if seconds in (0, -1) else ("EX", seconds)
        return ("SET", self._key(key), self.serializer.dumps(value), *lasting)

    def _loads(self, value: bytes | None) -> Any:
        return None if value is None else self.serializer.loads(value)


def _named(config: Mapping[str, Any]) -> str:
    cluster: str | None = config.get("CACHE_REDIS_URL") or config.get("CACHE_REDIS_CLUSTER")
    if not cluster:
        raise ConfigError('no cluster is named: CACHE_REDIS_CLUSTER = "host:port,host:port"')
    return cluster


def _wants_password(cluster: Cluster | Seeds, options: Mapping[str, Any]) -> bool:
    """Whether neither the URL nor the options have one, and the Cluster is still to be made."""
    if isinstance(cluster, Cluster) or "password" in options or "credentials" in options:
        return False
    return not (isinstance(cluster, str) and "://" in cluster and "password" in parse_url(cluster)[1])


def _cluster_of(given: Cluster | Seeds, options: ClusterOptions) -> Cluster:
    if isinstance(given, Cluster):
        if options:
            raise ConfigError(f"a Cluster that exists takes no options, such as {next(iter(options))}")
        return given
    if isinstance(given, str) and "://" in given:
        return Cluster.from_url(given, **options)
    return Cluster(given, **options)
