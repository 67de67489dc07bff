"""Greenlets that listen for a facade's handlers: what ends them, what does not, and what they must not miss."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gvcluster.testing import FakeCluster, fake_pubsub
from gvcluster.testing.fake_node import FakeNode


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture
def of_fakes(facade: Any, fake: FakeCluster) -> Iterator[Any]:
    """A facade that knows them all."""
    client = facade(startup_nodes=fake.seeds, decode_responses=True)
    yield client
    client.close()


def until(condition: Any) -> None:
    """Wait for it."""
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.01)


def publish(fake: FakeCluster, channel: str, data: str) -> None:
    """Publish at all nodes: one of them has the subscription."""
    for node in fake.nodes:
        fake_pubsub.publish(node, channel, data)


def test_a_listener_whose_client_was_closed_holds_up_nobody(of_fakes: Any) -> None:
    told: list[Exception] = []

    def handler(error: Exception, _: Any, listener: Any) -> None:
        told.append(error)
        if len(told) == 1000:
            listener.stop()  # or nobody else ever had a turn

    pubsub = of_fakes.pubsub()
    pubsub.subscribe(news=print)
    listener = pubsub.run_in_thread(exception_handler=handler)
    gevent.sleep(0)
    of_fakes.close()
    until(lambda: told)
    gevent.sleep(0.1)
    assert listener.is_alive()
    assert len(told) < 1000
    listener.stop()
    listener.join(timeout=20)
    assert isinstance(told[0], of_fakes._library.error("ConnectionError"))


def test_a_handlers_own_timeout_is_told_and_the_listener_goes_on(of_fakes: Any, fake: FakeCluster) -> None:
    met: list[Any] = []

    def slow(message: Any) -> None:
        met.append(message["data"])
        if message["data"] == "1":
            with gevent.Timeout(0.01):
                gevent.sleep(20)

    pubsub = of_fakes.pubsub()
    pubsub.subscribe(news=slow)
    listener = pubsub.run_in_thread(exception_handler=lambda error, *_: met.append(type(error)))
    publish(fake, "news", "1")
    publish(fake, "news", "2")
    until(lambda: len(met) == 3 or not listener.is_alive())
    assert met == ["1", gevent.Timeout, "2"]
    listener.stop()
    listener.join(timeout=20)


def test_a_handler_gets_what_comes_before_all_of_its_subscriptions_are_confirmed(
    of_fakes: Any, fake: FakeCluster
) -> None:
    names = [fake.key_at(node) for node in fake.nodes]
    got: list[Any] = []

    def late(node: FakeNode, connection: Any, args: list[bytes]) -> bytes:
        if node is not fake.nodes[0]:
            until(lambda: got)
        return fake_pubsub.answer(connection, "SSUBSCRIBE", args[1:])

    for node in fake.nodes:
        node.on("SSUBSCRIBE", late)
    with of_fakes.pubsub() as pubsub:
        pubsub.subscribe(other=print)
        listener = pubsub.run_in_thread()
        subscribing = gevent.spawn(lambda: pubsub.ssubscribe(**dict.fromkeys(names, got.append)))
        until(lambda: fake_pubsub.publish(fake.nodes[0], names[0], "first", shard=True))
        subscribing.get(timeout=20)
        assert [each["data"] for each in got] == ["first"]
        listener.stop()
        listener.join(timeout=20)


def test_who_listens_is_told_what_another_greenlet_subscribes_to_and_ends_with_the_last_of_it(of_fakes: Any) -> None:
    pubsub, told = of_fakes.pubsub(), []
    pubsub.subscribe("a")
    listening = gevent.spawn(lambda: told.extend(pubsub.listen()))
    gevent.sleep(0.05)
    pubsub.psubscribe("b*")
    pubsub.unsubscribe()
    pubsub.punsubscribe()
    listening.get(timeout=20)
    assert [each["type"] for each in told] == ["subscribe", "psubscribe", "unsubscribe", "punsubscribe"]
    pubsub.close()


def test_who_waits_without_an_end_for_a_first_subscription_gets_its_confirmation(of_fakes: Any) -> None:
    with of_fakes.pubsub() as pubsub:
        waiting = gevent.spawn(pubsub.get_message, timeout=None)
        gevent.sleep(0.05)
        pubsub.subscribe("a")
        assert waiting.get(timeout=20)["type"] == "subscribe"


def test_a_pubsub_that_another_thread_has_made_says_so(of_fakes: Any) -> None:
    there = gevent.get_hub().threadpool
    with of_fakes.pubsub() as pubsub:
        pubsub.subscribe("a")
        pubsub.get_message()
        for method, args in ((pubsub.get_message, (False, 1)), (pubsub.subscribe, ("b",)), (pubsub.unsubscribe, ())):
            with pytest.raises(of_fakes._library.error("DataError"), match="make one in each thread"):
                there.apply(method, args)
