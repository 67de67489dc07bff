"""kill -9 of a primary, of a replica, of everybody, under load: what is lost says so, and it is very little."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gvcluster import Address, Cluster, ConnectionLost, GvClusterError
from gvcluster.testing import LocalCluster, Node


@pytest.mark.needs("elections")
def test_f1_a_killed_primary_costs_only_the_writes_that_were_under_way(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    victim, *others = shards
    before = cluster.statistics()
    with load(cluster, may_lose=True) as under_load:
        worker = under_load.of(victim.address)[0]
        # The server is faster than we are: only if it stands still first, there is surely something under way.
        live_cluster.pause(victim)
        writers = under_load.count_once(victim.address, 20)
        readers = [gevent.spawn(cluster.execute, "GET", worker.token) for _ in range(20)]
        wait_until_in_flight(cluster, victim, 40)
        live_cluster.kill(victim)
        gevent.joinall(writers, timeout=5)
        for other in others:
            under_load.wait_until_served(other.address, timeout=5)
        assert live_cluster.primary_of(worker.tag) is victim, "the others were served before it was replaced"
        under_load.wait_until_served(victim.address)
        gevent.joinall(readers, timeout=5, raise_error=True)
        failures = len(under_load.errors())
        live_cluster.restart(victim)
        live_cluster.wait_until_agreed()
        assert victim.role == "replica"
        under_load.wait_until_served()
    ended = cluster.statistics()

    assert {why_lost(writer.value) for writer in writers} == {(ConnectionLost, True, victim.address)}
    assert {reader.value for reader in readers} == {worker.tag.encode()}
    assert under_load.wrong == []
    assert len(under_load.errors()) == failures, "its return disturbs nobody"
    assert under_load.errors(command="GET") == []
    assert [under_load.errors(other.address) for other in others] == [[], []]
    assert {why_lost(error) for error in under_load.errors()} <= {(ConnectionLost, True, victim.address)}
    assert max(len(worker.errors) for worker in under_load.workers) <= 1
    assert under_load.longest_call() < 10, "served again within the call's deadline, without the caller's doing"
    under_load.check_counts()

    assert ended.route_version > before.route_version
    # No hot loop: calls wait between their attempts, and the slot map is fetched once in 75 ms at most.
    assert ended.retries < 2000
    assert ended.refreshes < 100
    for other in others:
        assert [node.opened for node in ended.nodes if node.address == other.address] == [1]
    (heir,) = [node for node in live_cluster.primaries() if node not in others]
    assert owner_of(cluster, worker.tag) == heir.address


def test_a_killed_replica_disturbs_nobody(
    cluster: Cluster, live_cluster: LocalCluster, load: Callable[..., Any]
) -> None:
    (replica,) = live_cluster.replicas_of(live_cluster.primaries()[0])
    with load(cluster) as under_load:
        live_cluster.kill(replica)
        under_load.wait_until_served()
        cluster.refresh()
        under_load.wait_until_served()
        live_cluster.restart(replica)
        under_load.wait_until_served()
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    statistics = cluster.statistics()
    assert (statistics.redirects, statistics.retries) == (0, 0)
    for node in live_cluster.primaries():
        assert [each.opened for each in statistics.nodes if each.address == node.address] == [1]


@pytest.mark.needs("elections")
def test_f18_after_all_nodes_were_killed_and_have_returned_the_same_cluster_object_works(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    primaries = live_cluster.primaries()
    keys = [next(key for key in map(str, range(1000)) if owner_of(cluster, key) == node.address) for node in primaries]
    for key in keys:
        cluster.execute("SET", key, key)
    for node in primaries:
        live_cluster.pause(node)
    writers = [gevent.spawn(outcome, cluster, "SET", key, "written") for key in keys * 10]
    readers = [gevent.spawn(outcome, cluster, "GET", key, timeout=60) for key in keys * 10]
    for node in primaries:
        wait_until_in_flight(cluster, node, 20)
    for node in live_cluster.nodes:
        live_cluster.kill(node)
    # The kernel took them all, so who knows; and nobody is left to ask.
    gevent.joinall(writers, timeout=5)
    assert {why_lost(writer.value)[:2] for writer in writers} == {(ConnectionLost, True)}
    # A call of this time ends in its time, with nothing sent.
    error = outcome(cluster, "SET", keys[0], "too early", timeout=0.5)
    assert isinstance(error, GvClusterError)
    assert not error.maybe_executed
    for node in [*primaries, *(node for node in live_cluster.nodes if node not in primaries)]:
        live_cluster.restart(node)
    live_cluster.wait_until_agreed()
    # Reads have waited; the servers kept nothing on disk.
    gevent.joinall(readers, timeout=20)
    assert [reader.value for reader in readers] == [None] * 30
    for key in keys * 20:
        assert cluster.execute("SET", key, "back") == b"OK"
        assert cluster.execute("GET", key) == b"back"
    statistics = cluster.statistics()
    assert [each.connections for node in primaries for each in statistics.nodes if each.address == node.address] == [
        1,
        1,
        1,
    ]
    assert statistics.retries < 2000


def owner_of(cluster: Cluster, key: str) -> Address | None:
    node = cluster.node_for_key(key)
    return node and node.address


def wait_until_in_flight(cluster: Cluster, node: Node, calls: int) -> None:
    def in_flight() -> int:
        return sum(each.in_flight for each in cluster.statistics().nodes if each.address == node.address)

    with gevent.Timeout(5):
        while in_flight() < calls:
            gevent.sleep(0.005)


def why_lost(error: Any) -> tuple[type, bool, Address | None]:
    return type(error), getattr(error, "maybe_executed", False), getattr(error, "address", None)


def outcome(cluster: Cluster, *command: str, **options: Any) -> Any:
    """The reply, or the error that was raised."""
    try:
        return cluster.execute(*command, **options)
    except GvClusterError as error:
        return error
