"""Opening a connection: the dial, the handshake, the callbacks, and who waits for whom."""

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import gevent
import gevent.select
import gevent.socket
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from gvcluster import Address, AuthFailed, Cluster, ConnectFailed, Connection, GvClusterError, RetriesExhausted
from gvcluster import __version__ as version
from gvcluster.errors import ClosedError
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import NOT_HANDLED, Answer, Close, Delay, encode_reply
from gvcluster.testing.fake_connection import FakeConnection
from gvcluster.testing.script import Expect, ExpectClose, ExpectConnect, Send


@pytest.fixture
def hole() -> Iterator[Address]:
    """An address where connecting neither succeeds nor fails: nobody accepts, and the queue is full."""
    plain = get_original("socket", "socket")
    listener, filler = plain(), plain()
    with listener, filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filler.connect(listener.getsockname())
        yield Address(*listener.getsockname())


class TwoFaced:
    """A resolver that knows one name, and two addresses for it."""

    def getaddrinfo(self, host: str, port: int, *_: Any) -> list[tuple[Any, ...]]:
        assert host == "two-faced.test"
        faces = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where) for family, where in faces]


class Calls:
    """What the connection callbacks were told, in order."""

    def __init__(self) -> None:
        self.connected: list[tuple[Connection, BaseException | None]] = []
        self.disconnected: list[tuple[Connection, BaseException | None]] = []
        self.came = Event()

    def on_connect(self, connection: Connection, error: BaseException | None) -> None:
        self.connected.append((connection, error))

    def on_disconnect(self, connection: Connection, error: BaseException | None) -> None:
        self.disconnected.append((connection, error))
        self.came.set()

    def wait_disconnected(self, count: int) -> None:
        with gevent.Timeout(5):
            while len(self.disconnected) < count:
                self.came.clear()
                self.came.wait()

    def failures(self) -> list[tuple[Connection, BaseException]]:
        return [(connection, error) for connection, error in self.connected if error is not None]


@pytest.fixture
def calls() -> Calls:
    return Calls()


def commands(node: FakeNode) -> list[list[bytes]]:
    return [args for _, args in node.received]


# -- the dial ----------------------------------------------------------------------------------------------------------


def test_every_address_of_a_name_is_tried(fake, make, calls, monkeypatch):
    monkeypatch.setattr(gevent.get_hub(), "resolver", TwoFaced())
    port = fake.nodes[0].address.port
    cluster = make(f"two-faced.test:{port}", on_connect=calls.on_connect)
    cluster.connect()
    ((connection, error),) = calls.connected
    assert error is None
    assert connection.address == ("two-faced.test", port)
    assert connection.peername == ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("family", "tried"),
    [
        ("any", ["::1", "127.0.0.1"]),
        ("prefer_ipv6", ["::1", "127.0.0.1"]),
        ("prefer_ipv4", ["127.0.0.1", "::1"]),
        ("ipv6", ["::1"]),
        ("ipv4", ["127.0.0.1"]),
    ],
)
def test_addresses_of_a_name_are_tried_by_family(make, monkeypatch, family, tried):
    monkeypatch.setattr(gevent.get_hub(), "resolver", TwoFaced())
    met: list[str] = []

    class Refusing(gevent.socket.socket):
        def connect(self, address: Any) -> None:
            met.append(address[0])
            raise ConnectionRefusedError(f"{address[0]} refused")

    monkeypatch.setattr(gevent.socket, "socket", Refusing)
    cluster = make("two-faced.test:7", address_family=family)
    with pytest.raises(ConnectFailed, match=f"{tried[-1]} refused"):
        cluster.execute("PING", node="two-faced.test:7")
    assert met == tried


def test_a_family_that_an_address_does_not_have_is_named(fake, make):
    cluster = make(address_family="ipv6")
    with pytest.raises(ConnectFailed, match="no address for address_family='ipv6'"):
        cluster.execute("PING", node=fake.nodes[0].address)


def test_a_name_without_any_address_that_accepts_fails_with_the_last_reason(fake, make, calls, monkeypatch):
    monkeypatch.setattr(gevent.get_hub(), "resolver", TwoFaced())
    fake.nodes[0].stop()
    cluster = make(on_connect=calls.on_connect)
    with pytest.raises(ConnectFailed, match=r"two-faced.test:.*refused") as caught:
        cluster.execute("PING", node=f"two-faced.test:{fake.nodes[0].address.port}")
    assert isinstance(caught.value.__cause__, OSError | ConnectFailed)
    ((connection, error),) = calls.connected
    assert (connection.socket, connection.peername) == (None, None)
    assert isinstance(error, ConnectFailed)


def test_an_address_that_swallows_all_packets_is_given_up_after_the_connect_timeout(make, hole, calls):
    cluster = make(connect_timeout=0.1, timeout=60, on_connect=calls.on_connect)
    began = monotonic()
    with pytest.raises(ConnectFailed):
        cluster.execute("PING", node=hole)
    assert 0.08 < monotonic() - began < 10
    assert [connection.address for connection, _ in calls.failures()] == [hole]


@pytest.mark.parametrize("command", [("PING",), ("BLPOP", "k", 0)])
def test_the_timeout_of_the_call_ends_the_wait_for_a_connection(make, hole, command):
    cluster = make(connect_timeout=60)
    calling = gevent.spawn(cluster.execute, *command, node=hole, timeout=0.1)
    with pytest.raises(ConnectFailed) as caught:
        calling.get(timeout=10)
    assert caught.value.address == hole
    assert not caught.value.maybe_executed


@pytest.mark.parametrize("command", [("PING",), ("BLPOP", "k", 0)])
def test_a_timeout_of_the_user_passes_through_the_dial_untouched(make, hole, command):
    cluster = make()
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as mine:
        cluster.execute(*command, node=hole)
    assert caught.value is mine


def test_sockets_do_not_delay_small_commands_and_notice_dead_peers(make):
    told: list[int] = []

    def look(connection: Connection, _error: object) -> None:
        sock = connection.socket
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
        told.extend(sock.getsockopt(*option) for option in options)
        told.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    make(on_connect=look).connect()
    assert told == [1, 1, 30_000]


def test_socket_options_are_set_before_connecting_and_after_ours(fake, make, monkeypatch):
    idle = (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7)
    reuse = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    before: list[tuple[int, int]] = []

    class Looking(gevent.socket.socket):
        def connect(self, address: Any) -> None:
            before.append((self.getsockopt(*idle[:2]), self.getsockopt(*reuse[:2])))
            super().connect(address)

    monkeypatch.setattr(gevent.socket, "socket", Looking)
    make(str(fake.nodes[0].address), socket_options=[idle, reuse]).connect()
    assert before == [(7, 1)]


def test_a_socket_option_that_the_system_refuses_fails_the_attempt_and_is_named(fake, make):
    cluster = make(socket_options=[(socket.IPPROTO_TCP, 9999, 1)])
    with pytest.raises(ConnectFailed, match=r"socket option \(6, 9999\)") as caught:
        cluster.execute("PING", node=fake.nodes[0].address)
    assert isinstance(caught.value.__cause__, OSError | ConnectFailed)
    assert fake.nodes[0].connections.accepted == 0


@pytest.mark.parametrize("has_it", [True, False])
def test_multipath_tcp_is_used_where_the_kernel_has_it(fake, make, calls, monkeypatch, has_it):
    asked: list[int] = []

    class Kernel(gevent.socket.socket):
        def __init__(self, *args: Any, **options: Any) -> None:
            protocol = args[2] if len(args) > 2 else 0
            asked.append(protocol)
            if protocol == 262 and not has_it:
                raise OSError(93, "Protocol not supported")
            super().__init__(*args, **options)

    monkeypatch.setattr(gevent.socket, "socket", Kernel)
    node = fake.nodes[0]
    cluster = make(str(node.address), mptcp=True, on_connect=calls.on_connect)
    assert cluster.execute("SET", fake.key_at(node), "v") == b"OK"
    assert asked[0] == 262
    assert has_it or asked[1] == 0
    assert calls.failures() == []


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_on_connect_is_called_with_a_socket_to_set_up_before_anything_is_sent(fake, make):
    seen: list[Any] = []

    def on_connect(connection: Connection, error: BaseException | None) -> None:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        gevent.sleep(0.01)  # time for anything that was sent
        seen.append((connection.address, connection.peername, connection.purpose, error))
        seen.append(sum(len(node.received) for node in fake.nodes))

    node = fake.nodes[0]
    cluster = make(str(node.address), on_connect=on_connect)
    cluster.execute("GET", fake.key_at(node))
    assert seen == [(node.address, node.address, "multiplexed", None), 0]
    node.on("BLPOP", b":1\r\n")
    cluster.execute("BLPOP", fake.key_at(node), 0)
    assert seen[2] == (node.address, node.address, "exclusive", None)


def test_an_on_connect_that_raises_fails_the_attempt_with_its_error_as_cause(fake, make):
    boom = ZeroDivisionError("no")

    def on_connect(*_: object) -> None:
        raise boom

    node, cluster = fake.nodes[0], make(on_connect=on_connect)
    for command in (("PING",), ("BLPOP", "k", 0)):
        with pytest.raises(ConnectFailed, match="no") as caught:
            cluster.execute(*command, node=node.address)
        causes = [caught.value.__cause__, getattr(caught.value.__cause__, "__cause__", None)]
        assert boom in causes
    node.wait_until(lambda: node.connections.open == 0)
    assert node.received == []


@pytest.mark.parametrize("command", [("PING",), ("BLPOP", "k", 0)])
def test_an_on_connect_that_raises_for_a_failed_attempt_does_not_hide_why_it_failed(fake, make, command, monkeypatch):
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *_: None)  # to be told there as well is all right

    def on_connect(_connection: object, error: BaseException | None) -> None:
        if error is not None:
            raise ZeroDivisionError("from the callback")

    node, cluster = fake.nodes[0], make(on_connect=on_connect)
    node.stop()
    with pytest.raises(ConnectFailed, match=r"refused|from the callback"):
        cluster.execute(*command, node=node.address)


def test_on_disconnect_tells_a_loss_from_what_the_user_asked_for(fake, make, calls):
    node = fake.nodes[0]
    cluster = make(str(node.address), on_connect=calls.on_connect, on_disconnect=calls.on_disconnect)
    key = fake.key_at(node)
    node.on("BLPOP", b":1\r\n")
    cluster.execute("GET", key)
    cluster.execute("BLPOP", key, 0)
    assert cluster.close_idle() == 2
    cluster.execute("GET", key)
    node.reset_connections()
    calls.wait_disconnected(3)
    cluster.execute("GET", key)
    cluster.close()
    calls.wait_disconnected(4)
    told = [(connection.purpose, error) for connection, error in calls.disconnected]
    assert [purpose for purpose, _ in told] == ["multiplexed", "exclusive", "multiplexed", "multiplexed"]
    assert [error is None for _, error in told] == [True, True, False, True]
    assert isinstance(told[2][1], ConnectionError)
    opened = [connection for connection, _ in calls.connected]
    assert {id(connection) for connection, _ in calls.disconnected} == {id(connection) for connection in opened}


def test_the_loss_of_a_connection_is_reason_enough_for_a_fresh_map(fake, make):
    lost, other = fake.nodes[:2]
    cluster = make(str(other.address))
    cluster.execute("GET", fake.key_at(lost))
    lost.reset_connections()
    other.wait_until(lambda: len(other.commands("CLUSTER SLOTS")) == 2)


def test_an_on_disconnect_that_raises_harms_nobody(fake, make, monkeypatch):
    reported: list[type] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda _context, kind, _error, _tb: reported.append(kind))

    def on_disconnect(*_: object) -> None:
        raise ZeroDivisionError

    node, cluster = fake.nodes[0], make(on_disconnect=on_disconnect)
    key = fake.key_at(node)
    node.on("GET", Close(), times=2)
    assert cluster.execute("GET", key) is None
    assert reported == [ZeroDivisionError] * 2


# -- the handshake -----------------------------------------------------------------------------------------------------


def test_everything_that_was_configured_is_sent_in_order_each_after_the_reply_before_it(fake, make, protocol):
    fake.username, fake.password = "me", "secret"
    node = fake.nodes[0]
    alone: list[bool] = []

    def look(_node: FakeNode, connection: FakeConnection, args: list[bytes]) -> Answer:
        if args[0] in (b"HELLO", b"AUTH"):
            more = connection.unread or gevent.select.select([connection], [], [], 0.02)[0]
            alone.append(not more)
        return b"+OK\r\n" if args[0] == b"SELECT" else NOT_HANDLED

    node.override = look
    options = {"username": "me", "password": "secret", "client_name": "worker-1", "client_info": True, "db": 3}
    make(str(node.address), **options).connect()
    auth = [b"HELLO", b"3", b"AUTH", b"me", b"secret"] if protocol == 3 else [b"AUTH", b"me", b"secret"]
    assert commands(node) == [
        auth,
        [b"SELECT", b"3"],
        [b"CLIENT", b"SETNAME", b"worker-1"],
        [b"CLIENT", b"SETINFO", b"LIB-NAME", b"gvcluster"],
        [b"CLIENT", b"SETINFO", b"LIB-VER", version.encode()],
        [b"CLUSTER", b"SLOTS"],
    ]
    assert alone == [True]


def test_a_password_alone_is_that_of_the_default_user(fake, make, protocol):
    fake.password = "secret"
    node = fake.nodes[0]
    make(str(node.address), password="secret").connect()
    auth = [b"HELLO", b"3", b"AUTH", b"default", b"secret"] if protocol == 3 else [b"AUTH", b"secret"]
    assert commands(node) == [auth, [b"CLUSTER", b"SLOTS"]]


def test_resp2_without_options_sends_not_one_byte_of_its_own():
    with FakeCluster(nodes=1) as fake:
        node = fake.nodes[0]
        node.stop()
        node.play(
            ExpectConnect(),
            Expect("CLUSTER", "SLOTS"),
            Send(encode_reply(fake.slot_ranges(), 2)),
            Expect("GET", "k"),
            Send(b"$1\r\nv\r\n", size=1),
            ExpectClose(),
        )
        node.start()
        with Cluster(fake.seeds, protocol=2, client_info=False) as cluster:
            assert cluster.execute("GET", "k") == b"v"
        node.wait_played()


@pytest.mark.parametrize("refused", ["LIB-NAME", "LIB-VER"])
def test_a_server_that_does_not_know_setinfo_is_served_all_the_same(fake, make, refused):
    node = fake.nodes[0]

    def old(_node: FakeNode, _connection: FakeConnection, args: list[bytes]) -> Answer:
        return b"-ERR Unknown subcommand\r\n" if args[2] == refused.encode() else NOT_HANDLED

    node.on("CLIENT SETINFO", old)
    cluster = make(str(node.address), client_info=True)
    assert cluster.execute("GET", fake.key_at(node)) is None
    assert len(node.commands("CLIENT")) == 2
    assert node.connections == (1, 1)


def test_what_follows_the_login_goes_in_one_write(protocol):
    """A hub with much to do takes a while for each answer: with one after the other, connect_timeout is over soon."""
    with FakeCluster(nodes=1) as fake:
        node = fake.nodes[0]
        node.stop()
        login = Expect("AUTH", "p") if protocol == 2 else Expect("HELLO", 3, "AUTH", "default", "p")
        node.play(
            ExpectConnect(),
            login,
            Send(b"+OK\r\n" if protocol == 2 else b"%0\r\n"),
            Expect("CLIENT", "SETNAME", "me"),
            Expect("CLIENT", "SETINFO", "LIB-NAME", "gvcluster"),
            Expect("CLIENT", "SETINFO", "LIB-VER", version),
            Send(b"+OK\r\n-ERR unknown subcommand\r\n+OK\r\n"),
            Expect("CLUSTER", "SLOTS"),
            Send(encode_reply(fake.slot_ranges(), protocol)),
            ExpectClose(),
        )
        node.start()
        with Cluster(fake.seeds, protocol=protocol, password="p", client_name="me") as cluster:
            cluster.connect()
        node.wait_played()


@pytest.mark.parametrize("password", [None, "secret"])
@pytest.mark.parametrize("refusal", [b"-ERR unknown command 'HELLO'\r\n", b"-NOPROTO unsupported protocol version\r\n"])
def test_a_server_that_refuses_resp3_is_talked_to_in_resp2(fake, make, refusal, password):
    fake.password = password
    for node in fake.nodes:
        node.on("HELLO", refusal)
    cluster = make(protocol=3, password=password)
    assert cluster.execute("GET", "k") is None
    assert fake.node_for_key("k").connections == (1, 1)


@pytest.mark.parametrize("password", [None, "secret"])
def test_a_server_that_has_too_many_clients_says_so(make, protocol, password):
    with FakeCluster(nodes=1) as fake:
        node = fake.nodes[0]
        node.stop()
        first = ("HELLO", 3) if protocol == 3 else ("CLIENT", "SETNAME", "me")
        if password:
            first = ("HELLO", 3, "AUTH", "default", password) if protocol == 3 else ("AUTH", password)
        # It does not read before it answers.
        node.play(
            ExpectConnect(), Send(b"-ERR max number of clients reached\r\n"), Expect(*first), ExpectClose(), timeout=2
        )
        node.start()
        cluster = make(fake.seeds, password=password, client_name="me")
        with pytest.raises(ConnectFailed, match="max number of clients reached") as caught:
            cluster.execute("PING", node=node.address)
        assert caught.value.address == node.address
        cluster.close()


@pytest.mark.parametrize("answer", [b"not RESP\r\n", Close(), Close(b"*"), b"-ERR oops\r\n", b"-LOADING data\r\n"])
def test_a_handshake_that_goes_wrong_is_a_failed_connection(fake, make, answer):
    node, cluster = fake.nodes[0], make(client_name="me")
    node.on("CLIENT SETNAME", answer)
    with pytest.raises(ConnectFailed) as caught:
        cluster.execute("PING", node=node.address)
    assert caught.value.address == node.address
    assert not caught.value.maybe_executed
    node.wait_until(lambda: node.connections == (1, 0))
    assert node.commands("PING") == []


def test_a_database_that_the_server_does_not_have_is_named(fake, make):
    cluster = make(db=5)
    with pytest.raises(ConnectFailed, match=r"SELECT 5.*out of range"):
        cluster.execute("PING", node=fake.nodes[0].address)
    assert fake.nodes[0].commands("PING") == []


@pytest.mark.parametrize("purpose", ["multiplexed", "exclusive"])
def test_a_handshake_that_stalls_obeys_the_connect_timeout(fake, make, purpose):
    node, cluster = fake.nodes[0], make(connect_timeout=0.1, timeout=60, client_name="me")
    node.freeze()
    command = ("PING",) if purpose == "multiplexed" else ("BLPOP", "k", 0)
    began = monotonic()
    with pytest.raises(ConnectFailed):
        cluster.execute(*command, node=node.address)
    assert 0.08 < monotonic() - began < 10
    node.thaw()
    node.wait_until(lambda: node.connections == (1, 0))


@pytest.mark.parametrize("given", [None, "guess"])
def test_a_refused_user_is_told_and_not_tried_again_within_a_second(fake, make, given):
    fake.password = "secret"
    node = fake.nodes[0]
    cluster = make(protocol=3, password=given)
    for command in [("PING",)] * 5 + [("BLPOP", "k", 0)] * 3:
        with pytest.raises(AuthFailed, match=r"NOAUTH|WRONGPASS") as caught:
            cluster.execute(*command, node=node.address)
        assert not caught.value.maybe_executed
        assert "guess" not in str(caught.value)
    assert len(node.commands("HELLO")) == 1
    assert node.connections.accepted == 1


def test_a_refused_user_is_not_tried_again_for_each_connection_of_its_own(fake, make, protocol):
    fake.password = "secret"
    node, cluster = fake.nodes[0], make(password="secret")
    cluster.execute("PING", node=node.address)
    fake.password = "changed"
    for _ in range(5):
        with pytest.raises(AuthFailed):
            cluster.execute("BLPOP", "k", 0, node=node.address)
    assert node.connections.accepted == 2


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_many_greenlets_share_one_opening(fake, make, calls):
    node = fake.nodes[0]
    cluster = make(str(fake.nodes[1].address), on_connect=calls.on_connect)
    cluster.connect()
    key = fake.key_at(node)
    readers = [gevent.spawn(cluster.execute, "GET", key) for _ in range(100)]
    gevent.joinall(readers, timeout=5)
    assert [reader.get(block=False) for reader in readers] == [None] * 100
    assert node.connections == (1, 1)
    assert [connection.address for connection, _ in calls.connected] == [fake.nodes[1].address, node.address]
    assert [each.opened for each in cluster.statistics().nodes if each.address == node.address] == [1]


def test_a_killed_caller_does_not_abort_the_opening(fake, make):
    node, cluster = fake.nodes[0], make(str(fake.nodes[1].address), client_name="me")
    cluster.connect()
    node.on("CLIENT SETNAME", Delay(0.05, b"+OK\r\n"))
    key = fake.key_at(node)
    killed = gevent.spawn(cluster.execute, "SET", key, "killed")
    node.wait_until(lambda: node.commands("CLIENT SETNAME"))
    killed.kill()
    assert cluster.execute("GET", key) is None
    assert node.connections == (1, 1)
    assert node.commands("SET") == []


def test_a_failure_is_shared_but_each_caller_has_an_error_of_its_own(fake, make, calls):
    node, cluster = fake.nodes[0], make(on_connect=calls.on_connect, retry="never")
    node.stop()
    callers = [gevent.spawn(cluster.execute, "PING", node=node.address) for _ in range(20)]
    gevent.joinall(callers, timeout=5)
    errors = [caller.exception for caller in callers]
    assert {type(error) for error in errors} == {ConnectFailed}
    assert len({id(error) for error in errors}) == 20
    assert len(calls.failures()) == 1


def test_a_node_that_refuses_is_left_alone_for_a_while(fake, make, calls):
    node, cluster = fake.nodes[0], make(on_connect=calls.on_connect)
    node.stop()
    began, count = monotonic(), 0
    while monotonic() - began < 0.2:
        count += 1
        with pytest.raises(ConnectFailed, match="refused"):
            cluster.execute("PING", node=node.address)
    # 10 ms doubling, half of it at least: 5 + 10 + 20 + 40 + 80 are 155.
    assert len([1 for connection, _ in calls.failures() if connection.address == node.address]) <= 6 < count
    node.start()
    with pytest.raises(GvClusterError):
        cluster.execute("PING", node=node.address, timeout=0.001)
    assert cluster.execute("GET", fake.key_at(node)) is None  # a call that may wait does so until it is let in


def test_a_call_without_a_connection_waits_for_one_until_its_deadline(fake, make):
    node, cluster = fake.nodes[0], make(connect_timeout=0.05, client_name="me")
    cluster.execute("GET", fake.key_at(fake.nodes[1]))
    node.freeze()
    with pytest.raises((ConnectFailed, RetriesExhausted)) as caught:
        cluster.execute("SET", fake.key_at(node), "v", timeout=0.3)
    assert not caught.value.maybe_executed
    writing = gevent.spawn(cluster.execute, "SET", fake.key_at(node), "v")
    node.thaw()
    assert writing.get(timeout=5) == b"OK"
    assert len(node.commands("SET")) == 1


@pytest.mark.parametrize("command", [("GET", "k"), ("BLPOP", "k", 0)])
def test_who_closes_while_a_connection_is_opened_is_the_cause_of_its_end(fake, make, command):
    told: list[BaseException | None] = []
    node = fake.node_for_key("k")
    cluster = make(client_name="me", connect_timeout=60, on_disconnect=lambda _, error: told.append(error))
    cluster.connect()
    cluster.close_idle()
    node.wait_until(lambda: node.connections.open == 0)
    told.clear()
    node.on("CLIENT SETNAME", None)
    before = len(node.commands("CLIENT SETNAME"))
    calling = gevent.spawn(cluster.execute, *command)
    node.wait_until(lambda: len(node.commands("CLIENT SETNAME")) > before)
    cluster.close()
    with pytest.raises(ClosedError):
        calling.get(timeout=10)
    node.wait_until(lambda: node.connections.open == 0)
    assert set(told) == {None}  # another node gave the slot map


def test_a_node_that_accepts_and_hangs_up_before_each_reply_is_left_alone_for_longer_and_longer(one_node, make):
    """Without a handshake each connection opens; what it is worth shows with the first command."""
    (node,) = one_node.nodes
    cluster = make(one_node.seeds, retry="never", client_info=False)
    cluster.connect()
    node.override = lambda _node, _connection, args: Close() if args[0] in (b"GET", b"CLUSTER") else NOT_HANDLED
    until, tried = monotonic() + 3, 0
    while monotonic() < until:
        with pytest.raises(GvClusterError):
            cluster.execute("GET", "k")
        tried += 1
        gevent.sleep(0.002)
    assert node.connections.accepted < 20 < tried
    node.override = None
    assert cluster.execute("GET", "k", retry="safe", timeout=20) is None
