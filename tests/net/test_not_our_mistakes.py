"""What goes wrong in libvalkey, redis-py and valkey-glide, found by running them, does not go wrong here.

V1 to V9 are the numbers under which `docs/from-libvalkey.md` lists them.
"""

from itertools import pairwise
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gvcluster import Cluster, ConfigError, ConnectionLost, ReplyError, SlotNotCovered, hash_slot
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import Answer, Close, encode_reply
from gvcluster.testing.fake_connection import FakeConnection


def moved(key: str, to: FakeNode) -> bytes:
    return f"-MOVED {hash_slot(key)} {to.address}\r\n".encode()


def fetches(fake: FakeCluster) -> int:
    return sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes)


@pytest.mark.parametrize("trouble", ["there and back", "to itself", "TRYAGAIN", "CLUSTERDOWN"])
def test_v1_no_call_ever_gets_the_slot_map_for_a_reply(fake, cluster, trouble):
    """libvalkey writes CLUSTER SLOTS behind the user's command, and sends that again before it has read the map."""
    owner, other = fake.nodes[:2]
    key = fake.key_at(owner)
    cluster.execute("SET", key, "value")
    if trouble == "there and back":
        owner.on("GET", moved(key, other), times=1)
        other.on("GET", moved(key, owner), times=1)
    elif trouble == "to itself":
        owner.on("GET", moved(key, owner), times=1)
    else:
        owner.on("SET", Close(), times=1)
        with pytest.raises(ConnectionLost):
            cluster.execute("SET", key, "value")
        owner.on("GET", f"-{trouble} for now\r\n".encode(), times=2)
    before = fetches(fake)
    calls = [gevent.spawn(cluster.execute, "GET", key) for _ in range(5)]
    gevent.joinall(calls, timeout=10, raise_error=True)
    assert [call.value for call in calls] == [b"value"] * 5
    assert cluster.execute("GET", key) == b"value"
    if trouble != "TRYAGAIN":  # there was a map that could have been mistaken for a reply
        with gevent.Timeout(5):
            while fetches(fake) == before:
                gevent.sleep(0.001)


@pytest.mark.parametrize("slot", ["16384", "16390", "-1", "99999999999999999999"])
def test_v2_a_redirect_of_a_slot_that_does_not_exist_is_the_callers_and_changes_nothing(fake, cluster, slot):
    """libvalkey checks only `slot >= 0`, and writes past the end of its table."""
    owner, other = fake.nodes[:2]
    key = fake.key_at(owner)
    owner.on("GET", f"-MOVED {slot} {other.address}\r\n".encode(), times=2)
    told: list[Any] = []
    with pytest.raises(ReplyError, match="MOVED"):
        cluster.execute("GET", key)
    pending = cluster.submit("GET", key, callback=lambda reply, error: told.append(error))
    assert pending.wait(5)
    assert [error.code for error in told] == ["MOVED"]
    assert other.work() == []
    assert cluster.execute("GET", key) is None
    assert other.work() == []


@pytest.mark.parametrize("useless", [b"-LOADING loading the dataset in memory\r\n", b"*0\r\n"])
def test_v3_a_useless_map_is_not_asked_for_in_a_hot_loop(one_node, make, useless):
    """libvalkey asked some 57,000 times in 2 s."""
    (node,) = one_node.nodes
    node.on("CLUSTER SLOTS", useless)
    make(one_node.seeds).start()
    node.wait_until(lambda: fetches(one_node) >= 3)  # it does not give up either
    before = fetches(one_node)
    gevent.sleep(1)
    assert fetches(one_node) - before <= 6
    assert node.connections.accepted == 1


def test_v4_clusterdown_is_waited_out_with_pauses_and_a_new_map(one_node, make):
    """libvalkey sends six times in a row, fetches no map, and gives up."""
    (node,) = one_node.nodes
    sent: list[float] = []

    def down(_node: FakeNode, _connection: FakeConnection, _args: list[bytes]) -> Answer:
        sent.append(monotonic())
        return b"-CLUSTERDOWN The cluster is down\r\n"

    node.on("SET", down, times=7)
    cluster = make(one_node.seeds)
    assert cluster.execute("SET", "k", "v") == b"OK"
    assert len(sent) == 7
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    # Half of 10, 20, 40 … ms at the least; timers may be a millisecond early.
    assert all(gap > 0.005 * 2**number - 0.002 for number, gap in enumerate(gaps))
    assert fetches(one_node) >= 2


def test_v5_a_loop_over_the_nodes_misses_none_after_a_new_map(make):
    """libvalkey's iterator returns exactly one more node after a map that comes in the middle: 3 of 8 in all."""
    with FakeCluster(8, replicas=1) as fake:
        cluster = make(fake.seeds)
        visited = []
        for node in cluster.nodes():
            visited.append(node.address)
            if len(visited) == 2:
                fake.promote(8)
                cluster.refresh()
        primaries = {node.address for node in fake.nodes if node.primary is None}
        assert {node.address for node in cluster.primaries()} == primaries
        assert set(visited[2:]) == primaries
        assert len(visited) == 10


def entry(first: int, last: int, host: str, port: int, name: str) -> list[Any]:
    return [first, last, [host.encode(), port, name.encode() * 40]]


@pytest.mark.parametrize(
    "bad",
    [
        entry(0, 99, "?", 7000, "b"),
        entry(0, 99, "127.0.0.1", 0, "b"),
        entry(0, 99, "127.0.0.1", 65536, "b"),
        entry(16384, 16390, "127.0.0.1", 7000, "b"),
        entry(99, 0, "127.0.0.1", 7000, "b"),
    ],
)
def test_v6_one_bad_entry_costs_no_other_node_its_slots(one_node, make, bad):
    """libvalkey refuses the whole map for it, and looks the host `?` up in the DNS."""
    (node,) = one_node.nodes
    good = entry(100, 16383, *node.address, "a")
    node.on("CLUSTER SLOTS", encode_reply([bad, good]))
    attempts: list[Any] = []
    cluster = make(one_node.seeds, on_connect=lambda connection, error: attempts.append(connection.address))
    assert cluster.execute("SET", "foo", "bar") == b"OK"
    assert [each.address for each in cluster.primaries()] == [node.address]
    unserved = next(key for key in map(str, range(10_000)) if hash_slot(key) < 100)
    with pytest.raises(SlotNotCovered):
        cluster.execute("GET", unserved)
    assert set(attempts) == {node.address}


def test_v6_overlaps_and_a_node_in_handshake_cost_no_other_node_its_slots(one_node, make):
    (node,) = one_node.nodes
    host, port = node.address
    overlap = [entry(0, 16383, host, port, "a"), entry(100, 200, "127.0.0.2", port, "b")]
    node.on("CLUSTER SLOTS", encode_reply(overlap))
    lines = [
        f"{'a' * 40} {host}:{port}@{port} myself,master - 0 0 1 connected 0-16383",
        f"{'b' * 40} 127.0.0.2:{port}@{port} handshake - 0 0 0 connected",
        f"{'c' * 40} :0@0 slave,noaddr {'a' * 40} 0 0 1 disconnected",
    ]
    node.on("CLUSTER NODES", encode_reply("".join(f"{line}\n" for line in lines).encode()))
    for source in ("slots", "nodes"):
        cluster = make(one_node.seeds, topology_source=source)
        assert cluster.execute("SET", "foo", "bar") == b"OK"
        assert cluster.node_for_key("foo").address == node.address


@pytest.mark.parametrize("drops", [1, 5, 10])
def test_v7_a_write_whose_reply_is_lost_runs_once(one_node, make, drops):
    """redis-py's `incr` ran 2, 6 and 11 times when the connection dropped after 1, 5 and 10 executions."""
    (node,) = one_node.nodes
    executed: list[bytes] = []

    def execute_and_drop(_node: FakeNode, _connection: FakeConnection, args: list[bytes]) -> Answer:
        executed.append(args[1])
        return Close()

    cluster = make(one_node.seeds)
    cluster.connect()
    node.on("INCR", execute_and_drop, times=drops)
    with pytest.raises(ConnectionLost) as caught:
        cluster.execute("INCR", "n")
    assert caught.value.maybe_executed
    cluster.refresh()  # over a new connection; nothing is sent behind the caller's back
    assert executed == [b"n"]


def test_v8_a_slow_command_holds_up_no_other_greenlet(fake, cluster):
    """One slow command blocked the whole hub with valkey-glide: no other greenlet ran until it was answered."""
    slow, other = fake.nodes[:2]
    answer = Event()

    def answer_late(_node: FakeNode, _connection: FakeConnection, _args: list[bytes]) -> Answer:
        answer.wait()
        return b"$4\r\nlate\r\n"

    slow.on("GET", answer_late)
    waiting = gevent.spawn(cluster.execute, "GET", fake.key_at(slow))
    slow.wait_until(lambda: slow.commands("GET"))
    for number in range(100):
        assert cluster.execute("SET", fake.key_at(other), number) == b"OK"
    assert not waiting.ready()
    answer.set()
    assert waiting.get(timeout=5) == b"late"


@pytest.mark.parametrize("seeds", ["", " ", ",", [], (), None])
def test_v9_without_seeds_there_is_no_client(seeds):
    """libvalkey returns a context without an error that can do nothing; its asynchronous one divides by zero."""
    with pytest.raises(ConfigError, match=r"seed|port"):
        Cluster(seeds)
