"""Commands for all nodes on real servers."""

from collections.abc import Iterator

import pytest

import gvcluster
from gvcluster import Cluster, PartialFailure, ReplyError
from gvcluster.errors import NodeError
from gvcluster.testing import LocalCluster


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as cluster:
        yield cluster


@pytest.mark.needs("RANDOMKEY")
def test_all_shards_count_tell_and_forget_their_keys(cluster: Cluster) -> None:
    names = {b"key:%d" % number for number in range(100)}
    cluster.mset(dict.fromkeys(names, "v"))
    assert cluster.execute("DBSIZE") == 100
    told = cluster.execute("KEYS", "key:*")
    assert len(told) == 100
    assert set(told) == names
    assert cluster.execute("RANDOMKEY") in names
    assert cluster.execute("PING") == b"PONG"
    assert cluster.execute("FLUSHALL") == b"OK"
    assert cluster.execute("DBSIZE") == 0
    assert cluster.execute("RANDOMKEY") is None


@pytest.mark.needs("RANDOMKEY")
def test_one_shard_with_keys_always_gives_the_random_key(cluster: Cluster) -> None:
    cluster.execute("SET", "alone", "v")
    assert {cluster.execute("RANDOMKEY") for _ in range(20)} == {b"alone"}


def test_a_script_is_loaded_everywhere_and_all_nodes_are_asked_for_it(cluster: Cluster) -> None:
    digest = cluster.execute("SCRIPT", "LOAD", "return 17")
    assert cluster.execute("SCRIPT", "EXISTS", digest, "0" * 40) == [1, 0]
    for node in cluster.primaries():
        assert cluster.execute("EVALSHA", digest, 0, node=node) == 17
    assert cluster.execute("SCRIPT", "FLUSH", node=cluster.primaries()[0]) == b"OK"
    assert cluster.execute("SCRIPT", "EXISTS", digest) == [0]
    assert cluster.execute("SCRIPT", "FLUSH") == b"OK"
    with pytest.raises(ReplyError, match="NOTBUSY"):
        cluster.execute("SCRIPT", "KILL")


def test_a_setting_reaches_replicas_as_well(cluster: Cluster) -> None:
    try:
        assert cluster.execute("CONFIG", "SET", "slowlog-max-len", "77") == b"OK"
        for node in (*cluster.primaries(), *cluster.replicas()):
            told = cluster.execute("CONFIG", "GET", "slowlog-max-len", node=node)
            assert b"77" in (told.values() if isinstance(told, dict) else told)
    finally:
        cluster.execute("CONFIG", "SET", "slowlog-max-len", "128")
    with pytest.raises(ReplyError, match="no-such-option"):
        cluster.execute("CONFIG", "SET", "no-such-option", "1")
    info = cluster.execute("INFO", "server")
    assert set(info) == {node.address for node in cluster.primaries()}


def test_a_silent_node_is_named_and_the_others_have_answered(live_cluster: LocalCluster, cluster: Cluster) -> None:
    cluster.execute("DBSIZE")
    silent = live_cluster.primaries()[1]
    live_cluster.pause(silent)
    try:
        with pytest.raises(PartialFailure) as caught:
            cluster.execute("FLUSHALL", timeout=0.5, command_timeout=0.3)
    finally:
        live_cluster.resume(silent)
    assert [type(result) for result in caught.value.results.values()].count(bytes) == 2
    failed = caught.value.results[silent.address]
    assert isinstance(failed, NodeError)
    assert failed.maybe_executed
    assert caught.value.maybe_executed
