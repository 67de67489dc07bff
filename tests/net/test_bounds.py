"""A lane that is full: who waits for room, in what order, and what becomes of those who leave the queue."""

from typing import Any

import gevent
import pytest
from calls import accepted, begin, bulk, ends
from gevent.event import Event
from gevent.hub import get_hub

from gvcluster import ClosedError, ConnectionLost, PoolFull, ReplyTimeout
from gvcluster.core.resp import encode
from gvcluster.net.refresher import Refresher
from gvcluster.testing.answers import NOT_HANDLED

SOON = 0.05  # a command_timeout, seconds
BIG = b"x" * (8 << 20)  # more than the kernel takes while nobody reads


def sent(held) -> list[bytes]:
    return [args[1] for args in held.node.commands("GET")]


def waiting(cluster) -> int:
    return cluster.statistics().nodes[0].waiting


def begun(cluster, count, first=0):
    """So many calls, begun one after the other."""
    calls = []
    for number in range(first, first + count):
        calls.append(begin(cluster, "GET", f"k{number}"))
        gevent.sleep(0)
    return calls


def names(*numbers):
    return [b"k%d" % number for number in numbers]


def test_no_more_calls_are_in_flight_than_allowed_and_room_is_given_in_order_of_arrival(held, connect):
    cluster = connect(max_in_flight=3)
    calls = begun(cluster, 20)
    for answered in range(17):
        held.wait_for(3)
        assert sent(held) == names(*range(answered + 3))
        assert waiting(cluster) == 17 - answered
        held.answer(1)
        assert ends(calls[answered]) == names(answered)
    held.answer_from_now_on()
    assert ends(*calls) == names(*range(20))
    assert (waiting(cluster), accepted(held.node.cluster)) == (0, 1)


def test_more_than_may_wait_are_told_at_once_that_the_pool_is_full_and_nothing_of_theirs_is_sent(held, connect):
    cluster = connect(max_in_flight=2, max_waiting=3)
    calls = begun(cluster, 5)
    refreshes = cluster.statistics().refreshes
    (error,) = ends(begin(cluster, "GET", "one too many"))
    assert type(error) is PoolFull
    assert (error.address, error.maybe_executed) == (held.node.address, False)
    (error,) = ends(begin(cluster, "GET", "one too many", timeout=5))
    assert type(error) is PoolFull
    held.wait_for(2)
    held.answer(1)
    assert ends(calls[0]) == names(0)
    calls += begun(cluster, 1, first=5)  # there is room for one again
    held.answer_from_now_on()
    assert ends(*calls) == names(*range(6))
    assert sent(held) == names(*range(6))
    assert cluster.statistics().refreshes == refreshes


def test_calls_of_one_turn_of_the_loop_are_counted_before_any_is_sent(held, connect):
    cluster = connect(max_in_flight=2, max_waiting=1)
    calls = [begin(cluster, "GET", f"k{number}") for number in range(5)]
    assert [type(error) for error in ends(*calls[3:])] == [PoolFull] * 2
    held.answer_from_now_on()
    assert ends(*calls[:3]) == names(0, 1, 2)


def test_where_nobody_may_wait_a_full_lane_refuses_and_one_with_room_does_not(held, connect):
    cluster = connect(max_in_flight=1, max_waiting=0)
    (first,) = begun(cluster, 1)
    assert [type(error) for error in ends(*begun(cluster, 2, first=1))] == [PoolFull] * 2
    held.answer_from_now_on()
    assert ends(first) == names(0)
    assert cluster.execute("GET", "k3") == b"k3"


@pytest.mark.parametrize("leave", ["kill", "timeout", "command_timeout"])
@pytest.mark.parametrize("who", [1, 2, 3])
def test_who_leaves_while_it_waits_for_room_is_never_sent_and_makes_place_for_another(
    held, connect, leave, who, monkeypatch
):
    cluster = connect(max_in_flight=1, max_waiting=3)
    # After a timeout a slot map is asked for, over the same connection: the question could take the place.
    monkeypatch.setattr(Refresher, "schedule", lambda *_: None)
    calls = begun(cluster, who)
    if leave == "command_timeout":
        leaving = begin(cluster, "GET", "left", command_timeout=SOON)
    else:
        leaving = begin(cluster, "GET", "left")
    gevent.sleep(0)
    calls += begun(cluster, 3 - who, first=who)
    assert waiting(cluster) == 3 - (who > 3)
    assert type(ends(begin(cluster, "GET", "full"))[0]) is PoolFull
    if leave == "kill":
        leaving.kill()
    elif leave == "timeout":
        leaving.kill(gevent.Timeout())
    else:
        (error,) = ends(leaving)
        assert (type(error), error.maybe_executed) == (ReplyTimeout, False)
    assert waiting(cluster) == 2
    calls += begun(cluster, 1, first=3)  # it has the place of the one who left
    assert type(ends(begin(cluster, "GET", "full"))[0]) is PoolFull
    held.answer_from_now_on()
    assert ends(*calls) == names(0, 1, 2, 3)
    assert sent(held) == names(0, 1, 2, 3)
    assert (waiting(cluster), cluster.statistics().nodes[0].in_flight) == (0, 0)


def test_when_all_who_wait_leave_in_the_moment_when_there_is_room_the_next_call_gets_it(held, connect):
    cluster = connect(max_in_flight=1)
    calls = begun(cluster, 5)
    held.wait_for(1)
    held.answer(1)
    gevent.killall(calls[1:], block=False)  # before the hub has read the answer
    assert ends(calls[0]) == names(0)
    held.answer_from_now_on()
    assert cluster.execute("GET", "next") == b"next"
    assert sent(held) == [b"k0", b"next"]


def test_who_has_left_is_not_counted_any_more_when_its_turn_has_come(held, connect):
    cluster = connect(max_in_flight=1, max_waiting=2)
    calls = begun(cluster, 3)
    calls[1].kill()
    calls += begun(cluster, 1, first=3)
    held.wait_for(1)
    held.answer(1)
    held.wait_for(1)
    assert sent(held) == names(0, 2)
    assert waiting(cluster) == 1
    calls += begun(cluster, 1, first=4)
    assert type(ends(begin(cluster, "GET", "full"))[0]) is PoolFull
    held.answer_from_now_on()
    assert ends(calls[0], *calls[2:]) == names(0, 2, 3, 4)


def commit(cluster: Any) -> Any:
    tx = cluster.transaction()
    tx.append("GET", "full")
    return tx.commit()


def execute_pipeline(cluster: Any) -> Any:
    pipe = cluster.pipeline()
    pipe.append("GET", "full")
    (reply,) = pipe.execute()
    raise reply


@pytest.mark.parametrize("block", [execute_pipeline, commit])
def test_a_block_that_found_no_room_makes_none_for_the_next(held, connect, block):
    cluster = connect(max_in_flight=1, max_waiting=2)
    calls = begun(cluster, 3)
    held.wait_for(1)
    for _ in range(4):
        with gevent.Timeout(5), pytest.raises(PoolFull):
            block(cluster)
        assert waiting(cluster) == 2
    held.answer_from_now_on()
    assert ends(*calls) == names(0, 1, 2)


def test_what_the_kernel_did_not_take_was_not_sent_though_it_was_offered(held, connect):
    cluster = connect()
    held.node.freeze()
    large = begin(cluster, "SET", "large", BIG, bulk=False)
    (error,) = ends(begin(cluster, "GET", "behind", command_timeout=SOON))  # queued in the same turn of the loop
    assert (type(error), error.maybe_executed) == (ReplyTimeout, False)
    held.node.thaw()
    held.answer_from_now_on()
    assert ends(large, within=5) == [b"large"]
    assert sent(held) == []


def test_calls_that_were_given_up_take_room_until_their_reply_is_in(held, connect):
    cluster = connect(max_in_flight=2)
    lost = begun(cluster, 2)
    held.wait_for(2)
    gevent.killall(lost)
    (call,) = begun(cluster, 1, first=2)
    assert cluster.statistics().nodes[0].in_flight == 3
    assert (waiting(cluster), sent(held)) == (1, names(0, 1))
    held.answer(1)
    held.wait_for(2)
    assert sent(held) == names(0, 1, 2)
    held.answer()
    assert ends(call) == names(2)


def test_a_call_that_waits_for_room_has_no_more_time_than_any_other(held, connect):
    cluster = connect(max_in_flight=1, timeout=6 * SOON, command_timeout=6 * SOON)
    calls = begun(cluster, 3)
    first, *others = ends(*calls)
    assert [first.maybe_executed, *(error.maybe_executed for error in others)] == [True, False, False]
    held.answer_from_now_on()
    assert cluster.execute("GET", "next", timeout=5, command_timeout=5) == b"next"
    assert sent(held) == [b"k0", b"next"]


def test_a_call_that_got_room_late_may_have_run_if_its_reply_is_late(held, connect):
    cluster = connect(max_in_flight=1)
    first = begin(cluster, "GET", "k0")
    gevent.sleep(0)
    late = begin(cluster, "GET", "k1", command_timeout=4 * SOON)
    held.wait_for(1)
    held.answer(1)
    held.wait_for(1)
    assert ends(first) == names(0)
    (error,) = ends(late)
    assert (type(error), error.maybe_executed) == (ReplyTimeout, True)


@pytest.mark.parametrize("end", ["reset", "close", "close in the hub"])
def test_those_who_wait_for_room_are_told_when_the_connection_ends_and_were_not_sent(held, connect, end):
    cluster = connect(max_in_flight=1)
    calls = begun(cluster, 4)
    held.wait_for(1)
    if end == "reset":
        held.node.reset_connections()
    elif end == "close":
        cluster.close()
    else:
        get_hub().loop.run_callback(cluster.close)
    errors = ends(*calls)
    assert {type(error) for error in errors} == {ConnectionLost if end == "reset" else ClosedError}
    assert [error.maybe_executed for error in errors] == [True, False, False, False]
    assert sent(held) == names(0)


def test_those_who_wait_for_room_are_sent_over_the_next_connection_if_they_may_be(held, connect):
    cluster = connect(max_in_flight=1, retry="safe")
    calls = begun(cluster, 4)
    held.wait_for(1)
    held.answer_from_now_on()
    held.node.reset_connections()
    assert ends(*calls) == names(0, 1, 2, 3)


def test_a_connection_that_ends_leaves_no_more_writes_in_doubt_than_were_in_flight_over_it(held, connect):
    cluster = connect(max_in_flight=7, retry="safe")
    reads = begun(cluster, 3)
    writes = [begin(cluster, "INCR", f"n{number}") for number in range(40)]
    held.wait_for(7)
    held.owed.clear()
    held.answer_from_now_on()
    held.node.reset_connections()
    assert ends(*reads) == names(0, 1, 2)
    doubtful = [met for met in ends(*writes) if isinstance(met, Exception)]
    assert [(type(error), error.maybe_executed) for error in doubtful] == [(ConnectionLost, True)] * 4
    assert [met for met in ends(*writes) if not isinstance(met, Exception)] == [b"n%d" % each for each in range(4, 40)]
    assert sorted(args[1] for args in held.node.commands("INCR")) == sorted(b"n%d" % each for each in range(40))


def test_disconnect_waits_for_those_who_wait_for_room(held, connect):
    cluster = connect(max_in_flight=1)
    calls = begun(cluster, 4)
    ended = gevent.spawn(cluster.disconnect)
    held.wait_for(1)
    assert not ended.ready()
    held.answer_from_now_on()
    assert ends(*calls) == names(0, 1, 2, 3)
    ended.get(timeout=10)


def test_with_more_bytes_queued_than_allowed_so_many_may_wait_and_no_more(held, connect):
    cluster = connect(max_queued_bytes=1000, max_waiting=3)
    held.node.freeze()
    large = begin(cluster, "SET", "large", BIG, bulk=False)
    gevent.sleep(0)
    queued = [begin(cluster, "SET", f"k{number}", b"x" * 600, bulk=False) for number in range(3)]
    gevent.sleep(0)
    assert type(ends(begin(cluster, "GET", "full"))[0]) is PoolFull
    queued[0].kill()
    queued.append(begin(cluster, "SET", "k3", b"x" * 600))
    gevent.sleep(0)
    assert type(ends(begin(cluster, "GET", "full"))[0]) is PoolFull
    held.node.thaw()
    held.answer_from_now_on()
    assert ends(large, *queued[1:], within=5) == [b"large", *names(1, 2, 3)]
    assert cluster.execute("GET", "k4") == b"k4"


def test_many_small_calls_that_wait_for_the_kernel_are_below_the_bound_of_bytes(held, connect):
    cluster = connect(max_queued_bytes=10_000, max_waiting=3)
    held.node.freeze()
    large = begin(cluster, "SET", "large", BIG, bulk=False)
    gevent.sleep(0)
    calls = begun(cluster, 30)
    held.node.thaw()
    held.answer_from_now_on()
    assert ends(large, *calls, within=5) == [b"large", *names(*range(30))]


def test_a_question_with_asking_in_front_takes_one_place(held, connect):
    cluster = connect(max_in_flight=2)
    lane = cluster._executor_here().runtime.nodes.table[0].lane
    may_answer = Event()

    def in_order(_node: object, _connection: object, args: list[bytes]) -> Any:
        if args[0] != b"GET":
            return NOT_HANDLED
        may_answer.wait(10)  # and what comes behind it waits as well
        return bulk(args[1])

    held.node.override = in_order
    packed = [encode(("GET", f"k{number}")) for number in range(3)]
    calls = [gevent.spawn(lane.call_within, data, 1e9, asking=True) for data in packed]
    with gevent.Timeout(5):
        while not waiting(cluster):
            gevent.sleep(0.001)
    assert (waiting(cluster), lane.is_full()) == (1, True)
    may_answer.set()
    assert [call.get(timeout=5) for call in calls] == names(0, 1, 2)
    assert not lane.is_full()


def test_who_finds_no_room_when_the_first_map_is_there_hears_it_and_the_others_are_sent(fake, make):
    busy, free = fake.nodes[0], fake.nodes[1]
    busy.freeze()
    cluster = make(str(free.address), max_in_flight=2)
    waiting = [cluster.submit("PING", node=busy.address) for _ in range(2)]
    late = [cluster.submit("GET", fake.key_at(node)) for node in (busy, free)]
    assert late[1].get(timeout=5) is None
    with pytest.raises(PoolFull) as caught:
        late[0].get(timeout=5)
    assert not caught.value.maybe_executed
    busy.thaw()
    assert [each.get(timeout=5) for each in waiting] == [b"PONG"] * 2
