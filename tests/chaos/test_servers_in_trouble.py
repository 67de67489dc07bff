"""Servers that live, and do not serve as they should: paused, busy, full, loading, refusing, claimed twice, half moved.

The number in a test's name is that of its failure mode in docs/reliability.md.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster import Cluster, ConnectionLost, GvClusterError, ReplyError, ReplyTimeout, SlotNotCovered
from gvcluster.errors import Busy
from gvcluster.testing import LocalCluster, Node


@contextlib.contextmanager
def setting(node: Node, **values: Any) -> Iterator[None]:
    """CONFIG SET, and back afterwards. On one connection from the beginning: there may be no room for another."""
    with node.connection() as connection:
        before = {}
        for name, value in values.items():
            word = name.replace("_", "-")
            before[word] = dict(zip(*[iter(connection.call("CONFIG", "GET", word))] * 2, strict=True))[word.encode()]
            connection.call("CONFIG", "SET", word, value)
        try:
            yield
        finally:
            for word, value in before.items():
                connection.call("CONFIG", "SET", word, value)


def key_of(cluster: Cluster, node: Node, prefix: str = "") -> str:
    """A key that the node serves."""
    return next(key for key in map(f"{prefix}{{}}".format, range(1000)) if owner(cluster, key) == node.address)


def owner(cluster: Cluster, key: str) -> Any:
    node = cluster.node_for_key(key)
    return node and node.address


def outcome(cluster: Cluster, *command: Any, **options: Any) -> Any:
    """The reply, or the error that was raised."""
    try:
        return cluster.execute(*command, **options)
    except GvClusterError as error:
        return error


def opened(cluster: Cluster, node: Node) -> int:
    return sum(each.opened for each in cluster.statistics().nodes if each.address == node.address)


def test_f6_two_primaries_claim_the_same_slots_for_a_while(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    victim, *others = shards
    with load(cluster, may_lose=True) as under_load:
        # Two in a row: the one that is replaced, and replaces in its turn.
        live_cluster.failover(victim, mode="TAKEOVER")
        under_load.wait_until_served()
        assert under_load.errors() == []
        primary = live_cluster.primary_of(under_load.of(victim.address)[0].tag)
        live_cluster.wait_until_agreed()
        live_cluster.pause(primary)
        live_cluster.failover(primary, mode="TAKEOVER")
        heir = live_cluster.primary_of(under_load.of(victim.address)[0].tag)
        live_cluster.resume(primary)  # and for some milliseconds it claims what the heir claims, too
        under_load.wait_until_served()
        live_cluster.wait_until_agreed()
        under_load.wait_until_served()
    assert heir is not primary
    assert under_load.wrong == []
    assert {type(error) for error in under_load.errors()} <= {ConnectionLost, ReplyTimeout}
    assert all(error.maybe_executed for error in under_load.errors())
    assert [under_load.errors(other.address) for other in others] == [[], []]
    under_load.check_counts()
    assert cluster.statistics().refreshes < 50
    tag = under_load.of(victim.address)[0].tag
    assert live_cluster.primary_of(tag) is heir
    # The map follows in its own time: the heir was replaced once, and is believed when it tells so itself.
    with gevent.Timeout(5):
        while owner(cluster, tag) != heir.address:
            gevent.sleep(0.01)


def test_f8_atomic_moves_that_are_cancelled_or_fail_cost_no_error(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    if not live_cluster.server.has_atomic_moves:
        pytest.skip(f"{live_cluster.server.name} can not move slots atomically")
    source, target, _ = shards
    first, last = source.view().me.slots[0]
    with load(cluster) as under_load:
        for end in ("cancelled", "failed"):
            source.command("DEBUG", "SLOTMIGRATION", "PREVENT-PAUSE", 1)  # else it is over before it can be cancelled
            source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", target.id)
            under_load.wait_until_served()
            if end == "cancelled":
                source.command("CLUSTER", "CANCELSLOTMIGRATIONS")
            else:
                cut_off_import(target)
            with gevent.Timeout(10):
                while state_of_last_job(source) != end:
                    gevent.sleep(0.02)
            source.command("DEBUG", "SLOTMIGRATION", "PREVENT-PAUSE", 0)
            under_load.wait_until_served()
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    assert cluster.statistics().redirects == 0


def cut_off_import(target: Node) -> None:
    """End the connection over which the slots come."""
    listed = [dict(word.split(b"=", 1) for word in line.split()) for line in told_clients(target)]
    found = [client[b"id"] for client in listed if client[b"flags"] == b"i"]
    assert found, told_clients(target)
    for number in found:
        target.command("CLIENT", "KILL", "ID", number)


def told_clients(node: Node) -> list[bytes]:
    return list(node.command("CLIENT", "LIST").splitlines())


def state_of_last_job(source: Node) -> str:
    jobs = [dict(zip(job[::2], job[1::2], strict=True)) for job in source.command("CLUSTER", "GETSLOTMIGRATIONS")]
    return max(jobs, key=lambda job: int(job[b"create_time"]))[b"state"].decode()


@pytest.mark.parametrize("kind", ["ALL", "WRITE"])
def test_f10_a_paused_server_is_waited_for_and_what_is_overdue_is_honest(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any], protocol: int, kind: str
) -> None:
    victim = shards[0]
    with load(cluster) as under_load, gvcluster.connect(live_cluster.seeds, command_timeout=0.3) as hasty:
        key = key_of(cluster, victim, "paused")
        assert hasty.execute("GET", key) is None
        victim.command("CLIENT", "PAUSE", 900, kind)
        overdue = outcome(hasty, "INCR", key)
        under_load.wait_until_served()
        written = int(cluster.execute("GET", key) or 0)
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    assert type(overdue) in (ReplyTimeout, ConnectionLost)
    assert overdue.maybe_executed
    assert written <= 1
    statistics = cluster.statistics()
    assert (statistics.route_version, statistics.redirects, statistics.retries) == (1, 0, 0)
    assert opened(cluster, victim) == 1


def test_f11_a_server_that_is_busy_with_a_script_says_so_and_is_not_asked_in_a_hot_loop(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    victim, *others = shards
    with load(cluster) as under_load, setting(victim, lua_time_limit=100), victim.connection(20) as running:
        key = key_of(cluster, victim, "busy")
        script = gevent.spawn(running.call, "EVAL", "while true do end", 0)
        with gevent.Timeout(10):
            while not isinstance(refused := outcome(cluster, "SET", key, "x"), Busy):
                gevent.sleep(0.02)
        for other in others:
            under_load.wait_until_served(other.address)
        victim.command("SCRIPT", "KILL")
        with pytest.raises(ReplyError):
            script.get(timeout=5)
        under_load.wait_until_served()
    assert not refused.maybe_executed
    assert {type(error) for error in under_load.errors()} == {Busy}
    assert not any(error.maybe_executed for error in under_load.errors())
    assert [under_load.errors(other.address) for other in others] == [[], []]
    assert under_load.wrong == []
    under_load.check_counts()
    statistics = cluster.statistics()
    assert (statistics.retries, statistics.redirects, opened(cluster, victim)) == (0, 0, 1)
    assert statistics.refreshes <= 5


def test_f11_a_server_that_sleeps_is_waited_for(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    with load(cluster) as under_load:
        shards[0].command("DEBUG", "SLEEP", 0.7)
        under_load.wait_until_served()
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    assert opened(cluster, shards[0]) == 1


def test_f12_connections_that_the_server_kills_idle_busy_and_in_the_middle_of_a_pipeline(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node]
) -> None:
    victim = shards[0]
    key = key_of(cluster, victim, "kill")
    assert cluster.execute("SET", key, 0) == b"OK"
    idle = victim.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert idle >= 1
    with gevent.Timeout(5):
        while any(node.connections for node in cluster.statistics().nodes if node.address == victim.address):
            gevent.sleep(0.005)
    assert cluster.execute("INCR", key) == 1, "replaced in silence"
    assert opened(cluster, victim) == 2

    with victim.connection() as control:
        control.call("CLIENT", "PAUSE", 8000, "WRITE")
        writing = gevent.spawn(outcome, cluster, "INCR", key)
        with cluster.pipeline() as pipe:
            for _ in range(3):
                pipe.append("INCR", key)
                pipe.append("GET", key)
            piping = gevent.spawn(pipe.execute)
            wait_until_in_flight(cluster, victim, 2)
            gevent.sleep(0.05)  # they have reached the server
            control.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            gevent.joinall([writing, piping], timeout=5)
            results = piping.value
        control.call("CLIENT", "UNPAUSE")
    assert (type(writing.value), writing.value.maybe_executed) == (ConnectionLost, True)
    assert [type(each) for each in results[::2]] == [ConnectionLost] * 3
    assert all(each.maybe_executed for each in results[::2])
    assert results[1::2] == [b"1"] * 3, "what only reads was read again"
    assert 1 == int(cluster.execute("GET", key)) <= 5


def test_f13_a_server_with_too_many_clients_costs_only_who_needs_another_connection(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    victim = shards[0]
    with load(cluster) as under_load:
        key = key_of(cluster, victim)
        with setting(victim, maxclients=1):
            before = cluster.statistics()
            refused = [gevent.spawn(outcome, cluster, "BLPOP", f"{{{key}}}list", 1, timeout=1) for _ in range(50)]
            gevent.joinall(refused, timeout=10)
            under_load.wait_until_served()
            during = cluster.statistics()
        assert cluster.execute("RPUSH", f"{{{key}}}list", "x") == 1
        assert cluster.execute("BLPOP", f"{{{key}}}list", 1) == [f"{{{key}}}list".encode(), b"x"]
    for greenlet in refused:
        assert not greenlet.value.maybe_executed
        assert "max number of clients" in whole_story(greenlet.value)
    assert isinstance(refused[0].value, GvClusterError)
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    # Not a storm: those who wait share the attempts, which have pauses between them.
    assert sum(each.opened for each in during.nodes) - sum(each.opened for each in before.nodes) <= 20
    assert during.refreshes - before.refreshes <= 20
    assert during.route_version == before.route_version


def test_f16_a_server_that_loads_its_data_is_waited_for(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    victim = shards[0]
    with setting(victim, rdbcompression="no"), victim.connection(20) as control, load(cluster) as under_load:
        control.call("DEBUG", "POPULATE", 40, "loading", 262_144)
        control.call("CONFIG", "SET", "key-load-delay", 20_000)  # microseconds
        reloading = gevent.spawn(control.call, "DEBUG", "RELOAD")
        with gevent.Timeout(10):
            while not reloading.ready() and cluster.statistics().retries == 0:
                gevent.sleep(0.005)
        reloading.get(timeout=10)
        control.call("CONFIG", "SET", "key-load-delay", 0)
        (victim.folder / "dump.rdb").unlink()
        under_load.wait_until_served()
    assert (under_load.errors(), under_load.wrong) == ([], [])
    under_load.check_counts()
    statistics = cluster.statistics()
    assert statistics.retries > 0, "nobody met LOADING"
    assert opened(cluster, victim) == 1


def test_f17_a_slot_that_nobody_serves_leaves_the_others_alone(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node]
) -> None:
    victim = shards[0]
    with contextlib.ExitStack() as stack:
        for node in live_cluster.nodes:
            stack.enter_context(setting(node, cluster_require_full_coverage="no"))
        key, other = key_of(cluster, victim, "gone"), key_of(cluster, victim, "there")
        slot = cluster.hash_slot(key)
        assert cluster.execute("SET", other, "x") == b"OK"
        for node in live_cluster.nodes:
            node.command("CLUSTER", "DELSLOTS", slot)
        try:
            error = outcome(cluster, "SET", key, "x", timeout=5)
            assert cluster.execute("GET", other) == b"x"
        finally:
            victim.command("CLUSTER", "ADDSLOTS", slot)
            live_cluster.wait_until_agreed()
        assert isinstance(error, SlotNotCovered)
        assert not error.maybe_executed
        assert cluster.execute("SET", key, "x") == b"OK"


REFUSALS = [
    ("OOM", {"maxmemory": 1}),
    ("NOREPLICAS", {"min_replicas_to_write": 5}),
    ("MISCONF", {"save": "3600 1000000"}),
]


@pytest.mark.parametrize(("code", "values"), REFUSALS, ids=[code for code, _ in REFUSALS])
def test_f22_a_server_that_refuses_writes_is_believed_and_kept(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], code: str, values: dict[str, Any]
) -> None:
    victim = shards[0]
    key = key_of(cluster, victim)
    assert cluster.execute("SET", key, "x") == b"OK"
    in_the_way = victim.folder / "dump.rdb"
    with setting(victim, **values):
        if code == "MISCONF":
            in_the_way.unlink(missing_ok=True)
            in_the_way.mkdir()
            save(victim, b"err")
        try:
            refused = outcome(cluster, "SET", key, "y")
            assert cluster.execute("GET", key) == b"x"
        finally:
            if code == "MISCONF":
                in_the_way.rmdir()
                save(victim, b"ok")
                in_the_way.unlink()
    assert isinstance(refused, ReplyError)
    assert (refused.code, refused.maybe_executed) == (code, False)
    assert cluster.execute("SET", key, "z") == b"OK"
    statistics = cluster.statistics()
    assert (statistics.retries, statistics.redirects, opened(cluster, victim)) == (0, 0, 1)


def save(node: Node, status: bytes) -> None:
    """BGSAVE, until it has ended so."""
    with gevent.Timeout(10), node.connection() as connection:
        connection.call("BGSAVE")
        while b"rdb_bgsave_in_progress:0" not in (told := connection.call("INFO", "persistence")) or (
            b"rdb_last_bgsave_status:" + status not in told
        ):
            gevent.sleep(0.02)


def wait_until_in_flight(cluster: Cluster, node: Node, calls: int) -> None:
    with gevent.Timeout(5):
        while sum(each.in_flight for each in cluster.statistics().nodes if each.address == node.address) < calls:
            gevent.sleep(0.005)


def whole_story(error: BaseException | None) -> str:
    """What it says, and what was behind it."""
    told = []
    while error is not None:
        told.append(f"{type(error).__name__}: {error}")
        error = error.__cause__
    return "; ".join(told)
