"""A kill, a Timeout and Ctrl-C at every switch of every public operation, on real servers: nothing is left behind.

Each operation is done anew for each of its switches, by a client that is cold (nothing is connected yet) and by one
that is warm. Meanwhile another greenlet uses the same client, and may not notice.
"""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gvcluster import Cluster, Message, Transaction
from gvcluster.errors import UnknownCommand
from gvcluster.testing import LocalCluster, Thrown, throw_at_every_switch

Work = Callable[[Cluster], Any]

KEYS = [f"key:{number}" for number in range(12)]
NUMBERS = itertools.count(10_000_000)
OPERATIONS: dict[str, Work] = {}
TURNS = {gevent.GreenletExit: (0, 1), gevent.Timeout: (0, 1), KeyboardInterrupt: (0,)}


def operation(work: Work) -> Work:
    """Have it tested."""
    OPERATIONS[work.__name__] = work
    return work


@operation
def execute(cluster: Cluster) -> None:
    assert cluster.execute("SET", "key:1", "1") == b"OK"


@operation
def execute_large(cluster: Cluster) -> None:
    assert cluster.execute("ECHO", b"x" * 100_000, route_key="key:1") == b"x" * 100_000


@operation
def execute_at_node(cluster: Cluster) -> None:
    for node in cluster.nodes():
        assert cluster.execute("PING", node=node) == b"PONG"


@operation
def execute_unlisted(cluster: Cluster) -> None:
    with contextlib.suppress(UnknownCommand):
        cluster.execute("NOSUCHCOMMAND", "x")


@operation
def command_to_node(cluster: Cluster) -> None:
    assert cluster.command_to_node(cluster.primaries()[0], "ECHO %s", "x") == b"x"


@operation
def blocking(cluster: Cluster) -> None:
    assert cluster.execute("BLPOP", "empty", 0.02) is None


@operation
def pipeline(cluster: Cluster) -> None:
    with cluster.pipeline() as pipe:
        for key in KEYS:
            pipe.append("ECHO", key, route_key=key)
        assert pipe.execute() == [key.encode() for key in KEYS]


@operation
def submit(cluster: Cluster) -> None:
    pending = [cluster.submit("ECHO", key, route_key=key) for key in KEYS]
    assert [each.get() for each in pending] == [key.encode() for key in KEYS]


@operation
def many_keys(cluster: Cluster) -> None:
    cluster.mset(dict.fromkeys(KEYS, "1"))
    assert cluster.mget(KEYS) == [b"1"] * len(KEYS)
    assert cluster.exists(*KEYS) == len(KEYS)


@operation
def all_nodes(cluster: Cluster) -> None:
    assert cluster.execute("SCRIPT", "EXISTS", "0" * 40) == [0]
    assert cluster.execute("SLOWLOG", "LEN") >= 0


@operation
def scan(cluster: Cluster) -> None:
    assert all(isinstance(key, bytes) for key in cluster.scan_iter(count=100))


@operation
def elements(cluster: Cluster) -> None:
    cluster.execute("SADD", "a set", *range(100))
    assert len(set(cluster.sscan_iter("a set", count=30))) == 100


@operation
def connection(cluster: Cluster) -> None:
    with cluster.connection(route_key="key:1") as connection:
        connection.execute("WATCH", "key:1")
        connection.execute("UNWATCH")


@operation
def conversation(cluster: Cluster) -> None:
    with cluster.connection(route_key="key:1") as connection:
        connection.send("ECHO", "one")
        connection.send("ECHO", "two")
        assert [connection.receive(), connection.receive()] == [b"one", b"two"]


@operation
def subscription(cluster: Cluster) -> None:
    with cluster.connection(route_key="key:1") as connection:
        connection.send("SUBSCRIBE", "one")
        assert connection.receive(timeout=5) == [b"subscribe", b"one", 1]


@operation
def warm_up(cluster: Cluster) -> None:
    assert cluster.warm_up(1) == 6
    execute(cluster)  # it may be over before the throw comes


@operation
def transaction(cluster: Cluster) -> None:
    tx = cluster.transaction()
    tx.append("SET", "key:1", "1")
    tx.append("ECHO", "x")
    assert tx.commit() == [b"OK", b"x"]


@operation
def watched_transaction(cluster: Cluster) -> None:
    with cluster.transaction("key:1") as tx:
        tx.execute("ECHO", "x")
        tx.discard()
        tx.watch("key:1")
        tx.append("SET", "key:1", "1")
        assert tx.commit() == [b"OK"]


@operation
def repeated_transaction(cluster: Cluster) -> None:
    interferences = ["1"]

    def function(tx: Transaction) -> None:
        if interferences:
            cluster.execute("APPEND", "key:1", interferences.pop())
        tx.append("SET", "key:1", "1")

    assert cluster.transaction(function, "key:1") == [b"OK"]


@operation
def subscriptions(cluster: Cluster) -> None:
    channel = b"%d" % next(NUMBERS)  # what an earlier run has published may come late
    with cluster.pubsub() as pubsub:
        pubsub.subscribe(channel, "other")
        pubsub.psubscribe(channel + b"*")
        pubsub.unsubscribe("other")
        cluster.execute("PUBLISH", channel, "x")
        assert {pubsub.get(), pubsub.get()} == {Message(channel, b"x"), Message(channel, b"x", channel + b"*")}
        gevent.sleep(0.01)  # messages may come at once: thrown a turn later, it must not find the work done


@operation
def topology(cluster: Cluster) -> None:
    assert cluster.node_for_key("key:1") in cluster.primaries()
    assert len(cluster.replicas()) == 3
    cluster.refresh()


@operation
def life(cluster: Cluster) -> None:
    with Cluster(str(cluster.primaries()[0].address)) as another:
        assert another.execute("ECHO", "x", route_key="x") == b"x"
        another.close_idle()


class Bystander:
    """Another greenlet with the same client: its replies are its own, and no connection of it is lost."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.rounds = 0
        self._stopped = False
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        while not self._stopped:
            self.rounds += 1
            for key in KEYS[:3]:
                name = f"{key}:{self.rounds}".encode()
                assert self._cluster.execute("ECHO", name, route_key=key) == name

    def stop(self) -> None:
        self._stopped = True
        self._greenlet.get(timeout=10)


def sound(cluster: Cluster) -> None:
    """Nobody is left in flight, each node has one lane, nothing is lent, and nobody waits for a loan."""

    def left() -> int:
        told = cluster.statistics()
        lent = told.exclusive + told.blocking
        return sum(node.in_flight for node in told.nodes) + lent.used + lent.pending_requests

    with gevent.Timeout(5):
        while left():
            gevent.sleep(0.001)
    for key in KEYS[:3]:
        assert cluster.execute("ECHO", key, route_key=key) == key.encode()


def cold(servers: LocalCluster, work: Work, protocol: int, error: Any) -> int:
    """Each time with a client of its own, which has not connected yet. Returns how many points there were."""
    made: list[Cluster] = []

    def work_anew() -> None:
        made.append(Cluster(servers.seeds, protocol=protocol))
        work(made[-1])

    def check(thrown: Thrown) -> None:
        assert thrown.error is thrown.meant, f"{thrown.error!r} at switch {thrown.point}"
        sound(made[-1])
        made.pop().close()

    report = throw_at_every_switch(work_anew, error, turns=TURNS[error], after=check)
    for untouched in made:
        untouched.close()
    return report.points


def warm(servers: LocalCluster, work: Work, protocol: int, error: Any) -> int:
    """With the same client all the time, and somebody else beside."""

    def check(thrown: Thrown) -> None:
        assert thrown.error is thrown.meant, f"{thrown.error!r} at switch {thrown.point}"

    with Cluster(servers.seeds, protocol=protocol) as cluster:
        work(cluster)
        bystander = Bystander(cluster)
        report = throw_at_every_switch(lambda: work(cluster), error, turns=TURNS[error], after=check)
        bystander.stop()
        sound(cluster)
    return report.points


@pytest.mark.parametrize("error", TURNS)
@pytest.mark.parametrize("temper", ["cold", "warm"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_f39_a_throw_at_each_switch_leaves_all_sound(
    live_cluster: LocalCluster, protocol: int, name: str, temper: str, error: Any, figures: dict[str, int]
) -> None:
    points = (cold if temper == "cold" else warm)(live_cluster, OPERATIONS[name], protocol, error)
    assert points
    figures["switch points thrown at"] = figures.get("switch points thrown at", 0) + points
