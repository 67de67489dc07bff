"""One connection, shared by all: who is sent, who is woken, and by what, on good days and on bad ones."""

import gc
import os
import socket
import struct
import sys
import time
from socket import IPPROTO_TCP, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, TCP_INFO
from typing import Any

import gevent
import gevent.subprocess
import pytest
from calls import accepted, begin, bulk, ends, outcome
from gevent.event import Event
from gevent.exceptions import InvalidSwitchError
from gevent.hub import get_hub
from gevent.monkey import get_original
from greenlet import greenlet as raw_greenlet

from gvcluster import BlockedInHub, ClosedError, ConnectionLost, ReplyTimeout
from gvcluster.testing.answers import Delay, Pieces
from gvcluster.testing.fake_connection import FakeConnection

SOON = 0.05  # a command_timeout, seconds
BIG = b"x" * (8 << 20)  # more than the kernel takes while nobody reads; with bulk=False it is one connection's matter


def small_buffer(connection: Any, error: object) -> None:
    """An on_connect that makes partial sends likely."""
    connection.socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)


# -- sending ----------------------------------------------------------------------------------------------------------


def segments_sent(connection: Any) -> int:
    """How many segments with data have left, by the kernel's count. Small writes are one each: TCP_NODELAY is on."""
    (count,) = struct.unpack_from("I", connection.socket.getsockopt(IPPROTO_TCP, TCP_INFO, 256), 156)
    return int(count)


def test_commands_of_many_greenlets_leave_in_one_write_and_a_lone_one_at_once(held, connect):
    opened = []
    cluster = connect(on_connect=lambda connection, error: opened.append(connection))
    held.answer_from_now_on()
    cluster.execute("GET", "warm")
    before = segments_sent(opened[0])
    first = begin(cluster, "GET", "a0")
    rest = [begin(cluster, "GET", f"a{n}") for n in range(1, 100)]
    assert ends(first, *rest) == [b"a%d" % n for n in range(100)]
    # The first may go by itself; all that are queued in the same turn of the loop go together.
    assert segments_sent(opened[0]) - before <= 2
    cluster.execute("GET", "alone")
    assert segments_sent(opened[0]) - before <= 3
    assert len(opened) == 1


def test_commands_are_sent_in_the_order_in_which_they_were_queued(held, connect):
    cluster = connect()
    held.answer_from_now_on()
    calls = [begin(cluster, "SET", f"k{n}", b"v" * (n * 777 % 50_000)) for n in range(200)]
    assert ends(*calls) == [b"k%d" % n for n in range(200)]
    assert [args[1] for args in held.node.commands("SET")] == [b"k%d" % n for n in range(200)]


@pytest.mark.parametrize(("on_connect", "size"), [(None, len(BIG)), (small_buffer, 300_000)])
def test_large_values_are_sent_in_parts_and_in_order_with_small_ones(held, connect, on_connect, size):
    cluster, large = connect(on_connect=on_connect), BIG[:size]
    held.answer_from_now_on()
    calls = []
    for n in range(3):
        calls += [begin(cluster, "GET", f"small{n}"), begin(cluster, "SET", f"large{n}", large + b"%d" % n, bulk=False)]
    calls.append(begin(cluster, "GET", "last"))
    names = [b"small0", b"large0", b"small1", b"large1", b"small2", b"large2", b"last"]
    assert ends(*calls, within=5) == names
    sent = [args for _, args in held.node.received if args[0] in (b"GET", b"SET")]
    assert [args[1] for args in sent] == names
    assert [args[2] for args in sent if args[0] == b"SET"] == [large + b"%d" % n for n in range(3)]
    assert accepted(held.node.cluster) == 1


@pytest.mark.parametrize("leave", ["kill", "timeout"])
def test_a_call_that_leaves_before_its_first_byte_was_sent_is_never_sent(held, connect, leave):
    cluster = connect()
    held.answer_from_now_on()
    held.node.freeze()
    large = begin(cluster, "SET", "large", BIG, bulk=False)
    gevent.sleep(0)  # what follows is queued behind what the kernel does not take
    calls = [begin(cluster, "INCR", f"k{n}") for n in range(5)]
    if leave == "timeout":
        calls[2] = gevent.spawn(lambda: gevent.with_timeout(0.001, outcome, cluster, "INCR", "left"))
        assert isinstance(ends(calls[2])[0], gevent.Timeout)
        keys = [b"large", b"k0", b"k1", b"k2", b"k3", b"k4"]
    else:
        gevent.sleep(0)
        calls[2].kill()
        keys = [b"large", b"k0", b"k1", b"k3", b"k4"]
    held.node.thaw()
    assert ends(large)[0] == b"large"
    gevent.joinall(calls)
    assert cluster.execute("GET", "next") == b"next"
    assert [args[1] for _, args in held.node.received if args[0] in (b"SET", b"INCR")] == keys
    assert accepted(held.node.cluster) == 1
    assert cluster.statistics().nodes[0].in_flight == 0


def test_a_call_that_leaves_when_a_part_of_it_was_sent_is_sent_whole_and_its_reply_dropped(held, connect):
    cluster = connect()
    held.answer_from_now_on()
    held.node.freeze()
    large = begin(cluster, "SET", "large", BIG, bulk=False)
    gevent.sleep(0)
    after = begin(cluster, "GET", "after")
    large.kill()
    held.node.thaw()
    assert ends(after) == [b"after"]
    assert [len(args[2]) for args in held.node.commands("SET")] == [len(BIG)]
    assert accepted(held.node.cluster) == 1


def test_a_call_whose_turn_to_be_sent_never_came_says_so(held, connect):
    cluster = connect()
    held.answer_from_now_on()
    held.node.freeze()
    large = begin(cluster, "SET", "large", BIG, bulk=False)
    gevent.sleep(0)
    (error,) = ends(begin(cluster, "INCR", "k", command_timeout=SOON))
    assert type(error) is ReplyTimeout
    assert not error.maybe_executed
    held.node.thaw()
    assert ends(large) == [b"large"]
    assert cluster.execute("GET", "next") == b"next"
    assert held.node.commands("INCR") == []


def test_waiting_behind_a_large_value_costs_the_others_no_copies_of_it(held, connect):
    cluster = connect()
    held.answer_from_now_on()
    held.node.freeze()
    large = [begin(cluster, "SET", f"large{n}", BIG, bulk=False) for n in range(8)]
    gevent.sleep(0)

    def seconds_for_200_turns() -> float:
        began, small = time.process_time(), []
        for n in range(200):
            small.append(begin(cluster, "GET", f"small{n}"))
            gevent.sleep(0)
        took = time.process_time() - began
        gevent.killall(small)
        return took

    assert seconds_for_200_turns() < 0.5  # copying 64 MiB takes 10 ms and more, at each turn
    gevent.killall(large)


def test_replies_of_many_full_reads_hold_up_others_for_one_turn_only(held, connect):
    cluster = connect(on_connect=lambda peer, error: peer.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1 << 20))
    calls, size = 600, 3000  # some twenty fill the buffer: fewer than are woken between two looks
    in_a_row = [0]

    def count() -> None:
        cluster.execute("GET", "k")
        in_a_row[-1] += 1
        get_original("time", "sleep")(0.0005)  # work: it holds up the hub

    def others() -> None:
        while in_a_row[-1] is not None:
            gevent.sleep(0)
            in_a_row.append(0)

    greenlets = [gevent.spawn(count) for _ in range(calls)]
    held.wait_for(calls)
    gevent.sleep(0.01)
    other = gevent.spawn(others)
    connection = held.owed[0][0]
    connection.send(b"$%d\r\n%b\r\n" % (size, b"x" * size) * calls)
    ends(*greenlets, within=10)
    other.kill()
    assert all(greenlet.successful() for greenlet in greenlets)
    assert sum(in_a_row) == calls
    assert max(in_a_row) <= 64


# -- leaving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["kill", "timeout", "command_timeout"])
def test_the_reply_of_a_call_that_left_is_dropped_and_the_next_call_gets_its_own(held, connect, leave):
    cluster = connect()
    if leave == "command_timeout":
        left = begin(cluster, "GET", "left", command_timeout=SOON)
        assert type(ends(left)[0]) is ReplyTimeout
        assert left.value.maybe_executed
    elif leave == "timeout":
        left = gevent.spawn(lambda: gevent.with_timeout(SOON, cluster.execute, "GET", "left", timeout_value="gone"))
        assert ends(left) == ["gone"]
    else:
        left = begin(cluster, "GET", "left")
        held.wait_for(1)
        left.kill()
    after = [begin(cluster, "GET", f"after{n}") for n in range(3)]
    held.wait_for(4)
    held.answer()
    assert ends(*after) == [b"after0", b"after1", b"after2"]
    assert accepted(held.node.cluster) == 1


def test_a_short_deadline_ends_its_call_in_time_behind_a_long_one(held, connect):
    cluster = connect()
    slow = begin(cluster, "GET", "slow", command_timeout=3)
    held.wait_for(1)
    began = time.monotonic()
    (error,) = ends(begin(cluster, "GET", "quick", command_timeout=SOON))
    assert SOON * 0.9 < time.monotonic() - began < 2.5  # the other one's time is 3 s; libuv counts in milliseconds
    assert type(error) is ReplyTimeout
    assert error.maybe_executed
    assert not slow.dead
    held.answer()
    assert ends(slow) == [b"slow"]
    assert accepted(held.node.cluster) == 1


def test_replies_in_pieces_belong_to_whom_they_belonged_whole(one_node, connect):
    one_node.on(0, "GET", lambda _node, _connection, args: Pieces(bulk(args[1] * 9), size=4))
    cluster = connect()
    calls = [begin(cluster, "GET", f"k{n}") for n in range(5)]
    gevent.sleep(0)
    calls[1].kill()
    assert ends(*calls[:1], *calls[2:]) == [b"k%d" % n * 9 for n in (0, 2, 3, 4)]


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_node_that_is_silent_while_it_owes_replies_is_lost_and_asked_for_a_new_map(held, connect, lost):
    cluster = connect(command_timeout=SOON)
    fetched = cluster.statistics().refreshes
    errors = ends(*[begin(cluster, "INCR", f"k{n}") for n in range(3)])
    assert {type(error) for error in errors} <= {ReplyTimeout, ConnectionLost}
    assert all(error.maybe_executed for error in errors)
    held.node.wait_until(lambda: held.node.connections.open < held.node.connections.accepted)
    assert isinstance(lost[0], TimeoutError)
    held.answer_from_now_on()
    assert cluster.execute("GET", "next") == b"next"
    assert accepted(held.node.cluster) == 2
    cluster.refresh()
    assert cluster.statistics().refreshes > fetched
    assert len(held.node.commands("INCR")) == 3


def test_a_node_that_owes_nothing_may_be_silent(held, connect, lost):
    cluster = connect(command_timeout=SOON)
    held.answer_from_now_on()
    assert cluster.execute("GET", "a") == b"a"
    gevent.sleep(SOON * 4)
    assert cluster.execute("GET", "b") == b"b"
    assert (accepted(held.node.cluster), lost) == (1, [])


def test_a_node_that_answers_slowly_but_steadily_is_not_lost(held, connect, lost):
    cluster = connect(command_timeout=0.15)
    calls = [begin(cluster, "GET", f"k{n}") for n in range(8)]
    held.wait_for(8)
    for _ in range(8):  # 0.4 s in all: the later calls are overdue, the node is never silent for long
        gevent.sleep(0.05)
        held.answer(1)
    outcomes = ends(*calls)
    assert outcomes[0] == b"k0"
    assert {type(each) for each in outcomes} == {bytes, ReplyTimeout}
    held.answer_from_now_on()
    assert cluster.execute("GET", "next") == b"next"
    assert (accepted(held.node.cluster), lost) == (1, [])


@pytest.mark.parametrize("options", [{}, {"command_timeout": 0.1}])
def test_f42_a_hub_that_stood_still_while_the_replies_came_times_nobody_out(one_node, connect, options):
    def answer_and_stall(_node: object, connection: FakeConnection, args: list[bytes]) -> None:
        connection.send(bulk(args[1]))
        if args[1] == b"k2":
            time.sleep(0.3)  # holds the hub; the replies are in the kernel already

    one_node.on(0, "GET", answer_and_stall)
    cluster = connect(command_timeout=0.1)
    calls = [begin(cluster, "GET", f"k{n}", **options) for n in range(3)]
    assert ends(*calls) == [b"k0", b"k1", b"k2"]
    assert accepted(one_node) == 1


# -- loss -------------------------------------------------------------------------------------------------------------


def test_only_calls_of_which_the_kernel_took_all_bytes_may_have_run(held, connect):
    cluster = connect()
    whole = begin(cluster, "INCR", "whole")
    held.wait_for(1)
    held.node.freeze()
    partly = begin(cluster, "SET", "partly", BIG, bulk=False)
    gevent.sleep(0)
    unsent = begin(cluster, "INCR", "unsent")
    gevent.sleep(0)
    held.node.reset_connections()
    errors = ends(whole, partly, unsent)
    assert [type(error) for error in errors] == [ConnectionLost] * 3
    assert [error.maybe_executed for error in errors] == [True, False, False]
    held.node.thaw()
    held.answer_from_now_on()
    assert cluster.execute("GET", "next") == b"next"
    assert [args[1] for _, args in held.node.received if args[0] in (b"INCR", b"SET")] == [b"whole"]


@pytest.mark.parametrize("rst", [True, False])
def test_each_waiter_gets_an_exception_of_its_own_with_the_cause(held, connect, lost, rst):
    cluster = connect()
    calls = [begin(cluster, "INCR", f"k{n}") for n in range(3)]
    held.wait_for(3)
    held.node.reset_connections(rst=rst)
    errors = ends(*calls)
    assert {type(error) for error in errors} == {ConnectionLost}
    assert len(set(map(id, errors))) == 3
    for error in errors:
        assert isinstance(error.__cause__, ConnectionError)
        assert error.__cause__ is lost[0]
        assert str(error.address) in str(error)
        assert error.address == held.node.address


def test_a_connection_that_ended_while_it_was_idle_is_replaced_and_the_command_runs_once(one_node, connect):
    connections = []
    one_node.on(0, "GET", lambda _node, connection, args: connections.append(connection) or bulk(args[1]))
    cluster = connect(retry="safe")
    cluster.execute("GET", "warm")
    with socket.socket(fileno=os.dup(connections[0].fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)  # at once; closing a gevent socket takes a turn of the hub
    time.sleep(1.05)  # holds the hub: nobody can have looked before the next write
    assert cluster.execute("INCR", "counter") == 1
    assert len(one_node.nodes[0].commands("INCR")) == 1
    assert accepted(one_node) == 2


def test_closing_the_cluster_tells_all_who_wait(held, connect, lost):
    cluster = connect()
    calls = [begin(cluster, "INCR", f"k{n}") for n in range(3)]
    held.wait_for(3)
    held.node.freeze()
    large = begin(cluster, "SET", "large", BIG, bulk=False)
    gevent.sleep(0)
    unsent = begin(cluster, "INCR", "unsent")
    gevent.sleep(0)
    began = time.monotonic()
    cluster.close()
    errors = ends(*calls, large, unsent)
    assert time.monotonic() - began < 4  # the time of a command is 5 s
    assert {type(error) for error in errors} == {ClosedError}
    assert [error.maybe_executed for error in errors] == [True, True, True, False, False]
    gevent.sleep(0)
    assert lost == [None]


def test_a_cluster_can_be_closed_in_the_hub_and_its_callers_are_told(held, connect):
    cluster = connect()
    call = begin(cluster, "INCR", "k")
    held.wait_for(1)
    get_hub().loop.run_callback(cluster.close)
    assert [type(each) for each in ends(call)] == [ClosedError]


# -- what is switched in ----------------------------------------------------------------------------------------------


def test_what_a_dying_child_greenlet_returns_is_no_reply(held, connect):
    cluster = connect()
    calls = [begin(cluster, "GET", f"k{n}") for n in range(3)]
    held.wait_for(3)
    child = raw_greenlet(lambda: b"not a reply", parent=calls[1])
    get_hub().loop.run_callback(child.switch)
    (error,) = ends(calls[1])
    assert isinstance(error, InvalidSwitchError)
    held.answer()
    assert ends(calls[0], calls[2]) == [b"k0", b"k2"]
    held.answer_from_now_on()
    assert cluster.execute("GET", "next") == b"next"
    assert accepted(held.node.cluster) == 1


@pytest.mark.parametrize("options", [{}, {"command_timeout": 1}])
def test_in_the_hub_a_call_is_refused_and_nothing_is_sent(held, connect, options):
    cluster = connect()
    held.answer_from_now_on()
    cluster.execute("GET", "warm")
    received, done, met = len(held.node.received), Event(), []
    get_hub().loop.run_callback(lambda: (met.append(outcome(cluster, "GET", "a", **options)), done.set()))
    done.wait(1)
    assert [type(each) for each in met] == [BlockedInHub]
    assert cluster.execute("GET", "next") == b"next"
    assert len(held.node.received) == received + 1
    assert cluster.statistics().nodes[0].in_flight == 0


def test_a_raw_greenlet_that_dies_of_its_reply_harms_nobody(held, connect, monkeypatch):
    cluster = connect()
    monkeypatch.setattr(get_hub(), "exception_stream", None)

    def doomed() -> None:
        cluster.execute("GET", "doomed")
        raise ValueError("dies in the frame of the reader")

    raw = raw_greenlet(doomed, parent=get_hub())
    get_hub().loop.run_callback(raw.switch)
    held.wait_for(1)
    calls = [begin(cluster, "GET", f"k{n}") for n in range(3)]
    held.wait_for(4)
    held.answer()
    assert ends(*calls) == [b"k0", b"k1", b"k2"]
    assert raw.dead
    assert accepted(held.node.cluster) == 1


# -- nothing is left --------------------------------------------------------------------------------------------------


def test_calls_leave_nothing_behind(one_node, connect):
    one_node.on(0, "GET", lambda _node, _connection, args: Delay(0.0, bulk(args[1])))
    cluster = connect()

    def some_calls() -> int:
        calls = [begin(cluster, "GET", f"k{n}", **({"command_timeout": 1} if n % 2 else {})) for n in range(50)]
        gevent.sleep(0)
        gevent.killall(calls[::5])
        gevent.joinall(calls)
        assert cluster.execute("GET", "next") == b"next"
        one_node.nodes[0].received.clear()
        del calls
        gc.collect()
        return len(gc.get_objects())

    some_calls()
    some_calls()
    before = some_calls()
    assert some_calls() - before < 25


# -- the loop ---------------------------------------------------------------------------------------------------------

WAIT = """
import sys, gevent, gvcluster
cluster = gvcluster.Cluster(sys.argv[1])
cluster.execute("GET", "warm")
call = gevent.spawn(cluster.execute, "GET", "slow") if sys.argv[2] == "in flight" else None
ended = gevent.wait(timeout=10)
print(ended, None if call is None else call.value)
"""


@pytest.mark.unaffected_by("patched")
@pytest.mark.parametrize(("state", "told"), [("idle", "True None"), ("in flight", "True b'slow'")])
def test_the_loop_is_kept_alive_exactly_while_a_reply_is_owed(one_node, state, told):
    def answer(_node: object, _connection: object, args: list[bytes]) -> Any:
        return Delay(0.3, bulk(args[1])) if args[1] == b"slow" else bulk(args[1])

    one_node.on(0, "GET", answer)
    # In another process, because the node's own sockets keep the loop of this one alive.
    command = [sys.executable, "-c", WAIT, one_node.seeds, state]
    with gevent.Timeout(20):
        ended = gevent.subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout.strip(), ended.stderr) == (told, "")
