"""A cache for Django: `CACHES = {"default": {"BACKEND": "gvcluster.contrib.django.GvClusterCache", "LOCATION": …}}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import fields
from itertools import islice
from math import ceil
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.cache.backends.redis import RedisSerializer
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from gvcluster.checks import one_of
from gvcluster.cluster import Cluster
from gvcluster.contrib.prefixes import fitting
from gvcluster.errors import ConfigError
from gvcluster.options import Options, refuse_unknown
from gvcluster.seeds import parse_url

_OWN = ("serializer", "clear")
# What is put in the place of a key and of a version to learn what KEY_FUNCTION makes of them: nobody's own.
_KEY, _VERSION, _PREFIX = "gvclustermarksthekey", 7_370_955_161_509, "gvclustermarkstheprefix"
# So many keys are deleted together by `clear`.
_AT_ONCE = 1000
# As one script, for between EXISTS and INCRBY the key may go, and would be made anew, to stay for ever. The value is
# read back, because Lua's numbers have 53 bits.
_INCREMENT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
redis.call('INCRBY', KEYS[1], ARGV[1])
return redis.call('GET', KEYS[1])
"""


class FailedKeys(list[Any]):
    """What `set_many` returns: the keys that could not be set. `errors`: key → the GvClusterError that says why."""

    def __init__(self, errors: dict[Any, Exception]) -> None:
        super().__init__(errors)
        self.errors = errors


class GvClusterCache(BaseCache):
    """Django's cache API over a `gvcluster.Cluster`, with keys in all slots.

    LOCATION: `"h1:6379,h2:6379"`, a list of nodes, a URL such as `"valkeys://user:password@h1:6379,h2:6379"`, or a list
    of URLs, as Django's own backend takes them.

    OPTIONS: those of `gvcluster.Cluster` (`gvcluster.options.Options` explains each), and besides

    - `serializer`: the dotted path of a class, a class or an object with `dumps` and `loads`. By default Django's
      RedisSerializer: pickle, but whole numbers as they are, so that the server can count.
    - `clear`: what `clear()` deletes: "prefix", the keys that begin as this cache's do, of all versions, by a scan over
      the cluster; or "database", whatever is there (FLUSHDB), as Django's own backend does.
    - `retry`: as for Cluster; or "always": what does a cache no harm when it is done twice (set, touch, delete and the
      like, but not add, incr and decr) is sent again where a lost connection leaves open whether it was done.

    Django makes an object like this for each thread or greenlet, and calls `close` after each request. All with the
    same LOCATION and OPTIONS share one Cluster of the process, which `cluster` is, and which stays open.

    Raises, beyond what Django says: ImproperlyConfigured, when the cache is first used, where LOCATION or OPTIONS make
    no sense; then GvClusterError as `Cluster.execute`, and PartialFailure where only some of many keys could be had or
    deleted.

    Blocks: all of it, but `close`, as `Cluster.execute`. The async methods wait in another thread.
    """

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = dict(params.get("OPTIONS", {}))
        try:
            refuse_unknown(options, (*(each.name for each in fields(Options)), *_OWN))
            self._serializer = _serializer(options.pop("serializer", None))
            self._clears = options.pop("clear", "prefix")
            one_of("clear", self._clears, ("prefix", "database"))
            self._again: Any = {"retry": options.pop("retry")} if options.get("retry") == "always" else {}
            self._cluster = _cluster_for(location, options)
        except ConfigError as error:
            raise ImproperlyConfigured(f"a cache of {type(self).__name__}: {error}") from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key_prefix!r} over {self._cluster!r}>"

    @property
    def cluster(self) -> Cluster:
        """The Cluster beneath: for what Django's API does not have. Other caches and requests use it, too."""
        return self._cluster

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Seconds to keep a value: None is for ever, 0 not at all."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else max(0, timeout)

    # -- one key ------------------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        value = self._cluster.execute("GET", self.make_and_validate_key(key, version=version))
        return default if value is None else self._serializer.loads(value)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._cluster.execute(*self._setting(key, value, timeout, version), **self._again)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name, made, *rest = self._setting(key, value, timeout, version)
        if name != "SET":  # it would be gone at once: only whether there is one is left to tell
            return not self._cluster.execute("EXISTS", made)
        return self._cluster.execute(name, made, *rest, "NX") is not None

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        made = self.make_and_validate_key(key, version=version)
        seconds = self.get_backend_timeout(timeout)
        if seconds is not None:
            return bool(self._cluster.execute("PEXPIRE", made, _milliseconds(seconds), **self._again))
        with self._cluster.pipeline(**self._again) as pipe:
            pipe.append("PERSIST", made)  # it says 0 as well of a key that is kept for ever already
            pipe.append("EXISTS", made)
            pipe.get_reply()
            return bool(pipe.get_reply())

    def delete(self, key: Any, version: int | None = None) -> bool:
        return bool(self._cluster.execute("UNLINK", self.make_and_validate_key(key, version=version), **self._again))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return bool(self._cluster.execute("EXISTS", self.make_and_validate_key(key, version=version)))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        made = self.make_and_validate_key(key, version=version)
        value = self._cluster.script(_INCREMENT)(keys=[made], args=[delta])
        if value is None:
            raise ValueError(f"Key {key!r} not found")
        return int(value)

    # -- many keys ----------------------------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        asked = {self.make_and_validate_key(key, version=version): key for key in keys}
        values = self._cluster.mget(list(asked)) if asked else []
        found = zip(asked.values(), values, strict=True)
        return {key: self._serializer.loads(value) for key, value in found if value is not None}

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Set all of them, in one write for each node. Returns FailedKeys: those that could not be set."""
        given = list(data.items())
        with self._cluster.pipeline(**self._again) as pipe:
            for key, value in given:
                pipe.append(*self._setting(key, value, timeout, version))
            replies = pipe.execute()
        outcomes = zip(given, replies, strict=True)
        return FailedKeys({key: reply for (key, _), reply in outcomes if isinstance(reply, Exception)})

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        self._unlink([self.make_and_validate_key(key, version=version) for key in keys])

    def clear(self) -> None:
        """Delete what the option `clear` says.

        Raises:
            ImproperlyConfigured: With "prefix", KEY_FUNCTION makes keys that do not tell whose they are.
        """
        if self._clears == "database":
            self._cluster.execute("FLUSHDB", "ASYNC", **self._again)
            return
        glob, form = self._form()
        found = (key for key in self._cluster.scan_iter(match=glob) if form.fullmatch(key))
        while keys := list(islice(found, _AT_ONCE)):
            self._unlink(keys)

    # -- from asyncio, what Django's BaseCache would do in several steps -----------------------------------------------

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        outcome: dict[Any, Any] = await sync_to_async(self.get_many)(keys, version)
        return outcome

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        outcome: list[Any] = await sync_to_async(self.set_many)(data, timeout, version)
        return outcome

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        await sync_to_async(self.delete_many)(keys, version)

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        outcome: bool = await sync_to_async(self.has_key)(key, version)
        return outcome

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        outcome: int = await sync_to_async(self.incr)(key, delta, version)
        return outcome

    # -- inside -------------------------------------------------------------------------------------------------------

    def _setting(self, key: Any, value: Any, timeout: Any, version: int | None) -> tuple[Any, ...]:
        """The command that makes it so: SET, or UNLINK where it would be gone at once."""
        made = self.make_and_validate_key(key, version=version)
        data = self._serializer.dumps(value)
        seconds = self.get_backend_timeout(timeout)
        if seconds is None:
            return "SET", made, data
        return ("SET", made, data, "PX", _milliseconds(seconds)) if seconds else ("UNLINK", made)

    def _unlink(self, keys: list[Any]) -> None:
        if keys:
            self._cluster.unlink(*keys, **self._again)

    def _form(self) -> tuple[str, re.Pattern[bytes]]:
        """What the keys of this cache look like, of all versions: a glob for the servers, which fits some more."""
        marked = self.make_key(_KEY, version=_VERSION)
        parts = re.split(f"({re.escape(_KEY)}|{_VERSION})", marked) if isinstance(marked, str) else []
        if parts.count(_KEY) != 1 or not self._shows(parts[::2]):
            raise ImproperlyConfigured(
                "clear() cannot tell this cache's keys from others by what KEY_FUNCTION makes of them;"
                ' OPTIONS={"clear": "database"} deletes whatever is there'
            )
        return fitting(parts, _KEY, str(_VERSION), str(self.version))

    def _shows(self, literals: list[str]) -> bool:
        """Whether what stands around key and version is this cache's: its KEY_PREFIX, or else a word."""
        if not any(literals):
            return False
        other = copy(self)
        other.key_prefix = _PREFIX
        return _PREFIX in other.make_key(_KEY) or any(map(str.isalnum, "".join(literals)))


def close_clusters() -> None:
    """Close the clusters of all caches of this process: for the end of a test run. Never waits.

    Caches that were used before can not be used afterwards; those that Django makes then can.
    """
    while _CLUSTERS:
        _CLUSTERS.pop()[-1].close()


# LOCATION, OPTIONS, and the Cluster that all caches with these share.
_CLUSTERS: list[tuple[Any, dict[str, Any], Cluster]] = []


def _cluster_for(location: Any, options: dict[str, Any]) -> Cluster:
    """The one of this process. Without a lock, which would be of the wrong kind before or after patching."""
    if not isinstance(location, str) and isinstance(location, Iterable):
        location = tuple(location)
    found = _known(location, options)
    if found is not None:
        return found
    made = _new_cluster(location, options)
    _CLUSTERS.append((location, dict(options), made))
    return _known(location, options) or made  # the first, if two threads came here: the other one never connects


def _known(location: Any, options: dict[str, Any]) -> Cluster | None:
    for its_location, its_options, cluster in _CLUSTERS:
        if its_location == location and its_options == options:
            return cluster
    return None


def _new_cluster(location: Any, options: dict[str, Any]) -> Cluster:
    if not location:
        raise ConfigError('LOCATION names no node: write "host:port,host:port"')
    nodes = re.split(r"[;,]\s*(?=[a-z+]+://)", location) if isinstance(location, str) else location
    if isinstance(nodes, Iterable) and any("://" in str(each) for each in nodes):
        location, told = _of_urls(nodes)
        options = {**told, **options}
    return Cluster(location.replace(";", ",") if isinstance(location, str) else location, **options)


def _of_urls(urls: Iterable[Any]) -> tuple[str, Any]:
    """The seeds and the options of some URLs of one cluster."""
    seeds, told = zip(*map(parse_url, urls), strict=True)
    if any(each != told[0] for each in told):
        raise ConfigError("the URLs of LOCATION may differ in the node only: their options are those of the cluster")
    return ",".join(seeds), told[0]


def _serializer(given: Any) -> Any:
    if isinstance(given, str):
        try:
            given = import_string(given)
        except ImportError as error:
            raise ConfigError(f"serializer: {error}") from error
    if callable(given):
        given = given()
    made = RedisSerializer() if given is None else given
    if not (hasattr(made, "dumps") and hasattr(made, "loads")):
        raise ConfigError(f"serializer must have dumps and loads: {type(made).__name__} has not")
    return made


def _milliseconds(seconds: float) -> int:
    return ceil(seconds * 1000)
