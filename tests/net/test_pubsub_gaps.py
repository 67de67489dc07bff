"""PubSub at scripted nodes: no loss without a Gap, and none that lasts longer than it must."""

from typing import Any

import gevent
import pytest

from gvcluster import Gap, SlotNotCovered, hash_slot
from gvcluster.core.retry import FREE_HOPS
from gvcluster.net.loop import HubLoop
from gvcluster.testing.fake_pubsub import push, withdraw


@pytest.fixture
def pubsub(cluster):
    with cluster.pubsub() as pubsub:
        yield pubsub


@pytest.mark.parametrize("end", ["lost", "moved"])
def test_what_was_not_confirmed_with_the_others_has_a_gap_of_its_own(fake, cluster, pubsub, end):
    names = ["{m}1", "{m}2"]
    node = fake.node_for_key(names[0])
    pubsub.ssubscribe(*names)

    def only_the_first(_node: Any, connection: Any, args: Any) -> Any:
        return push(connection, [b"ssubscribe", args[1], 1])

    node.on("SSUBSCRIBE", only_the_first, times=1)
    node.reset_connections()
    both = pubsub.get(10)
    assert set(both.shard_channels) == {name.encode() for name in names}
    if end == "lost":
        node.reset_connections()
    else:
        fake.move_slot(hash_slot(names[0]), fake.nodes[(node.index + 1) % 3])
        cluster.refresh()
    again: set[bytes] = set()
    while again != {name.encode() for name in names}:
        again.update(pubsub.get(10).shard_channels)
    assert pubsub.get(0.01) is None


def test_each_move_of_a_slot_long_after_the_last_one_is_the_first(fake, pubsub, monkeypatch):
    monkeypatch.setattr("gvcluster.net.subscription.GOOD", 0.0)
    pubsub.ssubscribe("{m}")
    (subscription,) = pubsub._subscriber._placement.subscriptions.values()
    for _ in range(5):
        source = fake.node_for_key("{m}")
        fake.move_slot(hash_slot("{m}"), fake.nodes[(source.index + 1) % 3])
        withdraw(source, "{m}")
        assert isinstance(pubsub.get(10), Gap)
        assert subscription.failures <= FREE_HOPS


@pytest.mark.parametrize("end", ["killed before it runs", "killed while it connects", "ended by an exception"])
def test_whatever_ends_who_connects_another_one_does(fake, pubsub, monkeypatch, end):
    pubsub.subscribe("a")
    spawn, left = HubLoop.spawn, [end]

    def spawn_what_ends(loop: HubLoop, function: Any, *args: Any) -> Any:
        if function.__name__ != "_open" or not left:
            return spawn(loop, function, *args)
        left.clear()
        greenlet = spawn(loop, (lambda *_: 1 / 0) if end.startswith("ended") else function, *args)
        if end == "killed while it connects":
            loop.soon(lambda: greenlet.kill(block=False))
        elif end == "killed before it runs":
            greenlet.kill(block=False)
        return greenlet

    monkeypatch.setattr(HubLoop, "spawn", spawn_what_ends)
    for node in fake.nodes:
        node.reset_connections()
    assert pubsub.get(10).channels == (b"a",)
    assert not left


def test_each_whose_time_is_over_gets_an_error_of_his_own(fake, make):
    fake.move_slot(hash_slot("x"), None)
    cluster = make()
    cluster.refresh()
    with cluster.pubsub() as pubsub:
        waiting = [gevent.spawn(pubsub.ssubscribe, "x", timeout=0.1) for _ in range(2)]
        gevent.joinall(waiting)
    assert [type(each.exception) for each in waiting] == [SlotNotCovered] * 2
    assert waiting[0].exception is not waiting[1].exception
