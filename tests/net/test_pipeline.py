"""Pipelines on a good day: what is sent when, in how many writes, and in which order the replies come."""

from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from gvcluster import (
    BlockedInHub,
    ClosedError,
    ConfigError,
    CrossSlot,
    NoKey,
    PartialFailure,
    Pipeline,
    ReplyError,
    ReplyTimeout,
    StatefulCommand,
    UnknownCommand,
)
from gvcluster.testing.answers import NOT_HANDLED


def keys_of(fake: Any, count: int = 2) -> list[list[str]]:
    """Keys of each node."""
    return [[fake.key_at(node, f"{letter}:") for letter in "abcdefgh"[:count]] for node in fake.nodes]


def works(fake: Any) -> list[int]:
    return [len(node.work()) for node in fake.nodes]


@contextmanager
def switches_of(greenlet_id: list[int]):
    """Count how often a greenlet is switched to."""
    import greenlet

    counted: list[Any] = []

    def note(event: str, arguments: Any) -> None:
        if event == "switch" and greenlet_id and id(arguments[1]) == greenlet_id[0]:
            counted.append(arguments)

    before = greenlet.settrace(note)
    try:
        yield counted
    finally:
        greenlet.settrace(before)


def test_replies_come_in_the_order_of_the_commands_whichever_node_gave_them(fake, cluster):
    keys = [key for pair in zip(*keys_of(fake), strict=True) for key in pair]
    pipe = cluster.pipeline()
    for number, key in enumerate(keys):
        pipe.append("SET", key, number)
    for key in reversed(keys):
        pipe.append("GET", key)
    assert len(pipe) == 12
    expected = [b"OK"] * 6 + [b"%d" % number for number in reversed(range(6))]
    assert pipe.execute() == expected
    assert len(pipe) == 0
    assert works(fake) == [4, 4, 4]
    assert (cluster.statistics().redirects, cluster.statistics().retries) == (0, 0)
    assert [node.connections.accepted for node in fake.nodes] == [1, 1, 1]


def test_nothing_is_sent_before_the_first_get_reply_or_execute(fake, cluster):
    pipe = cluster.pipeline()
    key = fake.key_at(fake.nodes[0])
    pipe.append("SET", key, "v")
    gevent.sleep(0.01)
    assert works(fake) == [0, 0, 0]
    assert pipe.get_reply() == b"OK"
    assert works(fake) == [1, 0, 0]


def test_get_reply_hands_out_one_after_the_other_and_raises_the_errors_in_their_turn(fake, cluster):
    pipe = cluster.pipeline()
    for key in "abc":
        pipe.append("SET", key, key)
    pipe.append("INCR", "a")
    pipe.append("GET", "b")
    assert [pipe.get_reply() for _ in range(3)] == [b"OK"] * 3
    with pytest.raises(ReplyError, match="not an integer"):
        pipe.get_reply()
    pipe.append("GET", "c")  # not sent before its turn has come
    assert len(pipe) == 2
    assert sum(works(fake)) == 5
    assert [pipe.get_reply(), pipe.get_reply()] == [b"b", b"c"]
    assert sum(works(fake)) == 6
    with pytest.raises(ConfigError, match="append a command first"):
        pipe.get_reply()


def test_execute_returns_what_get_reply_has_left_and_sends_the_rest(fake, cluster):
    pipe = cluster.pipeline()
    pipe.append("SET", "a", "1")
    pipe.append("GET", "a")
    assert pipe.get_reply() == b"OK"
    pipe.append("INCR", "a")
    assert pipe.execute() == [b"1", 2]
    assert pipe.execute() == []
    assert sum(works(fake)) == 3


def test_nil_is_a_reply_like_any_other(fake, cluster):
    pipe = cluster.pipeline()
    pipe.append("GET", "nothing")
    pipe.append("GET", "nothing")
    assert pipe.get_reply() is None
    assert pipe.execute() == [None]


def test_a_node_gets_all_its_commands_before_it_has_answered_one_and_all_nodes_at_once(fake, cluster):
    held: list[Any] = []
    for node in fake.nodes:
        node.override = lambda node, connection, args: (
            held.append((connection, args[1])) if args[0] == b"GET" else (NOT_HANDLED)
        )
    pipe = cluster.pipeline()
    expected = []
    for keys in keys_of(fake):
        for key in keys:
            pipe.append("GET", key)
            expected.append(key.encode())
    executing = gevent.spawn(pipe.execute)
    for node in fake.nodes:
        node.wait_until(lambda: len(held) == 6)
    for connection, key in held:
        connection.send(b"$%d\r\n%b\r\n" % (len(key), key))
    assert executing.get(timeout=5) == expected


def test_the_commands_for_a_node_are_one_write_that_nobody_gets_into(fake, make):
    """Others write to the same connection all the time; what the pipeline sends stays together."""
    node = fake.nodes[0]
    cluster = make()
    key = fake.key_at(node)
    cluster.execute("GET", key)

    def interfere() -> None:
        while True:
            cluster.execute("GET", key)

    others = [gevent.spawn(interfere) for _ in range(5)]
    for _ in range(5):
        node.received.clear()
        with gevent.Timeout(5):
            while len(node.work()) < 10:  # the others are at it
                gevent.sleep(0.001)
        pipe = cluster.pipeline()
        for number in range(200):
            pipe.append("SET", key, number)
        assert pipe.execute() == [b"OK"] * 200
        names = [args[0] for args in node.work()]
        first = names.index(b"SET")
        assert names[first : first + 200] == [b"SET"] * 200
        assert names.count(b"GET") > 0
    gevent.killall(others)


def test_the_caller_is_woken_once_however_many_nodes_and_commands_there_are(fake, cluster):
    pipe = cluster.pipeline()
    for keys in keys_of(fake, 4):
        for key in keys:
            cluster.execute("SET", key, "v")
            pipe.append("GET", key)
    me: list[int] = []

    def execute() -> list[Any]:
        me.append(id(gevent.getcurrent()))
        return pipe.execute()

    greenlet = gevent.spawn(execute)
    with switches_of(me) as woken:
        replies = greenlet.get(timeout=5)
    assert replies == [b"v"] * 12
    assert len(woken) == 1


def test_a_block_counts_as_one_call_in_flight_and_as_many_commands(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("GET", key)
    before = cluster.statistics().commands
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    pipe = cluster.pipeline()
    for _ in range(10):
        pipe.append("SET", key, "v")
    executing = gevent.spawn(pipe.execute)
    node.wait_until(lambda: len(held) == 10)
    assert [each.in_flight for each in cluster.statistics().nodes if each.address == node.address] == [1]
    held[0].send(b"+OK\r\n" * 10)
    assert executing.get(timeout=5) == [b"OK"] * 10
    assert cluster.statistics().commands - before == 10


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), ConfigError),
        (("",), ConfigError),
        (("GET",), ConfigError),
        (("SET", "k", None), ConfigError),
        (("SET", "k", True), ConfigError),
        (("MGET", "a", "b"), CrossSlot),
        (("DBSIZE",), NoKey),
        (("NO-SUCH-COMMAND", "k"), UnknownCommand),
        (("MULTI",), StatefulCommand),
        (("SELECT", "1"), StatefulCommand),
        (("ASKING",), StatefulCommand),
        (("SUBSCRIBE", "c"), StatefulCommand),
        (("BLPOP", "k", 0), ConfigError),
        (("XREAD", "BLOCK", 0, "STREAMS", "k", "$"), ConfigError),
    ],
)
def test_what_makes_no_sense_in_a_pipeline_is_refused_at_once_and_the_rest_stays(fake, cluster, args, error):
    pipe = cluster.pipeline()
    pipe.append("SET", "k", "v")
    with pytest.raises(error):
        pipe.append(*args)
    with pytest.raises(error):
        pipe.append(*args)
    questions = sum(len(node.commands("COMMAND INFO")) for node in fake.nodes)
    assert (sum(works(fake)), questions) == ((2, 2) if error is UnknownCommand else (0, 0))
    pipe.append("GET", "k")
    assert pipe.execute() == [b"OK", b"v"]


@pytest.mark.parametrize("options", [{"timeout": 1}, {"nod": "a:1"}, {"retry": "safe"}, {"command_timeout": 3}])
def test_an_option_that_a_command_of_a_pipeline_does_not_have_is_refused(cluster, options):
    with pytest.raises(ConfigError, match="unknown option"):
        cluster.pipeline().append("GET", "k", **options)
    with pytest.raises(ConfigError):
        cluster.pipeline(node="a:1")
    with pytest.raises(ConfigError):
        cluster.pipeline(timeout=0)


def test_node_names_the_only_one_that_gets_the_command_and_no_redirect_is_followed(fake, cluster):
    here, there = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(there)
    pipe = cluster.pipeline()
    pipe.append("SET", key, "v")
    pipe.append("GET", key, node=str(here.address))
    pipe.append("DBSIZE", node=here.address)
    pipe.append("ECHO", "x", node=here.address)
    stored, moved, unknown, echoed = pipe.execute()
    assert (stored, echoed) == (b"OK", b"x")
    assert moved.code == "MOVED"
    assert "unknown command" in str(unknown)
    assert cluster.statistics().redirects == 0
    assert works(fake) == [3, 1, 0]


def test_route_key_chooses_the_node_and_commands_without_a_key_go_together(fake, cluster):
    node = fake.nodes[2]
    pipe = cluster.pipeline()
    pipe.append("ECHO", "a", route_key=fake.key_at(node))
    pipe.append("ECHO", "b", route_key=fake.key_at(node))
    assert pipe.execute() == [b"a", b"b"]
    assert works(fake) == [0, 0, 2]
    pipe.append("ECHO", "c")
    pipe.append("ECHO", "d")
    assert pipe.execute() == [b"c", b"d"]
    assert sorted(works(fake))[:1] == [0]


def test_raise_errors_raises_what_has_all_results_because_of_the_first(fake, cluster):
    pipe = cluster.pipeline()
    pipe.append("SET", "a", "x")
    pipe.append("INCR", "a")
    pipe.append("GET", "a")
    pipe.append("GET", "a", "too many", node=fake.nodes[0].address)
    with pytest.raises(PartialFailure, match=r"2 of 4 commands failed; .*not an integer") as caught:
        pipe.execute(raise_errors=True)
    assert caught.value.results[::2] == (b"OK", b"x")
    assert caught.value.__cause__ is caught.value.results[1]
    assert caught.value.maybe_executed
    assert len(pipe) == 0
    pipe.append("INCR", "a")
    with pytest.raises(PartialFailure) as caught:
        pipe.execute(raise_errors=True)
    assert not caught.value.maybe_executed
    pipe.append("GET", "a")
    assert pipe.execute(raise_errors=True) == [b"x"]


def test_reset_and_the_end_of_with_forget_everything_and_send_nothing(fake, cluster):
    pipe = cluster.pipeline()
    pipe.append("SET", "a", "1")
    pipe.append("SET", "b", "2")
    pipe.get_reply()
    pipe.append("SET", "c", "3")
    pipe.reset()
    assert len(pipe) == 0
    assert pipe.execute() == []
    with pipe as same:
        assert same is pipe
        pipe.append("SET", "d", "4")
    assert (len(pipe), pipe.execute()) == (0, [])
    assert {key for node in fake.nodes for key in node.data} == {b"a", b"b"}


def test_two_greenlets_at_once_are_an_error_and_do_no_harm(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    pipe = cluster.pipeline()
    pipe.append("SET", key, "v")
    executing = gevent.spawn(pipe.execute)
    node.wait_until(lambda: held)
    for use in (pipe.execute, pipe.get_reply, pipe.reset, lambda: pipe.append("GET", key)):
        with pytest.raises(ConfigError, match="pipeline of its own"):
            use()
    held[0].send(b"+OK\r\n")
    assert executing.get(timeout=5) == [b"OK"]
    pipe.append("GET", key)
    assert pipe.execute() == [None]


def test_a_pipeline_makes_the_first_connection_too(fake, make):
    cluster = make()
    pipe = cluster.pipeline()
    for keys in keys_of(fake):
        for key in keys:
            pipe.append("SET", key, "v")
    assert pipe.execute() == [b"OK"] * 6
    assert [node.connections.accepted for node in fake.nodes] == [1, 1, 1]


def test_in_the_hub_and_after_the_end_it_is_refused_before_a_byte_is_sent(fake, cluster):
    pipe = cluster.pipeline()
    pipe.append("SET", "k", "v")
    met: list[Any] = []

    def in_hub() -> None:
        try:
            pipe.execute()
        except Exception as error:
            met.append(error)

    get_hub().loop.run_callback(in_hub)
    gevent.sleep(0.01)
    assert isinstance(met[0], BlockedInHub)
    assert len(pipe) == 1
    cluster.close()
    with pytest.raises(ClosedError):
        pipe.execute()
    assert sum(works(fake)) == 0


def test_a_pipeline_keeps_its_cluster(fake, make):
    import gc

    from gvcluster import Cluster

    pipe = Cluster(fake.seeds, client_info=False).pipeline()
    gc.collect()
    pipe.append("SET", "k", "v")
    assert pipe.execute() == [b"OK"]
    pipe._here.__self__.close()  # type: ignore[attr-defined]


def test_its_repr_tells_what_is_to_be_done(cluster):
    pipe = cluster.pipeline()
    assert isinstance(pipe, Pipeline)
    pipe.append("SET", "k", "secret")
    assert repr(pipe) == "<Pipeline 1 commands to send, 0 replies to fetch>"


def test_an_argument_is_taken_as_it_was_when_it_was_appended(fake, cluster):
    pipe = cluster.pipeline()
    value = bytearray(b"before")
    pipe.append("SET", "k", value)
    value[:] = b"after!"
    pipe.append("GET", "k")
    assert pipe.execute() == [b"OK", b"before"]


def test_one_deadline_covers_the_execution(fake, make):
    cluster = make()
    cluster.connect()
    for node in fake.nodes:
        node.on("SET", None)
        node.on("INCR", None)
    pipe = cluster.pipeline(timeout=0.1)
    for keys in keys_of(fake):
        pipe.append("SET", keys[0], "v")
        pipe.append("INCR", keys[1])
    with gevent.Timeout(3):
        replies = pipe.execute()
    assert [type(reply) for reply in replies] == [ReplyTimeout] * 6
    assert [reply.maybe_executed for reply in replies] == [True] * 6


def test_a_pipeline_of_many_thousand_commands_is_answered(fake, cluster):
    pipe = cluster.pipeline()
    value = "x" * 200
    for number in range(6000):
        pipe.append("SET", f"k{number % 50}", value)
    assert pipe.execute() == [b"OK"] * 6000
    assert sum(works(fake)) == 6000


def test_commands_can_be_written_as_printf_does(fake, cluster):
    pipe = cluster.pipeline()
    pipe.append_command("SET %s:%d %b", "user", 7, b"a b\r\nc")
    pipe.append_command("GET user:%d", 7)
    pipe.append_command("ECHO %s", "x", node=fake.nodes[1].address)
    for format, values in (("GET %d", ("no int",)), ("GET %s", ()), ("", ()), ("BLPOP k %d", (0,))):
        with pytest.raises(ConfigError):
            pipe.append_command(format, *values)
    assert pipe.execute() == [b"OK", b"a b\r\nc", b"x"]
    assert len(fake.nodes[1].commands("ECHO")) == 1
