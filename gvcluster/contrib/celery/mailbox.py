"""Mailbox: how one hub hears of results: by a shard channel for each, and by a look where news may be lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from celery.utils.log import get_logger
from gevent.event import Event
from gevent.hub import get_hub

from gvcluster.cluster import Cluster
from gvcluster.contrib.celery.passing import is_refusal
from gvcluster.core.subscriptions import Gap
from gvcluster.errors import ClosedError, GvClusterError, PartialFailure, ReplyError
from gvcluster.pubsub import PubSub

logger = get_logger(__name__)

# Seconds between two looks at all results that are waited for: where they are pushed, in case a worker was not allowed
# to publish one; and where they are not.
_NET, _POLL = 10.0, 0.5
# Seconds for the confirmation of subscriptions, of which `_BATCH` at most are asked for at once.
_CONFIRMED = 3.0
# Seconds of rest after the cluster did not answer.
_REST = 0.5
# So many are subscribed to at once, and so many items are taken before others have their turn.
_BATCH = 250
# The least that can be waited.
_TICK = 0.001

Mget = Callable[[list[bytes], float | None], list[Any]]  # keys and a timeout; their encoded values
Tell = Callable[[bytes, bytes], None]  # the key of a result, and its encoded value


class Mailbox:
    """Made and used in one hub; `want`, `leave` and `stop` may come from anywhere, and never wait."""

    def __init__(
        self, cluster: Cluster, mget: Callable[[list[bytes], float | None], list[Any]], tell: Tell, is_pushed: bool
    ) -> None:
        self._mget, self._tell, self._is_pushed = mget, tell, is_pushed
        self._pid, self._hub = os.getpid(), get_hub()
        self._loop = cluster._executor_here().runtime.loop
        self._listens, self._told = False, Event()  # somebody waits for the next item; and has told of it
        self._pubsub: PubSub | None = cluster.pubsub() if is_pushed else None
        if self._pubsub is not None:
            self._pubsub._warns_when_dropped = False  # it ends with its thread
        self._wanted: dict[bytes, None] = {}
        self._new: dict[bytes, None] = {}  # not subscribed to yet
        self._asked: dict[bytes, None] = {}  # of these, what some greenlet subscribes to just now
        self._left: dict[bytes, None] = {}  # to be unsubscribed from
        self._unseen: dict[bytes, None] = {}  # to be looked at
        self._next_look = monotonic() + self._interval

    def __repr__(self) -> str:
        how = "pushed" if self._is_pushed else "polled"
        return f"<Mailbox {len(self._wanted)} results, {how}, {len(self._new)} to subscribe to>"

    @property
    def is_mine(self) -> bool:
        """Whether it belongs to the hub that runs now."""
        return self._hub is get_hub() and self._pid == os.getpid()

    @property
    def is_behind(self) -> bool:
        """Whether there are results that it could not look at, or has not yet."""
        return bool(self._unseen)

    @property
    def _interval(self) -> float:
        return _NET if self._is_pushed else _POLL

    def want(self, key: bytes) -> None:
        """Be told of it from the next turn on. Never waits."""
        self._left.pop(key, None)
        if key not in self._wanted:
            self._wanted[key] = None
            self._new[key] = None
        if len(self._left) >= _BATCH and self.is_mine:
            self._unsubscribe()  # perhaps nobody ever waits

    def leave(self, key: bytes) -> None:
        """Not any more. Never waits."""
        if key in self._wanted:
            self._left[key] = None

    def is_wanted(self, key: bytes) -> bool:
        return key in self._wanted and key not in self._left

    # -- what the hub of the mailbox does -----------------------------------------------------------------------------

    def await_news(self, timeout: float) -> bool:
        """Tell what is new; wait for it if there is nothing. Returns whether anything was told.

        Blocks: for `timeout` seconds at most, and as long as the cluster takes to confirm what is subscribed to.
        """
        if self.catch_up():
            return True
        wait = min(timeout, max(_TICK, self._next_look - monotonic()))
        if self._listens:  # another greenlet: it tells us, too
            return self._loop.wait(self._told, wait)
        self._listens = True
        try:
            return self._listen(wait)
        finally:
            self._listens, told, self._told = False, self._told, Event()
            told.set()

    def _listen(self, timeout: float) -> bool:
        if self._pubsub is None or not self._is_pushed:
            self._loop.sleep(timeout)
            return self.catch_up()
        item = self._pubsub.get(timeout=max(_TICK, timeout))
        count = 0
        while item is not None:
            self._take(item)
            count += 1
            item = self._pubsub._subscriber.inbox.take() if count < _BATCH else None
        self._unsubscribe()
        return bool(count)

    def catch_up(self) -> bool:
        """Look at what may be there, subscribe to what is wanted. Returns whether anything was told.

        Blocks: as the commands; where the cluster does not answer, for one of them only. Where one node does not, what
            the others have is subscribed to.
        """
        self._unsubscribe()
        told = self.look(list(self._unseen))
        told = self._look_at_all() or told
        fresh = [key for key in list(self._new) if key not in self._unseen]
        if self.subscribe(fresh):
            told = self.look([key for key in fresh if key in self._unseen]) or told
        self._unsubscribe()
        return told

    def _look_at_all(self) -> bool:
        """Now and then look at all that should be pushed. Returns whether anything was told."""
        if monotonic() < self._next_look:
            return False
        self._next_look = monotonic() + self._interval
        told = self.look([key for key in list(self._wanted) if key not in self._unseen and key not in self._new])
        if told and self._is_pushed:
            logger.info("found a result that was not pushed")
        return told

    def subscribe(self, keys: Iterable[bytes]) -> bool:
        """Subscribe to those that are wanted, and look at them soon. Returns False if that is to be tried again."""
        for batch in _batches(list(keys)):
            those = [key for key in batch if key in self._new and key not in self._asked and self.is_wanted(key)]
            if those and not self._ask(those):
                return False
        return True

    def _ask(self, keys: list[bytes]) -> bool:
        """Subscribe to these. Nobody else does meanwhile, nor unsubscribes. Returns whether it worked."""
        self._asked.update(dict.fromkeys(keys))
        try:
            is_subscribed = self._is_subscribed(keys)
        finally:
            for key in keys:
                self._asked.pop(key, None)
        # Not before: another greenlet would look too early, and nobody after the confirmation.
        self._unseen.update(dict.fromkeys(keys))
        if is_subscribed:
            for key in keys:
                self._new.pop(key, None)
        return is_subscribed

    def _is_subscribed(self, keys: list[bytes]) -> bool:
        if self._pubsub is None or not self._is_pushed:
            return True  # as good as can be
        try:
            self._pubsub.ssubscribe(*keys, timeout=_CONFIRMED)
        except ClosedError:
            raise
        except GvClusterError as error:
            if isinstance(error, ReplyError) and is_refusal(error):
                self._is_pushed, self._next_look = False, monotonic()
                logger.warning("results are looked for every %s s, because nobody pushes them: %s", _POLL, error)
                return True
            logger.warning("the cluster has not confirmed that it will push results, trying again: %s", error)
            self._loop.sleep(_REST)
            return False
        return True

    def look(self, keys: list[bytes], *, may_raise: bool = False, timeout: float | None = None) -> bool:
        """Read these results. What can not be read now is read later. Returns whether any was told.

        Args:
            may_raise: What a server refuses is raised, and not only logged.
            timeout: Seconds for each of its commands; None: as the cluster's option says.
        """
        told = False
        for batch in _batches(keys):
            values = self._values(batch, may_raise, timeout)
            if values is None:
                break
            for key, value in zip(batch, values, strict=True):
                if value is not None:
                    told = True
                    self._give(key, value)
        return told

    def _values(self, keys: list[bytes], may_raise: bool, timeout: float | None) -> list[Any] | None:
        """The values of results, or None: they must be looked at again."""
        # Before it is sent: whatever has them looked at from now on means another look.
        for key in keys:
            self._unseen.pop(key, None)
        values = None
        try:
            values = self._mget(keys, timeout)
        except ClosedError:
            raise
        except GvClusterError as error:
            if may_raise and is_refusal(error):
                raise
            logger.warning("the cluster did not tell which results there are, trying again: %s", error)
            self._loop.sleep(_REST)
            values = self._served(error)
        finally:
            if values is None:
                self._unseen.update(dict.fromkeys(keys))
        return values

    def _served(self, error: GvClusterError) -> list[Any] | None:
        """The values that other nodes have told, where a node did not answer."""
        if not isinstance(error, PartialFailure):
            return None
        self._unseen.update(dict.fromkeys(error.keys))
        return [None if isinstance(each, GvClusterError) else each for each in error.results]

    def _take(self, item: Any) -> None:
        if isinstance(item, Gap):
            self._unseen.update((key, None) for key in item.shard_channels if self.is_wanted(key))
        elif item.data:
            self._give(item.channel, item.data)
        else:  # too long to be pushed
            self._unseen[item.channel] = None

    def _give(self, key: bytes, value: bytes) -> None:
        if self.is_wanted(key):
            self._tell(key, value)

    def _given_up(self) -> Iterator[bytes]:
        """Take out what was left, unless it is being subscribed to, or another thread wants it again meanwhile."""
        for key in list(self._left):
            if key not in self._asked and self._left.pop(key, key) is None:
                yield key

    def _unsubscribe(self) -> None:
        """Leave what was left. Never switches."""
        gone = []
        for key in self._given_up():
            for each in (self._wanted, self._unseen):
                each.pop(key, None)
            if self._new.pop(key, key) is not None:  # it was subscribed to
                gone.append(key)
        if gone and self._pubsub is not None and not self._pubsub.closed:
            self._pubsub.sunsubscribe(*gone)

    def stop(self) -> None:
        """End all subscriptions. Never waits."""
        if self._pubsub is not None:
            self._pubsub.close()


def _batches(keys: list[bytes]) -> Iterator[list[bytes]]:
    return (keys[at : at + _BATCH] for at in range(0, len(keys), _BATCH))
