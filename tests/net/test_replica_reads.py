"""Reads from replicas: who is asked, over which connections, and where a read goes when a replica does not serve it."""

from collections.abc import Iterator
from time import monotonic

import gevent
import pytest
from calls import begin, ends, outcome

from gvcluster import (
    AuthFailed,
    ConfigError,
    ConnectionLost,
    Redirected,
    ReplyError,
    ReplyTimeout,
    RetriesExhausted,
    SlotNotCovered,
    hash_slot,
)
from gvcluster.errors import ConnectFailed
from gvcluster.net.readers import IMPATIENCE
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import Close, Delay

KEY = "{k}1"


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    """Two shards of a primary and two replicas."""
    with FakeCluster(nodes=2, replicas=2) as cluster:
        yield cluster


@pytest.fixture
def shard(fake):
    """The primary that serves KEY, and its replicas."""
    primary = fake.node_for_key(KEY)
    primary.data[KEY.encode()] = b"v"
    return primary, *(node for node in fake.nodes if node.primary is primary)


def gets(*nodes) -> list[int]:
    """How many GETs each node has received."""
    return [len(node.commands("GET")) for node in nodes]


def read(cluster, times: int, *args) -> None:
    for _ in range(times):
        assert cluster.execute(*(args or ("GET", KEY))) == b"v"


# -- who is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "shares"),
    [("primary", [6, 0, 0]), ("prefer_replica", [0, 3, 3]), ("replica", [0, 3, 3]), ("any", [2, 2, 2])],
)
def test_the_nodes_of_a_tier_serve_in_turn(shard, reads, policy, shares):
    cluster = reads(policy)
    read(cluster, 3)  # each has its connection
    before = gets(*shard)
    read(cluster, 6)
    assert [now - then for now, then in zip(gets(*shard), before, strict=True)] == shares


@pytest.mark.parametrize(("zone", "served"), [("east", [0, 1, 0]), ("west", [0, 0, 1]), ("north", [1, 0, 0])])
def test_a_zone_is_served_by_its_own_nodes(shard, reads, zone, served):
    for node, its_zone in zip(shard, ("north", "east", "west"), strict=True):
        node.availability_zone = its_zone
    cluster = reads(f"az:{zone}")
    read(cluster, 6)
    assert gets(*shard) == [6 * share for share in served]


def test_a_zone_without_nodes_is_served_by_any_replica(shard, reads):
    read(reads("az:south"), 6)
    assert gets(*shard)[0] == 0


def test_writes_and_cursors_and_touch_stay_with_the_primary(shard, reads):
    cluster = reads("replica")
    primary, *replicas = shard
    primary.on("HSCAN", b"*2\r\n$1\r\n0\r\n*0\r\n")
    primary.on("TOUCH", b":1\r\n")
    for args in (("SET", KEY, "w"), ("INCR", "{k}n"), ("HSCAN", KEY, 0), ("TOUCH", KEY), ("DEL", "{k}n")):
        cluster.execute(*args)
    assert [args[0] for args in primary.work()] == [b"SET", b"INCR", b"HSCAN", b"TOUCH", b"DEL"]
    assert [node.work() for node in replicas] == [[], []]


@pytest.mark.parametrize("policy", ["prefer_replica", "any", "primary"])
def test_a_call_may_choose_for_itself(shard, reads, policy):
    cluster = reads("replica")
    for _ in range(4):
        cluster.execute("GET", KEY, read_from=policy)
    assert (gets(*shard)[0] > 0) == (policy != "prefer_replica")
    for _ in range(4):
        cluster.execute("SET", KEY, "w", read_from=policy)  # which reads nothing
    assert len(shard[0].commands("SET")) == 4


def test_a_cluster_that_reads_from_primaries_can_read_from_replicas_once(shard, reads):
    cluster = reads("primary")
    read(cluster, 2)
    assert cluster.execute("GET", KEY, read_from="replica") == b"v"
    assert gets(shard[0]) == [2]
    assert sum(gets(*shard[1:])) == 1


def test_explain_says_who_may_serve_a_read_the_best_first(shard, reads):
    cluster = reads()
    primary, *replicas = (node.address for node in shard)
    told = cluster.explain("GET", KEY)
    assert told.node.address == primary
    assert [node.address for node in told.readers] in ([*replicas, primary], [*reversed(replicas), primary])
    assert {node.address for node in reads("replica").explain("GET", KEY).readers} == set(replicas)
    for args in (("SET", KEY, "v"), ("HSCAN", KEY, 0), ("DBSIZE",)):
        assert cluster.explain(*args).readers == ()
    assert reads("primary").explain("GET", KEY).readers == ()


@pytest.mark.parametrize("value", ["replicas", "az:", 1])
def test_a_policy_that_is_none_is_refused(make, cluster, value):
    with pytest.raises(ConfigError, match="read_from"):
        make(read_from=value)
    with pytest.raises(ConfigError, match="read_from"):
        cluster.execute("GET", KEY, read_from=value)
    with pytest.raises(ConfigError, match="not both"):
        cluster.execute("GET", KEY, read_from="any", node="127.0.0.1:1")


def test_large_commands_and_those_with_a_connection_of_their_own_are_read_from_replicas_too(shard, reads):
    cluster = reads()
    large = ["{k}" + "x" * 70_000, KEY]
    assert cluster.execute("MGET", *large) == [None, b"v"]
    assert cluster.execute("GET", KEY, command_timeout=9) == b"v"
    primary, *replicas = shard
    assert primary.work() == []
    purposes = [node.connections.accepted for node in replicas]
    assert sum(purposes) >= 2


# -- connections -------------------------------------------------------------------------------------------------------


def test_connections_for_reading_begin_with_readonly_and_no_others_do(shard, reads):
    cluster = reads("any")
    for number in range(9):
        cluster.execute("SET", f"{{k}}{number}", "v")
        read(cluster, 1)
    primary, *replicas = shard
    assert primary.commands("READONLY") == []
    for node in replicas:
        (said,) = {each.connection for each in node.received if each.args == [b"READONLY"]}
        assert {each.connection for each in node.received if each.args[0] == b"GET"} == {said}
    assert [node.commands("READWRITE") for node in shard] == [[], [], []]


def test_a_replica_that_is_named_answers_as_it_does_to_anybody(shard, reads):
    cluster = reads()
    read(cluster, 4)
    with pytest.raises(Redirected):
        cluster.execute("GET", KEY, node=str(shard[1].address))


def test_statistics_and_callbacks_tell_which_connections_are_for_reading(shard, reads):
    told = []
    cluster = reads(on_connect=lambda connection, error: told.append((connection.address, connection.read_only)))
    read(cluster, 4)
    read_only = {
        node.address: (node.connections, node.commands) for node in cluster.statistics().nodes if node.read_only
    }
    assert set(read_only) >= {node.address for node in shard[1:]}
    assert all(read_only[node.address][0] == 1 for node in shard[1:])
    assert {address for address, is_read_only in told if is_read_only} == {node.address for node in shard[1:]}
    commands = cluster.statistics().commands
    assert cluster.close_idle() >= 2
    assert cluster.statistics().commands == commands
    read(cluster, 2)


def test_a_user_who_may_not_say_readonly_is_told(shard, reads):
    for node in shard[1:]:
        node.on("READONLY", b"-NOPERM this user has no permissions to run the 'readonly' command\r\n")
    with pytest.raises(AuthFailed, match="READONLY at 127"):
        reads().execute("GET", KEY)


# -- a replica that does not serve -------------------------------------------------------------------------------------

_NOT_NOW = [
    "LOADING Valkey is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
]


@pytest.mark.parametrize("text", _NOT_NOW)
@pytest.mark.parametrize("warm", [False, True])
def test_a_replica_that_can_not_now_costs_one_attempt(shard, reads, text, warm):
    bad = shard[1]
    cluster = reads()
    if warm:
        read(cluster, 4)
    bad.on("GET", f"-{text}\r\n".encode())
    before = gets(*shard)
    retries = cluster.statistics().retries
    read(cluster, 2)
    asked = [now - then for now, then in zip(gets(*shard), before, strict=True)]
    assert asked[0] == 0
    assert asked[2] == 2
    assert cluster.statistics().retries - retries == asked[1] <= 1


@pytest.mark.parametrize("text", _NOT_NOW)
def test_when_no_replica_can_the_primary_serves(shard, reads, text):
    for node in shard[1:]:
        node.on("GET", f"-{text}\r\n".encode())
    cluster = reads()
    read(cluster, 1)
    assert gets(*shard) == [1, 1, 1]
    assert cluster.statistics().retries == 2


def test_replica_rather_fails_than_to_burden_the_primary(shard, reads):
    for node in shard[1:]:
        node.on("GET", b"-MASTERDOWN Link with MASTER is down\r\n")
    cluster = reads("replica", timeout=0.3)
    error = outcome(cluster, "GET", KEY)
    assert isinstance(error, RetriesExhausted)
    assert {each.code for each in error.attempts} == {"MASTERDOWN"}
    assert gets(*shard)[0] == 0
    assert min(gets(*shard[1:])) >= 1


def test_replica_waits_for_a_replica_that_can_soon(shard, reads):
    for node in shard[1:]:
        node.on("GET", b"-LOADING Valkey is loading the dataset in memory\r\n", times=1)
    read(reads("replica"), 1)
    assert gets(*shard)[0] == 0


def test_a_replica_that_is_gone_is_replaced_by_the_other_and_then_by_the_primary(shard, reads):
    primary, one, other = shard
    cluster = reads()
    read(cluster, 4)
    one.stop()
    before = gets(primary)
    read(cluster, 4)
    assert gets(primary) == before
    other.stop()
    read(cluster, 4)
    assert gets(primary)[0] == before[0] + 4


def test_replica_fails_when_all_replicas_are_gone(shard, reads):
    cluster = reads("replica", timeout=0.4)
    for node in shard[1:]:
        node.stop()
    error = outcome(cluster, "GET", KEY)
    assert isinstance(error, RetriesExhausted)
    assert isinstance(error.__cause__, ConnectFailed)
    assert not error.maybe_executed
    assert gets(shard[0]) == [0]


def test_a_shard_without_replicas_can_not_be_read_from_replicas_only(make):
    with FakeCluster(nodes=1) as fake:
        with pytest.raises(SlotNotCovered, match="no replica"):
            make(fake.seeds, read_from="replica").execute("GET", KEY)
        assert make(fake.seeds, read_from="prefer_replica").execute("GET", KEY) is None


def test_any_goes_on_without_its_primary(shard, reads):
    cluster = reads("any")
    read(cluster, 6)
    shard[0].stop()
    read(cluster, 6)


def test_a_read_whose_connection_is_lost_goes_elsewhere(shard, reads):
    cluster = reads()
    read(cluster, 4)
    for node in shard[1:]:
        node.on("GET", Close(), times=1)
    read(cluster, 1)
    assert sum(gets(*shard)) <= 4 + 3


def test_never_repeats_nothing_elsewhere_either(shard, reads):
    cluster = reads(retry="never")
    for node in shard[1:]:
        node.on("GET", Close(), times=1)
    error = outcome(cluster, "GET", KEY)
    assert isinstance(error, ConnectionLost)
    assert sum(gets(*shard)) == 1


def test_an_error_that_is_the_callers_is_raised_by_a_replica_as_well(shard, reads):
    for node in shard[1:]:
        node.on("GET", b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        reads().execute("GET", KEY)
    assert sum(gets(*shard)) == 1


# -- rest --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["PING", "READONLY"])  # who answers it with MASTERDOWN: Valkey 9.1, Redis 6.2
def test_a_replica_that_has_failed_is_left_alone_until_it_says_that_it_is_well(shard, reads, question):
    bad = shard[1]
    cluster = reads()
    read(cluster, 4)
    down = b"-MASTERDOWN Link with MASTER is down\r\n"
    bad.on("GET", down)
    bad.on(question, down)
    read(cluster, 2)
    asked = gets(bad)
    questions = len(bad.commands(question))
    while len(bad.commands(question)) < questions + 2:  # which somebody else asks than the calls
        read(cluster, 1)
        gevent.sleep(0.01)
    assert gets(bad) == asked
    bad.on("GET", b"$1\r\nv\r\n")
    bad.on(question, b"+OK\r\n")
    with gevent.Timeout(10):
        while gets(bad) == asked:
            read(cluster, 1)
            gevent.sleep(0.01)
    assert cluster.statistics().retries == 1


def test_a_silent_replica_costs_each_waiting_call_one_attempt_and_the_others_nothing(shard, reads):
    silent = shard[1]
    cluster = reads(command_timeout=0.5)
    read(cluster, 4)
    silent.freeze()
    stuck = [begin(cluster, "GET", KEY) for _ in range(4)]
    assert ends(*stuck, within=5) == [b"v"] * 4
    asked = cluster.statistics().retries
    assert 1 <= asked <= 4
    read(cluster, 20)
    assert cluster.statistics().retries == asked
    silent.thaw()
    before = gets(silent)
    with gevent.Timeout(15):
        while gets(silent) == before:
            read(cluster, 1)
            gevent.sleep(0.01)


def test_who_owes_a_reply_for_long_is_passed_over_before_anything_has_failed(shard, reads):
    slow = shard[1]
    cluster = reads()
    read(cluster, 4)
    slow.on("GET", Delay(1.0, b"$1\r\nv\r\n"))
    first = [begin(cluster, "GET", KEY) for _ in range(2)]
    gevent.sleep(0.2)
    before = gets(slow)
    read(cluster, 6)
    assert gets(slow) == before
    assert ends(*first) == [b"v", b"v"]
    assert cluster.statistics().retries == 0


def test_a_calls_own_haste_is_not_held_against_a_replica(shard, reads):
    _, one, other = shard
    cluster = reads("replica")
    read(cluster, 4)
    for node in (one, other):
        node.on("GET", Delay(0.05, b"$1\r\nv\r\n"))
    error = outcome(cluster, "GET", KEY, command_timeout=0.01, retry="never")
    assert isinstance(error, ReplyTimeout)
    readers = cluster._executor_here().runtime.nodes.readers
    assert "0 rest" in repr(readers)


def test_a_connection_that_takes_long_is_not_waited_for_if_others_may_serve(shard, reads):
    for node in shard[1:]:
        node.on("READONLY", Delay(30, b"+OK\r\n"))
    cluster = reads(connect_timeout=20, timeout=8)
    read(cluster, 2)  # which would take 20 s
    assert gets(*shard) == [2, 0, 0]


def test_a_read_waits_for_a_connection_of_its_own_as_long_as_any_call(shard, reads):
    cluster = reads(max_connections=1)
    read(cluster, 2)
    pools = cluster._executor_here().runtime.nodes.readers.pools.values()
    lent = [(pool, pool.wait_exclusive(monotonic() + 5)) for pool in pools]
    reading = gevent.spawn(cluster.execute, "GET", KEY, command_timeout=9)
    gevent.sleep(2 * IMPATIENCE)
    for pool, connection in lent:
        pool.give_back(connection, clean=True)
    assert reading.get(timeout=5) == b"v"


# -- redirects ---------------------------------------------------------------------------------------------------------


def test_a_replica_whose_slot_has_moved_redirects_and_the_next_reads_go_there_at_once(fake, shard, reads):
    target = next(node for node in fake.nodes if node.primary is None and node is not shard[0])
    cluster = reads()
    read(cluster, 4)
    fake.move_slot(hash_slot(KEY), target)
    read(cluster, 1)
    statistics = cluster.statistics()
    assert (statistics.redirects, gets(target)) == (1, [1])
    cluster.refresh()
    read(cluster, 4)
    assert cluster.statistics().redirects == 1
    assert sum(gets(*(node for node in fake.nodes if node.primary is target))) == 4


def test_a_moved_slot_is_not_looked_for_at_its_old_replicas_while_no_map_comes(fake, shard, reads):
    target = next(node for node in fake.nodes if node.primary is None and node is not shard[0])
    cluster = reads()
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", b"-BUSY a script is running\r\n")
    fake.move_slot(hash_slot(KEY), target)
    read(cluster, 4)
    assert cluster.statistics().redirects == 1
    assert gets(target) == [4]
    with cluster.pipeline() as pipe:
        pipe.append("GET", KEY)
        assert pipe.execute() == [b"v"]
    assert gets(target) == [5]


def test_replica_follows_no_redirect_but_waits_for_the_new_map(fake, shard, reads):
    target = next(node for node in fake.nodes if node.primary is None and node is not shard[0])
    cluster = reads("replica")
    read(cluster, 4)
    fake.move_slot(hash_slot(KEY), target)
    read(cluster, 4)
    assert cluster.statistics().redirects == 0
    assert gets(target, shard[0]) == [0, 0]


def test_ask_of_a_replica_is_followed(fake, shard, reads):
    target = next(node for node in fake.nodes if node.primary is None and node is not shard[0])
    slot = hash_slot(KEY)
    fake.begin_migration(slot, target)
    target.data[KEY.encode()] = b"v"
    for node in shard[1:]:  # as Valkey's do, since 8.0
        node.on("GET", f"-ASK {slot} {target.address}\r\n".encode())
    cluster = reads()
    read(cluster, 2)
    assert cluster.statistics().redirects == 2
    assert [args[0] for args in target.work()] == [b"ASKING", b"GET"] * 2


def test_a_script_that_makes_up_a_redirect_reaches_nobody_from_a_replica(fake, shard, reads):
    cluster = reads()
    with FakeCluster(nodes=1) as strangers:
        forged = f"-MOVED {hash_slot(KEY)} {strangers.nodes[0].address}\r\n".encode()
        for node in shard[1:]:
            node.on("EVAL_RO", forged)
        assert isinstance(outcome(cluster, "EVAL_RO", "…", 1, KEY), Redirected)
        assert strangers.nodes[0].received == []
        assert sum(len(node.commands("EVAL_RO")) for node in shard) == 1


def test_a_script_that_reads_goes_elsewhere_when_its_replica_can_not(shard, reads):
    primary, *replicas = shard
    for node in replicas:
        node.on("FCALL_RO", b"-MASTERDOWN Link with MASTER is down\r\n")
    primary.on("FCALL_RO", b"+done\r\n")
    assert reads().execute("FCALL_RO", "f", 1, KEY) == b"done"


# -- the slot map ------------------------------------------------------------------------------------------------------


def test_a_promoted_replica_is_read_as_a_primary_and_the_old_primary_as_a_replica(fake, shard, reads):
    primary, heir, other = shard
    cluster = reads()
    read(cluster, 4)
    fake.promote(heir)
    cluster.refresh()
    before = gets(*shard)
    read(cluster, 4)
    served = [now - then for now, then in zip(gets(*shard), before, strict=True)]
    assert served[1] == 0
    assert served[0] + served[2] == 4
    assert {node.address for node in cluster.statistics().nodes if node.read_only} >= {primary.address, other.address}
    assert heir.address not in {node.address for node in cluster.statistics().nodes if node.read_only}


def test_what_is_in_flight_at_a_replica_that_is_promoted_is_answered(fake, shard, reads):
    _, heir, other = shard
    cluster = reads()
    read(cluster, 4)
    for node in (heir, other):
        node.on("GET", Delay(0.3, b"$1\r\nv\r\n"))
    calls = [begin(cluster, "GET", KEY) for _ in range(4)]
    heir.wait_until(lambda: sum(gets(heir, other)) >= 8)
    fake.promote(heir)
    cluster.refresh()
    assert ends(*calls) == [b"v"] * 4
    assert cluster.statistics().retries == 0


def test_replicas_that_come_back_are_looked_for(make, reads):
    assert reads()._executor_here().runtime._clock is not None
    assert make()._executor_here().runtime._clock is None


# -- pipelines, submit, many keys --------------------------------------------------------------------------------------


def test_a_pipeline_that_only_reads_is_read_from_one_replica_of_each_shard(fake, shard, reads):
    cluster = reads()
    keys = [fake.key_at(node, f"p{number}") for number in range(3) for node in fake.nodes[:2]]
    with cluster.pipeline() as pipe:
        for key in keys:
            pipe.append("GET", key)
        assert pipe.execute() == [None] * 6
    assert sorted(gets(*fake.nodes)) == [0, 0, 0, 0, 3, 3]
    assert gets(*fake.nodes[:2]) == [0, 0]


def test_a_pipeline_with_a_write_stays_with_the_primaries(shard, reads):
    cluster = reads()
    with cluster.pipeline(read_from="replica") as pipe:
        pipe.append("SET", KEY, "new")
        pipe.append("GET", KEY)
        assert pipe.execute() == [b"OK", b"new"]
    assert gets(*shard) == [1, 0, 0]


@pytest.mark.parametrize("how", [b"-LOADING Valkey is loading\r\n", Close()])
def test_what_a_replica_does_not_serve_of_a_pipeline_goes_elsewhere(shard, reads, how):
    cluster = reads()
    for node in shard[1:]:
        node.on("GET", how)
    with cluster.pipeline() as pipe:
        for _ in range(3):
            pipe.append("GET", KEY)
        assert pipe.execute() == [b"v"] * 3
    assert gets(shard[0]) == [3]


def test_replicas_that_are_gone_do_not_keep_a_pipeline_from_being_read(shard, reads):
    cluster = reads()
    for node in shard[1:]:
        node.stop()
    with cluster.pipeline() as pipe:
        pipe.append("GET", KEY)
        pipe.append("EXISTS", KEY)
        assert pipe.execute() == [b"v", 1]


def test_many_keys_are_read_from_replicas_and_written_to_primaries(fake, shard, reads):
    cluster = reads()
    keys = [fake.key_at(node, "m") for node in fake.nodes[:2]]
    cluster.mset({key: key for key in keys})
    assert cluster.mget(keys) == [key.encode() for key in keys]
    assert cluster.exists(*keys) == 2
    assert [len(node.commands("MGET")) + len(node.commands("EXISTS")) for node in fake.nodes[:2]] == [0, 0]
    assert cluster.mget(keys, read_from="primary") == [key.encode() for key in keys]
    assert [len(node.commands("MGET")) for node in fake.nodes[:2]] == [1, 1]


def test_submitted_reads_go_to_replicas_and_elsewhere_when_they_can_not(shard, reads):
    primary, *replicas = shard
    cluster = reads()
    cold = [cluster.submit("GET", KEY) for _ in range(4)]
    assert [each.get(5) for each in cold] == [b"v"] * 4
    warm = [cluster.submit("GET", KEY) for _ in range(4)]
    assert [each.get(5) for each in warm] == [b"v"] * 4
    assert gets(primary) == [0]
    assert cluster.submit("SET", KEY, "v").get(5) == b"OK"
    for node in replicas:
        node.on("GET", b"-MASTERDOWN Link with MASTER is down\r\n")
    assert cluster.submit("GET", KEY).get(5) == b"v"
    for node in replicas:
        node.stop()
    assert [each.get(5) for each in [cluster.submit("GET", KEY) for _ in range(3)]] == [b"v"] * 3
    assert cluster.submit("GET", KEY, read_from="primary").get(5) == b"v"


def test_a_submitted_read_avoids_who_could_not_serve_it(shard, reads):
    for node in shard[1:]:
        node.on("GET", b"-MASTERDOWN Link with MASTER is down\r\n")
    assert reads().submit("GET", KEY).get(5) == b"v"
    assert gets(*shard) == [1, 1, 1]


def test_replicas_that_are_gone_from_the_start_do_not_keep_submitted_reads_waiting(shard, reads):
    for node in shard[1:]:
        node.stop()
    cluster = reads()
    assert [each.get(5) for each in [cluster.submit("GET", KEY) for _ in range(3)]] == [b"v"] * 3
