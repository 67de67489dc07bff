"""A Cluster from its first map to its end: connect, start, nodes, close_idle, disconnect, close, and what remains."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

import gvcluster
from gvcluster import (
    Closed,
    ClosedError,
    Cluster,
    ConfigError,
    ConnectFailed,
    GvClusterError,
    Ready,
    Redirected,
    ReplyError,
    SlotMapUpdated,
    TopologyUnavailable,
    hash_slot,
)
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import Answer, Close, Delay, Reset, encode_reply
from gvcluster.testing.fake_connection import FakeConnection


@pytest.fixture
def spawned() -> Iterator[list[Any]]:
    """All greenlets that begin during the test."""
    greenlets: list[Any] = []
    gevent.Greenlet.add_spawn_callback(greenlets.append)
    yield greenlets
    gevent.Greenlet.remove_spawn_callback(greenlets.append)


def sockets() -> set[str]:
    """All that are open, as `socket:[inode]`."""
    opened = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one of the listing itself
            opened.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {each for each in opened if each.startswith("socket:")}


def hold(node: FakeNode, name: str) -> list[FakeConnection]:
    """Keep commands of this name waiting; the list gets their connections."""
    held: list[FakeConnection] = []
    node.on(name, lambda _node, connection, _args: held.append(connection))
    return held


# -- the beginning -----------------------------------------------------------------------------------------------------


def test_making_a_cluster_opens_nothing(fake, spawned):
    before = sockets()
    Cluster(fake.seeds)
    assert (spawned, sockets() - before) == ([], set())
    assert [node.connections.accepted for node in fake.nodes] == [0, 0, 0]


def test_a_map_that_does_not_come_in_time_is_told_with_what_was_met_until_then(fake, make):
    dead, silent, _ = fake.nodes
    dead.stop()
    silent.freeze()
    in_order = random.Random()
    in_order.shuffle = lambda _seeds: None
    with pytest.raises(TopologyUnavailable, match="no slot map in time") as caught:
        make(rng=in_order).connect(timeout=0.5)
    assert [(address, type(error)) for address, error in caught.value.failures] == [(dead.address, ConnectFailed)]
    assert "refused" in str(caught.value)
    assert f"{silent.address}: no answer yet" in str(caught.value)


@pytest.mark.parametrize("at_once", [True, False])
def test_connect_says_what_each_seed_answered_when_none_gives_a_map(fake, make, at_once):
    for node in fake.nodes:
        node.stop()
    with pytest.raises(TopologyUnavailable, match="no usable slot map") as caught:
        gvcluster.connect(fake.seeds) if at_once else make().connect()
    assert sorted(address for address, _ in caught.value.failures) == sorted(node.address for node in fake.nodes)
    assert {type(error) for _, error in caught.value.failures} == {ConnectFailed}
    assert all(str(node.address) in str(caught.value) for node in fake.nodes)


def test_connect_obeys_its_timeout(fake, make):
    for node in fake.nodes:
        node.freeze()
    began = monotonic()
    with pytest.raises(TopologyUnavailable):
        make(client_name="me", connect_timeout=60).connect(timeout=0.1)
    assert 0.08 < monotonic() - began < 10


def test_connect_returns_a_cluster_that_is_ready(fake, protocol):
    cluster = gvcluster.connect(fake.seeds, protocol=protocol)
    assert cluster.route_version == 1
    assert sum(node.connections.accepted for node in fake.nodes) == 1
    cluster.connect()  # again: nothing to do
    assert sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes) == 1
    cluster.close()


WAYS_TO_BE_LATE: dict[str, Callable[[FakeNode], object]] = {
    "sane": lambda node: None,
    "slow": lambda node: node.on("CLUSTER SLOTS", lambda *_: Delay(0.05, b"*0\r\n"), times=1),
    "loading": lambda node: node.on("CLUSTER SLOTS", b"-LOADING the dataset\r\n", times=1),
    "lost": lambda node: node.on("CLUSTER SLOTS", Close(), times=1),
}


@pytest.mark.parametrize("way", WAYS_TO_BE_LATE)
def test_start_returns_at_once_and_ready_follows_sooner_or_later(fake, make, way):
    events, ready = [], Event()

    def observe(event: Any) -> None:
        events.append(event)
        ready.set()

    for node in fake.nodes:
        WAYS_TO_BE_LATE[way](node)
    cluster = make(on_event=observe)
    cluster.start()
    assert cluster.route_version == 0
    assert ready.wait(2)
    assert events == [Ready(1), SlotMapUpdated(1, 16384, 3, 0)]
    cluster.start()  # again: nothing to do
    assert cluster.execute("GET", "k") is None


def test_a_command_before_ready_waits_for_it(fake, make):
    for node in fake.nodes:
        node.freeze()
    cluster = make()
    cluster.start()
    reading = gevent.spawn(cluster.execute, "GET", "k")
    gevent.sleep(0)
    for node in fake.nodes:
        node.thaw()
    assert reading.get(timeout=5) is None
    assert cluster.route_version == 1


# -- what it knows -----------------------------------------------------------------------------------------------------


def test_statistics_count_what_happened(fake, cluster):
    old, new, _ = fake.nodes
    key = fake.key_at(old)
    fake.move_slot(hash_slot(key), new)
    cluster.execute("SET", key, "v")
    new.on("GET", b"-TRYAGAIN\r\n", times=2)
    cluster.execute("GET", key)
    cluster.refresh()
    told = cluster.statistics()
    assert (told.redirects, told.retries, told.route_version) == (1, 2, 2)
    assert told.refreshes == sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes)
    by_address = {each.address: each for each in told.nodes}
    for node in fake.nodes:
        seen = by_address[node.address]
        assert (seen.opened, seen.connections) == (node.connections.accepted, node.connections.open)
        assert (seen.commands, seen.in_flight) == (len(node.received), 0)
    assert told.commands == sum(len(node.received) for node in fake.nodes)
    held = hold(new, "GET")
    reading = gevent.spawn(cluster.execute, "GET", key)
    new.wait_until(lambda: held)
    assert [each.in_flight for each in cluster.statistics().nodes if each.address == new.address] == [1]
    reading.kill()


# -- in between --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used_before", [True, False])
def test_a_command_timeout_that_is_changed_counts_for_open_connections(fake, make, used_before):
    node, cluster = fake.nodes[0], make(command_timeout=30, timeout=60)
    key = fake.key_at(node)
    if used_before:
        cluster.execute("GET", key)
    cluster.command_timeout = 0.1
    assert cluster.command_timeout == 0.1
    cluster.execute("GET", key)
    node.on("SET", None)
    began = monotonic()
    with gevent.Timeout(10), pytest.raises(GvClusterError) as caught:
        cluster.execute("SET", key, "v")
    assert monotonic() - began > 0.08
    assert caught.value.maybe_executed
    with pytest.raises(ConfigError, match="command_timeout must be a number"):
        cluster.command_timeout = 0


def test_a_command_timeout_that_is_changed_counts_for_calls_that_wait_already(fake, make):
    node, cluster = fake.nodes[0], make(command_timeout=30, timeout=60)
    cluster.connect()
    held = hold(node, "SET")
    writing = gevent.spawn(cluster.execute, "SET", fake.key_at(node), "v")
    node.wait_until(lambda: held)
    cluster.command_timeout = 0.05
    with pytest.raises(GvClusterError):
        writing.get(timeout=10)
    assert len(node.commands("SET")) == 1


def test_close_idle_closes_what_nobody_uses_and_nothing_else(fake, cluster):
    busy, *idle = fake.nodes
    for node in fake.nodes:
        cluster.execute("GET", fake.key_at(node))
    held = hold(busy, "GET")
    reading = gevent.spawn(cluster.execute, "GET", fake.key_at(busy))
    busy.wait_until(lambda: held)
    assert cluster.close_idle() == 2
    for node in idle:
        node.wait_until(lambda node=node: node.connections == (1, 0))
    assert cluster.close_idle() == 0
    held[0].send(b"+late\r\n")
    assert reading.get(timeout=5) == b"late"
    for node in idle:
        assert cluster.execute("GET", fake.key_at(node)) is None
    assert [node.connections.accepted for node in fake.nodes] == [1, 2, 2]


def test_close_idle_at_the_moment_when_a_connection_is_opened_fails_no_call(fake, make):
    node, cluster = fake.nodes[0], make(str(fake.nodes[1].address))
    cluster.connect()
    reading = gevent.spawn(cluster.execute, "GET", fake.key_at(node))
    with gevent.Timeout(5):
        while not any(each.connections for each in cluster.statistics().nodes if each.address == node.address):
            gevent.sleep(0)
    cluster.close_idle()
    assert reading.get(timeout=5) is None


# -- the end -----------------------------------------------------------------------------------------------------------


def moved_away(fake: FakeCluster, node: FakeNode, cluster: Cluster) -> None:
    """Let the node leave the map; another one gets its slots."""
    ((first, last, _), *others) = fake.slot_ranges()
    for other in fake.nodes[1:]:
        other.on("CLUSTER SLOTS", encode_reply([[first, last, others[0][2]], *others]))
    cluster.refresh()
    assert node.address not in [each.address for each in cluster.statistics().nodes]


# What a call waits for when the cluster is closed: how to bring it there, given the node that it concerns.
WAITS: dict[str, Callable[[FakeCluster, FakeNode], object]] = {
    "the reply": lambda fake, node: node.on("SET", None),
    "a blocked reply": lambda fake, node: node.on("BLPOP", None),
    "back-off": lambda fake, node: node.on("SET", b"-TRYAGAIN\r\n"),
    "news": lambda fake, node: node.on("SET", b"-CLUSTERDOWN\r\n"),
    "connecting": lambda fake, node: node.freeze(),
    "connecting to block": lambda fake, node: node.freeze(),
    "the first map": lambda fake, node: [each.freeze() for each in fake.nodes],
    "the second map": lambda fake, node: [each.freeze() for each in fake.nodes],
    "a node that left": lambda fake, node: node.on("SET", None),
}


@pytest.mark.parametrize("wait", WAITS)
def test_close_ends_a_call_at_once_whatever_it_waits_for(fake, make, wait):
    node = fake.nodes[0]
    cluster = make(str(fake.nodes[1].address), client_name="me", connect_timeout=60, command_timeout=60, timeout=60)
    key = fake.key_at(node)
    if "map" not in wait:
        cluster.connect()
    WAITS[wait](fake, node)
    if wait == "the second map":
        gevent.spawn(cluster.connect).join(0.02)
    calling = gevent.spawn(cluster.execute, *(("BLPOP", key, 0) if "block" in wait else ("SET", key, "v")))
    is_sent = wait in ("the reply", "a blocked reply", "a node that left")
    if is_sent or wait in ("back-off", "news"):  # after the fifth refusal it waits for 80 ms at least
        node.wait_until(lambda: len(node.commands("SET") + node.commands("BLPOP")) == (1 if is_sent else 5))
    calling.join(0.02)
    if wait == "a node that left":
        moved_away(fake, node, cluster)
    assert not calling.ready()
    cluster.close()
    with pytest.raises(ClosedError) as caught:
        calling.get(timeout=10)
    assert caught.value.maybe_executed == is_sent
    assert sum(len(each.commands("SET")) for each in fake.nodes[1:]) == 0


def test_a_closed_cluster_takes_no_work_and_can_be_closed_again(fake, make):
    events: list[Any] = []
    cluster = make(on_event=events.append)
    cluster.execute("GET", "k")
    cluster.close()
    cluster.close()
    cluster.disconnect()
    assert events.count(Closed()) == 1
    calls = [
        lambda: cluster.execute("GET", "k"),
        lambda: cluster.execute("ECHO", "x"),
        lambda: cluster.execute("GET", "k", timeout=1),
        lambda: cluster.execute("PING", node=fake.nodes[0].address),
        lambda: cluster.execute("BLPOP", "k", 0),
        cluster.connect,
        cluster.start,
        cluster.refresh,
        cluster.close_idle,
        cluster.__enter__,
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    for node in fake.nodes:
        node.wait_until(lambda node=node: node.connections.open == 0)
    assert "closed" in repr(cluster)


def test_disconnect_lets_end_what_was_begun_and_refuses_the_rest(fake, make):
    events: list[Any] = []
    node, cluster = fake.nodes[0], make(on_event=events.append)
    key = fake.key_at(node)
    cluster.connect()
    held, blocked = hold(node, "SET"), hold(node, "BLPOP")
    begun = [gevent.spawn(cluster.execute, "SET", key, "v"), gevent.spawn(cluster.execute, "BLPOP", key, 0)]
    node.wait_until(lambda: held and blocked)
    leaving = gevent.spawn(cluster.disconnect)
    gevent.sleep(0)
    for args in (("GET", key), ("ECHO", "x")):
        with pytest.raises(ClosedError):
            cluster.execute(*args)
    assert Closed() not in events
    held[0].send(b"+OK\r\n")
    blocked[0].send(b":1\r\n")
    assert [each.get(timeout=5) for each in begun] == [b"OK", 1]
    leaving.get(timeout=5)
    assert events[-1] == Closed()
    node.wait_until(lambda: node.connections.open == 0)
    assert len(node.commands("GET")) == 0


def test_disconnect_lets_end_also_what_a_node_was_asked_that_has_left(fake, make):
    node, cluster = fake.nodes[0], make(str(fake.nodes[1].address))
    cluster.execute("GET", fake.key_at(node))
    held = hold(node, "SET")
    writing = gevent.spawn(cluster.execute, "SET", fake.key_at(node), "v")
    node.wait_until(lambda: held)
    moved_away(fake, node, cluster)
    leaving = gevent.spawn(cluster.disconnect)
    gevent.sleep(0.01)
    held[0].send(b"+OK\r\n")
    assert writing.get(timeout=5) == b"OK"
    leaving.get(timeout=5)


def test_disconnect_ends_what_does_not_end_in_time(fake, cluster):
    node = fake.nodes[0]
    held = hold(node, "SET")
    writing = gevent.spawn(cluster.execute, "SET", fake.key_at(node), "v")
    node.wait_until(lambda: held)
    began = monotonic()
    cluster.disconnect(timeout=0.1)
    assert 0.08 < monotonic() - began < 4  # the command's own time is 5 s
    with pytest.raises(ClosedError) as caught:
        writing.get(timeout=4)
    assert caught.value.maybe_executed


@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
def test_a_redirect_during_disconnect_is_the_callers(fake, cluster, kind):
    node, other = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(node)
    held = hold(node, "SET")
    writing = gevent.spawn(cluster.execute, "SET", key, "v")
    node.wait_until(lambda: held)
    leaving = gevent.spawn(cluster.disconnect)
    gevent.sleep(0)
    held[0].send(f"-{kind} {hash_slot(key)} {other.address}\r\n".encode())
    with pytest.raises(Redirected, match=kind) as caught:
        writing.get(timeout=5)
    assert not caught.value.maybe_executed
    leaving.get(timeout=5)
    assert other.commands("SET") == []


@pytest.mark.parametrize("way", ["execute", "pipeline"])
def test_what_an_earlier_attempt_may_have_done_is_told_also_during_disconnect(fake, cluster, way):
    node = fake.nodes[0]
    command, asked, may_answer = ("INCR", fake.key_at(node)), [], Event()

    def answer(_node: object, connection: FakeConnection, _args: object) -> Answer:
        asked.append(connection)
        if len(asked) == 1:
            return Reset()
        may_answer.wait(10)  # in its turn: the client asks for a slot map as well, behind it
        return b"-TRYAGAIN\r\n"

    node.on("INCR", answer)
    if way == "pipeline":
        pipeline = cluster.pipeline(retry="always")
        pipeline.append(*command)
        writing = gevent.spawn(pipeline.execute)
    else:
        writing = gevent.spawn(cluster.execute, *command, retry="always")
    node.wait_until(lambda: len(asked) == 2)
    leaving = gevent.spawn(cluster.disconnect)
    gevent.sleep(0)
    may_answer.set()
    if way == "pipeline":
        (error,) = writing.get(timeout=5)
    else:
        with pytest.raises(ReplyError) as caught:
            writing.get(timeout=5)
        error = caught.value
    assert error.code == "TRYAGAIN"
    assert error.maybe_executed
    leaving.get(timeout=5)


def test_a_call_in_back_off_during_disconnect_is_not_told_that_its_slot_is_unserved(fake, cluster):
    node = fake.nodes[0]
    node.on("SET", b"-TRYAGAIN\r\n", times=4)
    writing = gevent.spawn(cluster.execute, "SET", fake.key_at(node), "v")
    node.wait_until(lambda: len(node.commands("SET")) == 4)
    cluster.disconnect()
    assert writing.ready()
    assert writing.value == b"OK" or isinstance(writing.exception, ClosedError) or "TRYAGAIN" in str(writing.exception)


def test_a_kill_ends_a_disconnect_at_once_and_closes(fake, cluster):
    node = fake.nodes[0]
    held = hold(node, "SET")
    writing = gevent.spawn(cluster.execute, "SET", fake.key_at(node), "v")
    node.wait_until(lambda: held)
    leaving = gevent.spawn(cluster.disconnect)
    gevent.sleep(0)
    leaving.kill()
    with pytest.raises(ClosedError):
        writing.get(timeout=4)


def test_with_disconnects_after_a_good_end_and_closes_after_a_bad_one(fake, make):
    node = fake.nodes[0]
    for error in (None, ZeroDivisionError):
        node.on("SET", Delay(0.05, b"+OK\r\n"), times=1)
        writing = None
        try:
            with make() as cluster:
                writing = gevent.spawn(cluster.execute, "SET", fake.key_at(node), "v")
                sent = len(node.commands("SET"))
                node.wait_until(lambda sent=sent: len(node.commands("SET")) > sent)
                if error is not None:
                    raise error
        except ZeroDivisionError:
            with pytest.raises(ClosedError):
                writing.get(timeout=4)
        else:
            assert writing.value == b"OK"
        with pytest.raises(ClosedError):
            cluster.execute("GET", "k")


def test_with_closes_what_can_not_connect(fake, make):
    for node in fake.nodes:
        node.stop()
    cluster = make()
    with pytest.raises(TopologyUnavailable), cluster:
        pass
    with pytest.raises(ClosedError):
        cluster.start()


# -- what remains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["idle", "reply", "block", "connecting", "connecting to block", "refresh", "pace", "back-off"]
)
def test_close_leaves_no_socket_and_no_greenlet_behind(spawned, fake, make, how):
    node, other = fake.nodes[:2]
    spawned.clear()
    opened = sockets()
    cluster = make(str(other.address), client_name="me")
    cluster.execute("GET", fake.key_at(other))
    node.on("BLPOP", None)
    node.on("GET", b"-CLUSTERDOWN\r\n" if how == "back-off" else None)
    if "connecting" in how:
        node.freeze()
    if how == "refresh":
        other.freeze()
    if how != "idle":
        key = fake.key_at(node)
        calling = gevent.spawn(cluster.execute, *(("BLPOP", key, 0) if "block" in how else ("GET", key)))
        calling.join(0.01)
    if how in ("refresh", "pace"):
        gevent.spawn(cluster.refresh).join(0.15 if how == "refresh" else 0.01)
    cluster.close()

    def remain() -> tuple[int, int]:
        # The fake nodes have a greenlet and a socket for each connection, and may not have noticed its end.
        theirs = sum(each.connections.open for each in fake.nodes)
        return sum(not each.dead for each in spawned) - theirs, len(sockets() - opened) - theirs

    with gevent.Timeout(1.5, False):
        while remain() != (0, 0):
            gevent.sleep(0.01)
    assert remain() == (0, 0)
