"""libvalkey's test scripts for the synchronous API, each with the exact traffic of every node, and named after it.

A node that plays a script dies at anything else: one command more, one connection more, one fetch of the map more. All
run in RESP2 without CLIENT SETINFO, where our bytes are as lean as libvalkey's.
"""

import socket
from typing import Any

import gevent
import pytest
from scripted import (
    ALL,
    BAR,
    OK,
    SLOT,
    answered,
    asked_for_map,
    client_of,
    first_map,
    nodes,
    redirect,
    slots,
    wait_for_map,
)

from gvcluster import (
    ConnectFailed,
    ConnectionLost,
    GvClusterError,
    Ready,
    ReplyError,
    ReplyTimeout,
    RetriesExhausted,
    SlotNotCovered,
    TopologyUnavailable,
)
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import Close
from gvcluster.testing.script import Expect, ExpectClose, ExpectConnect, Send


def test_set_get():
    """The connection that fetched the first map serves the commands; nothing else is sent."""
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(
        *first_map((*ALL, node)),
        *answered("SET", "foo", "bar", reply=OK),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    with client_of(fake, node.address) as cluster:
        assert cluster.execute("SET", "foo", "bar") == b"OK"
        assert cluster.execute("GET", "foo") == b"bar"


# -- MOVED and ASK -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host_is_left_out", [False, True])
def test_moved_redirect(host_is_left_out):
    """Who sent MOVED gives the new map, on the connection it has; it is not in that map, so it is closed."""
    fake = FakeCluster(2)
    old, new = fake.nodes
    target = f":{new.address.port}" if host_is_left_out else new.address
    old.play(
        *first_map((0, 1, new), (2, 16383, old)),
        *answered("GET", "foo", reply=redirect("MOVED", target)),
        *asked_for_map((*ALL, new)),
        ExpectClose(),
    )
    served = answered("GET", "foo", reply=BAR)
    new.play(ExpectConnect(), *answered("PING", reply=b"+PONG\r\n"), *served, *served, ExpectClose())
    with client_of(fake, old.address) as cluster:
        cluster.connect()
        assert cluster.execute("PING", node=new.address) == b"PONG"  # it could be asked for the map as well
        assert cluster.execute("GET", "foo") == b"bar"
        old.wait_played()  # closed by the map, before the client ends
        assert cluster.execute("GET", "foo") == b"bar"


def test_moved_redirect_that_is_cut_off():
    """An error that ends in the middle of its code is a plain error, and the reply after it is the next call's."""
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(
        *first_map((*ALL, node)),
        *answered("GET", "foo", reply=b"-MO\r\n"),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    with client_of(fake, node.address) as cluster:
        with pytest.raises(ReplyError, match=r"^MO$"):
            cluster.execute("GET", "foo")
        assert cluster.execute("GET", "foo") == b"bar"


def test_moved_redirect_using_cluster_nodes():
    fake = FakeCluster(2)
    old, new = fake.nodes
    old.play(
        ExpectConnect(),
        Expect("CLUSTER", "NODES"),
        nodes(("myself,master", old, "0-16383"), ("master", new, "")),
        *answered("GET", "foo", reply=redirect("MOVED", new.address)),
        Expect("CLUSTER", "NODES"),
        nodes(("myself,master", old, "0"), ("master", new, "1-16383")),
        ExpectClose(),
    )
    new.play(ExpectConnect(), *answered("GET", "foo", reply=BAR), *answered("GET", "foo", reply=BAR), ExpectClose())
    with client_of(fake, old.address, topology_source="nodes") as cluster:
        assert cluster.execute("GET", "foo") == b"bar"
        wait_for_map(cluster, 2)
        assert cluster.execute("GET", "foo") == b"bar"


@pytest.mark.parametrize("source", ["slots", "nodes"])
def test_ask_redirect(source):
    """ASKING goes before each command that was asked away, over one connection. No map is fetched: the slot stays."""
    fake = FakeCluster(2)
    old, new = fake.nodes
    told = {"slots": slots((*ALL, old)), "nodes": nodes(("myself,master", old, "0-16383"), ("master", new, ""))}
    asked = answered("GET", "foo", reply=redirect("ASK", new.address))
    served = (Expect("ASKING"), Expect("GET", "foo"), Send(OK + BAR))
    old.play(ExpectConnect(), Expect("CLUSTER", source.upper()), told[source], *asked, *asked, ExpectClose())
    new.play(ExpectConnect(), *served, *served, ExpectClose())
    with client_of(fake, old.address, topology_source=source) as cluster:
        assert cluster.execute("GET", "foo") == b"bar"
        assert cluster.execute("GET", "foo") == b"bar"
        assert cluster.route_version == 1


def test_ask_redirect_connection_error(black_hole):
    """Four greenlets are asked into a black hole: four errors after the connect timeout, one fetch of the map."""
    fake = FakeCluster(1)
    (node,) = fake.nodes
    host, port = black_hole
    node.play(
        *first_map((*ALL, node)),
        *[Expect("SET", "foo", number) for number in range(4)],
        Send(redirect("ASK", f"{host}:{port}") * 4),
        *asked_for_map((*ALL, node)),
        ExpectClose(),
    )
    with client_of(fake, node.address, connect_timeout=0.2, retry="never") as cluster:
        cluster.connect()
        errors = four_sets(cluster)
        assert [type(error) for error in errors] == [ConnectFailed] * 4
        assert not any(error.maybe_executed for error in errors)
        node.wait_until(lambda: len(node.commands("CLUSTER SLOTS")) == 2)


def test_redirect_with_hostname(black_hole):
    """The host is the name that the map gives, whatever its metadata say; MOVED and ASK may give names too."""
    fake = FakeCluster(2)
    old, new = fake.nodes
    beside = [b"ip", black_hole[0].encode()]
    name = f"localhost:{new.address.port}"
    asked = answered("GET", "foo", reply=redirect("ASK", name))
    moved = answered("GET", "foo", reply=redirect("MOVED", name))
    told = [("localhost", node.address.port, beside) for node in (old, new)]
    old.play(*first_map((*ALL, told[0])), *asked, *moved, *asked_for_map((*ALL, told[1])), ExpectClose())
    new.play(
        ExpectConnect(),
        Expect("ASKING"),
        Expect("GET", "foo"),
        Send(OK + BAR),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    with client_of(fake, f"localhost:{old.address.port}", address_family="prefer_ipv4") as cluster:
        assert cluster.execute("GET", "foo") == b"bar"
        assert cluster.execute("GET", "foo") == b"bar"
        old.wait_played()
        assert [node.address.host for node in cluster.primaries()] == ["localhost"]


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no ::1")
def test_redirect_with_ipv6():
    """An IPv6 address without brackets ends at the last colon, in a map, in ASK and in MOVED."""
    fake = FakeCluster(2, host="::1")
    old, new = fake.nodes
    unbracketed = f"::1:{new.address.port}"
    old.play(
        *first_map((*ALL, old)),
        *answered("GET", "foo", reply=redirect("ASK", unbracketed)),
        *answered("GET", "foo", reply=redirect("MOVED", unbracketed)),
        *asked_for_map((*ALL, new)),
        ExpectClose(),
    )
    new.play(
        ExpectConnect(),
        Expect("ASKING"),
        Expect("GET", "foo"),
        Send(OK + BAR),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    with client_of(fake, old.address) as cluster:
        assert cluster.execute("GET", "foo") == b"bar"
        assert cluster.execute("GET", "foo") == b"bar"
        old.wait_played()


# -- maps that are not whole -------------------------------------------------------------------------------------------


def test_slots_not_served():
    """A slot that nobody serves costs one fetch and then an error; each new connection is told the database first."""
    fake = FakeCluster(2)
    node, heir = fake.nodes
    select = answered("SELECT", "5", reply=OK)
    node.play(
        ExpectConnect(),
        *select,
        *asked_for_map((0, 1, node)),
        *asked_for_map((0, 1, node)),
        *asked_for_map((0, 1, node), (2, 16383, heir)),
        ExpectClose(),
    )
    heir.play(ExpectConnect(), *select, *answered("GET", "foo", reply=BAR), ExpectClose())
    with client_of(fake, node.address, db=5) as cluster:
        cluster.connect()
        with pytest.raises(SlotNotCovered, match=f"no node serves slot {SLOT}"):
            cluster.execute("GET", "foo")
        assert cluster.execute("GET", "foo") == b"bar"


def test_connect_during_cluster_startup():
    """An empty map is no map: it is asked for again. Where a host is missing, it is the one that answered."""
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(
        ExpectConnect(),
        *answered("CLUSTER", "SLOTS", reply=b"*0\r\n"),
        *asked_for_map((0, 1, (None, node.address.port))),
        *asked_for_map((*ALL, ("", node.address.port))),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    ready: list[Any] = []
    with client_of(fake, node.address, on_event=ready.append) as cluster:
        cluster.start()
        wait_for_map(cluster, 1)
        assert [each.address for each in cluster.primaries()] == [node.address]
        assert cluster.execute("GET", "foo") == b"bar"
        assert [each.address for each in cluster.primaries()] == [node.address]
    assert len([event for event in ready if isinstance(event, Ready)]) == 1


def test_connect_during_cluster_startup_using_cluster_nodes():
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(
        ExpectConnect(),
        Expect("CLUSTER", "NODES"),
        nodes(("myself,master", node, "")),
        Expect("CLUSTER", "NODES"),
        nodes(("myself,master", node, "0-16383")),
        *answered("GET", "foo", reply=BAR),
        ExpectClose(),
    )
    with client_of(fake, node.address, topology_source="nodes") as cluster:
        cluster.start()
        wait_for_map(cluster, 1)
        assert cluster.execute("GET", "foo") == b"bar"


def test_connect_error_using_cluster_nodes():
    """Only a node without slots is known: connecting fails, and says why."""
    fake = FakeCluster(1)
    (node,) = fake.nodes
    node.play(ExpectConnect(), Expect("CLUSTER", "NODES"), nodes(("myself,master", node, "")), ExpectClose())
    with client_of(fake, node.address, topology_source="nodes") as cluster:
        with pytest.raises(TopologyUnavailable, match="slot") as caught:
            cluster.connect()
        assert [address for address, _ in caught.value.failures] == [node.address]


# -- nodes that are gone -----------------------------------------------------------------------------------------------


def four_sets(cluster: Any, **options: Any) -> list[Any]:
    """Four greenlets at once; the reply or the error of each."""

    def ask(number: int) -> Any:
        try:
            return cluster.execute("SET", "foo", number, **options)
        except GvClusterError as error:
            return error

    asking = [gevent.spawn(ask, number) for number in range(4)]
    return [each.get(timeout=10) for each in asking]


def test_connection_error(black_hole):
    """The owner is a black hole: four errors after the connect timeout, a map without it, then four replies."""
    fake = FakeCluster(2)
    node, heir = fake.nodes
    node.play(*first_map((0, 1, node), (2, 16383, black_hole)), *asked_for_map((*ALL, heir)), ExpectClose())
    heir.play(ExpectConnect(), *[Expect("SET", "foo", number) for number in range(4)], Send(OK * 4), ExpectClose())
    with client_of(fake, node.address, connect_timeout=0.2, retry="never") as cluster:
        cluster.connect()
        assert [type(error) for error in four_sets(cluster)] == [ConnectFailed] * 4
        wait_for_map(cluster, 2)
        assert four_sets(cluster) == [b"OK"] * 4


def test_connection_error_is_no_error_where_retries_are_allowed(black_hole):
    """Beyond libvalkey: nothing was sent, so each call waits for the map without the black hole, and succeeds."""
    fake = FakeCluster(2)
    node, heir = fake.nodes
    node.play(*first_map((0, 1, node), (2, 16383, black_hole)), *asked_for_map((*ALL, heir)), ExpectClose())
    heir.play(ExpectConnect(), Expect("SET", "foo", "bar"), Send(OK), ExpectClose())
    with client_of(fake, node.address, connect_timeout=0.2) as cluster:
        assert cluster.execute("SET", "foo", "bar") == b"OK"


def test_timeout_handling():
    """Four greenlets wait for a node that stalls: a timeout each, none is sent again, and the map is fetched once.

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
    with client_of(fake, node.address) as cluster:
        cluster.connect()
        errors = four_sets(cluster, timeout=0.1)
        assert [type(error) for error in errors] == [ReplyTimeout] * 4
        assert all(error.maybe_executed for error in errors)
        node.wait_until(lambda: len(node.commands("CLUSTER SLOTS")) == 2)
        assert cluster.execute("GET", "foo") == b"bar"


@pytest.mark.parametrize(("retry", "error"), [("never", ConnectFailed), ("safe", RetriesExhausted)])
def test_cluster_down(retry, error):
    """All nodes are gone: each of six commands fails, at once or at its deadline, and is known not to have run."""
    fake = FakeCluster(2)
    node, other = fake.nodes
    node.play(*first_map((0, 1, other), (2, 16383, node)), *answered("SET", "foo", "bar", reply=OK), Close())
    other.play()
    lost: list[Any] = []
    options = {"retry": retry, "on_disconnect": lambda *told: lost.append(told)}
    with client_of(fake, node.address, **options) as cluster:
        assert cluster.execute("SET", "foo", "bar") == b"OK"
        node.wait_played()
        node.stop()
        other.stop()
        with gevent.Timeout(5):
            while not lost:
                gevent.sleep(0.001)
        for number in range(6):
            with pytest.raises(error) as caught:
                cluster.execute("SET", "foo", number, timeout=0.2)
            assert not caught.value.maybe_executed


def test_cluster_scale_down():
    """An owner that is gone at the start is found out by one fetch. What a connection took along is not sent again."""
    fake, elsewhere = FakeCluster(1), FakeCluster(1)
    (stays,), (gone,) = fake.nodes, elsewhere.nodes  # gone never listens
    stays.play(
        *first_map((0, 1, stays), (2, 16383, gone)),
        *asked_for_map((*ALL, stays)),
        *answered("SET", "foo", "1", reply=OK),
        Expect("SET", "foo", "2"),
        Close(),
        *first_map((*ALL, stays)),
        *answered("SET", "foo", "3", reply=OK),
        ExpectClose(),
    )
    with client_of(fake, stays.address) as cluster:
        assert cluster.execute("SET", "foo", "1") == b"OK"
        with pytest.raises(ConnectionLost) as caught:
            cluster.execute("SET", "foo", "2")
        assert caught.value.maybe_executed
        stays.wait_until(lambda: len(stays.commands("CLUSTER SLOTS")) == 3)
        assert cluster.execute("SET", "foo", "3") == b"OK"
    elsewhere.stop()


# -- one command for all nodes -----------------------------------------------------------------------------------------


def test_dbsize_to_all_nodes():
    """One reply per node, in the order of the map."""
    fake = FakeCluster(3)
    parts = [(0, 5000), (5001, 10000), (10001, 16383)]
    told = [(*part, node) for part, node in zip(parts, fake.nodes, strict=True)]
    for number, node in enumerate(fake.nodes):
        begin = first_map(*told) if number == 0 else (ExpectConnect(),)
        node.play(*begin, *answered("DBSIZE", reply=b":%d\r\n" % (10 + number)), ExpectClose())
    with client_of(fake, fake.nodes[0].address) as cluster:
        assert [cluster.execute("DBSIZE", node=node) for node in cluster.nodes()] == [10, 11, 12]


def test_dbsize_to_all_nodes_during_scaledown():
    """A node goes in the middle: it has an error, the map is fetched once, and all primaries that are left are asked.

    libvalkey's iterator gives out one more node after a new map, whoever that is; ours begins again.
    """
    fake = FakeCluster(3)
    one, gone, two = fake.nodes
    one.play(
        *first_map((0, 5000, one), (5001, 10000, gone), (10001, 16383, two)),
        *answered("DBSIZE", reply=b":10\r\n"),
        *asked_for_map((0, 8000, one), (8001, 16383, two)),
        *answered("DBSIZE", reply=b":11\r\n") * 2,
        ExpectClose(),
    )
    gone.play(ExpectConnect(), Expect("DBSIZE"), Close())
    two.play(ExpectConnect(), *answered("DBSIZE", reply=b":12\r\n") * 2, ExpectClose())
    with client_of(fake, one.address) as cluster:
        sizes: list[Any] = []
        for node in cluster.nodes():
            try:
                sizes.append(cluster.execute("DBSIZE", node=node))
            except ConnectionLost as error:
                sizes.append(error.address)
                wait_for_map(cluster, 2)
        assert sizes == [10, gone.address, 11, 12]
        assert [cluster.execute("DBSIZE", node=node) for node in cluster.nodes()] == [11, 12]
