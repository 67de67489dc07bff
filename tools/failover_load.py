"""The load of `tools/failover_figures.py`: greenlets that count and read, and note when each call began and ended."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Any, Self

import gevent
from gevent.event import Event

import gvcluster
from gvcluster import Address, Cluster, GvClusterError

# Greenlets for each shard, and how long each rests between two calls, seconds: some 2,000 calls/s, which leave the
# servers the processor time that their elections need.
WORKERS = 30
REST = (0.030, 0.060)
# A call outlives a failover.
CALL_TIMEOUT = 30.0


@dataclass(frozen=True)
class Crowd:
    """Some slots of a shard."""

    shard: Address
    slots: range


@dataclass(frozen=True)
class Failure:
    """A call that ended with an error. Times are on the monotonic clock."""

    began: float
    ended: float
    command: str
    error: GvClusterError


@dataclass
class Calls:
    """What became of the calls of one shard: when each that was answered began and ended, and the failures."""

    began: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    failures: list[Failure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def latencies(self, since: float, until: float) -> list[float]:
        """How long the calls took that began between these two times, seconds."""
        pairs = zip(self.began, self.ended, strict=True)
        return [ended - began for began, ended in pairs if since <= began < until]

    def first_after(self, moment: float) -> float:
        """When the first call ended with a reply after this moment; infinity if none did."""
        return min((ended for ended in self.ended if ended > moment), default=float("inf"))


class Worker:
    """Counts up a key that nobody else writes, and reads it: too much is a double execution, too little a loss."""

    def __init__(self, cluster: Cluster, key: str, calls: Calls) -> None:
        self.key, self.calls = key, calls
        self.may_lose = False  # acknowledged writes may be gone: servers replicate asynchronously
        self._cluster = cluster
        self._acknowledged = self._ambiguous = self._seen = 0

    def run(self, ended: Event) -> None:
        """Work until told to end."""
        while not ended.is_set():
            self.call("INCR")
            gevent.sleep(random.uniform(*REST))
            self.call("GET")
            gevent.sleep(random.uniform(*REST))

    def call(self, command: str) -> None:
        """One call, noted and checked."""
        began = monotonic()
        try:
            reply = self._cluster.execute(command, self.key)
        except GvClusterError as error:
            self.calls.failures.append(Failure(began, monotonic(), command, error))
            self._ambiguous += command == "INCR" and error.maybe_executed
            return
        self.calls.began.append(began)
        self.calls.ended.append(monotonic())
        self._check(command, reply)

    def _check(self, command: str, reply: Any) -> None:
        self._acknowledged += command == "INCR"
        value, least = int(reply or 0), self._seen + (command == "INCR")
        if value > self._acknowledged + self._ambiguous or (value < least and not self.may_lose):
            self.calls.wrong.append(f"{command} {self.key}: {value}, not {least} or a bit more")
        self._seen = value


class Load:
    """Workers for each shard, as long as the `with` lasts.

    Args:
        seeds: Where the cluster is.
        crowd: Where half of the workers of a shard have their keys.
        command_timeout: As the client has it, seconds.

    Attributes:
        cluster: The client.
        calls: What became of the calls, by the address that the shard's primary had at the beginning.
    """

    def __init__(self, seeds: str, command_timeout: float, crowd: Crowd | None = None) -> None:
        self.cluster = gvcluster.connect(seeds, timeout=CALL_TIMEOUT, command_timeout=command_timeout)
        self.calls: dict[Address, Calls] = {}
        self.workers: dict[Address, list[Worker]] = {}
        self._ended = Event()
        self._greenlets: list[gevent.Greenlet[..., Any]] = []
        for node in self.cluster.primaries():
            calls = self.calls[node.address] = Calls()
            keys = self._keys(node.address, crowd)
            self.workers[node.address] = [Worker(self.cluster, next(keys), calls) for _ in range(WORKERS)]

    def __enter__(self) -> Self:
        for worker in self._everybody():
            self.cluster.execute("DEL", worker.key)
        self._greenlets = [gevent.spawn(worker.run, self._ended) for worker in self._everybody()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        gevent.joinall(self._greenlets, timeout=CALL_TIMEOUT, raise_error=error is None)
        gevent.killall(self._greenlets)
        self.cluster.close()

    def crowd(self, shard: Address, number: int) -> list[gevent.Greenlet[..., Any]]:
        """Send so many writes, and as many reads, to a shard, each by a greenlet and on a key of its own, now."""
        calls, key = self.calls[shard], self.workers[shard][0].key
        workers = [Worker(self.cluster, f"{key}:{index}", calls) for index in range(2 * number)]
        for worker in workers:
            worker.may_lose = True
        return [gevent.spawn(each.call, "INCR" if i % 2 else "GET") for i, each in enumerate(workers)]

    def expect_losses(self, shard: Address) -> None:
        """From now on the servers may lose what they have acknowledged there."""
        for worker in self.workers[shard]:
            worker.may_lose = True

    def wrong(self) -> list[str]:
        """Replies that can not be."""
        return [text for calls in self.calls.values() for text in calls.wrong]

    def failures(self) -> list[Failure]:
        """All calls that failed."""
        return [failure for calls in self.calls.values() for failure in calls.failures]

    def latencies(self, since: float, until: float, but: Address | None = None) -> list[float]:
        """How long the calls took that began between these two times, without those of one shard; seconds."""
        return [each for shard, calls in self.calls.items() if shard != but for each in calls.latencies(since, until)]

    def _everybody(self) -> list[Worker]:
        return [worker for workers in self.workers.values() for worker in workers]

    def _keys(self, shard: Address, crowd: Crowd | None) -> Iterator[str]:
        """Keys of this shard; if it is the crowded one, every second of them in the crowded slots."""
        keys = (key for key in map("{{figures-{}}}".format, count()) if self._owner(key) == shard)
        if crowd is None or crowd.shard != shard:
            yield from keys
            return
        for key in keys:
            yield key
            yield next(key for key in keys if self.cluster.hash_slot(key) in crowd.slots)

    def _owner(self, key: str) -> Address | None:
        node = self.cluster.node_for_key(key)
        return None if node is None else node.address
