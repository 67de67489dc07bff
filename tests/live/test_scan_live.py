"""scan_iter on real servers, while slots move and primaries fail over."""

from collections.abc import Callable, Iterator

import gevent
import pytest

import gvcluster
from gvcluster import Cluster, ConfigError
from gvcluster.testing import LocalCluster

KEYS = 3000
NAMES = {b"key:%d" % number for number in range(KEYS)}


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, timeout=30) as cluster:
        cluster.mset(dict.fromkeys(NAMES, "v"))
        yield cluster


def scan_beside(cluster: Cluster, disturb: Callable[[], object], count: int = 10) -> list[bytes]:
    """All keys, of which a hundredth comes before it begins, and the last ones not before it has ended."""
    scan = cluster.scan_iter(count=count)
    found = [next(scan) for _ in range(KEYS // 100)]
    disturbing = gevent.spawn(disturb)
    while len(found) < KEYS * 9 // 10:
        found.append(next(scan))
        gevent.sleep(0)
    disturbing.get()
    found += scan
    return found


def test_in_a_quiet_cluster_each_key_comes_once(cluster: Cluster) -> None:
    found = list(cluster.scan_iter())
    assert len(found) == KEYS
    assert set(found) == NAMES
    assert sorted(cluster.scan_iter(match="key:29?5", count=100)) == [b"key:29%d5" % n for n in range(10)]
    cluster.execute("RPUSH", "list", "a")
    assert list(cluster.scan_iter(type="list")) == [b"list"]
    with pytest.raises(gvcluster.ReplyError):
        list(cluster.scan_iter(count=2**70))
    asked = b"".join(cluster.execute("INFO", "commandstats").values())
    assert (b"cmdstat_clusterscan:calls" in asked) == (cluster.execute("COMMAND", "INFO", "CLUSTERSCAN") != [None])


@pytest.mark.needs("RANDOMKEY")
def test_no_key_is_missed_while_slots_move_key_by_key(live_cluster: LocalCluster, cluster: Cluster) -> None:
    first, second, third = live_cluster.primaries()

    def move() -> None:
        for source, target in ((first, third), (third, second), (second, first)):
            slot = cluster.execute("CLUSTER", "KEYSLOT", cluster.execute("RANDOMKEY", node=source.address))
            live_cluster.move_slots(range(slot, slot + 1), target)

    assert set(scan_beside(cluster, move)) == NAMES


def test_no_key_is_missed_in_a_slot_that_stays_open(live_cluster: LocalCluster, cluster: Cluster) -> None:
    first, second = live_cluster.primaries()[:2]
    names = [b"{%b}%d" % (min(NAMES), number) for number in range(50)]
    cluster.mset(dict.fromkeys(names, "v"))
    slot = gvcluster.hash_slot(names[0])
    source = live_cluster.primary_of(slot)
    move = live_cluster.begin_move(slot, second if source is first else first)
    try:
        move.move_keys(*names[:25])
        assert set(cluster.scan_iter()) == {*NAMES, *names}
    finally:
        live_cluster.finish_move(move)


def test_no_key_is_missed_while_slots_move_atomically(live_cluster: LocalCluster, cluster: Cluster) -> None:
    if not live_cluster.server.has_atomic_moves:
        return
    first, second, third = live_cluster.primaries()

    def move() -> None:
        for target in (second, third, first):
            live_cluster.move_slots_atomically(100, 200, target)

    assert set(scan_beside(cluster, move)) == NAMES


def test_no_key_is_missed_while_a_primary_fails_over(live_cluster: LocalCluster, cluster: Cluster) -> None:
    found = scan_beside(cluster, lambda: live_cluster.failover(live_cluster.primaries()[0]))
    assert set(found) == NAMES


def test_a_stored_cursor_goes_on_in_another_client(live_cluster: LocalCluster, cluster: Cluster, protocol: int) -> None:
    scan = cluster.scan_iter(count=10)
    found = [next(scan) for _ in range(KEYS // 2)]
    stored = scan.cursor
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as another:
        rest = list(another.scan_iter(count=10, cursor=stored))
        assert len(rest) < KEYS * 3 // 4  # the window that was under way comes again, and no more
        assert {*found, *rest} == NAMES
        with pytest.raises(ConfigError, match="another match="):
            another.scan_iter(match="x", cursor=stored)
    rest = list(scan)
    assert {*found, *rest} == NAMES
    assert list(cluster.scan_iter(cursor=scan.cursor)) == []


def test_a_timeout_or_a_kill_loses_no_key(cluster: Cluster) -> None:
    scan = cluster.scan_iter(count=10)
    found = []
    interrupted = 0
    while True:
        try:
            with gevent.Timeout(0.001 * 2 ** (interrupted % 8)):
                for key in scan:
                    found.append(key)
                break
        except gevent.Timeout:
            interrupted += 1
    assert interrupted
    assert set(found) == NAMES


def test_no_element_of_a_key_is_missed_while_its_slot_moves_there_and_back(
    live_cluster: LocalCluster, cluster: Cluster
) -> None:
    names = [b"%d" % number for number in range(1000)]
    cluster.execute("HSET", "{e}h", *(part for name in names for part in (name, b"v")))
    cluster.execute("SADD", "{e}s", *names)
    cluster.execute("ZADD", "{e}z", *(part for name in names for part in (b"1.5", name)))
    slot = cluster.hash_slot("{e}h")
    home = next(node for node in live_cluster.primaries() if node.address == cluster.node_for_key("{e}h").address)  # type: ignore[union-attr]
    other = next(node for node in live_cluster.primaries() if node is not home)
    iterators = [cluster.hscan_iter("{e}h", count=10), cluster.sscan_iter("{e}s", count=10)]
    iterators.append(cluster.zscan_iter("{e}z", count=10))
    found = [[next(iterator) for _ in range(300)] for iterator in iterators]
    live_cluster.move_slots(range(slot, slot + 1), other)
    for each, iterator in zip(found, iterators, strict=True):
        each += [next(iterator) for _ in range(300)]
    live_cluster.move_slots(range(slot, slot + 1), home)
    hashed, members, scored = (each + list(iterator) for each, iterator in zip(found, iterators, strict=True))
    assert set(hashed) == {(name, b"v") for name in names}
    assert set(members) == set(names)
    assert set(scored) == {(name, 1.5) for name in names}
    assert len(members) > 1500  # begun anew after each move
    assert list(cluster.sscan_iter("{e}none")) == []
