"""SIGSTOP: a node that says nothing and closes nothing, for longer or shorter than the others are ready to wait."""

import random
from collections.abc import Callable
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster import Address, Cluster, ConnectionLost, ReplyTimeout
from gvcluster.testing import LocalCluster, Node


@pytest.mark.needs("elections")
def test_who_waits_for_a_connection_to_a_frozen_primary_goes_to_its_heir_instead(
    live_cluster: LocalCluster, shards: list[Node], protocol: int
) -> None:
    victim = shards[2]
    options = {"protocol": protocol, "command_timeout": 0.5, "connect_timeout": 30.0}
    with gvcluster.connect(live_cluster.seeds, **options) as cluster:
        key = next(key for key in map(str, range(1000)) if cluster.node_for_key(key).address == victim.address)
        with victim.connection() as connection:
            assert connection.calls([("SET", key, "x"), ("WAIT", 1, 5000)]) == [b"OK", 1]
        assert cluster.execute("GET", key) == b"x"
        live_cluster.pause(victim)
        # The kernel goes on accepting connections for the frozen process, and nobody ever says hello on them.
        reading = [gevent.spawn(cluster.execute, "GET", key) for _ in range(10)]
        gevent.joinall(reading, timeout=15)
        live_cluster.resume(victim)
        live_cluster.wait_until_agreed()
        assert victim.role == "replica"
        assert [greenlet.value for greenlet in reading] == [b"x"] * 10


@pytest.mark.needs("elections")
def test_f2_a_primary_that_is_paused_for_good_is_replaced_and_only_stuck_writes_are_in_doubt(
    live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any], protocol: int
) -> None:
    other, victim, another = shards
    others = (other, another)
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, command_timeout=1.0) as cluster:
        with load(cluster, may_lose=True) as under_load:
            live_cluster.pause(victim)
            writers = under_load.count_once(victim.address, 20)
            for other in others:
                under_load.wait_until_served(other.address, timeout=5)
            gevent.joinall(writers, timeout=5)
            under_load.wait_until_served(victim.address)
            assert victim not in live_cluster.primaries()
            failures = len(under_load.errors())
            live_cluster.resume(victim)
            live_cluster.wait_until_agreed()
            assert victim.role == "replica"
            under_load.wait_until_served()
        ended = cluster.statistics()

        in_doubt = {(ReplyTimeout, True, victim.address), (ConnectionLost, True, victim.address)}
        assert {why_lost(writer.value) for writer in writers} <= in_doubt
        assert under_load.wrong == []
        assert len(under_load.errors()) == failures, "its return disturbs nobody"
        assert under_load.errors(command="GET") == []
        assert [under_load.errors(other.address) for other in others] == [[], []]
        assert {why_lost(error) for error in under_load.errors()} <= in_doubt
        assert max(len(worker.errors) for worker in under_load.workers) <= 1
        assert under_load.longest_call() < 10, "within the call's deadline"
        under_load.check_counts()
        assert ended.retries < 2000
        for other in others:
            assert [node.opened for node in ended.nodes if node.address == other.address] == [1]


def test_f3_a_short_pause_is_waited_out_on_the_same_connections(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    victim = shards[0]
    with load(cluster) as under_load:
        live_cluster.pause(victim)
        gevent.sleep(0.8)  # a pause is a time
        live_cluster.resume(victim)
        under_load.wait_until_served()
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    statistics = cluster.statistics()
    assert (statistics.route_version, statistics.redirects, statistics.retries) == (1, 0, 0)
    for node in live_cluster.primaries():
        assert [each.opened for each in statistics.nodes if each.address == node.address] == [1]


def test_what_a_paused_node_answers_too_late_reaches_nobody(
    live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any], protocol: int
) -> None:
    victim, *others = shards
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, command_timeout=0.3) as cluster:
        with load(cluster) as under_load:
            live_cluster.pause(victim)
            writers = under_load.count_once(victim.address, 20)
            gevent.sleep(0.9)  # a pause is a time
            live_cluster.resume(victim)
            under_load.wait_until_served()
            # A command that a new connection brings may overtake those that the old one still holds.
            cluster.execute("PING", node=victim.address)
        in_doubt = {(ReplyTimeout, True, victim.address), (ConnectionLost, True, victim.address)}
        assert {why_lost(writer.value) for writer in writers} <= in_doubt
        assert under_load.wrong == []
        assert under_load.errors(command="GET") == []
        assert [under_load.errors(other.address) for other in others] == [[], []]
        assert {why_lost(error) for error in under_load.errors()} <= in_doubt
        under_load.check_counts()
        assert cluster.statistics().route_version == 1


def test_a_frozen_node_that_is_asked_first_does_not_hold_up_the_slot_map(
    live_cluster: LocalCluster, shards: list[Node], protocol: int
) -> None:
    victim = shards[0]

    class VictimFirst(random.Random):
        def shuffle(self, x: Any) -> None:
            x.sort(key=lambda address: address != victim.address)

    options = {"protocol": protocol, "connect_timeout": 30.0, "rng": VictimFirst()}
    with gvcluster.connect([victim.address], **options) as cluster:
        assert cluster.close_idle() == 1
        live_cluster.pause(victim)
        try:
            cluster.refresh(timeout=4)
        finally:
            live_cluster.resume(victim)
        assert cluster.statistics().refreshes == 2


def why_lost(error: Any) -> tuple[type, bool, Address | None]:
    return type(error), getattr(error, "maybe_executed", False), getattr(error, "address", None)
