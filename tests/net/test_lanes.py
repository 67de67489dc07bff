"""Which connection a call goes by: the lanes of a node, and the one for large calls."""

import contextlib
import os
from typing import Any

import gevent
import pytest
from calls import accepted, begin, bulk, ends

from gvcluster import ClosedError, Cluster, ConfigError, ConnectionLost
from gvcluster.core.slots import hash_slot
from gvcluster.net.large import BULK, LARGE, LONGEST, MOST, LargeReplies
from gvcluster.testing.answers import Close, encode_reply

LONG = b"x" * (BULK + 1)
HUGE = b"y" * (3 * LARGE)


def over(node, *args: bytes) -> list[int]:
    """Over how many-th connections these commands came."""
    return [received.connection for received in node.received if received.args[: len(args)] == list(args)]


@pytest.fixture
def purposes() -> list[str]:
    return []


@pytest.fixture
def open_lanes(connect, held, purposes):
    """`open_lanes(**options)`: a Cluster of one node that answers, whose connections are noted in `purposes`."""

    def open_lanes(**options: Any):
        held.answer_from_now_on()
        return connect(on_connect=lambda connection, error: purposes.append(connection.purpose), **options)

    return open_lanes


def test_long_commands_have_a_second_lane_which_is_opened_for_the_first_of_them(held, open_lanes, purposes):
    cluster = open_lanes()
    fits = LONG[: -len(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$65536\r\n\r\n") - 1]
    assert cluster.execute("SET", "a", fits) == b"a"
    assert purposes == ["multiplexed"]
    for key in ("b", "c"):
        assert cluster.execute("SET", key, LONG) == key.encode()
    assert cluster.execute("GET", "d") == b"d"
    assert purposes == ["multiplexed", "bulk"]
    node = held.node
    (first,), (second,) = over(node, b"SET", b"a"), over(node, b"SET", b"b")
    assert first != second
    assert over(node, b"SET", b"c") == [second]
    assert over(node, b"GET", b"d") == [first]


@pytest.mark.parametrize("options", [{}, {"timeout": 5.0}, {"retry": "always"}])
def test_the_caller_says_which_calls_are_large(held, open_lanes, purposes, options):
    cluster = open_lanes()
    cluster.execute("GET", "a", bulk=True, **options)
    cluster.execute("SET", "b", LONG, bulk=False, **options)
    cluster.execute("SET", "c", LONG, bulk=None, **options)
    cluster.execute("GET", "d", bulk=None, **options)
    a, b, c, d = (
        over(held.node, *args)[0] for args in ((b"GET", b"a"), (b"SET", b"b"), (b"SET", b"c"), (b"GET", b"d"))
    )
    assert (a, b) == (c, d)
    assert a != b
    assert purposes == ["multiplexed", "bulk"]


def test_bulk_is_yes_no_or_nothing(cluster):
    for value in (1, "yes", 0.0):
        with pytest.raises(ConfigError, match="bulk must be"):
            cluster.execute("GET", "k", bulk=value)


def test_a_blocking_command_has_its_own_connection_whether_it_is_large_or_not(one_node, connect_to):
    purposes: list[str] = []
    cluster = connect_to(one_node, on_connect=lambda connection, error: purposes.append(connection.purpose))
    one_node.nodes[0].on("BLPOP", b"*-1\r\n")
    cluster.execute("BLPOP", "k", 1, bulk=True)
    assert purposes == ["multiplexed", "exclusive"]


def test_small_calls_are_answered_while_a_large_one_is_sent_or_answered(held, connect):
    cluster = connect()
    large = [begin(cluster, "SET", "a", LONG), begin(cluster, "GET", "b", bulk=True)]
    held.wait_for(2)
    held.owed, owed = [], held.owed
    held.answer_from_now_on()
    assert ends(*[begin(cluster, "GET", f"k{number}") for number in range(10)]) == [b"k%d" % n for n in range(10)]
    assert not any(call.ready() for call in large)
    held.owed = owed
    held.answer()
    assert ends(*large) == [b"a", b"b"]


def test_both_lanes_are_full_for_themselves(held, connect):
    cluster = connect(max_in_flight=1)
    calls = [begin(cluster, "GET", "a"), begin(cluster, "GET", "b", bulk=True), begin(cluster, "GET", "c", bulk=True)]
    held.wait_for(2)
    gevent.sleep(0)
    (node,) = cluster.statistics().nodes
    assert (node.connections, node.opened, node.in_flight, node.waiting) == (2, 2, 3, 1)
    held.answer_from_now_on()
    assert ends(*calls) == [b"a", b"b", b"c"]


def test_many_callers_open_one_lane_and_a_killed_one_does_not_abort_it(held, open_lanes, purposes):
    cluster = open_lanes()
    calls = [begin(cluster, "SET", f"k{number}", LONG) for number in range(10)]
    gevent.sleep(0)
    calls[0].kill()
    assert ends(*calls[1:]) == [b"k%d" % number for number in range(1, 10)]
    assert purposes == ["multiplexed", "bulk"]


@pytest.mark.parametrize("lanes", [1, 3])
def test_one_greenlet_keeps_to_one_lane(held, open_lanes, purposes, lanes):
    cluster = open_lanes(lanes=lanes)

    def ask(name: int) -> None:
        for number in range(5):
            cluster.execute("GET", f"{name}", bulk=None if number % 2 else False)

    gevent.joinall([gevent.spawn(ask, name) for name in range(40)], raise_error=True)
    ways = [set(over(held.node, b"GET", b"%d" % name)) for name in range(40)]
    assert {len(each) for each in ways} == {1}
    assert len(set.union(*ways)) == lanes  # 40 greenlets miss one of three once in 10 million runs
    assert purposes == ["multiplexed"] * lanes
    assert cluster.statistics().nodes[0].connections == lanes


def test_a_pipeline_goes_by_the_lane_of_who_executes_it_though_others_open_it_and_send_again(held, open_lanes):
    cluster = open_lanes(lanes=4)

    def ask(name: str) -> None:
        held.node.on("DEL", b"-TRYAGAIN not yet\r\n", times=1)
        with cluster.pipeline(retry="safe") as pipe:
            pipe.append("DEL", name)
            pipe.execute(raise_errors=True)
        cluster.execute("GET", name)

    for number in range(10):
        cluster.close_idle()
        gevent.spawn(ask, f"k{number}").get(timeout=10)
        ways = [each.connection for each in held.node.received if each.args[1:2] == [b"k%d" % number]]
        assert (len(ways), len(set(ways))) == (3, 1)


@pytest.mark.parametrize("options", [{"lanes": 1}, {"lanes": 3}])
def test_close_idle_closes_the_lanes_on_which_nothing_is_in_flight(held, connect, options):
    cluster = connect(**options)
    waits = begin(cluster, "GET", "a", bulk=True)
    held.wait_for(1)
    assert cluster.close_idle() == 1
    assert cluster.statistics().nodes[0].connections == 1
    held.answer_from_now_on()
    assert ends(waits) == [b"a"]
    assert cluster.close_idle() == 1
    assert cluster.execute("SET", "b", LONG) == b"b"
    assert cluster.statistics().nodes[0].connections == 1


def test_disconnect_lets_end_what_is_under_way_on_every_lane(held, connect):
    cluster = connect()
    calls = [begin(cluster, "GET", "a"), begin(cluster, "SET", "b", LONG)]
    held.wait_for(2)
    ended = gevent.spawn(cluster.disconnect)
    gevent.sleep(0.02)
    assert not ended.ready()
    held.answer(1)
    gevent.sleep(0.02)
    assert not ended.ready()
    held.answer(1)
    assert sorted(ends(*calls)) == [b"a", b"b"]
    ended.get(timeout=10)
    held.node.wait_until(lambda: held.node.connections.open == 0)


def test_close_ends_every_lane(held, connect):
    cluster = connect(lanes=2)
    calls = [begin(cluster, "GET", f"k{number}") for number in range(10)] + [begin(cluster, "SET", "b", LONG)]
    held.wait_for(11)
    assert cluster.statistics().nodes[0].connections == 3
    cluster.close()
    assert {type(error) for error in ends(*calls)} == {ClosedError}
    held.node.wait_until(lambda: held.node.connections.open == 0)


def test_a_lane_that_is_lost_takes_no_other_with_it_and_is_opened_anew(held, connect, lost):
    cluster = connect()
    hold = held.node.override
    held.node.override = lambda node, connection, args: Close() if args[0] == b"SET" else hold(node, connection, args)
    calls = [begin(cluster, "GET", "a"), begin(cluster, "SET", "b", LONG)]
    held.wait_for(1)
    assert type(ends(calls[1])[0]) is ConnectionLost
    assert len(lost) == 1
    held.answer_from_now_on()
    assert ends(calls[0]) == [b"a"]
    assert cluster.execute("SET", "b", LONG) == b"b"
    assert accepted(held.node.cluster) == 3


def test_a_command_timeout_that_is_changed_counts_for_every_lane(held, connect, lost):
    cluster = connect()
    calls = [begin(cluster, "GET", "a"), begin(cluster, "SET", "b", LONG)]
    held.wait_for(2)
    cluster.command_timeout = 0.05
    ends(*calls, *[begin(cluster, "GET", "c", bulk=way) for way in (True, False)])
    held.node.wait_until(lambda: len(lost) >= 2)
    assert [type(error) for error in lost[:2]] == [TimeoutError, TimeoutError]


def test_the_lanes_of_a_node_that_has_left_the_map_are_closed_when_nothing_is_in_flight_on_them(fake, make):
    node, other = fake.nodes[:2]
    cluster = make(str(other.address))
    key = fake.key_at(node)
    cluster.execute("GET", key)
    owed = []
    node.on("SET", lambda _node, connection, _args: owed.append(connection))
    writing = begin(cluster, "SET", key, LONG)
    node.wait_until(lambda: owed)
    assert node.connections.open == 2
    ((first, last, _), *others) = fake.slot_ranges()
    for each in fake.nodes[1:]:
        each.on("CLUSTER SLOTS", encode_reply([[first, last, others[0][2]], *others]))
    cluster.refresh()
    node.wait_until(lambda: node.connections.open == 1)
    assert not writing.ready()
    owed[0].send(b"+OK\r\n")
    assert ends(writing) == [b"OK"]
    node.wait_until(lambda: node.connections.open == 0)


def test_a_large_call_follows_a_redirect_over_the_lane_for_large_ones(fake, make):
    purposes: list[tuple[Any, str]] = []
    cluster = make(on_connect=lambda connection, error: purposes.append((connection.address, connection.purpose)))
    cluster.connect()
    old, new = fake.nodes[:2]
    key = fake.key_at(old)
    cluster.execute("GET", fake.key_at(new))
    fake.begin_migration(hash_slot(key), new)
    assert cluster.execute("SET", key, LONG) == b"OK"
    assert new.data[key.encode()] == LONG
    assert [purpose for address, purpose in purposes if address == new.address] == ["multiplexed", "bulk"]
    asking = over(new, b"ASKING")
    assert asking == over(new, b"SET")
    assert asking != over(new, b"GET")


def test_a_cluster_that_is_dropped_closes_every_lane(one_node, connect_to, protocol):
    cluster = Cluster(one_node.seeds, protocol=protocol, lanes=2)
    gevent.joinall([gevent.spawn(cluster.execute, "GET", f"k{number}") for number in range(40)])
    cluster.execute("SET", "a", LONG)
    node = one_node.nodes[0]
    assert node.connections.open == 3
    with pytest.warns(ResourceWarning, match="dropped without close"):
        del cluster
    node.wait_until(lambda: node.connections.open == 0)


def test_a_forked_child_lets_all_lanes_go(held, open_lanes):
    cluster = open_lanes()
    cluster.execute("SET", "a", LONG)
    cluster.execute("GET", "a")
    (pool,) = cluster._executor_here().runtime.nodes.pools.values()
    numbers = [lane.peer.socket.fileno() for lane in (pool.lane_for(True), pool.lane_for(False))]
    sockets = {os.readlink(f"/proc/self/fd/{number}") for number in numbers}  # numbers are used again, these are not
    child = os.fork()
    if not child:
        status = 0
        for number in numbers:
            with contextlib.suppress(OSError):
                status |= os.readlink(f"/proc/self/fd/{number}") in sockets
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cluster.execute("SET", "b", LONG) == b"b"
    assert cluster.execute("GET", "b") == b"b"


# -- replies that are large -------------------------------------------------------------------------------------------


@pytest.fixture
def huge(held):
    """The node answers GET huge with a long value, or what `replies` has instead, and other calls with their key."""
    replies = {b"huge": bulk(HUGE)}
    held.answer_from_now_on()
    answer = held.node.override

    def answer_or_huge(node, connection, args):
        if args[0] == b"GET" and args[1] in replies:
            return replies[args[1]]
        return answer(node, connection, args)

    held.node.override = answer_or_huge
    return replies


@pytest.mark.parametrize("options", [{}, {"timeout": 5.0}])
def test_who_had_a_large_reply_goes_by_the_other_lane_as_long_as_its_replies_are_large(held, huge, connect, options):
    cluster = connect()
    for _ in range(3):
        assert cluster.execute("GET", "huge", **options) == HUGE
        assert cluster.execute("GET", "small", **options) == b"small"
    huge[b"huge"] = bulk(b"not any more")
    for _ in range(3):
        assert cluster.execute("GET", "huge", **options) == b"not any more"
    small = over(held.node, b"GET", b"small")
    ways = [way in small for way in over(held.node, b"GET", b"huge")]
    assert ways == [True, False, False, False, True, True]
    assert len(set(small)) == 1


def test_who_says_that_it_is_not_large_stays(held, huge, connect):
    cluster = connect()
    for _ in range(3):
        assert cluster.execute("GET", "huge", bulk=False) == HUGE
    assert accepted(held.node.cluster) == 1


def test_a_large_reply_to_one_that_left_is_remembered(held, huge, connect):
    cluster = connect()
    del huge[b"huge"]
    held.node.override = held._hold
    left = begin(cluster, "GET", "huge")
    held.wait_for(1)
    left.kill()
    held.owed = [(connection, bulk(HUGE)) for connection, _ in held.owed]
    held.answer_from_now_on()
    assert cluster.execute("GET", "small") == b"small"
    assert cluster.execute("GET", "huge") == b"huge"
    assert over(held.node, b"GET", b"huge")[1] != over(held.node, b"GET", b"small")[0]


def test_what_is_remembered_has_an_end():
    large = LargeReplies()
    for number in range(MOST + 10):
        large.note(b"%d" % number)
    large.note(b"x" * (LONGEST + 1))
    assert len(large.known) == MOST
    assert not large.is_large(b"9")
    assert large.is_large(b"10")
    assert large.is_large(b"%d" % (MOST + 9))


def test_a_reply_that_was_seen_to_be_large_since_the_call_began_is_not_forgotten():
    large = LargeReplies()
    large.note(b"a")
    large.forget(b"a", large.known[b"a"])
    assert large.is_large(b"a")
    large.forget(b"a", large.known[b"a"] + 1)
    large.forget(b"b", 1.0)
    assert not large.is_large(b"a")


def test_a_block_of_a_pipeline_with_a_large_command_in_it_goes_by_the_large_lane_as_a_whole(held, open_lanes, purposes):
    cluster, node = open_lanes(), held.node
    cluster.execute("GET", "a")
    with cluster.pipeline() as pipe:
        for args in (("SET", "b", "v"), ("SET", "c", LONG), ("GET", "d")):
            pipe.append(*args)
        assert pipe.execute() == [b"b", b"c", b"d"]
        pipe.append("GET", "e")
        assert pipe.execute() == [b"e"]
    assert purposes == ["multiplexed", "bulk"]
    (first,), (second,) = over(node, b"GET", b"a"), over(node, b"SET", b"c")
    assert first != second
    assert over(node, b"SET", b"b") + over(node, b"GET", b"d") == [second] * 2
    assert over(node, b"GET", b"e") == [first]


def test_of_several_lanes_all_submitted_commands_take_the_same_one(held, open_lanes):
    cluster = open_lanes(lanes=4)
    others = []
    for number in range(30):
        assert cluster.submit("SET", "k", number).get(timeout=5) == b"k"
        others.append(gevent.spawn(gevent.sleep, 60))  # where a greenlet was that has ended
    gevent.killall(others)
    assert len(set(over(held.node, b"SET"))) == 1
