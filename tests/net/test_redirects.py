"""MOVED and ASK: who is believed, where the command goes then, and what is learned from it."""

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gvcluster import Address, GvClusterError, Redirected, ReplyError, RetriesExhausted, hash_slot
from gvcluster.errors import AuthFailed
from gvcluster.testing import FakeCluster, FakeNode, fake_server
from gvcluster.testing.answers import NOT_HANDLED, Answer, Delay, Reset, encode_reply
from gvcluster.testing.fake_connection import FakeConnection


@pytest.fixture
def stranger() -> Iterator[FakeNode]:
    """A node that is in nobody's map."""
    with FakeCluster(nodes=1) as cluster:
        yield cluster.nodes[0]


def works(fake: FakeCluster) -> list[int]:
    return [len(node.work()) for node in fake.nodes]


def redirect(kind: str, key: str, to: FakeNode | str) -> bytes:
    return f"-{kind} {hash_slot(key)} {to if isinstance(to, str) else to.address}\r\n".encode()


# -- MOVED -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("long_way", [False, True])
def test_moved_is_followed_and_the_next_command_goes_straight_to_the_new_owner(fake, cluster, long_way):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    options = {"timeout": 5} if long_way else {}
    cluster.execute("SET", key, "1", **options)
    fake.move_slot(hash_slot(key), new)
    assert cluster.execute("SET", key, "2", **options) == b"OK"
    assert cluster.execute("GET", key, **options) == b"2"
    assert works(fake) == [2, 2, 0]
    assert new.work() == [[b"SET", key.encode(), b"2"], [b"GET", key.encode()]]
    assert (cluster.statistics().redirects, cluster.statistics().retries) == (1, 0)


def test_the_node_that_sent_moved_is_asked_for_the_new_map(fake, make):
    asker, old, new = fake.nodes
    cluster = make(str(asker.address))
    key = fake.key_at(old)
    cluster.execute("GET", key)
    fake.move_slot(hash_slot(key), new)
    assert cluster.route_version == 1
    cluster.execute("GET", key)
    old.wait_until(lambda: old.commands("CLUSTER SLOTS"))
    assert [len(node.commands("CLUSTER SLOTS")) for node in fake.nodes] == [1, 1, 0]
    cluster.refresh()
    assert cluster.route_version == 2
    assert cluster.node_for_key(key).address == new.address
    assert [node.connections.accepted for node in fake.nodes] == [1, 1, 1]


def test_what_moved_said_outlives_a_map_that_was_asked_for_before(fake, make):
    asker, old, new = fake.nodes
    cluster = make(str(asker.address))
    key = fake.key_at(old)
    cluster.connect()
    stale = encode_reply(fake.slot_ranges())
    asker.on("CLUSTER SLOTS", Delay(0.1, stale), times=1)
    refreshing = gevent.spawn(cluster.refresh)
    asker.wait_until(lambda: len(asker.commands("CLUSTER SLOTS")) == 2)
    fake.move_slot(hash_slot(key), new)
    cluster.execute("SET", key, "1")
    refreshing.get(timeout=5)  # the old map is in
    assert cluster.execute("GET", key) == b"1"
    assert (len(old.work()), len(new.work())) == (1, 2)


def test_a_host_left_empty_is_the_host_that_answered(fake, cluster):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    fake.move_slot(hash_slot(key), new)
    old.on("GET", redirect("MOVED", key, f":{new.address.port}"))
    assert cluster.execute("GET", key) is None
    assert works(fake) == [1, 1, 0]
    assert cluster.statistics().redirects == 1


@pytest.mark.parametrize("target", ["?:6379", "127.0.0.1:0", ":0", "unassigned:0"])
def test_a_node_that_does_not_know_where_sends_us_to_a_fresh_map(fake, cluster, target):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    fake.move_slot(hash_slot(key), new)
    old.on("SET", redirect("MOVED", key, target))
    assert cluster.execute("SET", key, "v", timeout=2) == b"OK"
    assert len(new.commands("SET")) == 1
    assert cluster.route_version == 2
    assert cluster.statistics().redirects == 0
    assert cluster.statistics().retries == len(old.commands("SET"))


@pytest.mark.parametrize(
    "text",
    [
        "MOVED",
        "MOVED {slot}",
        "MOVED {other} {host}",
        "MOVED 0{slot} {host}",
        "MOVED 16390 {host}",
        "MOVED {slot} 127.0.0.1:70000",
        "MOVED {slot} {host} and more",
        "MOVED {slot} a@{host}",
        "ASK {other} {host}",
        "ASK {slot} 127.0.0.1:",
    ],
)
def test_a_redirect_that_makes_no_sense_is_the_callers_and_sends_nothing_anywhere(fake, cluster, stranger, text):
    owner = fake.nodes[0]
    key = fake.key_at(owner)
    slot = hash_slot(key)
    text = text.format(slot=slot, other=slot + 1, host=stranger.address)
    owner.on("SET", f"-{text}\r\n".encode())
    with pytest.raises(Redirected) as caught:
        cluster.execute("SET", key, "v")
    assert caught.value.message == text
    assert not caught.value.maybe_executed
    assert works(fake) == [1, 0, 0]
    assert stranger.connections.accepted == 0
    assert cluster.statistics().redirects == 0


def test_a_member_may_move_a_slot_to_a_node_that_no_map_lists_yet(fake, cluster, stranger):
    owner = fake.nodes[0]
    key = fake.key_at(owner)
    owner.on("SET", redirect("MOVED", key, stranger))
    assert cluster.execute("SET", key, "v") == b"OK"
    assert stranger.data == {key.encode(): b"v"}
    # The fresh map does not know the stranger: it goes, and its connection with it.
    cluster.refresh()
    stranger.wait_until(lambda: stranger.connections == (1, 0))


def test_a_moved_pingpong_ends_after_max_redirects_and_waits_between_the_later_hops(fake, make):
    one, two = fake.nodes[0], fake.nodes[1]
    cluster = make(max_redirects=7)
    key = fake.key_at(one)
    asked: list[float] = []

    def to(other: FakeNode) -> Any:
        def answer(*_: object) -> bytes:
            asked.append(monotonic())
            return redirect("MOVED", key, other)

        return answer

    one.on("SET", to(two))
    two.on("SET", to(one))
    with pytest.raises(RetriesExhausted, match=r"SET gave up .* 8 attempts \(7 redirects") as caught:
        cluster.execute("SET", key, "v")
    assert works(fake) == [4, 4, 0]
    assert [each.code for each in caught.value.attempts] == ["MOVED"] * 8
    assert caught.value.__cause__ is caught.value.attempts[-1]
    assert not caught.value.maybe_executed
    assert cluster.statistics().redirects == 7
    # 3 hops at once, then at least half of 10, 20, 40 and 80 ms; libuv's timers go off up to 2 ms early.
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert all(gap >= least - 0.002 for gap, least in zip(gaps[3:], (0.005, 0.010, 0.020, 0.040), strict=True))


def test_a_moved_pingpong_ends_with_the_deadline(fake, make):
    one, two = fake.nodes[0], fake.nodes[1]
    cluster = make(max_redirects=10**6)
    key = fake.key_at(one)
    one.on("SET", redirect("MOVED", key, two))
    two.on("SET", redirect("MOVED", key, one))
    cluster.connect()
    began = monotonic()
    with pytest.raises(RetriesExhausted) as caught:
        cluster.execute("SET", key, "v", timeout=0.2)
    assert 0.15 < monotonic() - began < 5
    assert not caught.value.maybe_executed
    assert 4 <= sum(works(fake)) <= 10  # the waits double


@pytest.mark.parametrize("how", ["kill", "timeout"])
@pytest.mark.parametrize("name", ["GET", "EVAL"])
def test_a_kill_or_timeout_between_redirects_passes_through(fake, make, name, how):
    one, two, teller = fake.nodes
    cluster = make(str(teller.address), max_redirects=10**6)
    key = fake.key_at(one)
    cluster.connect()
    for node, other in ((one, two), (two, one)):
        node.on(name, redirect("MOVED", key, other))
        if name == "EVAL":  # it waits for a word that confirms the redirect
            node.on("CLUSTER NODES", Delay(0.3, b"-ERR too late\r\n"))
    args = (name, "return 1", 1, key) if name == "EVAL" else (name, key)
    with contextlib.suppress(gevent.Timeout), gevent.Timeout(0.1) as mine:
        calling = gevent.spawn(cluster.execute, *args)
        calling.join(0.05) if how == "kill" else cluster.execute(*args)
    calling.kill()
    assert isinstance(calling.value, gevent.GreenletExit)
    assert how == "kill" or not mine.pending
    for node in (one, two):
        node.on(name, NOT_HANDLED)
    assert cluster.execute("GET", key) is None


def test_without_redirects_allowed_moved_is_the_callers_and_the_map_is_fetched_all_the_same(fake, make):
    old, new, teller = fake.nodes
    cluster = make(str(teller.address), max_redirects=0)
    key = fake.key_at(old)
    cluster.connect()
    fake.move_slot(hash_slot(key), new)
    told = Event()
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", lambda *_: told.set() or NOT_HANDLED)
    with pytest.raises(Redirected, match="MOVED"):
        cluster.execute("GET", key)
    assert (works(fake), cluster.statistics().redirects) == ([1, 0, 0], 0)
    assert told.wait(1)


def test_a_redirect_is_followed_even_where_nothing_may_be_retried(fake, make):
    cluster = make(retry="never")
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    cluster.execute("SET", key, "1")
    fake.move_slot(hash_slot(key), new)
    assert cluster.execute("SET", key, "2") == b"OK"
    assert cluster.execute("GET", key, retry="never") == b"2"
    assert works(fake) == [2, 2, 0]


# -- ASK ---------------------------------------------------------------------------------------------------------------


def test_ask_sends_asking_and_the_command_as_one_write_and_changes_no_map(fake, cluster):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    fake.begin_migration(hash_slot(key), new)
    behind_asking: list[bytes] = []

    def look(_node: FakeNode, connection: FakeConnection, args: list[bytes]) -> Answer:
        if args == [b"ASKING"]:
            behind_asking.append(connection.unread)
        return NOT_HANDLED

    new.override = look
    for _ in range(3):
        assert cluster.execute("GET", key) is None
    get = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key.encode())
    assert behind_asking == [get] * 3
    assert old.work() == [[b"GET", key.encode()]] * 3  # the next command goes to the old node again
    assert new.work() == [[b"ASKING"], [b"GET", key.encode()]] * 3
    assert new.connections.accepted == 1
    assert cluster.statistics().redirects == 3
    assert sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes) == 1


def test_ask_may_lead_to_a_node_that_no_map_lists(fake, cluster, stranger):
    owner = fake.nodes[0]
    key = fake.key_at(owner)
    owner.on("SET", redirect("ASK", key, stranger))
    for value in ("1", "2"):
        assert cluster.execute("SET", key, value) == b"OK"
    assert stranger.work() == [[b"ASKING"], [b"SET", key.encode(), b"1"], [b"ASKING"], [b"SET", key.encode(), b"2"]]
    assert stranger.connections.accepted == 1
    assert works(fake) == [2, 0, 0]


def test_a_blocking_command_that_is_asked_elsewhere_takes_asking_along(fake, cluster):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    old.on("BLPOP", redirect("ASK", key, new))
    new.on("BLPOP", lambda _node, connection, _args: b":1\r\n" if connection.asking else b":0\r\n")
    assert cluster.execute("BLPOP", key, 0) == 1
    assert [args[0] for args in new.work()] == [b"ASKING", b"BLPOP"]


def test_ask_to_a_node_that_refuses_connections_goes_back_to_the_map(fake, cluster):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    new.stop()
    old.on("SET", redirect("ASK", key, new), times=2)
    assert cluster.execute("SET", key, "v") == b"OK"
    assert works(fake) == [3, 0, 0]
    assert (cluster.statistics().redirects, cluster.statistics().retries) == (2, 2)


def test_asking_never_hits_the_command_of_another_greenlet(fake, cluster):
    old, new = fake.nodes[0], fake.nodes[1]
    asked, plain = fake.key_at(old), fake.key_at(new)
    fake.begin_migration(hash_slot(asked), new)
    new.data[asked.encode()], new.data[plain.encode()] = b"asked", b"plain"

    def read(key: str) -> list[Any]:
        return [cluster.execute("GET", key) for _ in range(10)]

    readers = [gevent.spawn(read, key) for _ in range(20) for key in (asked, plain)]
    gevent.joinall(readers, timeout=10)
    assert [reader.get(block=False) for reader in readers] == [[b"asked"] * 10, [b"plain"] * 10] * 20
    behind = [after for before, after in pairwise(new.work()) if before == [b"ASKING"]]
    assert behind == [[b"GET", asked.encode()]] * 200
    assert len(new.commands("GET")) == 400
    assert new.connections.accepted == 1


def test_a_killed_caller_leaves_no_asking_behind_for_the_next_command(fake, cluster):
    old, new = fake.nodes[0], fake.nodes[1]
    asked, plain = fake.key_at(old), fake.key_at(new)
    fake.begin_migration(hash_slot(asked), new)
    cluster.execute("GET", plain)
    new.freeze()
    callers = [gevent.spawn(cluster.execute, "GET", asked) for _ in range(5)]
    old.wait_until(lambda: len(old.commands("GET")) == 5)
    behind = [gevent.spawn(cluster.execute, "SET", plain, "v"), gevent.spawn(cluster.execute, "GET", plain)]
    gevent.sleep(0)  # a turn of the hub, so that all of them stand in the queue or are sent
    gevent.killall(callers)
    new.thaw()
    assert [each.get(timeout=5) for each in behind] == [b"OK", b"v"]
    assert cluster.execute("GET", plain) == b"v"
    for before, after in pairwise(new.work()):
        assert (before == [b"ASKING"]) == (after == [b"GET", asked.encode()])
    assert new.connections.accepted == 1


# -- what scripts say --------------------------------------------------------------------------------------------------

SCRIPTS = [("EVAL", "return 1", 1), ("EVALSHA", "0" * 40, 1), ("FCALL", "function", 1)]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("text", ["MOVED {slot} {stranger}", "ASK {slot} {stranger}", "ASK {slot} {member}"])
def test_a_redirect_that_a_script_made_up_is_not_followed(fake, cluster, stranger, script, text):
    owner = fake.nodes[0]
    key = fake.key_at(owner)
    text = text.format(slot=hash_slot(key), stranger=stranger.address, member=fake.nodes[1].address)
    owner.on(script[0], f"-{text}\r\n".encode())
    with pytest.raises(Redirected) as caught:
        cluster.execute(*script, key)
    assert caught.value.message == text
    assert caught.value.maybe_executed
    assert works(fake) == [1, 0, 0]
    assert stranger.connections.accepted == 0
    assert (cluster.statistics().redirects, cluster.statistics().retries) == (0, 0)


@pytest.mark.parametrize("code", ["TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "UNBLOCKED", "ERR"])
def test_an_error_that_a_script_may_have_made_up_is_not_retried(fake, cluster, code):
    owner = fake.nodes[0]
    owner.on("EVAL", f"-{code} so says the script\r\n".encode())
    with pytest.raises(ReplyError) as caught:
        cluster.execute("EVAL", "return 1", 1, fake.key_at(owner))
    assert caught.value.code == code
    assert caught.value.maybe_executed
    assert [len(node.commands("EVAL")) for node in fake.nodes] == [1, 0, 0]


def test_a_command_that_the_table_does_not_list_is_trusted_as_little_as_a_script(fake, cluster, stranger):
    owner = fake.nodes[0]
    key = fake.key_at(owner)
    owner.on("MYMODULE.DO", redirect("MOVED", key, stranger))
    with pytest.raises(Redirected) as caught:
        cluster.execute("MYMODULE.DO", "it", route_key=key)
    assert caught.value.maybe_executed
    assert (works(fake), stranger.connections.accepted) == ([1, 0, 0], 0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_moved_on_a_script_is_followed_once_its_node_says_the_same_without_a_script(fake, cluster, script):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    fake.move_slot(hash_slot(key), new)
    old.on(script[0], redirect("MOVED", key, new))
    new.on(script[0], b":7\r\n")
    assert cluster.execute(*script, key) == 7
    assert works(fake) == [1, 1, 0]
    assert cluster.statistics().redirects == 1


def test_a_script_without_keys_can_not_be_moved_not_even_to_the_owner_of_the_slot(fake, cluster):
    owner = fake.nodes[0]
    truth = redirect("MOVED", fake.key_at(owner), owner)
    for node in fake.nodes:
        node.on("EVAL", truth)
    for _ in range(6):
        with pytest.raises(Redirected) as caught:
            cluster.execute("EVAL", "return redis.error_reply('MOVED …')", 0)
        assert caught.value.maybe_executed
    assert sum(works(fake)) == 6  # each ran once


@pytest.mark.parametrize(
    ("code", "look", "answer"),
    [
        ("LOADING", "PING", b"-LOADING the dataset\r\n"),
        ("READONLY", "ROLE", encode_reply([b"slave", b"127.0.0.1", 1, b"connected", 0])),
        ("CLUSTERDOWN", "CLUSTER INFO", encode_reply(b"cluster_enabled:1\r\ncluster_state:fail\r\n")),
    ],
)
def test_what_a_script_says_is_retried_once_its_node_says_the_same_without_a_script(fake, cluster, code, look, answer):
    owner = fake.nodes[0]
    answers: list[Answer] = [f"-{code} so says the script\r\n".encode(), b":7\r\n"]
    owner.on("EVAL", lambda *_: answers.pop(0))
    owner.on(look, answer)
    assert cluster.execute("EVAL", "return 7", 1, fake.key_at(owner)) == 7
    assert cluster.statistics().retries == 1


def test_a_redirect_inside_an_array_is_data(fake, cluster, stranger):
    owner = fake.nodes[0]
    key = fake.key_at(owner)
    moved = redirect("MOVED", key, stranger)
    owner.on("GET", b"*2\r\n+OK\r\n" + moved)
    first, second = cluster.execute("GET", key)
    assert (first, isinstance(second, ReplyError)) == (b"OK", True)
    assert stranger.connections.accepted == 0
    assert Address.parse(second.message.split()[2]) == stranger.address


def test_counters_tell_the_truth_through_moves_losses_and_kills(fake, make):
    dice, maybe, seen = random.Random(3), Counter[str](), []
    cluster = make(timeout=3)

    def fault(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> Answer:
        roll = dice.random()
        if roll < 0.02:
            fake_server.answer(node, connection, args)  # executed, and nobody is told
        if roll < 0.04:
            return Reset()
        if 0.10 < roll < 0.15:
            fake.move_slot(hash_slot(args[1]), dice.randrange(3))
        return b"-TRYAGAIN\r\n" if roll < 0.10 else NOT_HANDLED

    def count() -> None:
        for number in range(20):
            key = f"counter{number % 4}"
            try:
                with gevent.Timeout(dice.choice([None, None, 0.004])):
                    seen.append((key, cluster.execute("INCR", key)))
            except gevent.Timeout:
                maybe[key] += 1
            except GvClusterError as error:
                maybe[key] += error.maybe_executed

    for node in fake.nodes:
        node.on("INCR", fault)
    gevent.joinall([gevent.spawn(count) for _ in range(30)], raise_error=True)
    assert len(seen) > 100
    assert len(set(seen)) == len(seen)  # nobody got the reply of another
    for key, told in Counter(key for key, _ in seen).items():
        executed = int(fake.node_for_key(key).data[key.encode()])
        assert told <= executed <= told + maybe[key]


def test_where_asking_is_refused_the_reason_is_told_instead_of_going_round_in_circles(fake, cluster):
    old, new = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(old)
    old.on("GET", redirect("ASK", key, new))
    new.on("ASKING", b"-NOPERM this user has no permissions to run the 'asking' command\r\n")
    with pytest.raises(AuthFailed, match="asking"):
        cluster.execute("GET", key)
    assert works(fake) == [1, 2, 0]
