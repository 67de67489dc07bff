"""Subscriptions on real servers: each kind, who publishes where, what is refused, and what is said of it."""

from collections.abc import Iterator

import pytest

import gvcluster
from gvcluster import AuthFailed, Cluster, Gap, Message, ReplyError, StatefulCommand
from gvcluster.testing import LocalCluster

NAMES = [f"channel{number}" for number in range(20)]


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as cluster:
        yield cluster


def has_shards(servers: LocalCluster) -> bool:
    return not servers.server.name.startswith("redis-6")


@pytest.mark.smoke
def test_channels_and_patterns_hear_what_is_published_at_any_node(cluster: Cluster) -> None:
    with cluster.pubsub(ping_interval=0.02) as pubsub:
        pubsub.subscribe(*NAMES)
        pubsub.psubscribe("channel1?")
        for node in cluster.nodes():
            cluster.execute("PUBLISH", "channel0", node.id, node=node)
        assert {pubsub.get(10) for _ in cluster.primaries()} == {
            Message(b"channel0", node.id.encode()) for node in cluster.primaries()
        }
        cluster.execute("PUBLISH", "channel12", "x")
        assert {pubsub.get(10), pubsub.get(10)} == {
            Message(b"channel12", b"x"),
            Message(b"channel12", b"x", b"channel1?"),
        }
        pubsub.unsubscribe("channel12")
        cluster.execute("PUBLISH", "channel12", "y")
        assert pubsub.get(10) == Message(b"channel12", b"y", b"channel1?")
        assert pubsub.get(0.1) is None, "and of the replies to PING nothing comes"


@pytest.mark.smoke
def test_shard_channels_of_all_nodes_hear_what_spublish_sends_to_their_slot(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    with cluster.pubsub(ping_interval=0.02) as pubsub:
        if not has_shards(live_cluster):
            with pytest.raises(ReplyError, match="unknown command") as caught:
                pubsub.ssubscribe(*NAMES)
            assert "subscribe()" in caught.value.__notes__[0]
            assert pubsub.shard_channels == ()
            return
        pubsub.ssubscribe(*NAMES)
        redirects = cluster.statistics().redirects
        assert [cluster.execute("SPUBLISH", name, "x") for name in NAMES] == [1] * len(NAMES)
        assert cluster.statistics().redirects == redirects, "it goes by the channel's slot"
        assert {pubsub.get(10) for _ in NAMES} == {Message(name.encode(), b"x", shard=True) for name in NAMES}
        assert pubsub.get(0.1) is None
        pubsub.sunsubscribe(*NAMES[1:])
        counts = [cluster.execute("SPUBLISH", name, "y") for name in NAMES]
        assert pubsub.get(10) == Message(b"channel0", b"y", shard=True)
        assert counts[0] == 1


@pytest.mark.needs("ACL")
def test_who_may_not_subscribe_is_told_so_and_keeps_what_he_has(live_cluster: LocalCluster, protocol: int) -> None:
    for node in live_cluster.nodes:
        node.command("ACL", "SETUSER", "hearer", "on", ">secret", "~*", "+@all", "resetchannels", "&open*")
    try:
        with (
            gvcluster.connect(live_cluster.seeds, username="hearer", password="secret", protocol=protocol) as cluster,
            cluster.pubsub() as pubsub,
        ):
            pubsub.subscribe("open1")
            with pytest.raises(AuthFailed, match="NOPERM"):
                pubsub.subscribe("open2", "closed")
            assert pubsub.channels == (b"open1",)
            cluster.execute("PUBLISH", "open1", "x")
            assert pubsub.get(10) == Message(b"open1", b"x")
    finally:
        for node in live_cluster.nodes:
            node.command("ACL", "DELUSER", "hearer")


def test_a_connection_that_the_server_kills_comes_back_and_leaves_a_gap(
    cluster: Cluster, live_cluster: LocalCluster
) -> None:
    with cluster.pubsub() as pubsub:
        pubsub.subscribe("a")
        for node in live_cluster.nodes:
            node.command("CLIENT", "KILL", "TYPE", "pubsub")
        gap = pubsub.get(5)
        assert isinstance(gap, Gap)
        assert gap.channels == (b"a",)
        cluster.execute("PUBLISH", "a", "x")
        assert pubsub.get(10) == Message(b"a", b"x")


@pytest.mark.parametrize("command", ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE"])
def test_a_subscription_by_execute_is_refused_with_what_to_use_instead(cluster: Cluster, command: str) -> None:
    with pytest.raises(StatefulCommand, match=r"cluster\.pubsub\(\)"):
        cluster.execute(command, "a")
