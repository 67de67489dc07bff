"""Reads from replicas while nodes die, hang and take over."""

from time import monotonic

import gevent
import pytest

import gvcluster
from gvcluster import Cluster
from gvcluster.testing import LocalCluster, Node


def key_of(cluster: Cluster, node: Node) -> str:
    """A key that the node serves and its replicas have."""
    key = next(key for key in map(str, range(1000)) if cluster.node_for_key(key).address == node.address)
    with node.connection() as connection:
        assert connection.calls([("SET", key, "x"), ("WAIT", 1, 5000)]) == [b"OK", 1]
    return key


@pytest.mark.needs("elections")
def test_reads_go_on_while_the_primary_is_dead_and_wait_where_the_replica_serves_no_stale_data(
    live_cluster: LocalCluster, shards: list[Node], protocol: int
) -> None:
    victim = shards[0]
    (heir,) = live_cluster.replicas_of(victim)
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, read_from="prefer_replica") as cluster:
        key = key_of(cluster, victim)
        assert cluster.execute("GET", key) == b"x"
        live_cluster.kill(victim)
        try:
            dead, served = monotonic(), 0
            while monotonic() < dead + 0.5:
                assert cluster.execute("GET", key) == b"x"
                served += 1
            assert heir.role == "replica"
            assert served >= 10
            assert cluster.statistics().retries == 0
            heir.command("CONFIG", "SET", "replica-serve-stale-data", "no")
            assert cluster.execute("GET", key) == b"x"  # MASTERDOWN, and the primary is gone: it waits for the heir
            assert heir.role == "primary"
            assert cluster.statistics().retries > 0
            assert cluster.execute("SET", key, "y") == b"OK"
            assert cluster.execute("GET", key) == b"y"
        finally:
            heir.command("CONFIG", "SET", "replica-serve-stale-data", "yes")
            live_cluster.restart(victim)
            live_cluster.wait_until_agreed()


def test_f4_a_replica_that_hangs_costs_those_who_wait_for_it_one_timeout_and_is_then_left_alone(
    live_cluster: LocalCluster, shards: list[Node], protocol: int
) -> None:
    (victim,) = live_cluster.replicas_of(shards[1])
    options = {"protocol": protocol, "command_timeout": 0.5}
    with gvcluster.connect(live_cluster.seeds, read_from="prefer_replica", **options) as cluster:
        key = key_of(cluster, shards[1])
        assert cluster.execute("GET", key) == b"x"
        live_cluster.pause(victim)
        try:
            stuck = [gevent.spawn(cluster.execute, "GET", key) for _ in range(10)]
            gevent.joinall(stuck, timeout=8, raise_error=True)
            assert [each.value for each in stuck] == [b"x"] * 10
            retries = cluster.statistics().retries
            assert retries <= 10
            assert [cluster.execute("GET", key) for _ in range(20)] == [b"x"] * 20
            assert cluster.statistics().retries == retries
        finally:
            live_cluster.resume(victim)
            live_cluster.wait_until_agreed()
        served = commands_at(cluster, victim)
        with gevent.Timeout(15):
            while commands_at(cluster, victim) <= served + 1:  # one of them is the question how it is
                assert cluster.execute("GET", key) == b"x"
                gevent.sleep(0.01)


def commands_at(cluster: Cluster, node: Node) -> int:
    """How many commands were sent to it for reading."""
    told = cluster.statistics().nodes
    return sum(each.commands for each in told if each.read_only and each.address == node.address)
