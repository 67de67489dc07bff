"""The facade: what redis-py's and valkey-py's cluster clients are to their users, over a `gvcluster.Cluster`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, ClassVar, Self

from gvcluster.cluster import Cluster
from gvcluster.compat.arguments import arguments_from
from gvcluster.compat.encoder import Encoder
from gvcluster.compat.library import Library
from gvcluster.compat.node_getters import NodeGetters
from gvcluster.compat.nodes import Nodes
from gvcluster.compat.pipeline import FacadePipeline
from gvcluster.compat.pubsub import FacadePubSub
from gvcluster.compat.routing import Queued, Router
from gvcluster.compat.sending import Sender
from gvcluster.compat.shapes import Shapes
from gvcluster.errors import GvClusterError

_POSITIONAL = ("host", "port", "startup_nodes", "cluster_error_retry_attempts", "retry")


class Facade(NodeGetters):
    """Before the library's command mixins among the bases: all that they need, and what is the cluster client's own.

    Making one does no I/O: the first command connects, and raises what is wrong with the nodes. It serves all greenlets
    and hubs of a process. After `close` it can be used again, as the originals can.
    """

    _library: ClassVar[Library]
    _pipeline_class: ClassVar[Callable[..., FacadePipeline]]
    _script_class: ClassVar[Callable[..., Any]]
    _lock_class: ClassVar[Callable[..., Any]]
    _is_async_client = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As the library's own cluster client, with its arguments.

        Args:
            args: `host`, `port`, `startup_nodes`, `cluster_error_retry_attempts`, `retry`.
            kwargs: See `gvcluster.compat.arguments`. Times are in seconds. `startup_nodes` are ClusterNodes, dicts with
                `host` and `port`, or `"host:port"`.

        Raises:
            TypeError: An argument is not known; the message has the nearest name that is.
            RedisClusterException, ValkeyClusterException: There is no node, or something is not supported.
            ConfigError: A value makes no sense.
        """
        library = self._library
        if len(args) > len(_POSITIONAL):
            raise TypeError(f"at most {len(_POSITIONAL)} arguments by their place, which are {', '.join(_POSITIONAL)}")
        given = arguments_from({**dict(zip(_POSITIONAL, args, strict=False)), **kwargs}, library)
        self._given = given
        data_error = library.error("DataError")
        self.encoder = Encoder(given.encoding, given.encoding_errors, given.decode_responses, data_error)
        self._cluster = Cluster(given.seeds, **given.options)
        shown = {"protocol": given.protocol, "decode_responses": given.decode_responses, "encoding": given.encoding}
        self.nodes_manager = Nodes(library, self._cluster_now, shown)
        self._shapes = Shapes(library, self.encoder, given.protocol, given.legacy_responses)
        router = Router(library, self.encoder, self.nodes_manager)
        self._sender = Sender(self._cluster_now, router, self.nodes_manager, self._shapes)
        self.read_from_replicas = given.options.get("read_from", "primary") != "primary"
        self.retry = kwargs.get("retry")

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> Self:
        """Make a client from `redis://user:password@host:port`, or with several hosts: `valkeys://h1:p,h2:p`.

        Args:
            url: With the query arguments of the library. They win over `kwargs`.
            kwargs: As for the constructor.

        Raises:
            ValueError: The URL makes no sense.
            TypeError, ConfigError: As the constructor.
        """
        return cls(url=url, **kwargs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self._cluster!r}>"

    def _cluster_now(self) -> Cluster:
        return self._cluster

    @property
    def gvcluster(self) -> Cluster:
        """The `gvcluster.Cluster` beneath: for what the libraries do not have."""
        return self._cluster

    # -- commands -----------------------------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute one command; the mixins' methods all come here.

        Args:
            args: The command, a subcommand in the same str as its container: `"CLUSTER INFO"`.
            options: `target_nodes`: a flag ("primaries", "replicas", "all", "random", "default-node"), a ClusterNode,
                a list or a dict of them; the rest is for the library's response callbacks.

        Returns:
            What the library's own client returns.

        Raises:
            RedisError, RedisClusterException: The library's exceptions. `__cause__` is ours; `maybe_executed` says
                whether the command may have run.

        Blocks: as `Cluster.execute`.
        """
        return self.run_queued(Queued(args, options))

    def run_queued(self, queued: Queued) -> Any:
        """Execute one command. Blocks: as `Cluster.execute`."""
        return self._sender.execute(queued)

    def _execute_pipeline_by_slot(self, command: str, slots_to_args: dict[int, Any]) -> list[Any]:
        """What the mixins use for many keys: one command for each slot."""
        pipe = self.pipeline()
        for args in slots_to_args.values():
            pipe.execute_command(command, *args)
        return pipe.execute()

    def delete(self, *keys: Any) -> Any:
        """Delete keys of any slots, and return how many there were. Blocks: as `execute_command`."""
        return self.execute_command("DEL", *keys) if keys else 0

    def unlink(self, *keys: Any) -> Any:
        """Delete keys of any slots, their memory later. Blocks: as `execute_command`."""
        return self.execute_command("UNLINK", *keys) if keys else 0

    def exists(self, *keys: Any) -> Any:
        """Return how many of the keys exist. Blocks: as `execute_command`."""
        return self.execute_command("EXISTS", *keys) if keys else 0

    def touch(self, *keys: Any) -> Any:
        """Count a use of each key, and return how many exist. Blocks: as `execute_command`."""
        return self.execute_command("TOUCH", *keys) if keys else 0

    def scan_iter(
        self, match: Any = None, count: int | None = None, _type: str | None = None, **options: Any
    ) -> Iterator[Any]:
        """Iterate over all keys, also while slots move and nodes fail; with `target_nodes` over those nodes' alone.

        Blocks: as `gvcluster.ScanIterator`.
        """
        if options.get("target_nodes") is not None:
            yield from super().scan_iter(match=match, count=count, _type=_type, **options)  # type: ignore[misc]
            return
        given = {"match": match, "count": count, "type": _type}
        try:
            for key in self._cluster.scan_iter(**{name: each for name, each in given.items() if each is not None}):
                yield self.encoder.decode(key)
        except GvClusterError as error:
            raise self._shapes.translator.translate(error, ("SCAN",)) from error

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> FacadePipeline:
        """Make an empty pipeline; with `transaction=True` it is MULTI … EXEC, of one slot.

        Raises:
            RedisClusterException, ValkeyClusterException: `shard_hint` is given.
        """
        if shard_hint:
            raise self._library.error("RedisClusterException")("shard_hint is deprecated in cluster mode")
        return self._pipeline_class(self, self._sender, self._shapes, bool(transaction))

    def transaction(self, func: Callable[[Any], Any], *watches: Any, **options: Any) -> Any:
        """Watch keys, call `func(pipe)`, execute what it has queued, and do it again where a key has changed.

        Args:
            options: `value_from_callable`: return what `func` returned. `watch_delay`: seconds before another attempt.

        Blocks: until it has succeeded.
        """
        with self.pipeline(True, options.get("shard_hint")) as pipe:
            while True:
                try:
                    return _attempt(pipe, func, watches, bool(options.get("value_from_callable")))
                except self._library.error("WatchError"):
                    pass
                if options.get("watch_delay"):
                    self.pause(options["watch_delay"])

    def pubsub(self, node: Any = None, host: str | None = None, port: int | None = None, **options: Any) -> Any:
        """Make an object for subscriptions, with the methods of the library's PubSub. See `FacadePubSub`.

        Raises:
            RedisClusterException, ValkeyClusterException: A node is named.
        """
        if node is not None or host is not None or port is not None:
            raise self._library.error("RedisClusterException")(
                "a subscription at a node of one's own choice is not supported: use client.gvcluster.connection(node)"
            )
        return FacadePubSub(self._cluster_now, self.encoder, self._shapes.translator, **options)

    def lock(self, name: Any, *args: Any, lock_class: Any = None, **options: Any) -> Any:
        """Make a Lock, with the arguments of the library's. It waits without holding up other greenlets."""
        return (lock_class or self._lock_class)(self, name, *args, **options)

    def register_script(self, script: str | bytes) -> Any:
        """Make a Script, which can be called with a client or a pipeline."""
        return self._script_class(self, script)

    def monitor(self, target_node: Any = None) -> Any:
        """Refuse: MONITOR needs a connection of its own for as long as somebody listens."""
        raise self._library.error("RedisClusterException")(
            "monitor() is not supported: use client.gvcluster.connection(node), send('MONITOR') and receive()"
        )

    # -- what the mixins and other libraries look for -----------------------------------------------------------------

    def get_encoder(self) -> Encoder:
        """What writes arguments, and reads replies."""
        return self.encoder

    def get_connection_kwargs(self) -> dict[str, Any]:
        """What of the arguments the library's modules ask for."""
        return self.nodes_manager.connection_kwargs

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Have replies to a command changed by a function."""
        self._shapes.of_cluster[command] = callback

    def load_external_module(self, funcname: str, func: Any) -> None:
        """Add a method."""
        setattr(self, funcname, func)

    def set_retry(self, retry: Any) -> None:
        """Keep it: how often something is sent again, our deadline decides."""
        self.retry = retry

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the client is closed. Blocks: exactly that."""
        self._cluster._executor_here().pause(seconds)

    # -- life ---------------------------------------------------------------------------------------------------------

    def disconnect_connection_pools(self) -> None:
        """Close the connections of this hub that nobody uses now."""
        self._cluster.close_idle()

    def close(self) -> None:
        """End all calls and connections now. The next command opens new ones. Never waits."""
        old, self._cluster = self._cluster, Cluster(self._given.seeds, **self._given.options)
        old.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _attempt(pipe: Any, func: Callable[[Any], Any], watches: tuple[Any, ...], wants_value: bool) -> Any:
    if watches:
        pipe.watch(*watches)
    value = func(pipe)
    replies = pipe.execute()
    return value if wants_value else replies
