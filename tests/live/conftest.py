"""One cluster of 3 primaries and 3 replicas per server, shared by all live tests, and replaced when a test broke it."""

import os
from collections.abc import Iterator

import pytest

from gvcluster.errors import GvClusterError
from gvcluster.testing import LocalCluster, server_names

_NAMED = os.environ.get("GVCLUSTER_TEST_SERVERS", "").replace(",", " ").split()
SERVERS = _NAMED or list(server_names())


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """The name of each server of this run, in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def any_server() -> str:
    """The first server of this run, for what does not depend on the server."""
    return SERVERS[0]


@pytest.fixture(scope="session")
def _shared_cluster(server: str) -> Iterator[LocalCluster]:
    with LocalCluster(server) as cluster:
        yield cluster


@pytest.fixture
def live_cluster(_shared_cluster: LocalCluster) -> LocalCluster:
    """A started cluster of 3 + 3 nodes that agree, without keys.

    Tests may kill, pause and move what they like. A test before may have moved slots and changed roles; what it
    changed with CONFIG SET it must set back.
    """
    if not _is_whole(_shared_cluster):
        _shared_cluster.stop()
        _shared_cluster.start()
    return _shared_cluster


def _is_whole(cluster: LocalCluster) -> bool:
    try:
        if len(cluster.live_nodes()) != 6 or len(cluster.nodes) != 6:
            return False
        cluster.wait_until_agreed(timeout=10)
        primaries = cluster.primaries()
        for primary in primaries:
            primary.command("FLUSHALL")
        open_slots = any(node.view().me.is_moving_slots for node in primaries)
    except GvClusterError:
        return False
    return not open_slots and [len(cluster.replicas_of(primary)) for primary in primaries] == [1, 1, 1]
