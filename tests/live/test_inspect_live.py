"""`gvcluster topology`, `doctor` and `exec` on real servers."""

import json
from typing import Any

import pytest

from gvcluster.cli import main
from gvcluster.testing import LocalCluster

# What a cluster on one machine, looked at from one seed, has anyhow.
USUAL = {"one-machine", "one-seed", "full-coverage-required"}


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    # A loaded machine may be slow, and a replica may not have found its primary again yet.
    names = {finding["name"]: finding for finding in printed(capsys)["findings"]}
    return {name: finding for name, finding in names.items() if name not in ("slow", "replication-down")}


def test_the_topology_is_that_of_the_servers(
    live_cluster: LocalCluster, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topology", "--json", str(live_cluster.addresses[0])]) == 0
    told = printed(capsys)
    assert told["covered"] == 16384
    primaries = {shard["nodes"][0]["address"] for shard in told["shards"]}
    assert primaries == {str(node.address) for node in live_cluster.primaries()}
    assert sum(shard["slots"] for shard in told["shards"]) == 16384
    nodes = [node for shard in told["shards"] for node in shard["nodes"]]
    assert {node["address"] for node in nodes} == set(map(str, live_cluster.addresses))
    name, _, version = server.partition("-")
    assert {node["version"] for node in nodes} == {f"{name} {version}"}


def test_the_doctor_finds_a_whole_cluster_well(live_cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json", str(live_cluster.addresses[0])])
    assert set(found(capsys)) == USUAL
    main(["doctor", "--json", live_cluster.seeds, "--timeout", "4"])
    findings = found(capsys)
    assert set(findings) == USUAL - {"one-seed"} | {"timeout-too-short"}
    assert "a failover may take 5 s (cluster-node-timeout is 2 s)" in findings["timeout-too-short"]["what"]


def test_the_doctor_sees_open_slots(live_cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = live_cluster.primary_of(0), live_cluster.primary_of(16383)
    source.command("CLUSTER", "SETSLOT", 0, "MIGRATING", target.view().me.id)
    try:
        assert main(["doctor", "--json", live_cluster.seeds]) == 1
        assert str(source.address) in found(capsys)["slots-half-open"]["nodes"]  # newer replicas tell it too
        target.command("CLUSTER", "SETSLOT", 0, "IMPORTING", source.view().me.id)
        main(["doctor", "--json", live_cluster.seeds])
        assert "slots-moving" in found(capsys)
    finally:
        for node in (source, target):
            node.command("CLUSTER", "SETSLOT", 0, "STABLE")


def test_the_doctor_sees_a_dead_replica_and_a_frozen_primary(
    live_cluster: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen, *others = live_cluster.primaries()
    (dead,) = live_cluster.replicas_of(others[0])
    seed = str(others[1].address)
    live_cluster.kill(dead)
    assert main(["doctor", "--json", seed]) == 1
    finding = found(capsys)["unreachable"]
    assert finding["severity"] == "warning"
    assert finding["what"].startswith(f"the replica {dead.address} can not be reached")
    live_cluster.pause(frozen)
    try:
        code = main(["doctor", "--json", seed, "--connect-timeout", "0.5"])
        whole = printed(capsys)
    finally:
        live_cluster.resume(frozen)
    told = {finding["nodes"][0]: finding for finding in whole["findings"] if finding["name"] == "unreachable"}
    assert told[str(frozen.address)]["severity"] == "error"
    assert code == 3


def test_commands_go_where_their_keys_are(live_cluster: LocalCluster, capfdbinary: Any) -> None:
    base = ["exec", "-s", str(live_cluster.addresses[0])]
    for number in range(5):
        assert main([*base, "SET", f"key:{number}", str(number)]) == 0
    assert main([*base, "DBSIZE"]) == 0
    assert main([*base, "--json", "HGETALL", "none"]) == 0
    assert main([*base, "HGETALL", "key:1"]) == 1
    out, err = capfdbinary.readouterr()
    assert out == b"OK\n" * 5 + b"5\n{}\n"
    assert err.startswith(b"gvcluster exec: WRONGTYPE ")
