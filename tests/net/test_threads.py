"""Native threads, each with a hub of its own, share one Cluster; hubs come and go."""

import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import gevent.subprocess
import pytest
from gevent._hub_local import get_hub_if_exists
from gevent.hub import get_hub
from gevent.monkey import get_original, is_module_patched

from gvcluster import Cluster, hash_slot
from gvcluster.errors import ClosedError, ConnectFailed, GvClusterError
from gvcluster.events import Closed, Ready, SlotMapUpdated
from gvcluster.net.doorbell import Doorbell
from gvcluster.net.executor import Executor
from gvcluster.net.loop import HubLoop
from gvcluster.net.runtime import Runtime
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import NOT_HANDLED, Delay

# Native threads, also in a run that is patched.
START = get_original("_thread", "start_new_thread")


class Thread:
    """A native thread that runs a function in a hub of its own, and destroys it at the end unless told otherwise."""

    def __init__(self, run: Callable[[], object], *, destroy: bool = True) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._run, self._destroy = run, destroy
        self._ended: list[object] = []
        START(self._body, ())

    def _body(self) -> None:
        try:
            self.result = self._run()
        except BaseException as error:
            self.error = error
        finally:
            if self._destroy:
                get_hub().destroy()
            self._ended.append(True)

    def join(self) -> Any:
        """The function's result. The hub of the caller goes on meanwhile."""
        wait_for(lambda: self._ended)
        if self.error is not None:
            raise self.error
        return self.result


def open_sockets() -> int:
    """How many sockets this process has open."""
    gc.collect()
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass  # that of the listing itself
    return sum(link.startswith("socket:") for link in links)


def doorbells() -> int:
    """How many descriptors of ours other threads could ring at: each is open as long as its Doorbell exists."""
    gc.collect()
    return sum(type(each) is Doorbell for each in gc.get_objects())


def wait_for(condition: Callable[[], object]) -> None:
    """Let greenlets run until something is so."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


def maps(fake: FakeCluster) -> int:
    """How many slot maps the nodes were asked for."""
    return sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes)


def test_f52_four_threads_with_ten_greenlets_each_get_their_own_replies_over_their_own_connections():
    used: dict[FakeNode, set[object]] = {}

    def note(node: FakeNode, connection: object, _args: list[bytes]) -> Any:
        used.setdefault(node, set()).add(connection)
        return NOT_HANDLED

    with FakeCluster(3) as fake, Cluster(fake.seeds) as cluster:
        for node in fake.nodes:
            node.on("SET", note)

        def work(thread: int) -> None:
            def one(greenlet: int) -> None:
                for turn in range(20):
                    key, token = f"key-{thread}-{greenlet}-{turn}", f"{thread}-{greenlet}-{turn}"
                    cluster.execute("SET", key, token)
                    assert cluster.execute("GET", key) == token.encode()

            gevent.joinall([gevent.spawn(one, greenlet) for greenlet in range(10)], raise_error=True)

        for thread in [Thread(lambda number=number: work(number)) for number in range(4)]:
            thread.join()
        assert cluster.statistics().commands >= 4 * 10 * 20 * 2
        assert [len(used[node]) for node in fake.nodes] == [4] * 3  # one a hub; maps may come over others


def test_one_slot_map_serves_all_hubs():
    with FakeCluster(3) as fake:
        cluster = Cluster(fake.seeds)
        cluster.execute("SET", "k", 1)
        asked = maps(fake)
        assert Thread(lambda: cluster.execute("GET", "k")).join() == b"1"
        assert maps(fake) == asked
        cluster.close()


def test_a_map_that_one_hub_fetches_is_used_by_the_others_at_once():
    with FakeCluster(3) as fake, Cluster(fake.seeds) as cluster:
        key = fake.key_at(fake.nodes[0])
        cluster.execute("SET", key, 1)
        served: list[object] = []
        moved: list[object] = []

        def other() -> object:
            cluster.execute("GET", key)
            served.append(get_hub())
            table = cluster._executor_here().runtime.nodes.table
            wait_for(lambda: moved and table[hash_slot(key)].address == fake.nodes[1].address)
            before = cluster.statistics().redirects
            return cluster.execute("GET", key), cluster.statistics().redirects - before

        thread = Thread(other)
        wait_for(lambda: served)
        for slot in range(16384):
            if fake.owner(slot) is fake.nodes[0]:
                fake.move_slot(slot, 1)
        cluster.refresh()
        moved.append(True)
        assert thread.join() == (b"1", 0)


def test_however_many_hubs_want_a_map_no_two_fetch_at_a_time():
    running, most, begun = [], [], []

    def slots(node: FakeNode, _connection: object, _args: list[bytes]) -> Any:
        running.append(node)
        most.append(len(running))
        wait_for(lambda: len(begun) == 6)
        gevent.sleep(0.02)  # not to wait for anything: so long the fetch must have to itself
        running.remove(node)
        return NOT_HANDLED

    with FakeCluster(3) as fake:
        for node in fake.nodes:
            node.on("CLUSTER SLOTS", slots)
        cluster = Cluster(fake.seeds)
        threads = [Thread(lambda: (begun.append(True), cluster.refresh())) for _ in range(6)]
        for thread in threads:
            thread.join()
        assert max(most) == 1
        assert len(most) <= 2  # one that all wanted, after one that the first began before
        cluster.close()


class Beginning:
    """A thread's hub that stands still while it begins to use a cluster."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._begun, self._goes_on = (get_original("_thread", "allocate_lock")() for _ in range(2))
        self._begun.acquire()
        self._goes_on.acquire()
        self._elsewhere, self.runtime = get_hub(), None
        patch.setattr("gvcluster.net.hubs.Executor", self._executor)

    def _executor(self, runtime: Runtime) -> Executor:
        if runtime.hub is not self._elsewhere:
            self.runtime = runtime
            self._begun.release()
            self._goes_on.acquire(timeout=20)
        return Executor(runtime)

    def meanwhile(self, do: Callable[[], object]) -> None:
        """Do it while the other stands still, which then goes on."""
        try:
            wait_for(lambda: self._begun.acquire(blocking=False))
            do()
        finally:
            self._goes_on.release()


@pytest.fixture
def beginning(monkeypatch):
    return Beginning(monkeypatch)


def test_a_thread_that_begins_while_another_brings_the_first_map_serves_by_it(beginning):
    with FakeCluster(3) as fake:
        cluster = Cluster(fake.seeds)
        thread = Thread(lambda: cluster.execute("GET", "k", timeout=5))
        beginning.meanwhile(cluster.connect)
        assert thread.join() is None
        cluster.close()


def test_a_thread_that_begins_while_another_closes_leaves_nothing_behind(beginning):
    with FakeCluster(3) as fake:
        cluster = Cluster(fake.seeds, refresh_interval=60)
        cluster.connect()
        thread = Thread(lambda: cluster.execute("GET", "k", timeout=5))
        beginning.meanwhile(cluster.close)
        with pytest.raises(ClosedError):
            thread.join()
        assert beginning.runtime.ended.is_set()


def test_the_turn_of_a_thread_that_hangs_is_taken_over():
    with FakeCluster(3) as fake:
        cluster = Cluster(fake.seeds, connect_timeout=0.1, command_timeout=0.1)
        for node in fake.nodes:
            node.on("CLUSTER SLOTS", lambda *_: None, times=1)
        goes_on = get_original("_thread", "allocate_lock")()
        goes_on.acquire()

        def hang() -> None:
            cluster.start()
            wait_for(lambda: maps(fake))
            goes_on.acquire(timeout=20)

        thread = Thread(hang, destroy=False)
        wait_for(lambda: maps(fake))
        try:
            cluster.refresh()
            assert cluster.route_version == 1
        finally:
            goes_on.release()
            thread.join()
            cluster.close()


def test_close_ends_the_calls_of_all_threads_and_is_told_once():
    events: list[object] = []
    with FakeCluster(3) as fake:
        for node in fake.nodes:
            node.on("GET", lambda *_: None)
        cluster = Cluster(fake.seeds, on_event=events.append)
        cluster.connect()

        def call() -> object:
            try:
                return cluster.execute("GET", "k")
            except GvClusterError as error:
                return type(error).__name__, error.maybe_executed

        threads = [Thread(call) for _ in range(3)]
        wait_for(lambda: len(fake.node_for_key("k").commands("GET")) == 3)
        cluster.close()
        assert {thread.join() for thread in threads} == {("ClosedError", True)}
        assert [type(event) for event in events] == [Ready, SlotMapUpdated, Closed]


def test_events_come_once_in_the_hub_that_caused_them():
    events: list[object] = []
    with FakeCluster(3) as fake:
        cluster = Cluster(fake.seeds, on_event=lambda event: events.append((get_hub(), type(event))))
        hub = Thread(lambda: (cluster.connect(), get_hub())[1]).join()
        cluster.execute("SET", "k", 1)
        cluster.close()
        assert events == [(hub, Ready), (hub, SlotMapUpdated), (get_hub(), Closed)]


@pytest.mark.parametrize("destroy", [True, False], ids=["hub destroyed", "hub left behind"])
def test_ended_threads_leave_no_connection_open(destroy):
    with FakeCluster(3) as fake, Cluster(fake.seeds) as cluster:
        cluster.execute("SET", "k", 1)
        before, bells = open_sockets(), doorbells()
        for _ in range(10):
            Thread(lambda: cluster.execute("GET", "k"), destroy=destroy).join()
        cluster.statistics()
        wait_for(lambda: open_sockets() <= before)
        wait_for(lambda: doorbells() <= bells)
        assert cluster.execute("GET", "k") == b"1"
        assert cluster.statistics().commands > 20


def test_a_hub_that_can_open_no_more_files_says_so_as_any_other_failure(monkeypatch):
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with FakeCluster(1) as fake:
        cluster = Cluster(fake.seeds)
        with monkeypatch.context() as full:
            full.setattr(os, "eventfd", lambda *_: os.open("/", os.O_WRONLY))
            with pytest.raises(ConnectFailed, match=r"no way into this hub for other threads: .Errno 21"):
                cluster.execute("GET", "k")
        gc.collect()
        assert not ignored
        assert cluster.execute("GET", "k") is None
        cluster.close()


def test_a_hub_that_replaces_a_destroyed_one_gets_connections_of_its_own():
    def work() -> object:
        first = cluster.execute("GET", "k"), get_hub()
        get_hub().destroy()
        second = cluster.execute("GET", "k"), get_hub()
        assert first[1] is not second[1]
        return first[0], second[0]

    with FakeCluster(3) as fake, Cluster(fake.seeds) as cluster:
        cluster.execute("SET", "k", 1)
        before = open_sockets()
        assert Thread(work).join() == (b"1", b"1")
        cluster.statistics()
        wait_for(lambda: open_sockets() <= before)


@pytest.mark.skipif(is_module_patched("threading"), reason="patched locks make hubs")
def test_closing_in_a_thread_without_a_hub_makes_none():
    with FakeCluster(3) as fake:
        cluster = Cluster(fake.seeds)
        cluster.connect()
        found: list[object] = []
        native = get_original("threading", "Thread")(
            target=lambda: (cluster.close(), found.append(get_hub_if_exists()))
        )
        native.start()
        wait_for(lambda: found)
        assert found == [None]
        wait_for(lambda: not any(node._open for node in fake.nodes))


def test_disconnect_lets_the_calls_of_other_threads_end_too(distant_fake):
    node = distant_fake.nodes[0]
    key = distant_fake.key_at(node)
    node.on("GET", Delay(0.2, b"+late\r\n"))
    cluster = Cluster(distant_fake.seeds)
    cluster.connect()
    thread = Thread(lambda: cluster.execute("GET", key))
    wait_for(lambda: node.commands("GET"))
    cluster.disconnect()
    assert thread.join() == b"late"
    with pytest.raises(ClosedError):
        cluster.execute("GET", key)


def test_two_threads_that_find_a_hub_gone_do_not_both_close_its_sockets():
    loop = HubLoop(get_hub())
    ended: list[int] = []

    class Open:
        def __init__(self, number: int) -> None:
            self.number = number

        def abandon(self) -> None:
            ended.append(self.number)
            loop.abandon()  # as another thread would, meanwhile

    everybody = [Open(number) for number in range(20)]
    for each in everybody:
        loop.watch_over(each)
    loop.abandon()
    assert sorted(ended) == list(range(20))


HUBS = """
import sys, threading, time
import gevent
from gvcluster.net.loop import HubLoop
from gvcluster.net.runtime import Runtime

sys.setswitchinterval(1e-6)
living, over, rung = [], [], []

def live():
    hub = gevent.get_hub()
    living[:] = [HubLoop(hub)]
    gevent.sleep(0.001)
    hub.destroy(destroy_loop=True)

def ring():
    while not over:
        for loop in tuple(living):
            loop.from_other_threads(rung.append, loop)
        time.sleep(0.00005)

ringers = [threading.Thread(target=ring) for _ in range(2)]
for each in ringers:
    each.start()
end = time.monotonic() + 2
while time.monotonic() < end:
    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
over.append(True)
for each in ringers:
    each.join()
print("heard:", len(rung) > 0)
"""


@pytest.mark.unaffected_by("patched", "libuv")
@pytest.mark.parametrize("kind", ["libev-cext", "libuv"])
def test_ringing_at_hubs_that_come_and_go(kind):
    done = gevent.subprocess.run(
        [sys.executable, "-c", HUBS],
        capture_output=True,
        text=True,
        env={**os.environ, "GEVENT_LOOP": kind},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "heard: True\n"), done.stderr


DESCRIPTORS = """
import os, threading, gevent
from gvcluster import Cluster
from gvcluster.testing import FakeCluster

def live():
    cluster.execute("GET", "k")
    gevent.get_hub().destroy(destroy_loop=True)

def count():
    cluster.statistics()
    return len(os.listdir("/proc/self/fd"))

with FakeCluster() as fake, Cluster(fake.seeds) as cluster:
    counts = []
    for _ in range(12):
        thread = threading.Thread(target=live)
        thread.start()
        while thread.is_alive():
            gevent.sleep(0.005)
        counts.append(count())
    print("grown by:", max(0, counts[-1] - counts[1]))
"""


@pytest.mark.unaffected_by("patched", "libuv")
@pytest.mark.parametrize("kind", ["libev-cext", "libuv"])
def test_of_destroyed_hubs_no_descriptor_is_left(kind):
    done = gevent.subprocess.run(
        [sys.executable, "-c", DESCRIPTORS],
        capture_output=True,
        text=True,
        env={**os.environ, "GEVENT_LOOP": kind},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "grown by: 0\n"), done.stderr


def test_a_forked_child_leaves_what_rings_at_its_parent_to_the_parent():
    loop = HubLoop(get_hub())
    heard: list[int] = []
    child = get_original("os", "fork")()
    if child == 0:
        gevent.sleep(0.05)
        os._exit(0)
    for number in range(20):
        START(loop.from_other_threads, (heard.append, number))
        gevent.sleep(0.005)
    with suppress(ChildProcessError):  # gevent reaps once it has had a subprocess
        get_original("os", "waitpid")(child, 0)
    wait_for(lambda: len(heard) == 20)
    loop.close_to_other_threads()
    assert sorted(heard) == list(range(20))
