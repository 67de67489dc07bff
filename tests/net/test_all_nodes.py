"""Commands for many nodes: who is asked, and what becomes of their answers and errors."""

import gevent
import pytest
from gevent.event import Event

from gvcluster import ClosedError, ConnectFailed, NoKey, PartialFailure, ReplyError
from gvcluster.errors import ConnectionLost, NodeError
from gvcluster.testing.answers import NOT_HANDLED, Close
from gvcluster.testing.fake import FakeCluster


@pytest.fixture
def pairs():
    """Three primaries, then a replica of each."""
    with FakeCluster(3, replicas=1) as fake:
        yield fake


def until(condition) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


def stop(node, cluster) -> None:
    """End a node, and wait until the client has seen it."""
    node.stop()
    until(lambda: not any(one.connections for one in cluster.statistics().nodes if one.address == node.address))


def asked(fake, name: str) -> list[int]:
    """How many commands of this name each node has had."""
    return [len(node.commands(name)) for node in fake.nodes]


def test_shards_are_asked_at_their_primaries_and_their_replies_are_merged(pairs, connect_to):
    cluster = connect_to(pairs)
    for node in pairs.nodes:
        node.on("DBSIZE", b":%d\r\n" % (node.index + 1))
        node.on("KEYS", b"*1\r\n$1\r\n%d\r\n" % node.index)
        node.on("SCRIPT EXISTS", b"*2\r\n:1\r\n:%d\r\n" % (node.index == 1))
        node.on("INFO", b"$1\r\n%d\r\n" % node.index)
    assert cluster.execute("DBSIZE") == 6
    assert cluster.execute("KEYS", "*") == [b"0", b"1", b"2"]
    assert cluster.execute("SCRIPT", "EXISTS", "a", "b") == [1, 0]
    assert cluster.execute("INFO") == {node.address: b"%d" % node.index for node in pairs.nodes[:3]}
    assert asked(pairs, "DBSIZE") == asked(pairs, "KEYS") == [1, 1, 1, 0, 0, 0]


def test_all_nodes_are_the_replicas_as_well(pairs, connect_to):
    cluster = connect_to(pairs)
    for node in pairs.nodes:
        node.on("CONFIG SET", b"+OK\r\n")
        node.on("SLOWLOG LEN", b":%d\r\n" % 10**node.index)
    assert cluster.execute("CONFIG", "SET", "maxmemory", "1gb") == b"OK"
    assert cluster.execute("SLOWLOG", "LEN") == 111111
    assert asked(pairs, "CONFIG") == [1] * 6


def test_nodes_are_asked_at_the_same_time(fake, cluster):
    arrived, go_on = [], Event()

    def answer(node, _connection, _args):
        arrived.append(node.index)
        if len(arrived) == 3:
            go_on.set()
        return b"+OK\r\n" if go_on.wait(5) else Close()

    for node in fake.nodes:
        node.on("FLUSHALL", answer)
    assert cluster.execute("FLUSHALL") == b"OK"


def test_node_and_route_key_still_choose_one(fake, cluster):
    for node in fake.nodes:
        node.on("DBSIZE", b":%d\r\n" % node.index)
    assert cluster.execute("DBSIZE", node=fake.nodes[2].address) == 2
    assert cluster.execute("DBSIZE", route_key=fake.key_at(fake.nodes[1])) == 1
    assert asked(fake, "DBSIZE") == [0, 1, 1]


def test_a_node_that_refuses_for_now_is_asked_again_and_only_it(fake, cluster):
    for node in fake.nodes:
        node.on("FLUSHALL", b"+OK\r\n")
    fake.nodes[1].on("FLUSHALL", b"-LOADING soon\r\n", times=2)
    with pytest.raises(PartialFailure) as caught:
        cluster.execute("FLUSHALL", retry="never")
    assert [type(result) for result in caught.value.results.values()] == [bytes, ReplyError, bytes]
    waiting = gevent.spawn(cluster.execute, "FLUSHALL", timeout=20)
    fake.nodes[1].wait_until(lambda: len(fake.nodes[1].commands("FLUSHALL")) >= 2)
    fake.nodes[1].on("FLUSHALL", b"+OK\r\n")
    assert waiting.get() == b"OK"
    assert [asked(fake, "FLUSHALL")[n] for n in (0, 2)] == [2, 2]


def test_a_write_that_may_have_run_at_a_node_is_not_repeated_there(fake, cluster):
    for node in fake.nodes:
        node.on("FLUSHALL", b"+OK\r\n")
    fake.nodes[1].on("FLUSHALL", Close())
    with pytest.raises(PartialFailure, match="FLUSHALL failed at 1 of 3 nodes; the first, 127") as caught:
        cluster.execute("FLUSHALL")
    error = caught.value
    assert list(error.results) == [node.address for node in cluster.primaries()]
    assert [error.results[node.address] for node in (fake.nodes[0], fake.nodes[2])] == [b"OK", b"OK"]
    lost = error.results[fake.nodes[1].address]
    assert isinstance(lost, ConnectionLost)
    assert lost.maybe_executed
    assert error.maybe_executed
    assert asked(fake, "FLUSHALL") == [1, 1, 1]


def test_a_read_that_is_lost_is_asked_again(fake, cluster):
    for node in fake.nodes:
        node.on("DBSIZE", b":1\r\n")
    done = []

    def once(_node, _connection, _args):
        done.append(1)
        return Close() if len(done) == 1 else b":5\r\n"

    fake.nodes[1].on("DBSIZE", once)
    assert cluster.execute("DBSIZE") == 7


def test_what_all_refuse_alike_is_raised_as_it_is(fake, cluster):
    for node in fake.nodes:
        node.on("CONFIG", b"-ERR no such option\r\n")
    with pytest.raises(ReplyError, match="no such option") as caught:
        cluster.execute("CONFIG", "SET", "colour", "blue")
    assert not caught.value.maybe_executed


def test_the_successor_of_a_demoted_primary_takes_its_part(pairs, connect_to):
    cluster = connect_to(pairs)
    for node in pairs.nodes:
        node.on(
            "FLUSHALL", lambda node, _c, _a: b"-READONLY I am a replica\r\n" if node.role == "replica" else b"+OK\r\n"
        )
    pairs.promote(4)
    assert cluster.execute("FLUSHALL") == b"OK"
    assert asked(pairs, "FLUSHALL")[4] == 1
    assert [asked(pairs, "FLUSHALL")[n] for n in (0, 2)] == [1, 1]


def test_the_successor_of_a_dead_primary_takes_its_part(pairs, connect_to):
    cluster = connect_to(pairs, command_timeout=5)
    for node in pairs.nodes:
        node.on("FLUSHALL", b"+OK\r\n")
    cluster.execute("FLUSHALL")
    stop(pairs.nodes[0], cluster)
    pairs.promote(3)
    assert cluster.execute("FLUSHALL") == b"OK"
    assert asked(pairs, "FLUSHALL") == [1, 2, 2, 1, 0, 0]


def test_a_node_that_left_the_cluster_is_not_waited_for(fake, make):
    cluster = make(timeout=60)
    cluster.connect()
    for node in fake.nodes:
        node.on("PING", b"+PONG\r\n")
    for slot in range(16384):
        if fake.owner(slot) is fake.nodes[2]:
            fake.move_slot(slot, 1)
    stop(fake.nodes[2], cluster)
    with pytest.raises(PartialFailure) as caught, gevent.Timeout(20):
        cluster.execute("PING")
    assert isinstance(caught.value.results[fake.nodes[2].address], NodeError)
    assert cluster.execute("PING") == b"PONG"


def test_what_an_earlier_attempt_may_have_done_is_told_of_a_node_that_left_as_well(fake, cluster):
    leaver, answers = fake.nodes[2], [Close()]

    def leave(_node, _connection, _args):
        for slot in range(16384):
            if fake.owner(slot) is leaver:
                fake.move_slot(slot, 1)
        return answers.pop() if answers else b"-LOADING not yet\r\n"

    for node in fake.nodes:
        node.on("FLUSHALL", b"+OK\r\n")
        node.on("CLUSTER SLOTS", lambda *_: NOT_HANDLED if len(leaver.commands("FLUSHALL")) > 1 else b"-LOADING\r\n")
    leaver.on("FLUSHALL", leave)
    with pytest.raises(PartialFailure) as caught:
        cluster.execute("FLUSHALL", retry="always")
    failed = caught.value.results[leaver.address]
    assert failed.code == "LOADING"
    assert failed.maybe_executed


def test_a_dead_node_is_tried_until_the_deadline_and_nothing_ran_there(fake, make):
    cluster = make(timeout=0.5)
    cluster.connect()
    for node in fake.nodes:
        node.on("SCRIPT", b"+OK\r\n")
    stop(fake.nodes[2], cluster)
    with pytest.raises(PartialFailure) as caught:
        cluster.execute("SCRIPT", "FLUSH")
    failed = caught.value.results[fake.nodes[2].address]
    assert not failed.maybe_executed
    assert isinstance(failed.__cause__ or failed, ConnectFailed | ConnectionLost)


def test_a_killed_caller_leaves_nobody_behind(fake, cluster):
    cluster.execute("GET", fake.key_at(fake.nodes[0]))
    for node in fake.nodes:
        node.on("FLUSHALL", None)
    caller = gevent.spawn(cluster.execute, "FLUSHALL")
    until(lambda: asked(fake, "FLUSHALL") == [1, 1, 1])
    caller.kill()
    until(lambda: cluster._executor_here().active == 0)
    for node in fake.nodes:
        node.on("FLUSHALL", b"+OK\r\n")
        node.reset_connections()
    assert cluster.execute("FLUSHALL") == b"OK"
    assert asked(fake, "FLUSHALL") == [2, 2, 2]


def test_a_closed_cluster_says_so(fake, cluster):
    for node in fake.nodes:
        node.on("FLUSHALL", None)
    caller = gevent.spawn(cluster.execute, "FLUSHALL")
    until(lambda: asked(fake, "FLUSHALL") == [1, 1, 1])
    cluster.close()
    with pytest.raises(ClosedError) as caught:
        caller.get()
    assert caught.value.maybe_executed


def test_what_cannot_wait_for_all_names_what_can(fake, cluster):
    for refuse in (cluster.pipeline().append, cluster.submit):
        with pytest.raises(NoKey, match=r"DBSIZE concerns several nodes: execute\(\) asks them all; or name one with"):
            refuse("DBSIZE")
        with pytest.raises(NoKey, match=r"SCAN concerns several nodes: scan_iter\(\) goes over them all; or name one"):
            refuse("SCAN", 0)
    assert asked(fake, "DBSIZE") == [0, 0, 0]


def test_explain_names_them(pairs, connect_to):
    cluster = connect_to(pairs)
    assert cluster.explain("DBSIZE").nodes == cluster.primaries()
    assert cluster.explain("CONFIG", "SET", "a", "b").nodes == (*cluster.primaries(), *cluster.replicas())
    assert cluster.explain("DBSIZE").node is None
    assert cluster.explain("GET", "k").nodes == cluster.explain("SCAN", 0).nodes == ()


def slow_map(node, _connection, _args):
    """Answer as always, after a while."""
    gevent.sleep(0.3)
    return NOT_HANDLED


def test_what_a_redirect_has_told_of_a_failover_is_looked_into_before_all_are_asked(pairs, connect_to):
    cluster = connect_to(pairs)
    key = pairs.key_at(pairs.nodes[0])
    pairs.promote(3)
    for node in pairs.nodes:
        node.on("CLUSTER SLOTS", slow_map)
        node.on("DBSIZE", b":%d\r\n" % 10**node.index)
    cluster.execute("SET", key, 1)
    assert cluster.execute("DBSIZE") == 1110
    assert asked(pairs, "DBSIZE") == [0, 1, 1, 1, 0, 0]


def test_where_nobody_gives_a_new_map_all_are_asked_by_the_old_one(pairs, connect_to):
    cluster = connect_to(pairs)
    pairs.promote(3)
    for node in pairs.nodes:
        node.on("CLUSTER SLOTS", b"-ERR not now\r\n")
        node.on("DBSIZE", b":1\r\n")
    cluster.execute("SET", pairs.key_at(pairs.nodes[3]), 1)
    assert cluster.execute("DBSIZE") == 3
    assert asked(pairs, "DBSIZE") == [1, 1, 1, 0, 0, 0]
