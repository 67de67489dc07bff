"""PubSub at scripted nodes: confirmations, refusals, moved slots, lost connections, and what the consumer sees."""

from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from gvcluster import (
    AuthFailed,
    BlockedInHub,
    ClosedError,
    ConfigError,
    Gap,
    GvClusterError,
    Message,
    ReplyError,
    ReplyTimeout,
    SlotNotCovered,
    hash_slot,
)
from gvcluster.testing.answers import NOT_HANDLED, Delay
from gvcluster.testing.fake_pubsub import publish, push, withdraw

NOPERM = b"-NOPERM User default has no permissions to access one of the channels used as arguments\r\n"


@pytest.fixture
def pubsub(cluster):
    with cluster.pubsub() as pubsub:
        yield pubsub


def subscriptions(fake):
    """What each node has subscribed, over all its connections."""
    return [{each for open in node.open_connections for each in open.subscriptions} for node in fake.nodes]


def subscribed_at(fake, name, command="SUBSCRIBE"):
    """The one node that has the subscription."""
    (node,) = [
        node
        for node in fake.nodes
        if any((command, name.encode()) in each.subscriptions for each in node.open_connections)
    ]
    return node


def raised(function, *args):
    """What it raises, or returns."""
    try:
        return function(*args)
    except GvClusterError as error:
        return error


def wait_for(condition):
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0.002)


def test_messages_come_in_order_from_channels_patterns_and_shard_channels(fake, pubsub):
    pubsub.subscribe("a", "b")
    pubsub.psubscribe("b*")
    pubsub.ssubscribe("a")
    node, owner = subscribed_at(fake, "a"), fake.node_for_key("a")
    assert subscribed_at(fake, "b") is subscribed_at(fake, "b*", "PSUBSCRIBE") is node
    assert (pubsub.channels, pubsub.patterns, pubsub.shard_channels) == ((b"a", b"b"), (b"b*",), (b"a",))
    assert [publish(node, "a", "1"), publish(node, "b", "2"), publish(node, "c", "3")] == [1, 2, 0]
    both = {pubsub.get(10), pubsub.get(10), pubsub.get(10)}
    assert both == {Message(b"a", b"1"), Message(b"b", b"2"), Message(b"b", b"2", b"b*")}
    assert publish(owner, "a", "4", shard=True) == 1
    assert pubsub.get(10) == Message(b"a", b"4", shard=True)
    assert pubsub.get(0.01) is None


def test_shard_channels_go_to_their_owners_one_command_for_each_slot(fake, pubsub):
    names = [fake.key_at(node, "{x}" if node is fake.node_for_key("x") else "s") for node in fake.nodes]
    names += [f"{names[0]}", "{same}1", "{same}2"]
    pubsub.ssubscribe(*names)
    asked = [args[1:] for node in fake.nodes for args in node.commands("SSUBSCRIBE")]
    assert sorted(name for each in asked for name in each) == sorted({name.encode() for name in names})
    assert all(len({hash_slot(name) for name in each}) == 1 for each in asked)
    assert [b"{same}1", b"{same}2"] in asked
    for name in names:
        assert subscribed_at(fake, name, "SSUBSCRIBE") is fake.node_for_key(name)


def test_thousands_are_confirmed_one_by_one_without_a_look_at_all_the_others(fake, cluster, pubsub, monkeypatch):
    looks = 0
    wanted = pubsub._subscriber._placement.wanted

    def counting(keys):
        nonlocal looks
        found = wanted(keys)
        looks += len(found)
        return found

    monkeypatch.setattr(pubsub._subscriber._placement, "wanted", counting)
    pubsub.subscribe(*(f"c{number}" for number in range(1000)))
    pubsub.ssubscribe(*(f"s{number}" for number in range(1000)))
    for node in fake.nodes:
        node.reset_connections()
    wait_for(lambda: "2000 of 2000" not in repr(pubsub))
    wait_for(lambda: "2000 of 2000" in repr(pubsub))
    assert looks < 100_000


def test_subscribe_returns_when_the_server_has_confirmed(fake, pubsub):
    for node in fake.nodes:
        node.on("SUBSCRIBE", Delay(0.1, None), times=1)  # is not answered at all
    late = gevent.spawn(pubsub.subscribe, "a", timeout=5)
    wait_for(lambda: any(node.commands("SUBSCRIBE") for node in fake.nodes))
    gevent.sleep(0.05)
    assert not late.ready()
    (node,) = [node for node in fake.nodes if node.commands("SUBSCRIBE")]
    connection = node.open_connections[-1]
    connection.send(push(connection, [b"subscribe", b"a", 1]))
    late.get(timeout=10)


def test_what_is_subscribed_to_already_is_not_asked_for_again(fake, pubsub):
    pubsub.subscribe("a")
    pubsub.subscribe("a", "b", "b")
    assert [args[1:] for node in fake.nodes for args in node.commands("SUBSCRIBE")] == [[b"a"], [b"b"]]


@pytest.mark.parametrize("answer", [NOPERM, b"-ERR unknown command 'SSUBSCRIBE', with args beginning with: \r\n"])
def test_a_refusal_is_raised_and_nothing_is_half_subscribed(fake, pubsub, answer):
    good, bad = fake.key_at(fake.nodes[0], "g"), fake.key_at(fake.nodes[1], "b")
    fake.on(1, "SSUBSCRIBE", answer)
    pubsub.ssubscribe("before")
    with pytest.raises(AuthFailed if answer is NOPERM else ReplyError) as caught:
        pubsub.ssubscribe(good, bad)
    assert any("subscribe()" in note for note in getattr(caught.value, "__notes__", [])) == (answer is not NOPERM)
    assert pubsub.shard_channels == (b"before",)
    left = {("SSUBSCRIBE", b"before")}
    wait_for(lambda: set.union(*subscriptions(fake)) == left)
    fake.on(1, "SSUBSCRIBE", NOT_HANDLED)
    pubsub.ssubscribe(good, bad)
    publish(fake.nodes[1], bad, "1", shard=True)
    assert pubsub.get(10) == Message(bad.encode(), b"1", shard=True)


@pytest.mark.parametrize("end", ["kill", "timeout", "user's timeout"])
def test_whoever_leaves_subscribe_leaves_nothing_behind(fake, pubsub, end):
    kept, new = fake.key_at(fake.nodes[0], "k"), fake.key_at(fake.nodes[1], "n")
    pubsub.ssubscribe(kept)
    fake.on(1, "SSUBSCRIBE", None, times=1)

    def subscribe():
        with gevent.Timeout(0.1 if end == "user's timeout" else None):
            pubsub.ssubscribe(kept, new, timeout=0.1 if end == "timeout" else 5)

    leaving = gevent.spawn(subscribe)
    fake.nodes[1].wait_until(lambda: len(fake.nodes[1].commands("SSUBSCRIBE")) == 1)
    if end == "kill":
        leaving.kill()
    else:
        with pytest.raises(ReplyTimeout if end == "timeout" else gevent.Timeout):
            leaving.get(timeout=10)
    assert pubsub.shard_channels == (kept.encode(),)
    pubsub.ssubscribe(new)
    publish(fake.nodes[1], new, "1", shard=True)
    publish(fake.nodes[0], kept, "2", shard=True)
    assert {pubsub.get(10).data, pubsub.get(10).data} == {b"1", b"2"}
    assert len(pubsub.shard_channels) == 2


def test_one_who_leaves_takes_nothing_from_another_who_wants_the_same(fake, pubsub):
    name = fake.key_at(fake.nodes[0])
    fake.on(0, "SSUBSCRIBE", None, times=1)
    first, second = (gevent.spawn(pubsub.ssubscribe, name, timeout=5) for _ in range(2))
    fake.nodes[0].wait_until(lambda: fake.nodes[0].commands("SSUBSCRIBE"))
    first.kill()
    connection = fake.nodes[0].open_connections[-1]
    connection.send(push(connection, [b"ssubscribe", name.encode(), 1]))
    second.get(timeout=10)
    assert pubsub.shard_channels == (name.encode(),)


def test_a_dead_node_is_tried_again_until_it_is_there(fake, make):
    cluster = make()
    cluster.connect()
    name = fake.key_at(fake.nodes[2])
    cluster.close_idle()
    fake.nodes[2].stop()
    with cluster.pubsub() as pubsub:
        waiting = gevent.spawn(pubsub.ssubscribe, name, fake.key_at(fake.nodes[0]), timeout=20)
        fake.nodes[0].wait_until(lambda: fake.nodes[0].commands("SSUBSCRIBE"))
        gevent.sleep(0.05)
        fake.nodes[2].start()
        waiting.get(timeout=10)
        assert pubsub.get(0.01) is None, "there is no Gap in what was never confirmed"


def test_a_timeout_tells_what_stood_in_the_way(fake, make):
    fake.move_slot(hash_slot("x"), None)
    with make().pubsub() as pubsub, pytest.raises(SlotNotCovered):
        pubsub.ssubscribe("x", timeout=0.1)


def test_the_loss_of_a_connection_is_a_gap_between_the_messages(fake, pubsub):
    pubsub.subscribe("a", "b")
    pubsub.psubscribe("x*")
    node = subscribed_at(fake, "a")
    publish(node, "a", "1")
    wait_for(lambda: len(pubsub._subscriber.inbox) == 1)
    node.reset_connections()
    wait_for(lambda: sum(map(len, subscriptions(fake))) == 3)
    publish(subscribed_at(fake, "a"), "a", "2")
    items = [pubsub.get(10) for _ in range(3)]
    assert [items[0], items[2]] == [Message(b"a", b"1"), Message(b"a", b"2")]
    assert isinstance(items[1], Gap)
    assert (items[1].channels, items[1].patterns, items[1].shard_channels) == ((b"a", b"b"), (b"x*",), ())
    assert "lost the connection" in items[1].reason
    assert 0 < items[1].seconds < 5
    assert pubsub.get(0.01) is None


def test_each_lost_link_tells_of_its_own_subscriptions_only(fake, pubsub):
    names = [fake.key_at(node) for node in fake.nodes]
    pubsub.ssubscribe(*names)
    fake.nodes[1].reset_connections()
    assert pubsub.get(5).shard_channels == (names[1].encode(),)
    for node, name in zip(fake.nodes, names, strict=True):
        publish(node, name, "1", shard=True)
    assert {pubsub.get(10).channel for _ in names} == {name.encode() for name in names}


def test_a_slot_that_moves_takes_its_channel_along(fake, pubsub):
    name, other = "{m}1", "{m}2"
    source = fake.node_for_key(name)
    target = fake.nodes[(source.index + 1) % 3]
    pubsub.ssubscribe(name, other)
    publish(source, name, "1", shard=True)
    fake.move_slot(hash_slot(name), target)
    withdraw(source, name)
    withdraw(source, other)
    wait_for(lambda: len(subscriptions(fake)[target.index]) == 2)
    publish(target, name, "2", shard=True)
    items = [pubsub.get(10) for _ in range(3)]
    assert [items[0].data, items[2].data] == [b"1", b"2"]
    assert set(items[1].shard_channels) == {name.encode(), other.encode()}
    assert "no longer" in items[1].reason


def test_a_moved_answer_to_the_first_question_is_followed_without_a_gap(fake, make):
    cluster = make()
    cluster.connect()
    name = fake.key_at(fake.nodes[0])
    fake.move_slot(hash_slot(name), 2)
    with cluster.pubsub() as pubsub:
        pubsub.ssubscribe(name)
        assert subscribed_at(fake, name, "SSUBSCRIBE") is fake.nodes[2]
        assert len(fake.nodes[0].commands("SSUBSCRIBE")) == 1
        assert pubsub.get(0.01) is None


def test_a_new_slot_map_moves_a_channel_though_its_old_owner_says_nothing(fake, cluster, pubsub):
    name = fake.key_at(fake.nodes[0])
    pubsub.ssubscribe(name)
    fake.move_slot(hash_slot(name), 1)
    cluster.refresh()
    wait_for(lambda: subscriptions(fake)[1])
    publish(fake.nodes[0], name, "old", shard=True)
    publish(fake.nodes[1], name, "new", shard=True)
    items = [pubsub.get(10), pubsub.get(10)]
    assert items[0].shard_channels == (name.encode(),)
    assert items[1].data == b"new"
    assert pubsub.get(0.05) is None


def test_a_node_that_ends_a_subscription_and_takes_it_again_is_not_believed_before_a_new_map(fake, cluster, pubsub):
    # So does a primary that has become a replica.
    name = fake.key_at(fake.nodes[0])
    pubsub.ssubscribe(name)
    gate = gevent.event.Event()

    def slots(_node: Any, _connection: Any, _args: Any) -> Any:
        gate.wait()
        return NOT_HANDLED

    for node in fake.nodes:
        node.on("CLUSTER SLOTS", slots)
    withdraw(fake.nodes[0], name)
    fake.nodes[0].wait_until(lambda: len(fake.nodes[0].commands("SSUBSCRIBE")) >= 3)
    publish(fake.nodes[0], name, "1", shard=True)
    assert pubsub.get(0.05) is None
    gate.set()
    assert isinstance(pubsub.get(5), Gap)
    publish(fake.nodes[0], name, "2", shard=True)
    assert pubsub.get(10) == Message(name.encode(), b"2", shard=True)


def test_an_end_that_is_said_twice_does_not_hit_the_next_command(fake, pubsub):
    # The slot moves while SUNSUBSCRIBE is under way: the node says so by itself, and answers with MOVED.
    gone, kept = "{t}1", next(f"k{n}" for n in range(99) if fake.node_for_key(f"k{n}") is fake.node_for_key("{t}1"))
    node = fake.node_for_key(gone)
    pubsub.ssubscribe(gone)
    moved = b"-MOVED %d 127.0.0.1:1\r\n" % hash_slot(gone)

    def twice(_node: Any, connection: Any, _args: Any) -> Any:
        return push(connection, [b"sunsubscribe", gone.encode(), 0]) + moved

    node.on("SUNSUBSCRIBE", twice, times=1)
    pubsub.ssubscribe(kept)
    pubsub.sunsubscribe(gone)
    pubsub.ssubscribe(fake.key_at(node, "z"))
    publish(node, kept, "1", shard=True)
    assert pubsub.get(10) == Message(kept.encode(), b"1", shard=True)
    assert len(node.commands("SSUBSCRIBE")) == 3


def test_a_confirmation_that_an_end_overtook_confirms_nothing(fake, pubsub):
    name, node = fake.key_at(fake.nodes[0]), fake.nodes[0]
    pubsub.ssubscribe(fake.key_at(node, "stays"))
    for command in ("SSUBSCRIBE", "SUNSUBSCRIBE"):
        node.on(command, None)
    first = gevent.spawn(pubsub.ssubscribe, name)
    node.wait_until(lambda: len(node.commands("SSUBSCRIBE")) == 2)
    first.kill()
    second = gevent.spawn(pubsub.ssubscribe, name)
    node.wait_until(lambda: len(node.commands("SSUBSCRIBE")) == 3)
    connection = node.open_connections[-1]
    for word in ("ssubscribe", "sunsubscribe", "ssubscribe"):
        gevent.sleep(0.02)
        assert not second.ready()
        connection.send(push(connection, [word.encode(), name.encode(), 1]))
    second.get(timeout=10)


def test_each_who_waits_for_a_refused_channel_gets_an_error_of_his_own(fake, pubsub):
    for node in fake.nodes:
        node.on("SUBSCRIBE", Delay(0.05, NOPERM))
    errors = [gevent.spawn(raised, pubsub.subscribe, "a") for _ in range(2)]
    gevent.joinall(errors, timeout=10, raise_error=True)
    assert [type(each.value) for each in errors] == [AuthFailed, AuthFailed]
    assert errors[0].value is not errors[1].value


def test_confirmations_may_come_in_any_order(fake, pubsub):
    node = fake.nodes[0]
    names = ["{a}1", "{a}2"]
    node = fake.node_for_key(names[0])

    def reversed_order(_node: Any, connection: Any, args: Any) -> Any:
        return b"".join(push(connection, [b"ssubscribe", name, 1]) for name in reversed(args[1:]))

    node.on("SSUBSCRIBE", reversed_order)
    pubsub.ssubscribe(*names, timeout=1)


def test_after_unsubscribe_nothing_more_comes_and_an_unused_connection_is_closed(fake, cluster, pubsub):
    pubsub.subscribe("a", "b")
    node = subscribed_at(fake, "a")
    pubsub.unsubscribe("a")
    publish(node, "a", "1")
    publish(node, "b", "2")
    assert pubsub.get(10).data == b"2"
    before = sum(len(each.open_connections) for each in fake.nodes)
    pubsub.unsubscribe()
    assert pubsub.channels == ()
    wait_for(lambda: sum(len(each.open_connections) for each in fake.nodes) == before - 1)
    pubsub.unsubscribe("never")


def test_subscribed_again_at_once_it_is_heard_again(fake, pubsub):
    pubsub.subscribe("a", "stays")
    for _ in range(3):
        pubsub.unsubscribe("a")
        pubsub.subscribe("a")
    publish(subscribed_at(fake, "a"), "a", "1")
    assert pubsub.get(10) == Message(b"a", b"1")


def test_an_idle_node_is_pinged_and_one_that_does_not_answer_is_left(fake, make):
    cluster = make(command_timeout=0.2)
    cluster.connect()
    with cluster.pubsub(ping_interval=0.05) as pubsub:
        pubsub.subscribe("a")
        node = subscribed_at(fake, "a")
        node.wait_until(lambda: len(node.commands("PING")) >= 3)
        assert sum(each.in_flight for each in cluster.statistics().nodes) <= 1, "what was answered is forgotten"
        assert pubsub.get(0.01) is None
        for each in fake.nodes:
            each.on("PING", None, times=1)
        gap = pubsub.get(5)
        assert isinstance(gap, Gap)
        assert "not a byte" in gap.reason
        assert pubsub.channels == (b"a",)


def test_a_slow_consumer_is_told_how_much_was_dropped(fake, cluster):
    with cluster.pubsub(max_messages=5) as pubsub:
        pubsub.subscribe("a")
        node = subscribed_at(fake, "a")
        for number in range(20):
            publish(node, "a", str(number))
        wait_for(lambda: len(pubsub._subscriber.inbox) == 6)
        publish(node, "a", "20")
        gevent.sleep(0.01)
        items = [pubsub.get(10) for _ in range(6)]
        assert (items[0].dropped, items[0].channels) == (16, (b"a",))
        assert [item.data for item in items[1:]] == [b"16", b"17", b"18", b"19", b"20"]


def test_a_callback_is_called_in_order_in_a_greenlet_and_may_wait(fake, cluster, monkeypatch):
    reported = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda context, kind, error, trace: reported.append(str(error)))
    called = []

    def on_message(item):
        called.append((item.data, gevent.getcurrent() is get_hub()))
        gevent.sleep(0.005)
        if item.data == b"1":
            raise ValueError("mine")

    with cluster.pubsub(on_message=on_message) as pubsub:
        pubsub.subscribe("a")
        for number in range(3):
            publish(subscribed_at(fake, "a"), "a", str(number))
        wait_for(lambda: len(called) == 3)
        assert called == [(b"0", False), (b"1", False), (b"2", False)]
        assert reported == ["mine"]
        with pytest.raises(ConfigError, match="on_message"):
            pubsub.get()


@pytest.mark.parametrize("error", [gevent.Timeout(9), gevent.GreenletExit(), KeyError("mine")])
def test_whatever_ends_a_callback_the_next_items_are_told(fake, cluster, monkeypatch, error):
    monkeypatch.setattr(get_hub(), "handle_error", lambda *_: None)
    called = []

    def on_message(item):
        called.append(item.data)
        if item.data == b"0":
            raise error

    with cluster.pubsub(on_message=on_message) as pubsub:
        pubsub.subscribe("a")
        for number in range(3):
            publish(subscribed_at(fake, "a"), "a", str(number))
        wait_for(lambda: called == [b"0", b"1", b"2"])


def test_a_consumer_that_is_killed_loses_nothing(fake, pubsub):
    pubsub.subscribe("a")
    node = subscribed_at(fake, "a")
    taken = []
    for number in range(20):
        reader = gevent.spawn(lambda: taken.append(pubsub.get()))
        gevent.sleep(0)
        publish(node, "a", str(number))
        if number % 2:
            gevent.sleep(0)
        reader.kill()
    while (item := pubsub.get(0.05)) is not None:
        taken.append(item)
    assert [item.data for item in taken] == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize("end", ["close", "disconnect", "pubsub"])
def test_the_end_ends_iteration_cleanly_and_nothing_waits_for_subscriptions(fake, cluster, end):
    pubsub = cluster.pubsub()
    pubsub.subscribe("a")
    consumer = gevent.spawn(list, pubsub)
    getter = gevent.spawn(raised, pubsub.get)
    publish(subscribed_at(fake, "a"), "a", "1")
    gevent.sleep(0.02)
    {"close": cluster.close, "disconnect": cluster.disconnect, "pubsub": pubsub.close}[end]()
    gevent.joinall([consumer, getter], timeout=10, raise_error=True)
    assert isinstance(getter.value, ClosedError | Message)
    assert [item.data for item in consumer.value] in ([b"1"], [])
    assert pubsub.closed
    for method in (pubsub.get, pubsub.unsubscribe, lambda: pubsub.subscribe("b")):
        with pytest.raises(ClosedError):
            method()
    pubsub.close()


def test_a_subscribe_under_way_ends_with_the_cluster(fake, cluster):
    pubsub = cluster.pubsub()
    for node in fake.nodes:
        node.on("SUBSCRIBE", None)
    waiting = gevent.spawn(raised, pubsub.subscribe, "a")
    wait_for(lambda: any(node.commands("SUBSCRIBE") for node in fake.nodes))
    cluster.close()
    assert isinstance(waiting.get(timeout=10), ClosedError)


def test_an_idle_subscription_lets_the_loop_end_and_a_callback_keeps_it(fake, cluster):
    with cluster.pubsub(ping_interval=0.02) as pubsub:
        pubsub.subscribe("a")
        link = next(iter(pubsub._subscriber._placement.links))
        assert not link._connection._readable.ref
        assert pubsub._subscriber._hold is None
    with cluster.pubsub(on_message=print) as pubsub:
        pubsub.subscribe("a")
        assert pubsub._subscriber._hold.ref
        pubsub.unsubscribe("a")
        assert pubsub._subscriber._hold is None


def test_a_pubsub_that_is_dropped_is_closed_with_a_warning(fake, cluster):
    pubsub = cluster.pubsub()
    pubsub.subscribe("a")
    held = [pubsub]
    del pubsub
    with pytest.warns(ResourceWarning, match="not closed"):
        held.clear()
    wait_for(lambda: not set.union(*subscriptions(fake)))


def test_it_belongs_to_its_hub_and_does_not_wait_in_it(cluster, pubsub):
    refused = []

    def elsewhere():
        for method in (lambda: pubsub.subscribe("a"), lambda: pubsub.get(10), pubsub.unsubscribe):
            with pytest.raises(ConfigError, match="another hub"):
                method()
            refused.append(method)

    get_hub().threadpool.apply(elsewhere)
    assert len(refused) == 3
    blocked = []

    def in_hub():
        for method in (lambda: pubsub.subscribe("a"), lambda: pubsub.get(10)):
            with pytest.raises(BlockedInHub):
                method()
            blocked.append(method)

    get_hub().loop.run_callback(in_hub)
    gevent.sleep(0.01)
    assert len(blocked) == 2


@pytest.mark.parametrize(
    "options",
    [{"max_messages": 0}, {"max_bytes": 0}, {"ping_interval": 0}, {"on_message": 3}, {"on_mesage": print}],
)
def test_options_are_checked(make, options):
    with pytest.raises(ConfigError):
        make().pubsub(**options)


@pytest.mark.parametrize("names", [(), (3,), ("\ud800",), (None,)])
def test_names_are_checked_before_anything_is_sent(fake, pubsub, names):
    with pytest.raises(ConfigError):
        pubsub.subscribe(*names)
    assert not any(node.commands("SUBSCRIBE") for node in fake.nodes)


def test_it_makes_the_first_connection_of_a_cluster(fake, make):
    with make().pubsub() as pubsub:
        pubsub.subscribe("a")
        assert subscribed_at(fake, "a")


@pytest.mark.parametrize("piece", [1, 7])
def test_it_reads_whatever_pieces_the_messages_come_in(fake, pubsub, piece):
    pubsub.subscribe("a")
    (connection,) = [each for each in subscribed_at(fake, "a").open_connections if each.subscriptions]
    data = b"".join(push(connection, [b"message", b"a", b"%d" % number]) for number in range(50))
    connection.send_in_pieces(data, piece)
    assert [pubsub.get(10).data for _ in range(50)] == [b"%d" % number for number in range(50)]
