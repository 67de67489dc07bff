"""What is repeated, what is not, and that one deadline covers it all."""

from collections.abc import Callable
from itertools import pairwise
from time import monotonic
from typing import Any

import gevent
import pytest
from calls import Steady
from gevent.event import Event

from gvcluster import (
    Cluster,
    ConnectFailed,
    ConnectionLost,
    GvClusterError,
    ReplyError,
    ReplyTimeout,
    RetriesExhausted,
    SlotNotCovered,
    hash_slot,
)
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import NOT_HANDLED, Answer, Close, Delay, Reset
from gvcluster.testing.fake_connection import FakeConnection

# libuv counts in milliseconds, and its timers go off too early by up to two of them.
LIBUV = 0.002


# What a server says that may take the command later; True where a fresh slot map may help.
NOT_NOW = [
    ("TRYAGAIN Multiple keys request during rehashing of slot", False),
    ("MIGRATING slot is on its way", False),
    ("CLUSTERDOWN The cluster is down", True),
    ("LOADING Valkey is loading the dataset in memory", True),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True),
    ("READONLY You can't write against a read only replica.", True),
]


def maps_told(fake: FakeCluster) -> int:
    return sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes)


def map_is_told(fake: FakeCluster) -> Event:
    """An event that is set when any node is asked for a map."""
    told = Event()
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", lambda *_: told.set() or NOT_HANDLED)
    return told


def met(error: Exception) -> tuple[Exception, ...]:
    """What the attempts met; the plain cause where there was one."""
    return error.attempts if isinstance(error, RetriesExhausted) else (error,)


def refusal(text: str) -> bytes:
    return f"-{text}\r\n".encode()


# -- not now -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "stale"), NOT_NOW)
def test_a_refusal_for_now_is_retried_and_the_map_fetched_where_that_helps(make, text, stale):
    with FakeCluster(nodes=1) as fake:
        cluster, node = make(fake.seeds), fake.nodes[0]
        cluster.connect()
        node.on("SET", refusal(text), times=3)
        assert cluster.execute("SET", "k", "v") == b"OK"
        assert len(node.commands("SET")) == 4
        assert (cluster.statistics().retries, cluster.statistics().redirects) == (3, 0)
        if stale:
            node.wait_until(lambda: maps_told(fake) == 2)
        assert maps_told(fake) == 1 + stale
        assert node.connections.accepted == 1


@pytest.mark.parametrize(("text", "stale"), NOT_NOW)
def test_a_refusal_that_does_not_end_is_told_with_all_attempts(fake, make, text, stale):
    node, cluster = fake.nodes[0], make(rng=Steady())
    cluster.execute("GET", fake.key_at(node))
    asked: list[float] = []
    node.on("SET", lambda *_: asked.append(monotonic()) or refusal(text))
    began = monotonic()
    with pytest.raises(RetriesExhausted) as caught:
        cluster.execute("SET", fake.key_at(node), "v", timeout=0.8)
    assert 0.7 < monotonic() - began < 5
    assert not caught.value.maybe_executed
    assert caught.value.__cause__ is caught.value.attempts[-1]
    assert [str(each) for each in caught.value.attempts] == [text] * len(asked)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert 3 <= len(gaps) <= 6
    assert all(gap >= 0.009 * 2**n - LIBUV for n, gap in enumerate(gaps))


@pytest.mark.parametrize(("text", "stale"), NOT_NOW)
def test_with_retry_never_a_refusal_is_the_callers(fake, make, text, stale):
    node, cluster = fake.nodes[0], make(retry="never")
    key = fake.key_at(node)
    node.on("SET", refusal(text))
    for options in ({}, {"retry": "never"}):
        with pytest.raises(ReplyError) as caught:
            cluster.execute("SET", key, "v", **options)
        assert caught.value.message == text
        assert not caught.value.maybe_executed
    assert len(node.commands("SET")) == 2
    assert cluster.statistics().retries == 0


@pytest.mark.parametrize("trouble", ["unserved", "CLUSTERDOWN", "READONLY"])
def test_with_retry_never_a_fresh_map_is_fetched_all_the_same(fake, make, trouble):
    cluster = make(retry="never")
    if trouble == "unserved":
        fake.move_slot(hash_slot("k"), None)
    else:
        fake.node_for_key("k").on("SET", refusal(trouble))
    cluster.connect()
    told = map_is_told(fake)
    with pytest.raises(GvClusterError):
        cluster.execute("SET", "k", "v")
    assert told.wait(1)


def test_retry_safe_of_one_call_overrides_never_of_the_cluster(fake, make):
    node, cluster = fake.nodes[0], make(retry="never")
    node.on("SET", refusal("TRYAGAIN"), times=1)
    assert cluster.execute("SET", fake.key_at(node), "v", retry="safe") == b"OK"
    assert len(node.commands("SET")) == 2


@pytest.mark.parametrize(
    "text", ["ERR oops", "WRONGTYPE x", "OOM x", "NOPERM x", "BUSY script", "NOREPLICAS x", "CROSSSLOT"]
)
def test_any_other_error_is_the_callers_at_once(fake, cluster, text):
    node = fake.nodes[0]
    node.on("GET", refusal(text))
    with pytest.raises(ReplyError) as caught:
        cluster.execute("GET", fake.key_at(node))
    assert (caught.value.message, caught.value.code) == (text, text.split()[0])
    assert not caught.value.maybe_executed
    assert len(node.commands("GET")) == 1
    assert maps_told(fake) == 1


def test_a_new_map_ends_the_wait_of_those_who_were_refused(fake, make, monkeypatch):
    for name in ("SHORTEST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(f"gvcluster.core.retry.{name}", 60.0)
    old, new, _ = fake.nodes
    cluster = make(timeout=100)
    key = fake.key_at(old)
    cluster.connect()
    old.on("SET", refusal("READONLY You can't write against a read only replica."))
    fake.move_slot(hash_slot(key), new)
    began = monotonic()
    assert cluster.execute("SET", key, "v") == b"OK"
    assert len(new.commands("SET")) == 1
    assert monotonic() - began < 20
    assert cluster.route_version == 2


# -- lost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Close(), Reset(), Close(b"+O"), Close(b"not RESP\r\n")])
def test_a_lost_write_is_not_repeated_and_may_have_run(fake, cluster, end):
    node = fake.nodes[0]
    key = fake.key_at(node)
    node.on("SET", end, times=1)
    with pytest.raises(ConnectionLost) as caught:
        cluster.execute("SET", key, "v")
    assert caught.value.maybe_executed
    assert caught.value.address == node.address
    assert len(node.commands("SET")) == 1
    assert cluster.statistics().retries == 0
    assert cluster.execute("SET", key, "v") == b"OK"
    assert node.connections.accepted == 2


@pytest.mark.parametrize("end", [Close(), Reset(), Close(b"$5\r\nhal")])
def test_a_lost_read_is_repeated_on_a_new_connection(fake, cluster, end):
    node = fake.nodes[0]
    key = fake.key_at(node)
    node.on("GET", end, times=2)
    assert cluster.execute("GET", key) is None
    assert [number for number, args in node.received if args[0] == b"GET"] == [1, 2, 3]
    assert cluster.statistics().retries == 2


def test_retry_always_repeats_a_lost_write_and_retry_never_no_lost_read(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    node.on("SET", Reset(), times=2)
    assert cluster.execute("SET", key, "v", retry="always") == b"OK"
    assert len(node.commands("SET")) == 3
    node.on("GET", Reset(), times=2)
    with pytest.raises(ConnectionLost) as caught:
        cluster.execute("GET", key, retry="never")
    assert caught.value.maybe_executed
    assert len(node.commands("GET")) == 1


def test_a_retried_write_that_is_lost_at_last_says_that_it_may_have_run(fake, cluster):
    node = fake.nodes[0]
    answers: list[Answer] = [refusal("TRYAGAIN"), Reset()]
    node.on("SET", lambda *_: answers.pop(0))
    with pytest.raises(ConnectionLost) as caught:
        cluster.execute("SET", fake.key_at(node), "v")
    assert caught.value.maybe_executed


def test_a_write_that_may_have_run_says_so_also_when_a_later_attempt_is_refused(fake, cluster):
    node = fake.nodes[0]
    answers: list[Answer] = [Reset(), refusal("OOM command not allowed")]
    node.on("SET", lambda *_: answers.pop(0))
    with pytest.raises(ReplyError, match="OOM") as caught:
        cluster.execute("SET", fake.key_at(node), "v", retry="always")
    assert caught.value.maybe_executed


def test_an_overdue_read_is_repeated_and_its_late_reply_is_nobodys(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("GET", key)
    answers: list[Answer] = [Delay(0.15, b"+late\r\n"), b"+second\r\n", b"+third\r\n"]
    node.on("GET", lambda *_: answers.pop(0))
    # The node is late with one reply only: its connection stays.
    assert cluster.execute("GET", key, command_timeout=0.1) == b"second"
    assert cluster.execute("GET", key) == b"third"
    assert node.connections.accepted == 1
    assert len(node.commands("GET")) == 4


@pytest.mark.parametrize("call", [{"command_timeout": 0.05}, {"timeout": 0.05}])
def test_an_overdue_write_is_not_repeated_and_a_fresh_map_is_asked_for(fake, cluster, call):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("GET", key)
    told = map_is_told(fake)
    node.on("SET", Delay(0.1, b"+OK\r\n"), times=1)
    with pytest.raises(ReplyTimeout) as caught:
        cluster.execute("SET", key, "v", **call)
    assert caught.value.maybe_executed
    assert told.wait(1)
    assert cluster.execute("GET", key) is None  # over the same connection: one late reply is no loss
    assert len(node.commands("SET")) == 1
    assert node.connections.accepted == 1


def test_a_silent_node_is_lost_and_a_read_goes_on_over_a_new_connection(fake, make):
    node, cluster = fake.nodes[0], make(command_timeout=1)
    key = fake.key_at(node)
    cluster.execute("GET", key)

    def no_more(_node: FakeNode, connection: FakeConnection, _args: list[bytes]) -> None:
        while connection.wait_bytes():
            pass  # a server answers in order: what comes after the GET is not answered either

    node.on("GET", no_more, times=1)
    assert cluster.execute("GET", key) is None
    node.wait_until(lambda: node.connections == (2, 1))
    asked = [number for number, args in node.received if args[0] == b"GET"]
    assert asked == [1, 1, 2]


# -- refused connections and unserved slots ----------------------------------------------------------------------------


def test_a_dead_node_is_waited_for_until_another_one_serves_the_slot(fake, make):
    dead, heir = fake.nodes[0], fake.nodes[1]
    lost = Event()
    cluster = make(on_disconnect=lambda *_: lost.set())
    key = fake.key_at(dead)
    cluster.execute("SET", key, "1")
    dead.stop()
    assert lost.wait(5)
    told = map_is_told(fake)
    writing = gevent.spawn(cluster.execute, "SET", key, "2")
    assert told.wait(5)
    assert not writing.ready()
    fake.move_slot(hash_slot(key), heir)
    assert writing.get(timeout=5) == b"OK"
    assert heir.data[key.encode()] == b"2"
    assert (len(dead.commands("SET")), len(heir.commands("SET"))) == (1, 1)
    assert cluster.statistics().redirects == 0
    assert cluster.route_version == 2


def test_a_dead_node_that_nobody_replaces_is_told_in_time(fake, make):
    refused: list[Any] = []
    cluster = make(on_connect=lambda connection, error: refused.append(connection) if error else None)
    cluster.connect()
    fake.nodes[0].stop()
    with pytest.raises(GvClusterError) as caught, gevent.Timeout(5):
        cluster.execute("SET", fake.key_at(fake.nodes[0]), "v", timeout=0.2)
    assert not caught.value.maybe_executed
    assert {type(each) for each in met(caught.value)} == {ConnectFailed}
    assert "refused" in str(met(caught.value)[0])
    assert 2 <= len(refused) <= 10  # the node is left alone between attempts


def test_a_failed_handshake_is_retried(fake, make, protocol):
    node, cluster = fake.nodes[0], make(client_name="me")
    cluster.execute("GET", fake.key_at(fake.nodes[1]))
    node.on("CLIENT SETNAME", Close(), times=1)
    assert cluster.execute("SET", fake.key_at(node), "v") == b"OK"
    assert len(node.commands("SET")) == 1


def test_a_slot_that_no_map_covers_is_told_after_one_more_fetch(fake, make):
    fake.move_slot(hash_slot("k"), None)
    cluster = make()
    cluster.connect()
    told = maps_told(fake)
    with pytest.raises(SlotNotCovered) as caught:
        cluster.execute("SET", "k", "v")
    assert caught.value.slot == hash_slot("k")
    assert not caught.value.maybe_executed
    assert maps_told(fake) == told + 1
    assert [node.commands("SET") for node in fake.nodes] == [[], [], []]
    fake.move_slot(hash_slot("k"), 1)
    assert cluster.execute("SET", "k", "v") == b"OK"


@pytest.mark.parametrize("others_connected", [True, False])
def test_a_slot_that_loses_its_owner_is_told_when_two_nodes_agree(fake, make, others_connected):
    owner = fake.node_for_key("k")
    cluster = make(str(owner.address))
    cluster.execute("SET", "k", "1")
    for node in fake.nodes:
        if others_connected:
            cluster.execute("GET", fake.key_at(node))
    fake.move_slot(hash_slot("k"), None)
    with pytest.raises(SlotNotCovered):
        cluster.execute("SET", "k", "2", timeout=5)
    assert cluster.route_version == 2
    assert owner.data[b"k"] == b"1"


# -- one deadline ------------------------------------------------------------------------------------------------------


def late(fake: FakeCluster, node: FakeNode, cluster: Cluster) -> None:
    cluster.execute("GET", fake.key_at(node), timeout=5)
    node.freeze()


PHASES: dict[str, Callable[[FakeCluster, FakeNode, Cluster], object]] = {
    "the first map": lambda fake, node, cluster: [each.freeze() for each in fake.nodes],
    "connecting": lambda fake, node, cluster: [cluster.connect(5), node.freeze()],
    "back-off": lambda fake, node, cluster: [cluster.connect(5), node.on("GET", refusal("TRYAGAIN"))],
    "waiting for news": lambda fake, node, cluster: [cluster.connect(5), node.on("GET", refusal("CLUSTERDOWN"))],
    "the reply": late,
    "blocked": lambda fake, node, cluster: [cluster.connect(5), node.on("BLPOP", None)],
    "connecting to block": lambda fake, node, cluster: [cluster.connect(5), node.freeze()],
}


def begin(
    phase: str, fake: FakeCluster, make: Callable[..., Cluster], **options: Any
) -> tuple[FakeNode, Cluster, tuple[Any, ...]]:
    """A cluster and a command that will stay in this phase."""
    node, cluster = fake.nodes[0], make(str(fake.nodes[1].address), client_name="me", **options)
    PHASES[phase](fake, node, cluster)
    key = fake.key_at(node)
    return node, cluster, ("BLPOP", key, 60) if "block" in phase else ("GET", key)


def heal(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.thaw()
        for name in ("GET", "BLPOP"):
            node.on(name, NOT_HANDLED)


@pytest.mark.parametrize("phase", [phase for phase in PHASES if "block" not in phase])
@pytest.mark.parametrize("of_the_call", [True, False])
def test_the_timeout_ends_the_call_in_every_phase(fake, make, phase, of_the_call):
    configured, given = ({"timeout": 60}, {"timeout": 0.1}) if of_the_call else ({"timeout": 0.1}, {})
    _, cluster, args = begin(phase, fake, make, connect_timeout=60, command_timeout=60, **configured)
    began = monotonic()
    with pytest.raises(GvClusterError) as caught:
        cluster.execute(*args, **given)
    assert 0.05 < monotonic() - began < 10
    assert caught.value.maybe_executed == (phase == "the reply")
    heal(fake)
    assert cluster.execute("GET", fake.key_at(fake.nodes[0]), timeout=5) is None


@pytest.mark.parametrize("phase", PHASES)
def test_a_timeout_of_the_user_passes_through_every_phase_untouched(fake, make, phase):
    node, cluster, args = begin(phase, fake, make)
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as mine:
        cluster.execute(*args)
    assert caught.value is mine
    heal(fake)
    assert cluster.execute("GET", fake.key_at(node)) is None
    assert cluster.execute("PING", node=node.address) == b"PONG"
    # What was being opened is for the next, also where a slow machine had not come further.
    kept = "block" in phase and not node.commands("BLPOP")
    node.wait_until(lambda: node.connections.open == 1 + kept)


@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_passes_through_every_phase_and_leaves_the_client_working(fake, make, phase):
    node, cluster, args = begin(phase, fake, make)
    calling = gevent.spawn(cluster.execute, *args)
    calling.join(0.05)
    assert not calling.ready()
    calling.kill(timeout=10)
    assert isinstance(calling.value, gevent.GreenletExit)
    heal(fake)
    assert cluster.execute("GET", fake.key_at(node)) is None
    assert cluster.execute("PING", node=node.address) == b"PONG"
    kept = "block" in phase and not node.commands("BLPOP")  # what was being opened is for the next
    node.wait_until(lambda: node.connections.open == 1 + kept)


def test_no_attempt_begins_when_the_time_is_up(fake, make):
    node, cluster = fake.nodes[0], make(rng=Steady())
    key = fake.key_at(node)
    cluster.execute("GET", key)
    node.on("SET", refusal("TRYAGAIN"))
    with pytest.raises(RetriesExhausted) as caught:
        cluster.execute("SET", key, "v", timeout=0.23)  # attempts after 0, 10, 30, 70 and 150 ms, the next after 310
    assert not caught.value.maybe_executed
    assert {str(each) for each in caught.value.attempts} == {"TRYAGAIN"}
    assert len(node.commands("SET")) == len(caught.value.attempts)


def test_a_call_that_may_wait_longer_than_the_client_gets_a_connection_of_its_own(fake, make):
    node, cluster = fake.nodes[0], make(command_timeout=0.1)
    key = fake.key_at(node)
    cluster.execute("GET", key)
    node.on("GET", Delay(0.2, b"+late\r\n"), times=1)
    assert cluster.execute("GET", key, command_timeout=2) == b"late"
    assert node.connections == (2, 2)
    assert len(node.commands("GET")) == 2


def test_a_blocked_call_may_outlast_both_timeouts_by_as_long_as_the_server_may_wait(fake, make):
    node, cluster = fake.nodes[0], make(command_timeout=0.15, timeout=0.3)
    key = fake.key_at(node)
    cluster.execute("GET", key, timeout=5)
    node.on("BLPOP", Delay(0.5, b"+late\r\n"))
    assert cluster.execute("BLPOP", key, 0) == b"late"
    assert cluster.execute("BLPOP", key, 5) == b"late"
    with pytest.raises(ReplyTimeout) as caught:
        cluster.execute("BLPOP", key, 0.05)
    assert caught.value.maybe_executed
    assert len(node.commands("BLPOP")) == 3
    node.wait_until(lambda: node.connections == (2, 1))  # two used the same, the last one's was closed


def test_what_a_silent_node_costs_beyond_the_servers_own_wait_counts(fake, make):
    node, cluster = fake.nodes[0], make(command_timeout=0.2, timeout=0.2, rng=Steady())
    key = fake.key_at(node)
    cluster.execute("GET", key)
    node.on("XREAD", None)
    with pytest.raises(GvClusterError) as caught:
        cluster.execute("XREAD", "BLOCK", 100, "STREAMS", key, "$")
    assert len(node.commands("XREAD")) <= 2, caught.value


@pytest.mark.parametrize(
    ("command", "most", "at"),
    [(("BLPOP", "KEY", 30), 29.9, 2), (("XREAD", "BLOCK", "30000", "STREAMS", "KEY", "$"), 29_900, 2)],
)
@pytest.mark.parametrize("error", ["MOVED", "UNBLOCKED force unblock from blocking operation, instance state changed"])
def test_the_server_may_wait_only_once_for_as_long_as_was_asked(fake, cluster, command, most, at, error):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    told = f"-MOVED {hash_slot(key)} {new.address}\r\n" if error == "MOVED" else f"-{error}\r\n"
    answers = [Delay(0.15, told.encode()), b"+popped\r\n"]
    for node in (old, new):
        node.on(command[0], lambda *_: answers.pop(0))
    assert cluster.execute(*(key if each == "KEY" else each for each in command)) == b"popped"
    first, second = [args for node in (old, new) for _, args in node.received if args[0] == command[0].encode()]
    assert 0 < float(second[at]) <= most < float(first[at])
    assert (first[:at], first[at + 1 :]) == (second[:at], second[at + 1 :])


def test_a_command_that_has_waited_long_enough_is_asked_once_more_without_waiting(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    answers = [Delay(0.05, b"-UNBLOCKED instance state changed\r\n"), b"*-1\r\n"] * 2
    node.on("BLPOP", lambda *_: answers.pop(0))
    assert cluster.execute("BLPOP", key, 0.01) is None
    assert cluster.execute("BLPOP", key, 0) is None
    timeouts = [args[2] for args in node.commands("BLPOP")]
    assert timeouts == [b"0.01", b"0.001", b"0", b"0"]  # for 0 would be for ever


@pytest.mark.parametrize("seconds", [0, 100])
def test_a_blocking_command_whose_node_is_away_fails_within_the_timeout(fake, cluster, seconds):
    node = fake.nodes[0]
    node.stop()
    popping = gevent.spawn(cluster.execute, "BLPOP", fake.key_at(node), seconds, timeout=0.2)
    try:
        with pytest.raises(GvClusterError) as caught:
            popping.get(timeout=5)
        assert "refused" in str(met(caught.value)[0])
        assert not caught.value.maybe_executed
    finally:
        popping.kill()
