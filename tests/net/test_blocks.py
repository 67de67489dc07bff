"""A block's replies: taken all at once, but for the last, and nobody's pushes among them."""

from typing import Any

import hiredis
import pytest
from gevent.hub import get_hub

from gvcluster.core.resp import ReplyReader
from gvcluster.net.multiplexed import CHUNK
from gvcluster.net.waiter import Block


@pytest.fixture
def reader() -> ReplyReader:
    return ReplyReader()


def block(owed: int) -> Block:
    """A block for which somebody waits."""
    made = Block(b"", owed, get_hub(), 0.0)
    made.wake = print  # anything but None
    return made


def test_all_but_the_last_reply_are_taken(reader):
    reader.feed(b":1\r\n:2\r\n:3\r\n:4\r\n")
    waiter = block(3)
    assert waiter.take(reader.gets, None) == 2
    assert (waiter.earlier, waiter.owed) == ([1, 2], 1)
    assert waiter.take(reader.gets, None) == 0
    assert reader.gets() == 3


def test_what_has_not_come_is_still_owed(reader):
    reader.feed(b":1\r\n:2\r\n$5\r\nab")
    waiter = block(9)
    assert waiter.take(reader.gets, None) == 2
    assert (waiter.earlier, waiter.owed) == ([1, 2], 7)
    reader.feed(b"cde\r\n")
    assert waiter.take(reader.gets, None) == 1
    assert (waiter.earlier, waiter.owed) == ([1, 2, b"abcde"], 6)


def test_pushes_among_them_answer_nobody(reader):
    pushes: list[Any] = []
    reader.feed(b":1\r\n>1\r\n+a\r\n:2\r\n>1\r\n+b\r\n:3\r\n")
    waiter = block(4)
    taken = waiter.take(reader.gets, pushes.append)
    assert waiter.owed == 4 - len(waiter.earlier)
    assert taken == 3
    while waiter.take(reader.gets, pushes.append):
        pass
    assert (waiter.earlier, waiter.owed) == ([1, 2, 3], 1)
    assert [list(push) for push in pushes] == [[b"a"], [b"b"]]


def test_replies_before_bytes_that_are_none_are_replies(reader):
    reader.feed(b":1\r\n:2\r\n?\r\n")
    waiter = block(9)
    with pytest.raises(hiredis.ProtocolError):
        waiter.take(reader.gets, None)
    assert (waiter.earlier, waiter.owed) == ([1, 2], 7)


def test_pushes_before_bytes_that_are_none_answer_nobody_either(reader):
    pushes: list[Any] = []
    reader.feed(b":1\r\n>1\r\n+a\r\n:2\r\n?\r\n")
    waiter = block(9)
    with pytest.raises(hiredis.ProtocolError):
        waiter.take(reader.gets, pushes.append)
    assert (waiter.earlier, waiter.owed) == ([1, 2], 7)
    assert [list(push) for push in pushes] == [[b"a"]]


def test_of_one_for_whom_nobody_waits_nothing_is_kept(reader):
    reader.feed(b":1\r\n:2\r\n")
    waiter = block(3)
    waiter.leave()
    assert waiter.take(reader.gets, None) == 0
    assert waiter.earlier == []


@pytest.mark.parametrize("beyond", [-1, 0, 1, 3 * CHUNK])
def test_a_reply_that_fills_the_buffer_exactly_or_not_comes_whole(fake, cluster, beyond):
    node = fake.nodes[0]
    size = CHUNK + beyond - len(b"$65536\r\n\r\n")
    node.on("GET", b"$%d\r\n%b\r\n" % (size, b"x" * size))
    for _ in range(3):
        assert len(cluster.execute("GET", fake.key_at(node))) == size
    pipe = cluster.pipeline()
    for _ in range(3):
        pipe.append("GET", fake.key_at(node))
    assert [len(reply) for reply in pipe.execute()] == [size] * 3
    assert node.connections.accepted <= 2
