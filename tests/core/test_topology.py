"""Slot maps of real servers, recorded on the wire, and the maps that none of them should ever send."""

import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import pytest

from gvcluster.core.address import Address
from gvcluster.core.steps import Steps, at_once
from gvcluster.core.topology import Node, Topology, UnusableMap, parse_nodes, parse_slots, read_nodes, read_slots

ASKED = Address("127.0.0.1", 7000)
SERVERS = ["valkey-9.1.2", "valkey-8.1.8", "redis-7.0.15", "redis-6.2.14"]
OTHER_SETUPS = [
    "ipv6-valkey-9.1.2",
    "ipv6-redis-6.2.14",
    "tls-and-plain-redis-7.0.15",
    "tls-only-redis-7.0.15",
]
WITH_HOSTNAMES = ["valkey-9.1.2", "valkey-8.1.8", "redis-7.0.15"]


class Recorded(NamedTuple):
    """One reply of a real server, read by hiredis."""

    scenario: str
    node: str
    protocol: int
    command: str
    reply: Any


def recorded(server: str, scenario: str = "", command: str = "") -> list[Recorded]:
    """The recorded replies of one scenario (all when empty), in the order in which they were recorded."""
    found = []
    for entry in json.loads((Path(__file__).parent / "wire" / f"{server}.json").read_text())["entries"]:
        if scenario in ("", entry["scenario"]) and command in ("", entry["command"]):
            reader = hiredis.Reader()
            reader.feed(entry["reply"].encode("latin-1"))
            found.append(
                Recorded(entry["scenario"], entry["node"], int(entry["protocol"]), entry["command"], reader.gets())
            )
    assert found, f"nothing recorded of {server}: {scenario} {command}"
    return found


def parse(entry: Recorded) -> Topology:
    return (parse_slots if entry.command == "CLUSTER SLOTS" else parse_nodes)(entry.reply, ASKED)


def owner_ports(topology: Topology, *slots: int) -> list[int | None]:
    owners = [topology.owner(slot) for slot in slots]
    return [owner.address.port if owner else None for owner in owners]


def roles(topology: Topology) -> dict[int, str]:
    return {node.address.port: node.role for node in topology.nodes}


# -- real servers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS)
def test_a_steady_cluster_is_read_alike_in_both_protocols_and_from_every_node(server: str) -> None:
    for entry in recorded(server, "steady 3+3"):
        topology = parse(entry)
        assert [node.address.port for node in topology.primaries] == [7001, 7002, 7003]
        assert sorted(node.address.port for node in topology.replicas) == [7004, 7005, 7006]
        assert owner_ports(topology, 0, 5460, 5461, 10922, 10923, 16383) == [7001, 7001, 7002, 7002, 7003, 7003]
        assert topology.covered == 16384
        for primary, replica_port in zip(topology.primaries, (7004, 7005, 7006), strict=True):
            assert primary.shard == primary.id
            assert [node.address.port for node in topology.replicas_of(primary)] == [replica_port]
            assert topology.replicas_of(primary)[0].shard == primary.id
        assert topology.nodes == topology.primaries + topology.replicas


@pytest.mark.parametrize("server", SERVERS + OTHER_SETUPS)
def test_slots_and_nodes_of_one_moment_name_the_same_owners(server: str) -> None:
    entries = recorded(server)
    pairs = [
        (slots, nodes)
        for slots, nodes in pairwise(entries)
        if (slots.command, nodes.command) == ("CLUSTER SLOTS", "CLUSTER NODES")
        and slots[:3] == nodes[:3]
        and not isinstance(slots.reply, Exception)
        and slots.reply
    ]
    assert len(pairs) >= 2
    for slots, nodes in pairs:
        by_slots, by_nodes = parse(slots), parse(nodes)
        assert [owner and owner.id for owner in by_slots.owners] == [owner and owner.id for owner in by_nodes.owners]
        assert by_slots.epochs is None
        assert by_nodes.epochs is not None
        # CLUSTER SLOTS hides replicas that have not yet replicated and primaries without slots.
        told = {(node.id, node.role, node.shard) for node in by_slots.nodes}
        assert told <= {(node.id, node.role, node.shard) for node in by_nodes.nodes}


@pytest.mark.parametrize("server", SERVERS)
def test_a_node_that_has_met_nobody_gives_no_map(server: str) -> None:
    for entry in recorded(server, "fresh node, not met, no slots"):
        with pytest.raises(UnusableMap, match="assigns no slot"):
            parse(entry)


@pytest.mark.parametrize("server", SERVERS)
def test_an_error_reply_is_no_map_and_its_text_is_the_reason(server: str) -> None:
    for entry in recorded(server, "busy script"):
        with pytest.raises(UnusableMap, match=f"{entry.command} was answered with 'BUSY "):
            parse(entry)
    with pytest.raises(UnusableMap, match="'NOAUTH Authentication required"):
        parse(recorded(server, "auth")[0])


@pytest.mark.parametrize("server", SERVERS)
def test_a_migrating_slot_belongs_to_its_source_until_the_move_is_done(server: str) -> None:
    for entry in recorded(server, "classic migration: migrating/importing"):
        assert owner_ports(parse(entry), 4997, 4998, 4999) == [7001, 7001, 7001]
    for entry in recorded(server, "classic migration: done"):
        topology = parse(entry)
        assert owner_ports(topology, 4997, 4998, 4999) == [7001, 7002, 7001]
        assert [node.address.port for node in topology.primaries] == [7001, 7002, 7003]


@pytest.mark.parametrize("server", SERVERS)
def test_a_slot_without_an_owner_leaves_the_others_usable(server: str) -> None:
    for entry in recorded(server, "slot without owner, require-full-coverage no"):
        topology = parse(entry)
        assert owner_ports(topology, 4997, 4998, 4999) == [7001, None, 7001]
        assert topology.covered == 16383
        assert topology.epochs is None or topology.epochs[4998] == -1


@pytest.mark.parametrize("server", SERVERS)
def test_after_a_planned_failover_the_replica_owns_the_slots(server: str) -> None:
    for entry in recorded(server, "planned failover: done"):
        topology = parse(entry)
        assert owner_ports(topology, 0, 5460, 5461) == [7004, 7004, 7002]
        if entry.node != "primary-2":  # a third node learns of the demotion a moment later
            assert roles(topology)[7001] == "replica"
            assert topology.replicas_of(topology.primaries[0]) == (topology.node_at(Address("127.0.0.1", 7001)),)


@pytest.mark.parametrize("server", SERVERS)
def test_a_dead_primary_owns_its_slots_until_a_replica_is_promoted(server: str) -> None:
    entries = recorded(server, "kill -9 of primary 3")
    assert owner_ports(parse(entries[0]), 16383) == owner_ports(parse(entries[1]), 16383) == [7003]
    for entry in recorded(server, "kill -9 of primary 3: promoted"):
        topology = parse(entry)
        assert owner_ports(topology, 10923, 16383) == [7006, 7006]
        # CLUSTER NODES goes on listing the dead one, flagged `fail`, without slots.
        assert roles(topology) == {7001: "primary", 7002: "primary", 7006: "primary", 7004: "replica", 7005: "replica"}
    for entry in recorded(server, "kill -9 of primary 3: old one is back"):
        assert roles(parse(entry))[7003] == "replica"


@pytest.mark.parametrize("server", SERVERS)
def test_a_primary_that_failed_without_successor_keeps_its_slots(server: str) -> None:
    for entry in recorded(server, "shard 2 without a primary, no failover"):
        topology = parse(entry)
        assert owner_ports(topology, 5461) == [7002]
        assert topology.covered == 16384


@pytest.mark.parametrize("server", SERVERS)
def test_epochs_come_from_nodes_only_and_rise_with_each_move(server: str) -> None:
    before, after = (
        parse(recorded(server, scenario, "CLUSTER NODES")[0]) for scenario in ("steady 3+3", "classic migration: done")
    )
    assert before.epochs is not None
    assert after.epochs is not None
    assert len(before.epochs) == len(after.epochs) == 16384
    assert after.epochs[4998] > before.epochs[4998]
    assert after.epochs[4997] == before.epochs[4997]


def test_the_availability_zone_is_what_the_server_tells() -> None:
    for entry in recorded("valkey-9.1.2", "steady 3+3", "CLUSTER SLOTS"):
        zones = {node.address.port: node.availability_zone for node in parse(entry).nodes}
        assert zones == {7001: "az-a", 7004: "az-a", 7002: "az-b", 7005: "az-b", 7003: "az-c", 7006: "az-c"}
    for entry in recorded("redis-7.0.15", "steady 3+3"):
        assert {node.availability_zone for node in parse(entry).nodes} == {None}


@pytest.mark.parametrize("server", WITH_HOSTNAMES)
def test_preferred_hostnames_are_the_address_and_a_node_without_one_is_reached_by_its_ip(server: str) -> None:
    for entry in recorded(server, "endpoint type hostname", "CLUSTER SLOTS"):
        topology = parse(entry)
        assert [str(owner) for owner in topology.primaries] == [
            "node1.example.test:7001",
            "127.0.0.1:7002",  # the host was "?"
            "node3.example.test:7003",
        ]


@pytest.mark.parametrize("server", WITH_HOSTNAMES)
def test_hostnames_beside_an_ip_address_are_told_and_never_the_address(server: str) -> None:
    for entry in recorded(server, "endpoint type ip") + recorded(server, "endpoint type hostname", "CLUSTER NODES"):
        topology = parse(entry)
        assert [str(node) for node in topology.primaries] == ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]
        assert [node.hostname for node in topology.primaries] == ["node1.example.test", None, "node3.example.test"]


@pytest.mark.parametrize("server", WITH_HOSTNAMES)
def test_an_unknown_host_is_the_host_that_answered(server: str) -> None:
    for entry in recorded(server, "endpoint type unknown-endpoint", "CLUSTER SLOTS"):
        topology = parse_slots(entry.reply, Address("proxy.example.test", 7))
        assert [str(node) for node in topology.primaries] == [
            f"proxy.example.test:{port}" for port in (7001, 7002, 7003)
        ]


@pytest.mark.parametrize("server", ["ipv6-valkey-9.1.2", "ipv6-redis-6.2.14"])
def test_ipv6_addresses_are_read_without_brackets(server: str) -> None:
    for entry in recorded(server):
        assert parse(entry).node_at(Address("::1", 7202)) == parse(entry).owner(5461)


def test_tls_connections_are_told_the_tls_ports() -> None:
    ports = [[node.address.port for node in parse(entry).primaries] for entry in recorded("tls-and-plain-redis-7.0.15")]
    assert ports == 4 * [[7216, 7217, 7218]] + 4 * [[7211, 7212, 7213]]


# -- the value ---------------------------------------------------------------------------------------------------------


def steady(server: str = "valkey-9.1.2") -> Topology:
    return parse(recorded(server, "steady 3+3", "CLUSTER SLOTS")[0])


def test_equal_routes_are_recognised_and_every_difference_is_seen() -> None:
    topology = steady()
    assert topology.same_routes(steady())
    assert topology.same_routes(topology.with_version(9))
    moved = parse(recorded("valkey-9.1.2", "classic migration: done", "CLUSTER SLOTS")[0])
    assert not topology.same_routes(moved)
    assert not moved.same_routes(topology)
    assert not topology.same_routes(Topology(topology.nodes[:-1], topology.owners))
    assert not topology.same_routes(Topology(topology.nodes, (None, *topology.owners[1:])))


def test_a_new_version_is_a_copy_and_the_old_one_stays() -> None:
    topology = steady()
    assert topology.route_version == 0
    copy = topology.with_version(7)
    assert (copy.route_version, topology.route_version) == (7, 0)
    assert (copy.owners, copy.nodes, copy.primaries) == (topology.owners, topology.nodes, topology.primaries)
    with pytest.raises(AttributeError):
        topology.route_version = 8  # type: ignore[misc]


def test_reprs_say_what_matters_in_a_line() -> None:
    topology = steady().with_version(5)
    assert repr(topology) == "<Topology version 5: 3 primaries, 3 replicas, 16384 of 16384 slots>"
    assert repr(topology.primaries[0]) == "<Node 127.0.0.1:7001 primary c580880c az-a>"
    assert repr(Node("", Address("::1", 1), "replica", "")) == "<Node [::1]:1 replica>"
    assert str(topology.primaries[0]) == "127.0.0.1:7001"


def test_nodes_are_values() -> None:
    node = steady().nodes[0]
    assert node == steady().nodes[0]
    assert hash(node) == hash(steady().nodes[0])
    assert pickle.loads(pickle.dumps(node)) == node
    assert steady().node_at(node.address) == node
    assert steady().node_at(Address("127.0.0.1", 1)) is None


def line_of(host: str, slots: str, number: int = 1) -> str:
    """A line of CLUSTER NODES."""
    return f"{number:040d} {host}:7000@17000 master - 0 0 1 connected {slots}\n"


@pytest.mark.parametrize(
    "text",
    [
        line_of("h" * 5_000_000, "0-16383"),
        "".join(line_of("127.0.0.1", "0-16383", number) for number in range(60_000)),
        line_of("127.0.0.1", "0-16383 " * 600_000),
        "x" * 5_000_000,
    ],
    ids=["a hostname", "nodes", "ranges", "junk"],
)
@pytest.mark.parametrize("kind", [str, str.encode])
def test_f62_cluster_nodes_of_more_than_4_mib_is_not_even_looked_at(text: str, kind: Any) -> None:
    with pytest.raises(UnusableMap, match=r"was answered with [\d,]+ bytes: more than 4,194,304"):
        parse_nodes(kind(text), ASKED)


def test_f62_a_million_nodes_are_refused_when_the_4097th_comes() -> None:
    """One object for all hosts, so that the reply is small: what is counted is who is looked at."""
    read = 0

    class Entry(list[Any]):
        def __getitem__(self, at: Any) -> Any:
            nonlocal read
            read += at == 0
            return super().__getitem__(at)

    nodes = [Entry([b"10.0.%d.%d" % divmod(number, 256), 7000, b"%040d" % number]) for number in range(20_000)]
    with pytest.raises(UnusableMap, match="more than 4096 nodes"):
        parse_slots([[at, at, *nodes[200 * at : 200 * at + 200]] for at in range(100)], ASKED)
    assert read <= 2 * 4097


def slots_one_by_one() -> Steps[Topology]:
    told = [[b"h", 1 + number, b"%040d" % number] for number in range(3)]
    return read_slots([[slot, slot, told[slot % 3]] for slot in range(16384)], ASKED)


def every_other_slot() -> Steps[Topology]:
    slots = " ".join(str(slot) for slot in range(0, 16384, 2))
    return read_nodes(f"{1:040d} h:1@2 master - 0 0 1 connected {slots}".encode(), ASKED)


@pytest.mark.parametrize(("read", "covered"), [(slots_one_by_one, 16384), (every_other_slot, 8192)])
def test_a_large_map_is_read_in_many_steps(read: Callable[[], Steps[Topology]], covered: int) -> None:
    assert sum(1 for _ in read()) >= covered // 128
    assert at_once(read()).covered == covered


def test_reading_lets_the_reply_go_and_parsing_leaves_it_as_it_is() -> None:
    reply = [[slot, slot, [b"h", 1, b"a" * 40]] for slot in range(100)]
    assert parse_slots(reply, ASKED).covered == len(reply) == 100
    assert at_once(read_slots(reply, ASKED)).covered == 100
    assert reply == []
