"""Slot maps: whom they are fetched from, how often, and what becomes of connections when they change."""

import contextlib
import random
from dataclasses import replace
from itertools import pairwise
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gvcluster import (
    Address,
    AuthFailed,
    Busy,
    Closed,
    ConfigError,
    ConnectFailed,
    GvClusterError,
    Ready,
    ReplyError,
    SlotMapUpdated,
    TopologyUnavailable,
    hash_slot,
)
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import NOT_HANDLED, Answer, Close, Delay, encode_reply
from gvcluster.testing.fake_connection import FakeConnection

# Whatever the pace is: the second fetch comes 75 ms after the first at the earliest, then 150, 300, 600, 750 ms …
GAPS = (0.075, 0.15, 0.3, 0.6)


class Maps:
    """Who was asked for a map, in order, and when; and how it is answered instead of truly."""

    def __init__(self, *nodes: FakeNode) -> None:
        self.asked: list[FakeNode] = []
        self.times: list[float] = []
        self.answers: dict[FakeNode, Answer] = {}
        self.came = Event()
        for node in nodes:
            node.on("CLUSTER SLOTS", self._tell)

    def _tell(self, node: FakeNode, *_: object) -> Answer:
        self.asked.append(node)
        self.times.append(monotonic())
        self.came.set()
        return self.answers.get(node, NOT_HANDLED)

    def wait(self, count: int) -> None:
        with gevent.Timeout(5):
            while len(self.asked) < count:
                self.came.clear()
                self.came.wait()


@pytest.fixture
def maps(fake: FakeCluster) -> Maps:
    return Maps(*fake.nodes)


def accepted(fake: FakeCluster) -> list[int]:
    return [node.connections.accepted for node in fake.nodes]


def are_paced(times: list[float]) -> bool:
    """Whether the fetches after the first kept their distance."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return all(gap >= (*GAPS, 0.75)[min(n, 4)] - 0.002 for n, gap in enumerate(gaps))


# -- whom to ask -------------------------------------------------------------------------------------------------------


def test_the_first_map_comes_from_any_seed_and_only_one_is_asked(fake, make, maps):
    for number in range(12):
        make(rng=random.Random(number)).connect()
    assert len(maps.asked) == 12
    assert set(maps.asked) == set(fake.nodes)
    assert sum(accepted(fake)) == 12


def test_a_connected_node_is_asked_before_the_others(fake, make, maps):
    cluster = make(str(fake.nodes[1].address))
    for _ in range(3):
        cluster.refresh()
    assert maps.asked == [fake.nodes[1]] * 3
    assert accepted(fake) == [0, 1, 0]
    assert cluster.route_version == 1


UNUSABLE: list[Answer] = [
    b"-BUSY Valkey is busy running a script\r\n",
    b"-LOADING Valkey is loading the dataset in memory\r\n",
    b"-NOPERM this user has no permissions\r\n",
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"-ERR This instance has cluster support disabled\r\n",
    b"*0\r\n",
    b"$-1\r\n",
    b"+OK\r\n",
    b"*1\r\n*3\r\n:0\r\n:5\r\n*2\r\n$1\r\n?\r\n:0\r\n",
    b"*1\r\n*3\r\n:5\r\n:0\r\n*-1\r\n",
    b"this is not RESP\r\n",
    Close(),
]


@pytest.mark.parametrize("answer", UNUSABLE)
def test_who_gives_no_usable_map_is_passed_over_for_the_next(fake, make, maps, answer):
    sane = fake.nodes[2]
    maps.answers = dict.fromkeys(fake.nodes[:2], answer)
    for number in range(2):
        cluster = make(rng=random.Random(number))
        before = len(maps.asked)
        cluster.connect()
        asked = maps.asked[before:]
        assert asked[-1] is sane
        assert len(set(asked)) == len(asked)
        assert cluster.route_version == 1
        assert cluster.execute("GET", fake.key_at(fake.nodes[0])) is None
        cluster.close()


def test_the_seeds_are_kept_for_ever_and_asked_last(fake, make):
    with FakeCluster(nodes=1) as other:
        seed = other.nodes[0]
        maps = Maps(*fake.nodes, seed)
        maps.answers[seed] = encode_reply(fake.slot_ranges())
        cluster = make(other.seeds)
        cluster.connect()
        # It is no member: the connection to it is not kept.
        seed.wait_until(lambda: seed.connections == (1, 0))
        maps.answers.update(dict.fromkeys(fake.nodes, b"-BUSY\r\n"))
        cluster.refresh()
        assert maps.asked[0] is maps.asked[-1] is seed
        assert set(maps.asked[1:-1]) == set(fake.nodes)
        assert len(maps.asked) == 5


def test_if_nobody_gives_a_map_each_answer_is_told_and_the_old_map_serves_on(fake, make, maps):
    cluster = make()
    cluster.connect()
    busy, loading, dead = fake.nodes
    maps.answers = {busy: b"-BUSY script\r\n", loading: b"-LOADING data\r\n"}
    dead.stop()
    with pytest.raises(TopologyUnavailable, match="no usable slot map") as caught:
        cluster.refresh(timeout=5)
    told = dict(caught.value.failures)
    assert set(told) == {node.address for node in fake.nodes}
    assert isinstance(told[busy.address], Busy)
    assert isinstance(told[loading.address], ReplyError)
    assert isinstance(told[dead.address], ConnectFailed)
    assert "BUSY script" in str(caught.value)
    assert cluster.execute("GET", fake.key_at(busy)) is None
    assert cluster.route_version == 1


def test_a_frozen_node_is_given_up_for_the_next_one(fake, make, maps):
    for node in fake.nodes[:2]:
        node.freeze()
    for number in range(3):
        make(rng=random.Random(number), connect_timeout=0.05, command_timeout=0.05).connect()
    assert maps.asked == [fake.nodes[2]] * 3


# -- how often ---------------------------------------------------------------------------------------------------------


def test_callers_share_the_fetch_of_the_first_map(fake, make, maps):
    cluster = make()
    callers = [gevent.spawn(cluster.execute, "GET", number) for number in range(100)]
    gevent.joinall(callers, timeout=5)
    assert [caller.get(block=False) for caller in callers] == [None] * 100
    assert len(maps.asked) == 1
    assert accepted(fake) == [1, 1, 1]


def test_who_comes_while_the_first_map_is_on_its_way_does_not_wait_for_another(fake, make, maps):
    maps.answers = dict.fromkeys(fake.nodes, Delay(0.05, encode_reply(fake.slot_ranges())))
    cluster = make()
    early = gevent.spawn(cluster.execute, "GET", "k")
    maps.wait(1)
    late = [gevent.spawn(cluster.execute, "GET", "k"), gevent.spawn(cluster.connect)]
    gevent.joinall([early, *late], timeout=5)
    assert len(maps.asked) == 1


@pytest.mark.parametrize("kind", ["MOVED", "CLUSTERDOWN"])
def test_f55_a_crowd_that_is_refused_causes_few_fetches_one_after_another(fake, make, maps, kind):
    old, new = fake.nodes[0], fake.nodes[1]
    keys = [f"{{{fake.key_at(old)}}}{n}" for n in range(200)]
    cluster = make()
    for node in fake.nodes:
        cluster.execute("GET", fake.key_at(node))
    if kind == "MOVED":
        fake.move_slot(hash_slot(keys[0]), new)
    else:
        old.on("GET", b"-CLUSTERDOWN The cluster is down\r\n")
    timeout = 10 if kind == "MOVED" else 0.5
    crowd = [gevent.spawn(cluster.execute, "GET", key, timeout=timeout) for key in keys]
    gevent.joinall(crowd, timeout=10)
    assert len(maps.asked) <= 5
    assert are_paced(maps.times)
    if kind == "MOVED":
        assert [caller.get(block=False) for caller in crowd] == [None] * 200
        # Who comes after the first redirect goes straight to the new owner.
        assert cluster.statistics().redirects == len(old.commands("GET")) - 1 <= 200
        assert len(new.commands("GET")) == 201
    assert accepted(fake) == [1, 1, 1]


def test_failed_fetches_keep_their_distance_too(fake, make, maps):
    cluster = make()
    cluster.connect()
    maps.answers = dict.fromkeys(fake.nodes, b"-BUSY\r\n")
    fake.nodes[0].on("GET", b"-CLUSTERDOWN The cluster is down\r\n")
    crowd = [gevent.spawn(cluster.execute, "GET", fake.key_at(fake.nodes[0]), timeout=0.6) for _ in range(50)]
    gevent.joinall(crowd, timeout=5)
    # Each round asks each node once.
    rounds = maps.times[:1] + maps.times[1::3]
    assert are_paced(rounds)
    assert maps.asked.count(fake.nodes[1]) <= 5


def test_a_slow_fetch_delays_nobody_who_has_a_usable_map(fake, make, maps):
    slow, other = fake.nodes[0], fake.nodes[1]
    cluster = make(str(slow.address))
    cluster.execute("GET", fake.key_at(other))
    key, moved = fake.key_at(other), fake.key_at(slow)
    fake.move_slot(hash_slot(moved), other)
    maps.answers[slow] = Delay(0.3, encode_reply(fake.slot_ranges()))
    assert cluster.execute("GET", moved) is None  # MOVED: a fetch begins, from the node that sent it
    maps.wait(2)
    assert maps.asked[1] is slow
    for _ in range(20):
        assert cluster.execute("GET", key) is None
        assert cluster.execute("GET", moved) is None
    assert cluster.statistics().refreshes == 1  # the second is still on its way
    cluster.refresh()
    assert cluster.route_version == 2


def test_an_abandoned_refresh_goes_on_for_the_others(fake, make, maps):
    cluster = make()
    maps.answers = dict.fromkeys(fake.nodes, Delay(0.05, encode_reply(fake.slot_ranges())))
    first, second = gevent.spawn(cluster.connect), gevent.spawn(cluster.connect)
    maps.wait(1)
    first.kill()
    second.get(timeout=5)
    assert (len(maps.asked), cluster.route_version) == (1, 1)


# -- what a map changes ------------------------------------------------------------------------------------------------


def test_each_map_with_other_routes_is_counted_and_told(fake, make):
    events: list[Any] = []
    cluster = make(on_event=events.append)
    assert cluster.route_version == 0
    cluster.connect()
    assert events == [Ready(1), SlotMapUpdated(1, 16384, 3, 0)]
    fake.move_slot(5, 1)
    cluster.refresh()
    cluster.refresh()  # no news
    assert cluster.route_version == 2
    assert cluster.statistics().route_version == 2
    assert cluster.statistics().refreshes == 3
    assert events[2:] == [SlotMapUpdated(2, 16384, 3, 0)]
    cluster.close()
    assert events[3:] == [Closed()]


def test_an_observer_that_raises_harms_nobody(fake, make, monkeypatch):
    told: list[Any] = []
    reported: list[BaseException] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda _context, _type, error, _trace: reported.append(error))

    def observer(event: Any) -> None:
        told.append(event)
        raise ZeroDivisionError(str(event))

    cluster = make(on_event=observer)
    assert cluster.execute("GET", "k") is None
    fake.move_slot(5, 1)
    cluster.refresh()
    cluster.close()
    assert [type(event) for event in told] == [Ready, SlotMapUpdated, SlotMapUpdated, Closed]
    assert [str(error) for error in reported] == [str(event) for event in told]


def test_nothing_is_told_after_closed(fake, make):
    events: list[Any] = []

    def observer(event: Any) -> None:
        events.append(type(event))
        cluster.close()

    cluster = make(on_event=observer)
    with contextlib.suppress(GvClusterError):
        cluster.connect()
    assert events == [Ready, Closed]


def test_the_map_can_be_taken_from_cluster_nodes(fake, make):
    old, new = fake.nodes[0], fake.nodes[1]
    cluster = make(topology_source="nodes")
    key = fake.key_at(old)
    cluster.execute("SET", key, "1")
    fake.move_slot(hash_slot(key), new)
    assert cluster.execute("GET", key) == b"1"
    cluster.refresh()
    assert cluster.route_version == 2
    assert cluster.node_for_key(key).address == new.address
    assert [node.commands("CLUSTER SLOTS") for node in fake.nodes] == [[], [], []]
    assert sum(len(node.commands("CLUSTER NODES")) for node in fake.nodes) >= 2


REFUSALS = [
    b"-NOPERM User default has no permissions to run the 'cluster|slots' command\r\n",
    b"-ERR unknown subcommand 'SLOTS'. Try CLUSTER HELP.\r\n",
    b"-ERR Unknown subcommand or wrong number of arguments for 'SLOTS'\r\n",
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_source_that_is_refused_everywhere_gives_way_to_the_other_for_good(fake, make, refusal):
    for node in fake.nodes:
        node.on("CLUSTER SLOTS", refusal)
    cluster = make()
    cluster.connect()
    assert {node.address for node in cluster.primaries()} == {node.address for node in fake.nodes}
    assert sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes) == 3
    assert sum(len(node.commands("CLUSTER NODES")) for node in fake.nodes) == 1
    asked = next(node for node in fake.nodes if node.commands("CLUSTER NODES"))
    asked.wait_until(lambda: asked.connections == (2, 1))  # the second one was for the other source, and is closed
    cluster.refresh()
    assert sum(len(node.commands("CLUSTER SLOTS")) for node in fake.nodes) == 3
    assert sum(len(node.commands("CLUSTER NODES")) for node in fake.nodes) == 2


def test_a_source_that_takes_too_long_gives_way_to_the_other(fake, make):
    for node in fake.nodes:
        node.on("CLUSTER NODES", Delay(60, None))
    cluster = make(str(fake.nodes[0].address), topology_source="nodes", command_timeout=0.1)
    cluster.connect()
    assert len(cluster.primaries()) == 3
    assert len(fake.nodes[0].commands("CLUSTER SLOTS")) == 1


def test_the_map_is_fetched_at_intervals_if_one_is_given(fake, make, maps):
    cluster = make(refresh_interval=0.05)
    cluster.connect()
    maps.wait(4)
    cluster.close()
    gevent.sleep(0.2)
    asked = len(maps.asked)
    gevent.sleep(0.2)
    assert len(maps.asked) == asked


def test_without_an_interval_an_idle_client_asks_nobody(fake, make, maps):
    make().connect()
    gevent.sleep(0.3)
    assert len(maps.asked) == 1


def test_connections_live_on_by_address_when_the_map_changes(fake, make):
    cluster = make()
    keys = [fake.key_at(node) for node in fake.nodes]
    for key in keys:
        cluster.execute("GET", key)
    fake.move_slot(hash_slot(keys[0]), 1)
    cluster.refresh()
    for key in keys:
        cluster.execute("GET", key)
    assert accepted(fake) == [1, 1, 1]
    assert [len(node.commands("GET")) for node in fake.nodes] == [1, 3, 2]


def leaves(fake: FakeCluster, node: FakeNode) -> bytes:
    """The map in which another node has the node's slots."""
    ranges = [entry for entry in fake.slot_ranges() if entry[2][1] != node.address.port]
    heir = next(entry[2] for entry in ranges)
    gone = next(entry for entry in fake.slot_ranges() if entry[2][1] == node.address.port)
    return encode_reply([*ranges, [gone[0], gone[1], heir]])


def test_a_node_that_left_ends_what_it_began_and_is_closed(fake, make, maps):
    lost: list[Any] = []
    gone, stays = fake.nodes[0], fake.nodes[1]
    cluster = make(str(stays.address), on_disconnect=lambda connection, error: lost.append((connection.address, error)))
    key = fake.key_at(gone)
    cluster.execute("GET", key)
    held: list[FakeConnection] = []
    gone.on("GET", lambda _node, connection, _args: held.append(connection))
    reading = gevent.spawn(cluster.execute, "GET", key)
    gone.wait_until(lambda: held)
    maps.answers[stays] = leaves(fake, gone)
    cluster.refresh()
    assert (gone.connections.open, reading.ready()) == (1, False)
    assert cluster.route_version == 2
    held[0].send(b"+late\r\n")
    assert reading.get(timeout=5) == b"late"
    gone.wait_until(lambda: gone.connections.open == 0)
    assert len(lost) == 1
    assert lost[0][0] == gone.address
    assert lost[0][1] is not None  # nobody asked for it
    assert gone.address not in [each.address for each in cluster.statistics().nodes]


def test_an_idle_connection_to_a_node_that_left_is_closed_at_once(fake, make, maps):
    gone, stays = fake.nodes[0], fake.nodes[1]
    cluster = make(str(stays.address))
    cluster.execute("GET", fake.key_at(gone))
    maps.answers[stays] = leaves(fake, gone)
    cluster.refresh()
    gone.wait_until(lambda: gone.connections == (1, 0))


def test_a_seed_given_by_name_is_the_node_that_answers_there(fake, make):
    seed = fake.nodes[0]
    cluster = make(f"localhost:{seed.address.port}")
    cluster.execute("GET", fake.key_at(seed))
    cluster.refresh()
    cluster.execute("GET", fake.key_at(seed))
    assert seed.connections == (1, 1)
    assert [each.connections for each in cluster.statistics().nodes if each.address == seed.address] == [1]
    assert {each.address for each in cluster.statistics().nodes} == {node.address for node in fake.nodes}


def test_a_seed_given_by_name_that_redirects_is_asked_for_the_map_over_the_same_connection(fake, make, maps):
    seed = fake.nodes[0]
    key = fake.key_at(seed)
    cluster = make(f"localhost:{seed.address.port}")
    cluster.execute("GET", key)
    fake.move_slot(hash_slot(key), 1)
    cluster.execute("GET", key)
    maps.wait(2)
    assert maps.asked == [seed, seed]
    assert seed.connections == (1, 1)
    assert {each.address for each in cluster.statistics().nodes} == {node.address for node in fake.nodes}


def test_an_empty_host_in_a_redirect_of_a_seed_given_by_name_is_its_address(fake, make):
    seed, other = fake.nodes[0], fake.nodes[1]
    key = fake.key_at(seed)
    cluster = make(f"localhost:{seed.address.port}")
    cluster.execute("GET", fake.key_at(other))
    fake.move_slot(hash_slot(key), other)
    seed.on("GET", f"-MOVED {hash_slot(key)} :{other.address.port}\r\n".encode())
    assert cluster.execute("GET", key) is None
    assert other.connections.accepted == 1


def test_a_password_that_no_node_takes_is_named_but_not_shown(fake, make):
    fake.password = "secret"
    cluster = make(password="wrong-guess")
    with pytest.raises(TopologyUnavailable) as caught:
        cluster.connect()
    assert {type(error) for _, error in caught.value.failures} == {AuthFailed}
    assert {type(address) for address, _ in caught.value.failures} == {Address}
    assert "wrong-guess" not in repr(caught.value) + str(caught.value) + repr(caught.value.failures)


# -- looking at the map ------------------------------------------------------------------------------------------------


def test_the_map_can_be_looked_at(fake, make):
    cluster = make()  # the first question connects
    assert [node.address for node in cluster.primaries()] == [node.address for node in fake.nodes]
    assert [node.id for node in cluster.primaries()] == [node.id for node in fake.nodes]
    assert cluster.node_for_key("k").address == fake.node_for_key("k").address
    assert cluster.hash_slot("k") == hash_slot(b"k")
    fake.move_slot(hash_slot("k"), None)
    cluster.refresh()
    assert "3 primaries" in repr(cluster)


def test_replicas_are_told_all_or_those_of_one_shard(make):
    with FakeCluster(nodes=2, replicas=2) as fake:
        cluster = make(fake.seeds)
        primaries = {node.address: node for node in cluster.primaries()}
        replicas = [node for node in fake.nodes if node.primary is not None]
        assert {node.address for node in cluster.replicas()} == {node.address for node in replicas}
        assert len(replicas) == 4
        one = fake.nodes[0]
        its_own = {node.address for node in replicas if node.primary is one}
        assert {node.address for node in cluster.replicas(primaries[one.address])} == its_own
        with pytest.raises(ConfigError):
            cluster.replicas(str(one.address))


def test_nodes_visits_each_primary_once(fake, make):
    assert [node.address for node in make().nodes()] == [node.address for node in fake.nodes]


def test_nodes_begins_again_when_the_set_of_primaries_changes_and_ends(make):
    with FakeCluster(nodes=2, replicas=1) as fake:
        cluster = make(fake.seeds)
        visited = []
        for node in cluster.nodes():
            visited.append(node.address)
            if len(visited) == 1:
                fake.move_slot(0, 1)  # other routes, the same primaries
                cluster.refresh()
            if len(visited) == 2:
                fake.promote(2)
                cluster.refresh()
        one, two, heir, _ = (node.address for node in fake.nodes)
        assert visited[:2] == [one, two]
        assert sorted(visited[2:]) == sorted([heir, two])


def test_two_shards_that_failed_over_and_back_are_known_as_they_are_before_long(connect_to):
    with FakeCluster(nodes=2, replicas=1) as fake:
        came = Event()
        cluster = connect_to(fake, on_event=lambda _: came.set())

        def wait_for(*primaries: FakeNode) -> None:
            with gevent.Timeout(20):
                while {node.address for node in cluster.primaries()} != {node.address for node in primaries}:
                    came.clear()
                    came.wait()

        for replica in (2, 3):
            fake.promote(replica)
        cluster.refresh()
        wait_for(*fake.nodes[2:])
        for former in (0, 1):
            fake.promote(former)
        cluster.refresh()
        wait_for(*fake.nodes[:2])


def test_nodes_gives_up_when_the_primaries_never_stay_the_same(fake, make):
    cluster = make()
    visited = 0

    def visit() -> None:
        nonlocal visited
        for node in cluster.nodes():
            visited += 1
            # As a fetch would do it; seventeen of them take 12 s.
            topology = cluster._state.topology
            fresh = replace(node, address=node.address._replace(port=visited))
            cluster._state.topology = replace(topology, nodes=(fresh, *topology.nodes[1:]))

    with pytest.raises(TopologyUnavailable, match="16 times"):
        visit()
    assert visited == 17


def test_an_observer_that_waits_holds_up_nobody_and_is_told_all_in_order(fake, make):
    told: list[type] = []
    may_go_on = Event()

    def observer(event: Any) -> None:
        told.append(type(event))
        may_go_on.wait(5)

    cluster = make(on_event=observer)
    with gevent.Timeout(2):  # the observer waits for longer
        cluster.connect()
        fake.move_slot(5, 1)
        cluster.refresh()
        assert cluster.execute("GET", "k") is None
    assert told == [Ready]
    may_go_on.set()
    gevent.idle()
    assert told == [Ready, SlotMapUpdated, SlotMapUpdated]


def test_an_observer_may_use_the_cluster(fake, make):
    replies: list[Any] = []
    came = Event()

    def observer(_event: Any) -> None:
        cluster.refresh()
        replies.append(cluster.execute("GET", "k"))
        came.set()

    cluster = make(on_event=observer)
    cluster.connect()
    assert came.wait(2)
    assert replies[0] is None
