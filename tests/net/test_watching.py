"""Transactions that watch keys, and functions that are called until their transaction succeeds, on scripted nodes."""

from typing import Any

import gevent
import pytest
from calls import Steady, names
from fake_multi import Multis

from gvcluster import (
    BlockedInHub,
    ClosedError,
    ConfigError,
    ConnectionLost,
    CrossSlot,
    GvClusterError,
    Redirected,
    ReplyError,
    ReplyTimeout,
    TransactionAborted,
    hash_slot,
)
from gvcluster.testing.answers import NOT_HANDLED, Close, Reset


def error_of(function: Any, *args: Any) -> Any:
    with pytest.raises(Exception) as caught:
        function(*args)
    return caught.value


def increment(key: str) -> Any:
    def function(tx: Any) -> None:
        value = int(tx.execute("GET", key) or 0)
        tx.append("SET", key, value + 1)

    return function


@pytest.fixture
def multis(fake):
    return Multis(fake)


@pytest.fixture
def key(fake, multis):
    return fake.key_at(fake.nodes[0])


# -- the with statement ------------------------------------------------------------------------------------------------


def test_it_reads_on_a_connection_of_its_own_and_commits_there(fake, cluster, key):
    node = fake.nodes[0]
    cluster.execute("SET", key, 5)
    with cluster.transaction(key) as tx:
        assert tx.execute("GET", key) == b"5"
        tx.append("INCR", key)
        tx.append("GET", key)
        tx.multi()
        assert tx.commit() == [6, b"6"]
    assert names(node) == "SET MULTI EXEC WATCH GET MULTI INCR GET EXEC"
    watching = {each.connection for each in node.received if each.args[0] == b"WATCH"}
    assert {each.connection for each in node.received if each.args[0] == b"INCR"} == watching
    assert {each.connection for each in node.received if each.args[0] == b"SET"} != watching
    assert cluster.statistics().nodes[0].connections <= 2


def test_a_changed_key_aborts_and_nothing_was_executed(fake, cluster, key):
    with cluster.transaction(key) as tx:
        value = tx.execute("GET", key)
        cluster.execute("SET", key, "other")
        tx.append("SET", key, value or "mine")
        error = error_of(tx.commit)
        assert isinstance(error, TransactionAborted)
        assert not error.maybe_executed
        assert isinstance(error_of(tx.commit), TransactionAborted)  # there is no unwatched commit by accident
        tx.watch(key)
        tx.append("SET", key, "mine")
        assert tx.commit() == [b"OK"]
    assert cluster.execute("GET", key) == b"mine"


def test_nothing_appended_still_tells_whether_the_keys_changed(fake, cluster, key):
    with cluster.transaction(key) as tx:
        assert tx.commit() == []
        tx.watch(key)
        cluster.execute("SET", key, 1)
        assert isinstance(error_of(tx.commit), TransactionAborted)


def test_leaving_without_a_commit_ends_the_watch_and_with_an_error_too(fake, cluster, key):
    with cluster.transaction(key) as tx:
        tx.execute("GET", key)
    assert names(fake.nodes[0]) == "MULTI EXEC WATCH GET UNWATCH"
    fake.nodes[0].received.clear()

    def fail() -> None:
        with cluster.transaction(key) as tx:
            tx.append("SET", key, 1)
            raise KeyError

    assert isinstance(error_of(fail), KeyError)
    assert names(fake.nodes[0]).endswith("WATCH UNWATCH")
    with cluster.transaction(key) as tx:
        tx.append("SET", key, 1)
        tx.discard()
        assert (len(tx), tx.commit()) == (0, [])
    assert fake.nodes[0].commands("SET") == []


def test_where_multi_is_refused_nothing_is_watched_or_executed(fake, cluster, multis, key):
    for node in fake.nodes:
        node.override = None
    fake.nodes[0].on("MULTI", b"-NOPERM no MULTI\r\n")
    fake.nodes[0].on("EXEC", b"-ERR EXEC without MULTI\r\n")
    fake.nodes[0].on("WATCH", b"+OK\r\n")
    with pytest.raises(ReplyError, match="NOPERM"), cluster.transaction(key):
        pass
    assert cluster.execute("GET", key) is None


def test_a_refused_multi_leaves_nobody_a_connection_that_watches(fake, cluster, multis, key):
    multis.answers["MULTI"] = [NOT_HANDLED, b"-NOPERM no MULTI any more\r\n"]
    with cluster.transaction(key) as tx:
        tx.append("SET", key, 1)
        assert "NOPERM" in str(error_of(tx.commit))
    assert cluster.statistics().exclusive.idle == 0


def test_one_that_is_dropped_inside_its_block_gives_its_connection_back(fake, cluster, multis, key):
    tx = cluster.transaction(key)
    tx.__enter__()
    assert cluster.statistics().exclusive.used == 1
    with pytest.warns(ResourceWarning, match="with statement"):
        del tx
    gevent.sleep(0.01)
    assert (cluster.statistics().exclusive.used, cluster.statistics().exclusive.idle) == (0, 0)


def test_watch_follows_moved_and_waits_while_the_slot_is_half_moved(fake, make, multis, key):
    cluster = make(rng=Steady())
    cluster.connect()
    old, new, third = fake.nodes
    fake.move_slot(hash_slot(key), new)
    with cluster.transaction(key) as tx:
        tx.append("SET", key, 1)
        assert tx.commit() == [b"OK"]
    assert "WATCH" in names(new)
    fake.move_slot(hash_slot(key), old)
    cluster.refresh()
    other = f"{{{key}}}other"
    fake.begin_migration(hash_slot(key), third)

    def late() -> list[Any]:
        with cluster.transaction(other) as tx:
            tx.append("SET", other, 1)
            return tx.commit()

    waiting = gevent.spawn(late)
    old.wait_until(lambda: len(old.commands("WATCH")) >= 3)
    assert "ASKING" not in names(third)
    fake.move_slot(hash_slot(key), third)
    assert waiting.get(timeout=5) == [b"OK"]


@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
@pytest.mark.parametrize("where", ["GET", "SET", "EXEC", "WATCH"])
def test_a_slot_that_moves_meanwhile_aborts(fake, cluster, multis, key, kind, where):
    node, other, _ = fake.nodes
    redirect = f"-{kind} {hash_slot(key)} {other.address}\r\n".encode()

    def play() -> None:
        with cluster.transaction(key) as tx:
            multis.answers[where] = [redirect]
            tx.execute("GET", key)
            tx.watch(key)
            tx.append("SET", key, 1)
            tx.commit()

    error = error_of(play)
    assert isinstance(error, TransactionAborted)
    assert not error.maybe_executed
    assert isinstance(error.__cause__, Redirected)
    assert node.data == other.data == {}
    assert "ASKING" not in names(other)
    if kind == "MOVED":
        multis.answers.clear()
        fake.move_slot(hash_slot(key), other)
        with cluster.transaction(key):  # and the next attempt goes there at once
            pass
        assert cluster.statistics().redirects == 1


def test_an_error_reply_does_not_end_the_watch(fake, cluster, multis, key):
    with cluster.transaction(key) as tx:
        multis.answers["GET"] = [b"-WRONGTYPE no string\r\n", b"-TRYAGAIN\r\n"]
        assert error_of(tx.execute, "GET", key).code == "WRONGTYPE"
        assert error_of(tx.execute, "GET", key).code == "TRYAGAIN"
        assert tx.execute("GET", key) is None
        tx.append("SET", key, 1)
        assert tx.commit() == [b"OK"]


@pytest.mark.parametrize("loss", [Reset(), Close(), None])
@pytest.mark.parametrize(("where", "maybe"), [("GET", True), ("MULTI", True), ("EXEC", True), ("WATCH", False)])
def test_a_lost_connection_is_told_and_nothing_is_committed_without_the_watch(
    fake, make, multis, key, loss, where, maybe
):
    cluster = make(command_timeout=0.1)
    cluster.connect()

    def play(tx: Any) -> None:
        multis.answers[where] = [loss]
        tx.execute("GET", key)
        tx.watch(key)
        tx.append("SET", key, 1)
        tx.commit()

    with cluster.transaction(key) as tx:
        error = error_of(play, tx)
        assert isinstance(error, ConnectionLost | ReplyTimeout)
        assert error.maybe_executed is maybe
        tx.append("SET", key, 2)
        assert error_of(tx.commit) is error
    if (where, loss) != ("MULTI", None):  # a node that swallows MULTI executes the rest
        assert fake.nodes[0].data == {}
    assert cluster.execute("ECHO", "x", route_key=key) == b"x"


def test_a_call_that_was_given_up_ends_the_watch(fake, cluster, multis, key):
    with cluster.transaction(key) as tx:
        multis.answers["GET"] = [None]
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
            tx.execute("GET", key)
        tx.append("SET", key, 1)
        assert isinstance(error_of(tx.commit), TransactionAborted)
    assert fake.nodes[0].data == {}
    assert fake.nodes[0].commands("SET") == []


def test_watch_is_refused_where_it_makes_no_sense(fake, cluster, multis, key):
    other = fake.key_at(fake.nodes[1])
    with pytest.raises(CrossSlot):
        cluster.transaction(key, other)
    with pytest.raises(ConfigError, match="unknown option 'attempts'"):
        cluster.transaction(key, attempts=3)
    tx = cluster.transaction()
    with pytest.raises(ConfigError, match="with statement"):
        tx.watch(key)
    with pytest.raises(ConfigError, match="nothing is watched"):
        tx.execute("GET", key)
    with pytest.raises(ConfigError, match="with statement"):
        cluster.transaction(key).commit()
    assert names(fake.nodes[0]) == ""
    with cluster.transaction() as tx:
        tx.append("SET", key, 1)
        for refused in (tuple[str, ...](), (other,), (key, other)):
            with pytest.raises((ConfigError, CrossSlot)):
                tx.watch(*refused)
        tx.watch(key)
        with pytest.raises(CrossSlot):
            tx.execute("GET", other)
        tx.multi()
        for refuse in (lambda: tx.watch(key), lambda: tx.execute("GET", key)):
            with pytest.raises(ConfigError, match="after multi"):
                refuse()
        assert tx.commit() == [b"OK"]


def test_another_greenlet_can_not_use_it_meanwhile(fake, cluster, multis, key):
    held: list[Any] = []
    with cluster.transaction(key) as tx:
        fake.nodes[0].on("GET", lambda _node, connection, _args: held.append(connection))
        reading = gevent.spawn(tx.execute, "GET", key)
        fake.nodes[0].wait_until(lambda: held)
        for use in (lambda: tx.append("SET", key, 1), tx.commit, lambda: tx.execute("GET", key), tx.discard):
            with pytest.raises(ConfigError, match="give each greenlet"):
                use()
        held[0].send(b"_\r\n")
        reading.get(timeout=5)


def test_the_hub_can_not_wait_for_a_transaction(fake, cluster, multis, key):
    errors: list[Any] = []

    def in_hub() -> None:
        tx = cluster.transaction()
        tx.append("SET", key, 1)
        for call in (tx.commit, lambda: cluster.transaction(increment(key), key)):
            try:
                call()
            except BaseException as error:
                errors.append(error)

    gevent.get_hub().loop.run_callback(in_hub)
    gevent.sleep(0.01)
    assert [type(error) for error in errors] == [BlockedInHub] * 2


def test_a_cluster_that_is_closed_inside_the_block_ends_it(fake, cluster, multis, key):
    with cluster.transaction(key) as tx:
        cluster.close()
        tx.append("SET", key, 1)
        for call in (tx.commit, lambda: tx.execute("GET", key)):
            assert isinstance(error_of(call), ClosedError)
        tx.discard()


# -- with a function ---------------------------------------------------------------------------------------------------


def test_the_function_is_called_until_nobody_has_interfered(fake, cluster, multis, key):
    seen: list[Any] = []

    def function(tx: Any) -> None:
        seen.append(tx.execute("GET", key))
        if len(seen) <= 4:
            cluster.execute("SET", key, len(seen))
        tx.append("SET", key, f"after {len(seen) - 1}")

    assert cluster.transaction(function, key) == [b"OK"]
    assert seen == [None, b"1", b"2", b"3", b"4"]
    assert cluster.execute("GET", key) == b"after 4"


def test_a_crowd_of_functions_counts_right(fake, cluster, multis, key):
    crowd = [gevent.spawn(cluster.transaction, increment(key), key) for _ in range(20)]
    gevent.joinall(crowd, timeout=20, raise_error=True)
    assert cluster.execute("GET", key) == b"20"


def test_attempts_and_time_are_bounded(fake, cluster, multis, key):
    calls: list[Any] = []

    def interfered(tx: Any) -> None:
        calls.append(tx)
        cluster.execute("INCR", key)
        tx.append("SET", key, 1)

    error = error_of(lambda: cluster.transaction(interfered, key, attempts=3))
    assert (type(error), len(calls)) == (TransactionAborted, 3)
    error = error_of(lambda: cluster.transaction(interfered, key, timeout=0.3))
    assert isinstance(error, GvClusterError)  # whatever it was doing when the time was over
    assert len(calls) >= 4


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_function_that_takes_all_the_time_has_nothing_committed(fake, cluster, multis, key, is_watched):
    def function(tx: Any) -> None:
        tx.append("SET", key, 1)
        gevent.sleep(1.1)

    keys = (key,) if is_watched else ()
    error = error_of(lambda: cluster.transaction(function, *keys, timeout=1.0))
    assert isinstance(error, GvClusterError)
    assert not error.maybe_executed
    assert cluster.execute("GET", key) is None


def test_what_the_function_raises_is_raised_and_nothing_is_sent(fake, cluster, multis, key):
    def function(tx: Any) -> None:
        tx.append("SET", key, 1)
        raise KeyError("mine")

    assert isinstance(error_of(lambda: cluster.transaction(function, key)), KeyError)
    assert fake.nodes[0].commands("SET") == []


def test_the_function_may_commit_or_discard_by_itself_and_needs_no_keys(fake, cluster, multis, key):
    def commits(tx: Any) -> None:
        tx.append("SET", key, 1)
        tx.commit()

    def discards(tx: Any) -> None:
        tx.append("SET", key, 2)
        tx.discard()

    assert cluster.transaction(commits, key) == [b"OK"]
    assert cluster.transaction(discards, key) == []
    assert cluster.transaction(lambda tx: tx.append("GET", key)) == [b"1"]
    assert cluster.transaction(lambda tx: None) == []
    assert cluster.transaction(lambda tx: None, key) == []


@pytest.mark.parametrize("where", ["WATCH", "GET", "SET", "EXEC"])
def test_the_function_is_called_anew_where_the_slot_is_now(fake, cluster, multis, key, where):
    old, new, _ = fake.nodes
    cluster.execute("SET", key, 7)
    moved = [False]

    def move() -> Any:
        if not moved[0]:
            moved[0] = True
            fake.move_slot(hash_slot(key), new)
            return f"-MOVED {hash_slot(key)} {new.address}\r\n".encode()
        return NOT_HANDLED

    multis.answers[where] = [move]
    assert cluster.transaction(increment(key), key) == [b"OK"]
    assert cluster.execute("GET", key) == b"8"
    assert cluster.statistics().redirects == 1
    assert [len(node.commands("SET")) for node in (old, new)] == [1 + (where in ("SET", "EXEC")), 1]


@pytest.mark.parametrize("where", ["WATCH", "GET", "SET", "EXEC"])
@pytest.mark.parametrize("error", ["ASK", "TRYAGAIN", "CLUSTERDOWN"])
def test_not_now_and_ask_are_waited_out(fake, make, multis, key, where, error):
    cluster = make(rng=Steady())
    node, other, _ = fake.nodes
    more = f" {hash_slot(key)} {other.address}" if error == "ASK" else " x"
    multis.answers[where] = [f"-{error}{more}\r\n".encode()] * 2
    assert cluster.transaction(increment(key), key) == [b"OK"]
    assert node.data == {key.encode(): b"1"}
    assert names(other) == ""
    assert cluster.statistics().retries == 2


def test_a_lost_read_is_read_again_and_a_lost_exec_is_not(fake, cluster, multis, key):
    multis.answers["GET"] = [Reset()]
    assert cluster.transaction(increment(key), key) == [b"OK"]
    multis.answers["EXEC"] = [Reset()]
    error = error_of(lambda: cluster.transaction(increment(key), key))
    assert isinstance(error, ConnectionLost)
    assert error.maybe_executed
    assert cluster.transaction(increment(key), key, retry="always") == [b"OK"]


def test_retry_never_calls_it_again_only_for_changes_and_redirects(fake, cluster, multis, key):
    multis.answers["GET"] = [b"-TRYAGAIN\r\n"]
    assert error_of(lambda: cluster.transaction(increment(key), key, retry="never")).code == "TRYAGAIN"


def test_an_error_that_the_function_swallows_is_not_lost(fake, cluster, multis, key):
    calls: list[Any] = []

    def function(tx: Any) -> None:
        calls.append(tx)
        try:
            tx.execute("GET", key)
        except ConnectionLost:
            pass
        tx.append("SET", key, 1)

    multis.answers["GET"] = [Reset()]
    assert cluster.transaction(function, key) == [b"OK"]
    assert len(calls) == 2
    assert len(fake.nodes[0].commands("SET")) == 1
