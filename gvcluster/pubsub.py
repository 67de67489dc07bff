"""PubSub: subscriptions that follow their slots, come back by themselves, and say where messages may be missing."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypedDict

from gevent.hub import get_hub

from gvcluster.checks import callback, seconds, whole_number
from gvcluster.core.subscriptions import Gap, Key, Kind, Message
from gvcluster.errors import ClosedError, ConfigError
from gvcluster.net.executor import Executor
from gvcluster.net.subscriber import Settings, Subscriber
from gvcluster.options import refuse_unknown

# What an inbox may hold. Redis cuts off a subscriber for whom it keeps 32 MB; here a Gap tells what was dropped.
MAX_MESSAGES, MAX_BYTES = 10_000, 64 * 1024 * 1024
# Seconds of silence after which a node is asked whether it is there.
PING_INTERVAL = 10.0

OnMessage = Callable[[Message | Gap], object]


class PubSubOptions(TypedDict, total=False):
    """The keyword arguments of `Cluster.pubsub`, which explains each."""

    on_message: OnMessage | None
    max_messages: int
    max_bytes: int
    ping_interval: float


class PubSub:
    """Subscriptions to channels, patterns and shard channels. Made by `Cluster.pubsub`.

        with cluster.pubsub() as pubsub:
            pubsub.subscribe("news")
            for item in pubsub:
                if isinstance(item, gvcluster.Gap):
                    reload_everything()
                else:
                    print(item.channel, item.data)

    What comes is a `Message` or a `Gap`, in order. The servers keep nothing for a subscriber who is away: whenever a
    connection was lost, a slot has moved, a primary was replaced, or nobody took the messages in time, a Gap stands
    between the messages before and those after. Where there is no Gap, the node has sent every message it had. What the
    nodes lose between them, no client can see: `subscribe` and `psubscribe` listen at one node, to which the others
    pass on what was published there; shard channels do without that.

    Connections come back by themselves, with a back-off of 10 ms to 1 s. Channels and patterns share one connection
    to a primary chosen at random; shard channels have one for each primary that serves one of them. A slot that has
    moved is noticed when its old owner says so, or by a new slot map: where servers do neither (Garnet), the option
    `refresh_interval` of the cluster sees to it.

    It serves all greenlets of the hub where it was made; each item goes to one of those who wait. In a forked child it
    is dead. Neither idle subscriptions nor `Cluster.disconnect` wait for anything; what keeps the loop alive is who
    waits for an item, or a callback that may be called.
    """

    # Adapters whose users know nothing of it say no: for them, that it is collected is its end.
    _warns_when_dropped = True

    def __init__(self, executor_here: Callable[[], Executor], options: PubSubOptions) -> None:
        refuse_unknown(options, PubSubOptions.__annotations__)
        self._keeps_alive = executor_here  # the Cluster
        on_message = options.get("on_message")
        callback("on_message", on_message)
        max_messages, max_bytes = options.get("max_messages", MAX_MESSAGES), options.get("max_bytes", MAX_BYTES)
        whole_number("max_messages", max_messages, 1)
        whole_number("max_bytes", max_bytes, 1)
        interval = seconds("ping_interval", options.get("ping_interval", PING_INTERVAL))
        self._has_callback = on_message is not None
        self._executor = executor_here()
        self._subscriber = Subscriber(self._executor.runtime, Settings(max_messages, max_bytes, interval, on_message))

    def __repr__(self) -> str:
        return f"<PubSub {self._subscriber!r}>"

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its cluster."""
        return self._subscriber.is_closed

    @property
    def channels(self) -> tuple[bytes, ...]:
        """The channels that are subscribed to, confirmed at the moment or not."""
        return self._names(Kind.CHANNEL)

    @property
    def patterns(self) -> tuple[bytes, ...]:
        """The patterns."""
        return self._names(Kind.PATTERN)

    @property
    def shard_channels(self) -> tuple[bytes, ...]:
        """The shard channels."""
        return self._names(Kind.SHARD)

    def _names(self, kind: Kind) -> tuple[bytes, ...]:
        return tuple(name for each, name in self._subscriber.keys if each is kind)

    # -- subscribing --------------------------------------------------------------------------------------------------

    def subscribe(self, *channels: str | bytes, timeout: float | None = None) -> None:
        """Subscribe to channels. (SUBSCRIBE)

        Args:
            channels: Their names, as str (UTF-8) or bytes. Those that are subscribed to already stay so.
            timeout: Seconds; the option `timeout` of the cluster if None.

        Raises:
            ConfigError: No name, or one that is none, or in a thread that has not made the object.
            ReplyError: The server refuses, NOPERM as AuthFailed. Of all that was to be new, nothing is subscribed to.
            NodeError, RoutingError, PoolError, ReplyTimeout: What stood in the way until the timeout; the same holds.
            ClosedError: It was closed, or its cluster, or this is a forked child.

        Blocks: until the server has confirmed: what is published from then on is received. After a kill or Timeout
            nothing of what was to be new is subscribed to.
        """
        self._subscribe(Kind.CHANNEL, channels, timeout)

    def psubscribe(self, *patterns: str | bytes, timeout: float | None = None) -> None:
        """Subscribe to all channels that match a pattern, such as `"news.*"`. (PSUBSCRIBE)

        Args, Raises, Blocks: as `subscribe`.
        """
        self._subscribe(Kind.PATTERN, patterns, timeout)

    def ssubscribe(self, *shard_channels: str | bytes, timeout: float | None = None) -> None:
        """Subscribe to shard channels, to which SPUBLISH publishes, of any slots. (SSUBSCRIBE)

        Args, Raises, Blocks: as `subscribe`. Before Redis 7.0 the server does not know the command (ReplyError).
        """
        self._subscribe(Kind.SHARD, shard_channels, timeout)

    def unsubscribe(self, *channels: str | bytes) -> None:
        """End subscriptions to these channels, or to all. What came before can still be taken. Never waits.

        Raises:
            ConfigError, ClosedError: As `subscribe`.
        """
        self._unsubscribe(Kind.CHANNEL, channels)

    def punsubscribe(self, *patterns: str | bytes) -> None:
        """End subscriptions to these patterns, or to all: as `unsubscribe`."""
        self._unsubscribe(Kind.PATTERN, patterns)

    def sunsubscribe(self, *shard_channels: str | bytes) -> None:
        """End subscriptions to these shard channels, or to all: as `unsubscribe`."""
        self._unsubscribe(Kind.SHARD, shard_channels)

    def _subscribe(self, kind: Kind, names: tuple[str | bytes, ...], timeout: float | None) -> None:
        self._refuse_if_unusable()
        state, subscriber = self._executor.runtime.state, self._subscriber
        subscriber.loop.refuse_to_wait_in_hub()
        if not names:
            raise ConfigError(f"{kind.value} needs a name at least")
        keys = _keys(kind, names)
        deadline = monotonic() + (state.options.timeout if timeout is None else seconds("timeout", timeout))
        self._executor.attempts.wait_for_first_map(deadline)
        self._refuse_if_unusable()
        subscriber.subscribe(keys, deadline)

    def _unsubscribe(self, kind: Kind, names: tuple[str | bytes, ...]) -> None:
        self._refuse_if_unusable()
        all_of_kind = [key for key in self._subscriber.keys if key[0] is kind]
        self._subscriber.unsubscribe(_keys(kind, names) if names else all_of_kind)

    # -- receiving ----------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> Message | Gap | None:
        """Take the next Message or Gap.

        Args:
            timeout: Seconds; None: however long it takes.

        Returns:
            It, or None if nothing came in time (as in redis-py).

        Raises:
            ClosedError: It was closed, or its cluster, and all that came before was taken; or this is a forked child.
            ConfigError: It has a callback, or belongs to another thread.

        Blocks: until there is one. A kill or Timeout loses none.
        """
        deadline = math.inf if timeout is None else monotonic() + seconds("timeout", timeout)
        self._refuse_if_not_mine()
        self._subscriber.loop.refuse_to_wait_in_hub()
        if self._has_callback:
            raise ConfigError("its messages go to on_message")
        return self._subscriber.wait(deadline)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message | Gap:
        """As `get`, without a timeout. Ends when it was closed, or its cluster.

        Blocks: as `get`.
        """
        self._refuse_if_not_mine()
        try:
            item = self.get()
        except ClosedError:
            raise StopIteration from None
        assert item is not None
        return item

    # -- life ---------------------------------------------------------------------------------------------------------

    def _refuse_if_unusable(self) -> None:
        self._refuse_if_not_mine()
        if self._subscriber.is_closed or self._executor.runtime.state.closing:
            raise ClosedError("it was closed, or its cluster; make a new one")

    def _refuse_if_not_mine(self) -> None:
        loop = self._subscriber.loop
        if loop.is_copy:
            raise ClosedError(f"{self!r} belongs to the parent process: make one in each")
        if loop.hub is not get_hub():
            raise ConfigError(f"{self!r} belongs to another hub: make one in each thread")

    def close(self) -> None:
        """End all subscriptions and connections now. Can be called twice. Never waits."""
        loop = self._subscriber.loop
        if loop.is_copy or loop.hub is get_hub():
            self._subscriber.close()
        else:
            loop.from_other_threads(self._subscriber.close)

    def __del__(self) -> None:
        """Nobody can use it any more. Never waits."""
        subscriber: Any = getattr(self, "_subscriber", None)
        if subscriber is not None and not subscriber.is_closed and not sys.is_finalizing():
            subscriber.loop.from_other_threads(subscriber.close)
            if subscriber.keys and self._warns_when_dropped:  # last: where warnings are errors, it raises
                warnings.warn(f"{self!r} was not closed: use it in a with statement", ResourceWarning, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _keys(kind: Kind, names: tuple[object, ...]) -> list[Key]:
    return [(kind, name) for name in dict.fromkeys(_name(position, each) for position, each in enumerate(names))]


def _name(position: int, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        if isinstance(value, str):
            return value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"name {position} has lone surrogates; pass bytes instead") from None
    raise ConfigError(f"name {position} is of type {type(value).__name__}; pass str or bytes")
