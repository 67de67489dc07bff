"""A fork in the midst of traffic with real servers: the parent loses nothing, the child begins anew."""

import json
import os
import sys

import pytest
from gevent import subprocess

from gvcluster.testing import LocalCluster

# 500 greenlets call, and 5 times a child is forked while replies are owed. The parent prints what it has met.
SCRIPT = """
import json, os, sys, gevent, gevent.os
from gevent.monkey import get_original
if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()
from gvcluster import Cluster

seeds, how = sys.argv[1:3]
fork = {"os": get_original("os", "fork"), "gevent": gevent.os.fork_gevent}[how]
parent, told, begun, children = os.getpid(), [], [], []
cluster = Cluster(seeds, on_disconnect=lambda *a: told.append("lost"))
reading, writing = os.pipe()


def user_code(what):
    if os.getpid() != parent:
        os.write(writing, b"a copied greenlet ran on\\n")


def call(number):
    begun.append(number)
    for turn in range(20):
        key, token = f"fork-{number}-{turn}", f"{number}:{turn}"
        try:
            cluster.execute("SET", key, token)
            assert cluster.execute("GET", key) == token.encode()
            assert cluster.execute("INCR", f"count-{number}") == turn + 1
        finally:
            user_code(number)


def child(number):
    for turn in range(100):
        cluster.execute("SET", f"child-{number}-{turn}", turn)
        assert cluster.execute("GET", f"child-{number}-{turn}") == str(turn).encode()
    gevent.sleep(0.3)
    opened = sum(node.opened for node in cluster.statistics().nodes)
    os.write(writing, f"child {opened}\\n".encode())


for node in cluster.nodes():
    cluster.execute("FLUSHALL", node=node)
calls = [gevent.spawn(call, number) for number in range(500)]
while len(begun) < 500:  # one that begins in the child is the user's own affair
    gevent.sleep(0.001)
for number in range(5):
    in_flight = sum(node.in_flight for node in cluster.statistics().nodes)
    pid = fork()
    if pid == 0:
        status = 1
        try:
            child(number)
            status = 0
        except BaseException as error:
            os.write(writing, f"{error!r}\\n".encode())
        finally:
            os._exit(status)
    children.append(in_flight)
    gevent.sleep(0.02)
gevent.joinall(calls, timeout=60)
failed = [repr(call.exception) for call in calls if not call.successful()]
os.close(writing)
text = b""
while b := gevent.os.tp_read(reading, 65536):
    text += b
statuses = []
while True:
    try:
        statuses.append(get_original("os", "waitpid")(-1, 0)[1])
    except ChildProcessError:
        break
opened = [node.opened for node in cluster.statistics().nodes]
cluster.close()
print(json.dumps({"failed": failed, "told": text.decode().splitlines(), "in_flight": children, "opened": opened}))
"""


@pytest.fixture(scope="module")
def seeds():
    """Where a cluster of three primaries is."""
    with LocalCluster("valkey-9.1.2", primaries=3, replicas=0) as cluster:
        yield cluster.seeds


@pytest.mark.parametrize(
    ("loop", "how", "patched"),
    [
        ("libev-cext", "os", ""),
        ("libev-cext", "gevent", ""),
        ("libev-cext", "gevent", "patched"),
        ("libuv", "os", ""),
        ("libuv", "gevent", ""),
    ],
)
def test_f47_the_parent_loses_nothing_and_each_child_works_with_connections_of_its_own(seeds, loop, how, patched):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, seeds, how, patched],
        env={**os.environ, "GEVENT_LOOP": loop},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["failed"] == []
    assert report["told"] == ["child 3"] * 5
    assert max(report["in_flight"]) > 50
    assert report["opened"] == [1, 1, 1]
