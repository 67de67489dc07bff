"""Fifty greenlets that work with a facade as its users do, and note whatever is wrong or raised."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import gevent
from gevent.event import Event

from gvcluster import hash_slot

COUNTERS, PIPELINES, TRANSACTIONS, LOCKERS = 24, 12, 6, 6
# Seconds after which a lock is free whose holder was told of an error, or whose release the servers have lost.
FORGOTTEN = 3.0
# How long anything may take on a machine that is slow and busy.
PATIENCE = 60.0


class Count:
    """A key that one greenlet alone counts up: too much is a double execution, too little a loss."""

    def __init__(self, key: str) -> None:
        self.key, self.acknowledged, self.doubtful, self.seen = key, 0, 0, 0

    def failed(self, error: Exception) -> None:
        """An increment that was not answered."""
        self.doubtful += getattr(error, "maybe_executed", True)

    def told(self, value: int, wrote: bool, may_lose: bool) -> str:
        """What is wrong with a value that came, in words."""
        least = 0 if may_lose else self.seen + wrote
        self.acknowledged += wrote
        self.seen = value
        most = self.acknowledged + self.doubtful
        return "" if least <= value <= most else f"{self.key}: {value} instead of {least} to {most}"


class FacadeLoad:
    """The greenlets, as long as the `with` lasts. They go over all slots.

    Args:
        client: Decodes.
        may_lose: The servers may lose what they have acknowledged, locks included: a primary is killed.

    Attributes:
        wrong: What can not be, in words.
        errors: What callers were told.
        heard: The numbers that the subscriber has got.
    """

    def __init__(self, client: Any, *, may_lose: bool) -> None:
        self.client, self.may_lose = client, may_lose
        self.wrong: list[str] = []
        self.errors: list[Exception] = []
        self.heard: list[int] = []
        self._published = 0
        self._published_by: dict[int, Any] = {}
        self._latest: dict[Any, int] = {}  # by the node that published: what was heard of it last
        self._holders = [0] * (LOCKERS // 2)
        self._rounds = [0] * (COUNTERS + PIPELINES + TRANSACTIONS + LOCKERS)
        self._ended = Event()

    def __enter__(self) -> Self:
        works: list[Callable[[Any], None]] = []
        works += [self._count] * COUNTERS + [self._pipeline] * PIPELINES
        works += [self._transact] * TRANSACTIONS + [self._lock] * LOCKERS
        self._greenlets = [gevent.spawn(self._work, number, work) for number, work in enumerate(works)]
        self._greenlets += [gevent.spawn(self._publish), gevent.spawn(self._subscribe)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        ended = gevent.joinall(self._greenlets, timeout=PATIENCE, raise_error=error is None)
        gevent.killall(self._greenlets)
        assert error is not None or len(ended) == len(self._greenlets), "somebody is stuck"

    def wait_until_served(self) -> None:
        """Wait until everybody has made three more rounds without an error, and a new message has come."""
        rounds, heard = list(self._rounds), self._published
        late = AssertionError("somebody is not served", rounds, self._rounds, self.errors, self.wrong[:5])
        with gevent.Timeout(PATIENCE, late):
            while any(now < before + 3 for now, before in zip(self._rounds, rounds, strict=True)):
                gevent.sleep(0.01)
            while not self.heard or self.heard[-1] <= heard:
                gevent.sleep(0.01)

    def _work(self, number: int, work: Callable[[Any], None]) -> None:
        state: Any = number % len(self._holders) if work == self._lock else Count(f"count:{number}")
        while not self._ended.is_set():
            before = len(self.errors), len(self.wrong)
            work(state)
            self._rounds[number] += before == (len(self.errors), len(self.wrong))
            gevent.sleep(0.01)

    def _note(self, problem: str) -> None:
        if problem:
            self.wrong.append(problem)

    def _count(self, count: Count) -> None:
        for method, wrote in ((self.client.incr, True), (self.client.get, False)):
            try:
                value = method(count.key)
            except Exception as error:
                self.errors.append(error)
                if wrote:
                    count.failed(error)
            else:
                self._note(count.told(int(value or 0), wrote, self.may_lose))

    def _pipeline(self, count: Count) -> None:
        other = f"other:{count.key}"
        with self.client.pipeline() as pipe:
            pipe.incr(count.key).get(count.key).set(other, count.key).get(other)
            try:
                replies = pipe.execute(raise_on_error=False)
            except Exception as error:
                replies = [error] * 4
        self.errors += [each for each in replies if isinstance(each, Exception)]
        for reply, wrote in zip(replies[:2], (True, False), strict=True):
            if not isinstance(reply, Exception):
                self._note(count.told(int(reply or 0), wrote, self.may_lose))
            elif wrote:
                count.failed(reply)
        if not isinstance(replies[3], Exception) and replies[3] not in (count.key, *[None] * self.may_lose):
            self._note(f"{other}: {replies[3]!r}")

    def _transact(self, count: Count) -> None:
        """What is watched nobody else changes: an increment that is executed twice, or lost, shows in the next one."""

        def increment(pipe: Any) -> None:
            now = int(pipe.get(count.key) or 0)
            pipe.multi()
            pipe.set(count.key, now + 1)
            pipe.get(count.key)

        try:
            _, value = self.client.transaction(increment, count.key)
        except Exception as error:
            self.errors.append(error)
            count.failed(error)
        else:
            self._note(count.told(int(value), True, self.may_lose))

    def _lock(self, number: int) -> None:
        try:
            timeout = FORGOTTEN if self.may_lose else PATIENCE
            with self.client.lock(f"lock:{number}", timeout=timeout, sleep=0.01):
                self._holders[number] += 1
                try:
                    if self._holders[number] > 1 and not self.may_lose:
                        self._note(f"lock {number} has {self._holders[number]} holders")
                    gevent.sleep(0.005)
                finally:
                    self._holders[number] -= 1
        except Exception as error:
            self.errors.append(error)

    def _publish(self) -> None:
        for number in itertools.count(1):
            if self._ended.is_set():
                return
            self._published = number
            executor = self.client.gvcluster._executor_here()
            self._published_by[number] = executor.runtime.nodes.table[hash_slot("news")]
            try:
                self.client.publish("news", number)
            except Exception as error:
                self.errors.append(error)
            gevent.sleep(0.02)

    def _check_order(self, number: int) -> None:
        """Messages that different nodes published may overtake each other: the servers promise no order then."""
        node = self._published_by[number]
        if number < self._latest.get(node, 0) and not self.may_lose:
            self._note(f"message {number} after {self._latest[node]} of the same node")
        self._latest[node] = number

    def _subscribe(self) -> None:
        with self.client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("news")
            while not self._ended.is_set():
                try:
                    message = pubsub.get_message(timeout=0.1)
                except Exception as error:
                    self.errors.append(error)
                    continue
                if message is not None:
                    number = int(message["data"])
                    if message["channel"] != "news" or number in self.heard:
                        self._note(f"message {number} once more, or at {message['channel']}")
                    self._check_order(number)
                    self.heard.append(number)
