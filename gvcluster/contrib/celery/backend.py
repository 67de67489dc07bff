"""ClusterBackend: where workers put results, and clients find them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from celery import states
from celery.backends.asynchronous import AsyncBackendMixin
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import BackendStoreError
from celery.utils.log import get_logger
from celery.utils.time import humanize_seconds
from kombu.utils.encoding import bytes_to_str, ensure_bytes
from kombu.utils.functional import retry_over_time

from gvcluster.cluster import Cluster
from gvcluster.contrib.celery.chords import Chords
from gvcluster.contrib.celery.consumer import ResultConsumer
from gvcluster.contrib.celery.passing import PASSING, is_refusal
from gvcluster.contrib.celery.settings import cluster_from, transport_options, without_secrets

logger = get_logger(__name__)

# The longest string of the servers, in bytes.
_LONGEST = 512 * 2**20
# A result of more bytes is not published itself, only that it is there: a server cuts off a subscriber for whom it
# keeps 32 MB, or 8 MB for a minute.
_PUSHED = 64 * 1024
# So many keys are asked for at once.
_PAGE = 1000

# ARGV: the value; the seconds to live, 0 for ever; what to publish: nothing, the "value", or the "news" alone. The
# result is stored even where it may not be published: SPUBLISH came with Redis 7.0, and users need a right to it.
_STORE = """
if tonumber(ARGV[2]) > 0 then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else
    redis.call('SET', KEYS[1], ARGV[1])
end
if ARGV[3] == '' then
    return 0
end
local told = redis.pcall('SPUBLISH', KEYS[1], ARGV[3] == 'value' and ARGV[1] or '')
if type(told) == 'table' then
    return tostring(told.err)
end
return told
"""


class ClusterBackend(Chords, BaseKeyValueStoreBackend, AsyncBackendMixin):
    """Task results in a cluster, pushed to who waits for them over shard channels.

    One serves all threads, hubs and forked children of a process. Making one does no I/O.

    Attributes:
        client: The `gvcluster.Cluster` that it uses.
    """

    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True
    connection_errors = PASSING

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        """Read the settings.

        Args:
            app: The Celery app.
            url: `gvcluster://user:password@h1:7000,h2:7001/0?timeout=5`, or after `gvcluster+` any URL that
                `Cluster.from_url` takes, such as `valkeys://…` with TLS.
            kwargs: As for Celery's other backends.

        Raises:
            ImproperlyConfigured: The URL or a setting makes no sense. The message never shows the URL.
        """
        kwargs.setdefault("expires_type", int)
        super().__init__(app, url=url, **kwargs)
        conf = app.conf
        self.transport = transport_options(conf)
        self.client = cluster_from(conf, url, self.transport)
        self._policy = {**self.retry_policy, **self.transport.retry_policy}
        self.thread_safe = conf.get("result_backend_thread_safe", True)
        failure_expires = conf.get("result_failure_expires")
        self.failure_expires = (
            self.expires if failure_expires is None else self.prepare_expires(failure_expires, type=int)
        )
        self._store_script = self.client.script(_STORE)
        self._chord_scripts = self.chord_scripts(self.client)
        self._consumers: dict[int, ResultConsumer] = {}
        self._has_warned = False
        weakref.finalize(self, _let_go, self.client).atexit = False

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires, "url": self.url})

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL, without the password unless asked for it."""
        return self.url if include_password and self.url else without_secrets(self.url)

    def close(self) -> None:
        """End all connections. At the end of the process nobody need call it. Never waits."""
        for consumer in self._consumers.values():
            consumer.stop()
        self.client.close()

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _get_key_for(self, prefix: bytes, id: Any, key: Any = "") -> bytes:
        """The prefix and the id, in braces unless the keys are to be those of Celery's own backends."""
        tag = b"{%b}" if self.transport.is_tagged else b"%b"
        made: bytes = prefix + tag % (id if isinstance(id, bytes) else ensure_bytes(str(id))) + ensure_bytes(key)
        return made

    def _strip_prefix(self, key: Any) -> str:
        name: str = bytes_to_str(super()._strip_prefix(key))
        return name[1:-1] if self.transport.is_tagged and name[:1] + name[-1:] == "{}" else name

    # -- values -------------------------------------------------------------------------------------------------------

    def get(self, key: Any) -> Any:
        """Return the value of a key, None if there is none. Blocks: as `Cluster.execute`."""
        return self.client.execute("GET", key)

    def mget(self, keys: Iterable[Any], timeout: float | None = None) -> list[Any]:
        """Return the values of keys, in their order. Blocks: as `Cluster.mget`, for each thousand of them."""
        keys = list(keys)
        pages = (keys[at : at + _PAGE] for at in range(0, len(keys), _PAGE))
        return [value for page in pages for value in self.client.mget(page, timeout=timeout)]

    def set(self, key: Any, value: Any, expires: int | None = None, **retry_policy: Any) -> None:
        """Store a value, for `expires` seconds: None is the setting, 0 for ever. Blocks: until stored, or given up."""
        self.ensure(self._write, (key, value, expires), **retry_policy)

    def delete(self, key: Any) -> None:
        """Delete a key. Blocks: as `Cluster.execute`."""
        self.client.execute("DEL", key, retry="always")

    def incr(self, key: Any) -> Any:
        """Count up, and return the count. Blocks: as `Cluster.execute`."""
        return self.client.execute("INCR", key)

    def expire(self, key: Any, value: Any) -> Any:
        """Have a key live for so many seconds from now on; None or 0: for ever. Blocks: as `Cluster.execute`."""
        command = ("EXPIRE", key, int(value)) if value else ("PERSIST", key)
        return self.client.execute(*command, retry="always")

    def _write(self, key: Any, value: Any, expires: int | None = None) -> None:
        """One attempt. May be repeated: the same value is stored again."""
        key, value = ensure_bytes(key), ensure_bytes(value)
        if len(value) > _LONGEST:
            raise BackendStoreError(f"a result of {len(value):,} bytes: the servers take at most {_LONGEST:,}")
        seconds = self.expires if expires is None else expires
        args = [value, int(seconds or 0), self._what_to_tell(key, value)]
        answer = self._store_script(keys=[key], args=args, retry="always")
        if isinstance(answer, bytes) and not self._has_warned:
            self._has_warned = True
            logger.warning("results are stored, and not pushed to who waits for them: %s", bytes_to_str(answer))

    def _what_to_tell(self, key: bytes, value: bytes) -> str:
        if not self.transport.is_pushed or not key.startswith(self.task_keyprefix):
            return ""
        return "value" if len(value) <= _PUSHED else "news"

    def _set_with_state(self, key: Any, value: Any, state: str) -> None:
        self._write(key, value, self.failure_expires if state == states.FAILURE else None)

    def _store_result(self, *args: Any, **kwargs: Any) -> Any:
        return self.ensure(partial(super()._store_result, *args, **kwargs))

    def _save_group(self, group_id: str, result: Any) -> Any:
        return self.ensure(super()._save_group, (group_id, result))

    # -- trying again -------------------------------------------------------------------------------------------------

    def ensure(self, fun: Callable[..., Any], args: tuple[Any, ...] = (), **policy: Any) -> Any:
        """Call it, and again after errors that pass, as the transport option `retry_policy` says.

        Each call has the time of the cluster's option `timeout` for itself, in which the client follows failovers.

        Blocks: until it succeeds, or fails for good.
        """
        policy = {**self._policy, **policy}
        note = partial(self._note_failure, policy.get("max_retries"))
        return retry_over_time(fun, self.connection_errors, args, {}, note, **policy)

    def _note_failure(self, most: int | None, error: Exception, intervals: Any, retries: int) -> float:
        if is_refusal(error):
            raise error
        pause: float = next(intervals)
        when = humanize_seconds(pause, "in ") or "now"
        logger.error("The cluster did not answer (%s): retry %s/%s %s", error, retries + 1, most or "Inf", when)
        return pause

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether `result_backend_always_retry` may have it tried again."""
        return isinstance(exc, self.connection_errors) and not is_refusal(exc)

    # -- waiting for results ------------------------------------------------------------------------------------------

    @property
    def result_consumer(self) -> ResultConsumer:
        """What receives results in this process: a forked child has one of its own."""
        pid = os.getpid()
        consumer = self._consumers.get(pid)
        if consumer is None:
            made = ResultConsumer(self, self.app, self.accept, self._pending_results, self._pending_messages)
            consumer = self._consumers.setdefault(pid, made)
            for other in [each for each in self._consumers if each != pid]:
                self._consumers.pop(other, None)
        return consumer

    def iter_native(self, result: Any, no_ack: bool = True, **kwargs: Any) -> Iterator[Any]:
        """Yield the id and the outcome of each as they come. Blocks: until the next one comes."""
        if result.results:  # Celery's own fails for none
            yield from super().iter_native(result, no_ack=no_ack, **kwargs)

    def on_result_fulfilled(self, result: Any) -> None:
        """Nobody waits for it any more. Comes from finalizers too: never waits."""
        consumer = self._consumers.get(os.getpid())
        if consumer is not None:
            consumer.cancel_for(result.id)

    def forget(self, task_id: str) -> None:
        """Delete a result. Blocks: as `Cluster.execute`."""
        super().forget(task_id)
        consumer = self._consumers.get(os.getpid())
        if consumer is not None:
            consumer.cancel_for(task_id)


def _let_go(cluster: Cluster) -> None:
    """The backend was collected: have its cluster closed. A collection strikes anywhere: never switches."""
    for runtime in tuple(cluster._state.runtimes):
        if not runtime.is_over():
            runtime.loop.from_other_threads(cluster.close)
            return
    cluster.close()
