"""A connection for oneself: `Cluster.connection`."""

import gc

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
from gvcluster.net.waiter import Waiter
from gvcluster.testing.answers import Delay


def test_it_is_a_connection_that_is_ours_as_long_as_the_with_block(fake, cluster):
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
    assert node.connections.open == accepted + 1  # kept for the next
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


# -- sending without waiting -------------------------------------------------------------------------------------------


def test_replies_are_received_in_the_order_of_their_commands(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    node.on("LPUSH", b"-WRONGTYPE no\r\n")
    with cluster.connection(node.address) as connection:
        connection.send("SET", key, 1)
        connection.send("LPUSH", key, 1)
        connection.send("INCR", key)
        assert connection.receive() == b"OK"
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            connection.receive()
        assert connection.execute("GET", key) == b"2"
        assert connection.receive() == 2
        with pytest.raises(ConfigError, match="send"):
            connection.receive()
    assert cluster.statistics().exclusive.idle == 1


def test_a_reply_that_is_late_or_whose_receiver_is_killed_is_received_later(fake, cluster):
    node = fake.nodes[0]
    node.on("GET", Delay(0.1, b"$4\r\nlate\r\n"))
    with cluster.connection(node.address) as connection:
        connection.send("GET", "k")
        with pytest.raises(ReplyTimeout):
            connection.receive(timeout=0.02)
        receiving = gevent.spawn(connection.receive)
        gevent.sleep(0.01)
        with pytest.raises(ConfigError, match="another greenlet"):
            connection.receive()
        receiving.kill()
        assert connection.receive() == b"late"
    assert cluster.statistics().exclusive.idle == 1


def test_what_was_not_received_is_never_the_next_borrowers(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    with cluster.connection(node.address) as connection:
        connection.send("SET", key, "mine")
        connection.send("GET", key)
    with cluster.connection(node.address) as connection:
        assert connection.execute("ECHO", "x") == b"x"
    assert node.connections.accepted >= 2
    assert cluster.statistics().exclusive.created == 2


def test_a_blocking_command_may_take_its_time_there_too(fake, make):
    node, cluster = fake.nodes[0], make(command_timeout=0.05)
    node.on("BLPOP", Delay(0.2, b"*-1\r\n"))
    with cluster.connection(node.address) as connection:
        connection.send("BLPOP", "k", 1)
        assert connection.receive() is None


def test_each_that_was_sent_learns_of_the_loss(fake, cluster):
    node = fake.nodes[0]
    node.on("GET", lambda *_: node.reset_connections() and None)
    connection = cluster.connection(node.address)
    connection.send("SET", fake.key_at(node), 1)
    connection.send("GET", "k")
    connection.send("GET", "k")
    assert connection.receive() == b"OK"
    for _ in range(2):
        with pytest.raises(ConnectionLost) as caught:
            connection.receive()
        assert caught.value.maybe_executed
    with pytest.raises(ConnectionLost, match="has ended"):
        connection.receive()
    with pytest.raises(ConnectionLost, match="has ended"):
        connection.send("GET", "k")


@pytest.mark.parametrize("version", [2, 3])
def test_a_subscription_is_received_with_all_that_comes_in_its_order(fake, make, version):
    node, cluster = fake.nodes[0], make(protocol=version)
    sign = b">" if version == 3 else b"*"
    theirs: list[object] = []
    confirmed = sign + b"3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
    node.on("SUBSCRIBE", lambda _node, connection, _args: theirs.append(connection) or confirmed)
    with cluster.connection(node.address) as connection:
        connection.send("GET", fake.key_at(node))
        connection.send("SUBSCRIBE", "c")
        assert connection.receive() is None
        assert connection.receive() == [b"subscribe", b"c", 1]
        receiving = gevent.spawn(connection.receive)
        gevent.sleep(0.01)
        theirs[0].send(sign + b"3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nm1\r\n")
        assert receiving.get(timeout=5) == [b"message", b"c", b"m1"]
        theirs[0].send((sign + b"3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nm2\r\n") * 2)
        connection.send("PING")
        assert [connection.receive(timeout=5)[2] for _ in range(2)] == [b"m2", b"m2"]
        assert connection.receive(timeout=5) in ("PONG", b"PONG", [b"pong", b""])
        with pytest.raises(ReplyTimeout):
            connection.receive(timeout=0.01)
        with pytest.raises(StatefulCommand, match="receive"):
            connection.execute("GET", "k")
        theirs[0].close()
        with pytest.raises(ConnectionLost):
            connection.receive(timeout=5)
    assert cluster.statistics().exclusive.idle == 0


@pytest.mark.parametrize("version", [2, 3])
def test_a_stream_that_nobody_receives_ends_and_what_came_before_is_there(fake, make, version):
    node, cluster = fake.nodes[0], make(protocol=version, max_queued_bytes=10_000)
    sign = b">" if version == 3 else b"*"
    message = sign + b"3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1000\r\n" + b"m" * 1000 + b"\r\n"
    node.on("SUBSCRIBE", sign + b"3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" + message * 50)
    with cluster.connection(node.address) as connection:
        connection.send("SUBSCRIBE", "c")
        node.wait_until(lambda: connection.closed)
        received = []
        with pytest.raises(ConnectionLost, match=r"nobody received .* max_queued_bytes"):
            received.extend(iter(lambda: connection.receive(timeout=5), None))
        assert [item[0] for item in received] == [b"subscribe"] + [b"message"] * (len(received) - 1)
        assert 5 <= len(received) <= 12


def test_a_stream_that_is_received_may_be_as_long_as_it_likes(fake, make):
    node, cluster = fake.nodes[0], make(protocol=2, max_queued_bytes=10_000)
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1000\r\n" + b"m" * 1000 + b"\r\n"
    node.on("SUBSCRIBE", message * 3)
    with cluster.connection(node.address) as connection:
        for _ in range(20):
            connection.send("SUBSCRIBE", "c")
            assert [connection.receive(timeout=5)[1] for _ in range(3)] == [b"c"] * 3


def test_disconnecting_does_not_wait_for_the_end_of_a_subscription(fake, make):
    node, cluster = fake.nodes[0], make(protocol=2)
    node.on("SUBSCRIBE", b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    connection = cluster.connection(node.address)
    connection.send("SUBSCRIBE", "c")
    connection.receive()
    receiving = gevent.spawn(connection.receive)
    gevent.sleep(0.01)
    with gevent.Timeout(5):
        cluster.disconnect(timeout=30)
    with pytest.raises(ConnectionLost):
        receiving.get(timeout=5)


def test_what_was_sent_in_a_stream_is_not_kept_for_as_long_as_it_lasts(fake, cluster):
    def waiters() -> int:
        return sum(isinstance(each, Waiter) for each in gc.get_objects())

    with cluster.connection(fake.nodes[0].address) as connection:
        for command in ("ECHO", "k"), ("SUBSCRIBE", "news"):
            connection.send(*command)
        assert [connection.receive(timeout=10) for _ in range(2)] == [b"k", [b"subscribe", b"news", 1]]
        before = waiters()
        for _ in range(50):
            connection.send("PING")
            connection.receive(timeout=10)
        assert waiters() < before + 10


def test_an_idle_stream_lets_the_loop_end_also_if_a_reply_was_owed_when_it_began(fake, cluster):
    node = fake.nodes[0]
    node.on("BLPOP", Delay(0.05, b"*-1\r\n"))
    node.on("SUBSCRIBE", b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    with cluster.connection(node.address) as connection:
        connection.send("BLPOP", fake.key_at(node), 1)
        node.wait_until(lambda: node.commands("BLPOP"))
        connection.send("SUBSCRIBE", "c")
        assert connection.receive() is None
        assert connection.receive() == [b"subscribe", b"c", 1]
        inside = connection._connection
        assert not inside._readable.ref


@pytest.mark.parametrize("command", [("MONITOR",), ("CLIENT", "REPLY", "OFF")])
def test_after_what_ends_the_order_the_connection_is_not_lent_again(fake, cluster, command):
    node = fake.nodes[0]
    node.on(" ".join(command[:2]), b"+OK\r\n")
    with cluster.connection(node.address) as connection:
        connection.send(*command)
        assert connection.receive() == b"OK"
    assert cluster.statistics().exclusive.idle == 0
    node.wait_until(lambda: node.connections.open <= 1)


@pytest.mark.parametrize("command", [("SYNC",), ("PSYNC", "?", -1), ("HOST:", "x")])
def test_what_is_not_resp_afterwards_is_refused(fake, cluster, command):
    with cluster.connection(fake.nodes[0].address) as connection:
        with pytest.raises(StatefulCommand):
            connection.send(*command)
        with pytest.raises(StatefulCommand):
            connection.execute(*command)
        assert connection.execute("ECHO", "x") == b"x"


@pytest.mark.parametrize(
    ("command", "is_kept"),
    [
        (("GET", "k"), True),
        (("WAIT", 1, 10), True),
        (("BLPOP", "k", 1), True),
        (("SELECT", 1), False),
        (("WATCH", "k"), False),
        (("CLIENT", "SETNAME", "me"), False),
        (("EVAL", "return 1", 0), False),
        (("NO.SUCH", "x"), False),
        (("MINE", "x"), False),
    ],
)
def test_only_what_nothing_was_set_on_is_lent_again(fake, make, command, is_kept):
    cluster, node = make(), fake.nodes[0]
    cluster.register_command("MINE")
    for name in ("GET", "WAIT", "BLPOP", "SELECT", "WATCH", "CLIENT SETNAME", "EVAL", "NO.SUCH", "MINE"):
        node.on(name, b":0\r\n")
    with cluster.connection(node.address) as connection:
        connection.execute(*command)
    assert cluster.statistics().exclusive.idle == is_kept


def test_after_the_with_block_it_is_somebody_elses(fake, cluster):
    node = fake.nodes[0]
    with cluster.connection(node.address) as mine:
        mine.execute("GET", fake.key_at(node))
    with cluster.connection(node.address) as theirs:
        mine.close()
        mine.__exit__(None, None, None)
        for use in (mine.execute, mine.send):
            with pytest.raises(ConnectionLost, match="has ended"):
                use("GET", "k")
        assert not theirs.closed
        assert theirs.execute("ECHO", "x") == b"x"


def test_wait_elsewhere_says_where_it_belongs(cluster):
    with pytest.raises(StatefulCommand, match="own connection"):
        cluster.execute("WAIT", 1, 100)


@pytest.mark.parametrize("command", [("SUBSCRIBE", "c"), ("MONITOR",), ("CLIENT", "REPLY", "OFF"), ("SYNC",)])
def test_what_ends_the_order_of_replies_is_refused_here_too(fake, cluster, command):
    node = fake.nodes[0]
    with cluster.connection(node.address) as connection:
        before = len(node.received)
        with pytest.raises(StatefulCommand, match="one reply for each command") as caught:
            connection.execute(*command)
        assert ("cluster.pubsub()" in str(caught.value)) == (command[0] == "SUBSCRIBE")
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
