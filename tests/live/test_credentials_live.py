"""F38: passwords and rights that change while clients are connected, on real servers."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster import Address, AuthFailed, Cluster, GvClusterError, TopologyUnavailable
from gvcluster.testing import LocalCluster

RIGHTS = ("on", "~*", "+@all")


@pytest.fixture
def acl(live_cluster: LocalCluster) -> Iterator[Callable[..., None]]:
    """`acl(*words)`: ACL SETUSER of the user "app" on all nodes, who is gone afterwards."""

    def everywhere(*words: str) -> None:
        for node in live_cluster.nodes:
            node.command(*words)

    yield lambda *words: everywhere("ACL", "SETUSER", "app", *words)
    everywhere("ACL", "DELUSER", "app")


def count(cluster: Cluster) -> Any:
    return cluster.execute("INCR", "counter")


def test_f38_a_changed_password_leaves_open_connections_alone_and_new_ones_ask_for_it(
    live_cluster: LocalCluster, protocol: int, acl: Callable[..., None]
) -> None:
    acl(*RIGHTS, ">one")
    told, asked = ["one"], []

    def credentials(address: Address) -> tuple[str, str]:
        asked.append(address)
        return "app", told[0]

    with gvcluster.connect(live_cluster.seeds, protocol=protocol, credentials=credentials) as cluster:
        assert count(cluster) == 1
        acl("resetpass", ">two")
        before = len(asked)
        assert count(cluster) == 2
        assert len(asked) == before
        cluster.close_idle()
        with pytest.raises(AuthFailed, match=r"WRONGPASS|NOAUTH") as refused:
            count(cluster)
        assert not refused.value.maybe_executed
        # No storm: whoever comes within a second hears the same without another attempt.
        tried = len(asked)
        for _ in range(5):
            with pytest.raises(AuthFailed):
                count(cluster)
        assert len(asked) <= tried + 2
        told[0] = "two"
        assert _served_again(cluster) == 3


def test_f38_a_right_that_is_taken_away_is_told_and_costs_no_connection(
    live_cluster: LocalCluster, protocol: int, acl: Callable[..., None]
) -> None:
    acl(*RIGHTS, ">one")
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, username="app", password="one") as cluster:
        assert count(cluster) == 1
        opened = sum(node.opened for node in cluster.statistics().nodes)
        acl("-incr")
        with pytest.raises(AuthFailed, match="NOPERM") as refused:
            count(cluster)
        assert not refused.value.maybe_executed
        assert cluster.execute("GET", "counter") == b"1"
        acl("+incr")
        assert count(cluster) == 2
        assert sum(node.opened for node in cluster.statistics().nodes) == opened


def test_f38_a_user_who_is_deleted_is_cut_off_and_let_in_when_he_is_back(
    live_cluster: LocalCluster, protocol: int, acl: Callable[..., None]
) -> None:
    acl(*RIGHTS, ">one")
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, username="app", password="one") as cluster:
        assert count(cluster) == 1
        for node in live_cluster.nodes:
            node.command("ACL", "DELUSER", "app")
        with pytest.raises(GvClusterError) as refused:
            count(cluster)
        if not isinstance(refused.value, AuthFailed):
            assert refused.value.maybe_executed  # it was under way when the servers hung up
        acl(*RIGHTS, ">one")
        number = _served_again(cluster)
        assert number in (2, 3) if refused.value.maybe_executed else number == 2


def test_f38_a_requirepass_that_is_set_closes_the_door_behind_those_who_are_in(
    live_cluster: LocalCluster, protocol: int
) -> None:
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as cluster:
        for key in "abcdef":
            cluster.execute("SET", key, key)
        try:
            for node in live_cluster.nodes:
                node.command("CONFIG", "SET", "requirepass", "new")
            assert [cluster.execute("GET", key) for key in "abcdef"] == [key.encode() for key in "abcdef"]
            with pytest.raises(TopologyUnavailable, match="NOAUTH"):
                gvcluster.connect(live_cluster.seeds, protocol=protocol)
            with gvcluster.connect(live_cluster.seeds, protocol=protocol, password="new") as knowing:
                assert knowing.execute("GET", "a") == b"a"
        finally:
            for node in live_cluster.nodes:
                with node.connection() as connection:
                    connection.calls([("AUTH", "new"), ("CONFIG", "SET", "requirepass", "")])


def _served_again(cluster: Cluster) -> Any:
    """The first reply; refused users are let alone for a second."""
    with gevent.Timeout(15):
        while True:
            try:
                return count(cluster)
            except AuthFailed:
                gevent.sleep(0.1)
