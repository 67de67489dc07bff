"""A connection over TLS: bytes in whatever pieces, partial sends, kills, losses. The peer is scripted."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import struct
from _socket import socket as raw_socket
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import gevent.subprocess
import pytest
import trustme

from gvcluster.core.address import Address
from gvcluster.core.resp import encode
from gvcluster.errors import ConnectionLost, GvClusterError
from gvcluster.net.dial import Connection
from gvcluster.net.loop import HubLoop
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.tls import RECORD, TlsTransport, wait_tls
from gvcluster.net.transport import PlainTransport
from gvcluster.testing.fake_connection import CommandReader
from gvcluster.tls import Tls

NAME = "node.example"
CA = trustme.CA()
CERTIFICATE = CA.issue_cert(NAME)


def server_context(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    CERTIFICATE.configure_cert(context)
    return context


def client_context(kind: Any = ssl.SSLContext) -> ssl.SSLContext:
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    return context


class Peer:
    """The node's end of one connection. Nothing is read or sent but when a test says so; then it waits for it."""

    def __init__(self, accepted: gevent.socket.socket, context: ssl.SSLContext) -> None:
        self.socket = accepted
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.reader = CommandReader()
        self.wire = b""  # all that came, as it came
        while not self._has_shaken_hands():
            assert self.take_in()
        self.socket.sendall(self.outgoing.read())

    def _has_shaken_hands(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.socket.sendall(self.outgoing.read())
            return False
        return True

    def take_in(self) -> bool:
        data = self.socket.recv(65536)
        self.wire += data
        self.incoming.write(data)
        return bool(data)

    def command(self) -> list[bytes]:
        """The next command, waited for."""
        while (command := self.reader.take()) is None:
            try:
                self.reader.feed(self.tls.read(65536))
            except ssl.SSLWantReadError:
                assert self.take_in(), "the client has ended the connection"
        return command

    def commands_so_far(self) -> list[bytes]:
        """The last word of each command that can be read of what the kernel has taken until now. Does not wait."""
        self.socket.setblocking(False)
        try:
            while self.take_in():
                pass
        except BlockingIOError:
            pass
        self.socket.setblocking(True)
        try:
            while text := self.tls.read(65536):
                self.reader.feed(text)
        except ssl.SSLWantReadError:
            pass
        return [command[-1] for command in iter(self.reader.take, None)]

    def sealed(self, *texts: bytes) -> bytes:
        """Each text as a record of its own (or more, if it is long)."""
        for text in texts:
            self.tls.write(text)
        return self.outgoing.read()

    def send(self, *texts: bytes) -> None:
        self.socket.sendall(self.sealed(*texts))

    def goodbye(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def connected(
    sock: gevent.socket.socket, context: ssl.SSLContext, address: Address
) -> tuple[MultiplexedConnection, TlsTransport]:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw = raw_socket(fileno=sock.detach())
    raw.setblocking(False)
    loop = HubLoop(gevent.get_hub())
    transport = wait_tls(raw, loop, Tls(context, NAME), (address, None), monotonic() + 5)
    peer = Connection(address, "multiplexed")
    connection = MultiplexedConnection(transport, loop, peer, lambda *_: None)
    connection.keep_time(5.0, 5.0)
    return connection, transport


class Pair:
    """A connection and its peer."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, buffers: int | None = None) -> None:
        with gevent.socket.socket() as listener:
            if buffers:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.address = Address(*listener.getsockname())
            accepted = gevent.spawn(lambda: Peer(listener.accept()[0], server))
            sock = gevent.socket.create_connection(self.address)
            if buffers:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            self.connection, self.transport = connected(sock, client, self.address)
            self.peer = accepted.get()

    def call(self, *args: Any) -> gevent.Greenlet[..., Any]:
        """A greenlet that sends a command and returns its reply, or the error that came instead."""
        return gevent.spawn(self.connection.call, encode(args), monotonic() + 5)

    def close(self) -> None:
        self.connection.close()
        self.peer.socket.close()


Pairs = Callable[..., Pair]


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made: list[Pair] = []

    def make(client: ssl.SSLContext | None = None, server: ssl.SSLContext | None = None, **more: Any) -> Pair:
        made.append(Pair(client or client_context(), server or server_context(), **more))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


@pytest.fixture
def pair(pairs: Pairs) -> Pair:
    return pairs()


class Ticker:
    """Counts how often other greenlets get their turn."""

    def __enter__(self) -> Ticker:
        self.ticks = 0
        self._greenlet = gevent.spawn(self._run)
        return self

    def _run(self) -> None:
        while True:
            gevent.sleep(0.001)
            self.ticks += 1

    def __exit__(self, *_: object) -> None:
        self._greenlet.kill()


def settle() -> None:
    """Let everybody do what they can do now: a few turns of the loop, the poll included."""
    for _ in range(5):
        gevent.sleep(0.001)


# -- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", [ssl.SSLContext, gevent.ssl.SSLContext])
def test_a_call_gets_its_reply_with_a_context_of_the_standard_library_and_of_gevent(pairs, kind, version):
    pair = pairs(client_context(kind), server_context(version))
    call = pair.call("GET", "secret-key")
    assert pair.peer.command() == [b"GET", b"secret-key"]
    pair.peer.send(b"$5\r\nvalue\r\n")
    assert call.get() == b"value"
    assert b"secret-key" not in pair.peer.wire


def test_commands_of_one_turn_go_in_one_record(pair):
    calls = [pair.call("GET", n) for n in range(10)]
    settle()
    assert pair.peer.commands_so_far() == [b"%d" % n for n in range(10)]
    # The first went at once, the other nine together.
    records = split_records(pair.peer.wire)
    assert [kind for kind, _ in records][-2:] == [23, 23]
    pair.peer.send(b":1\r\n" * 10)
    assert [call.get() for call in calls] == [1] * 10


def split_records(wire: bytes) -> list[tuple[int, bytes]]:
    records = []
    while wire:
        length = 5 + int.from_bytes(wire[3:5])
        records.append((wire[0], wire[:length]))
        wire = wire[length:]
    return records


def test_a_reply_may_come_byte_by_byte_and_in_records_of_one_byte(pair):
    calls = [pair.call("GET", n) for n in range(3)]
    sealed = pair.peer.sealed(*(b"%c" % byte for byte in b"$3\r\nabc\r\n+OK\r\n")) + pair.peer.sealed(b":7\r\n")
    settle()
    for position in range(len(sealed)):
        pair.peer.socket.sendall(sealed[position : position + 1])
        gevent.socket.wait_write(pair.peer.socket.fileno())
    assert [call.get() for call in calls] == [b"abc", b"OK", 7]


def test_many_replies_in_one_segment_of_many_records_leave_nothing_inside_openssl(pair):
    calls = [pair.call("GET", n) for n in range(500)]
    assert [pair.peer.command() for _ in calls] == [[b"GET", b"%d" % n] for n in range(500)]
    pair.peer.send(*(b"$100\r\n%0100d\r\n" % n for n in range(500)))
    assert [int(call.get()) for call in calls] == list(range(500))


@pytest.mark.parametrize("size", [RECORD - 40, RECORD, 64 * 1024, 8 * 1024 * 1024])
def test_large_values_go_both_ways_and_the_hub_goes_on(pair, size):
    value = os.urandom(size)
    with Ticker() as ticker:
        call = pair.call("SET", "k", value)
        assert pair.peer.command() == [b"SET", b"k", value]
        pair.peer.send(b"$%d\r\n" % size, value, b"\r\n")
        assert call.get() == value
        assert ticker.ticks >= 2 * (size // (8 * 1024 * 1024))


def test_the_hub_goes_on_while_the_kernel_takes_8_MiB_as_fast_as_they_are_encrypted(pair):
    received = gevent.spawn(pair.peer.command)
    with Ticker() as ticker:
        call = pair.call("SET", "k", bytes(8 * 1024 * 1024))
        received.get()
    assert ticker.ticks >= 2
    pair.peer.send(b"+OK\r\n")
    assert call.get() == b"OK"


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_closed_connection_has_said_goodbye(pair):
    call = pair.call("PING")
    pair.peer.command()
    pair.peer.send(b"+PONG\r\n")
    call.get()
    pair.connection.close()
    assert pair.peer.take_in()
    assert pair.peer.tls.read(1) == b""
    assert not pair.peer.take_in()


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_the_end_of_the_peer_is_a_lost_connection_with_a_goodbye_or_without(pair, says_goodbye):
    call = pair.call("GET", "k")
    pair.peer.command()
    if says_goodbye:
        pair.peer.socket.sendall(pair.peer.goodbye())
    pair.peer.socket.close()
    error = call.get()
    assert type(error) is ConnectionLost
    assert error.maybe_executed
    assert pair.connection.closed


def test_replies_before_a_goodbye_are_delivered_and_then_the_connection_ends_though_the_socket_stays_open(pair):
    calls = [pair.call("GET", n) for n in range(2)]
    settle()
    pair.peer.socket.sendall(pair.peer.sealed(b"+OK\r\n") + pair.peer.goodbye())
    assert calls[0].get() == b"OK"
    assert type(calls[1].get(timeout=2)) is ConnectionLost  # long before anybody looks for the silence


def test_replies_before_a_forged_record_are_delivered_and_then_the_connection_ends(pair):
    calls = [pair.call("GET", n) for n in range(2)]
    settle()
    good, forged = pair.peer.sealed(b"+OK\r\n"), bytearray(pair.peer.sealed(b"+NO\r\n"))
    forged[-1] ^= 1
    pair.peer.socket.sendall(good + forged)
    assert calls[0].get() == b"OK"
    error = calls[1].get(timeout=2)
    assert type(error) is ConnectionLost
    assert "BAD_RECORD_MAC" in str(error)


def test_an_idle_connection_that_ended_while_nobody_looked_is_found_out_before_a_command_is_sent(pair):
    assert not pair.transport.is_at_eof()
    pair.peer.socket.sendall(pair.peer.goodbye())
    pair.peer.socket.close()
    assert pair.transport.is_at_eof()


def test_a_forked_child_says_no_goodbye_and_the_parents_connection_lives_on(pair):
    child = os.fork()
    if child == 0:
        # The hook for forks has let go of the copy.
        os._exit(0 if pair.connection.closed and pair.transport.is_at_eof() else 1)
    assert os.waitpid(child, 0)[1] == 0
    call = pair.call("GET", "k")
    assert pair.peer.command() == [b"GET", b"k"]
    pair.peer.send(b"+OK\r\n")
    assert call.get() == b"OK"


# -- partial sends, kills, losses -------------------------------------------------------------------------------------


def stuffed(pairs: Pairs, size: int, count: int) -> tuple[Pair, list[gevent.Greenlet[..., Any]]]:
    """A connection whose peer reads nothing, and calls of which the kernel took only the first."""
    pair = pairs(buffers=16 * 1024)
    calls = [pair.call("SET", "k", b"%06d" % n * (size // 6)) for n in range(count)]
    while pair.connection.in_flight < count or not pair.connection._is_stuck:
        gevent.sleep(0.001)
    settle()
    return pair, calls


@pytest.mark.parametrize(("size", "count"), [(600, 2000), (9_000, 200), (30_000, 60), (300_000, 9)])
def test_what_is_stuck_goes_on_in_order_when_the_peer_reads(pairs, size, count):
    pair, calls = stuffed(pairs, size, count)
    for n in range(count):
        assert pair.peer.command()[2][:6] == b"%06d" % n
    pair.peer.send(*(b":%d\r\n" % n for n in range(count)))
    assert [call.get() for call in calls] == list(range(count))


@pytest.mark.parametrize(("size", "count"), [(600, 2000), (9_000, 200), (30_000, 60), (300_000, 9)])
def test_who_is_killed_before_its_bytes_are_encrypted_is_never_sent_and_the_others_get_their_own_replies(
    pairs, size, count
):
    pair, calls = stuffed(pairs, size, count)
    queued = {waiter.data for waiter in pair.connection._queue}
    assert queued
    assert pair.transport.unsent <= RECORD
    assert len(pair.transport._rest) + pair.transport._outgoing.pending <= RECORD + 300
    leaving = calls[::2]
    gevent.killall(leaving)
    gone = [waiter.data for waiter in pair.connection._line]
    stay = [n for n in range(count) if n % 2 or encode(("SET", "k", b"%06d" % n * (size // 6))) in set(gone)]
    for n in stay:
        assert pair.peer.command()[2][:6] == b"%06d" % n
    pair.peer.send(*(b":%d\r\n" % n for n in stay))
    assert [call.get() for call in calls[1::2]] == [n for n in range(count) if n % 2]
    assert pair.peer.commands_so_far() == []


@pytest.mark.parametrize("reads", [0, 1, 5, 20, 40])
@pytest.mark.parametrize(("size", "count"), [(60, 9000), (600, 2000), (9_000, 200), (16_300, 100), (300_000, 9)])
def test_after_a_loss_nothing_that_the_peer_could_read_is_called_not_executed(pairs, size, count, reads):
    pair, calls = stuffed(pairs, size, count)
    seen: list[bytes] = []
    for _ in range(reads):
        pair.peer.incoming.write(pair.peer.socket.recv(1000))
        gevent.sleep(0)
    seen = [value[:6] for value in pair.peer.commands_so_far()]
    in_line, unsent = len(pair.connection._line), pair.transport.unsent
    pair.peer.reset()
    errors = [call.get() for call in calls]
    assert {type(error) for error in errors} == {ConnectionLost}
    maybe = [error.maybe_executed for error in errors]
    assert all(maybe[: len(seen)])
    # The others are told apart: proved unsent are at least those that were queued, and those in the last record.
    assert maybe == sorted(maybe, reverse=True)
    assert maybe.count(False) >= count - in_line
    if unsent > size + 100:
        assert maybe.count(False) > count - in_line


def test_a_call_that_is_encrypted_and_stuck_is_proved_not_executed_when_the_connection_is_closed(pairs):
    pair, calls = stuffed(pairs, 60, 9000)
    encrypted = pair.connection._line[-1]
    assert pair.transport.unsent
    pair.connection.close()
    errors = [call.get() for call in calls]
    assert {type(error) for error in errors} == {ConnectionLost}
    assert not encrypted.reply.maybe_executed
    # What was stuck stays here: no goodbye completes the record.
    assert len(pair.peer.commands_so_far()) <= [error.maybe_executed for error in errors].count(True)


def test_kills_at_random_never_mix_up_replies(pair):
    count = 2000

    def answer() -> None:
        while True:
            pair.peer.send(b"$%d\r\n%s\r\n" % (len(key := pair.peer.command()[1]), key))

    def ask(n: int) -> bytes:
        reply: bytes = pair.connection.call(encode(("GET", n)), monotonic() + 5)
        assert reply == b"%d" % n
        return reply

    node = gevent.spawn(answer)
    asking = [gevent.spawn(ask, n) for n in range(count)]
    for n in range(0, count, 3):
        gevent.sleep(0)
        asking[n].kill(block=False)
    gevent.joinall(asking)
    assert all(greenlet.exception is None for greenlet in asking)
    assert sum(greenlet.value == b"%d" % n for n, greenlet in enumerate(asking)) >= count * 2 // 3
    node.kill()


def test_a_finalizer_that_closes_the_connection_in_the_middle_of_a_send_does_no_harm(pair):
    class Closer:
        def __del__(self) -> None:
            pair.connection.close()

    class Sealing:
        """OpenSSL, with a collection after the first record."""

        def __init__(self, tls: ssl.SSLObject) -> None:
            self._tls = tls

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tls, name)

        def write(self, data: bytes) -> int:
            count = self._tls.write(data)
            loop: list[Any] = [Closer()]
            loop.append(loop)
            del loop
            gc.collect()
            return count

    pair.transport._tls = Sealing(pair.transport._tls)
    error = pair.call("SET", "k", bytes(3 * RECORD)).get()
    assert isinstance(error, GvClusterError)
    assert error.maybe_executed


def test_a_key_update_asked_for_by_the_node_is_answered_and_both_go_on(tmp_path):
    """Python has no name for a key update, but `openssl s_server` has: the line K. The other lines it sends."""
    CERTIFICATE.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = Address(*free.getsockname())
    # Its output would stay in its buffer without stdbuf.
    command = f"stdbuf -o0 openssl s_server -accept {address} -cert {tmp_path / 'server.pem'} -tls1_3 -crlf".split()
    pipe = gevent.subprocess.PIPE
    with gevent.subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=gevent.subprocess.STDOUT) as server:

        def wait_for(text: bytes) -> None:
            while text not in (line := server.stdout.readline()):
                assert line, "openssl ended"

        def type_in(line: bytes) -> None:
            server.stdin.write(line)
            server.stdin.flush()

        try:
            wait_for(b"ACCEPT")
            connection, transport = connected(gevent.socket.create_connection(address), client_context(), address)
            for word in (b"first", b"second", b"third"):
                call = gevent.spawn(connection.call, encode(("PING",)), monotonic() + 5)
                wait_for(b"PING")
                type_in(b"K\n")
                wait_for(b"SSL_do_handshake -> 1")
                type_in(b"+" + word + b"\n")
                assert call.get() == word
            assert not transport._outgoing.pending
            connection.close()
        finally:
            server.kill()


def test_transports_look_alike(pair):
    assert isinstance(pair.transport, TlsTransport)
    for name in (*PlainTransport.__slots__, "unsent", "is_at_eof", "close"):
        assert name.startswith("_") or hasattr(pair.transport, name)
