"""Submitted commands: in which order they go, where their callbacks run, and that each is called exactly once."""

import gc
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from gvcluster import (
    BlockedInHub,
    ClosedError,
    Cluster,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    CrossSlot,
    NoKey,
    PendingReply,
    PoolFull,
    Ready,
    Redirected,
    ReplyError,
    ReplyTimeout,
    StatefulCommand,
    TopologyUnavailable,
    UnknownCommand,
    hash_slot,
)
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import NOT_HANDLED, Delay, Reset, encode_reply


class Calls:
    """A callback that notes what it was called with, and where."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, Exception | None]] = []
        self.elsewhere = 0

    def __call__(self, reply: Any, error: Exception | None) -> None:
        self.told.append((reply, error))
        self.elsewhere += gevent.getcurrent() is not get_hub()

    def wait(self, count: int = 1) -> list[tuple[Any, Exception | None]]:
        with gevent.Timeout(5, AssertionError(f"only {len(self.told)} of {count} were told")):
            while len(self.told) < count:
                gevent.sleep(0.001)
        gevent.sleep(0.005)
        assert len(self.told) == count, "one was told twice"
        assert not self.elsewhere, "a callback ran outside of the hub"
        return self.told


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def reported(monkeypatch) -> list[Any]:
    """What the hub reports instead of printing it."""
    errors: list[Any] = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda context, kind, error, trace: errors.append(error))
    return errors


# -- replies -----------------------------------------------------------------------------------------------------------


def test_submit_returns_at_once_and_the_callback_gets_the_reply_in_the_hub(fake, cluster, calls):
    pending = cluster.submit("SET", "k", "v", callback=calls)
    assert isinstance(pending, PendingReply)
    assert (pending.ready(), calls.told) == (False, [])
    assert "not ready" in repr(pending)
    assert calls.wait() == [(b"OK", None)]
    assert pending.ready()
    assert pending.get() == b"OK"
    assert pending.wait(0.001)


def test_an_error_is_told_with_none_for_the_reply_and_nil_is_no_error(fake, cluster, calls):
    cluster.submit("GET", "nothing", callback=calls)
    assert calls.wait() == [(None, None)]
    cluster.execute("SET", "k", "x")
    pending = cluster.submit("INCR", "k", callback=calls)
    reply, error = calls.wait(2)[1]
    assert reply is None
    assert isinstance(error, ReplyError)
    with pytest.raises(ReplyError, match="not an integer"):
        pending.get()
    assert repr(pending) == "<PendingReply ReplyError>"


def test_get_waits_and_gives_up_alone(fake, cluster, calls):
    node = fake.nodes[0]
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    pending = cluster.submit("SET", fake.key_at(node), "v", callback=calls)
    node.wait_until(lambda: held)
    with pytest.raises(ReplyTimeout, match="goes on") as caught:
        pending.get(timeout=0.01)
    assert caught.value.maybe_executed
    assert not pending.wait(0.01)
    with gevent.Timeout(0.01, False):
        pending.get()
    waiting = [gevent.spawn(pending.get) for _ in range(3)]
    waiting[1].kill()
    gevent.sleep(0)
    held[0].send(b"+OK\r\n")
    assert [waiting[0].get(timeout=5), waiting[2].get(timeout=5)] == [b"OK", b"OK"]
    assert calls.wait() == [(b"OK", None)]


def test_then_adds_callbacks_before_and_after_the_end(fake, cluster):
    first, second, third = Calls(), Calls(), Calls()
    pending = cluster.submit("SET", "k", "v", callback=first)
    pending.then(second)
    assert pending.get(timeout=5) == b"OK"
    pending.then(third)
    assert third.told == []
    assert [each.wait() for each in (first, second, third)] == [[(b"OK", None)]] * 3


def test_commands_for_a_node_are_sent_in_the_order_of_submission_in_one_write(fake, cluster, calls):
    node = fake.nodes[0]
    key = fake.key_at(node)
    for number in range(100):
        cluster.submit("SET", key, number, callback=calls)
    calls.wait(100)
    assert [args[2] for args in node.commands("SET")] == [b"%d" % number for number in range(100)]


def test_no_greenlet_is_begun_for_what_goes_straight_to_its_reply(fake, cluster, calls):
    for node in fake.nodes:
        cluster.execute("GET", fake.key_at(node))
    held: list[Any] = []
    for node in fake.nodes:
        node.on("SET", lambda _node, connection, _args: held.append(connection))
    gc.collect()
    before = sum(isinstance(each, gevent.Greenlet) for each in gc.get_objects())
    for number in range(300):
        cluster.submit("SET", f"k{number}", "v", callback=calls)
    gevent.sleep(0.05)
    gc.collect()
    assert sum(isinstance(each, gevent.Greenlet) for each in gc.get_objects()) <= before
    # (those of other tests may have ended meanwhile)
    while len(calls.told) < 300:
        for connection in held:
            connection.send(b"+OK\r\n")
        held.clear()
        gevent.sleep(0.005)
    assert calls.wait(300) == [(b"OK", None)] * 300


def test_options_of_a_call_hold_for_submit_too(fake, cluster, calls):
    here, there = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(there)
    cluster.submit("ECHO", "x", route_key=key, callback=calls)
    cluster.submit("ECHO", "y", node=there.address, callback=calls)
    cluster.submit("SET", key, "v", node=here.address, callback=calls)
    told = calls.wait(3)
    assert [reply for reply, _ in told if reply] == [b"x", b"y"]
    (refused,) = [error for _, error in told if error]
    assert isinstance(refused, Redirected)
    assert there.commands("SET") == []
    there.on("SET", None)
    cluster.submit("SET", key, "v", timeout=0.05, callback=calls)
    assert isinstance(calls.wait(4)[3][1], ReplyTimeout)


def test_a_blocking_command_gets_a_connection_of_its_own(fake, cluster, calls):
    node = fake.nodes[0]
    key = fake.key_at(node)
    node.on("BLPOP", Delay(0.05, b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n"))
    cluster.submit("BLPOP", key, 1, callback=calls)
    cluster.submit("SET", key, "v", callback=calls)
    assert calls.wait(2) == [(b"OK", None), ([b"k", b"v"], None)]


def test_commands_can_be_written_as_printf_does(fake, cluster, calls):
    assert cluster.submit_command("SET %s:%d %b", "user", 7, b"a b\r\nc", callback=calls).get(timeout=5) == b"OK"
    assert cluster.submit_command("GET user:%d", 7).get(timeout=5) == b"a b\r\nc"
    assert cluster.submit_command("ECHO %s", "x", node=fake.nodes[1].address).get(timeout=5) == b"x"
    for format, values in (("GET %d", ("no int",)), ("GET %s", ()), ("", ())):
        with pytest.raises(ConfigError):
            cluster.submit_command(format, *values, callback=calls)
    assert calls.wait() == [(b"OK", None)]
    assert len(fake.nodes[1].commands("ECHO")) == 1


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), ConfigError),
        (("GET",), ConfigError),
        (("SET", "k", None), ConfigError),
        (("MGET", "a", "b"), CrossSlot),
        (("DBSIZE",), NoKey),
        (("NO-SUCH-COMMAND", "k"), UnknownCommand),
        (("MULTI",), StatefulCommand),
    ],
)
def test_what_makes_no_sense_is_raised_at_once_and_the_callback_never_called(fake, cluster, calls, args, error):
    with pytest.raises(error):
        cluster.submit(*args, callback=calls)
    with pytest.raises(ConfigError, match="callback"):
        cluster.submit("GET", "k", callback="not callable")
    with pytest.raises(ConfigError, match="unknown option"):
        cluster.submit("GET", "k", tiemout=1)
    with pytest.raises(ConfigError, match="callback"):
        cluster.submit("GET", "k").then("not callable")
    with pytest.raises(ConfigError, match="callback"):
        cluster.submit("GET", "k").then(None)
    cluster.disconnect()
    assert calls.told == []
    assert sum(len(node.work()) for node in fake.nodes) == 2


def test_an_argument_is_taken_as_it_was_when_it_was_submitted_also_for_a_second_attempt(fake, cluster, calls):
    old, new, _ = fake.nodes
    key = fake.key_at(old)
    fake.move_slot(hash_slot(key), new)
    value = bytearray(b"before")
    pending = cluster.submit("SET", key, value)
    value[:] = b"after!"
    assert pending.get(timeout=5) == b"OK"
    assert new.data[key.encode()] == b"before"


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_callbacks_may_submit_again_and_again(fake, cluster):
    left, told = [200], []

    def again(reply: Any, error: Exception | None) -> None:
        told.append((reply, error, gevent.getcurrent() is get_hub()))
        left[0] -= 1
        if left[0] > 0:
            cluster.submit("INCR", f"counter{left[0] % 5}", callback=again)

    for _ in range(10):
        cluster.submit("INCR", "counter0", callback=again)
    with gevent.Timeout(5):
        while len(told) < 209:
            gevent.sleep(0.001)
    gevent.sleep(0.01)
    assert len(told) == 209
    assert all(error is None and in_hub for _, error, in_hub in told)
    assert sum(int(value) for node in fake.nodes for value in node.data.values()) == 209


def test_blocking_in_a_callback_is_refused_and_harms_nobody(fake, cluster, reported, calls):
    met: list[Any] = []

    def block(_reply: Any, _error: Exception | None) -> None:
        pipe = cluster.pipeline()
        pipe.append("GET", "k")
        later = cluster.submit("GET", "k")
        for wait in (
            lambda: cluster.execute("GET", "k"),
            pipe.execute,
            later.get,
            later.wait,
            cluster.refresh,
            cluster.disconnect,
        ):
            try:
                wait()
            except Exception as error:
                met.append(error)
        cluster.execute("GET", "k")

    cluster.submit("GET", "k", callback=block)
    cluster.submit("GET", "k", callback=calls)
    calls.wait()
    assert [type(error) for error in met] == [BlockedInHub] * 6
    assert [type(error) for error in reported] == [BlockedInHub]
    assert cluster.execute("ECHO", "x") == b"x"


@pytest.mark.parametrize("error", [ValueError("mine"), gevent.GreenletExit("mine"), gevent.Timeout])
def test_what_a_callback_raises_is_reported_once_and_the_others_are_told(fake, cluster, reported, calls, error):
    def fail(_reply: Any, _error: Exception | None) -> None:
        calls(None, None)
        raise error

    key = fake.key_at(fake.nodes[0])
    pending = cluster.submit("SET", key, "v", callback=fail)
    pending.then(calls)
    cluster.submit("GET", key, callback=calls)
    assert calls.wait(3)[1:] == [(b"OK", None), (b"v", None)]
    assert len(reported) == 1
    assert cluster.execute("GET", key) == b"v"
    assert fake.nodes[0].connections.accepted == 1


def test_a_callback_may_close_the_cluster(fake, cluster, calls):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.submit("SET", key, "v", callback=lambda *_: cluster.close())
    for _ in range(5):
        cluster.submit("GET", key, callback=calls)
    told = calls.wait(5)
    assert all(isinstance(error, ClosedError) and reply is None for reply, error in told)


# -- second attempts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["moved", "asked"])
def test_redirects_are_followed_for_submitted_commands_too(fake, cluster, calls, kind):
    old, new, _ = fake.nodes
    key = fake.key_at(old)
    if kind == "moved":
        fake.move_slot(hash_slot(key), new)
    else:
        fake.begin_migration(hash_slot(key), new)
    cluster.submit("SET", key, "v", callback=calls)
    assert calls.wait() == [(b"OK", None)]
    assert [len(node.commands("SET")) for node in fake.nodes] == [1, 1, 0]
    assert len(new.commands("ASKING")) == (kind == "asked")
    assert cluster.statistics().redirects == 1


def test_a_lost_connection_is_told_to_each_write_once_and_reads_are_read_again(fake, cluster, calls):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("SET", key, "v")
    node.on("INCR", Reset(), times=1)
    reads = Calls()
    cluster.submit("INCR", key, callback=calls)
    cluster.submit("INCR", key, callback=calls)
    cluster.submit("GET", key, callback=reads)
    told = calls.wait(2)
    assert all(isinstance(error, ConnectionLost) and error.maybe_executed for _, error in told)
    assert told[0][1] is not told[1][1]
    assert reads.wait() == [(b"v", None)]
    assert len(node.commands("INCR")) == 1


def test_one_that_is_overdue_is_told_and_its_late_reply_dropped(fake, make, calls):
    cluster = make(command_timeout=0.1, retry="never")
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("GET", key)
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    cluster.submit("SET", key, "v", callback=calls, command_timeout=0.05)
    ((_, error),) = calls.wait()
    assert isinstance(error, ReplyTimeout)
    assert error.maybe_executed
    held[0].send(b"+LATE\r\n")
    cluster.submit("GET", key, callback=calls)
    assert calls.wait(2)[1] == (None, None)
    assert node.connections.accepted == 1


def test_the_default_deadline_ends_a_submitted_command(fake, make, calls):
    cluster = make(command_timeout=0.2, timeout=0.1, retry="never")
    node = fake.nodes[0]
    cluster.connect()
    node.on("SET", None)
    node.on("GET", None)
    for number in range(5):
        cluster.submit("SET", fake.key_at(node), number, callback=calls)
    assert [type(error) for _, error in calls.wait(5)] == [ReplyTimeout] * 5


def test_a_full_lane_refuses_at_once_and_the_callback_is_never_called(fake, make, calls):
    node = fake.nodes[0]
    cluster = make(max_in_flight=3)
    key = fake.key_at(node)
    cluster.execute("GET", key)
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    for _ in range(3):
        cluster.submit("SET", key, "v", callback=calls)
    with pytest.raises(PoolFull):
        cluster.submit("SET", key, "v", callback=calls)
    node.wait_until(lambda: len(held) == 3)
    held[0].send(b"+OK\r\n" * 3)
    assert calls.wait(3) == [(b"OK", None)] * 3
    node.on("SET", b"+OK\r\n")
    assert cluster.submit("SET", key, "v").get(timeout=5) == b"OK"
    cluster.disconnect()
    assert len(node.commands("SET")) == 4


# -- before there is a connection, or a map ----------------------------------------------------------------------------


def test_start_returns_at_once_and_what_is_submitted_before_ready_is_sent_in_order(fake, make, calls):
    events: list[Any] = []
    cluster = make(on_event=events.append)
    held: list[Any] = []
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", lambda _n, connection, _a: held.append(connection), times=1)
    cluster.start()
    assert events == []
    node = fake.nodes[1]
    key = fake.key_at(node)
    for number in range(50):
        cluster.submit("SET", key, number, callback=calls)
    with gevent.Timeout(5):
        while not held:
            gevent.sleep(0.001)
    for number in range(50, 100):
        cluster.submit("SET", key, number, callback=calls)
    assert (events, calls.told) == ([], [])
    held[0].send(encode_reply(fake.slot_ranges()))
    assert calls.wait(100) == [(b"OK", None)] * 100
    assert isinstance(events[0], Ready)
    assert [args[2] for args in node.commands("SET")] == [b"%d" % number for number in range(100)]
    assert [each.connections.accepted for each in fake.nodes].count(1) >= 1


def test_who_submits_when_the_map_has_just_come_does_not_get_ahead(fake, make, calls):
    node = fake.nodes[0]
    key = fake.key_at(node)

    def on_event(event: object) -> None:
        if isinstance(event, Ready):
            cluster.submit("SET", key, "late", callback=calls)

    cluster = make(str(node.address), on_event=on_event)
    for number in range(5):
        cluster.submit("SET", key, number, callback=calls)
    calls.wait(6)
    assert [args[2] for args in node.commands("SET")] == [b"0", b"1", b"2", b"3", b"4", b"late"]


def test_submitting_alone_makes_the_first_connection(fake, make, calls):
    cluster = make()
    cluster.submit("SET", "k", "v", callback=calls)
    assert calls.wait() == [(b"OK", None)]


def test_what_waits_for_a_connection_keeps_its_order_and_nobody_gets_ahead(fake, make, calls):
    node = fake.nodes[2]
    cluster = make(str(fake.nodes[0].address))
    cluster.connect()
    key = fake.key_at(node)
    for number in range(30):
        cluster.submit("SET", key, number, callback=calls)
    while node.connections.open == 0:
        gevent.sleep(0)
        cluster.submit("SET", key, 30 + len(calls.told), callback=calls)
    more = 0
    while not calls.told:
        cluster.submit("SET", key, 1000 + more, callback=calls)
        more += 1
        gevent.sleep(0)
    cluster.disconnect()
    sent = [int(args[2]) for args in node.commands("SET")]
    assert sent[:30] == list(range(30))
    assert [number for number in sent if number >= 1000] == sorted(number for number in sent if number >= 1000)
    assert len(calls.told) == len(sent)
    assert node.connections.accepted == 1


def test_before_ready_they_wait_up_to_their_deadline_and_then_hear_why(make, protocol, calls):
    with FakeCluster(1) as fake:
        fake.nodes[0].on("CLUSTER SLOTS", b"-LOADING wait\r\n")
        cluster = Cluster(fake.seeds, protocol=protocol, client_info=False)
        cluster.start()
        cluster.submit("SET", "k", "v", timeout=0.4, callback=calls)
        cluster.submit("GET", "k", timeout=0.1, callback=calls)
        cluster.submit("GET", "k", callback=calls)
        told = calls.wait(2)
        assert [type(error) for _, error in told] == [TopologyUnavailable] * 2
        assert "LOADING" in str(told[1][1])
        assert not told[0][1].maybe_executed
        fake.nodes[0].on("CLUSTER SLOTS", NOT_HANDLED)
        assert calls.wait(3)[2] == (None, None)
        cluster.close()


def test_a_node_that_refuses_connections_is_told_to_each(fake, make, calls):
    cluster = make(str(fake.nodes[1].address), retry="never")
    cluster.connect()
    fake.nodes[0].stop()
    key = fake.key_at(fake.nodes[0])
    for _ in range(4):
        cluster.submit("SET", key, "v", callback=calls)
    told = calls.wait(4)
    assert [type(error) for _, error in told] == [ConnectFailed] * 4
    assert len({id(error) for _, error in told}) == 4
    assert not any(error.maybe_executed for _, error in told)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_disconnect_refuses_the_new_lets_the_pending_end_and_then_closes(fake, make, calls):
    order: list[Any] = []
    cluster = make(on_disconnect=lambda connection, error: order.append(("disconnected", error)))
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("GET", key)
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))

    def told(reply: Any, error: Exception | None) -> None:
        order.append((reply, error))
        with pytest.raises(ClosedError):
            cluster.submit("GET", key, callback=calls)

    cluster.submit("SET", key, "1", callback=told)
    cluster.submit("SET", key, "2", callback=told)
    node.wait_until(lambda: len(held) == 2)
    leaving = gevent.spawn(cluster.disconnect)
    gevent.sleep(0)
    with pytest.raises(ClosedError):
        cluster.submit("GET", key, callback=calls)
    held[0].send(b"+OK\r\n+OK\r\n")
    leaving.get(timeout=5)
    gevent.sleep(0.01)
    assert order[:2] == [(b"OK", None)] * 2
    assert set(order[2:]) == {("disconnected", None)}
    assert len(order) > 2
    assert calls.told == []
    for each in fake.nodes:
        each.wait_until(lambda each=each: each.connections.open == 0)


def test_redirects_while_disconnecting_go_to_the_callback(fake, cluster, calls):
    node, other, _ = fake.nodes
    key = fake.key_at(node)
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    cluster.submit("SET", key, "v", callback=calls)
    node.wait_until(lambda: held)
    maps = [len(each.commands("CLUSTER SLOTS")) for each in fake.nodes]
    leaving = gevent.spawn(cluster.disconnect)
    gevent.sleep(0)
    held[0].send(f"-MOVED {hash_slot(key)} {other.address}\r\n".encode())
    leaving.get(timeout=5)
    ((_, error),) = calls.wait()
    assert isinstance(error, Redirected)
    assert not error.maybe_executed
    assert other.commands("SET") == []
    assert [len(each.commands("CLUSTER SLOTS")) for each in fake.nodes] == maps


def test_what_waits_for_the_first_map_is_sent_though_the_cluster_disconnects(fake, make, calls):
    cluster = make()
    for node in fake.nodes:
        cluster.submit("SET", fake.key_at(node), "v", callback=calls)
    cluster.disconnect()
    assert calls.wait(3) == [(b"OK", None)] * 3


def test_close_ends_all_that_are_pending_once_each_with_what_is_known(fake, make, calls):
    cluster = make()
    silent, busy, unopened = fake.nodes
    key, other = fake.key_at(silent), fake.key_at(busy)
    for each in (key, other):
        cluster.execute("GET", each)
    silent.on("SET", None)
    busy.on("INCR", b"-TRYAGAIN\r\n")
    cluster.submit("SET", key, "sent", callback=calls)
    cluster.submit("INCR", other, callback=calls)
    silent.wait_until(lambda: silent.commands("SET"))
    busy.wait_until(lambda: len(busy.commands("INCR")) == 3)
    gevent.sleep(0.005)  # its reply is in, and it waits to go again
    cluster.submit("SET", key, "unsent", callback=calls)
    cluster.submit("SET", fake.key_at(unopened), "waits for a connection", callback=calls)
    cluster.close()
    told = calls.wait(4)
    assert [type(error) for _, error in told] == [ClosedError] * 4
    assert sorted(error.maybe_executed for _, error in told) == [False, False, False, True]
    with pytest.raises(ClosedError):
        cluster.submit("GET", key, callback=calls)


def test_close_before_the_first_map_ends_what_waits_for_it(make, protocol, calls):
    with FakeCluster(1) as fake:
        fake.nodes[0].on("CLUSTER SLOTS", None)
        cluster = Cluster(fake.seeds, protocol=protocol, client_info=False)
        for _ in range(3):
            cluster.submit("GET", "k", callback=calls)
        fake.nodes[0].wait_until(lambda: fake.nodes[0].commands("CLUSTER SLOTS"))
        cluster.close()
        assert [type(error) for _, error in calls.wait(3)] == [ClosedError] * 3


def test_with_disconnects_at_its_end_and_all_callbacks_have_run(fake, make, calls):
    with make() as cluster:
        for number in range(20):
            cluster.submit("SET", f"k{number}", "v", callback=calls)
    assert calls.told == [(b"OK", None)] * 20
