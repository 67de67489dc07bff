"""Whatever a server sends as its slot map, the outcome is a valid map or UnusableMap."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gvcluster.core.address import Address, is_valid_host
from gvcluster.core.topology import Topology, UnusableMap, parse_nodes, parse_slots

ASKED = Address("127.0.0.1", 7000)

hosts = st.sampled_from([b"127.0.0.1", b"::1", b"h", b"", b"?", b"a b", b"\xff", "127.0.0.2", None])
ports = st.sampled_from([7001, 7002, 0, -1, 65536, True, None, b"7001"])
ids = st.sampled_from([b"a" * 40, b"b" * 40, "c" * 40, b"\n", None, 7])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=4), inner, max_size=3),
    max_leaves=9,
)
metadata = st.sampled_from(
    [[], {}, [b"ip", b"127.0.0.3"], {b"ip": b"127.0.0.3"}, [b"ip"], [[], b"x"], {b"hostname": 1}]
)
members = st.lists(st.one_of(hosts, ports, junk), max_size=3) | st.tuples(hosts, ports, ids, metadata).map(list)
slots = st.integers(-1, 16384) | st.sampled_from([0, 16383]) | junk
ranges = st.builds(lambda first, last, nodes: [first, last, *nodes], slots, slots, st.lists(members | junk, max_size=3))
words = st.sampled_from(
    ["a" * 40, "b" * 40, "127.0.0.1:7001@17001", ":7002", "?:1", "::1:7003@1,h", ":0@0", "master", "slave", "fail",
     "myself,master", "master,noaddr", "handshake", "-", "0", "5", "connected", "0-16383", "1", "9-3", "16384",
     "[7->-x]", "x", "\x00", "\udc80", "٣"]
)  # fmt: skip
lines = st.lists(words, max_size=11).map(" ".join)


def assert_valid(topology: Topology) -> None:
    assert len(topology.owners) == 16384
    assert 0 < topology.covered == sum(owner is not None for owner in topology.owners)
    assert {owner for owner in topology.owners if owner} <= set(topology.primaries)
    for node in topology.nodes:
        assert is_valid_host(node.address.host)
        assert 1 <= node.address.port <= 65535
        assert "".join((node.id, node.shard, node.hostname or "", node.availability_zone or "")).isprintable()


@settings(max_examples=60, deadline=None)
@given(st.lists(ranges | junk, max_size=5) | junk)
def test_any_reply_to_slots_is_a_valid_map_or_unusable(reply: object) -> None:
    try:
        topology = parse_slots(reply, ASKED)
    except UnusableMap:
        return
    assert_valid(topology)


@settings(max_examples=60, deadline=None)
@given(st.lists(lines | st.text(max_size=50), max_size=6).map("\n".join) | junk)
def test_any_reply_to_nodes_is_a_valid_map_or_unusable(reply: object) -> None:
    try:
        topology = parse_nodes(reply, ASKED)
    except UnusableMap:
        return
    assert_valid(topology)
