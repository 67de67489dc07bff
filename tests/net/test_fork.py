"""A forked child lets go of the parent's connections and calls, which go on as if nothing had happened."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import gevent
import gevent.os
import pytest
from fake_multi import Multis
from forking import FORKS, in_child, open_files
from gevent.monkey import get_original

from gvcluster import Cluster
from gvcluster.errors import ClosedError, ConnectionLost, GvClusterError, TransactionAborted
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import NOT_HANDLED, NotHandled

# A child drops the copies of the parent's other threads, and with libuv a dropped watcher is taken off a list in the
# kernel that it shares with the parent: the fake nodes' thread would go deaf. tests/chaos/test_fork_live.py has libuv.
pytestmark = pytest.mark.skipif("libuv" in repr(gevent.config.loop), reason="libuv: see tests/chaos/test_fork_live.py")


@pytest.fixture(params=sorted(FORKS))
def fork(request: pytest.FixtureRequest) -> Callable[[], int]:
    """The ways to fork."""
    return FORKS[request.param]


def silent(_node: FakeNode, _connection: object, _args: list[bytes]) -> None:
    """Never answer."""


def received(fake: FakeCluster) -> int:
    """How many commands all nodes have received."""
    return sum(len(node.received) for node in fake.nodes)


def received_for_good(fake: FakeCluster) -> int:
    """The same, once all that was sent has arrived: this hub stands still meanwhile, and sends nothing more."""
    sleep, count, quiet = get_original("time", "sleep"), received(fake), 0
    while quiet < 10:
        sleep(0.01)
        quiet, count = (quiet + 1 if received(fake) == count else 0), received(fake)
    return count


def wait_for(condition: Callable[[], object]) -> None:
    """Let greenlets run until something is so."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


def client_sockets(cluster: Cluster) -> set[str]:
    """The sockets of a cluster's lanes in this hub, as /proc names them."""
    pools = cluster._executor_here().runtime.nodes.pools.values()
    return {os.readlink(f"/proc/self/fd/{pool.lane.peer.socket.fileno()}") for pool in pools if pool.lane is not None}


def test_the_child_knows_the_slot_map_and_opens_connections_of_its_own(distant_fake, fork):
    fake = distant_fake
    key = fake.key_at(fake.nodes[0])
    with Cluster(fake.seeds) as cluster:
        cluster.execute("SET", key, 1)
        maps = [len(node.commands("CLUSTER SLOTS")) for node in fake.nodes]

        def child() -> object:
            value = cluster.execute("GET", key).decode()
            cluster.close()
            return value, cluster.route_version, cluster.statistics().refreshes

        assert in_child(fork, child) == ["1", cluster.route_version, 0]
        assert in_child(fork, child) == ["1", cluster.route_version, 0]

        assert cluster.execute("GET", key) == b"1"
        gets = [connection for connection, args in fake.nodes[0].received if args[0] == b"GET"]
        assert len(set(gets)) == 3
        assert [len(node.commands("CLUSTER SLOTS")) for node in fake.nodes] == maps
        assert cluster.statistics().nodes[0].opened == 1


def test_a_child_does_not_commit_what_the_parent_watches(distant_fake, fork):
    fake = distant_fake
    Multis(fake)
    key = fake.key_at(fake.nodes[0])

    def refusal(call: Callable[[], object]) -> str | None:
        try:
            call()
        except GvClusterError as error:
            return type(error).__name__
        return None

    with Cluster(fake.seeds) as cluster, cluster.transaction(key) as tx:
        tx.append("SET", key, 1)

        def child() -> object:
            told = [refusal(tx.commit), refusal(lambda: tx.execute("GET", key))]
            tx.discard()
            tx.append("SET", key, 2)
            told.append(str(tx.commit()))
            cluster.close()
            return told

        assert in_child(fork, child) == ["ConfigError", "ConfigError", "[b'OK']"]
        with pytest.raises(TransactionAborted):  # the child has changed it
            tx.commit()


def test_a_child_receives_no_reply_to_what_the_parent_has_sent(distant_fake, fork):
    with Cluster(distant_fake.seeds) as cluster, cluster.connection(distant_fake.nodes[0].address) as connection:
        connection.send("PING")

        def child() -> object:
            with pytest.raises(ConnectionLost) as caught:
                connection.receive()
            cluster.close()
            return caught.value.maybe_executed

        assert in_child(fork, child) is True
        assert connection.receive() == b"PONG"


def test_a_child_of_a_child_works_as_well(distant_fake, fork):
    with Cluster(distant_fake.seeds) as cluster:
        cluster.execute("SET", "k", 1)

        def child() -> object:
            cluster.execute("INCR", "k")
            return in_child(fork, lambda: cluster.execute("INCR", "k")), cluster.execute("INCR", "k")

        assert in_child(fork, child) == [3, 4]
        assert cluster.execute("INCR", "k") == 5


def test_the_parents_sockets_are_closed_in_the_child_before_its_hub_runs(distant_fake, fork):
    fake = distant_fake
    with Cluster(fake.seeds) as cluster:
        for node in fake.nodes:
            cluster.execute("SET", fake.key_at(node), 1)
        ours = client_sockets(cluster)
        assert len(ours) == 3
        assert in_child(fork, lambda: sorted(ours & open_files())) == []
        assert ours <= open_files()


def test_a_child_of_multiprocessing_works_and_the_parent_goes_on(distant_fake):
    context = multiprocessing.get_context("fork")
    with Cluster(distant_fake.seeds) as cluster:
        cluster.execute("SET", "k", 1)
        reading, writing = context.Pipe(duplex=False)
        process = context.Process(target=lambda: writing.send(cluster.execute("INCR", "k")))
        process.start()
        assert reading.poll(20)
        assert reading.recv() == 2
        process.join(20)
        assert process.exitcode == 0
        assert cluster.execute("INCR", "k") == 3
        reading.close()
        writing.close()


def test_what_is_lent_idle_or_waited_for_is_the_parents_alone(distant_fake, fork):
    fake, lost = distant_fake, []
    address = fake.nodes[0].address
    options = {"max_connections": 2, "max_idle_time": 0.2, "on_disconnect": lambda _, error: lost.append(error)}
    with Cluster(fake.seeds, **options) as cluster:
        mine = cluster.connection(address)
        with cluster.connection(address) as idle:
            idle.execute("ECHO", "x")
        waiting = gevent.spawn(lambda: [cluster.connection(address) for _ in range(2)])
        wait_for(lambda: cluster.statistics().exclusive.pending_requests == 1)

        def child() -> object:
            gevent.sleep(0.4)  # longer than the copied clock of the idle ones
            with cluster.connection(address) as own:
                value = own.execute("ECHO", "x").decode()
            with pytest.raises(ConnectionLost):
                mine.execute("ECHO", "x")
            mine.close()
            return value, len(lost), waiting.ready(), cluster.statistics().exclusive.created

        assert in_child(fork, child) == ["x", 0, False, 1]
        assert mine.execute("ECHO", "mine") == b"mine"
        with mine:
            pass
        for connection in waiting.get(timeout=5):
            assert connection.execute("ECHO", "y") == b"y"
            connection.close()


def test_a_cluster_that_was_closed_in_the_child_is_open_in_the_parent(distant_fake, fork):
    with Cluster(distant_fake.seeds) as cluster:
        cluster.execute("SET", "k", 1)

        def child() -> object:
            cluster.close()
            with pytest.raises(ClosedError):
                cluster.execute("GET", "k")
            return "closed"

        assert in_child(fork, child) == "closed"
        assert cluster.execute("GET", "k") == b"1"
        assert cluster.statistics().nodes[0].opened <= 1


def test_subscriptions_are_dead_in_the_child_and_live_on_in_the_parent(distant_fake, fork):
    taken: list[Any] = []
    with Cluster(distant_fake.seeds) as cluster, cluster.pubsub(ping_interval=0.02) as pubsub:
        pubsub.subscribe("a")
        consumer = gevent.spawn(lambda: taken.extend(pubsub))
        gevent.sleep(0.05)

        def child() -> object:
            for method in (pubsub.get, pubsub.unsubscribe, lambda: pubsub.subscribe("b"), lambda: next(pubsub)):
                with pytest.raises(ClosedError, match="parent"):
                    method()
            gevent.sleep(0.1)
            pubsub.close()
            return [len(taken), consumer.ready(), cluster.execute("EXISTS", "k")]

        assert in_child(fork, child) == [0, False, 0]
        (node,) = (node for node in distant_fake.nodes if node.commands("SUBSCRIBE"))
        assert [args[1:] for args in node.commands("SUBSCRIBE")] == [[b"a"]]
        assert not pubsub.closed
        assert not node.commands("UNSUBSCRIBE")
        begun = len(node.commands("PING"))
        wait_for(lambda: len(node.commands("PING")) > begun + 2)
    consumer.join(2)
    assert taken == []


def test_whoever_forks_in_the_midst_of_the_replies_of_others_wakes_nobody_in_the_child(distant_fake, fork):
    fake, answers, begun, ended = distant_fake, [], [], []
    key = fake.key_at(fake.nodes[0])
    with Cluster(fake.seeds) as cluster:
        cluster.execute("SET", key, 1)

        def when_all_have_begun(*_: object) -> NotHandled:
            wait_for(lambda: len(begun) == 100)  # a greenlet that begins in the child is the user's own affair
            return NOT_HANDLED

        fake.nodes[0].on("GET", when_all_have_begun)

        def call(number: int) -> None:
            begun.append(number)
            value = cluster.execute("GET", key)
            if number == 10:
                answers.append(in_child(fork, child))
            ended.append(value)

        def child() -> object:
            before = len(ended)
            gevent.sleep(0.2)
            return len(ended) - before

        calls = [gevent.spawn(call, number) for number in range(100)]
        gevent.joinall(calls, timeout=10, raise_error=True)
        assert answers == [0]
        assert ended == [b"1"] * 100


# -- where a greenlet may wait when the fork copies it -----------------------------------------------------------------


def again_until(condition: Callable[[], object], call: Callable[..., None], *command: Any) -> None:
    """Have a greenlet call until something is so: on a busy machine one call's time may be over before."""

    def run() -> None:
        while not condition():
            call(*command)

    gevent.spawn(run)
    wait_for(condition)


def while_connecting(fake: FakeCluster, call: Callable[..., None]) -> None:
    """The handshake is under way, and no slot map is known."""
    for node in fake.nodes:
        node.on("HELLO", silent)
    gevent.spawn(call, "GET", "k")
    wait_for(lambda: any(node.commands("HELLO") for node in fake.nodes))


def while_waiting_for_the_first_map(fake: FakeCluster, call: Callable[..., None]) -> None:
    """The first slot map has been asked for."""
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", silent)
    again_until(lambda: any(node.commands("CLUSTER SLOTS") for node in fake.nodes), call, "GET", "k")


def while_backing_off(fake: FakeCluster, call: Callable[..., None]) -> None:
    """A call waits before it tries again."""
    fake.nodes[0].on("GET", b"-TRYAGAIN not now\r\n")
    again_until(lambda: len(fake.nodes[0].commands("GET")) > 3, call, "GET", fake.key_at(fake.nodes[0]))


def while_waiting_for_news(fake: FakeCluster, call: Callable[..., None]) -> None:
    """The call waits for another map, the refresher for the next fetch."""
    for node in fake.nodes:
        node.on("GET", b"-CLUSTERDOWN Hash slot not served\r\n")
    again_until(lambda: len(fake.nodes[0].commands("GET")) > 2, call, "GET", fake.key_at(fake.nodes[0]))


def while_blocking(fake: FakeCluster, call: Callable[..., None]) -> None:
    """A blocking command waits on a connection of its own."""
    fake.nodes[0].on("BLPOP", silent)
    again_until(lambda: fake.nodes[0].commands("BLPOP"), call, "BLPOP", fake.key_at(fake.nodes[0]), 0)


def while_a_timeout_of_the_user_runs(fake: FakeCluster, call: Callable[..., None]) -> None:
    """The gevent.Timeout is copied, too."""

    def within() -> None:
        with gevent.Timeout(0.15, False):
            call("GET", fake.key_at(fake.nodes[0]))

    fake.nodes[0].on("GET", silent)
    gevent.spawn(within)
    wait_for(lambda: fake.nodes[0].commands("GET"))


def while_the_deadline_is_near(fake: FakeCluster, call: Callable[..., None]) -> None:
    """The call's own timer is copied, too."""
    fake.nodes[0].on("GET", silent)
    gevent.spawn(call, "GET", fake.key_at(fake.nodes[0]), timeout=0.15)
    wait_for(lambda: fake.nodes[0].commands("GET"))


def just_lost(fake: FakeCluster, call: Callable[..., None]) -> None:
    """The connection has ended in this turn of the loop: those who wait are to be told in the next one."""
    fake.nodes[0].on("SET", silent)
    gevent.spawn(call, "SET", fake.key_at(fake.nodes[0]), 1)
    wait_for(lambda: fake.nodes[0].commands("SET"))
    pools = call.cluster._executor_here().runtime.nodes.pools.values()
    (lane,) = [pool.lane for pool in pools if pool.lane is not None and pool.in_flight]
    lane.close(ConnectionError("for a test"))


def just_spawned(fake: FakeCluster, call: Callable[..., None]) -> None:
    """Greenlets of the client have been spawned and have not begun."""
    for node in fake.nodes:
        call.cluster._executor_here().runtime.nodes.pool_at(node.address)
    call.cluster.close_idle()
    call.cluster._executor_here().runtime.refresher.schedule()


class UserCode:
    """A greenlet's user code around a call: it says whether it ran on."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ran: list[str] = []

    def __call__(self, *args: Any, **options: Any) -> None:
        try:
            self.cluster.execute(*args, **options)
        except Exception as error:
            self.ran.append(repr(error))
        finally:
            self.ran.append("after the call")


@pytest.mark.parametrize(
    "middle",
    [
        while_connecting,
        while_waiting_for_the_first_map,
        while_backing_off,
        while_waiting_for_news,
        while_blocking,
        while_a_timeout_of_the_user_runs,
        while_the_deadline_is_near,
        just_lost,
        just_spawned,
    ],
)
def test_copied_greenlets_send_nothing_and_run_no_user_code(distant_fake, fork, middle):
    fake, told = distant_fake, []
    cluster = Cluster(
        fake.seeds,
        command_timeout=0.1,
        connect_timeout=0.1,
        timeout=0.2,
        on_connect=lambda *_: told.append("connect"),
        on_disconnect=lambda *_: told.append("disconnect"),
        on_event=lambda *_: told.append("event"),
    )
    call = UserCode(cluster)
    try:
        if middle not in (while_connecting, while_waiting_for_the_first_map):
            cluster.connect(timeout=20)
        middle(fake, call)
        before = received_for_good(fake)

        def child() -> object:
            told.clear()
            call.ran.clear()
            gevent.sleep(0.3)  # every copied timer goes off meanwhile
            return [told, call.ran]

        assert in_child(fork, child) == [[], []]
        assert received_for_good(fake) == before
        if middle is not just_spawned:
            wait_for(lambda: call.ran or middle is while_blocking)
    finally:
        cluster.close()
        gevent.sleep(0.01)


def test_the_socket_of_a_connect_that_is_under_way_is_closed_in_the_child(fork):
    # An address that accepts nothing: the backlog of this listener is full.
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = listener.getsockname()[1]
    fillers = [gevent.socket.socket() for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    before = open_files()
    cluster = Cluster(f"127.0.0.1:{port}", connect_timeout=0.1, timeout=0.1)
    call = UserCode(cluster)
    try:
        greenlet = gevent.spawn(call, "GET", "k")
        wait_for(lambda: open_files() - before)
        ours = open_files() - before

        def child() -> object:
            call.ran.clear()
            left = sorted(ours & open_files())
            gevent.sleep(0.3)
            return [left, call.ran]

        assert in_child(fork, child) == [[], []]
        greenlet.join(10)
        assert len(call.ran) == 2
    finally:
        cluster.close()
        for sock in (*fillers, listener):
            sock.close()


def test_a_copied_greenlet_can_be_killed_in_the_child(distant_fake, fork):
    fake = distant_fake
    fake.nodes[0].on("GET", silent)
    cluster = Cluster(fake.seeds)
    try:
        cluster.connect()
        greenlet = gevent.spawn(cluster.execute, "GET", fake.key_at(fake.nodes[0]))
        wait_for(lambda: fake.nodes[0].commands("GET"))

        def child() -> object:
            gevent.sleep(0.01)
            greenlet.kill(timeout=5)
            return greenlet.ready()

        assert in_child(fork, child) is True
        assert not greenlet.ready()
        greenlet.kill()
    finally:
        cluster.close()


def test_submitted_commands_and_pipelines_under_way_are_the_parents_alone(distant_fake, fork):
    fake, told = distant_fake, []
    silent, busy, unopened = fake.nodes
    cluster = Cluster(str(silent.address), client_info=False, command_timeout=0.2, timeout=0.2)
    before_ready = Cluster(fake.seeds, client_info=False, timeout=0.2)

    def note(reply: object, error: object) -> None:
        told.append(type(error).__name__)

    try:
        cluster.execute("GET", fake.key_at(busy))
        silent.on("SET", None)
        busy.on("SET", b"-TRYAGAIN later\r\n")
        pipe = cluster.pipeline()
        for node in (silent, busy):
            pipe.append("SET", fake.key_at(node), 1)
            pending = cluster.submit("SET", fake.key_at(node), 1, callback=note)
        executing = gevent.spawn(pipe.execute)
        wait_for(lambda: len(silent.commands("SET")) == 2 and len(busy.commands("SET")) >= 2)
        cluster.submit("SET", fake.key_at(unopened), 1, callback=note)
        before_ready.submit("GET", "k", callback=note)
        sent = [len(node.commands("SET")) for node in fake.nodes]

        def child() -> object:
            gevent.sleep(0.4)  # every copied timer goes off meanwhile
            copies, new = [list(told), executing.ready()], []
            patient = {"timeout": 20, "command_timeout": 20}
            cluster.submit("ECHO", "x", callback=lambda reply, error: new.append(reply.decode()), **patient)
            cluster.disconnect()
            try:
                pending.get()
            except GvClusterError as error:
                new.append([type(error).__name__, error.maybe_executed])
            return copies, new

        assert in_child(fork, child) == [[[], False], ["x", ["ClosedError", True]]]
        assert [len(node.commands("SET")) for node in fake.nodes] == sent
        wait_for(lambda: len(told) == 4 and executing.ready())
        assert len(told) == 4
    finally:
        cluster.close()
        before_ready.close()
