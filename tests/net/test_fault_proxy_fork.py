"""A forked child has copies of the fault proxies of its parent: what passes through them is the parent's alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import gevent.socket
import hiredis
import pytest
from forking import FORKS, in_child, open_files
from gevent.monkey import get_original

from gvcluster.testing import FaultProxy

pytestmark = pytest.mark.skipif("libuv" in repr(gevent.config.loop), reason="libuv: see tests/chaos/test_fork_live.py")

MOVED = b"-MOVED 1 127.0.0.1:1\r\n"


@pytest.fixture(params=sorted(FORKS))
def fork(request: pytest.FixtureRequest) -> Callable[[], int]:
    """The ways to fork."""
    return FORKS[request.param]


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[gevent.socket.socket]:
    """A client of the proxy, which the child does not use."""
    client = gevent.socket.create_connection(address, timeout=10)
    try:
        yield client
    finally:
        client.close()


def send(client: gevent.socket.socket, *args: str) -> None:
    """Send a command."""
    client.sendall(hiredis.pack_command(args))


@contextmanager
def word() -> Iterator[tuple[Callable[[], None], Callable[[], bool]]]:
    """How a child says that its hub runs, and how another thread of the parent hears of it."""
    hearing, saying = os.pipe()

    def is_said() -> bool:
        return bool(get_original("select", "select")([hearing], [], [], 0)[0])

    try:
        yield lambda: os.write(saying, b"!") and None, is_said
    finally:
        os.close(hearing)
        os.close(saying)


def test_a_reply_that_comes_while_a_child_lives_is_counted_for_its_command_and_so_are_those_behind_it(
    distant_fake, fork
):
    """Else the proxy went on to take each reply for that of the command before: refusals were counted elsewhere."""
    node = distant_fake.nodes[0]
    with word() as (say, is_said), FaultProxy(node.address) as proxy, connected(proxy.address) as client:

        def answer(_node: object, _connection: object, args: list[bytes]) -> bytes:
            if args[1] == b"first":  # answered when the child runs: its caller was killed, and has left
                while not is_said():
                    gevent.sleep(0.002)
                return b":1\r\n"
            return MOVED

        def child() -> object:
            say()
            gevent.sleep(0.3)  # the reply comes meanwhile, and the parent's hub stands still
            return "lived"

        node.on("INCR", answer)
        send(client, "INCR", "first")
        proxy.wait_until(lambda: node.commands("INCR"))
        assert in_child(fork, child) == "lived"
        assert client.recv(64) == b":1\r\n"
        send(client, "INCR", "second")
        assert client.recv(64) == MOVED
        assert dict(proxy.recorder.refused) == {(b"INCR", b"second"): 1}


def test_what_is_sent_and_who_connects_while_a_child_lives_reaches_the_parents_proxy(distant_fake, fork):
    node = distant_fake.nodes[0]
    key = distant_fake.key_at(node)
    with FaultProxy(node.address) as proxy, connected(proxy.address) as client:
        send(client, "PING")
        assert client.recv(64) == b"+PONG\r\n"

        def child() -> object:
            gevent.sleep(0.3)
            return [proxy.recorder.count("GET", key), proxy.connections.open]

        send(client, "GET", key)  # in the kernel: the proxy has had no turn
        with get_original("socket", "socket")() as another:
            another.connect(proxy.address)  # `create_connection` would make a patched one, and give the proxy a turn
            assert in_child(fork, child) == [0, 0]
            assert client.recv(64) == b"$-1\r\n"
        assert proxy.recorder.count("GET", key) == 1
        proxy.wait_until(lambda: proxy.connections.accepted == 2)


def test_what_a_child_does_with_its_copy_of_a_proxy_the_parent_does_not_notice(distant_fake, fork):
    node = distant_fake.nodes[0]
    with FaultProxy(node.address) as proxy, connected(proxy.address) as client:
        send(client, "PING")
        assert client.recv(64) == b"+PONG\r\n"
        shared = sockets_of(proxy)
        assert len(shared) == 3

        def child() -> object:
            proxy.reset_connections()
            proxy.go_down()
            proxy.release()
            gevent.sleep(0.1)
            return sorted(shared & open_files())

        assert in_child(fork, child) == []
        send(client, "PING")
        assert client.recv(64) == b"+PONG\r\n"
        with connected(proxy.address) as another:
            send(another, "PING")
            assert another.recv(64) == b"+PONG\r\n"


def sockets_of(proxy: FaultProxy) -> set[str]:
    """The listening socket of a proxy, and the two of each connection, as /proc names them."""
    sockets = [proxy._listener, *(each for connection in proxy._carriers for each in connection._sockets())]
    return {os.readlink(f"/proc/self/fd/{each.fileno()}") for each in sockets}
