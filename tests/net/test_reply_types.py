"""Every type of reply, and what is none: with three calls in flight, each gets its own or an error."""

import math

import pytest
from calls import accepted, begin, bulk, ends

from gvcluster import ConnectionLost, ProtocolError, ReplyTimeout

SOON = 0.05  # a command_timeout, seconds


REPLIES = [
    (b"#f\r\n", False),
    (b"#t\r\n", True),
    (b"_\r\n", None),
    (b"$-1\r\n", None),
    (b",1.5\r\n", 1.5),
    (b",-inf\r\n", -math.inf),
    (b"(36893488147419103232\r\n", b"36893488147419103232"),
    (b"~2\r\n+a\r\n#f\r\n", [b"a", False]),
    (b"%2\r\n+a\r\n#f\r\n:1\r\n_\r\n", {b"a": False, 1: None}),
    (b"*0\r\n", []),
    (b"*2\r\n#f\r\n*1\r\n_\r\n", [False, [None]]),
    (b"=7\r\ntxt:abc\r\n", b"abc"),
    (b"$0\r\n\r\n", b""),
    (b":0\r\n", 0),
    (b"+\r\n", b""),
    (b">2\r\n+message\r\n+pushed\r\n+reply\r\n", b"reply"),
    (b"+reply\r\n>3\r\n+a\r\n#f\r\n_\r\n", b"reply"),
    (b">1\r\n#f\r\n>1\r\n_\r\n+reply\r\n>0\r\n", b"reply"),
    (b"|1\r\n+ttl\r\n:3600\r\n+reply\r\n", b"reply"),
]


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(("data", "value"), REPLIES)
def test_with_three_calls_in_flight_each_type_of_reply_is_one_reply(held, connect, data, value, step):
    cluster = connect(protocol=3)
    calls = [begin(cluster, "GET", key) for key in ("before", "it", "after")]
    held.wait_for(3)
    connection, stream = held.owed[0][0], bulk(b"before") + data + bulk(b"after")
    connection.send_in_pieces(stream, step or len(stream))
    outcomes = ends(*calls)
    assert outcomes == [b"before", value, b"after"]
    assert type(outcomes[1]) is type(value)
    assert cluster.statistics().nodes[0].in_flight == 0


def test_an_error_reply_among_others_is_only_its_callers(held, connect):
    cluster = connect()
    calls = [begin(cluster, "GET", key) for key in ("before", "it", "after")]
    held.wait_for(3)
    held.owed[1] = (held.owed[1][0], b"-WRONGTYPE Operation against a key\r\n")
    held.answer()
    before, error, after = ends(*calls)
    assert (before, error.code, after) == (b"before", "WRONGTYPE", b"after")
    assert accepted(held.node.cluster) == 1


@pytest.mark.parametrize(
    "data",
    [b"garbage\r\n", b"$x\r\n", b"%1\r\n*1\r\n:1\r\n:1\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"!5\r\nERR x\r\n"],
)
def test_bytes_that_are_no_reply_end_the_connection_and_may_have_been_an_answer(held, connect, lost, data):
    cluster = connect(protocol=3)
    calls = [begin(cluster, "INCR", key) for key in ("before", "it", "after")]
    held.wait_for(3)
    held.owed[0][0].send(bulk(b"before") + data + bulk(b"after"))
    before, *errors = ends(*calls)
    assert before == b"before"
    assert [type(error) for error in errors] == [ConnectionLost] * 2
    assert all(error.maybe_executed and type(error.__cause__) is ProtocolError for error in errors)
    assert type(lost[0]) is ProtocolError
    held.answer_from_now_on()
    assert cluster.execute("GET", "next") == b"next"
    assert accepted(held.node.cluster) == 2


def test_a_reply_that_nobody_asked_for_ends_the_connection(held, connect, lost):
    cluster = connect()
    call = begin(cluster, "GET", "a")
    held.wait_for(1)
    held.owed[0][0].send(bulk(b"a") + b"+more\r\n")
    assert ends(call) == [b"a"]
    held.node.wait_until(lambda: held.node.connections.open == 0)
    assert type(lost[0]) is ProtocolError
    assert "nobody asked" in str(lost[0])
    held.answer_from_now_on()
    assert cluster.execute("GET", "next") == b"next"
    assert accepted(held.node.cluster) == 2


def test_pushes_to_an_idle_connection_do_nothing(one_node, connect, lost):
    connections = []
    one_node.on(0, "GET", lambda _node, connection, args: connections.append(connection) or bulk(args[1]))
    cluster = connect(protocol=3)
    cluster.execute("GET", "warm")
    connections[0].send(b">2\r\n+invalidate\r\n*1\r\n+k\r\n" * 50)
    assert cluster.execute("GET", "next") == b"next"
    assert (accepted(one_node), lost) == (1, [])


def test_pushes_are_no_replies_also_where_they_come_in_place_of_one(held, connect):
    cluster = connect(protocol=3, command_timeout=SOON * 2)
    call = begin(cluster, "GET", "a")
    held.wait_for(1)
    held.owed[0][0].send(b">1\r\n+push\r\n")
    (error,) = ends(call)
    assert type(error) in (ReplyTimeout, ConnectionLost)
    assert error.maybe_executed
