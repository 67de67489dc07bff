"""Scripted nodes and clusters that meet them, ended with the test."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.hub import get_hub
from gevent.monkey import get_original

from gvcluster import Cluster, testing
from gvcluster.testing import fake_server
from gvcluster.testing.answers import NOT_HANDLED
from gvcluster.testing.fake import FakeCluster
from gvcluster.testing.fake_connection import FakeConnection
from gvcluster.testing.garnet import FakeGarnet


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    """Three started nodes that share the slots."""
    with FakeCluster() as cluster:
        yield cluster


@pytest.fixture
def make(fake: FakeCluster, protocol: int) -> Iterator[Callable[..., Cluster]]:
    """Make a Cluster of the fake nodes, not connected yet; the test's end closes it."""
    made: list[Cluster] = []

    def make(seeds: Any = None, **options: Any) -> Cluster:
        options = {"protocol": protocol, "client_info": False, "rng": random.Random(7)} | options
        made.append(Cluster(seeds or fake.seeds, **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make: Callable[..., Cluster]) -> Cluster:
    """A Cluster of the fake nodes that has a slot map."""
    cluster = make()
    cluster.connect()
    return cluster


@pytest.fixture
def reads(make: Callable[..., Cluster]) -> Callable[..., Cluster]:
    """Make a Cluster that reads by a policy, connected."""

    def connected(read_from: str = "prefer_replica", **options: Any) -> Cluster:
        cluster = make(read_from=read_from, **options)
        cluster.connect()
        return cluster

    return connected


@pytest.fixture
def garnet() -> Iterator[FakeGarnet]:
    """Three started Garnet primaries, each with a replica."""
    with FakeGarnet(3, replicas=1) as fake:
        yield fake


@pytest.fixture
def garnet_cluster(garnet: FakeGarnet, connect_to: Callable[..., Cluster]) -> Iterator[Cluster]:
    """A ready Cluster of the Garnet nodes, to which it must not send READWRITE."""
    yield connect_to(garnet)
    assert [node.sent_readwrite for node in garnet.nodes] == [0] * 6


@pytest.fixture
def one_node() -> Iterator[FakeCluster]:
    """A started FakeCluster of one node, which owns every slot. Ask it for `nodes[0]`."""
    with FakeCluster(1) as fake:
        yield fake


@pytest.fixture
def connect_to(protocol: int) -> Iterator[Callable[..., Cluster]]:
    """`connect_to(fake, **options)` is a ready Cluster that is closed after the test."""
    opened: list[Cluster] = []

    def connect(fake: FakeCluster, **options: Any) -> Cluster:
        cluster = Cluster(fake.seeds, **{"protocol": protocol, **options})
        opened.append(cluster)
        cluster.connect()
        return cluster

    yield connect
    for cluster in opened:
        cluster.close()


class Held:
    """A node that answers GET, SET and INCR with their key, but only when it is told to."""

    def __init__(self, fake: FakeCluster) -> None:
        (self.node,) = fake.nodes
        self.owed: list[tuple[FakeConnection, bytes]] = []
        self.node.override = self._hold

    def _hold(self, _node: object, connection: FakeConnection, args: list[bytes]) -> Any:
        if args[0] == b"CLUSTER":
            return self._in_turn(connection, args)
        if args[0] not in (b"GET", b"SET", b"INCR"):
            return NOT_HANDLED
        self.owed.append((connection, b"$%d\r\n%b\r\n" % (len(args[1]), args[1])))
        return None

    def _in_turn(self, connection: FakeConnection, args: list[bytes]) -> Any:
        """A slot map is told behind what is owed, as servers do: before it, it would be taken for that."""
        for at in reversed(range(len(self.owed))):
            if self.owed[at][0] is connection:
                self.owed[at] = connection, self.owed[at][1] + fake_server.answer(self.node, connection, args)
                return None
        return NOT_HANDLED

    def wait_for(self, count: int) -> None:
        """Wait until so many commands are owed a reply."""
        self.node.wait_until(lambda: len(self.owed) >= count)

    def answer(self, count: int | None = None) -> None:
        """Answer the oldest, or all."""
        answered, self.owed = self.owed[:count], self.owed[count:] if count else []
        for connection, reply in answered:
            with contextlib.suppress(OSError):  # the connection was ended meanwhile
                connection.send(reply)

    def answer_from_now_on(self) -> None:
        """Answer all, and everything that follows at once."""
        self.node.override = lambda node, connection, args: (
            NOT_HANDLED if self._hold(node, connection, args) is NOT_HANDLED else self.owed.pop()[1]
        )
        self.answer()


@pytest.fixture
def held(one_node) -> Held:
    return Held(one_node)


@pytest.fixture
def lost() -> list[BaseException | None]:
    """Why connections ended, in order: see `connect`."""
    return []


@pytest.fixture
def connect(one_node, connect_to, lost) -> Callable[..., Cluster]:
    """`connect(**options)`: a Cluster that does not retry, and notes in `lost` why connections ended."""

    def connect(**options: Any) -> Cluster:
        given = {"retry": "never", "client_info": False, "on_disconnect": lambda _, error: lost.append(error)}
        return connect_to(one_node, **{**given, **options})

    return connect


class FakeThread:
    """Runs a FakeCluster beside the test's hub. A forked child has no copy of the nodes: threads are not copied."""

    def __init__(self, nodes: int) -> None:
        self.fake = FakeCluster(nodes)
        self._begun = get_original("threading", "Event")()
        self._over = Event()
        self._hub: Any = None
        self._run_result = gevent.get_hub().threadpool.spawn(self._run)
        assert self._begun.wait(10)

    def _run(self) -> None:
        self._hub = get_hub()
        with self.fake:
            self._begun.set()
            self._over.wait()

    def stop(self) -> None:
        """End the nodes; raises what they met."""
        self._hub.loop.run_callback_threadsafe(self._over.set)
        self._run_result.get(timeout=10)


@pytest.fixture
def distant_fake() -> Iterator[FakeCluster]:
    """Three fake nodes in another thread."""
    thread = FakeThread(3)
    yield thread.fake
    thread.stop()


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that neither accepts nor refuses."""
    with testing.black_hole() as address:
        yield address
