"""What `gvcluster doctor` finds: each finding is met by a cluster that has just that, and a healthy one has none."""

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import gevent.ssl
import pytest
import trustme
from gevent.server import StreamServer

import gvcluster.cli.inspect
from gvcluster.cli.inspect.doctor import Diagnosis, diagnose, examine, expectations
from gvcluster.cli.inspect.findings import Finding, Severity
from gvcluster.cli.inspect.prescription import as_json, lines, summary
from gvcluster.cli.inspect.target import Target
from gvcluster.core.address import Address
from gvcluster.errors import ReplyError
from gvcluster.options import options_from
from gvcluster.seeds import parse_seeds
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import NOT_HANDLED, Delay, encode_reply

NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
DEAD = "127.0.0.1:1"
SETTINGS = {"cluster-node-timeout": "2000", "cluster-require-full-coverage": "no", "timeout": "0"}


class World:
    """A healthy cluster of three shards with two nodes each, which a test spoils; and how it is examined."""

    def __init__(self, fake: FakeCluster) -> None:
        self.fake = fake
        self.seeds = fake.seeds
        self.options: dict[str, Any] = {"client_info": False, "connect_timeout": 1.0, "timeout": 8.0}
        self.settings = [dict(SETTINGS) for _ in fake.nodes]
        self.info = [{"valkey_version": "9.1.2", "run_id": "aa", "master_link_status": "up"} for _ in fake.nodes]
        for index, node in enumerate(fake.nodes):
            node.availability_zone = f"zone-{index}"
            node.on("CONFIG GET", self._tell_settings(index))
            node.on("INFO", self._tell_info(index))

    def _tell_settings(self, index: int) -> Callable[..., bytes]:
        def answer(_node: Any, connection: Any, args: list[bytes]) -> bytes:
            pattern = args[2].decode().rstrip("*")
            return encode_reply(
                {n.encode(): v.encode() for n, v in self.settings[index].items() if n.startswith(pattern)},
                connection.protocol,
            )

        return answer

    def _tell_info(self, index: int) -> Callable[..., bytes]:
        return lambda *_: encode_reply("".join(f"{n}:{v}\r\n" for n, v in self.info[index].items()).encode())

    def rewrite_maps(self, change: Callable[[list[Any]], object], *indexes: int) -> None:
        """Let these nodes, or all, answer CLUSTER SLOTS with what is left after the change."""

        def answer(_node: Any, connection: Any, _args: list[bytes]) -> bytes:
            ranges = self.fake.slot_ranges()
            change(ranges)
            return encode_reply(ranges, connection.protocol)

        for index in indexes or range(len(self.fake.nodes)):
            self.fake.on(index, "CLUSTER SLOTS", answer)

    def rewrite_nodes(self, change: Callable[[bytes], bytes], *indexes: int) -> None:
        """The same for CLUSTER NODES."""
        for index in indexes or range(len(self.fake.nodes)):
            self.fake.on(index, "CLUSTER NODES", lambda node, *_: encode_reply(change(self.fake.node_lines(node))))

    def examine(self) -> Diagnosis:
        options = options_from(self.options)  # type: ignore[arg-type]
        return examine(Target(parse_seeds(self.seeds), self.options, options))  # type: ignore[arg-type]


@contextmanager
def cluster(nodes: int = 3, replicas: int = 1, **options: Any) -> Iterator[World]:
    with FakeCluster(nodes, replicas=replicas, **options) as fake:
        yield World(fake)


def by_name(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


def members(ranges: list[Any]) -> Iterator[list[Any]]:
    return chain.from_iterable(entry[2:] for entry in ranges)


def put_at(port: int, to: int) -> Callable[[list[Any]], None]:
    """Let a map announce the node with this port at another one."""

    def change(ranges: list[Any]) -> None:
        for member in members(ranges):
            member[1] = to if member[1] == port else member[1]

    return change


def flag(node: Any, flags: str) -> Callable[[bytes], bytes]:
    return lambda told: re.sub(rb"(%b \S+ (?:master|slave))" % node.id.encode(), rb"\1,%b" % flags.encode(), told)


# -- the scenes: what is spoilt


def not_let_in(world: World) -> None:
    world.fake.on(0, "HELLO", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")


def dead_primary(world: World) -> None:
    world.fake.nodes[1].stop()


def announced_wrongly(world: World) -> None:
    world.rewrite_maps(put_at(world.fake.nodes[0].address.port, 1))


def another_node(world: World) -> None:
    world.fake.on(1, "CLUSTER MYID", encode_reply(b"f" * 40))


def no_endpoint(world: World) -> None:
    def hide(ranges: list[Any]) -> None:
        ranges[0][3][0] = b"?"

    world.rewrite_maps(hide)


def no_seed_lives(world: World) -> None:
    world.seeds = DEAD
    world.options["timeout"] = 2.0


def one_seed(world: World) -> None:
    world.seeds = str(world.fake.nodes[0].address)


def suspected(world: World) -> None:
    world.rewrite_nodes(flag(world.fake.nodes[1], "fail?"), 0)


def given_up(world: World) -> None:
    gone = b"e" * 40 + b" 127.0.0.1:9@9 slave,fail " + b"0" * 40 + b" 0 0 1 disconnected\n"
    world.rewrite_nodes(lambda told: told + gone)


def holes(world: World) -> None:
    for slot in (5, 6, 9000):
        world.fake.move_slot(slot, None)


def no_map(world: World) -> None:
    world.fake.on(0, "CLUSTER SLOTS", b"-NOPERM User ada has no permissions to run the 'cluster|slots' command\r\n")


def no_cluster(world: World) -> None:
    world.fake.on(0, "CLUSTER", b"-ERR This instance has cluster support disabled\r\n")


def maps_differ(world: World) -> None:
    def take(ranges: list[Any]) -> None:
        first = ranges[0][1]
        ranges[0][1], ranges[1][0] = first - 10, first - 9

    world.rewrite_maps(take, 2)


def moving(world: World) -> None:
    world.fake.begin_migration(7, 1)


def half_open(world: World) -> None:
    world.rewrite_nodes(lambda told: told.rstrip() + b" [99->-" + world.fake.nodes[1].id.encode() + b"]\n", 5)
    # The line of the node itself is the one that counts, and it is the last one there.
    assert world.fake.node_lines(world.fake.nodes[5]).splitlines()[-1].startswith(world.fake.nodes[5].id.encode())


def one_zone(world: World) -> None:
    world.fake.nodes[3].availability_zone = world.fake.nodes[0].availability_zone


def replication_down(world: World) -> None:
    world.info[4]["master_link_status"] = "down"


def timeout_too_short(world: World) -> None:
    world.options["timeout"] = 3.0


def node_timeouts_differ(world: World) -> None:
    world.settings[2]["cluster-node-timeout"] = "4000"


def full_coverage(world: World) -> None:
    world.settings[0]["cluster-require-full-coverage"] = "yes"


def idle(world: World) -> None:
    world.settings[0]["timeout"] = "60"


def settings_unknown(world: World) -> None:
    for index in range(6):
        world.fake.on(index, "CONFIG GET", b"-NOPERM no permissions to run the 'config|get' command\r\n")


def slow(world: World) -> None:
    world.fake.on(1, "PING", Delay(0.3, encode_reply("PONG")))


def versions_differ(world: World) -> None:
    world.info[3]["valkey_version"] = "8.1.8"


SCENES: list[tuple[str, Severity, Callable[[World], object], str]] = [
    ("not-let-in", ERROR, not_let_in, "does not let this user in: WRONGPASS"),
    ("unreachable", ERROR, dead_primary, "Connection refused; all other nodes see it well"),
    ("announced-wrongly", ERROR, announced_wrongly, "announces itself as 127.0.0.1:1, and can not be reached there"),
    ("another-node", ERROR, another_node, "the slot map has node 00020002, but"),
    ("no-endpoint", ERROR, no_endpoint, "announces a node as ?:"),
    ("can-not-start", ERROR, no_seed_lives, "gets no slot map: no usable slot map"),
    ("one-seed", NOTE, one_seed, "is the only seed"),
    ("suspected", WARNING, suspected, "answers here, but 1 of 6 nodes can not reach it"),
    ("given-up", WARNING, given_up, "node eeeeeeee at 127.0.0.1:9 has failed; 6 nodes still know it"),
    ("slots-not-covered", ERROR, holes, "nobody serves 3 slots of 16384: 5-6, 9000"),
    ("cluster-down", ERROR, holes, "6 of 6 nodes say that the cluster is down"),
    ("no-map", ERROR, no_map, "tells no slot map: NOPERM"),
    ("no-cluster", ERROR, no_cluster, "cluster support disabled"),
    ("maps-differ", ERROR, maps_differ, "tells another map than most: 10 slots"),
    ("slots-moving", NOTE, moving, "1 slot on the way to another node, key by key: 7"),
    ("slots-half-open", WARNING, half_open, "1 slot open on one side only: 99"),
    ("one-zone", WARNING, one_zone, "all nodes of 1 shard are in one zone: zone-0"),
    ("one-machine", NOTE, lambda _: None, "all nodes are on one machine: 127.0.0.1"),
    ("replication-down", WARNING, replication_down, "1 replica is cut off from the primary"),
    ("timeout-too-short", WARNING, timeout_too_short, "timeout is 3 s, but a failover may take 5 s"),
    ("node-timeouts-differ", WARNING, node_timeouts_differ, "not the same on all nodes: 2 s, 4 s"),
    ("full-coverage-required", NOTE, full_coverage, "is yes on 1 of 6 nodes"),
    ("idle-connections-closed", NOTE, idle, "idle for 60 s"),
    ("settings-unknown", NOTE, settings_unknown, "no node tells its settings"),
    ("slow", WARNING, slow, "1 node is slow"),
    ("versions-differ", NOTE, versions_differ, "valkey 8.1.8 on 1 node, valkey 9.1.2 on 5 nodes"),
]
# Those that need another cluster to begin with have tests of their own below.
ELSEWHERE = {"tls", "announces-loopback", "another-cluster", "no-majority", "no-replica"}


@pytest.mark.parametrize(("name", "severity", "spoil", "text"), SCENES, ids=[scene[0] for scene in SCENES])
def test_what_is_wrong_is_found(name: str, severity: Severity, spoil: Callable[[World], object], text: str) -> None:
    with cluster() as world:
        spoil(world)
        diagnosis = world.examine()
    finding = by_name(diagnosis)[name]
    assert finding.severity is severity
    assert text in finding.what
    assert all((finding.means, finding.client, finding.todo))
    assert diagnosis.severity >= severity


def test_a_healthy_cluster_has_nothing_but_a_note_that_all_is_on_one_machine() -> None:
    with cluster() as world:
        diagnosis = world.examine()
    findings = by_name(diagnosis)
    findings.pop("slow", None)  # the machine may be
    assert set(findings) == {"one-machine"}
    assert summary(replace(diagnosis, findings=tuple(findings.values()))) == "All is well (1 note)."
    assert summary(replace(diagnosis, findings=())) == "All is well."


def test_the_doctor_asks_and_changes_nothing() -> None:
    with cluster() as world:
        world.examine()
        told = {b" ".join(args[:2]).upper() for node in world.fake.nodes for _, args in node.received}
    assert told <= {
        *(b"HELLO 3", b"READONLY", b"PING", b"INFO", b"CONFIG GET"),
        *(b"CLUSTER SLOTS", b"CLUSTER NODES", b"CLUSTER INFO", b"CLUSTER MYID"),
    }


def test_every_finding_that_there_is_has_a_test() -> None:
    folder = Path(gvcluster.cli.inspect.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    names = set(re.findall(r'Finding\(\s+f?"([a-z{}-]+)"', source))
    names = names - {"one-{what}"} | {"one-zone", "one-machine"}
    names |= set(re.findall(r'"([a-z-]+)" if no_cluster else "[a-z-]+",\n\s+Severity', source)) | {"no-map"}
    assert names == {scene[0] for scene in SCENES} | ELSEWHERE


def test_a_certificate_for_another_name_is_told_with_the_name_that_was_wanted(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("node.example").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def shake_hands(accepted: Any, _address: object) -> None:
        try:
            context.wrap_socket(accepted, server_side=True)
        except OSError:
            accepted.close()

    server = StreamServer(("127.0.0.1", 0), shake_hands)
    server.start()
    try:
        seeds = parse_seeds(f"127.0.0.1:{server.server_port}")
        given: Any = {"tls": True, "tls_ca_file": str(tmp_path / "ca.pem"), "timeout": 1.0, "connect_timeout": 1.0}
        findings = by_name(examine(Target(seeds, given, options_from(given))))
    finally:
        server.stop()
    assert set(findings) == {"tls", "can-not-start"}
    assert findings["tls"].severity is ERROR
    assert "its certificate is not for '127.0.0.1'" in findings["tls"].what


def test_a_node_that_announces_127_0_0_1_to_others_is_wrong_but_not_for_those_on_its_own_machine() -> None:
    with cluster() as world:
        here = world.examine()
    assert "announces-loopback" not in by_name(here)
    there = diagnose(replace(here.case, seeds=(Address("10.0.0.7", 6379),)))
    finding = by_name(there)["announces-loopback"]
    assert finding.severity is ERROR
    assert "6 nodes announced as 127.0.0.1:" in finding.what


def test_seeds_of_two_clusters_are_told_apart_from_nodes_that_disagree() -> None:
    with cluster() as world, FakeCluster(2) as other:
        for node in other.nodes:
            node.id = node.id.replace("0", "d")
        world.seeds = f"{world.seeds},{other.seeds}"
        findings = by_name(world.examine())
    assert findings["another-cluster"].severity is ERROR
    assert "2 nodes belong to another cluster" in findings["another-cluster"].what
    assert "maps-differ" not in findings


def test_two_primaries_without_replicas_can_not_survive_anything() -> None:
    with cluster(2, 0) as world:
        findings = by_name(world.examine())
    assert findings["no-majority"].severity is WARNING
    assert "only 2 primaries with slots" in findings["no-majority"].what
    assert "2 shards have no replica" in findings["no-replica"].what


def test_a_dead_replica_and_a_dead_seed_are_warnings() -> None:
    with cluster() as world:
        world.seeds = f"{world.fake.nodes[0].address},{DEAD}"
        world.fake.nodes[4].stop()
        found = [finding for finding in world.examine().findings if finding.name == "unreachable"]
    assert {finding.what.split()[1] for finding in found} == {"replica", "seed"}
    assert {finding.severity for finding in found} == {WARNING}


def test_a_dead_primary_that_the_others_miss_too_is_told_so() -> None:
    with cluster() as world:
        world.fake.nodes[1].stop()
        world.rewrite_nodes(flag(world.fake.nodes[1], "fail?"), 0, 2, 3)
        finding = by_name(world.examine())["unreachable"]
    assert "3 of 5 nodes that answer can not reach it either" in finding.what
    assert finding.nodes == (str(world.fake.nodes[1].address),)


def test_nodes_that_only_others_name_are_asked_too() -> None:
    with cluster() as world:
        one_seed(world)
        diagnosis = world.examine()
    assert {facts.address for facts in diagnosis.case.every} == {node.address for node in world.fake.nodes}
    assert [facts.trouble for facts in diagnosis.case.every] == [None] * 6


def test_a_longer_patience_than_the_failover_is_enough() -> None:
    with cluster() as world:
        world.options["timeout"] = 5.0
        told = dict(expectations(world.examine().case))
        assert told["failover"] == "may take 5 s (cluster-node-timeout 2 s): which it waits for"
        world.options["timeout"] = 4.9
        told = dict(expectations(world.examine().case))
        assert told["failover"].endswith("calls fail before")


def test_the_worst_comes_first_and_every_form_tells_all_of_it() -> None:
    with cluster() as world:
        holes(world)
        one_seed(world)
        replication_down(world)
        diagnosis = world.examine()
    severities = [finding.severity for finding in diagnosis.findings]
    assert severities == sorted(severities, reverse=True)
    assert set(severities) == {NOTE, WARNING, ERROR}
    text = "\n".join(lines(diagnosis))
    told: Any = as_json(diagnosis)
    assert told["severity"] == "error"
    for finding, entry in zip(diagnosis.findings, told["findings"], strict=True):
        for part in (finding.what, finding.means, finding.client, finding.todo):
            assert part in text
            assert part in entry.values()
    assert len(told["nodes"]) == 6
    assert all(node["ping_ms"] >= 0 and node["version"] == "valkey 9.1.2" for node in told["nodes"])


def test_a_node_that_refuses_all_but_ping_is_no_reason_to_fail() -> None:
    with cluster() as world:
        refuse = encode_reply(ReplyError("NOPERM this user has no permissions"))
        world.fake.nodes[5].override = lambda _node, _connection, args: (
            refuse if args[0] in (b"CLUSTER", b"INFO", b"CONFIG") else NOT_HANDLED
        )
        findings = by_name(world.examine())
    assert findings["no-map"].nodes == (str(world.fake.nodes[5].address),)


def test_the_page_lists_every_finding_with_its_severity() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    rows = re.findall(r"^\| (`[a-z`, -]+`) \| ([a-z, ]+) \|", page, re.MULTILINE)
    told = {name: severities.split(", ") for names, severities in rows for name in re.findall(r"`([a-z-]+)`", names)}
    assert told.keys() == {scene[0] for scene in SCENES} | ELSEWHERE
    assert [name for name, severity, *_ in SCENES if severity.name.lower() not in told[name]] == []


def test_where_there_is_no_cluster_nothing_is_said_of_failovers() -> None:
    with cluster() as world:
        world.seeds = str(world.fake.nodes[0].address)
        world.options["timeout"] = 0.5
        no_cluster(world)
        diagnosis = world.examine()
    assert [finding.name for finding in diagnosis.findings] == ["no-cluster", "can-not-start"]
