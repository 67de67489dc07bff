"""gvcluster and a cluster of Garnets: the scenarios of Garnet's own cluster tests, at nodes that answer as it does."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gvcluster import (
    Cluster,
    CrossSlot,
    GvClusterError,
    hash_slot,
)
from gvcluster.errors import TopologyUnavailable
from gvcluster.testing import FakeGarnet

ENDPOINTS = ("ip", "hostname", "unknown")


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0.002)


def more_than(items: list[int]) -> Callable[[], bool]:
    """Whether there are more of them than now."""
    before = len(items)
    return lambda: len(items) > before


# -- connecting --------------------------------------------------------------------------------------------------------


def test_it_connects_reads_and_writes(garnet_cluster: Cluster, garnet: FakeGarnet, protocol: int) -> None:
    assert len(garnet_cluster.primaries()) == len(garnet_cluster.replicas()) == 3
    keys = [f"k{number}" for number in range(50)]
    assert [garnet_cluster.execute("INCR", key) for key in keys] == [1] * 50
    assert sum(len(node.data) for node in garnet.nodes[:3]) == 50
    assert {connection.protocol for node in garnet.nodes for connection in node.open_connections} == {protocol}


def test_optional_words_of_the_handshake_may_be_refused(garnet: FakeGarnet, connect_to: Callable[..., Cluster]) -> None:
    for node in garnet.nodes:
        node.on("CLIENT", b"-ERR unknown subcommand 'SETINFO'.\r\n")
    assert connect_to(garnet).execute("SET", "k", 1) == b"OK"


def test_a_node_without_resp3_is_spoken_to_in_resp2(garnet: FakeGarnet, connect_to: Callable[..., Cluster]) -> None:
    garnet.highest_protocol = 2
    cluster = connect_to(garnet, protocol=3)
    assert cluster.execute("INCR", "k") == 1
    assert {connection.protocol for node in garnet.nodes for connection in node.open_connections} == {2}


def test_a_node_without_hello_is_spoken_to_in_resp2(garnet: FakeGarnet, connect_to: Callable[..., Cluster]) -> None:
    garnet.absent.add("HELLO")
    assert connect_to(garnet, protocol=3).execute("INCR", "k") == 1


def test_without_the_password_hello_succeeds_and_the_first_question_tells(connect_to: Callable[..., Cluster]) -> None:
    with FakeGarnet(1, password="s3") as fake:
        for password, told in ((None, "NOAUTH Authentication required"), ("no", "WRONGPASS")):
            with pytest.raises(TopologyUnavailable, match=told):
                connect_to(fake, password=password)
        assert connect_to(fake, password="s3").execute("INCR", "k") == 1


def test_a_map_that_never_comes_by_slots_is_asked_for_by_nodes(
    garnet: FakeGarnet, connect_to: Callable[..., Cluster]
) -> None:
    for node in garnet.nodes:
        node.on("CLUSTER SLOTS", None)  # above 128 KiB the server thread spins for ever
    cluster = connect_to(garnet, timeout=20, command_timeout=0.3)
    assert cluster.execute("INCR", "k", command_timeout=10) == 1


# -- redirects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint_type", ENDPOINTS)
@pytest.mark.parametrize("hostname", ["localhost", ""])
def test_moved_and_ask_are_followed_by_any_type_of_endpoint(
    connect_to: Callable[..., Cluster], endpoint_type: Any, hostname: str
) -> None:
    with FakeGarnet(3, endpoint_type=endpoint_type, hostname=hostname) as fake:
        cluster = connect_to(fake)
        source, target = fake.nodes[0], fake.nodes[1]
        slot = hash_slot(key := fake.key_at(source))
        assert cluster.execute("INCR", key) == 1
        fake.begin_migration(slot, target)
        assert cluster.execute("INCR", key) == 2
        fake.move_keys(key.encode())
        assert cluster.execute("INCR", key, timeout=5) == 3
        assert target.commands("ASKING")
        assert cluster.route_version == 1  # the slot is the source's still
        fake.move_slot(slot, target)
        assert cluster.execute("INCR", key) == 4
        assert target.data == {key.encode(): b"4"}


def test_a_pipeline_with_one_foreign_key_keeps_its_order(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    tag = garnet.key_at(garnet.nodes[0])
    keys = [f"{{{tag}}}{number}" for number in range(127)]
    foreign = garnet.key_at(garnet.nodes[0], "other")
    for number, key in enumerate([*keys, foreign]):
        garnet_cluster.execute("SET", key, number)
    garnet.move_slot(hash_slot(foreign), 1)
    with garnet_cluster.pipeline() as pipeline:
        for key in [*keys[:60], foreign, *keys[60:]]:
            pipeline.append("GET", key)
        replies = pipeline.execute()
    assert [int(reply) for reply in replies] == [*range(60), 127, *range(60, 127)]


def test_keys_of_several_slots_are_read_and_written_at_once(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    keys = [f"k{number}" for number in range(100)]
    garnet_cluster.mset({key: number for number, key in enumerate(keys)})
    garnet.move_slot(hash_slot("k7"), 0 if garnet.node_for_key("k7") is not garnet.nodes[0] else 1)
    assert garnet_cluster.mget([*keys, "absent"]) == [*(b"%d" % number for number in range(100)), None]
    assert garnet_cluster.delete(*keys) == 100
    with pytest.raises(CrossSlot):
        garnet_cluster.execute("MGET", "k1", "k2")


def test_several_keys_half_of_which_have_gone_are_waited_for(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    tag = garnet.key_at(garnet.nodes[0])
    a, b = f"{{{tag}}}a", f"{{{tag}}}b"
    garnet_cluster.execute("MSET", a, 1, b, 2)
    garnet.begin_migration(hash_slot(tag), 1)
    garnet.move_keys(a.encode())
    reading = gevent.spawn(garnet_cluster.execute, "MGET", a, b)
    garnet.nodes[0].wait_until(lambda: len(garnet.nodes[0].commands("MGET")) > 1)  # TRYAGAIN, and again
    garnet.move_keys(b.encode())
    assert reading.get(timeout=5) == [b"1", b"2"]
    assert not garnet.nodes[2].commands("MGET")


def test_unassigned_port_0_means_that_nobody_serves_it(garnet: FakeGarnet, connect_to: Callable[..., Cluster]) -> None:
    key = garnet.key_at(garnet.nodes[0])
    slot = hash_slot(key)
    cluster = connect_to(garnet)
    # The primary has become a replica in a cluster where nobody owns the slot.
    garnet.nodes[0].on("SET", b"-MOVED %d unassigned:0\r\n" % slot, times=3)
    assert cluster.execute("SET", key, 1, timeout=5) == b"OK"
    assert len(garnet.nodes[0].commands("SET")) == 4


def test_a_slot_walks_from_node_to_node_and_no_write_is_lost_or_doubled(
    garnet: FakeGarnet, garnet_cluster: Cluster
) -> None:
    """ClusterMigrateSlotWalk, ClusterMigrateWrite, ClusterAllowWritesDuringMigrateTestAsync."""
    key = garnet.key_at(garnet.nodes[0])
    slot = hash_slot(key)
    elements = [f"{{{key}}}list".encode(), key.encode()]
    written: list[int] = []
    is_over = False

    def write() -> None:
        while not is_over:
            number = garnet_cluster.execute("INCR", key)
            assert number == len(written) + 1
            written.append(garnet_cluster.execute("RPUSH", elements[0], number))
            gevent.sleep(0.002)

    writers = gevent.spawn(write)
    for step in range(1, 13):
        target = garnet.nodes[step % 3]
        wait_for(more_than(written))
        garnet.begin_migration(slot, target)
        wait_for(more_than(written))
        for element in elements:
            owner = garnet.owner(slot)
            assert owner is not None
            if element in owner.data:
                garnet.move_keys(element)
            wait_for(more_than(written))
        garnet.move_slot(slot, target)
    wait_for(more_than(written))
    is_over = True
    writers.get(timeout=5)
    owner = garnet.owner(slot)
    assert owner is garnet.nodes[0]
    assert owner.data[elements[0]] == [b"%d" % number for number in range(1, len(written) + 1)]
    assert owner.data[key.encode()] == b"%d" % len(written)
    assert all(not node.data for node in garnet.nodes[1:3])
    assert garnet_cluster.statistics().redirects >= 12


# -- views that are late, or have holes --------------------------------------------------------------------------------


def test_a_chain_of_moved_through_late_views_is_followed(connect_to: Callable[..., Cluster]) -> None:
    with FakeGarnet(4, gossips=False) as fake:
        cluster = connect_to(fake)
        slot = hash_slot(key := fake.key_at(fake.nodes[0]))
        cluster.execute("SET", key, "v")
        for to in (1, 2, 3):
            fake.move_slot(slot, to)
        # 0 has heard of 1 only, 1 of 2, 2 of 3.
        assert cluster.execute("GET", key) == b"v"
        assert [len(node.commands("GET")) for node in fake.nodes] == [1, 1, 1, 1]


def test_a_hole_in_one_view_takes_nothing_away(connect_to: Callable[..., Cluster]) -> None:
    with FakeGarnet(3, gossips=False) as fake:
        cluster = connect_to(fake)
        source, third = fake.nodes[0], fake.nodes[2]
        slot = hash_slot(key := fake.key_at(source))
        cluster.execute("SET", key, "v")
        third.config.give([slot], None)
        for _ in range(5):
            cluster.refresh()
        assert cluster.execute("GET", key) == b"v"
        assert cluster.node_for_key(key).address == source.address
        assert cluster.statistics().redirects == 0


def test_clusterdown_of_a_node_with_a_hole_is_waited_out(connect_to: Callable[..., Cluster]) -> None:
    with FakeGarnet(3, gossips=False) as fake:
        cluster = connect_to(fake)
        source = fake.nodes[0]
        slot = hash_slot(key := fake.key_at(source))
        cluster.execute("SET", key, "v")
        source.config.give([slot], None)
        reading = gevent.spawn(cluster.execute, "GET", key, timeout=10)
        source.wait_until(lambda: len(source.commands("GET")) >= 2)
        source.config.give([slot], source.id)
        assert reading.get(timeout=10) == b"v"


@pytest.mark.parametrize("topology_source", ["slots", "nodes"])
def test_an_old_view_does_not_take_back_what_moved_said(
    connect_to: Callable[..., Cluster], topology_source: str
) -> None:
    with FakeGarnet(3, gossips=False) as fake:
        cluster = connect_to(fake, topology_source=topology_source)
        source, target = fake.nodes[:2]
        slot = hash_slot(key := fake.key_at(source))
        cluster.execute("SET", key, "v")
        fake.move_slot(slot, target)
        assert cluster.execute("GET", key) == b"v"
        wait_for(lambda: cluster.route_version == 2 and cluster.node_for_key(key).address == target.address)
        for node in (source, target):  # the third has not heard
            node.on("CLUSTER", b"-ERR unknown subcommand\r\n")
        for _ in range(2):
            cluster.refresh()
            assert cluster.execute("GET", key) == b"v"
        if topology_source == "nodes":  # which tells the epochs
            assert cluster.node_for_key(key).address == target.address
            assert len(source.commands("GET")) == 1


# -- failover ----------------------------------------------------------------------------------------------------------


def test_a_failover_with_ping_pong_and_clusterdown_costs_only_time(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    """ClusterReplicationSimpleFailover, ClusterFailoverResetsPrimaryOnTakeOverFailureAsync."""
    old, new = garnet.nodes[0], garnet.nodes[3]
    key = garnet.key_at(old)
    assert garnet_cluster.execute("INCR", key) == 1
    garnet.begin_failover(new)
    writing = gevent.spawn(garnet_cluster.execute, "INCR", key, timeout=20)
    wait_for(lambda: len(old.commands("INCR")) + len(new.commands("INCR")) >= 6)
    # It waits between the hops, and does not burn its redirects.
    assert garnet_cluster.statistics().redirects <= 16
    garnet.promote(new)
    new.is_recovering = True
    new.wait_until(lambda: len(new.commands("INCR")) >= 4)
    new.is_recovering = False
    assert writing.get(timeout=20) == 2
    assert new.data[key.encode()] == b"2"
    assert garnet_cluster.execute("INCR", key) == 3


def test_a_failover_that_fails_ends_at_the_old_primary(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    old, new = garnet.nodes[0], garnet.nodes[3]
    key = garnet.key_at(old)
    slots = [slot for slot in range(16384) if garnet.owner(slot) is old]
    garnet.begin_failover(new)
    writing = gevent.spawn(garnet_cluster.execute, "INCR", key, timeout=20)
    wait_for(lambda: len(old.commands("INCR")) + len(new.commands("INCR")) >= 4)
    old.config.give(slots, old.id)
    old.config.change(primary_id=None)
    new.is_recovering = False
    assert writing.get(timeout=20) == 1


def test_a_dead_primary_is_waited_for_until_somebody_says_takeover(
    garnet: FakeGarnet, connect_to: Callable[..., Cluster]
) -> None:
    """PrimaryUnavailableRecoveryAsync: nobody fails a node by itself."""
    ended: list[object] = []
    cluster = connect_to(garnet, on_disconnect=lambda connection, _error: ended.append(connection.address))
    old, new = garnet.nodes[0], garnet.nodes[3]
    key = garnet.key_at(old)
    assert cluster.execute("INCR", key) == 1
    old.stop()
    wait_for(lambda: old.address in ended)
    writing = gevent.spawn(cluster.execute, "INCR", key, timeout=20)
    new.wait_until(lambda: new.commands("ROLE"))  # the client asks whether it is promoted
    assert cluster.command_to_node(new.address, "CLUSTER FAILOVER TAKEOVER") == b"OK"
    assert writing.get(timeout=20) == 2
    assert cluster.node_for_key(key).address == new.address


def test_two_shards_fail_over_at_once(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    keys = [garnet.key_at(node) for node in garnet.nodes[:2]]
    for new in garnet.nodes[3:5]:
        garnet.begin_failover(new)
    writing = [gevent.spawn(garnet_cluster.execute, "INCR", key, timeout=20) for key in keys]
    wait_for(lambda: all(node.commands("INCR") for node in garnet.nodes[3:5]))
    assert garnet_cluster.execute("INCR", garnet.key_at(garnet.nodes[2])) == 1
    for new in garnet.nodes[3:5]:
        garnet.promote(new)
    assert [each.get(timeout=20) for each in writing] == [1, 1]


# -- replicas ----------------------------------------------------------------------------------------------------------


def test_reads_from_replicas_say_readonly_once_and_never_readwrite(
    garnet: FakeGarnet, connect_to: Callable[..., Cluster]
) -> None:
    cluster = connect_to(garnet, read_from="replica")
    key = garnet.key_at(garnet.nodes[0])
    replica = garnet.nodes[3]
    cluster.execute("SET", key, "v")
    assert [cluster.execute("GET", key) for _ in range(5)] == [b"v"] * 5
    assert (len(replica.commands("GET")), len(replica.commands("READONLY"))) == (5, 1)
    cluster.close()
    assert [node.sent_readwrite for node in garnet.nodes] == [0] * 6
    assert not replica.commands("SET")


def test_a_replica_that_recovers_sends_reads_away_and_another_node_serves_them(
    garnet: FakeGarnet, connect_to: Callable[..., Cluster]
) -> None:
    cluster = connect_to(garnet, read_from="prefer_replica")
    key = garnet.key_at(garnet.nodes[0])
    cluster.execute("SET", key, "v")
    garnet.nodes[3].is_recovering = True
    assert [cluster.execute("GET", key) for _ in range(3)] == [b"v"] * 3


# -- all nodes, scans, commands of Garnet only -------------------------------------------------------------------------


def test_commands_for_all_nodes(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    for number in range(30):
        garnet_cluster.execute("SET", f"k{number}", number)
    assert garnet_cluster.execute("DBSIZE") == 30
    assert len(garnet_cluster.execute("KEYS", "k*")) == 30
    assert garnet_cluster.execute("FLUSHALL") == b"OK"
    assert garnet_cluster.execute("DBSIZE") == 0
    with pytest.raises(GvClusterError, match="unknown command"):
        garnet_cluster.execute("RANDOMKEY")


def test_a_scan_finds_every_key_while_a_slot_moves(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    names = {f"k{number}".encode() for number in range(200)}
    for name in names:
        garnet_cluster.execute("SET", name, 1)
    found = set()
    for number, key in enumerate(garnet_cluster.scan_iter(count=10)):
        found.add(key)
        if number == 20:
            garnet.move_slot(hash_slot("k1"), 2 if garnet.node_for_key("k1") is not garnet.nodes[2] else 0)
    assert found == names


def test_a_command_of_garnet_only_is_looked_up_and_routed_by_its_key(
    garnet_cluster: Cluster, garnet: FakeGarnet
) -> None:
    for node in garnet.nodes:
        node.table["GETWITHETAG"] = node.table["GET"]
    key = garnet.key_at(garnet.nodes[1])
    garnet_cluster.execute("SET", key, "v")
    assert garnet_cluster.execute("GETWITHETAG", key) == b"v"
    assert [len(node.commands("GETWITHETAG")) for node in garnet.nodes] == [0, 1, 0, 0, 0, 0]


def test_a_custom_transaction_is_routed_by_hand(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    key = garnet.key_at(garnet.nodes[1])
    for node in garnet.nodes:
        node.on("RUNTXP", lambda node, _connection, _args: b":%d\r\n" % node.index)
    assert garnet_cluster.execute("RUNTXP", 0, key, route_key=key) == 1


def test_memory_usage_goes_to_the_keys_owner(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    key = garnet.key_at(garnet.nodes[1])
    garnet_cluster.execute("SET", key, "v")
    assert garnet_cluster.execute("MEMORY", "USAGE", key) == 65
