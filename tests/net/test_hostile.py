"""A node that sends nonsense or far too much: bounded, and nobody gets a wrong reply."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster.core.slots import hash_slot
from gvcluster.errors import ConfigError, ConnectionLost, GvClusterError, ProtocolError, ReplyError, RetriesExhausted
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import Answer, Pieces
from gvcluster.testing.fake_connection import FakeConnection

KEY = "k"
SLOT = hash_slot(KEY)


@contextmanager
def client_of(fake: FakeCluster, protocol: int, **options: Any) -> Iterator[gvcluster.Cluster]:
    options.setdefault("timeout", 5.0)
    cluster = gvcluster.connect(fake.seeds, protocol=protocol, **options)
    try:
        yield cluster
    finally:
        cluster.close()


def owner_of(fake: FakeCluster) -> FakeNode:
    owner = fake.node_for_key(KEY)
    assert owner is not None
    return owner


def others(fake: FakeCluster, node: FakeNode) -> list[FakeNode]:
    return [each for each in fake.nodes if each is not node]


# -- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
@pytest.mark.parametrize(
    "rest",
    [
        "",
        f" {SLOT}",
        " 16390 127.0.0.1:1",
        f" {SLOT + 1} 127.0.0.1:1",
        f" {SLOT} 127.0.0.1:70000",
        f" {SLOT} 127.0.0.1:-1",
        f" {SLOT} 127.0.0.1",
        f" {SLOT} {'h' * 1000}:1",
        f" {SLOT} 127.0.0.1:1 {'x' * 100_000}",
        f" {SLOT} user:password@127.0.0.1:1",
        f" {'9' * 10_000} 127.0.0.1:1",
    ],
)
def test_f60_a_redirect_that_makes_no_sense_is_the_callers_error(
    fake: FakeCluster, protocol: int, word: str, rest: str
) -> None:
    owner = owner_of(fake)
    owner.on("SET", f"-{word}{rest}\r\n".encode())
    with client_of(fake, protocol) as cluster:
        with pytest.raises(ReplyError) as caught:
            cluster.execute("SET", KEY, 1)
        assert cluster.statistics().redirects == 0
    assert caught.value.message == word + rest
    assert len(str(caught.value)) < 300
    assert len(owner.commands("SET")) == 1


def test_a_truncated_code_is_a_plain_error_and_what_follows_is_read_right(fake: FakeCluster, protocol: int) -> None:
    owner_of(fake).on("SET", b"-MO\r\n", times=1)
    with client_of(fake, protocol) as cluster:
        with pytest.raises(ReplyError, match=r"^MO$"):
            cluster.execute("SET", KEY, 1)
        assert cluster.execute("SET", KEY, 1) == b"OK"


@pytest.mark.parametrize("target", ["?:7000", ":0", "?:0", "unassigned:0", "127.0.0.1:0"])
@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_redirect_to_somewhere_makes_the_client_look_into_a_fresh_map(
    fake: FakeCluster, protocol: int, word: str, target: str
) -> None:
    owner = owner_of(fake)
    with client_of(fake, protocol) as cluster:
        owner.on("SET", f"-{word} {SLOT} {target}\r\n".encode())
        fake.move_slot(SLOT, others(fake, owner)[0])
        assert cluster.execute("SET", KEY, 1) == b"OK"
        assert cluster.primaries()[0].address.host == "127.0.0.1"


def test_an_empty_host_is_the_host_that_answered(fake: FakeCluster, protocol: int) -> None:
    owner = owner_of(fake)
    target = others(fake, owner)[0]
    with client_of(fake, protocol) as cluster:
        fake.move_slot(SLOT, target)
        owner.on("SET", f"-MOVED {SLOT} :{target.address.port}\r\n".encode())
        assert cluster.execute("SET", KEY, 1) == b"OK"
        assert cluster.statistics().redirects == 1


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_f60_two_nodes_that_name_each_other_cost_no_more_than_max_redirects(
    fake: FakeCluster, protocol: int, word: str
) -> None:
    owner = owner_of(fake)
    other = others(fake, owner)[0]
    owner.on("SET", f"-{word} {SLOT} {other.address}\r\n".encode())
    other.on("SET", f"-{word} {SLOT} {owner.address}\r\n".encode())
    with client_of(fake, protocol, max_redirects=6) as cluster:
        with pytest.raises(RetriesExhausted, match="6 redirects") as caught:
            cluster.execute("SET", KEY, 1)
        assert cluster.statistics().redirects == 6
    assert [type(error).__name__ for error in caught.value.attempts] == ["Redirected"] * 7
    assert not caught.value.maybe_executed
    assert len(owner.commands("SET")) + len(other.commands("SET")) == 7


def test_a_loop_of_three_nodes_ends_with_the_deadline(fake: FakeCluster, protocol: int) -> None:
    for node, following in zip(fake.nodes, [*fake.nodes[1:], fake.nodes[0]], strict=True):
        node.on("SET", f"-MOVED {SLOT} {following.address}\r\n".encode())
    with client_of(fake, protocol, max_redirects=1_000_000) as cluster, pytest.raises(RetriesExhausted):
        cluster.execute("SET", KEY, 1, timeout=0.3)
    # The first hops are free, then the waits double from 10 ms on: some ten attempts, not thousands.
    assert sum(len(node.commands("SET")) for node in fake.nodes) < 30


def test_a_moved_to_the_node_itself_backs_off_and_opens_one_new_connection(fake: FakeCluster, protocol: int) -> None:
    owner = owner_of(fake)
    owner.on("SET", f"-MOVED {SLOT} {owner.address}\r\n".encode())
    with client_of(fake, protocol, max_redirects=5) as cluster:
        cluster.execute("GET", KEY)
        opened = owner.connections.accepted
        with pytest.raises(RetriesExhausted, match="5 redirects"):
            cluster.execute("SET", KEY, 1)
        assert owner.connections.accepted == opened + 1
        assert len(owner.commands("SET")) == 6
        # The old one is closed once it owes nothing.
        owner.wait_until(lambda: owner.connections.open == 1)


def test_a_moved_to_the_node_itself_is_served_over_a_new_connection_if_that_leads_elsewhere(
    fake: FakeCluster, protocol: int
) -> None:
    owner = owner_of(fake)

    def behind_a_name(_node: FakeNode, connection: FakeConnection, _args: list[bytes]) -> Answer:
        is_old = connection.number <= before
        return f"-MOVED {SLOT} {owner.address}\r\n".encode() if is_old else b"+OK\r\n"

    with client_of(fake, protocol) as cluster:
        cluster.execute("GET", KEY)
        before = owner.connections.accepted
        owner.on("SET", behind_a_name)
        calls = [gevent.spawn(cluster.execute, "SET", KEY, value) for value in range(20)]
        gevent.joinall(calls, raise_error=True)
        assert {call.value for call in calls} == {b"OK"}
        assert owner.connections.accepted == before + 1


# -- replies: three calls are in flight, nobody gets another one's -----------------------------------------------------


def three_in_flight(cluster: gvcluster.Cluster, owner: FakeNode, odd: bytes) -> list[Any]:
    """What three GETs that are in flight together bring, where the second one is answered with `odd`."""
    asked: list[FakeConnection] = []

    def together(_node: FakeNode, connection: FakeConnection, _args: list[bytes]) -> Answer:
        asked.append(connection)
        return b"$5\r\nfirst\r\n" + odd + b"$5\r\nthird\r\n" if len(asked) == 3 else None

    def get() -> Any:
        try:
            return cluster.execute("GET", KEY, retry="never")
        except GvClusterError as error:
            return error

    cluster.execute("PING", node=owner.address)
    owner.on("GET", together)
    calls = [gevent.spawn(get) for _ in range(3)]
    gevent.joinall(calls)
    return [call.value for call in calls]


@pytest.mark.parametrize(
    ("odd", "value"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-5\r\n", -5),
        (b"$0\r\n\r\n", b""),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"*0\r\n", []),
        (b"*2\r\n:1\r\n*1\r\n$1\r\na\r\n", [1, [b"a"]]),
        (b"_\r\n", None),
        (b"#t\r\n", True),
        (b"#f\r\n", False),
        (b",1.5\r\n", 1.5),
        (b",inf\r\n", math.inf),
        (b"(12345678901234567890\r\n", b"12345678901234567890"),
        (b"=5\r\ntxt:x\r\n", b"x"),
        (b"%1\r\n+k\r\n:1\r\n", {b"k": 1}),
        (b"~2\r\n:1\r\n:2\r\n", [1, 2]),
        (b">2\r\n+a\r\n+b\r\n+OK\r\n", b"OK"),
        (b"|1\r\n+k\r\n+v\r\n+OK\r\n", b"OK"),
    ],
)
def test_every_type_of_reply_reaches_the_call_it_is_for(
    fake: FakeCluster, protocol: int, odd: bytes, value: object
) -> None:
    with client_of(fake, protocol) as cluster:
        assert three_in_flight(cluster, owner_of(fake), odd) == [b"first", value, b"third"]


def test_an_error_reply_is_one_calls_own(fake: FakeCluster, protocol: int) -> None:
    with client_of(fake, protocol) as cluster:
        first, error, third = three_in_flight(cluster, owner_of(fake), b"-WRONGTYPE no\r\n")
    assert (first, type(error), third) == (b"first", ReplyError, b"third")


@pytest.mark.parametrize(
    "odd",
    [
        b"\x1b[31m\r\n",
        b"!5\r\nERR x\r\n",  # hiredis does not know blob errors
        b"#x\r\n",
        b":one\r\n",
        b"$-5\r\n",
        b"*-2\r\n",
        b"$?\r\n;1\r\na\r\n;0\r\n",
        b"*?\r\n.\r\n",
        b"+a\nb\r\n",
        b"$99999999999999999999\r\n",
        b"*99999999999999999999\r\n",
        b"%1\r\n*1\r\n:1\r\n:2\r\n",  # a key that Python can not hash
        b"%1\r\n~1\r\n:1\r\n:2\r\n",
        b"*1\r\n" * 2000,  # deeper than hiredis goes
        b"\r\n",
        b"\x00",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_f59_what_is_no_reply_ends_the_connection_and_reaches_nobody(
    fake: FakeCluster, protocol: int, odd: bytes
) -> None:
    owner = owner_of(fake)
    with client_of(fake, protocol) as cluster:
        first, *rest = three_in_flight(cluster, owner, odd)
        assert first == b"first"
        for error in rest:
            assert isinstance(error, ConnectionLost)
            assert isinstance(error.__cause__, ProtocolError)
            assert error.maybe_executed
            assert str(error).isprintable()
        owner.on("GET", b"$1\r\n1\r\n")
        assert cluster.execute("GET", KEY) == b"1"


def test_a_reply_that_nobody_asked_for_ends_the_connection(fake: FakeCluster, protocol: int) -> None:
    owner = owner_of(fake)
    with client_of(fake, protocol) as cluster:
        owner.on("GET", b"$1\r\n1\r\n$1\r\n2\r\n", times=1)
        assert cluster.execute("GET", KEY) == b"1"
        owner.wait_until(lambda: owner.connections.open < owner.connections.accepted)
        owner.on("GET", b"$1\r\n3\r\n")
        assert cluster.execute("GET", KEY) == b"3"


# -- too much ---------------------------------------------------------------------------------------------------------


def test_f63_ten_thousand_pushes_between_replies_are_no_reply_and_starve_nobody(
    fake: FakeCluster, protocol: int
) -> None:
    owner = owner_of(fake)
    turns = 0

    def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    with client_of(fake, protocol) as cluster:
        counter = gevent.spawn(count_turns)
        try:
            flood = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n" * 10_000
            assert three_in_flight(cluster, owner, flood + b"+OK\r\n" + flood) == [b"first", b"OK", b"third"]
        finally:
            counter.kill()
    assert turns > 10  # 700 kB come in more than ten reads, and between two of them others have their say


def test_f58_a_reply_above_the_limit_ends_the_connection(fake: FakeCluster, protocol: int) -> None:
    owner = owner_of(fake)
    with client_of(fake, protocol, max_reply_bytes=1_000_000) as cluster:
        owner.on("GET", b"$800000\r\n" + bytes(800_000) + b"\r\n")
        assert cluster.execute("GET", KEY) == bytes(800_000)
        assert cluster.execute("GET", KEY) == bytes(800_000)  # it is counted for each anew
        for endless in (b"$8000000000\r\n" + bytes(2_000_000), b"*100000\r\n" + b"(12345678901234567890\r\n" * 80_000):
            owner.on("GET", endless)
            with pytest.raises(ConnectionLost, match="a reply of more than 1,000,000 bytes: see the option") as caught:
                cluster.execute("GET", KEY, retry="never")
            assert caught.value.maybe_executed


def test_many_replies_in_one_go_are_not_one_reply(fake: FakeCluster, protocol: int) -> None:
    with client_of(fake, protocol, max_reply_bytes=200_000) as cluster:
        big = b"$150000\r\n" + bytes(150_000) + b"\r\n"
        owner_of(fake).on("GET", big)
        calls = [gevent.spawn(cluster.execute, "GET", KEY) for _ in range(20)]
        gevent.joinall(calls, raise_error=True)
        assert {len(call.value) for call in calls} == {150_000}


@pytest.mark.parametrize("start", [b"+", b"-", b":", b"*2\r\n+", b"$"])
def test_f57_a_line_without_an_end_ends_the_connection(fake: FakeCluster, protocol: int, start: bytes) -> None:
    owner = owner_of(fake)
    with client_of(fake, protocol) as cluster:
        owner.on("GET", start + b"1" * (12 * 2**20))
        with pytest.raises(ConnectionLost, match="sent a line without an end"):
            cluster.execute("GET", KEY, retry="never")


def test_a_long_string_without_a_newline_is_no_line(fake: FakeCluster, protocol: int) -> None:
    value = b"1" * (12 * 2**20)
    with client_of(fake, protocol) as cluster:
        owner_of(fake).on("GET", b"$%d\r\n" % len(value) + value + b"\r\n")
        assert cluster.execute("GET", KEY) == value


def test_f58_a_string_longer_than_any_is_waited_for_no_longer_than_the_call(fake: FakeCluster, protocol: int) -> None:
    owner = owner_of(fake)
    with client_of(fake, protocol, command_timeout=0.2) as cluster:
        owner.on("GET", b"$8589934592\r\n")
        with pytest.raises(GvClusterError) as caught:
            cluster.execute("GET", KEY, retry="never")
        assert caught.value.maybe_executed
        owner.wait_until(lambda: owner.connections.open < owner.connections.accepted)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_reply_in_pieces_is_put_together(fake: FakeCluster, protocol: int, size: int) -> None:
    with client_of(fake, protocol) as cluster:
        owner_of(fake).on("GET", Pieces(b"*3\r\n$3\r\na\r\n\r\n:12\r\n+x\r\n", size))
        assert cluster.execute("GET", KEY) == [b"a\r\n", 12, b"x"]


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (b"*1073741823\r\n", "an array of 1,073,741,823 elements"),
        (b"~2000000000\r\n", "a set of 2,000,000,000 elements"),
        (b">1000000000\r\n", "a push of 1,000,000,000 elements"),
        (b"*2\r\n:1\r\n*1073741823\r\n", "an array of 1,073,741,823 elements"),
        (b"*60000000\r\n*60000000\r\n", r"an array of 60,000,000 elements \(120,000,000 in all\)"),
        (b"|1\r\n+k\r\n*1073741823\r\n", "an array of 1,073,741,823 elements"),
    ],
)
def test_f56_a_header_that_announces_gigabytes_ends_the_connection_before_there_is_room_for_them(
    fake: FakeCluster, protocol: int, header: bytes, named: str
) -> None:
    owner = owner_of(fake)
    with client_of(fake, protocol) as cluster:
        owner.on("GET", header)
        with pytest.raises(ConnectionLost, match=f"sent the header of {named}") as caught:
            cluster.execute("GET", KEY, retry="never")
        assert isinstance(caught.value.__cause__, ProtocolError)
        assert caught.value.maybe_executed
        owner.on("GET", b"$1\r\n1\r\n")
        assert cluster.execute("GET", KEY) == b"1"


def test_f56_replies_before_the_header_reach_their_calls(fake: FakeCluster, protocol: int) -> None:
    with client_of(fake, protocol) as cluster:
        first, *rest = three_in_flight(cluster, owner_of(fake), b"*1073741823\r\n")
    assert first == b"first"
    assert [type(error) for error in rest] == [ConnectionLost] * 2


def test_f56_a_value_that_holds_such_headers_is_a_value(fake: FakeCluster, protocol: int) -> None:
    value = b"\n*1073741823\r\n>1000000000\r\n|1\r\n" * 3000
    reply = b"$%d\r\n%b\r\n" % (len(value), value)
    with client_of(fake, protocol) as cluster:
        assert three_in_flight(cluster, owner_of(fake), reply) == [b"first", value, b"third"]


def test_f63_attributes_without_an_end_end_the_connection_and_many_short_ones_do_not(
    fake: FakeCluster, protocol: int
) -> None:
    owner = owner_of(fake)
    with client_of(fake, protocol) as cluster:
        flood = b"|1\r\n+key-popularity\r\n*2\r\n:1\r\n,0.5\r\n" * 2000
        assert three_in_flight(cluster, owner, flood + b"+OK\r\n" + flood) == [b"first", b"OK", b"third"]
        owner.on("GET", b"|1000\r\n" + b"+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 10_000)
        with pytest.raises(ConnectionLost, match="an attribute of more than 65,536 bytes"):
            cluster.execute("GET", KEY, retry="never")


@pytest.mark.parametrize("args", [(), ("",), (b"",)])
def test_f64_an_empty_command_is_refused_before_a_byte_is_sent(
    fake: FakeCluster, protocol: int, args: tuple[Any, ...]
) -> None:
    with client_of(fake, protocol) as cluster:
        cluster.connect()
        sent = [len(node.received) for node in fake.nodes]
        for call in (cluster.execute, cluster.submit):
            with pytest.raises((ConfigError, TypeError)):
                call(*args)
        assert [len(node.received) for node in fake.nodes] == sent


# -- error texts ------------------------------------------------------------------------------------------------------


def test_f65_an_error_text_is_fit_for_a_log_and_kept_as_it_is_in_message(fake: FakeCluster, protocol: int) -> None:
    text = "ERR \x1b[2J\x07\x00 café " + "x" * 5000
    with client_of(fake, protocol) as cluster:
        owner_of(fake).on("GET", b"-" + text.encode() + b"\r\n")
        with pytest.raises(ReplyError) as caught:
            cluster.execute("GET", KEY)
    for shown in (str(caught.value), repr(caught.value)):
        assert shown.isprintable()
        assert len(shown) < 350
        assert "\\x1b[2J\\x07\\x00 café xxx" in shown.replace("\\\\", "\\")
    assert (caught.value.message, caught.value.code) == (text, "ERR")


ANSI = b"-ERR \x1b[31m\r\n"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("CLUSTER SLOTS", lambda cluster: cluster.refresh()),
        ("CLIENT SETNAME", lambda cluster: cluster.execute("GET", KEY, retry="never")),
    ],
)
def test_texts_of_servers_are_escaped_in_our_own_messages_too(
    fake: FakeCluster, protocol: int, name: str, step: Callable[[gvcluster.Cluster], object]
) -> None:
    with client_of(fake, protocol, client_name="me") as cluster:
        for node in fake.nodes:
            node.on(name, ANSI)
            node.reset_connections()
        cluster.close_idle()
        with pytest.raises(GvClusterError, match=r"\\x1b\[31m") as caught:
            step(cluster)
        assert str(caught.value).isprintable()
