"""What goes in comes out again: every type of reply, every way to say a command, from real servers of every version."""

import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster import Address, AuthFailed, Cluster, ConfigError, CrossSlot, ReplyError, TopologyUnavailable
from gvcluster.testing import LocalCluster, Node

MIB = 1024 * 1024
# What a user must be allowed, beside the commands that are to be sent; CLIENT SETINFO is not part of it.
LEAST_RIGHTS = "+cluster|slots +cluster|nodes +cluster|myid +role +readonly +asking +ping +hello +auth".split()


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as cluster:
        yield cluster


# --- replies


def test_simple_types_come_back_as_they_are(cluster: Cluster) -> None:
    execute = cluster.execute
    assert execute("SET", "text", "grün") == b"OK"
    assert execute("GET", "text") == "grün".encode()
    assert execute("GET", "nothing") is None
    assert execute("SET", "empty", "") == b"OK"
    assert execute("GET", "empty") == b""
    assert execute("SET", b"\x00\r\n\xff", b"$5\r\n*1\r\n\x00") == b"OK"
    assert execute("GET", b"\x00\r\n\xff") == b"$5\r\n*1\r\n\x00"
    assert execute("INCR", "number") == 1
    assert execute("INCRBY", "number", -43) == -42
    assert execute("GET", "number") == b"-42"
    assert execute("SET", "float", 2.5) == b"OK"
    assert float(execute("INCRBYFLOAT", "float", 0.25)) == 2.75
    assert execute("EXISTS", "text") == 1
    assert execute("SET", "text", "x", "NX") is None
    assert execute("ECHO", "nobody's key") == b"nobody's key"
    assert execute("PING", route_key="text") == b"PONG"
    assert b"used_memory:" in execute("INFO", "memory", node=cluster.primaries()[0])


@pytest.mark.needs("streams")
def test_lists_sets_streams_and_scripts_come_back_as_lists(cluster: Cluster) -> None:
    execute = cluster.execute
    assert execute("RPUSH", "list", "a", "", 3) == 3
    assert execute("LRANGE", "list", 0, -1) == [b"a", b"", b"3"]
    assert execute("LRANGE", "nothing", 0, -1) == []
    assert execute("SADD", "set", "a", "b", "a") == 2
    assert sorted(execute("SMEMBERS", "set")) == [b"a", b"b"]
    assert execute("XADD", "stream", "1-1", "field", "value") == b"1-1"
    assert execute("XADD", "stream", "2-1", "field", "other") == b"2-1"
    assert execute("XRANGE", "stream", "2", "+") == [[b"2-1", [b"field", b"other"]]]
    assert execute("EVAL", "return {1, ARGV[1], {2, false}}", 1, "list", "x") == [1, b"x", [2, None]]
    assert execute("EVAL", "return redis.call('LLEN', KEYS[1])", 1, "list") == 3
    digest = execute("SCRIPT", "LOAD", "return KEYS[1]", node=cluster.node_for_key("list"))
    assert execute("EVALSHA", digest, 1, "list") == b"list"


@pytest.mark.needs("streams")
def test_maps_and_scores_have_types_of_their_own_in_resp3(cluster: Cluster, protocol: int) -> None:
    def by_protocol(resp2: Any, resp3: Any) -> Any:
        return resp3 if protocol == 3 else resp2

    execute = cluster.execute
    assert execute("HSET", "hash", "f", "v", "n", 1) == 2
    assert execute("HGETALL", "hash") == by_protocol([b"f", b"v", b"n", b"1"], {b"f": b"v", b"n": b"1"})
    assert execute("HGETALL", "nothing") == by_protocol([], {})
    assert execute("ZADD", "zset", 1, "a", 2.5, "b", "inf", "c") == 3
    scores = execute("ZRANGE", "zset", 0, 1, "WITHSCORES")
    assert scores == by_protocol([b"a", b"1", b"b", b"2.5"], [[b"a", 1.0], [b"b", 2.5]])
    assert execute("ZSCORE", "zset", "c") == by_protocol(b"inf", float("inf"))
    execute("XADD", "stream", "1-1", "f", "v")
    entries = [[b"1-1", [b"f", b"v"]]]
    assert execute("XREAD", "STREAMS", "stream", 0) == by_protocol([[b"stream", entries]], {b"stream": entries})
    # Not only equal: True == 1.
    assert execute("EVAL", "redis.setresp(3); return true", 1, "k") is by_protocol(1, True)
    assert execute("EVAL", "redis.setresp(3); return false", 1, "k") is by_protocol(0, False)
    assert execute("EVAL", "return {double = 3.5}", 1, "k") == by_protocol(b"3.5", 3.5)


def test_error_replies_are_raised_with_their_code_and_nested_ones_are_values(cluster: Cluster) -> None:
    cluster.execute("SET", "text", "x")
    with pytest.raises(ReplyError, match=r"^WRONGTYPE ") as refused:
        cluster.execute("LPUSH", "text", "y")
    assert refused.value.code == "WRONGTYPE"
    assert not refused.value.maybe_executed
    with pytest.raises(gvcluster.NoScript):
        cluster.execute("EVALSHA", "0" * 40, 1, "text")
    # A script may have written before it failed.
    with pytest.raises(ReplyError) as refused:
        cluster.execute(
            "EVAL", "redis.call('SET', KEYS[1], 'z'); return redis.error_reply('MINE own words')", 1, "text"
        )
    assert (refused.value.code, refused.value.message) == ("MINE", "MINE own words")
    assert refused.value.maybe_executed
    assert cluster.execute("GET", "text") == b"z"
    nested = cluster.execute("EVAL", "return {redis.error_reply('MINE own words'), 1}", 1, "text")
    assert isinstance(nested[0], ReplyError)
    assert (nested[0].code, nested[1:]) == ("MINE", [1])
    assert cluster.statistics().retries == 0


def test_keys_with_one_hash_tag_go_together_and_others_are_refused_unsent(cluster: Cluster) -> None:
    assert cluster.execute("MSET", "{tag}a", 1, "{tag}b", 2) == b"OK"
    assert cluster.execute("MGET", "{tag}a", "{tag}b", "{tag}c") == [b"1", b"2", None]
    assert cluster.execute("DEL", "{tag}a", "{tag}b", "{tag}c") == 2
    before = cluster.statistics().commands
    with pytest.raises(CrossSlot) as refused:
        cluster.execute("MGET", "a", "b")
    assert refused.value.keys == ("a", "b")
    assert cluster.statistics().commands == before


# --- commands that wait


def test_a_blocked_pop_gets_what_is_pushed_later_and_holds_nobody_up(cluster: Cluster) -> None:
    popped = gevent.spawn(cluster.execute, "BLPOP", "{q}1", "{q}2", 10)
    opened = connections_to(cluster, "{q}")
    wait_until(lambda: connections_to(cluster, "{q}") > opened and blocked_clients(cluster, "{q}") == 1)
    # Everybody else goes on, on the connection that they share.
    assert cluster.execute("SET", "{q}other", "x") == b"OK"
    assert not popped.ready()
    assert cluster.execute("RPUSH", "{q}2", "pushed") == 1
    assert popped.get(timeout=5) == [b"{q}2", b"pushed"]
    assert connections_to(cluster, "{q}") == 2
    assert cluster.execute("BLPOP", "{q}1", 0.01) is None
    assert connections_to(cluster, "{q}") == 2, "the next one used the same"


def test_a_blocked_pop_that_nobody_serves_returns_none_in_its_own_time(cluster: Cluster) -> None:
    # Longer than a command may take, and longer than the whole call, but the server was told to wait.
    assert cluster.execute("BLPOP", "nothing", 0.5, command_timeout=0.4, timeout=0.4) is None
    assert cluster.statistics().retries == 0


@pytest.mark.needs("streams")
def test_a_stream_is_read_while_it_is_written(cluster: Cluster, protocol: int) -> None:
    read = gevent.spawn(cluster.execute, "XREAD", "BLOCK", 10_000, "STREAMS", "stream", "$")
    cluster.connect()
    wait_until(lambda: blocked_clients(cluster, "stream") == 1)
    entry = cluster.execute("XADD", "stream", "*", "f", "v")
    entries = [[entry, [b"f", b"v"]]]
    assert read.get(timeout=5) == ({b"stream": entries} if protocol == 3 else [[b"stream", entries]])


def test_a_killed_pop_takes_its_connection_along_and_nothing_from_the_list(cluster: Cluster) -> None:
    popped = gevent.spawn(cluster.execute, "BLPOP", "queue", 0)
    wait_until(lambda: blocked_clients(cluster, "queue") == 1)
    popped.kill()
    assert connections_to(cluster, "queue") == 1
    wait_until(lambda: blocked_clients(cluster, "queue") == 0)
    cluster.execute("RPUSH", "queue", "still here")
    assert cluster.execute("LPOP", "queue") == b"still here"


# --- slots and nodes


def test_keys_of_every_third_slot_are_stored_where_the_map_says_without_a_redirect(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    keys = key_for_each_slot(range(0, 16384, 3))
    parts = [keys[start::50] for start in range(50)]

    def write_and_read(part: list[str]) -> None:
        for key in part:
            assert cluster.execute("SET", key, f"value of {key}") == b"OK"
            assert cluster.execute("GET", key) == f"value of {key}".encode()

    gevent.joinall([gevent.spawn(write_and_read, part) for part in parts], raise_error=True)
    statistics = cluster.statistics()
    assert (statistics.redirects, statistics.retries, statistics.refreshes) == (0, 0, 1)
    for primary in live_cluster.primaries():
        mine = [key for key in keys if cluster.node_for_key(key).address == primary.address]
        assert mine
        assert sorted(primary.command("KEYS", "*")) == sorted(key.encode() for key in mine)


def test_hash_slots_are_the_servers_own(live_cluster: LocalCluster) -> None:
    rng = random.Random(16384)
    alphabets = (b"{}", b"{}ab", bytes(range(256)))
    keys = [bytes(rng.choices(rng.choice(alphabets), k=rng.randrange(12))) for _ in range(994)]
    keys += [b"{}key", b"key{}", b"{{a}}b", b"a{b}{c}", "schlüssel{ü}".encode(), b"}{a"]
    with live_cluster.nodes[0].connection() as connection:
        slots = connection.calls([("CLUSTER", "KEYSLOT", key) for key in keys])
    assert [gvcluster.hash_slot(key) for key in keys] == slots
    assert Cluster.hash_slot("schlüssel{ü}") == slots[-2]


def test_a_command_for_one_node_goes_there_and_nowhere_else(cluster: Cluster) -> None:
    ids = {cluster.execute("CLUSTER", "MYID", node=node).decode() for node in cluster.nodes()}
    assert ids == {node.id for node in cluster.primaries()}
    owner = cluster.node_for_key("key")
    stranger = next(node for node in cluster.primaries() if node != owner)
    assert cluster.execute("SET", "key", "x", node=str(owner.address)) == b"OK"
    with pytest.raises(gvcluster.Redirected) as refused:
        cluster.execute("GET", "key", node=stranger)
    assert refused.value.message == f"MOVED {gvcluster.hash_slot('key')} {owner.address}"
    assert cluster.execute("DBSIZE", node=owner) == 1
    assert cluster.execute("CLUSTER", "MYID", route_key="key").decode() == owner.id
    assert cluster.statistics().redirects == 0
    with pytest.raises(ConfigError):
        cluster.execute("PING", node=17)
    with pytest.raises(gvcluster.NoKey, match="several nodes"):
        cluster.execute("SCAN", 0)


def test_both_sources_of_the_slot_map_give_the_same_one(live_cluster: LocalCluster, protocol: int) -> None:
    keys = key_for_each_slot(range(0, 16384, 7))
    maps = []
    for source in ("slots", "nodes"):
        with gvcluster.connect(live_cluster.seeds, protocol=protocol, topology_source=source) as cluster:
            assert {node.address for node in cluster.primaries()} == addresses(live_cluster.primaries())
            maps.append([(node.id, node.address, node.role) for node in map(cluster.node_for_key, keys)])
            assert cluster.execute("SET", "key", source) == b"OK"
            assert cluster.statistics().redirects == 0
    assert maps[0] == maps[1]


def test_any_single_node_is_enough_to_find_the_others(live_cluster: LocalCluster, protocol: int) -> None:
    for node in live_cluster.nodes:
        with gvcluster.connect([node.address], protocol=protocol) as cluster:
            assert {primary.address for primary in cluster.primaries()} == addresses(live_cluster.primaries())
            for key in ("a", "b", "c", "d"):
                assert cluster.execute("SET", key, str(node.address)) == b"OK"
            assert cluster.statistics().redirects == 0


# --- size and number


@pytest.mark.parametrize("size", [MIB, 8 * MIB])
def test_a_big_value_passes_whole_and_others_pass_it(cluster: Cluster, size: int) -> None:
    pattern = bytes(range(256)) + b"\r\n"
    value = (pattern * (size // len(pattern) + 1))[:size]
    assert cluster.execute("SET", "{big}1", "small") == b"OK"
    small = gevent.spawn(lambda: [cluster.execute("GET", "{big}1") for _ in range(50)])
    assert cluster.execute("SET", "{big}2", value) == b"OK"
    assert cluster.execute("STRLEN", "{big}2") == size
    # Not compared by pytest: it would show the difference.
    assert bool(cluster.execute("GET", "{big}2") == value)
    assert cluster.execute("MGET", "{big}1", "{big}2", "{big}1")[::2] == [b"small", b"small"]
    assert small.get(timeout=10) == [b"small"] * 50
    assert connections_to(cluster, "{big}") == 2, "one for all, and one for what is large"


def test_a_thousand_greenlets_share_one_connection_to_each_node(
    live_cluster: LocalCluster, cluster: Cluster, protocol: int
) -> None:
    def work(number: int) -> None:
        for turn in range(3):
            token = f"{number}-{turn}".encode()
            assert cluster.execute("SET", f"key-{number}", token) == b"OK"
            assert cluster.execute("GET", f"key-{number}") == token

    gevent.joinall([gevent.spawn(work, number) for number in range(1000)], raise_error=True)
    statistics = cluster.statistics()
    assert [node.opened for node in statistics.nodes if node.commands > 100] == [1, 1, 1]
    assert {node.opened for node in statistics.nodes} <= {0, 1}, "whoever else was asked for the slot map"
    assert statistics.commands >= 6000
    assert statistics.retries == 0


# --- who we are


def test_the_servers_know_our_name_and_library(live_cluster: LocalCluster, protocol: int) -> None:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, client_name="who-am-i") as cluster:
        for node in cluster.nodes():
            told = cluster.execute("CLIENT", "LIST", node=node).decode().splitlines()
            (mine,) = [dict(word.partition("=")[::2] for word in line.split()) for line in told if "who-am-i" in line]
            assert mine["name"] == "who-am-i"
            # Valkey 8, Redis 7.2 and newer.
            assert (mine.get("lib-name"), mine.get("lib-ver")) in (("gvcluster", gvcluster.__version__), (None, None))
            assert ("lib-name" in mine) == live_cluster.server.name.startswith("valkey")
            assert mine.get("resp", str(protocol)) == str(protocol)


def test_without_client_info_the_library_is_not_named(live_cluster: LocalCluster, protocol: int) -> None:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, client_info=False) as cluster:
        for node in cluster.nodes():
            assert b"lib-name=gvcluster" not in cluster.execute("CLIENT", "LIST", node=node)


def test_a_user_with_a_password_is_let_in_and_may_do_what_the_acl_says(
    live_cluster: LocalCluster, acl_user: Callable[..., None], protocol: int
) -> None:
    acl_user("reader", ">s3cret", "~*", "+get", "+acl|whoami", *LEAST_RIGHTS)
    options = {"protocol": protocol, "username": "reader", "password": "s3cret"}
    with gvcluster.connect(live_cluster.seeds, **options) as cluster:
        for node in cluster.nodes():
            assert cluster.execute("ACL", "WHOAMI", node=node) == b"reader"
        assert cluster.execute("GET", "key") is None
        with pytest.raises(AuthFailed, match=r"^NOPERM ") as refused:
            cluster.execute("SET", "key", "x")
        assert not refused.value.maybe_executed
        assert cluster.statistics().retries == 0
        assert "s3cret" not in repr(cluster) + repr(cluster.statistics()) + repr(refused.value)
        # Connections live on after a change of password; new ones are refused.
        acl_user("reader", "resetpass", ">changed")
        assert cluster.execute("GET", "key") is None
        cluster.close_idle()
        with pytest.raises(AuthFailed, match=r"^WRONGPASS ") as refused:
            cluster.execute("GET", "key")
        assert not refused.value.maybe_executed
        assert "s3cret" not in str(refused.value)


def test_a_wrong_password_of_a_user_is_told_by_every_seed(
    live_cluster: LocalCluster, acl_user: Callable[..., None], protocol: int
) -> None:
    acl_user("guest", ">right", "~*", "+@all")
    with pytest.raises(TopologyUnavailable) as refused:
        gvcluster.connect(live_cluster.seeds, protocol=protocol, username="guest", password="wrong")
    assert {address for address, _ in refused.value.failures} == set(live_cluster.addresses)
    assert {type(error) for _, error in refused.value.failures} == {AuthFailed}
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, username="guest", password="right") as cluster:
        assert cluster.execute("SET", "key", "x") == b"OK"


def test_a_cluster_with_a_password_is_closed_to_those_without(server: str, protocol: int) -> None:
    config = {"requirepass": "open sesame", "masterauth": "open sesame"}
    with LocalCluster(server, primaries=2, replicas=0, config=config) as protected:
        with gvcluster.connect(protected.seeds, protocol=protocol, password="open sesame") as cluster:
            for key in ("a", "b", "c", "d"):
                assert cluster.execute("SET", key, key) == b"OK"
            assert [node.opened for node in cluster.statistics().nodes] == [1, 1]
        for options in ({"password": "wrong"}, {}):
            with pytest.raises(TopologyUnavailable, match=r"WRONGPASS|NOAUTH") as refused:
                gvcluster.connect(protected.seeds, protocol=protocol, **options)
            assert {type(error) for _, error in refused.value.failures} == {AuthFailed}
            assert "open sesame" not in str(refused.value)


# --- what the client tells about itself


def test_statistics_count_what_was_done(live_cluster: LocalCluster, protocol: int) -> None:
    cluster = Cluster(live_cluster.seeds, protocol=protocol, client_info=False)
    assert cluster.statistics() == gvcluster.Statistics(0, 0, 0, 0, 0, ())
    with cluster:
        owner = cluster.node_for_key("key")
        first = cluster.statistics()
        assert (first.route_version, first.refreshes, first.redirects, first.retries) == (1, 1, 0, 0)
        for _ in range(5):
            cluster.execute("INCR", "key")
        mine = next(node for node in cluster.statistics().nodes if node.address == owner.address)
        assert (mine.connections, mine.opened, mine.in_flight) == (1, 1, 0)
        hello = 1 if protocol == 3 else 0
        adopted = any(node.address == owner.address for node in first.nodes if node.opened)
        assert mine.commands == 5 + hello + adopted
        assert cluster.close_idle() == len([node for node in cluster.statistics().nodes if node.opened])
        assert {node.connections for node in cluster.statistics().nodes} == {0}
        assert cluster.execute("INCR", "key") == 6
        mine = next(node for node in cluster.statistics().nodes if node.address == owner.address)
        assert (mine.connections, mine.opened) == (1, 2)
        cluster.refresh()
        assert (cluster.statistics().refreshes, cluster.route_version) == (2, 1)


def test_explain_tells_where_a_command_would_go_and_sends_nothing(cluster: Cluster, live_cluster: LocalCluster) -> None:
    before = cluster.statistics().commands
    told = cluster.explain("MGET", "{k}1", b"{k}2")
    assert (told.command, told.keys, told.slot) == ("MGET", ("{k}1", b"{k}2"), gvcluster.hash_slot("k"))
    assert told.node is not None
    assert told.node.address == live_cluster.primary_of("k").address
    assert (told.read_only, told.blocking) == (True, False)
    assert cluster.explain("blpop", "k", 0).blocking
    assert not cluster.explain("SET", "k", "v").read_only
    assert cluster.explain("PING").slot is None
    assert cluster.statistics().commands == before


# --- tools


@pytest.fixture
def acl_user(live_cluster: LocalCluster) -> Iterator[Callable[..., None]]:
    """Sets a user on all nodes; it is gone after the test."""
    names = set()

    def set_user(name: str, *rules: str) -> None:
        names.add(name)
        for node in live_cluster.nodes:
            assert node.command("ACL", "SETUSER", name, "on", *rules) == b"OK"

    yield set_user
    for node in live_cluster.nodes:
        node.command("ACL", "DELUSER", *names)


def key_for_each_slot(slots: range) -> list[str]:
    """A key for each of the slots."""
    wanted, found = set(slots), {}
    for number in count():
        slot = gvcluster.hash_slot(f"key:{number}")
        if slot in wanted:
            wanted.remove(slot)
            found[slot] = f"key:{number}"
            if not wanted:
                return [found[slot] for slot in slots]
    raise AssertionError


def addresses(nodes: list[Node]) -> set[Address]:
    return {node.address for node in nodes}


def connections_to(cluster: Cluster, key: str) -> int:
    """How many connections are open to the node that serves the key."""
    owner = cluster.node_for_key(key)
    return sum(node.connections for node in cluster.statistics().nodes if node.address == owner.address)


def blocked_clients(cluster: Cluster, key: str) -> int:
    """How many clients wait at the node that serves the key, as it says itself."""
    told = cluster.execute("INFO", "clients", node=cluster.node_for_key(key)).decode()
    return int(told.partition("blocked_clients:")[2].split()[0])


def wait_until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.005)


# --- a connection for oneself


def test_transactions_and_watches_work_on_a_connection_of_ones_own(cluster: Cluster) -> None:
    key = "{exclusive}:n"
    cluster.execute("SET", key, 1)
    with cluster.connection(route_key=key) as connection:
        assert connection.execute("WATCH", key) == b"OK"
        assert connection.execute("MULTI") == b"OK"
        assert connection.execute("INCR", key) == b"QUEUED"
        assert connection.execute("EXEC") == [2]
        assert connection.execute("WATCH", key) == b"OK"
        cluster.execute("SET", key, 10)
        assert connection.execute("MULTI") == b"OK"
        assert connection.execute("INCR", key) == b"QUEUED"
        assert connection.execute("EXEC") is None
    assert cluster.execute("GET", key) == b"10"


@pytest.mark.needs("WAIT")
def test_a_write_and_the_wait_for_its_copies_share_a_connection(cluster: Cluster) -> None:
    with cluster.connection(route_key="waited") as connection:
        connection.execute("SET", "waited", "v")
        assert connection.execute("WAIT", 1, 5000) == 1


# --- many keys


def test_a_thousand_keys_over_all_slots_are_set_read_counted_and_deleted(cluster: Cluster) -> None:
    values = {f"many:{number}": f"value {number}".encode() for number in range(1000)}
    cluster.mset(values)
    assert cluster.mget([*values, "many:none"]) == [*values.values(), None]
    assert cluster.exists(*values, "many:none") == 1000
    assert cluster.touch(*values) == 1000
    half = list(values)[::2]
    assert cluster.delete(*half) + cluster.unlink(*list(values)[1::2]) == 1000
    assert cluster.exists(*values) == 0


def test_a_key_of_another_type_has_no_value_and_spoils_no_other(cluster: Cluster) -> None:
    cluster.mset({f"mixed:{number}": "v" for number in range(50)})
    cluster.delete("mixed:7")
    cluster.execute("RPUSH", "mixed:7", "x")
    assert cluster.mget([f"mixed:{number}" for number in range(9)]) == [b"v"] * 7 + [None, b"v"]
