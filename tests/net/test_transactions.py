"""Transactions on scripted nodes: what is sent, in how many pieces, and what becomes of it on good and bad days."""

from typing import Any

import gevent
import pytest
from calls import Steady, names
from fake_multi import ABORTED, OK, QUEUED, Multis

from gvcluster import (
    ClosedError,
    ConfigError,
    ConnectionLost,
    CrossSlot,
    NoKey,
    PartialFailure,
    ReplyError,
    ReplyTimeout,
    RetriesExhausted,
    StatefulCommand,
    UnknownCommand,
    hash_slot,
)
from gvcluster.testing.answers import Close, Reset


def appended(cluster: Any, *commands: tuple[Any, ...], **options: Any) -> Any:
    tx = cluster.transaction(**options)
    for command in commands:
        tx.append(*command)
    return tx


def error_of(function: Any, *args: Any) -> Any:
    with pytest.raises(Exception) as caught:
        function(*args)
    return caught.value


# -- without WATCH -----------------------------------------------------------------------------------------------------


def test_the_first_block_follows_an_empty_one_and_the_others_go_at_once(fake, cluster):
    Multis(fake)
    node = fake.nodes[0]
    key = fake.key_at(node)
    assert appended(cluster, ("SET", key, 1), ("INCR", key), ("ECHO", "x")).commit() == [b"OK", 2, b"x"]
    assert names(node) == "MULTI EXEC MULTI SET INCR ECHO EXEC"
    assert appended(cluster, ("GET", key)).commit() == [b"2"]
    assert names(node) == "MULTI EXEC MULTI SET INCR ECHO EXEC MULTI GET EXEC"
    assert node.connections.accepted == 1
    assert cluster.statistics().retries == 0


def test_the_whole_block_is_one_write(fake, cluster):
    Multis(fake)
    node = fake.nodes[0]
    key = fake.key_at(node)
    others = [gevent.spawn(cluster.execute, "GET", key) for _ in range(3)]
    commits = [gevent.spawn(appended(cluster, ("SET", key, 1), ("GET", key)).commit) for _ in range(3)]
    others += [gevent.spawn(cluster.execute, "GET", key) for _ in range(3)]
    gevent.joinall([*others, *commits], timeout=5, raise_error=True)
    assert [commit.value for commit in commits] == [[b"OK", b"1"]] * 3
    assert names(node).count("MULTI SET GET EXEC") == 3


@pytest.mark.parametrize("refusal", [b"-NOPERM no MULTI for you\r\n", b"-ERR unknown command 'MULTI'\r\n"])
def test_where_multi_is_refused_no_command_is_sent(fake, cluster, refusal):
    node = fake.nodes[0]
    node.on("MULTI", refusal)
    node.on("EXEC", b"-ERR EXEC without MULTI\r\n")
    key = fake.key_at(node)
    error = error_of(appended(cluster, ("SET", key, 1)).commit)
    assert isinstance(error, ReplyError)
    assert (error.message.encode() in refusal, error.maybe_executed) == (True, False)
    assert node.commands("SET") == []
    assert cluster.execute("GET", key) is None  # the connection is sound
    assert node.connections.accepted == 1


def test_a_proxy_that_refuses_multi_later_is_told_to_have_executed_perhaps(fake, cluster):
    multis = Multis(fake)
    node = fake.nodes[0]
    key = fake.key_at(node)
    appended(cluster, ("GET", key)).commit()
    multis.answers["MULTI"] = [b"-ERR not now\r\n"]
    error = error_of(appended(cluster, ("SET", key, 1)).commit)
    assert (error.code, error.maybe_executed) == ("ERR", True)
    multis.answers["MULTI"] = [b"-ERR not now\r\n"]
    node.on("SET", b"-ERR nor that\r\n", times=1)
    assert not error_of(appended(cluster, ("SET", key, 1)).commit).maybe_executed


def test_a_connection_left_inside_multi_is_closed_before_anybody_gets_a_wrong_reply(fake, cluster):
    """EXEC is answered by an error that ends no transaction for certain: all who come behind are told of the loss."""
    node = fake.nodes[0]
    key = fake.key_at(node)
    Multis(fake)
    appended(cluster, ("GET", key)).commit()
    node.override = None
    node.on("MULTI", OK)
    node.on("SET", QUEUED)
    node.on("EXEC", b"-ERR what is that\r\n")
    node.on("GET", QUEUED)
    commit = gevent.spawn(error_of, appended(cluster, ("SET", key, 1)).commit)
    reads = [gevent.spawn(error_of, lambda: cluster.execute("GET", key, retry="never")) for _ in range(3)]
    gevent.joinall([commit, *reads], timeout=5)
    assert commit.value.code == "ERR"
    assert [type(read.value) for read in reads] == [ConnectionLost] * 3


def test_it_is_closed_also_when_the_caller_has_left(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    Multis(fake)
    appended(cluster, ("GET", key)).commit()
    held: list[Any] = []
    node.override = None
    node.on("MULTI", OK)
    node.on("SET", QUEUED)
    node.on("EXEC", lambda _node, connection, _args: held.append(connection))
    commit = gevent.spawn(appended(cluster, ("SET", key, 1)).commit)
    node.wait_until(lambda: held)
    commit.kill()
    reading = gevent.spawn(error_of, lambda: cluster.execute("GET", key, retry="never"))
    node.wait_until(lambda: node.commands("GET"))
    held[0].send(b"-ERR what is that\r\n+QUEUED\r\n")
    assert isinstance(reading.get(timeout=5), ConnectionLost)


def test_errors_inside_the_replies_are_values_and_nobody_acts_upon_them(fake, cluster):
    multis = Multis(fake)
    node, other, _ = fake.nodes
    key = fake.key_at(node)
    moved = f"-MOVED {hash_slot(key)} {other.address}\r\n".encode()
    appended(cluster, ("GET", key)).commit()
    multis.answers["EXEC"] = [b"*2\r\n" + moved + b"$1\r\nx\r\n"] * 2
    replies = appended(cluster, ("EVAL", "forge", 1, key), ("GET", key)).commit()
    assert (replies[0].code, replies[0].maybe_executed, replies[1]) == ("MOVED", True, b"x")
    assert other.work() == []
    error = error_of(lambda: appended(cluster, ("INCR", key), ("GET", key)).commit(raise_errors=True))
    assert isinstance(error, PartialFailure)
    assert (error.results[1], error.maybe_executed, error.results[0].maybe_executed) == (b"x", True, False)
    assert cluster.statistics().redirects == 0


@pytest.mark.parametrize("garnet", [False, True])
def test_moved_is_followed_with_the_whole_block(fake, cluster, garnet):
    Multis(fake, garnet=garnet)
    old, new, _ = fake.nodes
    key = fake.key_at(old)
    cluster.execute("GET", key)
    fake.move_slot(hash_slot(key), new)
    assert appended(cluster, ("SET", key, 1), ("INCR", key)).commit() == [b"OK", 2]
    assert names(new) == "MULTI EXEC MULTI SET INCR EXEC"
    assert appended(cluster, ("INCR", key)).commit() == [3]
    assert names(old) == "GET MULTI EXEC MULTI SET INCR EXEC"
    assert (cluster.statistics().redirects, cluster.statistics().retries) == (1, 0)


def test_asking_goes_before_multi_and_once(fake, cluster):
    Multis(fake)
    old, new, _ = fake.nodes
    key = fake.key_at(old)
    fake.begin_migration(hash_slot(key), new)
    assert appended(cluster, ("SET", key, 1), ("INCR", key), ("GET", key)).commit() == [b"OK", 2, b"2"]
    assert names(new) == "MULTI EXEC ASKING MULTI SET INCR GET EXEC"
    assert cluster.statistics().redirects == 1
    assert fake.owner(hash_slot(key)) is old


def test_where_asking_is_refused_that_is_said(fake, cluster):
    Multis(fake).answers["ASKING"] = [b"-NOPERM no ASKING for you\r\n"]
    old, new, _ = fake.nodes
    key = fake.key_at(old)
    fake.begin_migration(hash_slot(key), new)
    error = error_of(appended(cluster, ("SET", key, 1)).commit)
    assert "ASKING" in str(error)
    assert not error.maybe_executed
    assert cluster.execute("GET", fake.key_at(new)) is None


def test_garnets_ask_is_in_vain_and_waited_out_at_the_node_that_has_the_slot(fake, make):
    """There EXEC never hears of ASKING: the importing node sends back. After that ASK means: not now."""
    cluster = make(rng=Steady())
    Multis(fake, garnet=True)
    old, new, _ = fake.nodes
    key = fake.key_at(old)
    fake.begin_migration(hash_slot(key), new)
    commit = gevent.spawn(appended(cluster, ("SET", key, 1)).commit)
    old.wait_until(lambda: len(old.commands("SET")) >= 4)
    assert len(new.commands("SET")) == 1
    fake.move_slot(hash_slot(key), new)
    assert commit.get(timeout=5) == [b"OK"]
    assert len(new.commands("SET")) == 2


@pytest.mark.parametrize("where", ["SET", "EXEC"])
@pytest.mark.parametrize(
    "error", ["TRYAGAIN later", "CLUSTERDOWN The cluster is down", "LOADING wait", "MASTERDOWN wait"]
)
def test_not_now_is_waited_out_and_all_is_sent_again(fake, cluster, where, error):
    multis = Multis(fake)
    node = fake.nodes[0]
    key = fake.key_at(node)
    appended(cluster, ("GET", key)).commit()
    multis.answers[where] = [f"-{error}\r\n".encode()] * 2
    assert appended(cluster, ("INCR", key), ("SET", key, 7)).commit() == [1, b"OK"]
    assert names(node) == "MULTI EXEC MULTI GET EXEC" + " MULTI INCR SET EXEC" * 3
    assert cluster.statistics().retries == 2


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"SET": [b"-OOM too much\r\n"]}, "OOM"),
        ({"EXEC": [b"-EXECABORT Transaction discarded because of: OOM too much\r\n"]}, "OOM"),
        ({"EXEC": [ABORTED]}, "EXECABORT"),
        ({"EXEC": [b"-CROSSSLOT two\r\n"]}, "CROSSSLOT"),
    ],
)
def test_what_is_refused_for_good_is_told_with_the_servers_reason_and_the_connection_lives_on(
    fake, cluster, answers, code
):
    multis = Multis(fake)
    node = fake.nodes[0]
    key = fake.key_at(node)
    appended(cluster, ("GET", key)).commit()
    multis.answers = answers
    error = error_of(appended(cluster, ("INCR", key), ("SET", key, 1)).commit)
    assert (error.code, error.maybe_executed) == (code, False)
    assert cluster.execute("GET", key) is None
    assert node.connections.accepted == 1
    assert len(node.commands("SET")) == 1


def test_an_exec_that_says_loading_in_execabort_is_waited_out(fake, cluster):
    multis = Multis(fake)
    key = fake.key_at(fake.nodes[0])
    multis.answers["EXEC"] = [b"-EXECABORT Transaction discarded because of: LOADING wait\r\n"]
    assert appended(cluster, ("INCR", key)).commit() == [1]
    assert cluster.statistics().retries == 1


@pytest.mark.parametrize("loss", [Reset(), Close(), None])
def test_a_lost_exec_is_ambiguous_and_not_sent_again(fake, make, loss):
    cluster = make(command_timeout=0.2)
    multis = Multis(fake)
    node = fake.nodes[0]
    key = fake.key_at(node)
    multis.answers["EXEC"] = [loss]
    error = error_of(appended(cluster, ("INCR", key)).commit)
    assert isinstance(error, ReplyTimeout | ConnectionLost)
    assert error.maybe_executed
    assert len(node.commands("INCR")) == 1


def test_a_lost_exec_of_reads_is_read_again_and_always_repeats_writes(fake, cluster):
    multis = Multis(fake)
    key = fake.key_at(fake.nodes[0])
    multis.answers["EXEC"] = [Reset()]
    assert appended(cluster, ("GET", key), ("GET", key)).commit() == [None, None]
    multis.answers["EXEC"] = [Reset()]
    assert appended(cluster, ("INCR", key), retry="always").commit() == [1]


def test_a_connection_lost_over_the_empty_block_proves_that_nothing_ran(fake, cluster):
    multis = Multis(fake)
    key = fake.key_at(fake.nodes[0])
    multis.answers["PROBE"] = [Reset()]
    assert appended(cluster, ("INCR", key)).commit() == [1]
    assert cluster.statistics().retries == 1


def test_an_exec_that_the_kernel_did_not_take_wholly_is_proved_not_executed(one_node, connect_to):
    node = one_node.nodes[0]
    cluster = connect_to(one_node, client_info=False, retry="never", command_timeout=20, timeout=20)
    multis = Multis(one_node)
    appended(cluster, ("SET", "{k}", b"x" * 100_000)).commit()  # opens the lane for large ones

    def freeze() -> None:
        node.freeze()

    multis.answers["SET"] = [freeze]
    commit = gevent.spawn(error_of, appended(cluster, *[("SET", "{k}", b"x" * 300_000)] * 60).commit)
    node.wait_until(lambda: len(node.commands("SET")) == 2)
    gevent.sleep(0.1)
    node.thaw()
    node.reset_connections()
    error = commit.get(timeout=10)
    assert isinstance(error, ConnectionLost)
    assert not error.maybe_executed
    assert len(node.commands("EXEC")) == 2  # of the first transaction


def test_long_blocks_take_the_lane_for_large_ones(one_node, connect_to):
    cluster = connect_to(one_node, client_info=False)
    Multis(one_node)
    cluster.execute("GET", "{k}")
    assert appended(cluster, *[("SET", "{k}", "x" * 1000)] * 100).commit() == [b"OK"] * 100
    assert one_node.nodes[0].connections.accepted == 2
    assert appended(cluster, ("GET", "{k}")).commit() == [b"x" * 1000]
    assert one_node.nodes[0].connections.accepted == 2


def test_a_redirect_pingpong_ends(fake, make):
    cluster = make(max_redirects=3, rng=Steady())
    one, two, _ = fake.nodes
    multis = Multis(fake)
    key = fake.key_at(one)
    multis.answers["SET"] = [
        f"-MOVED {hash_slot(key)} {node.address}\r\n".encode() for node in (two, one, two, one, two, one)
    ]
    error = error_of(appended(cluster, ("SET", key, 1)).commit)
    assert isinstance(error, RetriesExhausted)
    assert (len(error.attempts), error.maybe_executed) == (4, False)


def test_what_can_not_be_in_a_transaction_is_refused_before_a_byte_is_sent(fake, cluster):
    node = fake.nodes[0]
    key, other = fake.key_at(node, "a"), fake.key_at(node, "b")
    tx = appended(cluster, ("SET", key, 1))
    node.on("COMMAND", b"*1\r\n*-1\r\n")
    for error, *command in [
        (CrossSlot, "GET", other),
        (CrossSlot, "MGET", key, other),
        (ConfigError, "BLPOP", key, 0),
        (ConfigError, "XREAD", "BLOCK", 0, "STREAMS", key, "$"),
        (StatefulCommand, "MULTI"),
        (StatefulCommand, "EXEC"),
        (StatefulCommand, "WATCH", key),
        (StatefulCommand, "SELECT", 1),
        (StatefulCommand, "SUBSCRIBE", "x"),
        (NoKey, "FLUSHALL"),
        (NoKey, "DBSIZE"),
        (ConfigError,),
        (ConfigError, "SET", key),
        (ConfigError, "SET", key, None),
    ]:
        with pytest.raises(error):
            tx.append(*command)
    for each in fake.nodes:
        each.on("COMMAND", b"*1\r\n*-1\r\n")
    with pytest.raises(UnknownCommand):
        tx.append("NO.SUCH", key)
    assert len(tx) == 1
    assert all(node.commands(name) == [] for node in fake.nodes for name in ("MULTI", "WATCH", "SET"))


def test_a_transaction_can_be_used_again_and_forgets_on_discard(fake, cluster):
    Multis(fake)
    one, two, _ = fake.nodes
    tx = appended(cluster, ("SET", fake.key_at(one), 1))
    tx.discard()
    assert (len(tx), tx.commit()) == (0, [])
    tx.append("SET", fake.key_at(two), 2)  # another slot
    assert tx.commit() == [b"OK"]
    tx.append_command("SET %s %d", fake.key_at(one), 3)
    assert tx.commit() == [b"OK"]
    assert (two.data, one.data) == ({fake.key_at(two).encode(): b"2"}, {fake.key_at(one).encode(): b"3"})


def test_a_block_that_ends_without_commit_says_so_and_sends_nothing(fake, cluster):
    Multis(fake)
    key = fake.key_at(fake.nodes[0])

    def leave(how: Any) -> None:
        with cluster.transaction() as tx:
            tx.append("SET", key, 1)
            how(tx)

    with pytest.raises(ConfigError, match="1 commands were appended"):
        leave(lambda tx: None)
    leave(lambda tx: tx.discard())
    with pytest.raises(KeyError):
        leave(lambda tx: {}["no"])
    assert fake.nodes[0].commands("MULTI") == []


def test_a_closed_cluster_takes_no_transaction(fake, cluster):
    tx = appended(cluster, ("SET", "k", 1))
    cluster.close()
    with pytest.raises(ClosedError):
        tx.commit()


def test_route_key_gives_a_slot_to_commands_without_a_key(fake, cluster):
    Multis(fake)
    node = fake.nodes[2]
    key = fake.key_at(node)
    assert appended(cluster, ("ECHO", "x"), route_key=key).commit() == [b"x"]
    assert names(node) == "MULTI EXEC MULTI ECHO EXEC"
    with pytest.raises(CrossSlot):
        appended(cluster, ("GET", fake.key_at(fake.nodes[0])), route_key=key)
