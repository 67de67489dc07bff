"""The ten things that must work on every Python, in a few seconds."""

import gevent
import pytest

import gvcluster
from gvcluster import AuthFailed, ClosedError, Cluster, CrossSlot, ReplyError, TopologyUnavailable
from gvcluster.testing import LocalCluster

pytestmark = pytest.mark.smoke


def test_a_client_connects_stores_reads_and_closes(live_cluster: LocalCluster, protocol: int) -> None:
    happened: list[object] = []
    options = {
        "protocol": protocol,
        "client_name": "smoke",
        "on_event": happened.append,
        "on_connect": lambda connection, error: happened.append((connection.address, error)),
    }
    with gvcluster.connect(live_cluster.seeds, **options) as cluster:
        for number in range(100):
            assert cluster.execute("SET", f"key-{number}", number) == b"OK"
        assert [cluster.execute("GET", f"key-{number}") for number in (0, 99)] == [b"0", b"99"]
        assert sum(cluster.execute("DBSIZE", node=node) for node in cluster.nodes()) == 100
        assert cluster.execute("HSET", "hash", "f", 1) == 1
        assert cluster.execute("HGETALL", "hash") == ({b"f": b"1"} if protocol == 3 else [b"f", b"1"])
        with pytest.raises(ReplyError, match=r"^WRONGTYPE"):
            cluster.execute("INCR", "hash")
        with pytest.raises(CrossSlot):
            cluster.execute("MGET", "key-1", "key-2")
    with pytest.raises(ClosedError):
        cluster.execute("GET", "key-1")
    assert [type(each).__name__ for each in happened if not isinstance(each, tuple)] == [
        "Ready",
        "SlotMapUpdated",
        "Closed",
    ]
    connected = [each for each in happened if isinstance(each, tuple)]
    assert {address for address, _ in connected} >= {node.address for node in live_cluster.primaries()}
    assert {error for _, error in connected} == {None}


def test_the_first_command_connects_and_a_killed_one_leaves_no_reply_behind(
    live_cluster: LocalCluster, protocol: int
) -> None:
    with Cluster(live_cluster.seeds, protocol=protocol) as cluster:
        for number in range(100):
            abandoned = gevent.spawn(cluster.execute, "ECHO", f"abandoned-{number}", route_key="k")
            gevent.sleep(0)
            abandoned.kill()
            assert cluster.execute("ECHO", f"kept-{number}", route_key="k") == f"kept-{number}".encode()
        owner = cluster.node_for_key("k")
        assert owner is not None
        assert [node.opened for node in cluster.statistics().nodes if node.address == owner.address] == [1]


def test_greenlets_share_a_connection_and_a_blocked_one_has_its_own(live_cluster: LocalCluster, protocol: int) -> None:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as cluster:
        popped = gevent.spawn(cluster.execute, "BLPOP", "{k}queue", 10)
        adders = [gevent.spawn(cluster.execute, "INCR", "{k}counter") for _ in range(200)]
        gevent.joinall(adders, raise_error=True)
        assert sorted(adder.value for adder in adders) == list(range(1, 201))
        cluster.execute("RPUSH", "{k}queue", "x")
        assert popped.get(timeout=5) == [b"{k}queue", b"x"]
        owner = cluster.node_for_key("{k}queue")
        assert owner is not None
        (mine,) = [node for node in cluster.statistics().nodes if node.address == owner.address]
        assert (mine.opened, mine.connections, mine.blocking.idle) == (2, 2, 1)


@pytest.mark.needs("ACL")
def test_a_url_names_everything_and_a_wrong_password_is_refused(live_cluster: LocalCluster, protocol: int) -> None:
    for node in live_cluster.nodes:
        node.command("ACL", "SETUSER", "smoke", "on", ">right", "~*", "+@all")
    try:
        with Cluster.from_url(f"valkey://smoke:right@{live_cluster.seeds}/0?protocol={protocol}") as cluster:
            assert cluster.execute("ACL", "WHOAMI", route_key="k") == b"smoke"
        wrong = Cluster.from_url(f"valkey://smoke:wrong@{live_cluster.seeds}", protocol=protocol)
        with pytest.raises(TopologyUnavailable) as refused:
            wrong.connect()
        assert {type(error) for _, error in refused.value.failures} == {AuthFailed}
        wrong.close()
    finally:
        for node in live_cluster.nodes:
            node.command("ACL", "DELUSER", "smoke")


def test_a_slot_that_has_moved_is_found(live_cluster: LocalCluster, protocol: int) -> None:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as cluster:
        cluster.execute("SET", "k", "x")
        source = live_cluster.primary_of("k")
        target = next(node for node in live_cluster.primaries() if node is not source)
        live_cluster.move_slots(gvcluster.hash_slot("k"), target)
        assert cluster.execute("GET", "k") == b"x"
        assert cluster.statistics().redirects == 1
