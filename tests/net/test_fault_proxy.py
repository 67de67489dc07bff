"""The fault proxy does what its rules say, and the recorder sees what passes."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import gevent
import gevent.socket
import hiredis
import pytest

import gvcluster
from gvcluster import ConfigError
from gvcluster.testing import FakeCluster, FaultProxy, ProxiedCluster, Recorder, Rule, answers, black_hole
from gvcluster.testing.faults import (
    Coalesce,
    Corrupt,
    Cut,
    Delay,
    Duplicate,
    Frame,
    Pass,
    Split,
    Stall,
)
from gvcluster.testing.frames import CommandFrames, ReplyFrames

PING, PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"


@pytest.fixture
def proxy(one_node: FakeCluster) -> Iterator[FaultProxy]:
    with FaultProxy(one_node.nodes[0].address) as proxy:
        yield proxy


class Raw:
    """A client that sees what comes as it comes: the segments, and how it ends."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = gevent.socket.create_connection(address, timeout=5)

    def ask(self, *args: Any) -> None:
        self.socket.sendall(hiredis.pack_command(args))

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        return data

    def segments(self) -> list[bytes | str]:
        """What comes until the end, and how that is."""
        came: list[bytes | str] = []
        try:
            while data := self.socket.recv(65536):
                came.append(data)
        except ConnectionResetError:
            return [*came, "rst"]
        return [*came, "fin"]


@pytest.fixture
def raw(proxy: FaultProxy) -> Iterator[Raw]:
    client = Raw(proxy.address)
    yield client
    client.socket.close()


@pytest.mark.parametrize("at", [0, 1, 6, 7, None])
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_a_reply_is_cut_at_a_byte_and_the_connection_ends_as_it_was_told(proxy, raw, at, end):
    proxy.add(Rule(Cut(at, end), command="PING", nth=2))
    raw.ask("PING")
    assert raw.read(7) == PONG
    raw.ask("ping")
    came = raw.segments()
    assert came[-1] == end
    arrived = b"".join(came[:-1])
    assert arrived == PONG[:at] or (end == "rst" and PONG[:at].startswith(arrived))
    assert raw.socket.close() is None
    proxy.wait_until(lambda: proxy.connections.open == 0)


@pytest.mark.parametrize("at", range(len(PING) + 1))
def test_of_a_request_the_node_gets_just_so_many_bytes(one_node, proxy, raw, at):
    proxy.add(Rule(Cut(at), "request"))
    raw.ask("PING")
    raw.segments()
    proxy.wait_until(lambda: proxy.connections.open == 0 or raw.socket.close())
    assert len(one_node.nodes[0].commands("PING")) == (at == len(PING))
    assert proxy.recorder.sent == {(b"PING",): 1}
    assert proxy.recorder.forwarded[b"PING",] == (at == len(PING))


def test_half_close_ends_one_direction_only(one_node, proxy, raw):
    proxy.add(Rule(Cut(None, "half")))
    raw.ask("PING")
    assert raw.segments() == [PONG, "fin"]
    raw.ask("ECHO", "still heard")
    one_node.nodes[0].wait_until(lambda: one_node.nodes[0].commands("ECHO"))


def test_one_byte_segments_arrive_one_by_one(proxy, raw):
    proxy.add(Rule(Split(1), connection=1), Rule(Cut(None), command="ECHO"))
    raw.ask("PING")
    assert [raw.socket.recv(100) for _ in PONG] == [bytes([byte]) for byte in PONG]


def test_frames_are_coalesced_into_one_segment_and_no_longer_than_told(proxy, raw):
    proxy.add(Rule(Coalesce(3, 60.0), times=3), Rule(Coalesce(3, 0.01)))
    for _ in range(3):
        raw.ask("PING")
        gevent.sleep(0.005)
    assert raw.socket.recv(100) == PONG * 3
    raw.ask("PING")
    assert raw.socket.recv(100) == PONG


def test_a_reply_is_duplicated_and_corrupted(proxy, raw):
    proxy.add(Rule(Duplicate(), nth=1), Rule(Corrupt(-3, 0x01)))
    raw.ask("PING")
    assert raw.read(14) == PONG * 2
    raw.ask("PING")
    assert raw.read(7) == b"+PONF\r\n"


def test_a_duplicated_request_is_executed_twice_and_both_replies_belong_to_it(one_node, proxy, raw):
    proxy.add(Rule(Duplicate(), "request", command="INCR"), Rule(Cut(), command="GET"))
    raw.ask("INCR", "k")
    assert raw.read(8) == b":1\r\n:2\r\n"
    raw.ask("GET", "k")
    assert raw.segments() == ["fin"]
    assert proxy.recorder.sent[b"INCR", b"k"] == 1
    assert proxy.recorder.forwarded[b"INCR", b"k"] == 2


def test_what_is_stalled_comes_when_it_is_resumed(one_node, proxy, raw):
    rule = Rule(Stall(2), command="PING")
    proxy.add(rule)
    raw.ask("PING")
    assert raw.read(2) == b"+P"
    with gevent.Timeout(0.02, False):
        pytest.fail(f"{raw.socket.recv(1)!r} came all the same")
    proxy.resume()
    assert raw.read(5) == b"ONG\r\n"
    proxy.stall("request")
    raw.ask("ECHO", "late")
    gevent.sleep(0.02)
    assert one_node.nodes[0].commands("ECHO") == []
    proxy.resume()
    assert raw.read(10) == b"$4\r\nlate\r\n"


def test_rules_choose_by_predicate_by_number_and_at_random_in_the_same_way_for_the_same_seed(one_node):
    def struck(seed: int) -> list[int]:
        seen: list[int] = []
        rules = (
            Rule(Pass(), "request", command="PING"),
            Rule(Duplicate(), when=lambda frame: frame.command[1:] == (b"7",)),
            Rule(Duplicate(), every=10),
            Rule(Duplicate(), probability=0.2),
        )
        with FaultProxy(one_node.nodes[0].address, rules=rules, seed=seed) as proxy:
            client = Raw(proxy.address)
            for number in range(40):
                client.ask("ECHO", number)
                before = sum(rule.made for rule in rules)
                size = len(str(number)) + 6
                client.read(size)
                if sum(rule.made for rule in rules) > before:
                    client.read(size)
                    seen.append(number)
            client.socket.close()
        return seen

    first = struck(3)
    assert first == struck(3) != struck(4)
    assert 7 in first
    assert 8 < len(first) < 24


def test_connections_can_be_refused_stalled_and_ended_before_they_are_used(one_node, proxy):
    proxy.add(Rule(Cut(end="rst"), "accept", times=1), Rule(Delay(0.01), "accept", times=1))
    client = Raw(proxy.address)
    assert client.segments() == ["rst"]
    client.socket.close()
    assert one_node.nodes[0].connections.accepted == 0
    client = Raw(proxy.address)
    client.ask("PING")
    assert client.read(7) == PONG
    proxy.reset_connections()
    assert client.segments() == ["rst"]
    client.socket.close()


def test_a_node_that_refuses_is_behind_a_proxy_that_refuses_until_it_is_back(one_node, proxy):
    one_node.nodes[0].stop()
    client = Raw(proxy.address)
    assert client.segments() == ["rst"]
    client.socket.close()
    with pytest.raises(ConnectionRefusedError):
        Raw(proxy.address)
    one_node.nodes[0].start()

    def is_back() -> bool:
        try:
            Raw(proxy.address).socket.close()
        except ConnectionRefusedError:
            return False
        return True

    proxy.wait_until(is_back)


def test_what_is_no_resp_passes_as_it_comes(proxy):
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    with FaultProxy(listener.getsockname()[:2]) as through:
        client = Raw(through.address)
        other, _ = listener.accept()
        client.socket.sendall(PING + b"\x16\x03\x01")
        other.sendall(PONG + b"\x16\x03")
        assert other.recv(3, 2) == b"*1\r"
        assert client.read(9) == PONG + b"\x16\x03"
        client.socket.sendall(b"more")
        got = b""
        while len(got) < 21:
            got += other.recv(100)
        assert got == PING + b"\x16\x03\x01more"
        assert through.recorder.sent.total() == 1
        for each in (client.socket, other, listener):
            each.close()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_frames_are_found_whatever_the_segments(size):
    replies = [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
        b"%1\r\n+a\r\n~1\r\n#t\r\n",
        b"|1\r\n+ttl\r\n:3\r\n,1.5\r\n",
        b">2\r\n+message\r\n_\r\n",
        b"=5\r\ntxt:a\r\n",
        b"(12345678901234567890\r\n",
    ]
    commands = [hiredis.pack_command(args) for args in (("GET", "k"), ("SET", "k", ""), ("SET", "k", b"\r\n*1\r\n"))]
    for framer, frames in ((ReplyFrames(), replies), (CommandFrames(), commands)):
        stream = b"".join(frames)
        found = []
        for start in range(0, len(stream), size):
            found += [data for data, _ in framer.feed(stream[start : start + size])]
        assert found == frames
        assert framer.rest == b""


def test_what_is_wrong_with_a_rule_is_told_at_once():
    with pytest.raises(ConfigError, match="not 'replies'"):
        Rule(Cut(), "replies")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="none of the faults"):
        Rule(answers.Delay(0.1))
    with pytest.raises(ConfigError, match="one text"):
        Rule(Cut(), command=["INCR"])
    for wrong in ({"nth": 0}, {"every": 0}, {"every": -1}):
        with pytest.raises(ConfigError, match="count from 1"):
            Rule(Cut(), **wrong)
    with pytest.raises(ConfigError, match="1 byte at least"):
        Split(0)
    with pytest.raises(ConfigError, match="not by 'FIN'"):
        Cut(end="FIN")


# -- before a cluster -------------------------------------------------------------------------------------------------


def test_a_lost_reply_is_seen_by_the_recorder_and_not_repeated(one_node, protocol):
    with ProxiedCluster(one_node.nodes) as proxied:
        with gvcluster.connect(proxied.seeds, address_map=proxied.address_map, protocol=protocol) as cluster:
            proxied.add(Rule(Cut(), command="INCR", times=1))
            with pytest.raises(gvcluster.ConnectionLost) as raised:
                cluster.execute("INCR", "k")
            assert raised.value.maybe_executed
            assert cluster.execute("GET", "k") == b"1"
        assert proxied.recorder.count("INCR", "k") == 1


def test_refusals_are_counted_as_the_proofs_that_they_are(fake, protocol):
    key = fake.key_at(fake.nodes[1])
    with ProxiedCluster(fake.nodes) as proxied:
        with gvcluster.connect(proxied.seeds, address_map=proxied.address_map, protocol=protocol) as cluster:
            fake.move_slot(gvcluster.hash_slot(key), 2)
            assert cluster.execute("INCR", key) == 1
            assert all(proxy.connections.open for proxy in proxied.proxies[1:])
        token = (b"INCR", key.encode())
        assert (proxied.recorder.sent[token], proxied.recorder.refused[token]) == (2, 1)


def test_proxies_in_a_thread_of_their_own_go_on_while_the_hub_is_busy(distant_fake, protocol):
    recorder = Recorder(lambda command: command[1] if command[0] == b"INCR" else None)
    ended: list[Any] = []
    options: Any = {"protocol": protocol, "on_disconnect": lambda _, error: ended.append(error)}
    with (
        ProxiedCluster(distant_fake.nodes, recorder=recorder, own_thread=True) as proxied,
        gvcluster.connect(proxied.seeds, address_map=proxied.address_map, **options) as cluster,
    ):
        numbers = [cluster.execute("INCR", "k") for _ in range(50)]
        assert all(after == before + 1 for before, after in pairwise(numbers))
        proxied.reset_connections()
        proxied.proxies[0].wait_until(lambda: ended)
        proxied.stall()
        waiting = gevent.spawn(cluster.execute, "GET", "k")
        waiting.join(0.05)
        assert not waiting.ready()
        proxied.resume()
        assert waiting.get(timeout=5) == b"50"
    assert recorder.sent == {b"k": 50}
    assert repr(recorder).startswith("<Recorder sent=50 forwarded=50")


def test_everything_is_closed_also_when_the_test_fails(one_node):
    def fail(proxied: ProxiedCluster) -> None:
        with proxied:
            clients.append(Raw(proxied.proxies[0].address))
            clients[0].ask("PING")
            clients[0].read(7)
            raise ZeroDivisionError

    clients: list[Raw] = []
    proxied = ProxiedCluster(one_node.nodes)
    with pytest.raises(ZeroDivisionError):
        fail(proxied)
    (client,) = clients
    assert client.segments()[-1] in ("fin", "rst")
    client.socket.close()
    with pytest.raises(ConnectionRefusedError):
        Raw(proxied.proxies[0].address)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_black_hole_neither_takes_nor_refuses_connections(host):
    with black_hole(host) as address:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                gevent.socket.create_connection(address, timeout=0.05)


def test_a_frame_tells_the_command_that_it_answers(one_node, proxy, protocol):
    frames: list[Frame] = []
    proxy.add(Rule(Pass(), when=frames.append))
    with gvcluster.connect(str(proxy.address), address_map=lambda _: proxy.address, protocol=protocol) as cluster:
        cluster.execute("SET", "k", "v")
        cluster.execute("GET", "k")
    assert [frame.command for frame in frames if frame.name in ("SET", "GET")] == [
        (b"SET", b"k", b"v"),
        (b"GET", b"k"),
    ]
    assert frames[-1].target == one_node.nodes[0].address


def test_a_thread_of_proxies_starts_and_ends_many_times_under_traffic(distant_fake, protocol):
    for _ in range(5):
        with ProxiedCluster(distant_fake.nodes, own_thread=True) as proxied:
            options: Any = {"address_map": proxied.address_map, "protocol": protocol}
            with gvcluster.connect(proxied.seeds, **options) as cluster:
                assert cluster.execute("SET", "k", "v") == b"OK"
                proxied.stall()
                proxied.resume()
                proxied.reset_connections()
