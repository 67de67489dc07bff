"""What a run is set to by its environment; tox.ini sets it for each of its runs.

GVCLUSTER_TEST_PATCHED=1    after gevent.monkey.patch_all()
GVCLUSTER_TEST_PROTOCOL=2   RESP2 where a test leaves it open (default 3)
GVCLUSTER_TEST_SERVERS      of tests/live and tests/chaos: "valkey-9.1.2,redis-6.2.14", default all
GEVENT_LOOP=libuv           read by gevent itself
"""

import os

PATCHED = os.environ.get("GVCLUSTER_TEST_PATCHED") == "1"
if PATCHED:
    from gevent import monkey

    monkey.patch_all()

from collections.abc import Iterator

import hypothesis
import pytest

from gvcluster.errors import GvClusterError
from gvcluster.testing import LocalCluster, server_names

PROTOCOL = int(os.environ.get("GVCLUSTER_TEST_PROTOCOL", "3"))

# A slow machine is no defect, and no test asserts how long something took. Under CI hypothesis chooses its own profile.
hypothesis.settings.register_profile("gvcluster", deadline=None)
if "CI" not in os.environ:
    hypothesis.settings.load_profile("gvcluster")


def pytest_report_header() -> str:
    """Say in the log which of the runs this is."""
    servers = os.environ.get("GVCLUSTER_TEST_SERVERS", "all")
    loop = os.environ.get("GEVENT_LOOP", "default")
    return f"gvcluster: RESP{PROTOCOL}, {'patched' if PATCHED else 'unpatched'}, {loop} loop, servers {servers}"


@pytest.fixture(scope="session")
def protocol() -> int:
    """The RESP version of this run, 2 or 3: pass it on as the `protocol=` option."""
    return PROTOCOL


# -- one cluster of 3 + 3 nodes per server, shared by live and chaos tests, and replaced when a test broke it -------

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
