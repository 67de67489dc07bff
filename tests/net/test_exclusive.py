"""A connection for oneself: `Cluster.connection`."""

import gevent
import pytest

from gvcluster import (
    BlockedInHub,
    ClosedError,
    Cluster,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    ReplyError,
    ReplyTimeout,
    SlotNotCovered,
    StatefulCommand,
)
from gvcluster.testing.answers import Delay


def test_it_is_a_new_connection_that_lives_as_long_as_the_with_block(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("PING", node=node.address)
    accepted = node.connections.accepted
    with cluster.connection(node.address) as connection:
        assert connection.address == node.address
        assert connection.execute("SET", key, 1) == b"OK"
        assert connection.execute("GET", key) == b"1"
        assert node.connections.accepted == accepted + 1
        assert cluster.statistics().nodes
    assert connection.closed
    node.wait_until(lambda: node.connections.open == accepted)
    numbers = [number for number, args in node.received if args[0] in (b"SET", b"GET")]
    assert numbers == [accepted + 1] * 2
    with pytest.raises(ConnectionLost, match="has ended") as caught:
        connection.execute("GET", "k")
    assert not caught.value.maybe_executed


def test_a_key_leads_to_the_node_that_serves_it(fake, make):
    cluster, node = make(), fake.nodes[1]
    with cluster.connection(route_key=fake.key_at(node)) as connection:
        assert connection.address == node.address


@pytest.mark.parametrize(
    "given", [{}, {"node": "h:1", "route_key": "k"}, {"node": 7}, {"node": "h"}, {"node": "h:1", "timeout": 0}]
)
def test_a_place_that_makes_no_sense_is_refused(fake, cluster, given):
    with pytest.raises(ConfigError):
        cluster.connection(**given)


def test_a_key_that_nobody_serves_is_refused(fake, make):
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", b"*1\r\n*3\r\n:0\r\n:0\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % node.address.port)
    with pytest.raises(SlotNotCovered) as caught:
        make().connection(route_key="k")
    assert caught.value.slot == 7629


@pytest.mark.parametrize(
    "command",
    [("SELECT", 1), ("MULTI",), ("WATCH", "k"), ("READONLY",), ("CLIENT", "NO-TOUCH", "ON"), ("NO.SUCH", "x")],
)
def test_what_shared_connections_refuse_is_sent_here(fake, cluster, command):
    node = fake.nodes[0]
    node.on(command[0], b"+OK\r\n")
    with cluster.connection(node.address) as connection:
        assert connection.execute(*command) == b"OK"
    assert [each for each in node.received if each.args[0] == command[0].encode()]


@pytest.mark.parametrize("command", [("SUBSCRIBE", "c"), ("MONITOR",), ("CLIENT", "REPLY", "OFF"), ("SYNC",)])
def test_what_ends_the_order_of_replies_is_refused_here_too(fake, cluster, command):
    node = fake.nodes[0]
    with cluster.connection(node.address) as connection:
        before = len(node.received)
        with pytest.raises(StatefulCommand, match="one reply for each command"):
            connection.execute(*command)
        assert connection.execute("GET", fake.key_at(node)) is None
        assert len(node.received) == before + 1


def test_error_replies_and_redirects_are_raised_and_the_connection_lives_on(fake, cluster):
    node = fake.nodes[0]
    node.on("LPUSH", b"-WRONGTYPE no\r\n")
    node.on("GETDEL", b"-MOVED 7629 127.0.0.1:7\r\n")
    with cluster.connection(node.address) as connection:
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            connection.execute("LPUSH", "k", 1)
        with pytest.raises(ReplyError, match="MOVED"):
            connection.execute("GETDEL", "k")
        assert connection.execute("GET", fake.key_at(node)) is None
    assert len(node.commands("GETDEL")) == 1


def test_a_reply_that_does_not_come_in_time_closes_it(fake, cluster):
    node = fake.nodes[0]
    node.on("GET", Delay(60, None))
    connection = cluster.connection(node.address)
    with pytest.raises(ReplyTimeout) as caught:
        connection.execute("GET", "k", timeout=0.05)
    assert caught.value.maybe_executed
    assert connection.closed


def test_a_lost_connection_is_told(fake, cluster):
    node = fake.nodes[0]
    node.on("SET", lambda *_: node.reset_connections() and None)
    connection = cluster.connection(node.address)
    calling = gevent.spawn(connection.execute, "SET", "k", 1)
    with pytest.raises(ConnectionLost) as caught:
        calling.get(timeout=5)
    assert caught.value.maybe_executed
    assert connection.closed


def test_a_kill_closes_it(fake, cluster):
    node = fake.nodes[0]
    node.on("BLPOP", None)
    connection = cluster.connection(node.address)
    calling = gevent.spawn(connection.execute, "BLPOP", "k", 0)
    node.wait_until(lambda: node.commands("BLPOP"))
    calling.kill()
    assert connection.closed


def test_a_blocking_command_may_take_its_own_time_and_more(fake, make):
    node, cluster = fake.nodes[0], make(command_timeout=0.1)
    node.on("BLPOP", Delay(0.3, b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n"))
    with cluster.connection(node.address) as connection:
        assert connection.execute("BLPOP", "k", 1) == [b"k", b"v"]


def test_two_greenlets_can_not_use_it_at_once(fake, cluster):
    node = fake.nodes[0]
    node.on("BLPOP", None)
    with cluster.connection(node.address) as connection:
        calling = gevent.spawn(connection.execute, "BLPOP", "k", 0)
        node.wait_until(lambda: node.commands("BLPOP"))
        with pytest.raises(ConfigError, match="another greenlet"):
            connection.execute("GET", "k")
        calling.kill()


def test_another_thread_can_not_use_it(fake, cluster):
    with cluster.connection(fake.nodes[0].address) as connection:
        pool = gevent.get_hub().threadpool
        with pytest.raises(ConfigError, match="another hub"):
            pool.apply(connection.execute, ("GET", "k"))


def test_in_the_hub_it_is_refused(fake, cluster):
    told: list[BaseException] = []

    def in_hub() -> None:
        for call in (lambda: cluster.connection(fake.nodes[0].address), lambda: connection.execute("GET", "k")):
            try:
                call()
            except BlockedInHub as error:
                told.append(error)

    with cluster.connection(fake.nodes[0].address) as connection:
        gevent.get_hub().loop.run_callback(in_hub)
        gevent.sleep(0.01)
    assert len(told) == 2


def test_closing_the_cluster_ends_it(fake, make):
    cluster = make()
    connection = cluster.connection(fake.nodes[0].address)
    cluster.close()
    assert connection.closed
    with pytest.raises(ClosedError):
        connection.execute("GET", "k")
    with pytest.raises(ClosedError):
        cluster.connection(fake.nodes[0].address)


def test_nobody_there_is_a_failed_connection(fake, cluster):
    node = fake.nodes[0]
    node.stop()
    with pytest.raises(ConnectFailed):
        cluster.connection(node.address)


def test_reprs_name_the_node(fake: object, cluster: Cluster) -> None:
    (node, *_) = cluster.primaries()
    with cluster.connection(node) as connection:
        assert repr(connection) == f"<ExclusiveConnection to {node.address}>"
    assert repr(connection) == f"<ExclusiveConnection to {node.address} closed>"


def test_one_that_is_dropped_is_closed_with_a_warning(fake, cluster):
    node = fake.nodes[0]
    connection = cluster.connection(node.address)
    opened = node.connections.open
    with pytest.warns(ResourceWarning, match="was not closed"):
        del connection
    node.wait_until(lambda: node.connections.open == opened - 1)


def test_while_the_cluster_disconnects_it_takes_no_new_command_and_ends_the_one_under_way(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    node.on("GET", Delay(0.2, b"$1\r\nv\r\n"), times=1)
    with cluster.connection(node.address) as connection:
        calling = gevent.spawn(connection.execute, "GET", key)
        node.wait_until(lambda: node.commands("GET"))
        ending = gevent.spawn(cluster.disconnect)
        gevent.sleep(0.02)
        with pytest.raises(ClosedError):
            cluster.connection(node.address)
        assert calling.get(timeout=5) == b"v"
        with pytest.raises(ClosedError):
            connection.execute("GET", key)
        ending.get(timeout=5)
