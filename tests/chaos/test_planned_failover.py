"""CLUSTER FAILOVER under load: primary and replica change places, and no call notices."""

from collections.abc import Callable
from typing import Any

import gevent

from gvcluster import Cluster
from gvcluster.testing import LocalCluster, Node


def test_f5_a_planned_failover_costs_no_error_and_no_count(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    primary, *others = shards
    with load(cluster) as under_load:
        heir = live_cluster.failover(primary)
        under_load.wait_until_served()
        cluster.refresh()
        under_load.wait_until_served()
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    tag = under_load.of(primary.address)[0].tag
    owner = cluster.node_for_key(tag)
    assert owner is not None
    assert owner.address == heir.address
    assert heir is not primary
    statistics = cluster.statistics()
    assert 1 <= statistics.redirects <= 3 * len(under_load.of(primary.address)), "the old primary says where to go"
    assert statistics.refreshes < 20
    for node in (heir, *others):
        assert [each.opened for each in statistics.nodes if each.address == node.address] == [1]


def test_a_blocked_pop_outlives_a_planned_failover(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node]
) -> None:
    primary = shards[2]
    key = next(key for key in map(str, range(1000)) if cluster.node_for_key(key).address == primary.address)
    popped = gevent.spawn(cluster.execute, "BLPOP", key, 30)
    with gevent.Timeout(5):
        while b"blocked_clients:1\r" not in primary.command("INFO", "clients"):
            gevent.sleep(0.01)
    heir = live_cluster.failover(primary)
    # MOVED, or UNBLOCKED and the end of the connection: either way the pop has not happened, and is done again there.
    with gevent.Timeout(10):
        while b"blocked_clients:1\r" not in heir.command("INFO", "clients"):
            gevent.sleep(0.01)
    assert cluster.execute("RPUSH", key, "pushed") == 1
    assert popped.get(timeout=5) == [key.encode(), b"pushed"]
