"""Nodes that are gone: commands that name no key find another one, and nothing runs twice."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from compat_library import LIBRARY
from fake_multi import Multis
from gevent.event import Event

from gvcluster.cluster import Cluster
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import NOT_HANDLED
from gvcluster.testing.fake_node import FakeNode


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    """Three shards, each with a replica."""
    with FakeCluster(nodes=3, replicas=1) as cluster:
        yield cluster


@pytest.fixture
def of_fakes(facade: Any, fake: FakeCluster) -> Iterator[Any]:
    """A facade that knows them all."""
    client = facade(startup_nodes=fake.seeds)
    client.get_nodes()
    yield client
    client.close()


def stop(client: Any, node: FakeNode) -> None:
    """Stop it, and wait until the client has noticed: what was sent before may have run."""
    node.stop()
    target = client._library.node(*node.address, "primary")
    with gevent.Timeout(20):
        while True:
            try:
                client.execute_command("PING", target_nodes=[target])
            except client._library.error("ConnectionError") as error:
                if not error.maybe_executed:
                    return


def test_another_node_takes_the_place_of_a_default_node_that_is_gone(of_fakes: Any, fake: FakeCluster) -> None:
    gone = of_fakes.get_default_node()
    stop(of_fakes, next(node for node in fake.nodes if node.address.port == gone.port))
    assert of_fakes.ping() is True
    assert of_fakes.get_default_node() != gone


def test_a_command_for_all_primaries_waits_for_the_successor_and_runs_once_at_the_others(
    of_fakes: Any, fake: FakeCluster
) -> None:
    for node in fake.nodes:
        node.on("FLUSHALL", b"+OK\r\n")
    stop(of_fakes, fake.nodes[0])
    waiting = gevent.spawn(of_fakes.flushall)
    gevent.sleep(0.05)
    assert not waiting.ready()
    fake.promote(3)
    assert waiting.get(timeout=20)
    assert [len(node.commands("FLUSHALL")) for node in fake.nodes[1:4]] == [1, 1, 1]


def test_a_command_that_waits_for_a_successor_ends_with_its_client(of_fakes: Any, fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.on("FLUSHALL", b"+OK\r\n")
    stop(of_fakes, fake.nodes[0])
    waiting = gevent.spawn(of_fakes.flushall)
    with gevent.Timeout(20):
        while not fake.nodes[2].commands("FLUSHALL"):
            gevent.sleep(0.01)
    gevent.sleep(0.05)
    of_fakes.close()
    fake.promote(3)
    with pytest.raises(of_fakes._library.error("ConnectionError")) as caught:
        waiting.get(timeout=20)
    assert caught.value.maybe_executed
    assert not fake.nodes[3].commands("FLUSHALL")
    assert not of_fakes.gvcluster._state.runtimes


def test_all_attempts_at_a_command_for_all_primaries_have_one_deadline(
    of_fakes: Any, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in fake.nodes:
        node.on("FLUSHALL", b"+OK\r\n")
    stop(of_fakes, fake.nodes[0])
    left: list[float] = []
    for name in ("execute", "pipeline"):
        monkeypatch.setattr(Cluster, name, noting_timeouts(getattr(Cluster, name), left))
    waiting = gevent.spawn(of_fakes.flushall)
    with gevent.Timeout(20):
        while len(left) < 3:  # all primaries together, then the one that is missing, again and again
            gevent.sleep(0.01)
    fake.promote(3)
    assert waiting.get(timeout=20)
    assert left == sorted(set(left), reverse=True)
    assert left[0] <= of_fakes.gvcluster._state.options.timeout


def noting_timeouts(call: Callable[..., Any], timeouts: list[float]) -> Callable[..., Any]:
    """The call; `timeouts` gets how long each may take."""

    def noting(*args: Any, timeout: float, **options: Any) -> Any:
        timeouts.append(timeout)
        return call(*args, timeout=timeout, **options)

    return noting


def demote(fake: FakeCluster, command: str) -> None:
    """The first primary becomes a replica of its own, and its successor says nothing of that to clients."""
    for node in fake.nodes:
        node.on(command, b"+OK\r\n")
    fake.nodes[0].on(command, b"-READONLY You can't write against a read only replica.\r\n")
    fake.promote(3)


def test_a_write_for_all_primaries_that_a_former_one_refuses_goes_to_its_successor(
    of_fakes: Any, fake: FakeCluster
) -> None:
    demote(fake, "FLUSHALL")
    assert of_fakes.flushall()
    assert [len(node.commands("FLUSHALL")) for node in fake.nodes] == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("as_pipeline", [False, True])
def test_a_former_primary_that_refuses_to_write_is_known_as_a_replica_soon(
    facade: Any, fake: FakeCluster, as_pipeline: bool
) -> None:
    client = facade(startup_nodes=fake.seeds, cluster_error_retry_attempts=0)
    client.get_nodes()
    demote(fake, "FLUSHALL")
    with pytest.raises(client._library.error("ReadOnlyError")):
        client.pipeline().flushall().execute() if as_pipeline else client.flushall()
    successor = client._library.node(*fake.nodes[3].address, "primary")
    with gevent.Timeout(20):
        while successor not in client.get_primaries():
            gevent.sleep(0.01)
    assert client.flushall()
    client.close()


def test_replicas_that_refuse_to_write_are_asked_once(of_fakes: Any, fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.on("FLUSHALL", b"-READONLY You can't write against a read only replica.\r\n")
    with pytest.raises(of_fakes._library.error("ReadOnlyError")):
        of_fakes.flushall(target_nodes="replicas")
    assert [len(node.commands("FLUSHALL")) for node in fake.nodes] == [0, 0, 0, 1, 1, 1]


def test_a_pipeline_of_a_closed_client_has_the_replies_to_what_was_sent_before(
    of_fakes: Any, fake: FakeCluster
) -> None:
    for node in fake.nodes:
        node.on("BLPOP", None)
    pipe = of_fakes.pipeline().set("a", 1).blpop(["a"], 0).set("b", 2)
    executing = gevent.spawn(pipe.execute, raise_on_error=False)
    with gevent.Timeout(20):
        while not any(node.commands("BLPOP") for node in fake.nodes):
            gevent.sleep(0.01)
    of_fakes.close()
    done, waiting, never = executing.get(timeout=20)
    assert done is True
    assert waiting.maybe_executed
    assert not never.maybe_executed


def test_who_is_killed_while_keys_are_watched_waits_for_no_node(of_fakes: Any, fake: FakeCluster) -> None:
    Multis(fake).answers["UNWATCH"] = [None] * 2
    watches = Event()

    def watch() -> None:
        with of_fakes.pipeline(True) as pipe:
            pipe.watch("a")
            watches.set()
            gevent.sleep(20)

    watching = gevent.spawn(watch)
    assert watches.wait(timeout=20)
    watching.kill(timeout=20)
    assert not any(node.commands("UNWATCH") for node in fake.nodes)


def test_a_closed_client_sends_nothing_more_of_a_pipeline(of_fakes: Any, fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.on("BLPOP", None)
    executing = gevent.spawn(of_fakes.pipeline().blpop(["a"], 0).blpop(["a"], 0).execute, raise_on_error=False)
    with gevent.Timeout(20):
        while not any(node.commands("BLPOP") for node in fake.nodes):
            gevent.sleep(0.01)
    of_fakes.close()
    first, second = executing.get(timeout=20)
    assert (first.maybe_executed, second.maybe_executed) == (True, False)
    assert not of_fakes.gvcluster._state.runtimes


def test_a_command_that_no_node_describes_fails_alone_in_its_pipeline(of_fakes: Any, fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.on("COMMAND INFO", b"+nonsense\r\n")
        node.on("BLPOP", b"*-1\r\n")
    pipe = of_fakes.pipeline().set("a", 1).blpop(["a"], 1).execute_command("MODULE.CALL", "a").set("b", 2)
    done, nothing, error, after = pipe.execute(raise_on_error=False)
    assert (done, nothing, after) == (True, None, True)
    assert isinstance(error, of_fakes._library.error("InvalidResponse"))


@pytest.mark.parametrize("refused_by", [1, 3])
def test_an_error_of_one_part_tells_whether_others_may_have_run(
    of_fakes: Any, fake: FakeCluster, refused_by: int
) -> None:
    for node in fake.nodes[:3]:
        node.on("FLUSHALL", b"+OK\r\n")
    for node in fake.nodes[:refused_by]:
        for command in ("FLUSHALL", "MSET"):
            node.on(command, b"-OOM command not allowed\r\n")
    everywhere = {fake.key_at(node): 1 for node in fake.nodes[:3]}
    for call in (of_fakes.flushall, lambda: of_fakes.mset(everywhere), of_fakes.pipeline().mset(everywhere).execute):
        with pytest.raises(of_fakes._library.error("OutOfMemoryError", "ResponseError")) as caught:
            call()
        assert caught.value.maybe_executed is (refused_by < 3)


@pytest.mark.parametrize("reply", ["ASK again later", "MOVED 1", "ASK"])
def test_what_only_begins_as_a_redirect_is_an_error_of_the_library(
    of_fakes: Any, fake: FakeCluster, reply: str
) -> None:
    for node in fake.nodes:
        node.on("EVAL", f"-{reply}\r\n".encode())
    with pytest.raises(of_fakes._library.error("ResponseError"), match=reply):
        of_fakes.eval("return redis.error_reply(ARGV[1])", 1, "a", reply)


def test_who_asked_for_no_retries_gets_none(facade: Any, fake: FakeCluster) -> None:
    client = facade(startup_nodes=fake.seeds, cluster_error_retry_attempts=0)
    gone = client.get_default_node()
    stop(client, next(node for node in fake.nodes if node.address.port == gone.port))
    with pytest.raises(client._library.error("ConnectionError")):
        client.ping()
    client.close()


def test_a_redirect_is_followed(of_fakes: Any, fake: FakeCluster) -> None:
    of_fakes.set("k", 1)
    slot = of_fakes.keyslot("k")
    fake.move_slot(slot, next(node for node in fake.nodes[:3] if node is not fake.owner(slot)))
    assert of_fakes.get("k") in (b"1", None)
    assert LIBRARY in type(of_fakes).__module__


def test_a_slot_that_a_redirect_has_shown_to_have_moved_is_asked_about_at_its_owner(
    of_fakes: Any, fake: FakeCluster
) -> None:
    for number, node in enumerate(fake.nodes):
        node.on("CLUSTER COUNTKEYSINSLOT", b":%d\r\n" % number)
    key = fake.key_at(fake.nodes[0])
    fake.move_slot(of_fakes.keyslot(key), fake.nodes[1])
    of_fakes.get(key)
    assert of_fakes.cluster_countkeysinslot(of_fakes.keyslot(key)) == 1


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_is_the_librarys_authentication_error(facade: Any, password: str) -> None:
    with FakeCluster(password="right") as guarded:
        client = facade(startup_nodes=guarded.seeds, password=password)
        with pytest.raises(client._library.error("AuthenticationError")):
            client.get("k")
        client.close()
        client = facade(startup_nodes=guarded.seeds, password="right")
        assert client.get("k") is None
        client.close()


def test_what_is_published_on_a_channel_goes_by_one_node_and_so_keeps_its_order(
    of_fakes: Any, fake: FakeCluster
) -> None:
    for node in fake.nodes:
        node.on("PUBLISH", b":0\r\n")
    for number in range(10):
        of_fakes.publish("news", number)
    with of_fakes.pipeline() as pipe:
        for number in range(10, 20):
            pipe.publish("news", number)
        pipe.execute()
    (one,) = [node for node in fake.nodes if node.commands("PUBLISH")]
    assert [int(args[2]) for args in one.commands("PUBLISH")] == list(range(20))
    assert one.address.port == of_fakes.get_node_from_key("news").port


def test_a_script_is_loaded_at_a_successor_of_whom_only_a_redirect_has_told(of_fakes: Any, fake: FakeCluster) -> None:
    def slow_map(*_: Any) -> Any:
        gevent.sleep(0.3)
        return NOT_HANDLED

    key = fake.key_at(fake.nodes[0])
    fake.promote(3)
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", slow_map)
        node.on("SCRIPT LOAD", b"$2\r\nab\r\n")
    of_fakes.set(key, 1)
    of_fakes.script_load("return 1")
    assert [len(node.commands("SCRIPT LOAD")) for node in fake.nodes] == [0, 1, 1, 1, 0, 0]
