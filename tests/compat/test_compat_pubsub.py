"""Subscriptions of the facade: the messages are those of the library's own client."""

from typing import Any

import gevent
import pytest


def taken(pubsub: Any, count: int) -> list[Any]:
    """The next messages, so many of them."""
    messages: list[Any] = []
    with gevent.Timeout(30):
        while len(messages) < count:
            message = pubsub.get_message(timeout=0.2)
            if message is not None:
                messages.append(message)
    return messages


def story(client: Any, prefix: str) -> str:
    """What comes of some subscriptions, in order. Each has names of its own: an earlier one's message may be late."""
    a, b, c, h = (prefix + name for name in "abch")
    handled: list[Any] = []
    with client.pubsub() as pubsub:
        told = [pubsub.subscribed, pubsub.get_message()]
        pubsub.subscribe(a, b, **{h: handled.append})
        pubsub.psubscribe(f"{c}*")
        told += taken(pubsub, 4)
        for channel, data in ((a, "1"), (f"{c}1", b"2"), (a, "3")):
            client.publish(channel, data)
            told += taken(pubsub, 1)
        client.publish(h, "4")
        while not handled:
            pubsub.get_message(timeout=0.1)
        pubsub.unsubscribe(a)
        told += taken(pubsub, 1)
        pubsub.unsubscribe(b, h)
        pubsub.punsubscribe()
        told += taken(pubsub, 3)
        told += [pubsub.subscribed, sorted(pubsub.channels), handled]
    return repr(told).replace(prefix, "")


@pytest.mark.parametrize("decode", [False, True])
def test_messages_and_confirmations_are_the_librarys(
    original: Any, facade: Any, address: dict[str, Any], decode: bool
) -> None:
    theirs, ours = (kind(**address, decode_responses=decode) for kind in (original, facade))
    try:
        assert story(ours, f"ours-{decode}-") == story(theirs, f"theirs-{decode}-")
    finally:
        theirs.close()
        ours.close()


def test_shard_channels_of_any_slots_come_by_get_message(client: Any) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.ssubscribe("s1", "s2", "s3")
        for name in ("s1", "s2", "s3"):
            client.spublish(name, name)
        messages = taken(pubsub, 3)
    assert sorted(each["channel"] for each in messages) == ["s1", "s2", "s3"]
    assert {each["type"] for each in messages} == {"smessage"}


def test_listen_ends_when_nothing_is_subscribed_to(client: Any) -> None:
    pubsub = client.pubsub()
    pubsub.subscribe("a")
    types = []
    for message in pubsub.listen():
        types.append(message["type"])
        if message["type"] == "subscribe":
            client.publish("a", "x")
        else:
            pubsub.unsubscribe()
    assert types == ["subscribe", "message", "unsubscribe"]
    pubsub.close()


def test_a_greenlet_calls_the_handlers_until_it_is_stopped(client: Any) -> None:
    got: list[Any] = []
    pubsub = client.pubsub()
    pubsub.subscribe(news=got.append)
    listener = pubsub.run_in_thread(sleep_time=0.01)
    client.publish("news", "x")
    with gevent.Timeout(30):
        while not got:
            gevent.sleep(0.01)
    assert got[0]["data"] == "x"
    listener.stop()
    listener.join(timeout=30)
    assert not listener.is_alive()
    assert not pubsub.subscribed


def test_a_listener_needs_handlers(client: Any) -> None:
    with client.pubsub() as pubsub:
        pubsub.subscribe("a")
        with pytest.raises(client._library.error("PubSubError"), match="no handler"):
            pubsub.run_in_thread()
