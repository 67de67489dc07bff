"""Code written for the libraries, while primaries are killed, change places and give slots away."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from compat_library import LIBRARY
from facade_load import FacadeLoad

from gvcluster.testing import LocalCluster


@pytest.fixture(scope="module")
def servers(any_server: str) -> Iterator[LocalCluster]:
    """A cluster of its own: other tests want theirs whole."""
    with LocalCluster(any_server, node_timeout=2.0) as cluster:
        yield cluster


@pytest.fixture
def connect(facade: Any, servers: LocalCluster) -> Iterator[Callable[[], Any]]:
    """Make a facade that decodes."""
    for primary in servers.primaries():
        primary.command("FLUSHALL")
    nodes = [{"host": node.address.host, "port": node.address.port} for node in servers.live_nodes()]
    with ExitStack() as made:
        yield lambda: made.enter_context(facade(startup_nodes=nodes, decode_responses=True, socket_timeout=20))


@pytest.fixture
def client(connect: Callable[[], Any]) -> Any:
    return connect()


def error_of(call: Any, *args: Any) -> Any:
    """What was raised."""
    try:
        return call(*args)
    except Exception as error:
        return error


def test_a_planned_failover_is_noticed_by_nobody(client: Any, servers: LocalCluster) -> None:
    with FacadeLoad(client, may_lose=False) as load:
        load.wait_until_served()
        primary = servers.primaries()[0]
        heir = servers.failover(primary)
        load.wait_until_served()
    assert (load.wrong, load.errors) == ([], [])
    assert any(node.port == heir.address.port for node in client.get_primaries())


def test_slots_that_move_are_noticed_by_nobody(client: Any, servers: LocalCluster) -> None:
    source, target = servers.primaries()[:2]
    moved = [client.keyslot(f"count:{number}") for number in range(30)]
    slots = sorted({slot for slot in moved if any(a <= slot <= b for a, b in source.view().me.slots)})
    assert slots
    with FacadeLoad(client, may_lose=False) as load:
        load.wait_until_served()
        servers.move_slots(slots, target)
        load.wait_until_served()
        servers.move_slots(slots, source)
        load.wait_until_served()
    assert (load.wrong, load.errors) == ([], [])
    assert client.gvcluster.statistics().redirects > 0


def test_a_killed_primary_is_told_in_the_librarys_errors_and_another_takes_its_place(
    connect: Callable[[], Any], client: Any, servers: LocalCluster
) -> None:
    hasty = connect()
    key = next(key for key in map(str, range(1000)) if hasty.get_node_from_key(key) == hasty.get_primaries()[1])
    assert hasty.rpush(key, "x")
    with FacadeLoad(client, may_lose=True) as load:
        load.wait_until_served()
        port = hasty.get_node_from_key(key).port
        victim = next(node for node in servers.primaries() if node.address.port == port)
        (replica,) = servers.replicas_of(victim)
        # Only if it stands still first, there is surely something under way.
        servers.pause(victim)
        stuck = [gevent.spawn(error_of, hasty.rpush, key, n) for n in range(10)]
        with gevent.Timeout(20):
            while sum(each.in_flight for each in hasty.gvcluster.statistics().nodes) < 10:
                gevent.sleep(0.01)
        servers.kill(victim)
        load.wait_until_served()
    errors = [each.get(timeout=20) for each in stuck]
    told = {(type(error), getattr(error, "maybe_executed", None)) for error in errors}
    assert told == {(client._library.error("ConnectionError"), True)}
    assert load.wrong == []
    assert {type(error).__module__.partition(".")[0] for error in load.errors} <= {LIBRARY}
    assert {type(error.__cause__).__module__ for error in load.errors} <= {"gvcluster.errors", "builtins"}
    ports = {node.port for node in client.get_primaries()}
    assert replica.address.port in ports
    assert victim.address.port not in ports
    servers.restart(victim)
    servers.wait_until_agreed()
