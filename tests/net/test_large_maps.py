"""Slot maps of a thousand nodes, and of 16384 ranges: all is found, and others are served while they are read."""

import os
import random
from collections.abc import Iterator

import gevent
import pytest
from gevent.monkey import get_original

from gvcluster import Cluster, GvClusterError
from gvcluster.core.slots import SLOTS
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import encode_reply


@pytest.fixture(scope="module")
def thousand() -> Iterator[FakeCluster]:
    with FakeCluster(500, replicas=1) as fake:
        yield fake


@pytest.mark.parametrize("source", ["slots", "nodes"])
def test_a_cluster_of_a_thousand_nodes_is_known_from_any_of_them(thousand, make, source):
    seed = thousand.nodes[777].address
    cluster = make(str(seed), topology_source=source, timeout=30.0)
    cluster.connect()
    assert {node.address for node in (*cluster.primaries(), *cluster.replicas())} == {
        node.address for node in thousand.nodes
    }
    assert len(cluster.primaries()) == len(cluster.replicas()) == 500
    for number in range(300):
        key = f"key-{number}"
        assert cluster.node_for_key(key).address == thousand.node_for_key(key).address
    assert cluster.execute("SET", "key-1", "1") == b"OK"
    cluster.refresh()  # no news
    assert cluster.route_version == 1
    assert cluster.statistics().redirects == 0
    assert sum(node.opened for node in cluster.statistics().nodes) <= 3  # nobody is visited for being in the map


class Reading:
    """A client that is learning a map of 16384 ranges, where no two neighbours have the same owner."""

    def __init__(self, fake: FakeCluster, cluster: Cluster) -> None:
        self.fake, self.cluster = fake, cluster
        told = [[b"127.0.0.1", node.address.port, node.id.encode()] for node in fake.nodes]
        reply = encode_reply([[slot, slot, told[slot % len(told)]] for slot in range(SLOTS)])
        for node in fake.nodes:
            node.on("CLUSTER SLOTS", reply)
        self._asked, self._read = self._count(), cluster.statistics().refreshes
        self.caller = gevent.spawn(cluster.refresh)
        with gevent.Timeout(20):
            while not self.is_under_way():
                gevent.sleep(0.001)  # libuv warns of less

    def _count(self) -> int:
        return sum(len(node.commands("CLUSTER SLOTS")) for node in self.fake.nodes)

    def is_under_way(self) -> bool:
        """Whether the reply is here, and not read to its end."""
        told = self.cluster.statistics()
        is_answered = self._count() > self._asked and not any(node.in_flight for node in told.nodes)
        return is_answered and told.refreshes == self._read

    def turns_of_others(self) -> int:
        """Wait for the end. Returns how often somebody else had his turn until then."""
        turns = 0
        with gevent.Timeout(20):
            while self.is_under_way():
                turns += 1
                gevent.sleep(0.001)  # libuv warns of less
        return turns


@pytest.fixture
def connected(fake, make) -> Cluster:
    cluster = make(timeout=30.0, rng=random.Random(3))
    cluster.warm_up()
    return cluster


def test_others_have_their_turns_while_a_map_is_read(fake, connected):
    reading = Reading(fake, connected)
    assert reading.turns_of_others() > 5
    reading.caller.get(timeout=10)
    assert connected.route_version == 2
    for number in range(100):
        key = f"key-{number}"
        slot = connected.hash_slot(key)
        assert connected.node_for_key(key).address == fake.nodes[slot % 3].address


def test_what_moved_while_a_map_was_read_is_newer_than_the_map(fake, connected):
    key = next(f"key-{number}" for number in range(1000) if connected.hash_slot(f"key-{number}") % 3 == 0)
    slot = connected.hash_slot(key)
    target = next(node for node in fake.nodes[1:] if node is not fake.owner(slot))
    reading = Reading(fake, connected)
    fake.move_slot(slot, target)
    assert connected.execute("SET", key, "1") == b"OK"
    assert reading.is_under_way()
    reading.caller.get(timeout=10)
    redirects = connected.statistics().redirects
    assert connected.execute("GET", key) == b"1"
    assert connected.statistics().redirects == redirects


def test_a_killed_caller_does_not_end_the_reading(fake, connected):
    reading = Reading(fake, connected)
    reading.caller.kill()
    assert reading.is_under_way()
    reading.turns_of_others()
    gevent.sleep(0.01)
    assert connected.route_version == 2


def test_closing_ends_the_reading(fake, connected):
    reading = Reading(fake, connected)
    connected.close()
    with pytest.raises(GvClusterError):
        reading.caller.get(timeout=10)
    gevent.sleep(0.2)
    assert connected.route_version == 1


@pytest.mark.skipif("libuv" in repr(gevent.config.loop), reason="libuv: see tests/chaos/test_fork_live.py")
def test_a_forked_child_does_not_read_on(fake, connected):
    reading = Reading(fake, connected)
    child = get_original("os", "fork")()
    if child == 0:
        try:
            gevent.sleep(0.3)
            os._exit(connected.route_version)
        finally:
            os._exit(99)
    _, status = get_original("os", "waitpid")(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    reading.caller.get(timeout=10)
    assert connected.route_version == 2
