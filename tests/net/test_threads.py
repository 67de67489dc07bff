"""Native threads, each with a hub of its own, share one Cluster; hubs come and go."""

import gc
import os
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent._hub_local import get_hub_if_exists
from gevent.hub import get_hub
from gevent.monkey import get_original, is_module_patched

from gvcluster import Cluster, hash_slot
from gvcluster.errors import ClosedError, GvClusterError
from gvcluster.events import Closed, Ready, SlotMapUpdated
from gvcluster.net.loop import HubLoop
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


def wait_for(condition: Callable[[], object]) -> None:
    """Let greenlets run until something is so."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


def maps(fake: FakeCluster) -> int:
    """How many slot maps the nodes were asked for."""
    return sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes)


def test_four_threads_with_ten_greenlets_each_get_their_own_replies_over_their_own_connections():
    with FakeCluster(3) as fake, Cluster(fake.seeds) as cluster:

        def work(thread: int) -> None:
            def one(greenlet: int) -> None:
                for turn in range(20):
                    token = f"{thread}-{greenlet}-{turn}"
                    cluster.execute("SET", f"key-{thread}-{greenlet}", token)
                    assert cluster.execute("GET", f"key-{thread}-{greenlet}") == token.encode()

            gevent.joinall([gevent.spawn(one, greenlet) for greenlet in range(10)], raise_error=True)

        for thread in [Thread(lambda number=number: work(number)) for number in range(4)]:
            thread.join()
        assert cluster.statistics().commands >= 4 * 10 * 20 * 2
        assert all(node.connections.accepted <= 6 for node in fake.nodes)  # one a hub, and those of the first maps


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


def test_the_turn_of_a_thread_that_hangs_is_taken_over():
    with FakeCluster(3) as fake:
        cluster = Cluster(fake.seeds, connect_timeout=0.1, command_timeout=0.1)
        for node in fake.nodes:
            node.on("CLUSTER SLOTS", lambda *_: None, times=1)
        goes_on = get_original("_thread", "allocate_lock")()
        goes_on.acquire()

        def hang() -> None:
            cluster.start()
            gevent.sleep(0.02)
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
        before = open_sockets()
        for _ in range(10):
            Thread(lambda: cluster.execute("GET", "k"), destroy=destroy).join()
        cluster.statistics()
        wait_for(lambda: open_sockets() <= before)
        assert cluster.execute("GET", "k") == b"1"
        assert cluster.statistics().commands > 20


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


@pytest.mark.parametrize("error", [ValueError, AttributeError, TypeError, AssertionError])
def test_a_loop_that_is_taken_down_while_it_is_called_harms_nobody(error):
    loop = HubLoop(get_hub())
    asked: list[object] = []

    class Going:
        ptr = True

        def run_callback_threadsafe(self, *_args: object) -> None:
            asked.append(self)
            raise error("operation on destroyed loop")

    loop._loop = Going()
    loop.from_other_threads(print, "never")
    assert len(asked) == 1


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
