"""Which node a command goes to, and that nothing goes anywhere where none can be chosen."""

import random
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult, Event

from gvcluster import (
    BlockedInHub,
    Cluster,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    CrossSlot,
    Explanation,
    NoKey,
    Redirected,
    ReplyError,
    StatefulCommand,
    UnknownCommand,
    hash_slot,
)
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import Close, Reset
from gvcluster.testing.fake_connection import FakeConnection


def works(fake: FakeCluster) -> list[list[list[bytes]]]:
    return [node.work() for node in fake.nodes]


def accepted(fake: FakeCluster) -> int:
    return sum(node.connections.accepted for node in fake.nodes)


# -- by key ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "on_the_wire"),
    [
        ("key1", b"key1"),
        ("kéy", "kéy".encode()),
        (b"\x00\xff\r\n", b"\x00\xff\r\n"),
        (42, b"42"),
        (-7, b"-7"),
        (1.5, b"1.5"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        ("user:{1}:name", b"user:{1}:name"),
        ("", b""),
    ],
)
def test_a_key_of_any_type_leads_to_the_owner_of_its_slot(fake, cluster, key, on_the_wire):
    assert cluster.execute("SET", key, "v") == b"OK"
    assert cluster.execute("GET", key) == b"v"
    owner = fake.node_for_key(on_the_wire)
    for node in fake.nodes:
        assert node.work() == ([[b"SET", on_the_wire, b"v"], [b"GET", on_the_wire]] if node is owner else [])
    assert cluster.statistics().redirects == 0


@pytest.mark.parametrize("name", ["GET", "get", "GeT", b"GET", b"get", b"gEt"])
def test_a_command_may_be_spelled_in_any_case(fake, cluster, name):
    for node in fake.nodes:
        assert cluster.execute(name, fake.key_at(node)) is None
        assert len(node.commands("GET")) == 1


def test_keys_with_one_hash_tag_go_together_to_the_owner_of_the_tag(fake, cluster):
    assert cluster.execute("DEL", "{user:1}:name", "a{user:1}b", "user:1") == 0
    assert [len(asked) for asked in works(fake)] == [int(fake.node_for_key("user:1") is node) for node in fake.nodes]


def test_the_replicas_are_left_alone(make, protocol):
    with FakeCluster(nodes=2, replicas=1) as fake:
        cluster = make(str(fake.nodes[0].address))
        for number in range(20):
            cluster.execute("GET", number)
            cluster.execute("ECHO", number)
        assert [node.connections.accepted for node in fake.nodes] == [1, 1, 0, 0]


def test_a_script_is_routed_by_the_keys_it_declares(fake, cluster):
    owner = fake.nodes[1]
    owner.on("EVAL", b":7\r\n")
    assert cluster.execute("EVAL", "return 7", 1, fake.key_at(owner), "key0") == 7
    assert [len(asked) for asked in works(fake)] == [0, 1, 0]


def test_keys_of_several_slots_are_refused_and_named(fake, make):
    with pytest.raises(CrossSlot, match="DEL: its 2 keys belong to 2 hash slots") as caught:
        make().execute("DEL", "a", "b")
    assert caught.value.keys == ("a", "b")
    assert accepted(fake) == 0


# -- without a key -----------------------------------------------------------------------------------------------------


def test_a_command_without_key_goes_to_any_primary_and_a_seeded_rng_repeats_the_choice(fake, make):
    def chosen() -> list[int]:
        cluster = make(rng=random.Random(11))
        before = [len(asked) for asked in works(fake)]
        order = []
        for number in range(12):
            assert cluster.execute("ECHO", number) == b"%d" % number
            order += [n for n, asked in enumerate(works(fake)) if len(asked) > before[n]]
            before = [len(asked) for asked in works(fake)]
        return order

    first = chosen()
    assert len(first) == 12
    assert set(first) == {0, 1, 2}
    assert chosen() == first


def test_route_key_chooses_the_node_and_is_not_sent(fake, cluster):
    for node in fake.nodes:
        cluster.execute("ECHO", "hello", route_key=fake.key_at(node))
    assert works(fake) == [[[b"ECHO", b"hello"]]] * 3


def test_a_command_that_concerns_several_nodes_wants_to_know_which(fake, make):
    cluster = make()
    for args in [("SCAN", 0), ("SCAN", 0, "COUNT", 5)]:
        with pytest.raises(NoKey, match=f"{args[0]}.* name one with node="):
            cluster.execute(*args)
    assert accepted(fake) == 0
    fake.nodes[1].on("DBSIZE", b":3\r\n")
    assert cluster.execute("DBSIZE", node=cluster.primaries()[1]) == 3
    assert works(fake) == [[], [[b"DBSIZE"]], []]


# -- to a node that the caller names -----------------------------------------------------------------------------------


def test_a_node_can_be_named_as_a_node_an_address_or_text(fake, cluster):
    for node in (cluster.primaries()[1], fake.nodes[1].address, str(fake.nodes[1].address)):
        assert cluster.execute("PING", node=node) == b"PONG"
    assert works(fake) == [[], [[b"PING"]] * 3, []]
    assert fake.nodes[1].connections.accepted == 1


def test_a_named_node_may_be_a_replica_or_a_stranger(make):
    with FakeCluster(nodes=1, replicas=1) as fake, FakeCluster(nodes=1) as strangers:
        cluster = make(fake.seeds)
        cluster.connect()
        assert cluster.execute("PING", node=fake.nodes[1].address) == b"PONG"
        assert cluster.execute("PING", node=str(strangers.nodes[0].address)) == b"PONG"
        assert [len(node.work()) for node in (*fake.nodes, *strangers.nodes)] == [0, 1, 1]


def test_a_call_to_a_named_stranger_is_not_ended_by_a_new_map(fake, make):
    with FakeCluster(nodes=1) as strangers:
        cluster, stranger = make(client_name="me"), strangers.nodes[0]
        cluster.connect()
        stranger.on("CLIENT SETNAME", None)
        calling = gevent.spawn(cluster.execute, "PING", node=stranger.address)
        stranger.wait_until(lambda: stranger.commands("CLIENT SETNAME"))
        fake.move_slot(5, 1)
        cluster.refresh()
        stranger.open_connections[0].send(b"+OK\r\n")
        assert calling.get(timeout=5) == b"PONG"


@pytest.mark.parametrize("redirect", [b"MOVED", b"ASK"])
def test_a_named_node_that_redirects_is_not_left(fake, cluster, redirect):
    here, there = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(there)
    here.on("GET", b"-%b %d %b\r\n" % (redirect, hash_slot(key), str(there.address).encode()))
    with pytest.raises(Redirected) as caught:
        cluster.execute("GET", key, node=here.address)
    assert caught.value.code == redirect.decode()
    assert not caught.value.maybe_executed
    assert works(fake) == [[[b"GET", key.encode()]], [], []]
    cluster.execute("GET", key)  # goes straight to the owner: nothing was learned from the redirect
    assert [len(asked) for asked in works(fake)] == [1, 1, 0]
    assert cluster.statistics().redirects == 0


@pytest.mark.parametrize("text", ["TRYAGAIN later", "LOADING the data", "CLUSTERDOWN", "READONLY replica"])
def test_a_named_node_that_refuses_is_not_asked_again(fake, cluster, text):
    fake.nodes[0].on("SET", f"-{text}\r\n".encode())
    with pytest.raises(ReplyError) as caught:
        cluster.execute("SET", "k", "v", node=fake.nodes[0].address)
    assert caught.value.message == text
    assert [len(asked) for asked in works(fake)] == [1, 0, 0]
    assert cluster.statistics().retries == 0


def test_a_named_node_that_is_lost_or_refuses_connections_is_not_asked_again(fake, cluster):
    node = fake.nodes[0]
    node.on("GET", Reset(), times=1)
    with pytest.raises(ConnectionLost) as lost:
        cluster.execute("GET", "k", node=node.address)
    assert lost.value.maybe_executed
    assert len(node.commands("GET")) == 1
    node.stop()
    with pytest.raises(ConnectFailed, match="refused") as refused:
        cluster.execute("GET", "k", node=node.address)
    assert refused.value.address == node.address
    assert not refused.value.maybe_executed
    assert cluster.statistics().retries == 0


# -- refused before anything is sent -----------------------------------------------------------------------------------


def test_an_unknown_command_is_sent_where_the_caller_says_and_nobody_is_asked_about_it(fake, cluster):
    for node in fake.nodes:
        node.on("MYMODULE.DO", b":1\r\n")
    assert cluster.execute("MYMODULE.DO", "it", node=fake.nodes[2].address) == 1
    assert cluster.execute(b"mymodule.do", "it", route_key=fake.key_at(fake.nodes[1])) == 1
    assert works(fake) == [[], [[b"mymodule.do", b"it"]], [[b"MYMODULE.DO", b"it"]]]


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (("SELECT", 1), "db="),
        (("AUTH", "secret"), "password="),
        (("HELLO", 3), "protocol="),
        (("CLIENT", "SETNAME", "me"), "client_name="),
        (("MULTI",), "transaction"),
        (("WATCH", "k"), "transaction"),
        (("SUBSCRIBE", "channel"), "cluster.pubsub()"),
        (("ASKING",), "followed"),
        (("MONITOR",), "connection"),
        (("CLIENT", "REPLY", "OFF"), "connection"),
        (("readonly",), "read"),
        (("RESET",), ""),
        (("QUIT",), ""),
    ],
)
def test_what_would_change_a_shared_connection_is_refused_with_advice(fake, cluster, args, advice):
    for options in ({}, {"node": fake.nodes[0].address}, {"route_key": "k"}):
        with pytest.raises(StatefulCommand) as caught:
            cluster.execute(*args, **options)
        assert advice in str(caught.value).partition("others share: ")[2]
        assert "secret" not in str(caught.value)
    assert works(fake) == [[], [], []]


NAN = float("nan")


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("",),
        (None,),
        (7,),
        ("GET k",),
        ("GET",),
        ("GET", None),
        ("GET", True),
        ("GET", "\ud800"),
        ("SET", "k", None),
        ("SET", "k", NAN),
        ("SET", "k", "\ud800"),
        ("SET", "k", True),
        ("SET", "k", ["v"]),
        ("SET", "k", object()),
        ("GET", 10**5000),
        ("CLUSTER",),
        ("EVAL", "return 1", "many", "k"),
        ("EVAL", "return 1", 2, "k"),
        ("BLPOP", "k"),
        ("BLPOP", "k", "soon"),
        ("BLPOP", "k", -1),
        ("BLPOP", "k", NAN),
        ("BLPOP", "k", float("inf")),
        ("XREAD", "BLOCK", 1.5, "STREAMS", "k", 0),
    ],
)
def test_arguments_that_make_no_sense_reach_no_node(fake, make, args):
    cluster = make()
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            cluster.execute(*args)
        assert not caught.value.maybe_executed
        assert "\ud800" not in str(caught.value)
    assert accepted(fake) == 0
    cluster.connect()
    with pytest.raises(ConfigError):
        cluster.execute(*args)
    with pytest.raises(ConfigError):
        cluster.execute(*args, node=fake.nodes[0].address, timeout=1)
    assert works(fake) == [[], [], []]


@pytest.mark.parametrize(
    "options",
    [
        {"nod": "127.0.0.1:1"},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": NAN},
        {"timeout": float("inf")},
        {"timeout": True},
        {"timeout": "1"},
        {"command_timeout": 0},
        {"command_timeout": NAN},
        {"retry": "sometimes"},
        {"retry": True},
        {"node": 7},
        {"node": "nowhere"},
        {"node": "127.0.0.1:0"},
        {"node": ("127.0.0.1", 1)},
        {"route_key": object()},
        {"route_key": True},
        {"route_key": "\ud800"},
    ],
)
def test_options_that_make_no_sense_reach_no_node(fake, make, options):
    cluster = make()
    with pytest.raises(ConfigError):
        cluster.execute("SET", "k", "v", **options)
    assert accepted(fake) == 0
    cluster.connect()
    with pytest.raises(ConfigError):
        cluster.execute("SET", "k", "v", **options)
    assert works(fake) == [[], [], []]


def test_what_would_wait_is_refused_in_the_hub(fake, make):
    lazy, ready = make(), make()
    ready.execute("GET", "k")
    calls = [
        lambda: lazy.execute("GET", "k"),
        lambda: ready.execute("GET", "k"),
        lambda: ready.execute("ECHO", "x"),
        lambda: ready.execute("PING", node=fake.nodes[0].address),
        lambda: ready.execute("BLPOP", "k", 0),
        lazy.connect,
        lazy.primaries,
        lambda: next(lazy.nodes()),
        ready.refresh,
        ready.disconnect,
    ]
    before = works(fake)
    for call in calls:
        told: AsyncResult[Any] = AsyncResult()

        def in_hub(call=call, told=told):
            try:
                told.set(call())
            except BaseException as error:
                told.set_exception(error)

        gevent.get_hub().loop.run_callback(in_hub)
        with pytest.raises(BlockedInHub):
            told.get(timeout=5)
    assert works(fake) == before
    assert ready.execute("GET", "k") is None


def test_explain_says_where_a_command_would_go_and_sends_nothing(fake, cluster):
    owner = cluster.node_for_key("{k}1")
    assert cluster.explain("SET", "{k}1", 1) == Explanation("SET", ("{k}1",), hash_slot("k"), owner, False, False)
    assert cluster.explain(b"get", b"{k}1") == Explanation("GET", (b"{k}1",), hash_slot("k"), owner, True, False)
    assert cluster.explain("BLPOP", "{k}1", "{k}2", 0).blocking
    assert cluster.explain("ECHO", "x") == Explanation("ECHO", (), None, None, False, False)
    assert Cluster(fake.seeds).explain("GET", "k").node is None
    for args, error in ((("DEL", "a", "b"), CrossSlot), (("NOSUCH",), UnknownCommand), ((), ConfigError)):
        with pytest.raises(error):
            cluster.explain(*args)
    assert works(fake) == [[], [], []]


# -- connections of one's own ------------------------------------------------------------------------------------------


def test_a_blocking_command_gets_a_connection_of_its_own_which_the_next_one_uses_again(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("GET", key)
    blocked: list[FakeConnection] = []
    node.on("BLPOP", lambda _node, connection, _args: blocked.append(connection))
    popping = gevent.spawn(cluster.execute, "BLPOP", key, 0)
    node.wait_until(lambda: blocked)
    assert cluster.execute("SET", key, "v") == b"OK"  # the others do not wait
    assert node.connections == (2, 2)
    assert blocked[0].number == 2
    blocked[0].send(b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n")
    assert popping.get(timeout=5) == [b"list", b"x"]
    node.on("BLPOP", b"*-1\r\n")
    assert cluster.execute("BLPOP", key, 1) is None
    assert node.connections == (2, 2)
    assert [number for number, args in node.received if args[0] in (b"GET", b"SET", b"BLPOP")] == [1, 2, 1, 2]


def test_xread_needs_a_connection_of_its_own_only_with_block(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("GET", key)
    node.on("XREAD", b"*-1\r\n")
    assert cluster.execute("XREAD", "COUNT", 1, "STREAMS", key, 0) is None
    assert node.connections.accepted == 1
    assert cluster.execute("XREAD", "BLOCK", 10, "STREAMS", key, 0) is None
    assert node.connections.accepted == 2


@pytest.mark.parametrize("how", ["kill", "timeout"])
def test_a_blocked_call_that_is_abandoned_closes_its_connection(fake, cluster, how):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("GET", key)
    node.on("BLPOP", None)
    if how == "kill":
        popping = gevent.spawn(cluster.execute, "BLPOP", key, 0)
        node.wait_until(lambda: node.commands("BLPOP"))
        popping.kill()
    else:
        with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as mine:
            cluster.execute("BLPOP", key, 0)
        assert caught.value is mine
    node.wait_until(lambda: node.connections == (2, 1))
    assert cluster.execute("GET", key) is None
    assert len(node.commands("BLPOP")) == 1


def test_moved_while_blocked_is_followed_and_nothing_is_popped_twice(fake, cluster):
    here, there = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(here)
    blocked: list[FakeConnection] = []
    here.on("BLPOP", lambda _node, connection, _args: blocked.append(connection))
    there.on("BLPOP", b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n")
    popping = gevent.spawn(cluster.execute, "BLPOP", key, 0)
    here.wait_until(lambda: blocked)
    fake.move_slot(hash_slot(key), there)
    blocked[0].send(f"-MOVED {hash_slot(key)} {there.address}\r\n".encode())
    assert popping.get(timeout=5) == [b"list", b"x"]
    assert (len(here.commands("BLPOP")), len(there.commands("BLPOP"))) == (1, 1)
    assert cluster.statistics().redirects == 1


@pytest.mark.parametrize(
    "last",
    [b"-UNBLOCKED force unblock from blocking operation\r\n", Close(b"-UNBLOCKED the instance is a replica\r\n")],
)
def test_an_unblocked_pop_is_repeated_on_another_connection_for_this_one_will_end(fake, cluster, last):
    node = fake.nodes[0]
    key = fake.key_at(node)
    answers = [last, b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n"]
    node.on("BLPOP", lambda *_: answers.pop(0))
    assert cluster.execute("BLPOP", key, 0) == [b"list", b"x"]
    first, second = [number for number, args in node.received if args[0] == b"BLPOP"]
    assert first != second
    assert cluster.statistics().retries == 1


@pytest.mark.parametrize("how", ["submit", "pipeline"])
def test_who_came_for_the_node_itself_waits_on_when_it_loses_its_slots_while_it_is_connected(make, how):
    with FakeCluster(1, replicas=1) as fake:
        old, new = fake.nodes
        begun, may_go_on = Event(), Event()

        def on_connect(connection: object, _error: object) -> None:
            if connection.address == old.address:
                begun.set()
                may_go_on.wait()

        cluster = make(str(new.address), connect_timeout=20.0, timeout=30.0, on_connect=on_connect)
        cluster.connect()

        def ask() -> list[object]:
            if how == "submit":
                pending = [cluster.submit("GET", "k"), cluster.submit("PING", node=old.address)]
                return [each.get() for each in pending]
            with cluster.pipeline() as pipe:
                pipe.append("GET", "k")
                pipe.append("PING", node=old.address)
                return pipe.execute()

        asked = gevent.spawn(ask)
        assert begun.wait(10)
        fake.promote(new)
        cluster.refresh()
        new.wait_until(lambda: new.commands("GET"))
        may_go_on.set()
        assert asked.get(timeout=20) == [None, b"PONG"]
