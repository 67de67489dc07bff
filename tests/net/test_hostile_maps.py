"""Slot maps that make no sense: the old one stays, somebody else is asked, and what can be used is used."""

from collections.abc import Iterator
from typing import Any

import pytest

import gvcluster
from gvcluster.core.slots import hash_slot
from gvcluster.errors import SlotNotCovered, TopologyUnavailable
from gvcluster.events import Event, SlotMapUpdated
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import encode_reply

KEY = "k"
SLOT = hash_slot(KEY)


@pytest.fixture
def cluster(fake: FakeCluster, protocol: int) -> Iterator[gvcluster.Cluster]:
    client = gvcluster.connect(fake.seeds, protocol=protocol, timeout=5.0)
    try:
        yield client
    finally:
        client.close()


def told(host: object = b"127.0.0.1", port: object = 7000, identity: object = b"a" * 40, *more: object) -> list[object]:
    """A node, as CLUSTER SLOTS tells it."""
    return [host, port, identity, *more]


def deep(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


USELESS = {
    "nothing": [],
    "null": None,
    "a number": 7,
    "text": "OK",
    "an error": gvcluster.ReplyError("CLUSTERDOWN"),
    "a redirect": gvcluster.ReplyError(f"MOVED {SLOT} 127.0.0.1:1"),
    "a map": {b"slots": 1},
    "ranges that are numbers": [1, 2, 3],
    "ranges without nodes": [[0, 16383]],
    "a range that is null": [None],
    "nodes that are numbers": [[0, 16383, 1]],
    "nodes that are null": [[0, 16383, None]],
    "nodes without a port": [[0, 16383, [b"127.0.0.1"]]],
    "a host nobody knows": [[0, 16383, told(b"?")]],
    "a host that is a number": [[0, 16383, told(5)]],
    "a host that is a list": [[0, 16383, told([b"127.0.0.1"])]],
    "a host with control characters": [[0, 16383, told(b"127.0.0.1\r\nFLUSHALL")]],
    "a host of a megabyte": [[0, 16383, told(b"h" * 1_000_000)]],
    "a host with a password": [[0, 16383, told(b"user:pw@h")]],
    "port 0": [[0, 16383, told(port=0)]],
    "port -1": [[0, 16383, told(port=-1)]],
    "port 70000": [[0, 16383, told(port=70000)]],
    "a port that is text": [[0, 16383, told(port=b"7000")]],
    "a port without an end": [[0, 16383, told(port=10**18)]],
    "an id that is a list": [[0, 16383, told(identity=[1])]],
    "slots out of range": [[-1, 5, told()], [5, 16384, told()], [10**12, 10**12, told()], [7, 3, told()]],
    "slots that are text": [[b"0", b"16383", told()]],
    "true and false": [[False, True, told()]],
    "lists without an end": deep(200),
    "every slot named three times": [[0, 16383, told()]] * 3,
    "more ranges than slots": [[0, 0, told()]] * 16385,
    "5000 nodes": [[n, n, told(b"10.0.%d.%d" % divmod(n, 256), 7000, b"%040d" % n)] for n in range(5000)],
}


def useless_map(name: str, protocol: int) -> bytes:
    """As it comes over the wire. In RESP2 true and false would be the integers 1 and 0, which name slots."""
    return encode_reply(USELESS[name], 3 if name == "true and false" else protocol)


@pytest.mark.parametrize("name", USELESS)
def test_f62_a_useless_map_leaves_the_old_one_in_place(
    fake: FakeCluster, cluster: gvcluster.Cluster, protocol: int, name: str
) -> None:
    version, nodes = cluster.route_version, set(cluster.primaries())
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", useless_map(name, protocol))
    with pytest.raises(TopologyUnavailable) as caught:
        cluster.refresh()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
    assert (cluster.route_version, set(cluster.primaries())) == (version, nodes)
    assert cluster.execute("SET", KEY, 1) == b"OK"


@pytest.mark.parametrize("name", USELESS)
def test_somebody_else_is_asked_when_the_first_one_answers_nonsense(
    fake: FakeCluster, protocol: int, name: str
) -> None:
    sane = fake.nodes[2]
    for node in fake.nodes[:2]:
        node.on("CLUSTER SLOTS", useless_map(name, protocol))
    cluster = gvcluster.connect(fake.seeds, protocol=protocol, timeout=5.0)
    try:
        assert {node.address for node in cluster.primaries()} == {node.address for node in fake.nodes}
    finally:
        cluster.close()
    assert len(sane.commands("CLUSTER SLOTS")) == 1


def test_bad_entries_are_skipped_and_the_rest_is_used(fake: FakeCluster, protocol: int) -> None:
    owner = fake.nodes[0]
    good = [*owner.address, owner.id.encode(), {}]
    good[0] = good[0].encode()
    map_ = [
        [0, 100, told(b"?")],
        [101, 16383, good, told(b"?"), told(port=0), None, 7, told(b"\x1b[31m")],
        [200, 300, told(b"10.9.9.9")],  # claimed already: the first counts
        [20000, 20001, good],
        "nonsense",
    ]
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", encode_reply(map_, protocol))
    events: list[Event] = []
    cluster = gvcluster.connect(fake.seeds, protocol=protocol, timeout=5.0, on_event=events.append)
    try:
        assert cluster.primaries()[0].address == owner.address
        assert [event.covered for event in events if isinstance(event, SlotMapUpdated)] == [16383 - 100]
        assert cluster.node_for_key(KEY) == cluster.primaries()[0]
        with pytest.raises(SlotNotCovered):
            cluster.execute("GET", next(str(n) for n in range(10**6) if hash_slot(str(n)) < 100))
    finally:
        cluster.close()


@pytest.mark.parametrize("host", [None, b""])
def test_a_host_that_is_left_out_is_the_host_that_answered(
    fake: FakeCluster, protocol: int, host: bytes | None
) -> None:
    owner = fake.node_for_key(KEY)
    assert owner is not None
    for node in fake.nodes:
        node.on(
            "CLUSTER SLOTS", encode_reply([[0, 16383, told(host, owner.address.port, owner.id.encode())]], protocol)
        )
    cluster = gvcluster.connect(fake.seeds, protocol=protocol, timeout=5.0)
    try:
        assert cluster.execute("SET", KEY, 1) == b"OK"
    finally:
        cluster.close()


def test_a_node_that_keeps_claiming_everything_does_not_take_the_others_keys(
    fake: FakeCluster, cluster: gvcluster.Cluster, protocol: int
) -> None:
    """One liar among the members: its map is as good as any other's, but the node that it names knows better."""
    liar: FakeNode = fake.nodes[0]
    mine = [liar.address.host.encode(), liar.address.port, liar.id.encode(), {}]
    liar.on("CLUSTER SLOTS", encode_reply([[0, 16383, mine]], protocol))
    for _ in range(3):
        cluster.refresh()
        for n in range(20):
            assert cluster.execute("SET", f"key{n}", n) == b"OK"
    for n in range(20):
        owner = fake.node_for_key(f"key{n}")
        assert owner is not None
        assert f"key{n}".encode() in owner.data
