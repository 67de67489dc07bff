"""F25 to F34: what networks do on their bad days, done by a fault proxy before scripted nodes, and by resolvers."""

import errno
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import pytest
from calls import outcome

from gvcluster import Cluster, ConnectFailed, ConnectionLost, GvClusterError, ReplyTimeout, TopologyUnavailable
from gvcluster.testing import FakeCluster, FakeNode, FaultProxy, Rule
from gvcluster.testing.answers import NOT_HANDLED, encode_reply
from gvcluster.testing.faults import Coalesce, Corrupt, Cut, Delay, Duplicate, Frame, Pass, Split

Connect = Callable[..., Cluster]


@contextmanager
def proxied(node: FakeNode) -> Iterator[FaultProxy]:
    """A proxy before a node that names the proxy's address as its own."""
    with FaultProxy(node.address) as proxy:
        host, port = proxy.address
        shown = [[0, 16383, [host.encode(), port, node.id.encode(), []]]]

        def tell(_node: object, connection: Any, args: list[bytes]) -> Any:
            return encode_reply(shown, connection.protocol) if args[1:] == [b"SLOTS"] else NOT_HANDLED

        node.on("CLUSTER", tell)
        yield proxy


@pytest.fixture
def proxy(one_node: FakeCluster) -> Iterator[FaultProxy]:
    """A proxy before the one node, which names the proxy's address as its own."""
    with proxied(one_node.nodes[0]) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: FaultProxy, make: Callable[..., Cluster]) -> Connect:
    """`through(**options)`: a Cluster behind the proxy, connected."""

    def connect(**options: Any) -> Cluster:
        cluster = make(str(proxy.address), **options)
        cluster.connect()
        return cluster

    return connect


# -- F26: the handshake -----------------------------------------------------------------------------------------------


def test_f26_a_handshake_truncated_at_every_byte_has_one_outcome_sent_and_answered_or_not_sent(make, figures):
    """Where nobody else can be asked for the first slot map, the call says so."""
    names = ("HELLO", "AUTH", "CLIENT", "CLUSTER")
    frames: list[Frame] = []

    def call(proxy: FaultProxy, key: str, *rules: Rule) -> None:
        proxy.clear()
        proxy.add(*rules)
        cluster = make(str(proxy.address), password="secret")
        came = outcome(cluster, "INCR", key)
        cluster.close()
        assert came == 1 or (isinstance(came, TopologyUnavailable) and not came.maybe_executed)
        assert proxy.recorder.count("INCR", key) == (came == 1)

    def watched(frame: Frame) -> None:
        if frame.name in names:
            frames.append(frame)

    def places() -> Iterator[tuple[Any, int, int]]:
        seen: Counter[str] = Counter()
        for frame in frames:
            seen[frame.direction] += 1
            for at in range(len(frame.data)):
                yield frame.direction, seen[frame.direction], at

    def work(proxy: FaultProxy) -> None:
        for count, (direction, nth, at) in left:
            struck = Rule(Cut(at, "fin" if at % 2 else "rst"), direction, " ".join(names), nth=nth)
            call(proxy, f"k{count}", struck)
            assert struck.made == 1
            cut.append(count)

    cut: list[int] = []
    with ExitStack() as stack:
        # Some at a time, each with a node of its own: most of it is waiting.
        fakes = [stack.enter_context(FakeCluster(1, password="secret")) for _ in range(8)]
        proxies = [stack.enter_context(proxied(fake.nodes[0])) for fake in fakes]
        call(proxies[0], "first", Rule(Pass(), "request", when=watched), Rule(Pass(), "reply", when=watched))
        left = enumerate(places())
        gevent.joinall([gevent.spawn(work, proxy) for proxy in proxies], raise_error=True)
    figures["offsets cut while connecting"] = figures.get("offsets cut while connecting", 0) + len(cut)
    assert len(cut) == sum(len(frame.data) for frame in frames) > 100


def test_f26_a_reset_right_behind_a_part_of_a_reply_is_noticed_by_every_loop(proxy, through):
    """libuv tells of it once, together with the bytes: who read those alone would wait for its whole time."""
    cluster = through(command_timeout=60.0, timeout=60.0)
    for at in range(1, 10):
        proxy.add(Rule(Cut(at, "rst"), "reply", "EVAL", nth=1))
        with gevent.Timeout(20):
            lost = outcome(cluster, "EVAL", "return ARGV[1]", 1, "k", "x" * 20)
        assert (type(lost), lost.maybe_executed) == (ConnectionLost, True)
        proxy.clear()


# -- F27: half-open ---------------------------------------------------------------------------------------------------


def test_f27_a_peer_that_is_gone_without_a_word_costs_one_timeout_and_is_replaced(one_node, proxy, through):
    cluster = through(command_timeout=0.2)
    assert cluster.execute("INCR", "k") == 1
    proxy.stall()
    lost = outcome(cluster, "INCR", "k")
    assert isinstance(lost, ReplyTimeout)
    assert lost.maybe_executed
    proxy.reset_connections()
    proxy.resume()
    # What never came through was not executed, and nobody has sent it again: three calls, three commands.
    assert cluster.execute("INCR", "k") == 2
    assert proxy.recorder.count("INCR", "k") == 3


HALF_OPEN = """
import subprocess, sys
from time import monotonic
import gevent, socket
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
from gvcluster import Cluster, NodeError
from gvcluster.testing import FakeCluster
dead = [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 400), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)]
lost = []
with FakeCluster(1) as fake, Cluster(fake.seeds, command_timeout=0.3, retry="never", socket_options=dead,
                                     on_disconnect=lambda connection, error: lost.append(error)) as cluster:
    assert cluster.execute("INCR", "k") == 1
    assert cluster.execute("INCR", "k") == 2
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "blackhole"], check=True)
    try:
        cluster.execute("INCR", "k")
    except NodeError as error:
        assert error.maybe_executed, error
    else:
        raise AssertionError("answered through a black hole")
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)
    with gevent.Timeout(10):
        while True:
            try:
                number = cluster.execute("INCR", "k", timeout=1.0)
                break
            except NodeError as error:
                pass
    assert number in (3, 4), number          # the kernel may have got the lost one through at last
    lost.clear()
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "blackhole"], check=True)
    with gevent.Timeout(10):                 # idle: keepalive finds out
        while not lost:
            gevent.sleep(0.05)
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)
    with gevent.Timeout(10):
        assert cluster.execute("GET", "k", retry="safe") == str(number).encode()
print("survived")
"""


def can_blackhole() -> bool:
    """Whether we may have a network namespace of our own, and a queue in it that drops everything."""
    setup = "ip link set lo up && tc qdisc add dev lo root blackhole"
    try:
        return subprocess.run(["unshare", "-n", "sh", "-c", setup], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.unaffected_by("patched")
@pytest.mark.skipif(not can_blackhole(), reason="needs root, unshare, iproute2, and a kernel with the qdisc blackhole")
def test_f27_packets_that_vanish_in_both_directions_are_found_out_in_use_and_idle():
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", HALF_OPEN], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("survived\n", 0), done.stderr


# -- F28, F29: slow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["command_timeout", "timeout"])
def test_f28_a_reply_that_trickles_in_has_the_time_of_the_call_and_no_more(proxy, through, option):
    cluster = through()
    cluster.execute("SET", "k", "v" * 1000)
    proxy.add(Rule(Split(1, 0.01), command="GET"))  # ten seconds for all of it, and a byte at each moment
    began = monotonic()
    late = outcome(cluster, "GET", "k", retry="never", **{option: 0.3})
    assert isinstance(late, GvClusterError)
    assert isinstance(late, TimeoutError)
    assert 0.25 < monotonic() - began < 5
    proxy.clear()
    proxy.reset_connections()
    assert cluster.execute("GET", "k") == b"v" * 1000


@pytest.mark.parametrize("delay", [0.004, 0.03])
def test_f29_who_is_killed_while_its_reply_is_delayed_leaves_it_to_nobody_else(one_node, proxy, through, delay):
    """redis-py handed the late reply to the next caller: CVE-2023-28858."""
    cluster = through()
    for number in range(20):
        cluster.execute("SET", f"k{number}", f"value {number}")
    proxy.add(Rule(Delay(delay), command="GET INCR", every=2))
    draw = random.Random(29)
    for number in range(20):
        killed = gevent.spawn(outcome, cluster, *draw.choice([("GET", "k0"), ("INCR", "counter")]))
        gevent.sleep(0.001 + draw.random() * delay * 1.5)
        killed.kill()
        with gevent.Timeout(delay / 2, False):
            cluster.execute("GET", "k1")
        assert cluster.execute("GET", f"k{number}") == f"value {number}".encode()
        assert cluster.execute("PING", node=proxy.address) == b"PONG"


# -- F30, F31: too much, and wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [0.0, 0.02])
def test_f30_a_reply_that_comes_twice_is_no_later_calls(proxy, through, lost_connections, later):
    cluster = through(on_disconnect=lost_connections.note)
    for number in range(5):
        cluster.execute("SET", f"k{number}", f"value {number}")
        proxy.clear()
        twice = Rule(Duplicate(), command="GET", times=1)
        proxy.add(twice)
        assert cluster.execute("GET", f"k{number}") == f"value {number}".encode()
        gevent.sleep(later)
        proxy.wait_until(lambda: len(lost_connections.errors) == number + 1)  # noqa: B023
        assert twice.made == 1
        assert cluster.execute("INCR", "count") == number + 1
    assert all(type(error).__name__ in ("ConnectionLost", "ProtocolError") for error in lost_connections.errors)


class Lost:
    def __init__(self) -> None:
        self.errors: list[Any] = []

    def note(self, _connection: object, error: Any) -> None:
        self.errors.append(error)


@pytest.fixture
def lost_connections() -> Lost:
    """Why connections ended, in order."""
    return Lost()


REPLY = b"$5\r\nhello\r\n"


@pytest.mark.parametrize("flip", [0x01, 0x04, 0x10, 0x80, 0xFF])
@pytest.mark.parametrize("at", range(len(REPLY)))
def test_f31_a_corrupted_byte_ends_the_connection_unless_it_is_within_a_string(proxy, through, at, flip):
    """In a string or its length nobody can tell without TLS: the value is another, but nobody else's."""
    cluster = through()
    cluster.execute("SET", "k", "hello")
    cluster.execute("SET", "other", "world")
    proxy.add(Rule(Corrupt(at, flip), command="GET", times=1))
    came = outcome(cluster, "GET", "k", retry="never", command_timeout=0.1)
    if isinstance(came, bytes):
        assert at in (1, *range(4, 11)), f"{came!r} though {REPLY[at : at + 1]!r} was corrupted"
        assert b"world" not in came
    else:
        assert isinstance(came, GvClusterError)
        assert came.maybe_executed
    for _ in range(2):
        assert cluster.execute("GET", "other") == b"world"
        assert cluster.execute("GET", "k") == b"hello"


# -- F32: segments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Split(1), Split(3), Coalesce(4, 0.005)])
def test_f32_replies_and_requests_in_any_segments_are_the_same(proxy, through, fault):
    cluster = through()
    proxy.add(Rule(fault, "request"), Rule(fault))
    callers = [gevent.spawn(cluster.execute, "ECHO", f"token {number}", node=proxy.address) for number in range(20)]
    gevent.joinall(callers, raise_error=True)
    assert [caller.value for caller in callers] == [f"token {number}".encode() for number in range(20)]
    with cluster.pipeline() as pipe:
        for number in range(20):
            pipe.append("SET", f"k{number}", f"value {number}")
            pipe.append("GET", f"k{number}")
        assert pipe.execute()[1::2] == [f"value {number}".encode() for number in range(20)]


def test_f32_a_peer_that_reads_nothing_for_a_while_gets_all_of_it_afterwards(one_node, proxy, through):
    cluster = through(command_timeout=10, timeout=10)
    value = os.urandom(1 << 20) * 6
    proxy.stall("request")
    stuck = [gevent.spawn(cluster.execute, "SET", f"k{number}", value) for number in range(2)]
    gevent.sleep(0.1)
    assert one_node.nodes[0].commands("SET") == []
    proxy.resume()
    assert [caller.get(timeout=20) for caller in stuck] == [b"OK"] * 2
    assert cluster.execute("GET", "k1") == value


def test_f32_a_command_of_which_the_kernel_took_only_a_part_was_not_executed(one_node, proxy, through):
    cluster = through()
    proxy.stall("request")
    stuck = gevent.spawn(outcome, cluster, "SET", "k", b"x" * (32 << 20), bulk=False, retry="never")
    gevent.sleep(0.2)
    proxy.reset_connections()
    lost = stuck.get(timeout=10)
    assert isinstance(lost, ConnectionLost)
    assert not lost.maybe_executed
    proxy.resume()
    assert cluster.execute("GET", "k") is None


# -- F33, F34: connecting, and names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ETIMEDOUT]
)
def test_f33_whatever_stands_in_the_way_of_connecting_nothing_was_executed(fake, make, monkeypatch, number):
    class Failing(gevent.socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError(number, os.strerror(number))

    cluster = make()
    cluster.connect()
    node = fake.nodes[0]
    cluster.close_idle()
    with monkeypatch.context() as patched:
        patched.setattr(gevent.socket, "socket", Failing)
        failed = outcome(cluster, "INCR", fake.key_at(node), timeout=0.3)
    assert isinstance(failed, GvClusterError)
    assert not failed.maybe_executed
    assert "it took too long" in str(failed) if number == errno.ETIMEDOUT else os.strerror(number) in str(failed)
    assert cluster.execute("INCR", fake.key_at(node)) == 1


class Names:
    """A resolver that knows what it is told: name → addresses, or what it raises, after so many seconds."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.seconds = 0.0
        self.asked = 0

    def getaddrinfo(self, host: str, _port: int, *_: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        gevent.sleep(self.seconds)
        found = self.known[host]
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where) for where in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(gevent.get_hub(), "resolver", names)
    return names


def test_f34_a_name_is_resolved_anew_for_each_connection(fake, make, names):
    first, second, _ = fake.nodes
    names.known["node.test"] = [first.address]
    cluster = make("node.test:7000")
    cluster.execute("PING", node="node.test:7000")
    names.known["node.test"] = [second.address]
    first.stop()
    with gevent.Timeout(5):
        while not second.commands("PING"):
            with suppress(GvClusterError):
                cluster.execute("PING", node="node.test:7000")
            gevent.sleep(0.01)
    assert names.asked >= 2


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "unknown"), socket.gaierror(-3, "try again")])
def test_f34_a_name_that_nobody_knows_is_a_failed_connection_and_another_seed_serves(fake, make, names, error):
    names.known["gone.test"] = error
    cluster = make(f"gone.test:7000,{fake.nodes[1].address}")
    assert cluster.execute("INCR", "k") == 1
    with pytest.raises(ConnectFailed, match=r"gone\.test") as caught:
        cluster.execute("INCR", "k", node="gone.test:7000")
    assert not caught.value.maybe_executed


def test_f34_a_resolver_that_takes_long_holds_up_neither_the_hub_nor_the_call_beyond_its_time(fake, make, names):
    names.known["slow.test"], names.seconds = [fake.nodes[0].address], 30.0
    cluster = make(f"slow.test:7000,{fake.nodes[1].address}", connect_timeout=0.2)
    began = monotonic()
    waiting = gevent.spawn(outcome, cluster, "PING", node="slow.test:7000")
    assert cluster.execute("INCR", "k") == 1  # by the other seed, meanwhile
    assert isinstance(waiting.get(timeout=10), ConnectFailed)
    assert monotonic() - began < 10


def test_f34_all_addresses_of_a_name_are_tried_within_the_time_for_connecting(fake, make, names):
    fake.nodes[0].stop()
    names.known["many.test"] = [*([fake.nodes[0].address] * 1), *[("127.0.0.1", 1)] * 50, fake.nodes[1].address]
    cluster = make("many.test:7000")
    assert cluster.execute("PING", node="many.test:7000") == b"PONG"
    names.known["many.test"] = []
    cluster.close_idle()
    assert isinstance(outcome(cluster, "PING", node="many.test:7000"), ConnectFailed)
