"""Pub/sub on the wire, and the inbox: pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster import Gap, Message, ReplyError
from gvcluster.core.inbox import Inbox
from gvcluster.core.resp import Push
from gvcluster.core.slots import hash_slot
from gvcluster.core.subscriptions import Confirmation, Kind, Pong, gap, groups, key_of, parse_item


@pytest.mark.parametrize(
    ("item", "meant"),
    [
        ([b"message", b"c", b"d"], Message(b"c", b"d")),
        ([b"smessage", b"c", b"d"], Message(b"c", b"d", shard=True)),
        ([b"pmessage", b"c*", b"c", b"d"], Message(b"c", b"d", b"c*")),
        ([b"subscribe", b"c", 1], Confirmation(Kind.CHANNEL, True, b"c")),
        ([b"psubscribe", b"c*", 2], Confirmation(Kind.PATTERN, True, b"c*")),
        ([b"ssubscribe", b"c", 1], Confirmation(Kind.SHARD, True, b"c")),
        ([b"unsubscribe", b"c", 1], Confirmation(Kind.CHANNEL, False, b"c")),
        ([b"punsubscribe", None, 0], Confirmation(Kind.PATTERN, False, None)),
        ([b"sunsubscribe", b"c", 0], Confirmation(Kind.SHARD, False, b"c")),
        ([b"pong", b""], Pong()),
        (b"PONG", Pong()),
        ([b"invalidate", [b"k"]], None),
        ([b"message", b"c"], None),
        ([b"message", b"c", None], None),
        ([b"subscribe", b"c", b"1"], None),
        ([b"subscribe", 3, 1], None),
        ([b"message", b"c", b"d", b"e"], None),
        ([], None),
        (b"OK", None),
        (1, None),
        (None, None),
    ],
)
def test_only_the_content_counts_not_whether_it_is_a_push(item, meant):
    assert parse_item(item, shard=False) == meant
    if isinstance(item, list):
        assert parse_item(Push(item), shard=False) == meant


WORDS = st.sampled_from([b"message", b"pmessage", b"smessage", b"subscribe", b"sunsubscribe", b"pong", b"x"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=4) | WORDS


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5)), st.booleans())
def test_whatever_comes_is_read_or_ignored(item, shard):
    parsed = parse_item(item, shard=shard)
    assert parsed is None or isinstance(parsed, Message | Confirmation | Pong)
    if isinstance(parsed, Message):
        assert isinstance(parsed.channel, bytes)
        assert isinstance(parsed.data, bytes)


def test_garnet_calls_the_messages_of_shard_channels_message_too():
    assert parse_item([b"message", b"c", b"d"], shard=True) == Message(b"c", b"d", shard=True)


def test_an_error_is_handed_on():
    error = ReplyError("NOPERM no")
    assert parse_item(error, shard=False) is error


@pytest.mark.parametrize(
    ("message", "kind", "key"),
    [
        (Message(b"c", b""), "message", (Kind.CHANNEL, b"c")),
        (Message(b"c", b"", b"c*"), "pmessage", (Kind.PATTERN, b"c*")),
        (Message(b"c", b"", shard=True), "smessage", (Kind.SHARD, b"c")),
    ],
)
def test_a_message_names_its_kind_and_its_subscription(message, kind, key):
    assert (message.kind, key_of(message)) == (kind, key)


def test_one_command_names_all_channels_but_only_shard_channels_of_one_slot():
    classic = [(Kind.CHANNEL, b"a"), (Kind.CHANNEL, b"b"), (Kind.PATTERN, b"a"), (Kind.CHANNEL, b"a")]
    sharded = [(Kind.SHARD, b"{x}1"), (Kind.SHARD, b"y"), (Kind.SHARD, b"{x}2")]
    assert hash_slot(b"x") != hash_slot(b"y")
    assert groups([*classic, *sharded]) == [classic[:2], classic[2:3], [sharded[0], sharded[2]], [sharded[1]]]


A, B, P, S = (Kind.CHANNEL, b"a"), (Kind.CHANNEL, b"b"), (Kind.PATTERN, b"a*"), (Kind.SHARD, b"a")


def test_a_gap_names_its_subscriptions_by_kind_each_once():
    made = gap([A, S, P, A, B], 10.0, 12.5, "why")
    assert made == Gap((b"a", b"b"), (b"a*",), (b"a",), 10.0, 2.5, "why")
    assert made.keys == [A, B, P, S]
    assert (made.kind, made.dropped) == ("gap", 0)


def drained(inbox):
    items = []
    while (item := inbox.take()) is not None:
        items.append(item)
    return items


def test_an_inbox_gives_in_order_what_it_took():
    inbox = Inbox(10, 10_000)
    first, lost, last = Message(b"a", b"1"), gap([A], 1.0, 2.0, "why"), Message(b"a", b"2")
    inbox.put(first, 1.0)
    inbox.put_gap(lost)
    inbox.put(last, 3.0)
    assert len(inbox) == 3
    assert drained(inbox) == [first, lost, last]
    assert inbox.take() is None


def test_gaps_that_follow_each_other_for_the_same_reason_are_one():
    inbox = Inbox(10, 10_000)
    for made in (gap([A], 5.0, 6.0, "why"), gap([B, A], 4.0, 7.0, "why"), gap([S], 1.0, 2.0, "else")):
        inbox.put_gap(made)
    assert drained(inbox) == [gap([A, B], 4.0, 7.0, "why"), gap([S], 1.0, 2.0, "else")]


def test_a_full_inbox_drops_the_oldest_and_counts_them():
    inbox = Inbox(3, 10_000)
    for number in range(10):
        inbox.put(Message(b"ab"[number % 2 : number % 2 + 1], b"%d" % number), float(number))
    first, *rest = drained(inbox)
    assert isinstance(first, Gap)
    assert (first.channels, first.since, first.seconds, first.dropped) == ((b"a", b"b"), 0.0, 6.0, 7)
    assert "3 waited already" in first.reason
    assert [item.data for item in rest] == [b"7", b"8", b"9"]


def test_after_a_gap_was_taken_the_next_one_counts_anew():
    inbox = Inbox(1, 10_000)
    for number in range(3):
        inbox.put(Message(b"a", b"%d" % number), float(number))
    assert inbox.take().dropped == 2
    inbox.put(Message(b"b", b"3"), 3.0)
    told = inbox.take()
    assert (told.dropped, told.channels, told.since) == (1, (b"a",), 2.0)


def test_a_gap_that_is_dropped_lives_on_in_the_one_that_tells_of_it():
    inbox = Inbox(2, 10_000)
    inbox.put_gap(gap([S], 1.0, 2.0, "moved"))
    for number in range(3, 6):
        inbox.put(Message(b"a", b""), float(number))
    told = inbox.take()
    assert (told.shard_channels, told.channels, told.since, told.dropped) == ((b"a",), (b"a",), 1.0, 1)


def test_an_inbox_has_a_bound_in_bytes_but_always_keeps_the_youngest():
    inbox = Inbox(100, 3000)
    for number in range(5):
        inbox.put(Message(b"a", b"x" * 1000), float(number))
    assert len(inbox) == 1 + 2
    inbox.put(Message(b"a", b"x" * 10_000), 9.0)
    told, youngest = drained(inbox)
    assert (told.dropped, len(youngest.data)) == (5, 10_000)
    inbox.put(Message(b"a", b"x" * 1000), 9.0)
    inbox.put(Message(b"a", b"x" * 1000), 9.0)
    assert len(inbox) == 2, "what was taken does not count any more"
