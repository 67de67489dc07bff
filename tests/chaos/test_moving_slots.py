"""Slots that change their owner under load, one by one, half, or all at once: no call notices."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gvcluster import Cluster, ConfigError, Statistics, hash_slot
from gvcluster.testing import LocalCluster, Node


def test_f7_fifty_slots_are_moved_key_by_key_without_an_error(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    source, target, _ = shards
    with load(cluster) as under_load:
        mine = under_load.of(source.address)
        slots, before = {hash_slot(worker.tag) for worker in mine}, [worker.acknowledged for worker in mine]
        live_cluster.move_slots(sorted(slots.union(slots_of(source)[: 50 - len(slots)])), target)
        assert all(worker.acknowledged > then for worker, then in zip(mine, before, strict=True)), "each was in use"
        under_load.wait_until_served()
        cluster.refresh()
        redirects = cluster.statistics().redirects
        under_load.wait_until_served()
        assert cluster.statistics().redirects == redirects, "everybody knows the new owner by now"
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    assert redirects > 0, "a map that is fetched for one of them brings others as well, but not for the first"
    assert_each_has_one_connection(shards, cluster.statistics())


def test_a_half_moved_slot_serves_both_halves_and_lets_wait_who_needs_both(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    source, target, _ = shards
    with load(cluster) as under_load:
        worker = under_load.of(source.address)[0]
        move = live_cluster.begin_move(hash_slot(worker.tag), target)
        move.move_keys(worker.count)
        under_load.wait_until_served()
        asked = cluster.statistics()
        assert asked.redirects >= 2, "to increment, and to read the count"
        both = gevent.spawn(cluster.execute, "MGET", worker.token, worker.count)
        with gevent.Timeout(5):
            while cluster.statistics().retries < asked.retries + 3:
                gevent.sleep(0.005)
        under_load.wait_until_served()
        assert not both.ready()
        live_cluster.finish_move(move)
        token, count = both.get(timeout=5)
        assert token == worker.tag.encode()
        assert 0 < int(count) <= worker.acknowledged + 1
        under_load.wait_until_served()
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    assert_each_has_one_connection(shards, cluster.statistics())


def test_f8_many_slots_are_moved_at_once_without_an_error_where_the_server_can(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    if not live_cluster.server.has_atomic_moves:
        with pytest.raises(ConfigError, match="Valkey 9"):
            live_cluster.move_slots_atomically(0, 1, shards[0])
        return
    target, _, source = shards  # this source has not lost single slots in the tests before
    before = cluster.statistics()
    with load(cluster) as under_load:
        used = [hash_slot(worker.tag) for worker in under_load.of(source.address)]
        first, last = run_around(used[0], slots_of(source))
        live_cluster.move_slots_atomically(first, last, target)
        under_load.wait_until_served()
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    ended = cluster.statistics()
    # One map for the whole range, not a redirect for each slot; who was under way was redirected, too.
    assert 1 <= ended.redirects <= 3 * len(used)
    assert ended.refreshes - before.refreshes <= 5
    assert_each_has_one_connection(shards, ended)


def slots_of(node: Node) -> list[int]:
    """The slots that the node itself says are its own."""
    return [slot for first, last in node.view().me.slots for slot in range(first, last + 1)]


def run_around(slot: int, slots: list[int]) -> tuple[int, int]:
    """A run of slots with this one in it: not all that a primary has, or it would become a replica."""
    first = last = slot
    while first - 1 in slots and slot - first < 1000:
        first -= 1
    while last + 1 in slots and last - slot < 1000:
        last += 1
    return first, last


def assert_each_has_one_connection(nodes: list[Node], statistics: Statistics) -> None:
    opened = {node.address: node.opened for node in statistics.nodes}
    assert [opened[node.address] for node in nodes] == [1, 1, 1]
