"""libvalkey's test scripts about pipelines and the asynchronous API, each with the exact traffic of every node.

A node that plays a script dies at anything else: one command more, one connection more, one fetch of the map more. All
run in RESP2 without CLIENT SETINFO, where our bytes are as lean as libvalkey's; submitted and in a pipeline.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from scripted import ALL, BAR, OK, SLOT, answered, asked_for_map, first_map, slots

from gvcluster import (
    ClosedError,
    Cluster,
    ConnectFailed,
    ConnectionLost,
    GvClusterError,
    Redirected,
    ReplyTimeout,
    SlotNotCovered,
)
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import Close
from gvcluster.testing.script import Expect, ExpectClose, ExpectConnect, Send


def by_submit(cluster: Cluster, *commands: tuple[Any, ...]) -> list[Any]:
    """Submit all; the reply or the error of each, as the callbacks were told."""
    told: dict[int, list[Any]] = {}
    for number, command in enumerate(commands):

        def note(reply: Any, error: Exception | None, number: int = number) -> None:
            told.setdefault(number, []).append(reply if error is None else error)

        cluster.submit(*command, callback=note)
    with gevent.Timeout(5):
        while len(told) < len(commands):
            gevent.sleep(0.001)
    assert all(len(each) == 1 for each in told.values())
    return [told[number][0] for number in range(len(commands))]


def by_pipeline(cluster: Cluster, *commands: tuple[Any, ...]) -> list[Any]:
    pipe = cluster.pipeline()
    for command in commands:
        pipe.append(*command)
    return pipe.execute()


@pytest.fixture(params=[by_submit, by_pipeline])
def ask(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """Both ways to send commands that nobody waits for one by one."""
    chosen: Callable[..., list[Any]] = request.param
    return chosen


@contextmanager
def met(fake: FakeCluster, seed: FakeNode, **options: Any) -> Iterator[Cluster]:
    """A cluster whose nodes play their scripts to the end, which comes after the client's."""
    given = {"protocol": 2, "client_info": False, "retry": "never", **options}
    with fake:
        cluster = Cluster(str(seed.address), **given)
        try:
            yield cluster
        finally:
            cluster.close()


def test_set_get(ask):
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(
        *first_map((*ALL, node)),
        *answered("SET", "foo", "bar", reply=OK),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    with met(fake, node) as cluster:
        cluster.start()
        assert ask(cluster, ("SET", "foo", "bar"), ("GET", "foo")) == [b"OK", b"bar"]
        cluster.disconnect()
        node.wait_played()


def test_moved_redirect(ask):
    fake = FakeCluster(2)
    old, new = fake.nodes
    old.play(
        *first_map((*ALL, old)),
        *answered("GET", "foo", reply=f"-MOVED {SLOT} {new.address}\r\n".encode()),
        *asked_for_map((*ALL, new)),
        ExpectClose(),
    )
    new.play(ExpectConnect(), *answered("GET", "foo", reply=BAR), *answered("GET", "foo", reply=BAR), ExpectClose())
    with met(fake, old) as cluster:
        assert ask(cluster, ("GET", "foo")) == [b"bar"]
        old.wait_played()
        assert ask(cluster, ("GET", "foo")) == [b"bar"]
        cluster.disconnect()
        new.wait_played()


def test_moved_to_an_empty_host_and_a_moved_that_is_cut_off(ask):
    fake = FakeCluster(2)
    old, new = fake.nodes
    old.play(
        *first_map((*ALL, old)),
        *answered("GET", "foo", reply=b"-MO\r\n"),
        *answered("GET", "foo", reply=f"-MOVED {SLOT} :{new.address.port}\r\n".encode()),
        *asked_for_map((*ALL, new)),
        ExpectClose(),
    )
    new.play(ExpectConnect(), *answered("GET", "foo", reply=BAR), ExpectClose())
    with met(fake, old) as cluster:
        (error,) = ask(cluster, ("GET", "foo"))
        assert str(error) == "MO"
        assert ask(cluster, ("GET", "foo")) == [b"bar"]
        old.wait_played()
        cluster.disconnect()
        new.wait_played()


def test_ask_redirect(ask):
    fake = FakeCluster(2)
    old, new = fake.nodes
    redirected = answered("GET", "foo", reply=f"-ASK {SLOT} {new.address}\r\n".encode())
    served = (Expect("ASKING"), Expect("GET", "foo"), Send(OK + BAR))
    old.play(*first_map((*ALL, old)), *redirected, *redirected, ExpectClose())
    new.play(ExpectConnect(), *served, *served, ExpectClose())
    with met(fake, old) as cluster:
        assert ask(cluster, ("GET", "foo")) == [b"bar"]
        assert ask(cluster, ("GET", "foo")) == [b"bar"]
        assert cluster.route_version == 1
        cluster.disconnect()
        new.wait_played()


def test_ask_redirect_connection_error(ask, black_hole):
    """Four errors after the connect timeout, and the map is fetched once."""
    fake = FakeCluster(1)
    (node,) = fake.nodes
    host, port = black_hole
    node.play(
        *first_map((*ALL, node)),
        *[Expect("SET", "foo", number) for number in range(4)],
        Send(f"-ASK {SLOT} {host}:{port}\r\n".encode() * 4),
        *asked_for_map((*ALL, node)),
        ExpectClose(),
    )
    with met(fake, node, connect_timeout=0.2) as cluster:
        cluster.connect()
        errors = ask(cluster, *[("SET", "foo", number) for number in range(4)])
        assert [type(error) for error in errors] == [ConnectFailed] * 4
        assert not any(error.maybe_executed for error in errors)
        node.wait_until(lambda: len(node.commands("CLUSTER SLOTS")) == 2)
        gevent.sleep(0.02)
        cluster.close()
        node.wait_played()


def test_slots_not_served(ask):
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(
        *first_map((0, 1, node)),
        *asked_for_map((0, 1, node)),
        *asked_for_map((*ALL, node)),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    with met(fake, node, retry="safe") as cluster:
        cluster.connect()
        (error,) = ask(cluster, ("GET", "foo"))
        assert isinstance(error, SlotNotCovered)
        assert error.slot == SLOT
        assert ask(cluster, ("GET", "foo")) == [b"bar"]
        cluster.disconnect()
        node.wait_played()


def test_connection_error(ask, black_hole):
    """The owner is a black hole: four errors, a new map without it, and four replies."""
    fake = FakeCluster(2)
    node, new = fake.nodes
    node.play(*first_map((0, 1, node), (2, 16383, black_hole)), *asked_for_map((*ALL, new)), ExpectClose())
    sets = [("SET", "foo", number) for number in range(4)]
    new.play(ExpectConnect(), *[Expect(*map(str, each)) for each in sets], Send(OK * 4), ExpectClose())
    with met(fake, node, connect_timeout=0.2) as cluster:
        cluster.connect()
        assert [type(error) for error in ask(cluster, *sets)] == [ConnectFailed] * 4
        with gevent.Timeout(5):
            while cluster.route_version < 2:
                gevent.sleep(0.001)
        assert ask(cluster, *sets) == [b"OK"] * 4
        cluster.disconnect()
        new.wait_played()


def test_timeout_handling():
    """Four commands to a node that stalls end with a timeout each, none is sent again, and the map is fetched once.

    libvalkey ends the connection; ours stays, and the late replies are nobody's.
    """
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(
        *first_map((*ALL, node)),
        *[Expect("SET", "foo", number) for number in range(4)],
        Expect("CLUSTER", "SLOTS"),
        Send(OK * 4),
        slots((*ALL, node)),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    with met(fake, node) as cluster:
        cluster.connect()
        pipe = cluster.pipeline(timeout=0.1)
        for number in range(4):
            pipe.append("SET", "foo", number)
        errors = pipe.execute()
        assert [type(error) for error in errors] == [ReplyTimeout] * 4
        assert all(error.maybe_executed for error in errors)
        node.wait_until(lambda: len(node.commands("CLUSTER SLOTS")) == 2)
        assert cluster.execute("GET", "foo") == b"bar"
        cluster.disconnect()
        node.wait_played()


def test_cluster_down(ask):
    """All nodes are gone: six commands fail at once, each with an error of its own."""
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(*first_map((*ALL, node)), *answered("SET", "foo", "bar", reply=OK), Close())
    with met(fake, node) as cluster:
        assert ask(cluster, ("SET", "foo", "bar")) == [b"OK"]
        node.wait_played()
        node.stop()
        gevent.sleep(0.01)
        errors = ask(cluster, *[("SET", "foo", number) for number in range(6)])
        assert [type(error) for error in errors] == [ConnectFailed] * 6
        assert len({id(error) for error in errors}) == 6


def test_cluster_scale_down(ask):
    """The owner leaves: the command that met it fails and is not sent again; the next goes to the new owner."""
    fake = FakeCluster(2)
    gone, stays = fake.nodes
    gone.play(ExpectConnect(), Expect("SET", "foo", "1"), Close())
    stays.play(
        *first_map((0, 1, stays), (2, 16383, gone)),
        *asked_for_map((*ALL, stays)),
        *answered("SET", "foo", "2", reply=OK),
        ExpectClose(),
    )
    with met(fake, stays) as cluster:
        (error,) = ask(cluster, ("SET", "foo", "1"))
        assert isinstance(error, ConnectionLost)
        assert error.maybe_executed
        with gevent.Timeout(5):
            while cluster.route_version < 2:
                gevent.sleep(0.001)
        assert ask(cluster, ("SET", "foo", "2")) == [b"OK"]
        cluster.disconnect()
        stays.wait_played()


def test_client_disconnect():
    """A MOVED that comes while disconnecting goes to the callback; nothing more is sent, to nobody."""
    fake = FakeCluster(2)
    node, other = fake.nodes
    moved = f"-MOVED {SLOT} {other.address}\r\n".encode()
    node.play(*first_map((*ALL, node)), Expect("SET", "foo", "bar"), Expect("SET", "foo", "bar"), Send(moved + OK))
    other.play()
    disconnected: list[Any] = []
    with met(fake, node, on_disconnect=lambda connection, error: disconnected.append(error)) as cluster:
        cluster.connect()
        told: list[Any] = []
        for _ in range(2):
            cluster.submit("SET", "foo", "bar", callback=lambda reply, error: told.append((reply, error)))
        cluster.disconnect()
        assert isinstance(told[0][1], Redirected)
        assert told[1] == (b"OK", None)
        with pytest.raises(ClosedError):
            cluster.submit("GET", "foo", callback=told.append)
        gevent.sleep(0.01)
        assert len(told) == 2
        assert disconnected == [None]


def test_client_disconnect_without_slotmap_update(ask):
    """The node goes while the client disconnects: the command gets an error; no map is fetched, nobody reconnects."""
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(*first_map((*ALL, node)), Expect("SET", "foo", "bar"), Close())
    with met(fake, node) as cluster:
        cluster.connect()
        asking = gevent.spawn(ask, cluster, ("SET", "foo", "bar"))
        gevent.sleep(0)
        cluster.disconnect()
        (error,) = asking.get(timeout=5)
        assert isinstance(error, GvClusterError)
        assert error.maybe_executed
        gevent.sleep(0.05)


def test_command_from_callback():
    """The callback of a failed command sends it again, while the node that failed is being removed."""
    fake = FakeCluster(2)
    gone, stays = fake.nodes
    gone.on("SET", lambda *_: Close() if gevent.spawn(gone.stop) else None)
    stays.play(
        *first_map((0, 1, stays), (2, 16383, gone)),
        *asked_for_map((*ALL, stays)),
        *answered("SET", "foo", "1", reply=OK),
        ExpectClose(),
    )
    told: list[Any] = []
    with met(fake, stays, retry="safe") as cluster:

        def again(reply: Any, error: Exception | None) -> None:
            told.append((reply, error))
            if error is not None and len(told) < 5:
                cluster.submit("SET", "foo", "1", callback=again)

        cluster.submit("SET", "foo", "1", callback=again)
        with gevent.Timeout(5):
            while not told or told[-1][1] is not None:
                gevent.sleep(0.001)
        assert told.pop() == (b"OK", None)
        assert {type(error) for _, error in told} == {ConnectionLost}
        assert len(told) == len(gone.commands("SET"))
        cluster.disconnect()
        stays.wait_played()


def test_dbsize_to_all_nodes_during_scaledown(ask):
    """One node of the broadcast is gone: its place has an error, the other has answered, the map is fetched once."""
    fake = FakeCluster(2)
    stays, gone = fake.nodes
    stays.play(
        *first_map((0, 8000, stays), (8001, 16383, gone)),
        *answered("DBSIZE", reply=b":7\r\n"),
        *asked_for_map((*ALL, stays)),
        *answered("DBSIZE", reply=b":8\r\n"),
        ExpectClose(),
    )
    gone.play(ExpectConnect(), Expect("DBSIZE"), Close())
    with met(fake, stays) as cluster:
        cluster.connect()

        def broadcast() -> list[Any]:
            if ask is by_submit:
                pending = [cluster.submit("DBSIZE", node=node) for node in cluster.nodes()]
                return [outcome_of(each.get) for each in pending]
            pipe = cluster.pipeline()
            for node in cluster.nodes():
                pipe.append("DBSIZE", node=node)
            return pipe.execute()

        size, error = broadcast()
        assert size == 7
        assert isinstance(error, ConnectionLost)
        with gevent.Timeout(5):
            while cluster.route_version < 2:
                gevent.sleep(0.001)
        assert broadcast() == [8]
        cluster.disconnect()
        stays.wait_played()


def outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except GvClusterError as error:
        return error
