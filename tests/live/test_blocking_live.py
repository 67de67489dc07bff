"""Blocking commands and borrowed connections on real servers: what is killed takes nothing, what is lent comes back."""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster import Cluster, Node, ReplyError
from gvcluster.testing import LocalCluster

LISTS = [f"list:{number}" for number in range(4)]


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, client_info=False, max_connections=4) as cluster:
        yield cluster


def info(cluster: Cluster, field: str) -> int:
    """A number that the primaries tell of themselves, added up."""
    found = 0
    for node in cluster.primaries():
        text = cluster.execute("INFO", "clients", node=node)
        text = text if isinstance(text, str) else text.decode()
        found += int(next(line for line in text.splitlines() if line.startswith(f"{field}:")).partition(":")[2])
    return found


def until(is_so: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not is_so():
            gevent.sleep(0.002)


def test_killed_pops_take_nothing_that_is_pushed_later(cluster: Cluster) -> None:
    popped: list[bytes] = []

    def consume(key: str) -> None:
        while True:
            popped.append(cluster.execute("BLPOP", key, 0)[1])

    consumers = {key: gevent.spawn(consume, key) for key in LISTS}
    for number in range(40):
        key = LISTS[number % len(LISTS)]
        until(lambda: info(cluster, "blocked_clients") == len(LISTS))
        consumers[key].kill()
        until(lambda: info(cluster, "blocked_clients") == len(LISTS) - 1)
        cluster.execute("RPUSH", key, number)
        consumers[key] = gevent.spawn(consume, key)
    until(lambda: len(popped) == 40)
    assert sorted(popped) == sorted(b"%d" % number for number in range(40))
    gevent.killall(list(consumers.values()))


@pytest.mark.needs("streams")
def test_one_connection_serves_one_blocking_call_after_the_other(cluster: Cluster) -> None:
    execute = cluster.execute
    execute("RPUSH", "{b}l", "one", "two", "three")
    execute("ZADD", "{b}z", 1, "low", 2, "high")
    execute("XADD", "{b}s", "1-1", "field", "value")
    execute("XGROUP", "CREATE", "{b}s", "group", "0")
    assert execute("BLPOP", "{b}l", 1) == [b"{b}l", b"one"]
    assert execute("BRPOP", "{b}l", 1) == [b"{b}l", b"three"]
    assert execute("BLMOVE", "{b}l", "{b}m", "LEFT", "RIGHT", 1) == b"two"
    assert execute("BZPOPMIN", "{b}z", 1)[:2] == [b"{b}z", b"low"]
    assert execute("BZPOPMAX", "{b}z", 1)[:2] == [b"{b}z", b"high"]
    assert execute("XREAD", "BLOCK", 1000, "STREAMS", "{b}s", "0")
    assert execute("XREADGROUP", "GROUP", "group", "me", "BLOCK", 1000, "STREAMS", "{b}s", ">")
    assert execute("BLPOP", "{b}l", 0.01) is None
    lent = cluster.statistics().blocking
    assert (lent.created, lent.idle, lent.used, lent.granted) == (1, 1, 0, 8)


@pytest.mark.needs("UNBLOCKED")
def test_who_is_unblocked_on_purpose_is_told(cluster: Cluster) -> None:
    node = cluster.node_for_key("{b}empty")
    assert node is not None
    with cluster.connection(node) as connection:
        number = connection.execute("CLIENT", "ID")
        blocked = gevent.spawn(connection.execute, "BLPOP", "{b}empty", 0)
        until(lambda: info(cluster, "blocked_clients") == 1)
        assert cluster.execute("CLIENT", "UNBLOCK", number, "ERROR", node=node) == 1
        with pytest.raises(ReplyError, match="UNBLOCKED"):
            blocked.get(timeout=5)


@pytest.mark.needs("WAIT")
def test_wait_is_about_the_writes_of_the_borrowed_connection(cluster: Cluster) -> None:
    with cluster.connection(route_key="{b}w") as connection:
        connection.execute("SET", "{b}w", 1)
        assert connection.execute("WAIT", 1, 5000) == 1
    assert cluster.statistics().exclusive.idle == 1


def test_a_subscription_over_a_borrowed_connection(cluster: Cluster) -> None:
    with cluster.connection(route_key="a") as listening, cluster.connection(route_key="a") as speaking:
        listening.send("SUBSCRIBE", "one", "two")
        assert [listening.receive(timeout=5) for _ in range(2)] == [
            [b"subscribe", b"one", 1],
            [b"subscribe", b"two", 2],
        ]
        speaking.send("PUBLISH", "one", "hello")
        speaking.send("PUBLISH", "nobody", "hello")
        assert listening.receive(timeout=5) == [b"message", b"one", b"hello"]
        assert [speaking.receive(), speaking.receive()] == [1, 0]
        listening.send("UNSUBSCRIBE")
        assert {bytes(listening.receive(timeout=5)[1]) for _ in range(2)} == {b"one", b"two"}
        listening.send("GET", "a")
        assert listening.receive(timeout=5) is None
    until(lambda: cluster.statistics().exclusive.idle == 1)


@pytest.mark.needs("MONITOR")
def test_monitor_over_a_borrowed_connection(cluster: Cluster) -> None:
    cluster.warm_up()
    with cluster.connection(route_key="a") as watching:
        watching.send("MONITOR")
        assert watching.receive(timeout=5) == b"OK"
        cluster.execute("GET", "a")
        assert b'"GET" "a"' in watching.receive(timeout=5)


def test_after_many_loans_kills_and_returns_all_is_as_before(cluster: Cluster) -> None:
    def state() -> Any:
        cluster.close_idle()
        until(lambda: not sum(node.connections for node in cluster.statistics().nodes))
        cluster.warm_up()
        return info(cluster, "connected_clients"), len(os.listdir("/proc/self/fd"))

    rng, nodes = random.Random(7), cluster.primaries()

    def cycle(node: Node) -> None:
        with cluster.connection(node) as connection:
            connection.execute("PING")

    def work() -> None:
        for _ in range(50):
            borrowing = gevent.spawn(cycle, rng.choice(nodes))
            if rng.random() < 0.4:
                gevent.sleep(0.001 + rng.random() * 0.002)  # libuv counts in milliseconds
                borrowing.kill()
            borrowing.join()
            assert borrowing.successful()

    before = state()
    gevent.joinall([gevent.spawn(work) for _ in range(20)], raise_error=True)
    lent = cluster.statistics().exclusive
    assert (lent.used, lent.pending_requests) == (0, 0)
    until(lambda: state() == before)
