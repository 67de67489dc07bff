"""A command for all nodes while the cluster grows and shrinks."""

from collections.abc import Iterable, Iterator

import gevent
import pytest

from gvcluster import Address, Cluster, hash_slot
from gvcluster.testing import LocalCluster, Node

KEYS = [f"key:{number}" for number in range(300)]
MOVING = 12  # keys with a slot of their own, whose slots are moved


@pytest.fixture
def growing(server: str) -> Iterator[LocalCluster]:
    """A cluster of two primaries."""
    with LocalCluster(server, primaries=2, replicas=0) as cluster:
        yield cluster


def sizes(cluster: Cluster) -> dict[Address, int]:
    """DBSIZE of all nodes; what was asked last counts."""
    return {node.address: cluster.execute("DBSIZE", node=node) for node in cluster.nodes()}


def check(cluster: Cluster, growing: LocalCluster) -> None:
    """With the newest map each primary is asked, and each key counted once."""
    assert [cluster.execute("GET", key) for key in KEYS] == [b"x"] * len(KEYS)
    cluster.refresh()
    found = sizes(cluster)
    assert found == {node.address: node.command("DBSIZE") for node in growing.primaries()}
    assert sum(found.values()) == len(KEYS)


def test_dbsize_of_all_nodes_is_right_while_the_cluster_grows_and_shrinks(growing: LocalCluster, protocol: int) -> None:
    with Cluster(growing.seeds, protocol=protocol, timeout=20, refresh_interval=0.2) as cluster:
        for key in KEYS:
            cluster.execute("SET", key, "x")
        check(cluster, growing)
        passes: list[dict[Address, int]] = []

        def ask_on_and_on() -> None:
            while True:
                passes.append(sizes(cluster))
                gevent.sleep(0.001)

        asking = gevent.spawn(ask_on_and_on)

        new = growing.add_node()
        slots = sorted({hash_slot(key) for key in KEYS[:MOVING]})
        homes = {slot: growing.primary_of(slot) for slot in slots}
        before = len(passes)
        growing.move_slots(slots[: MOVING // 2], new)
        check(cluster, growing)  # half-way
        growing.move_slots(slots, new)
        check(cluster, growing)
        assert new.address in sizes(cluster)

        for home, theirs in by_home(homes).items():
            growing.move_slots(theirs, home)
            check(cluster, growing)
        for node in growing.primaries():
            if node is not new:
                node.command("CLUSTER", "FORGET", new.id)
        cluster.refresh()
        assert new.address not in sizes(cluster)
        growing.kill(new)
        check(cluster, growing)

        assert len(passes) > before, "it was asked meanwhile"
        assert not asking.dead, "no pass has failed"
        asking.kill()
    # A pass takes time: a key that moves meanwhile is met twice, or not at all. No other is.
    moving = sum(hash_slot(key) in homes for key in KEYS)
    for found in passes:
        # Who has lost its last slot becomes a replica of its heir at once, and may still be asked by the map before.
        copied = found.get(new.address, 0)
        total = sum(found.values()) - (copied if copied > moving else 0)
        assert abs(total - len(KEYS)) <= moving


def by_home(homes: dict[int, Node]) -> dict[Node, Iterable[int]]:
    """The slots of each node."""
    return {home: [slot for slot in homes if homes[slot] is home] for home in homes.values()}
