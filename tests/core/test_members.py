"""Entries of slot maps that make no sense are skipped, and the rest is used."""

from typing import Any

import pytest

from gvcluster.core.address import Address
from gvcluster.core.topology import Topology, UnusableMap, parse_nodes, parse_slots

ASKED = Address("10.0.0.9", 6379)
A, B, C, D = (letter * 40 for letter in "abcd")
GOOD = [0, 99, [b"10.0.0.1", 7001, A.encode(), []]]


def slots(*entries: Any) -> Topology:
    return parse_slots(list(entries), ASKED)


def nodes(*lines: str) -> Topology:
    return parse_nodes("".join(f"{line}\n" for line in lines).encode(), ASKED)


def line(identity: str, address: str, flags: str, ranges: str = "", *, primary: str = "-", epoch: str = "1") -> str:
    return f"{identity} {address} {flags} {primary} 0 1795308648092 {epoch} connected {ranges}".rstrip()


# -- CLUSTER SLOTS -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        b"100",
        [],
        {},
        [100, 199],
        [100, 199, None],
        [100, 199, []],
        [100, 199, [b"10.0.0.2"]],
        [100, 199, {b"10.0.0.2": 7002}],
        [100, 199, b"10.0.0.2"],
        [100, 199, [b"?", 7002, B.encode(), []]],
        [100, 199, [b"10.0.0.2", 0, B.encode()]],
        [100, 199, [b"10.0.0.2", 65536, B.encode()]],
        [100, 199, [b"10.0.0.2", b"7002", B.encode()]],
        [100, 199, [b"10.0.0.2", True, B.encode()]],
        [100, 199, [b"10.0 0.2", 7002, B.encode()]],
        [100, 199, [b"10.0.0.2\r\n", 7002, B.encode()]],
        [100, 199, [b"\xff", 7002, B.encode()]],
        [100, 199, [[], 7002, B.encode()]],
        [100, 199, [7, 7002, B.encode()]],
        [100, 199, [b"10.0.0.2", 7002, 5]],
        [100, 199, [b"10.0.0.2", 7002, b"\n"]],
        [199, 100, [b"10.0.0.2", 7002, B.encode()]],
        [-1, 199, [b"10.0.0.2", 7002, B.encode()]],
        [100, 16384, [b"10.0.0.2", 7002, B.encode()]],
        [b"100", 199, [b"10.0.0.2", 7002, B.encode()]],
        [True, 199, [b"10.0.0.2", 7002, B.encode()]],
        [100.0, 199, [b"10.0.0.2", 7002, B.encode()]],
    ],
)
def test_a_bad_range_is_skipped_and_the_rest_is_used(bad: Any) -> None:
    for topology in (slots(bad, GOOD), slots(GOOD, bad)):
        assert [str(node) for node in topology.nodes] == ["10.0.0.1:7001"]
        assert topology.covered == 100
    with pytest.raises(UnusableMap, match="assigns no slot"):
        slots(bad)


class Map(dict[Any, Any]):
    """As maps are since Python 3.12, where a slice can be hashed: unknown, not of the wrong type."""

    def __getitem__(self, key: Any) -> Any:
        raise KeyError(key)


@pytest.mark.parametrize("bad", [None, [b"?", 1, B.encode(), []], [b"h", 0], {}, Map(), [[], {}, 0]])
def test_a_bad_replica_is_skipped_and_its_shard_is_used(bad: Any) -> None:
    topology = slots([*GOOD, bad, [b"10.0.0.2", 7002, B.encode(), {}]])
    assert [repr(node) for node in topology.nodes] == [
        "<Node 10.0.0.1:7001 primary aaaaaaaa>",
        "<Node 10.0.0.2:7002 replica bbbbbbbb>",
    ]


@pytest.mark.parametrize("reply", [None, b"OK", 7, {}, ValueError("LOADING"), "x"])
def test_what_is_no_list_is_no_answer_to_slots(reply: object) -> None:
    with pytest.raises(UnusableMap, match=r"^CLUSTER SLOTS was answered with .*, not with a list$"):
        parse_slots(reply, ASKED)


def test_a_missing_host_is_the_host_that_answered() -> None:
    assert [str(n) for n in slots([0, 1, [None, 7001, A.encode()], [b"", 7002, B.encode()]]).nodes] == [
        "10.0.0.9:7001",
        "10.0.0.9:7002",
    ]


@pytest.mark.parametrize("metadata", [[b"ip", b"10.0.0.3"], {b"ip": b"10.0.0.3"}, {"ip": "10.0.0.3"}])
def test_a_question_mark_gives_way_to_the_ip_of_the_metadata(metadata: object) -> None:
    assert str(slots([0, 1, [b"?", 7001, A.encode(), metadata]]).nodes[0]) == "10.0.0.3:7001"


@pytest.mark.parametrize("metadata", [None, 7, [b"ip"], [b"ip", None], [[], b"x"], {b"ip": 7}, [b"ip", b"a b"]])
def test_a_question_mark_without_a_usable_ip_is_skipped(metadata: object) -> None:
    with pytest.raises(UnusableMap):
        slots([0, 1, [b"?", 7001, A.encode(), metadata]])


def test_garnet_names_no_host_but_metadata_in_a_list_also_in_resp3() -> None:
    told = [None, 7000, A.encode(), [b"ip", b"127.0.0.1", b"hostname", b"box.a"]]
    node = slots([0, 16383, told]).nodes[0]
    assert (str(node), node.hostname, node.availability_zone) == ("10.0.0.9:7000", "box.a", None)


def test_without_ids_the_shard_is_named_by_its_primarys_address() -> None:
    topology = slots([0, 9, [b"10.0.0.1", 7001], [b"10.0.0.2", 7002]], [10, 19, [b"10.0.0.3", 7003]])
    assert [(node.id, node.shard) for node in topology.nodes] == [
        ("", "10.0.0.1:7001"),
        ("", "10.0.0.3:7003"),
        ("", "10.0.0.1:7001"),
    ]
    assert topology.replicas_of(topology.nodes[0]) == (topology.nodes[2],)
    assert topology.replicas_of(topology.nodes[1]) == ()


def test_replicas_that_only_a_later_range_names_are_kept() -> None:
    primary, replica = [b"10.0.0.1", 7001, A.encode()], [b"10.0.0.2", 7002, B.encode()]
    topology = slots([0, 9, primary], [20, 29, primary, replica])
    assert [str(node) for node in topology.replicas_of(topology.nodes[0])] == ["10.0.0.2:7002"]


def test_of_overlapping_ranges_the_first_wins() -> None:
    topology = slots(
        [10, 20, [b"h1", 1, A.encode()]], [0, 30, [b"h2", 2, B.encode()]], [30, 30, [b"h1", 1, A.encode()]]
    )
    assert [str(topology.owner(slot)) for slot in (9, 10, 20, 21, 30)] == ["h2:2", "h1:1", "h1:1", "h2:2", "h2:2"]
    assert topology.covered == 31


def test_a_map_full_of_overlaps_is_refused_before_it_costs_time() -> None:
    with pytest.raises(UnusableMap, match="more than twice"):
        slots(*[[0, 16382, [b"h", 1, A.encode()]]] * 16384)


def test_a_primary_of_one_range_is_no_replica_of_another() -> None:
    topology = slots([0, 9, [b"h1", 1, A.encode()], [b"h2", 2, B.encode()]], [10, 19, [b"h2", 2, B.encode()]])
    assert [repr(node) for node in topology.nodes] == ["<Node h1:1 primary aaaaaaaa>", "<Node h2:2 primary bbbbbbbb>"]


def test_one_id_at_two_addresses_is_one_node() -> None:
    topology = slots([0, 9, [b"h1", 1, A.encode()]], [10, 19, [b"h2", 2, A.encode()]])
    assert [str(node) for node in topology.nodes] == ["h1:1"]
    assert topology.covered == 20


def test_of_two_nodes_at_one_address_the_owner_is_found() -> None:
    topology = nodes(line(A, "h:1@2", "master"), line(B, "h:1@2", "master", "0-9"))
    assert topology.node_at(Address("h", 1)) == topology.owner(0)
    assert len(topology.nodes) == 2


def test_every_slot_alone_is_a_map_and_one_range_more_is_none() -> None:
    one_each = [[slot, slot, [b"h", slot % 3 + 1, b"%040d" % (slot % 3)]] for slot in range(16384)]
    assert slots(*one_each).covered == 16384
    with pytest.raises(UnusableMap, match="named 16385 ranges: more than there are slots"):
        slots(*one_each, GOOD)


def test_more_nodes_than_any_cluster_has_are_refused() -> None:
    many = [[slot, slot, [b"h", slot + 1, b"%040d" % slot]] for slot in range(4096)]
    assert len(slots(*many).nodes) == 4096
    with pytest.raises(UnusableMap, match="named more than 4096 nodes"):
        slots(*many, [9999, 9999, [b"h", 9999, A.encode()]])


# -- CLUSTER NODES -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "x",
        f"{B} h:2@3 master - 0 0 2",
        line(B, "h:2@3", "master,noaddr", "5"),
        line(B, ":0@0", "master", "5"),
        line(B, "?:2@3", "master", "5"),
        line(B, "h:70000@3", "master", "5"),
        line(B, "h@3", "master", "5"),
        line(B, "a:b:2@3", "master", "5"),
        line(B, "h:2@3", "handshake", "5"),
        line(B, "h:2@3", "master,handshake", "5"),
        line(B, "h:2@3", "noflags", "5"),
        line(B, "h:2@3", "master,fail"),
        line(B, "h:2@3", "slave,fail", primary=A),
        line(B, "h:2@3", "master", "5", epoch="x"),
        line(B, "h:2@3", "master", "5", epoch="9" * 30),
        line(B + "\x00", "h:2@3", "master", "5"),
        line(A, "h:2@3", "master", "100-199"),
    ],
)
def test_a_bad_line_is_skipped_and_the_rest_is_used(bad: str) -> None:
    topology = nodes(line(A, "10.0.0.1:7001@17001", "myself,master", "0-99"), bad)
    assert [str(node) for node in topology.nodes] == ["10.0.0.1:7001"]
    assert topology.covered == 100


@pytest.mark.parametrize("reply", [None, [], 7, {}, ValueError("LOADING")])
def test_what_is_no_text_is_no_answer_to_nodes(reply: object) -> None:
    with pytest.raises(UnusableMap, match=r"^CLUSTER NODES was answered with .*, not with text$"):
        parse_nodes(reply, ASKED)


def test_every_form_of_an_address_in_nodes_is_read() -> None:
    topology = nodes(
        line(A, ":7001@17001", "myself,master", "0"),
        line(B, "::1:7002@17002,host.example", "master", "1"),
        line(C, "10.0.0.3:7003", "master", "2"),  # before Redis 4
        line(D, "10.0.0.4:7004@17004,,tls-port=0,shard-id=x", "master", "3"),
    )
    assert [str(node) for node in topology.nodes] == ["10.0.0.9:7001", "[::1]:7002", "10.0.0.3:7003", "10.0.0.4:7004"]
    assert [node.hostname for node in topology.nodes] == [None, "host.example", None, None]


def test_a_failed_primary_with_slots_stays_and_so_does_one_in_doubt() -> None:
    topology = nodes(
        line(A, "h:1@2", "master,fail", "0"), line(B, "h:2@3", "master,fail?"), line(C, "h:3@4", "slave,fail?")
    )
    assert [node.address.port for node in topology.nodes] == [1, 2, 3]


def test_a_primary_without_slots_and_a_replica_of_one_are_nodes() -> None:
    topology = nodes(
        line(C, "h:3@4", "slave", primary=B), line(B, "h:2@3", "master"), line(A, "h:1@2", "master", "0-16383")
    )
    assert [(node.address.port, node.role) for node in topology.nodes] == [
        (1, "primary"),
        (2, "primary"),
        (3, "replica"),
    ]
    assert topology.replicas_of(topology.nodes[1]) == (topology.nodes[2],)


def test_slots_in_motion_and_slots_that_make_no_sense_are_nobodys() -> None:
    ranges = f"0 2-3 [5->-{B}] [6-<-{B}] 9-7 16384 x 7- -7 1-2-3 ٣ 8-16384"
    topology = nodes(line(A, "h:1@2", "master", ranges))
    assert [slot for slot, owner in enumerate(topology.owners) if owner] == [0, 2, 3]


def test_slots_on_the_line_of_a_replica_are_ignored() -> None:
    topology = nodes(line(A, "h:1@2", "master", "0"), line(B, "h:2@3", "slave", "1", primary=A))
    assert topology.covered == 1


def test_of_overlapping_ranges_the_higher_epoch_wins_and_is_told() -> None:
    topology = nodes(line(A, "h:1@2", "master", "0-9", epoch="3"), line(B, "h:2@3", "master", "5-14", epoch="4"))
    owners = [owner.address.port for owner in topology.owners[:15] if owner]
    assert owners == [1] * 5 + [2] * 10
    assert topology.epochs is not None
    assert topology.epochs[:16] == (3,) * 5 + (4,) * 10 + (-1,)


def test_a_replica_of_a_replica_belongs_to_the_shard_of_the_primary() -> None:
    topology = nodes(
        line(A, "h:1@2", "slave", primary=B), line(B, "h:2@3", "master", "0"), line(C, "h:3@4", "slave", primary=A)
    )
    assert [node.address.port for node in topology.replicas_of(topology.nodes[0])] == [1, 3]


def test_replicas_that_follow_each_other_in_a_circle_do_no_harm() -> None:
    topology = nodes(
        line(A, "h:1@2", "slave", primary=B), line(B, "h:2@3", "slave", primary=A), line(C, "h:3@4", "master", "0")
    )
    assert len(topology.replicas) == 2


def test_too_many_lines_or_ranges_are_refused() -> None:
    with pytest.raises(UnusableMap, match="named 4097 nodes"):
        nodes(*["x"] * 4097)
    with pytest.raises(UnusableMap, match="named 16385 ranges"):
        nodes(line(A, "h:1@2", "master", " ".join(["7"] * 16385)))
