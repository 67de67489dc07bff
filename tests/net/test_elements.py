"""hscan_iter, sscan_iter and zscan_iter: pages of one key's elements, and what happens when another process answers."""

from collections.abc import Iterator

import gevent
import pytest

from gvcluster import ConfigError, ElementIterator, ProtocolError, ReplyError, hash_slot
from gvcluster.testing.answers import Close, Delay

KEY = "{k}1"
COUNT = 12


class Process:
    """Has a node scan sets: an order of its own, and cursors that mean nothing to others."""

    def __init__(self, node, run: str, members: list[bytes]) -> None:
        self.node, self.run, self.members = node, run, members
        self.asked: list[bytes] = []
        self.moved_to = None  # the node that has the slot instead
        self.instead: list[object] = []  # what the next pages are answered
        node.on("INFO", self._info)
        for name in ("SSCAN", "HSCAN", "ZSCAN"):
            node.on(name, self._page)

    def _info(self, _node, _connection, args: list[bytes]) -> bytes:
        text = b"# Server\r\nrun_id:%s\r\n" % self.run.encode() if self.run else b""
        return b"$%d\r\n%s\r\n" % (len(text), text)

    def _page(self, _node, _connection, args: list[bytes]) -> object:
        if self.moved_to is not None:
            return f"-MOVED {hash_slot(KEY)} {self.moved_to.address}\r\n".encode()
        if self.instead:
            return self.instead.pop(0)
        self.asked.append(args[2])
        first = int(args[2])
        page = self.members[first : first + 4]
        end = first + 4
        cursor = b"%d" % (end if end < len(self.members) else 0)
        if args[0] != b"SSCAN":
            page = [part for member in page for part in (member, b"1.5")]
        listed = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in page)
        return b"*2\r\n$%d\r\n%s\r\n*%d\r\n%s" % (len(cursor), cursor, len(page), listed)


MEMBERS = [b"m%d" % number for number in range(COUNT)]


@pytest.fixture
def node(fake):
    return fake.node_for_key(KEY)


@pytest.fixture
def other(fake, node):
    return next(each for each in fake.nodes if each is not node)


@pytest.fixture
def process(node) -> Process:
    return Process(node, "aa", MEMBERS)


def some(iterator: Iterator[bytes], count: int) -> list[bytes]:
    return [next(iterator) for _ in range(count)]


def test_each_comes_once_page_by_page(cluster, node, process):
    assert list(cluster.sscan_iter(KEY)) == MEMBERS
    assert process.asked == [b"0", b"4", b"8"]
    assert node.commands("SSCAN")[0] == [b"SSCAN", KEY.encode(), b"0", b"COUNT", b"1000"]
    assert len(node.commands("INFO")) == 1
    assert list(cluster.hscan_iter(KEY, match="m*", count=5)) == [(member, b"1.5") for member in MEMBERS]
    assert node.commands("HSCAN")[0] == [b"HSCAN", KEY.encode(), b"0", b"MATCH", b"m*", b"COUNT", b"5"]
    assert list(cluster.zscan_iter(KEY.encode())) == [(member, 1.5) for member in MEMBERS]


def test_when_the_slot_has_moved_it_begins_anew_at_the_other_node(fake, cluster, node, other, process):
    there = Process(other, "bb", MEMBERS[::-1])
    iterator = cluster.sscan_iter(KEY)
    found = some(iterator, 4)
    fake.move_slot(hash_slot(KEY), other)
    process.moved_to = other
    found += iterator
    assert set(found) == set(MEMBERS)
    assert there.asked == [b"0", b"4", b"8"]


def test_a_key_that_went_to_another_node_and_came_back_begins_anew_each_time(fake, cluster, node, other, process):
    there = Process(other, "bb", MEMBERS[::-1])
    iterator = cluster.sscan_iter(KEY)
    some(iterator, 4)
    fake.move_slot(hash_slot(KEY), other)
    process.moved_to = other
    some(iterator, 4)
    fake.move_slot(hash_slot(KEY), node)
    process.moved_to, there.moved_to = None, node
    assert list(iterator) == MEMBERS
    assert (process.asked, there.asked) == ([b"0", b"0", b"4", b"8"], [b"0"])


@pytest.mark.parametrize(("run", "asked"), [("aa", [b"0", b"4", b"8"]), ("cc", [b"0", b"0", b"4", b"8"])])
def test_a_node_that_was_restarted_begins_anew_and_a_lost_connection_does_not(cluster, node, process, run, asked):
    iterator = cluster.sscan_iter(KEY)
    found = some(iterator, 4)
    process.run = run
    node.reset_connections()
    gevent.sleep(0.01)
    found += iterator
    assert set(found) == set(MEMBERS)
    assert process.asked == asked


def test_where_the_process_does_not_tell_who_it_is_its_connection_stands_for_it(cluster, node, process):
    process.run = ""
    assert list(cluster.sscan_iter(KEY)) == MEMBERS
    node.on("INFO", b"-NOPERM no\r\n")
    iterator = cluster.sscan_iter(KEY)
    some(iterator, 4)
    node.reset_connections()
    gevent.sleep(0.01)
    assert list(iterator) == MEMBERS
    assert process.asked == [b"0", b"4", b"8", b"0", b"0", b"4", b"8"]


def test_a_lost_page_is_fetched_again(cluster, node, process):
    iterator = cluster.sscan_iter(KEY)
    some(iterator, 4)
    process.instead.append(Close())
    assert list(iterator) == MEMBERS[4:]


def test_an_asked_node_goes_on_with_its_own_cursor(fake, cluster, node, other):
    there = Process(other, "bb", MEMBERS)
    node.on("INFO", b"$11\r\nrun_id:aa\r\n\r\n")
    node.on("SSCAN", f"-ASK {hash_slot(KEY)} {other.address}\r\n".encode())
    assert list(cluster.sscan_iter(KEY)) == MEMBERS
    assert there.asked == [b"0", b"4", b"8"]
    assert [args[2] for args in node.commands("SSCAN")] == [b"0"] * 3


def test_errors_are_raised_and_it_can_be_asked_again(cluster, node, process):
    iterator = cluster.sscan_iter(KEY)
    some(iterator, 4)
    process.instead += [b"-WRONGTYPE no\r\n", b"+OK\r\n"]
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        next(iterator)
    with pytest.raises(ProtocolError):
        next(iterator)
    assert list(iterator) == MEMBERS[4:]


@pytest.mark.parametrize("listed", [b"*1\r\n$1\r\na\r\n", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"*1\r\n:1\r\n"])
def test_elements_that_are_none_are_an_error(cluster, process, listed):
    process.instead.append(b"*2\r\n$1\r\n0\r\n" + listed)
    with pytest.raises(ProtocolError):
        next(cluster.zscan_iter(KEY))


def test_a_kill_loses_nothing_and_it_serves_one_greenlet_at_a_time(cluster, node, process):
    iterator = cluster.sscan_iter(KEY)
    some(iterator, 4)
    process.instead.append(Delay(0.2, b"*2\r\n$1\r\n0\r\n*0\r\n"))
    waiting = gevent.spawn(next, iterator)
    node.wait_until(lambda: len(node.commands("SSCAN")) == 2)
    with pytest.raises(ConfigError, match="another greenlet"):
        next(iterator)
    waiting.kill()
    assert list(iterator) == MEMBERS[4:]


def test_what_makes_no_sense_is_refused_at_once(fake, cluster):
    for call in (
        lambda: cluster.hscan_iter(None),
        lambda: cluster.sscan_iter("k", match=5),
        lambda: cluster.zscan_iter("k", count=0),
        lambda: cluster.hscan_iter("k", timeout=0),
    ):
        with pytest.raises(ConfigError):
            call()
    assert isinstance(cluster.hscan_iter("k"), ElementIterator)
    assert [node.work() for node in fake.nodes] == [[], [], []]
