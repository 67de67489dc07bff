"""Transactions on real servers: what they refuse, where slots move to meanwhile, and who interferes."""

import random
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster import AuthFailed, Cluster, PartialFailure, ReplyError, TransactionAborted, hash_slot
from gvcluster.testing import LocalCluster, Node

SLOT = hash_slot("{k}")


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, timeout=10, command_timeout=5) as cluster:
        yield cluster


def appended(cluster: Cluster, *commands: tuple[Any, ...]) -> gvcluster.Transaction:
    tx = cluster.transaction()
    for command in commands:
        tx.append(*command)
    return tx


def source_and_target(live_cluster: LocalCluster) -> tuple[Node, Node]:
    source = live_cluster.primary_of(SLOT)
    return source, next(node for node in live_cluster.primaries() if node is not source)


@pytest.mark.smoke
def test_replies_errors_and_aborts_are_as_documented(cluster: Cluster) -> None:
    tx = appended(cluster, ("SET", "{k}a", 1), ("INCR", "{k}a"), ("LPUSH", "{k}a", "x"), ("HSET", "{k}h", "f", "v"))
    tx.append("HGETALL", "{k}h")
    tx.append("EVAL", "redis.call('INCR', KEYS[1]) return redis.error_reply('MOVED 1 1.2.3.4:5')", 1, "{k}a")
    replies = tx.commit()
    assert replies[:2] == [b"OK", 2]
    assert (replies[2].code, replies[2].maybe_executed) == ("WRONGTYPE", False)
    assert replies[3:5] in ([1, {b"f": b"v"}], [1, [b"f", b"v"]])
    assert (replies[5].code, replies[5].maybe_executed) == ("MOVED", True)
    assert cluster.execute("GET", "{k}a") == b"3"
    with pytest.raises(PartialFailure):
        appended(cluster, ("LPUSH", "{k}a", "x")).commit(raise_errors=True)
    with cluster.transaction("{k}a") as watching:
        assert watching.execute("GET", "{k}a") == b"3"
        cluster.execute("INCR", "{k}a")
        watching.append("SET", "{k}a", 0)
        with pytest.raises(TransactionAborted):
            watching.commit()
    assert cluster.execute("GET", "{k}a") == b"4"


def test_what_the_server_refuses_is_told_and_nothing_was_executed(cluster: Cluster, live_cluster: LocalCluster) -> None:
    node = live_cluster.primary_of(SLOT)
    bad = [
        ("GETRANGE", "{k}a", 1, 2, 3),  # too many arguments, which only the server counts
        ("STRLEN", "{k}a", "more"),
    ]
    for command in bad:
        with pytest.raises(ReplyError) as caught:
            appended(cluster, ("SET", "{k}a", 1), command, ("SET", "{k}a", 2)).commit()
        assert (caught.value.code, caught.value.maybe_executed) == ("ERR", False)
        assert cluster.execute("GET", "{k}a") is None
    node.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(ReplyError) as caught:
            appended(cluster, ("GET", "{k}a"), ("SET", "{k}a", 1)).commit()
        assert (caught.value.code, caught.value.maybe_executed) == ("OOM", False)
    finally:
        node.command("CONFIG", "SET", "maxmemory", "0")
    assert appended(cluster, ("SET", "{k}a", 1)).commit() == [b"OK"]
    assert [each.opened for each in cluster.statistics().nodes if each.address == node.address] == [1]


@pytest.mark.needs("ACL")
@pytest.mark.parametrize("right", ["multi", "exec", "discard"])
def test_who_has_no_right_to_multi_or_exec_executes_nothing(
    live_cluster: LocalCluster, protocol: int, right: str
) -> None:
    for node in live_cluster.primaries():
        node.command("ACL", "SETUSER", "weak", "on", ">p", "~*", "+@all", f"-{right}")
    try:
        with gvcluster.connect(live_cluster.seeds, protocol=protocol, username="weak", password="p") as cluster:
            tx = appended(cluster, ("SET", "{k}a", 1), ("SET", "{k}b", 1))
            if right == "discard":  # nobody needs it
                assert tx.commit() == [b"OK", b"OK"]
                return
            with pytest.raises(AuthFailed) as caught:
                tx.commit()
            assert not caught.value.maybe_executed
            with pytest.raises(AuthFailed), cluster.transaction("{k}a"):
                pass
            assert cluster.execute("GET", "{k}a") is None
            assert cluster.execute("ECHO", "x", route_key="{k}") == b"x"
    finally:
        for node in live_cluster.primaries():
            node.command("ACL", "DELUSER", "weak")


def test_a_slot_that_has_moved_or_is_half_moved_is_followed(cluster: Cluster, live_cluster: LocalCluster) -> None:
    _, target = source_and_target(live_cluster)
    cluster.execute("MSET", "{k}stays", 1, "{k}moves", 1)
    move = live_cluster.begin_move(SLOT, target)
    move.move_keys("{k}moves")
    assert appended(cluster, ("INCR", "{k}stays"), ("GET", "{k}stays")).commit() == [2, b"2"]
    assert appended(cluster, ("INCR", "{k}moves"), ("GET", "{k}moves")).commit() == [2, b"2"]
    assert cluster.statistics().retries == 0
    # Keys on both sides, and watched keys that have left: they wait until the slot has moved.
    both = gevent.spawn(appended(cluster, ("INCR", "{k}stays"), ("INCR", "{k}moves")).commit)

    def add(tx: gvcluster.Transaction) -> None:
        tx.append("INCRBY", "{k}new", int(tx.execute("GET", "{k}moves") or 100))

    watching = gevent.spawn(cluster.transaction, add, "{k}moves")
    with gevent.Timeout(5):
        while cluster.statistics().retries < 6:
            gevent.sleep(0.005)
    assert not both.ready()
    assert not watching.ready()
    live_cluster.finish_move(move)
    assert both.get(timeout=5) == [3, 3]
    assert watching.get(timeout=5) in ([2], [3])
    assert appended(cluster, ("MGET", "{k}stays", "{k}moves")).commit() == [[b"3", b"3"]]


def test_a_watched_slot_that_moves_aborts_and_the_next_attempt_succeeds(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    _, target = source_and_target(live_cluster)
    with cluster.transaction("{k}a") as tx:
        assert tx.execute("GET", "{k}a") is None
        tx.append("SET", "{k}a", 1)
        live_cluster.move_slots(SLOT, target)
        with pytest.raises(TransactionAborted):
            tx.commit()
        tx.watch("{k}a")
        tx.append("SET", "{k}a", 2)
        assert tx.commit() == [b"OK"]
    assert target.command("GET", "{k}a") == b"2"


def test_a_crowd_that_watches_and_one_that_does_not_count_right(cluster: Cluster) -> None:
    def increment(tx: gvcluster.Transaction) -> None:
        value = int(tx.execute("GET", "{k}a") or 0)
        tx.append("SET", "{k}a", value + 1)
        tx.append("INCR", "{k}b")

    def watched() -> None:
        for _ in range(10):
            cluster.transaction(increment, "{k}a")

    def unwatched() -> None:
        for _ in range(50):
            assert len(appended(cluster, ("INCR", "{k}a"), ("INCR", "{k}b")).commit()) == 2

    crowd = [gevent.spawn(watched) for _ in range(8)] + [gevent.spawn(unwatched) for _ in range(4)]
    gevent.joinall(crowd, timeout=30, raise_error=True)
    assert cluster.execute("MGET", "{k}a", "{k}b") == [b"280", b"280"]


def test_killed_transactions_are_executed_wholly_or_not_and_disturb_nobody(cluster: Cluster) -> None:
    draw = random.Random(3)
    wrong: list[Any] = []

    def transfer(tx: gvcluster.Transaction) -> None:
        here, there = draw.sample(("{k}a", "{k}b", "{k}c"), 2)
        tx.execute("GET", here)
        tx.append("DECR", here)
        tx.append("INCR", there)

    def work() -> None:
        for _ in range(12):
            with gevent.Timeout(draw.choice((0.001, 0.002, 0.01, 2.0)), False):
                if draw.random() < 0.5:
                    cluster.transaction(transfer, "{k}a", "{k}b", "{k}c")
                else:
                    appended(cluster, ("DECR", "{k}a"), ("INCR", "{k}c")).commit()

    def call() -> None:
        for number in range(1000):
            if cluster.execute("ECHO", number, route_key="{k}") != b"%d" % number:
                wrong.append(number)

    workers = [gevent.spawn(work) for _ in range(20)] + [gevent.spawn(call) for _ in range(2)]
    for _ in range(60):
        victim = gevent.spawn(work)
        gevent.sleep(0.001)
        victim.kill()
    gevent.joinall(workers, timeout=30, raise_error=True)
    assert all(worker.ready() for worker in workers)
    assert not wrong
    assert sum(int(value or 0) for value in cluster.execute("MGET", "{k}a", "{k}b", "{k}c")) == 0
