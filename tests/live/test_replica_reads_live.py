"""Reads from the replicas of real servers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import gvcluster
from gvcluster import Cluster
from gvcluster.testing import LocalCluster

pytestmark = pytest.mark.needs("WAIT")

KEYS = [f"k{number}" for number in range(30)]


@pytest.fixture
def connect(live_cluster: LocalCluster, protocol: int) -> Iterator[Callable[..., Cluster]]:
    """Connect, after all replicas have KEYS."""
    with ExitStack() as opened:

        def connect(**options: object) -> Cluster:
            return opened.enter_context(gvcluster.connect(live_cluster.seeds, protocol=protocol, **options))

        writer = connect()
        owners = {key: writer.node_for_key(key).address for key in KEYS}
        for node in live_cluster.primaries():
            mine = [("SET", key, key) for key in KEYS if owners[key] == node.address]
            with node.connection() as connection:
                assert connection.calls([*mine, ("WAIT", 1, 5000)])[-1] == 1
        yield connect


def reads_at_replicas(cluster: Cluster) -> int:
    return sum(node.commands for node in cluster.statistics().nodes if node.read_only)


@pytest.mark.smoke
def test_replicas_serve_what_only_reads(connect: Callable[..., Cluster], server: str) -> None:
    cluster = connect(read_from="replica")
    values = [key.encode() for key in KEYS]
    assert [cluster.execute("GET", key) for key in KEYS] == values
    assert reads_at_replicas(cluster) >= len(KEYS)
    before = cluster.statistics()
    assert cluster.mget(KEYS) == values
    assert [reply.get(5) for reply in [cluster.submit("STRLEN", key) for key in KEYS]] == [len(key) for key in KEYS]
    with cluster.pipeline() as pipe:
        for key in KEYS:
            pipe.append("GET", key)
        assert pipe.execute() == values
    if server != "redis-6.2.14":
        assert cluster.execute("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, "k1") == b"k1"
    after = cluster.statistics()
    assert (after.redirects, after.retries) == (0, 0)
    assert after.commands - before.commands == reads_at_replicas(cluster) - sum(
        node.commands for node in before.nodes if node.read_only
    )


def test_a_zone_is_served_by_its_own_nodes_where_the_server_tells_zones(
    connect: Callable[..., Cluster], live_cluster: LocalCluster, server: str
) -> None:
    has_zones = server.startswith("valkey-9")
    for node in live_cluster.nodes if has_zones else ():
        node.command("CONFIG", "SET", "availability-zone", "here" if node.role == "primary" else "there")
    try:
        cluster = connect(read_from="az:here")
        while has_zones and {node.availability_zone for node in cluster.primaries()} != {"here"}:
            cluster.refresh()  # they tell each other by gossip
        here = [cluster.execute("GET", key) for key in KEYS]
        at_replicas = reads_at_replicas(cluster)
        assert here == [cluster.execute("GET", key, read_from="az:there") for key in KEYS]
        assert (at_replicas == 0) == has_zones
        assert reads_at_replicas(cluster) > at_replicas
    finally:
        for node in live_cluster.nodes if has_zones else ():
            node.command("CONFIG", "SET", "availability-zone", "")


@pytest.mark.parametrize("policy", ["prefer_replica", "replica"])
def test_a_slot_that_has_moved_is_read_at_its_new_shard(
    connect: Callable[..., Cluster], live_cluster: LocalCluster, policy: str
) -> None:
    cluster = connect(read_from=policy)
    assert cluster.execute("GET", "k1") == b"k1"
    slot = cluster.hash_slot("k1")
    owner = cluster.node_for_key("k1")
    target = next(node for node in live_cluster.primaries() if owner is not None and node.address != owner.address)
    live_cluster.move_slots(slot, target)
    with target.connection() as connection:
        assert connection.calls([("SET", "k1", "new"), ("WAIT", 1, 5000)]) == [b"OK", 1]
    assert cluster.execute("GET", "k1") == b"new"
    assert cluster.statistics().redirects == (policy == "prefer_replica")
