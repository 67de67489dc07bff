"""What the chaos tests share: the shards of a cluster, and a load that notes what goes wrong."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Any, Self

import gevent
import pytest
from gevent.event import Event

import gvcluster
from gvcluster import Address, Cluster, GvClusterError
from gvcluster.testing import LocalCluster, Node

# Each worker ends after so many rounds or seconds, whatever happens.
ROUNDS, SECONDS = 50_000, 60.0
# Between two rounds of a worker, seconds: the servers need some of the processors for their elections. Not always the
# same, or the workers soon march in step; no less than a millisecond, of which libuv knows no parts.
PAUSE = (0.003, 0.009)


@pytest.fixture
def shards(live_cluster: LocalCluster) -> list[Node]:
    """The primary of each shard, in an order that outlives failovers.

    A shard that has just had one waits, on Redis for 4 node timeouts, before it has another: tests take turns.
    """
    shard_of = {node: primary for primary in live_cluster.primaries() for node in live_cluster.replicas_of(primary)}
    return list(dict.fromkeys(shard_of.get(node, node) for node in live_cluster.nodes))


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    """A client with the times that it has by default."""
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as cluster:
        yield cluster


@pytest.fixture
def load(live_cluster: LocalCluster) -> Callable[..., "Load"]:
    """`load(cluster)` in a `with`: greenlets that read and count as long as it lasts. See Load."""

    def make(cluster: Cluster, **options: Any) -> Load:
        return Load(cluster, live_cluster, **options)

    return make


@dataclass(eq=False)
class Worker:
    """One greenlet of a load: it reads what never changes, counts up, and reads its count.

    shard: the address of the node that served its keys at the beginning. may_lose: see Load.
    acknowledged: increments that were answered. errors: (command, error). wrong: replies that cannot be.
    longest: the longest call, seconds. outage: the longest time between two acknowledged increments, seconds.
    """

    cluster: Cluster
    tag: str
    shard: Address
    may_lose: bool
    acknowledged: int = 0
    rounds: int = 0
    errors: list[tuple[str, GvClusterError]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    longest: float = 0.0
    outage: float = 0.0
    seen: int = 0  # the highest count
    served: Event = field(default_factory=Event)  # set, and replaced, after each round without an error

    @property
    def token(self) -> str:
        return f"{{{self.tag}}}token"

    @property
    def count(self) -> str:
        return f"{{{self.tag}}}count"

    @property
    def ambiguous(self) -> int:
        """Increments that failed and may have been executed."""
        return sum(error.maybe_executed for command, error in self.errors if command == "INCR")

    def work(self, stopping: Event) -> None:
        """Round after round, until told to stop."""
        last = monotonic()
        ends = last + SECONDS
        while not stopping.is_set() and self.rounds < ROUNDS and monotonic() < ends:
            failures, acknowledged = len(self.errors), self.acknowledged
            self._round()
            self.rounds += 1
            if self.acknowledged > acknowledged:
                self.outage, last = max(self.outage, monotonic() - last), monotonic()
            if len(self.errors) == failures:
                served, self.served = self.served, Event()
                served.set()
            gevent.sleep(random.uniform(*PAUSE))

    def _round(self) -> None:
        token = self._call("GET", self.token)
        if token not in (None, self.tag.encode()):
            self.wrong.append(f"{token!r} instead of {self.tag!r}")
        count = self._call("INCR", self.count)
        if count is not None:
            self.acknowledged += 1
            self._check_count(count, self.seen + 1)
        count = self._call("GET", self.count)
        if count is not None:
            self._check_count(int(count), self.seen)

    def _check_count(self, value: int, least: int) -> None:
        """Nobody else counts here: more than was asked for is a double execution, less is a lost one."""
        most = self.acknowledged + self.ambiguous
        if value > most or (value < least and not self.may_lose):
            self.wrong.append(f"{value!r} instead of {least} to {most}")
        self.seen = value

    def _call(self, *command: str) -> Any:
        began = monotonic()
        try:
            reply = self.cluster.execute(*command)
        except GvClusterError as error:
            self.errors.append((command[0], error))
            return None
        finally:
            self.longest = max(self.longest, monotonic() - began)
        if reply is None:
            self.wrong.append(f"nothing was answered to {command}")
        return reply


class Load:
    """Some workers for each shard, as long as the `with` lasts. Each worker has a hash tag of its own.

    Args:
        cluster: The client.
        servers: Its servers.
        workers: How many for each shard.
        may_lose: Acknowledged writes may get lost (asynchronous replication, after kill -9): counts may be too small.
            They may never be too large.
    """

    def __init__(self, cluster: Cluster, servers: LocalCluster, *, workers: int = 8, may_lose: bool = False) -> None:
        self.cluster = cluster
        self.may_lose = may_lose
        self.workers: list[Worker] = []
        self._counted_once: dict[str, gevent.Greenlet] = {}
        self._stopping = Event()
        self._greenlets: list[gevent.Greenlet] = []
        for primary in servers.primaries():
            tags = (tag for tag in map("tag-{}".format, count()) if self._serves(tag, primary.address))
            mine = [Worker(cluster, next(tags), primary.address, may_lose) for _ in range(workers)]
            self.workers += mine
            # On one connection, so that WAIT is about these keys: a failover right after it would not lose them.
            with primary.connection() as connection:
                for worker in mine:
                    connection.call("MSET", worker.token, worker.tag, worker.count, 0)
                assert connection.call("WAIT", 1, 5000) == 1

    def __repr__(self) -> str:
        shards = dict.fromkeys(worker.shard for worker in self.workers)
        return "\n".join(f"{shard}: {self._told(self.of(shard))}" for shard in shards)

    def __enter__(self) -> Self:
        self._greenlets = [gevent.spawn(worker.work, self._stopping) for worker in self.workers]
        try:
            self.wait_until_served()
        except BaseException:
            gevent.killall(self._greenlets)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        gevent.joinall(self._greenlets, raise_error=error is None)
        print(self, self.cluster.statistics(), sep="\n")

    def of(self, shard: Address | None) -> list[Worker]:
        """The workers of one shard, or all."""
        return [worker for worker in self.workers if shard in (None, worker.shard)]

    def count_once(self, shard: Address, number: int) -> list[gevent.Greenlet]:
        """Increment so many keys of a shard, each once and all at the same time.

        Returns:
            Greenlets whose value is the reply, or the error that was raised.
        """
        tag = self.of(shard)[0].tag
        counted = {f"{{{tag}}}{index}": gevent.spawn(self._count, f"{{{tag}}}{index}") for index in range(number)}
        self._counted_once.update(counted)
        return list(counted.values())

    def wait_until_served(self, shard: Address | None = None, timeout: float = 20.0) -> None:
        """Wait until all workers, or those of one shard, have gone through a round without an error from now on."""
        with gevent.Timeout(timeout):
            for _ in range(2):  # the round that ends first may have begun before
                for worker in self.of(shard):
                    worker.served.wait()

    def errors(self, shard: Address | None = None, command: str | None = None) -> list[GvClusterError]:
        """What was raised, for all shards and commands or for one."""
        return [error for worker in self.of(shard) for name, error in worker.errors if command in (None, name)]

    @property
    def wrong(self) -> list[str]:
        """Replies that cannot be."""
        return [problem for worker in self.workers for problem in worker.wrong]

    def longest_call(self, shard: Address | None = None) -> float:
        """Seconds."""
        return max(worker.longest for worker in self.of(shard))

    def check_counts(self) -> None:
        """Compare each count with what was acknowledged, after the end."""
        for worker in self.workers:
            final = int(self.cluster.execute("GET", worker.count))
            assert final <= worker.acknowledged + worker.ambiguous, f"{worker.tag}: something was executed twice"
            assert worker.may_lose or final >= worker.acknowledged, f"{worker.tag}: something was lost"
        for key, counted in self._counted_once.items():
            final = int(self.cluster.execute("GET", key) or 0)
            if isinstance(counted.value, GvClusterError):
                assert final <= counted.value.maybe_executed, f"{key}: what was proved not executed, was"
            else:
                assert (counted.value, final) == (1, 1) or self.may_lose

    def _count(self, key: str) -> Any:
        try:
            return self.cluster.execute("INCR", key)
        except GvClusterError as error:
            return error

    def _serves(self, tag: str, address: Address) -> bool:
        node = self.cluster.node_for_key(tag)
        return node is not None and node.address == address

    def _told(self, mine: list[Worker]) -> str:
        return (
            f"{sum(worker.acknowledged for worker in mine)} increments acknowledged,"
            f" {sum(worker.ambiguous for worker in mine)} ambiguous,"
            f" {sum(len(worker.errors) for worker in mine)} errors,"
            f" longest call {max(worker.longest for worker in mine):.2f} s,"
            f" longest outage {max(worker.outage for worker in mine):.2f} s"
        )
