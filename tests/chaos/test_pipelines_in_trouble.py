"""Pipelines and submitted commands while slots move and primaries change: what is told is true, and in its place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gvcluster import Cluster, GvClusterError, hash_slot
from gvcluster.testing import LocalCluster, Node

# Keys of each worker, spread over all shards.
KEYS = 60


class Counting:
    """One greenlet that counts in many keys at once. Nobody else counts in them."""

    def __init__(self, cluster: Cluster, number: int, how: str) -> None:
        self.cluster, self.how = cluster, how
        self.keys = [f"{how}:{number}:{each}" for each in range(KEYS)]
        self.acknowledged = dict.fromkeys(self.keys, 0)
        self.ambiguous = dict.fromkeys(self.keys, 0)
        self.errors: list[Exception] = []
        self.wrong: list[str] = []
        self.rounds = 0

    def work(self, stopping: Event) -> None:
        while not stopping.is_set():
            replies = self._pipelined() if self.how == "pipeline" else self._submitted()
            for position, key in enumerate(self.keys):
                self._take(key, replies[2 * position], replies[2 * position + 1])
            self.rounds += 1
            gevent.sleep(0.002)

    def _pipelined(self) -> list[Any]:
        pipe = self.cluster.pipeline()
        for key in self.keys:
            pipe.append("INCR", key)
            pipe.append("GET", key)
        return pipe.execute()

    def _submitted(self) -> list[Any]:
        pending = []
        for key in self.keys:
            pending += [self.cluster.submit("INCR", key), self.cluster.submit("GET", key)]
        return [_outcome(each.get) for each in pending]

    def _take(self, key: str, counted: Any, read: Any) -> None:
        before = self.acknowledged[key]
        if isinstance(counted, Exception):
            self.errors.append(counted)
            self.ambiguous[key] += counted.maybe_executed
        else:
            self.acknowledged[key] += 1
            if not before < counted <= before + 1 + self.ambiguous[key]:
                self.wrong.append(f"INCR {key}: {counted} after {before} and {self.ambiguous[key]} in doubt")
        if isinstance(read, Exception):
            self.errors.append(read)
        elif read is not None and not before <= int(read) <= self.acknowledged[key] + self.ambiguous[key]:
            self.wrong.append(f"GET {key}: {read} after {before}, now {self.acknowledged[key]}")

    def check(self, *, may_lose: bool = False) -> None:
        assert self.wrong == []
        for key in self.keys:
            value = int(self.cluster.execute("GET", key) or 0)
            assert value <= self.acknowledged[key] + self.ambiguous[key], "executed twice"
            assert may_lose or value >= self.acknowledged[key], "lost"


def _outcome(call: Any) -> Any:
    try:
        return call()
    except GvClusterError as error:
        return error


@contextmanager
def counting(cluster: Cluster, how: str) -> Iterator[list[Counting]]:
    """Four greenlets count as long as it lasts."""
    workers, stopping = [Counting(cluster, number, how) for number in range(4)], Event()
    greenlets = [gevent.spawn(worker.work, stopping) for worker in workers]
    try:
        yield workers
    finally:
        stopping.set()
        gevent.joinall(greenlets, timeout=30)
    assert all(greenlet.successful() for greenlet in greenlets), "stuck, or failed"


def wait_rounds(workers: list[Counting], rounds: int = 5) -> None:
    """Wait until each has done so many more rounds."""
    aims = [worker.rounds + rounds for worker in workers]
    with gevent.Timeout(30):
        while any(worker.rounds < aim for worker, aim in zip(workers, aims, strict=True)):
            gevent.sleep(0.01)


both = pytest.mark.parametrize("how", ["pipeline", "submit"])


@both
def test_moving_slots_cost_no_error_and_no_count(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], how: str
) -> None:
    with counting(cluster, how) as workers:
        wait_rounds(workers)
        mine = [key for worker in workers for key in worker.keys]
        source, target = shards[0], shards[1]
        moving = {hash_slot(key) for key in mine if cluster.node_for_key(key).address == source.address}
        live_cluster.move_slots(sorted(moving)[:25], target)
        wait_rounds(workers)
    for worker in workers:
        assert worker.errors == []
        worker.check()
    assert cluster.statistics().redirects > 0
    opened = {node.address: node.opened for node in cluster.statistics().nodes}
    assert [opened[node.address] for node in shards] == [1, 1, 1]


@both
def test_a_planned_failover_costs_no_error_and_no_count(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], how: str
) -> None:
    with counting(cluster, how) as workers:
        wait_rounds(workers)
        live_cluster.failover(shards[1 if how == "pipeline" else 2])
        wait_rounds(workers)
    for worker in workers:
        assert worker.errors == []
        worker.check()


@pytest.mark.needs("elections")
@both
def test_a_killed_primary_costs_only_what_is_told_and_never_a_second_execution(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], how: str
) -> None:
    with counting(cluster, how) as workers:
        wait_rounds(workers)
        victim = next(node for node in live_cluster.primaries() if live_cluster.replicas_of(node))
        victim.kill()
        wait_rounds(workers)
    for worker in workers:
        assert all(isinstance(error, GvClusterError) for error in worker.errors)
        assert all(error.maybe_executed for error in worker.errors), "what is proved not executed is sent again"
        worker.check(may_lose=True)
