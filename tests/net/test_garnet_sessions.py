"""Transactions, scripts and subscriptions at a cluster of Garnets."""

import hashlib
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from gvcluster import Cluster, Gap, Message, PartialFailure, ReplyError, TransactionAborted, hash_slot
from gvcluster.testing import FakeGarnet, GarnetNode
from gvcluster.testing.answers import NOT_HANDLED


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0.002)


# -- transactions and scripts ------------------------------------------------------------------------------------------


def test_a_transaction_whose_exec_is_moved_runs_once_where_its_keys_are(
    garnet_cluster: Cluster, garnet: FakeGarnet
) -> None:
    """ClusterSimpleTxn, ClusterReplicationSimpleTransactionTest."""
    key = garnet.key_at(garnet.nodes[0])
    garnet.move_slot(hash_slot(key), 1)
    with garnet_cluster.transaction(key) as transaction:
        transaction.append("INCR", key)
        transaction.append("RPUSH", f"{{{key}}}l", "a")
        assert transaction.commit() == [1, 1]
    assert garnet.nodes[1].data == {key.encode(): b"1", f"{{{key}}}l".encode(): [b"a"]}
    assert not garnet.nodes[0].data


def test_exec_that_answers_ask_is_repeated_at_the_source_until_the_slot_has_moved(
    garnet_cluster: Cluster, garnet: FakeGarnet
) -> None:
    source, target = garnet.nodes[:2]
    key = garnet.key_at(source)
    slot = hash_slot(key)
    garnet.begin_migration(slot, target)

    def transact() -> list[Any]:
        with garnet_cluster.transaction() as transaction:
            transaction.append("INCR", key)
            return transaction.commit()

    transacting = gevent.spawn(transact)
    source.wait_until(lambda: len(source.commands("EXEC")) >= 5)
    assert len(target.commands("ASKING")) <= 1
    garnet.move_slot(slot, target)
    assert transacting.get(timeout=10) == [1]
    assert target.data == {key.encode(): b"1"}


def test_watch_is_answered_ask_at_once_and_waited_out(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    source, target = garnet.nodes[:2]
    key = garnet.key_at(source)
    garnet.begin_migration(hash_slot(key), target)

    def set_it(transaction: Any) -> None:
        transaction.multi()
        transaction.append("INCR", key)

    transacting = gevent.spawn(garnet_cluster.transaction, set_it, key)
    source.wait_until(lambda: len(source.commands("WATCH")) >= 3)
    garnet.move_slot(hash_slot(key), target)
    assert transacting.get(timeout=10) == [1]


def test_a_watched_key_that_changes_aborts_and_one_that_moves_is_watched_anew(
    garnet_cluster: Cluster, garnet: FakeGarnet
) -> None:
    key = garnet.key_at(garnet.nodes[0])
    with garnet_cluster.transaction(key) as transaction:
        transaction.watch(key)
        garnet_cluster.execute("INCR", key)
        transaction.multi()
        transaction.append("INCR", key)
        with pytest.raises(TransactionAborted):
            transaction.commit()
    garnet.move_slot(hash_slot(key), 1)

    def increment(transaction: Any) -> None:
        transaction.watch(key)
        value = int(transaction.execute("GET", key))
        transaction.multi()
        transaction.append("SET", key, value + 1)

    assert garnet_cluster.transaction(increment, key) == [b"OK"]
    assert garnet.nodes[1].data[key.encode()] == b"2"


def test_scripts_that_are_switched_off_are_a_clear_error(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    script = garnet_cluster.script("return redis.call('INCR', KEYS[1])")
    for call in (
        lambda: script(keys=["k"]),
        lambda: garnet_cluster.execute("EVAL", "return 1", 1, "k"),
        lambda: garnet_cluster.execute("SCRIPT", "LOAD", "return 1"),
    ):
        with pytest.raises((ReplyError, PartialFailure), match="Lua scripting support disabled"):
            call()
    assert not garnet.nodes[0].data


def test_scripts_run_once_and_are_loaded_node_by_node(connect_to: Callable[..., Cluster]) -> None:
    """ClusterReplicationLua."""
    source = "return redis.call('INCR', KEYS[1])"

    def increment(node: GarnetNode, keys: list[bytes], _args: list[bytes]) -> object:
        node.data[keys[0]] = b"%d" % (int(node.data.get(keys[0], b"0")) + 1)
        return int(node.data[keys[0]])

    with FakeGarnet(3, lua=True) as fake:
        fake.scripts[source.encode()] = increment
        cluster = connect_to(fake)
        script = cluster.script(source)
        keys = [fake.key_at(node) for node in fake.nodes]
        assert [script(keys=[key]) for key in keys * 3] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
        digest = hashlib.sha1(source.encode()).hexdigest().encode()
        fake.nodes[0].scripts.pop(digest)  # a failover forgets
        assert script(keys=[keys[0]]) == 4
        fake.move_slot(hash_slot(keys[1]), 2)
        assert script(keys=[keys[1]]) == 4


def test_moved_inside_the_text_of_a_lua_error_is_no_redirect(connect_to: Callable[..., Cluster]) -> None:
    with FakeGarnet(2, lua=True) as fake:
        text = f"ERR Lua encountered an error: MOVED 1 {fake.nodes[1].address}"
        fake.scripts[b"return 1"] = lambda _node, _keys, _args: ReplyError(text)
        with pytest.raises(ReplyError, match="Lua encountered an error"):
            connect_to(fake).execute("EVAL", "return 1", 1, fake.key_at(fake.nodes[0]))
        assert not fake.nodes[1].commands("EVAL")


# -- pub/sub -----------------------------------------------------------------------------------------------------------


def test_shard_channels_in_garnets_form(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    with garnet_cluster.pubsub() as pubsub:
        pubsub.ssubscribe("a", "b")
        pubsub.subscribe("a")
        garnet_cluster.execute("SPUBLISH", "a", "1")
        items = [pubsub.get(timeout=5)]
        assert (items[0].channel, items[0].data) == (b"a", b"1")
        garnet_cluster.execute("SPUBLISH", "b", "2")
        wait_for(lambda: pubsub.get(timeout=0.01) == Message(b"b", b"2", shard=True))


def test_the_end_of_a_shard_subscription_is_said_in_garnets_words(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    owner = garnet.node_for_key("ch")
    assert isinstance(owner, GarnetNode)
    stay = next(f"s{n}" for n in range(1000) if garnet.node_for_key(f"s{n}") is owner)
    with garnet_cluster.pubsub() as pubsub:
        pubsub.ssubscribe("ch", stay)
        pubsub.sunsubscribe("ch")
        # There is no SUNSUBSCRIBE; without another word the node would go on sending.
        owner.wait_until(lambda: {name for _, name in all_subscriptions(owner)} == {stay.encode()})
        garnet_cluster.execute("SPUBLISH", "ch", "nobody")
        garnet_cluster.execute("SPUBLISH", stay, "m")
        assert pubsub.get(timeout=5) == Message(stay.encode(), b"m", shard=True)
        pubsub.ssubscribe("ch")
        garnet_cluster.execute("SPUBLISH", "ch", "again")
        assert pubsub.get(timeout=5) == Message(b"ch", b"again", shard=True)
        pubsub.sunsubscribe("ch")
        owner.wait_until(lambda: {name for _, name in all_subscriptions(owner)} == {stay.encode()})


def all_subscriptions(node: GarnetNode) -> list[tuple[str, bytes]]:
    return [each for connection in node.open_connections for each in connection.subscriptions]


def test_a_shard_subscription_follows_its_slot_by_the_next_map_with_a_gap(
    garnet: FakeGarnet, connect_to: Callable[..., Cluster]
) -> None:
    """No node says that the slot has left: the timer, or anybody's MOVED, brings the map that tells."""
    cluster = connect_to(garnet, refresh_interval=0.05)
    target = next(node for node in garnet.nodes[:3] if garnet.node_for_key("ch") is not node)
    with cluster.pubsub() as pubsub:
        pubsub.ssubscribe("ch")
        garnet.move_slot(hash_slot("ch"), target)
        target.wait_until(lambda: ("SUBSCRIBE", b"ch") in all_subscriptions(target))
        cluster.execute("SPUBLISH", "ch", "m")
        assert isinstance(pubsub.get(timeout=5), Gap)
        assert pubsub.get(timeout=5) == Message(b"ch", b"m", shard=True)


def test_publish_survives_a_dead_peer(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    """ClusterPublishSurvivesPeerNodeShutdown."""
    with garnet_cluster.pubsub() as pubsub:
        pubsub.subscribe("ch")
        (subscribed,) = [node for node in garnet.nodes if all_subscriptions(node)]
        dead = next(node for node in garnet.nodes[:3] if node is not subscribed)
        publisher = next(node for node in garnet.nodes[:3] if node not in (subscribed, dead))
        dead.stop()
        assert garnet_cluster.execute("PUBLISH", "ch", "m", node=publisher.address) == 0
        assert pubsub.get(timeout=5) == Message(b"ch", b"m")


def test_a_connection_that_was_killed_is_replaced(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    """ClusterClientKill."""
    key = garnet.key_at(garnet.nodes[0])
    assert garnet_cluster.execute("INCR", key) == 1
    garnet.nodes[0].reset_connections()
    assert garnet_cluster.execute("INCR", key, timeout=5) == 2


def test_handlers_still_come_first(garnet_cluster: Cluster, garnet: FakeGarnet) -> None:
    key = garnet.key_at(garnet.nodes[0])
    garnet.nodes[0].on("GET", lambda _node, _connection, _args: NOT_HANDLED)
    assert garnet_cluster.execute("GET", key) is None
