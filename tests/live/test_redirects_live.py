"""Slots that are elsewhere by now, or on their way: real servers redirect, and the client follows without an error."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest

import gvcluster
from gvcluster import Cluster, Redirected, ReplyError, RetriesExhausted
from gvcluster.testing import LocalCluster, Node

SLOT = gvcluster.hash_slot("{k}")


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, timeout=10, command_timeout=5) as cluster:
        yield cluster


def test_a_moved_slot_costs_one_redirect_and_one_new_slot_map(cluster: Cluster, live_cluster: LocalCluster) -> None:
    source, target = source_and_target(live_cluster)
    assert cluster.execute("SET", "{k}1", "before") == b"OK"
    live_cluster.move_slots(SLOT, target)
    assert cluster.execute("GET", "{k}1") == b"before"
    assert cluster.statistics().redirects == 1
    # The redirect serves the slot at once, whatever becomes of the slot map.
    assert cluster.execute("SET", "{k}2", "after") == b"OK"
    cluster.refresh()
    statistics = cluster.statistics()
    assert (statistics.route_version, statistics.redirects, statistics.retries) == (2, 1, 0)
    owner = cluster.node_for_key("{k}")
    assert owner is not None
    assert owner.address == target.address
    assert target.command("MGET", "{k}1", "{k}2") == [b"before", b"after"]
    assert {node.opened for node in statistics.nodes if node.address == source.address} == {1}


def test_a_crowd_that_is_redirected_has_the_slot_map_fetched_once_or_twice(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    _, target = source_and_target(live_cluster)
    for number in range(200):
        cluster.execute("SET", f"{{k}}{number}", number)
    live_cluster.move_slots(SLOT, target)
    before = cluster.statistics()
    getters = [gevent.spawn(cluster.execute, "GET", f"{{k}}{number}") for number in range(200)]
    gevent.joinall(getters, raise_error=True)
    assert [getter.value for getter in getters] == [str(number).encode() for number in range(200)]
    statistics = cluster.statistics()
    assert 1 <= statistics.redirects <= 200
    # All were sent before the first MOVED was read, or some after it; a map that was asked for too early is one more.
    assert 0 <= statistics.refreshes - before.refreshes <= 2
    assert [node.opened for node in statistics.nodes if node.address == target.address] == [1]


def test_a_script_follows_a_slot_that_has_really_moved(cluster: Cluster, live_cluster: LocalCluster) -> None:
    _, target = source_and_target(live_cluster)
    script = "return redis.call('INCR', KEYS[1])"
    assert cluster.execute("EVAL", script, 1, "{k}n") == 1
    live_cluster.move_slots(SLOT, target)
    assert cluster.execute("EVAL", script, 1, "{k}n") == 2
    assert cluster.statistics().redirects == 1


def test_keys_that_have_left_a_half_moved_slot_are_followed_one_by_one(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    source, target = source_and_target(live_cluster)
    for number in range(10):
        cluster.execute("SET", f"{{k}}{number}", number)
    move = live_cluster.begin_move(SLOT, target)
    move.move_keys(*(f"{{k}}{number}" for number in range(5)))
    before = cluster.statistics()
    # All at once: an ASKING must serve the command behind it and no other.
    getters = [gevent.spawn(cluster.execute, "GET", f"{{k}}{number % 10}") for number in range(100)]
    gevent.joinall(getters, raise_error=True)
    assert [getter.value for getter in getters] == [str(number % 10).encode() for number in range(100)]
    assert cluster.statistics().redirects - before.redirects == 50
    # A new key is made where the slot will be.
    assert cluster.execute("SET", "{k}new", "x") == b"OK"
    with target.connection() as connection:
        assert connection.calls([("ASKING",), ("GET", "{k}new")]) == [b"OK", b"x"]
    # ASK is about one command: the slot map stays, and is not even asked for.
    statistics = cluster.statistics()
    assert (statistics.refreshes, statistics.route_version, statistics.retries) == (before.refreshes, 1, 0)
    owner = cluster.node_for_key("{k}")
    assert owner is not None
    assert owner.address == source.address
    live_cluster.finish_move(move)
    assert [cluster.execute("GET", f"{{k}}{number}") for number in (0, 9, "new")] == [b"0", b"9", b"x"]


def test_a_blocked_pop_goes_where_a_half_moved_slot_sends_it(cluster: Cluster, live_cluster: LocalCluster) -> None:
    _, target = source_and_target(live_cluster)
    cluster.execute("RPUSH", "{k}list", "first")
    move = live_cluster.begin_move(SLOT, target)
    move.move_keys("{k}list")
    assert cluster.execute("BLPOP", "{k}list", 5) == [b"{k}list", b"first"]
    popped = gevent.spawn(cluster.execute, "BLPOP", "{k}list", 5)
    assert cluster.execute("RPUSH", "{k}list", "second") == 1
    assert popped.get(timeout=5) == [b"{k}list", b"second"]
    live_cluster.finish_move(move)


def test_a_script_goes_where_a_half_moved_slot_sends_it(cluster: Cluster, live_cluster: LocalCluster) -> None:
    _, target = source_and_target(live_cluster)
    script = "return redis.call('INCR', KEYS[1])"
    cluster.execute("MSET", "{k}moves", 1, "{k}stays", 10)
    move = live_cluster.begin_move(SLOT, target)
    move.move_keys("{k}moves")
    assert cluster.execute("EVAL", script, 1, "{k}stays") == 11
    assert cluster.execute("EVAL", script, 1, "{k}moves") == 2
    live_cluster.finish_move(move)
    assert cluster.execute("MGET", "{k}moves", "{k}stays") == [b"2", b"11"]


def test_a_command_whose_keys_are_on_both_sides_waits_until_they_are_together(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    _, target = source_and_target(live_cluster)
    cluster.execute("MSET", "{k}1", "a", "{k}2", "b")
    move = live_cluster.begin_move(SLOT, target)
    move.move_keys("{k}1")
    reader = gevent.spawn(cluster.execute, "MGET", "{k}1", "{k}2")
    writer = gevent.spawn(cluster.execute, "MSET", "{k}1", "c", "{k}2", "d")
    wait_for_retries(cluster, 6)
    assert not reader.ready()
    assert not writer.ready()
    live_cluster.finish_move(move)
    assert reader.get(timeout=5) in ([b"a", b"b"], [b"c", b"d"])
    assert writer.get(timeout=5) == b"OK"
    assert cluster.execute("MGET", "{k}1", "{k}2") == [b"c", b"d"]


def test_f9_a_write_that_was_told_to_try_again_until_its_deadline_is_known_not_to_have_run(
    live_cluster: LocalCluster, protocol: int
) -> None:
    _, target = source_and_target(live_cluster)
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, rng=Steady()) as cluster:
        cluster.execute("MSET", "{k}1", "a", "{k}2", "b")
        move = live_cluster.begin_move(SLOT, target)
        move.move_keys("{k}1")
        with pytest.raises(RetriesExhausted) as refused:
            cluster.execute("MSET", "{k}1", "c", "{k}2", "d", timeout=0.35)
        # Steady waits 7, 15, 30, 60, 120 and 240 ms: there is no time for a seventh attempt.
        retries = cluster.statistics().retries
        print(refused.value, refused.value.attempts)
        live_cluster.finish_move(move)
        told = {error.code for error in refused.value.attempts if isinstance(error, ReplyError)}
        assert "TRYAGAIN" in told <= {"TRYAGAIN", "ASK"}  # Redis 6.2 says ASK first
        assert 3 <= retries <= 6
        assert not refused.value.maybe_executed
        assert cluster.execute("MGET", "{k}1", "{k}2") == [b"a", b"b"]


@pytest.mark.needs("full coverage")
def test_commands_wait_while_the_cluster_is_down(cluster: Cluster, live_cluster: LocalCluster) -> None:
    assert cluster.execute("SET", "{k}n", 1) == b"OK"
    with down_node(live_cluster):
        counting = [gevent.spawn(cluster.execute, "INCR", "{k}n") for _ in range(10)]
        wait_for_retries(cluster, 30)
        assert not any(greenlet.ready() for greenlet in counting)
    gevent.joinall(counting, timeout=10, raise_error=True)
    assert sorted(greenlet.value for greenlet in counting) == list(range(2, 12))


@pytest.mark.needs("full coverage")
def test_scripts_wait_while_the_cluster_is_down(cluster: Cluster, live_cluster: LocalCluster) -> None:
    assert cluster.execute("SET", "{k}n", 1) == b"OK"
    with down_node(live_cluster):
        counting = gevent.spawn(cluster.execute, "EVAL", "return redis.call('INCR', KEYS[1])", 1, "{k}n")
        # It now waits for 80 ms or more. A script's CLUSTERDOWN is believed only if the node is found down afterwards.
        wait_for_retries(cluster, 5)
    assert counting.get(timeout=10) == 2
    assert cluster.execute("GET", "{k}n") == b"2"


def test_a_command_for_one_node_is_told_of_the_redirect_and_not_sent_elsewhere(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    source, target = source_and_target(live_cluster)
    cluster.execute("SET", "{k}1", "x")
    move = live_cluster.begin_move(SLOT, target)
    move.move_keys("{k}1")
    for node, told in ((source, f"ASK {SLOT} {target.address}"), (target, f"MOVED {SLOT} {source.address}")):
        with pytest.raises(Redirected) as refused:
            cluster.execute("GET", "{k}1", node=node.address)
        assert refused.value.message == told
    live_cluster.finish_move(move)
    assert cluster.statistics().redirects == 0


def test_a_replica_that_was_named_as_the_only_seed_sends_nobody_astray(
    live_cluster: LocalCluster, protocol: int
) -> None:
    (replica,) = live_cluster.replicas_of(live_cluster.primary_of("{k}"))
    with gvcluster.connect([replica.address], protocol=protocol) as cluster:
        assert cluster.execute("SET", "{k}", "x") == b"OK"
        with pytest.raises(Redirected):
            cluster.execute("SET", "{k}", "y", node=replica.address)
        assert cluster.statistics().redirects == 0


@contextmanager
def down_node(cluster: LocalCluster) -> Iterator[None]:
    """The owner of the slot answers CLUSTERDOWN to everything, because it misses another one of its slots."""
    owner = cluster.primary_of(SLOT)
    first, last = max(owner.view().me.slots, key=lambda run: run[1] - run[0])
    missing = last if last != SLOT else first
    owner.command("CLUSTER", "DELSLOTS", missing)
    try:
        with pytest.raises(ReplyError, match="CLUSTERDOWN"):
            owner.command("GET", "{k}")
        yield
    finally:
        owner.command("CLUSTER", "ADDSLOTS", missing)


def wait_for_retries(cluster: Cluster, retries: int) -> None:
    with gevent.Timeout(5):
        while cluster.statistics().retries < retries:
            gevent.sleep(0.005)


class Steady(random.Random):
    """Jitter that is always the same."""

    def random(self) -> float:
        return 0.5


def source_and_target(cluster: LocalCluster) -> tuple[Node, Node]:
    """The owner of the slot, and another primary."""
    source = cluster.primary_of(SLOT)
    return source, next(node for node in cluster.primaries() if node is not source)
