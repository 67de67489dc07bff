"""What a run is set to by its environment; tox.ini sets it for each of its runs.

GVCLUSTER_TEST_PATCHED=1    after gevent.monkey.patch_all()
GVCLUSTER_TEST_PROTOCOL=2   RESP2 where a test leaves it open (default 3)
GVCLUSTER_TEST_SERVERS      read by tests/live: "valkey-9.1.2,redis-6.2.14", default all
GEVENT_LOOP=libuv           read by gevent itself
"""

import os

PATCHED = os.environ.get("GVCLUSTER_TEST_PATCHED") == "1"
if PATCHED:
    from gevent import monkey

    monkey.patch_all()

import hypothesis
import pytest

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
