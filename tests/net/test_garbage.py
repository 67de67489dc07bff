"""A Cluster that is dropped is closed, an idle one keeps no loop alive, and an open one holds up no exit."""

import gc
import os
import sys
import warnings
import weakref
from collections.abc import Callable

import gevent
import pytest
from gevent import subprocess

from gvcluster import Cluster
from gvcluster.testing import FakeCluster

LOOPS = ["libev-cext", "libuv"]
# A process of its own, unpatched, in RESP3, with the loop that the test names.
of_its_own = pytest.mark.unaffected_by("patched", "libuv")


def open_files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def wait_for(condition: Callable[[], object]) -> None:
    """Let greenlets run until something is so."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


def test_fifty_dropped_clusters_leave_no_file_open_and_each_is_reported_with_its_seeds():
    lost: list[object] = []
    gc.collect()
    with FakeCluster(3, password="secret") as fake:
        before = open_files()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(50):
                cluster = Cluster(fake.seeds, password="secret", on_disconnect=lambda _, cause: lost.append(cause))
                cluster.execute("SET", "k", 1)
            del cluster
            gc.collect()
            wait_for(lambda: open_files() <= before)  # what other tests left may go meanwhile
        texts = [str(each.message) for each in told if each.category is ResourceWarning]
        assert len(texts) == 50
        assert all(fake.seeds in text and "secret" not in text for text in texts)
        assert {str(cause) for cause in lost} == {"the Cluster was dropped without close()"}
        assert len(lost) >= 50


def test_no_other_greenlet_runs_while_a_cluster_is_dropped():
    with FakeCluster(1) as fake:
        cluster = Cluster(fake.seeds)
        cluster.execute("SET", "k", 1)
        turns: list[object] = []
        other = gevent.spawn(lambda: turns.append(1))
        with pytest.warns(ResourceWarning, match="without close"):
            del cluster
        assert turns == []
        other.join()


def test_nothing_refers_to_the_cluster_but_its_user():
    with FakeCluster(3) as fake:
        cluster = Cluster(fake.seeds)
        cluster.execute("SET", "k", 1)
        gone = weakref.ref(cluster)
        runtime = cluster._executor_here().runtime
        gc.disable()  # without cycles it goes at once
        try:
            with pytest.warns(ResourceWarning, match="without close"):
                del cluster
            assert gone() is None
        finally:
            gc.enable()
        wait_for(lambda: not any(pool.connections for pool in runtime.nodes.pools.values()))


def subscribed(cluster: Cluster) -> object:
    pubsub = cluster.pubsub()
    pubsub.subscribe("a")
    return pubsub


def watching(cluster: Cluster) -> object:
    tx = cluster.transaction("k")
    tx.__enter__()
    return tx


@pytest.mark.parametrize("begin", [subscribed, watching, lambda cluster: cluster.connection(cluster.primaries()[0])])
def test_what_is_dropped_gives_its_connection_back_even_where_warnings_are_errors(monkeypatch, begin):
    told: list[object] = []
    with FakeCluster(1) as fake, Cluster(fake.seeds) as cluster:
        (node,) = fake.nodes
        for name, answer in (("MULTI", b"+OK\r\n"), ("EXEC", b"*0\r\n"), ("WATCH", b"+OK\r\n")):
            node.on(name, answer)
        cluster.connect()
        before = node.connections.open
        held = [begin(cluster)]
        assert node.connections.open == before + 1
        monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            held.clear()
        node.wait_until(lambda: node.connections.open == before)
        assert ResourceWarning in told


def test_a_cluster_that_was_closed_or_never_used_is_dropped_in_silence():
    with FakeCluster(1) as fake:
        with Cluster(fake.seeds) as cluster:
            cluster.execute("SET", "k", 1)
        unused = Cluster(fake.seeds)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del cluster, unused
            gc.collect()


def test_a_cluster_that_is_dropped_while_it_connects_is_closed():
    with FakeCluster(3) as fake:
        before = open_files()
        cluster = Cluster(fake.seeds)
        cluster.start()
        with pytest.warns(ResourceWarning, match="without close"):
            del cluster
        wait_for(lambda: open_files() <= before)
        gevent.sleep(0.01)
        assert open_files() <= before


# -- whole processes ---------------------------------------------------------------------------------------------------

BEGIN = """
import os, sys, gevent
from gvcluster import Cluster
seeds = sys.argv[1]
told = []
cluster = Cluster(seeds, on_event=told.append, on_disconnect=lambda *a: told.append("lost"))
"""


def run(seeds: str, loop: str, code: str) -> str:
    """What a script prints, which must end by itself and without a word on stderr."""
    environment = {**os.environ, "GEVENT_LOOP": loop}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", BEGIN + code, seeds],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@of_its_own
@pytest.mark.parametrize("loop", LOOPS)
def test_gevent_wait_returns_while_a_client_is_idle(distant_fake, loop):
    code = "cluster.execute('SET', 'k', 1); print(gevent.wait(timeout=15))"
    assert run(distant_fake.seeds, loop, code) == "True\n"


@of_its_own
@pytest.mark.parametrize("loop", LOOPS)
def test_connections_in_the_pool_and_the_clock_that_ends_them_keep_no_loop_alive(distant_fake, loop):
    code = """
for _ in range(2):
    with cluster.connection(route_key='k') as connection:
        connection.execute('SET', 'k', 1)
listening = cluster.connection(route_key='k')
listening.send('SUBSCRIBE', 'c')
listening.receive()
print(cluster.statistics().exclusive.idle, gevent.wait(timeout=15))
listening.close()
"""
    for node in distant_fake.nodes:
        node.on("SUBSCRIBE", b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    assert run(distant_fake.seeds, loop, code) == "0 True\n"


@of_its_own
@pytest.mark.parametrize("loop", LOOPS)
def test_gevent_wait_waits_for_a_call_in_flight(distant_fake, loop):
    def late(_node, _connection, _args):
        gevent.sleep(0.1)
        return b"$4\r\nlate\r\n"

    for node in distant_fake.nodes:
        node.on("GET", late)
    code = """
gevent.spawn(lambda: print(cluster.execute('GET', 'k')))
print(gevent.wait(timeout=15))
"""
    assert run(distant_fake.seeds, loop, code) == "b'late'\nTrue\n"


@of_its_own
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "code",
    [
        "cluster.execute('SET', 'k', 1)",
        "cluster.execute('SET', 'k', 1); cluster.close()",
        "cluster.start()",
        "gevent.spawn(cluster.execute, 'BLPOP', 'k', 0); gevent.sleep(0.05)",
        "cluster.warm_up(2)",
        "import threading; t = threading.Thread(target=cluster.execute, args=('SET', 'k', 1)); t.start(); t.join()",
        "cluster.me = cluster; cluster.execute('SET', 'k', 1)",
        "cluster.execute('SET', 'k', 1); sys.exit(0)",
    ],
)
def test_an_interpreter_ends_in_silence_with_an_open_client(distant_fake, loop, code):
    for node in distant_fake.nodes:
        node.on("BLPOP", lambda *_: None)
    assert run(distant_fake.seeds, loop, code) == ""


@of_its_own
def test_importing_and_constructing_make_no_hub_thread_or_socket(distant_fake):
    code = """
import threading
from gevent._hub_local import get_hub_if_exists
sockets = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')[:-1]]
print(get_hub_if_exists(), threading.active_count(), any(each.startswith('socket') for each in sockets))
"""
    assert run(distant_fake.seeds, "libev-cext", code) == "None 1 False\n"
