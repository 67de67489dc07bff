"""Scripts on real servers: sent once, called by their digest, and sent again after SCRIPT FLUSH."""

from collections.abc import Iterator

import gevent
import pytest

import gvcluster
from gvcluster import Cluster, NoScript, ReplyError
from gvcluster.testing import LocalCluster

KEYS = [f"k{number}" for number in range(30)]
SOURCE = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    flush(live_cluster)
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as cluster:
        yield cluster


def flush(live_cluster: LocalCluster) -> None:
    for node in live_cluster.nodes:
        node.command("SCRIPT", "FLUSH")


@pytest.mark.smoke
def test_a_script_runs_once_for_each_call_also_across_a_flush(cluster: Cluster, live_cluster: LocalCluster) -> None:
    script = cluster.script(SOURCE)
    assert [script([key], [5]) for key in KEYS] == [5] * len(KEYS)
    assert [script([key], [5]) for key in KEYS] == [10] * len(KEYS)
    assert cluster.statistics().retries == 0
    flush(live_cluster)
    calls = [gevent.spawn(script, [key], [1]) for key in KEYS for _ in range(5)]
    gevent.joinall(calls, timeout=20, raise_error=True)
    assert cluster.mget(KEYS) == [b"15"] * len(KEYS)
    flush(live_cluster)
    with cluster.pipeline() as pipe:
        for key in KEYS * 2:
            pipe.append_script(script, [key], [1])
        assert pipe.execute() == [16] * len(KEYS) + [17] * len(KEYS)
    assert cluster.execute("SCRIPT", "EXISTS", script.sha, node=cluster.node_for_key(KEYS[0])) == [1]


def test_a_script_that_makes_up_noscript_after_it_has_written_runs_once_for_each_call(cluster: Cluster) -> None:
    script = cluster.script("redis.call('INCR', KEYS[1]) return redis.error_reply('NOSCRIPT No matching script.')")
    for _ in range(4):
        with pytest.raises(NoScript) as caught:
            script(["forged"])
        assert caught.value.maybe_executed
    assert cluster.execute("GET", "forged") == b"4"


def test_a_script_that_may_only_read_is_held_to_it(cluster: Cluster, server: str) -> None:
    cluster.execute("SET", "k", "v")
    reads = cluster.script("return redis.call('GET', KEYS[1])", read_only=True)
    writes = cluster.script("return redis.call('SET', KEYS[1], 'w')", read_only=True)
    if server == "redis-6.2.14":
        with pytest.raises(ReplyError, match="unknown command"):
            reads(["k"])
        return
    assert [reads(["k"]) for _ in range(3)] == [b"v"] * 3
    with pytest.raises(ReplyError, match="read-only script"):
        writes(["k"])
    assert cluster.execute("GET", "k") == b"v"


@pytest.mark.needs("functions")
def test_functions_are_called_by_execute(cluster: Cluster, live_cluster: LocalCluster, server: str) -> None:
    if server == "redis-6.2.14":
        with pytest.raises(ReplyError, match="unknown command"):
            cluster.execute("FCALL", "add", 1, "k", 2)
        return
    body = "function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end"
    for node in live_cluster.primaries():
        node.command("FUNCTION", "LOAD", "REPLACE", f"#!lua name=ours\nredis.register_function('add', {body})")
    try:
        assert [cluster.execute("FCALL", "add", 1, key, 2) for key in KEYS] == [2] * len(KEYS)
        with pytest.raises(gvcluster.CrossSlot):
            cluster.execute("FCALL", "add", 2, *KEYS[:2])
    finally:
        for node in live_cluster.primaries():
            node.command("FUNCTION", "FLUSH")


@pytest.mark.needs("ACL")
def test_who_may_not_load_scripts_may_call_them(live_cluster: LocalCluster, protocol: int) -> None:
    flush(live_cluster)
    for node in live_cluster.nodes:
        node.command("ACL", "SETUSER", "caller", "on", ">secret", "~*", "+@all", "-script")
    try:
        options = {"protocol": protocol, "username": "caller", "password": "secret"}
        with gvcluster.connect(live_cluster.seeds, **options) as cluster:
            script = cluster.script(SOURCE)
            assert [script(["n"], [1]) for _ in range(3)] == [1, 2, 3]
    finally:
        for node in live_cluster.nodes:
            node.command("ACL", "DELUSER", "caller")
