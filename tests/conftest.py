"""What a run is set to by its environment; tox.ini sets it for each of its runs.

GVCLUSTER_TEST_PATCHED=1    after gevent.monkey.patch_all()
GVCLUSTER_TEST_PROTOCOL=2   RESP2 where a test leaves it open (default 3)
GVCLUSTER_TEST_SERVERS      of tests/live and tests/chaos: "valkey-9.1.2,redis-6.2.14", default all but "garnet"
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
LIBUV = os.environ.get("GEVENT_LOOP") == "libuv"

# A slow machine is no defect, and no test asserts how long something took. Under CI hypothesis chooses its own profile.
hypothesis.settings.register_profile("gvcluster", deadline=None)
if "CI" not in os.environ:
    hypothesis.settings.load_profile("gvcluster")


def pytest_report_header() -> str:
    """Say in the log which of the runs this is."""
    servers = os.environ.get("GVCLUSTER_TEST_SERVERS", "all")
    loop = os.environ.get("GEVENT_LOOP", "default")
    return f"gvcluster: RESP{PROTOCOL}, {'patched' if PATCHED else 'unpatched'}, {loop} loop, servers {servers}"


# What Garnet has not, of what tests of real servers use. They say so: @pytest.mark.needs("streams").
_GARNET_LACKS = {
    "ACL": "users are made of a file only",
    "MONITOR": "the command is unknown",
    "RANDOMKEY": "the command is unknown",
    "UNBLOCKED": "its CLIENT UNBLOCK was never tried",
    "WAIT": "the command is unknown",
    "elections": "nobody fails a dead primary over",
    "full coverage": "it goes on with the slots that are left",
    "functions": "FUNCTION and FCALL are unknown",
    "redis-server": "it is started with other options",
    "rename-command": "there is no such option",
    "streams": "XADD is unknown",
}
_FIXTURES_NEED = {"acl_user": "ACL", "guest": "ACL", "secure": "redis-server"}


# What this run does otherwise than the plain one.
MODES = {name for name, on in (("patched", PATCHED), ("resp2", PROTOCOL == 2), ("libuv", LIBUV)) if on}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does the very same in another run, and for Garnet what needs something that it has not."""
    repeated = {item for item in items if MODES & _unaffected_by(item)}  # a run without these modes has them
    items[:] = [item for item in items if item not in repeated]
    config.hook.pytest_deselected(items=list(repeated))
    for item in items:
        needed = [name for mark in item.iter_markers("needs") for name in mark.args]
        reasons = {name: _GARNET_LACKS[name] for name in needed}  # an unknown need is an error with every server
        if _server_of(item) == "garnet":
            reasons |= {name: _GARNET_LACKS[_FIXTURES_NEED[name]] for name in _FIXTURES_NEED if name in _fixtures(item)}
            for name, reason in reasons.items():
                item.add_marker(pytest.mark.skip(reason=f"Garnet has no {name}: {reason}"))


def _unaffected_by(item: pytest.Item) -> set[str]:
    told = {mode for mark in item.iter_markers("unaffected_by") for mode in mark.args}
    return told if "protocol" in _fixtures(item) else told | {"resp2"}  # nothing else tells a test of it


def _server_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    given = callspec.params.get("server") if callspec is not None else None
    return given or (SERVERS[0] if "any_server" in _fixtures(item) else "")


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


_FIGURES = pytest.StashKey[dict[str, int]]()


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> dict[str, int]:
    """What tests count is added up here, and printed at the end."""
    return request.config.stash.setdefault(_FIGURES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was counted."""
    for name, count in config.stash.get(_FIGURES, {}).items():
        terminalreporter.write_line(f"{name}: {count}")


@pytest.fixture(scope="session")
def is_plain() -> bool:
    """Not patched, in RESP3, on the default loop: here a storm rages longest."""
    return not MODES


@pytest.fixture(scope="session")
def protocol() -> int:
    """The RESP version of this run, 2 or 3: pass it on as the `protocol=` option.

    RESP2 runs leave out the tests that do not ask for it: they would repeat themselves.
    """
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
