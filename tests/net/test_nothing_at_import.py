"""Importing gvcluster and making a Cluster leave nothing that a fork or a later monkey-patching could break.

No hub, greenlet, thread, file descriptor, socket or lock of `threading`. Each check is shown to see what is planted.
"""

import os
import subprocess
import sys

import pytest

import gvcluster

pytestmark = pytest.mark.unaffected_by("patched")

# Runs in an interpreter of its own. Everything that gvcluster imports is imported first, so that only what gvcluster
# does itself is counted; a lock has no other trace than the call that makes it, and counts for the file that calls.
SCRIPT = """
import os, sys

for name in sys.argv[2].split():
    try:
        __import__(name)
    except ImportError:  # such as a part of another module, in sys.modules under a name of its own
        pass

import _thread, gc, threading
import greenlet
import gevent._hub_local

found = []

def calls_for_gvcluster():
    frame = sys._getframe(2)
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        if os.sep + "gvcluster" + os.sep in frame.f_code.co_filename:
            return frame.f_code.co_filename
        frame = frame.f_back

def watched(what, make):
    def wrapper(*args, **options):
        where = calls_for_gvcluster()
        if where:
            found.append(f"{what} made in {where}")
        return make(*args, **options)
    return wrapper

_thread.allocate_lock = threading._allocate_lock = threading.Lock = watched("lock", _thread.allocate_lock)
threading.RLock = threading._CRLock = _thread.RLock = watched("rlock", _thread.RLock)
sys.addaudithook(lambda event, args: found.append(event) if event == "socket.__new__" else None)

def state():
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "greenlets": sum(isinstance(each, greenlet.greenlet) for each in gc.get_objects()),
        "hub": gevent._hub_local.get_hub_if_exists(),
    }

before = state()
import gvcluster
keep = [gvcluster.Cluster("127.0.0.1:1"), gvcluster.Cluster.from_url("valkey://me:pw@localhost:1?timeout=1")]
exec(compile(sys.argv[1], os.path.join(os.path.dirname(gvcluster.__file__), "planted.py"), "exec"))
after = state()
found += [f"{what}: {before[what]} before, {after[what]} after" for what in before if before[what] != after[what]]
print("; ".join(found) or "nothing", flush=True)
os._exit(0)
"""


def interpreter(code: str, *arguments: str) -> str:
    """Run the code in a fresh interpreter without any patching, warnings being errors; what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GVCLUSTER_TEST_")}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.fixture(scope="module")
def modules_of_others() -> str:
    """The names of all modules, but for its own, that are there once gvcluster is imported."""
    return interpreter("import gvcluster, sys; print(*[name for name in sys.modules if 'gvcluster' not in name])")


def test_importing_and_making_a_cluster_leave_nothing(modules_of_others):
    assert interpreter(SCRIPT, "", modules_of_others) == "nothing"


@pytest.mark.parametrize(
    ("planted", "sign"),
    [
        ("import threading; lock = threading.Lock()", "lock made in"),
        ("import threading; lock = threading.RLock()", "rlock made in"),
        ("import queue; queue = queue.Queue()", "lock made in"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", "threads: 1"),
        ("import socket; sock = socket.socket()", "socket.__new__"),
        ("import os; copy = os.dup(0)", "descriptors: "),
        ("import gevent; hub = gevent.get_hub()", "hub: None"),
        ("import gevent.queue; queue = gevent.queue.Queue()", "hub: None"),
        ("import greenlet; raw = greenlet.greenlet(print)", "greenlets: "),
        ("import gevent; spawned = gevent.spawn(print)", "greenlets: "),
    ],
)
def test_what_is_planted_is_found(modules_of_others, planted, sign):
    assert sign in interpreter(SCRIPT, planted, modules_of_others)


def test_patching_may_follow_the_import_and_the_making_of_a_cluster():
    # Here gevent would warn of a module that was imported before it was patched, such as ssl.
    code = """
import gvcluster
cluster = gvcluster.Cluster("127.0.0.1:1", connect_timeout=0.5, timeout=0.5)
from gevent import monkey
monkey.patch_all()
try:
    cluster.connect()
except gvcluster.TopologyUnavailable as error:
    print(type(error.failures[0][1]).__name__)
"""
    assert interpreter(code) == "ConnectFailed"


def test_this_is_the_package_that_the_interpreters_of_these_tests_import():
    assert interpreter("import gvcluster; print(gvcluster.__file__)") == gvcluster.__file__
