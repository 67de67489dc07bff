"""The libraries' PubSub, over `gvcluster.PubSub`: subscriptions come back by themselves, sharded ones too."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, Self

from gvcluster.cluster import Cluster
from gvcluster.compat.encoder import Encoder
from gvcluster.compat.listener import Listener
from gvcluster.compat.translation import Translator
from gvcluster.core.subscriptions import Gap, Message
from gvcluster.errors import GvClusterError
from gvcluster.options import refuse_unknown
from gvcluster.pubsub import PubSub

# The least that can be waited: for who asks whether there is something now.
_NOW = 0.001
# Seconds between two looks whether another greenlet has subscribed to anything.
_LOOK = 0.05
_KNOWN = ("ignore_subscribe_messages", "push_handler_func", "shard_hint", "encoder", "event_dispatcher")

Handler = Callable[[dict[str, Any]], object]


class FacadePubSub:
    """Subscriptions. Made by `pubsub()` of a facade; for one greenlet at a time.

    Messages are dicts with `type`, `pattern`, `channel` and `data`, or go to the handler of their subscription.
    Confirmations are queued when the server has confirmed: `subscribe` waits for that. Where messages may be missing
    (`gvcluster.Gap`), nothing is told, as the libraries tell nothing.
    """

    def __init__(
        self, cluster: Callable[[], Cluster], encoder: Encoder, translator: Translator, **options: Any
    ) -> None:
        refuse_unknown(options, _KNOWN)
        self._cluster, self.encoder, self._translator = cluster, encoder, translator
        self.ignore_subscribe_messages = bool(options.get("ignore_subscribe_messages"))
        self._pubsub: PubSub | None = None
        self.channels: dict[Any, Handler | None] = {}
        self.patterns: dict[Any, Handler | None] = {}
        self.shard_channels: dict[Any, Handler | None] = {}
        self._early: dict[tuple[str, Any], Handler | None] = {}  # of what is not confirmed yet
        self._confirmations: deque[dict[str, Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()

    @property
    def subscribed(self) -> bool:
        """Whether there is any subscription, or a confirmation that nobody has taken."""
        return bool(self.channels or self.patterns or self.shard_channels or self._confirmations)

    # -- subscribing --------------------------------------------------------------------------------------------------

    def subscribe(self, *args: Any, **handlers: Handler) -> None:
        """Subscribe to channels; those given as keywords have a handler. Blocks: until the server has confirmed."""
        self._subscribe("subscribe", self.channels, args, handlers)

    def psubscribe(self, *args: Any, **handlers: Handler) -> None:
        """Subscribe to patterns. Blocks: as `subscribe`."""
        self._subscribe("psubscribe", self.patterns, args, handlers)

    def ssubscribe(self, *args: Any, target_node: Any = None, **handlers: Handler) -> None:
        """Subscribe to shard channels, of any slots. `target_node` is not needed. Blocks: as `subscribe`."""
        self._subscribe("ssubscribe", self.shard_channels, args, handlers)

    def unsubscribe(self, *args: Any) -> None:
        """End subscriptions to these channels, or to all. Never waits."""
        self._unsubscribe("unsubscribe", self.channels, args)

    def punsubscribe(self, *args: Any) -> None:
        """End subscriptions to these patterns, or to all. Never waits."""
        self._unsubscribe("punsubscribe", self.patterns, args)

    def sunsubscribe(self, *args: Any, target_node: Any = None) -> None:
        """End subscriptions to these shard channels, or to all. Never waits."""
        self._unsubscribe("sunsubscribe", self.shard_channels, args)

    def _subscribe(
        self, kind: str, known: dict[Any, Handler | None], args: tuple[Any, ...], handlers: Mapping[str, Handler]
    ) -> None:
        given: dict[Any, Handler | None] = {}
        for each in _listed(args):
            name, handler = (each, None) if isinstance(each, str | bytes) else _subscription(each)
            given[self._name(name)] = handler
        given.update({self._name(name): handler for name, handler in handlers.items()})
        self._ask(kind, given)
        for name, handler in given.items():
            known[name] = handler
            self._confirm(kind, name)

    def _ask(self, kind: str, given: Mapping[Any, Handler | None]) -> None:
        """Wait for the confirmation of all; another greenlet that listens may get messages of some before that."""
        if self._pubsub is None or self._pubsub.closed:
            self.reset()
            self._pubsub = self._cluster().pubsub()
        early = {(kind, name): handler for name, handler in given.items()}
        self._early.update(early)
        try:
            getattr(self._pubsub, kind)(*map(self.encoder.encode, given))
        except GvClusterError as error:
            raise self._translator.translate(error) from error
        finally:
            for each in early:
                self._early.pop(each, None)

    def _unsubscribe(self, kind: str, known: dict[Any, Handler | None], args: tuple[Any, ...]) -> None:
        names = [self._name(name) for name in _listed(args)] or list(known)
        if self._pubsub is None or not names:
            return
        try:
            getattr(self._pubsub, kind)(*map(self.encoder.encode, names))
        except GvClusterError as error:
            raise self._translator.translate(error) from error
        for name in names:
            known.pop(name, None)
            self._confirm(kind, name)

    def _name(self, name: Any) -> Any:
        """A name as messages have it."""
        return self.encoder.decode(self.encoder.encode(name))

    def _confirm(self, kind: str, name: Any) -> None:
        sharded = kind in ("ssubscribe", "sunsubscribe")
        count = len(self.shard_channels) if sharded else len(self.channels) + len(self.patterns)
        self._confirmations.append({"type": kind, "pattern": None, "channel": name, "data": count})
        if self._pubsub is not None:
            self._pubsub._subscriber.wake()

    # -- receiving ----------------------------------------------------------------------------------------------------

    def get_message(self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        """Return the next message, or None: nothing came in time, or a handler has got it, or it is to be ignored.

        Args:
            ignore_subscribe_messages: Return None for confirmations.
            timeout: Seconds; None: however long it takes.

        Blocks: at most so long.
        """
        item = None
        if not self.subscribed:
            self._wait_subscribed(timeout)
        elif not self._confirmations:
            item = self._next(timeout)
        if item is None and self._confirmations:
            told = self._confirmations.popleft()
            return None if ignore_subscribe_messages or self.ignore_subscribe_messages else told
        return self._handled(item)

    def get_sharded_message(
        self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0, target_node: Any = None
    ) -> Any:
        """As `get_message`: shard channels need no call of their own. Blocks: as that."""
        return self.get_message(ignore_subscribe_messages, timeout)

    def listen(self) -> Iterator[Any]:
        """Iterate over messages, until nothing is subscribed to any more. Blocks: for each as long as it takes."""
        while self.subscribed:
            message = self.get_message(timeout=None)
            if message is not None:
                yield message

    def _wait_subscribed(self, timeout: float | None) -> None:
        """Wait until another greenlet has subscribed to something, or the time is over, or the client is closed."""
        executor, ends = self._cluster()._executor_here(), inf if timeout is None else monotonic() + timeout
        while not self.subscribed and monotonic() < ends and not executor.runtime.ended.is_set():
            executor.pause(min(_LOOK, max(0.0, ends - monotonic())))

    def _next(self, timeout: float | None) -> Message | None:
        """The next message; None where there is none in time, or a confirmation has come first."""
        pubsub = self._pubsub  # another greenlet may close it, and this one is told so
        assert pubsub is not None
        ends = None if timeout is None else monotonic() + max(timeout, _NOW)
        while True:
            left = None if ends is None else ends - monotonic()
            if left is not None and left <= 0:
                return None
            try:
                item = pubsub.get(timeout=left)
            except GvClusterError as error:
                raise self._translator.translate(error) from error
            if not isinstance(item, Gap):
                return item

    def _handled(self, item: Message | None) -> Any:
        if item is None:
            return None
        decode = self.encoder.decode
        channel, pattern = decode(item.channel), item.pattern if item.pattern is None else decode(item.pattern)
        message = {"type": item.kind, "pattern": pattern, "channel": channel, "data": decode(item.data)}
        if item.pattern is not None:
            handler = self._handler("psubscribe", self.patterns, pattern)
        elif item.shard:
            handler = self._handler("ssubscribe", self.shard_channels, channel)
        else:
            handler = self._handler("subscribe", self.channels, channel)
        if handler is None:
            return message
        handler(message)
        return None

    def _handler(self, kind: str, known: Mapping[Any, Handler | None], name: Any) -> Handler | None:
        return known.get(name) or self._early.get((kind, name))

    def run_in_thread(
        self,
        sleep_time: float = 0.0,
        daemon: bool = False,
        exception_handler: Callable[..., object] | None = None,
        **_: Any,
    ) -> Listener:
        """Have a greenlet call the handlers. All subscriptions must have one.

        Args:
            sleep_time: Seconds that one look for a message may take.
            exception_handler: `exception_handler(error, pubsub, listener)`.

        Raises:
            PubSubError: A subscription has no handler.
        """
        for kind, known in (
            ("Channel", self.channels),
            ("Pattern", self.patterns),
            ("Shard Channel", self.shard_channels),
        ):
            for name, handler in known.items():
                if handler is None:
                    raise self._translator.error("PubSubError")(f"{kind}: '{name}' has no handler registered")
        loop = self._cluster()._executor_here().runtime.loop
        return Listener(self, loop, sleep_time, exception_handler)

    # -- life ---------------------------------------------------------------------------------------------------------

    def ping(self, message: Any = None) -> bool:
        """Return True: whether the nodes are there is asked by the subscriptions themselves."""
        return True

    def check_health(self) -> None:
        """Nothing: the subscriptions do that themselves."""

    def reset(self) -> None:
        """End all subscriptions. Never waits."""
        pubsub, self._pubsub = self._pubsub, None
        for known in (self.channels, self.patterns, self.shard_channels):
            known.clear()
        self._confirmations.clear()
        if pubsub is not None:
            pubsub.close()

    def close(self) -> None:
        """End all subscriptions. Never waits."""
        self.reset()


def _listed(args: tuple[Any, ...]) -> list[Any]:
    """The names, also where the first argument is a list of them."""
    if args and isinstance(args[0], list | tuple | set):
        return [*args[0], *args[1:]]
    return list(args)


def _subscription(each: Any) -> tuple[Any, Handler | None]:
    """redis 8's Subscription(name, handler); anything else is a name."""
    return (each.name, each.handler) if hasattr(each, "handler") else (each, None)
