"""Kills and timeouts at any point of a transaction: no wrong reply, nothing leaks, all or nothing was executed."""

import random
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from calls import Steady
from fake_multi import Multis

from gvcluster import Cluster, hash_slot
from gvcluster.testing import FakeCluster, Thrown, throw_at_every_switch
from gvcluster.testing.answers import encode_reply

ERRORS = [gevent.GreenletExit, gevent.Timeout]


class Scene:
    """A new cluster, and transactions that meet a first map, new connections, TRYAGAIN, MOVED, ASK and an abort."""

    def __init__(self, protocol: int) -> None:
        self.fake = FakeCluster(3).start()
        one, two, three = self.fake.nodes
        self.multis = Multis(self.fake)
        self.cluster = Cluster(self.fake.seeds, protocol=protocol, client_info=False, rng=Steady())
        self.keys = [self.fake.key_at(one, letter) for letter in "ab"]
        self.others = [f"{{{key}}}too" for key in self.keys]
        for node in self.fake.nodes:
            node.on("CLUSTER SLOTS", encode_reply(self.fake.slot_ranges()))
        self.fake.move_slot(hash_slot(self.keys[0]), two)
        self.fake.begin_migration(hash_slot(self.keys[1]), three)
        self.multis.answers["SET"] = [b"-TRYAGAIN later\r\n"]

    def unwatched(self) -> list[Any]:
        """Two blocks: one is moved, one is asked; each would be seen if it were executed in part, or twice."""
        results = []
        for key, other in zip(self.keys, self.others, strict=True):
            tx = self.cluster.transaction()
            for name in (key, other):
                tx.append("SET", name, 1)
                tx.append("INCR", name)
            results.append(tx.commit())
        return results

    def watched(self) -> list[Any]:
        """A with statement, after more than one attempt of a function."""
        key, other = self.keys[0], self.others[0]
        interferences = [1]

        def function(tx: Any) -> None:
            value = int(tx.execute("GET", key) or 0)
            if interferences:
                self.cluster.execute("SET", other, interferences.pop())
            tx.watch(other)
            tx.append("SET", key, value + 1)
            tx.append("SET", other, value + 1)

        first = self.cluster.transaction(function, key, other)
        with self.cluster.transaction(key) as tx:
            second = tx.execute("GET", key)
            tx.append("INCR", key)
            tx.append("INCR", other)
            third = tx.commit()
        with self.cluster.transaction(key) as tx:
            tx.execute("GET", key)  # and leaves without a commit
        return [first, second, third]

    def check(self) -> None:
        """Nobody is left behind, and the connections that all share still answer rightly."""
        for number, key in enumerate([*self.keys, *self.others] * 2):
            name = f"{number}"
            assert self.cluster.execute("ECHO", name, route_key=key) == name.encode()
        _, two, three = self.fake.nodes
        for node, (key, other) in zip((two, three), zip(self.keys, self.others, strict=True), strict=True):
            found = [node.data.get(each.encode()) for each in (key, other)]
            assert found[0] == found[1] or found == [None, b"1"], "a transaction was executed in part"
            assert found[0] in (None, b"1", b"2")
        # A question for the slot map, after the redirects, may be under way just now.
        two.wait_until(lambda: sum(each.in_flight for each in self.cluster.statistics().nodes) == 0)
        tx = self.cluster.transaction()
        tx.append("GET", self.keys[0])
        assert len(tx.commit()) == 1

    def end(self) -> None:
        self.cluster.close()
        self.fake.stop()


UNWATCHED = [[b"OK", 2, b"OK", 2], [b"OK", 2, b"OK", 2]]
WATCHED = [[b"OK", b"OK"], b"1", [2, 2]]
WAYS = [(Scene.unwatched, UNWATCHED), (Scene.watched, WATCHED)]


def run_until_turn(protocol: int, way: Callable[[Scene], Any], expected: Any, turn: int, error: Any) -> bool:
    """Run, and throw the error at the caller after so many turns of the loop. Returns whether it was in time."""
    scene = Scene(protocol)
    try:
        running = gevent.spawn(way, scene)
        for _ in range(turn):
            gevent.sleep(0)
        was_in_time = not running.ready()
        if was_in_time:
            running.kill(error(), timeout=5)
            assert running.ready()
        else:
            assert running.get() == expected
        scene.check()
        return was_in_time
    finally:
        scene.end()


@pytest.mark.parametrize(("way", "expected"), WAYS)
def test_a_throw_at_the_caller_in_any_turn_of_the_loop_leaves_all_sound(protocol, way, expected):
    turn, hits = 0, 0
    while run_until_turn(protocol, way, expected, turn, ERRORS[hits % 2]):
        hits += 1
        turn += 1 + max(0, turn - 12)
    assert hits > 10


@pytest.mark.parametrize("error", [*ERRORS, KeyboardInterrupt])
@pytest.mark.parametrize(("way", "expected"), WAYS)
def test_a_throw_at_each_switch_of_the_caller_leaves_all_sound(protocol, way, expected, error):
    scenes: list[Scene] = []

    def work() -> None:
        scenes.append(Scene(protocol))
        assert way(scenes[-1]) == expected

    def check(thrown: Thrown) -> None:
        assert thrown.error is thrown.meant, f"at switch {thrown.point}"
        scenes[-1].check()
        scenes.pop().end()

    report = throw_at_every_switch(work, error, after=check)
    for untouched in scenes:
        untouched.end()
    assert report.points > 12


def test_a_killed_block_that_was_not_sent_is_never_sent(one_node, connect_to):
    node = one_node.nodes[0]
    Multis(one_node)
    cluster = connect_to(one_node, client_info=False)
    tx = cluster.transaction()
    tx.append("GET", "k")
    tx.commit()
    tx.append("SET", "k", 1)
    commit = gevent.spawn(tx.commit)
    gevent.get_hub().loop.run_callback(commit.throw, gevent.Timeout())  # after it has queued, before the flush
    commit.join(5)
    assert isinstance(commit.exception, gevent.Timeout)
    assert cluster.execute("ECHO", "x") == b"x"
    assert len(node.commands("MULTI")) == 2
    assert tx.commit() == []  # it has forgotten what it was killed with


def test_a_block_that_is_sent_in_part_is_sent_to_its_end_though_the_caller_was_killed(one_node, connect_to):
    """The connection must not stay inside MULTI: what is begun goes out, its replies are dropped, others are served."""
    node = one_node.nodes[0]
    multis = Multis(one_node)
    cluster = connect_to(one_node, client_info=False, command_timeout=20, timeout=20)
    tx = cluster.transaction()
    tx.append("SET", "k", b"x" * 100_000)
    tx.commit()
    multis.answers["SET"] = [lambda: node.freeze() or b"+QUEUED\r\n"]
    for _ in range(60):
        tx.append("SET", "k", b"x" * 300_000)
    commit = gevent.spawn(tx.commit)
    node.wait_until(lambda: len(node.commands("SET")) == 2)
    gevent.sleep(0.1)
    commit.kill()
    reading = gevent.spawn(cluster.execute, "ECHO", "x", bulk=True, route_key="k")
    gevent.sleep(0.05)
    assert not reading.ready()
    node.thaw()
    assert reading.get(timeout=10) == b"x"
    assert len(node.commands("EXEC")) == 3
    assert node.connections.accepted == 2


def test_a_storm_of_kills_leaves_counters_equal_and_connections_sound(one_node, connect_to):
    """Each transaction adds one to two counters: however many were killed, the counters agree."""
    Multis(one_node)
    node = one_node.nodes[0]
    cluster = connect_to(one_node, client_info=False, timeout=60, command_timeout=20)
    rng = random.Random(5)

    def add() -> None:
        tx = cluster.transaction()
        tx.append("INCR", "{k}a")
        tx.append("INCR", "{k}b")
        tx.commit()

    def add_watched() -> None:
        def function(tx: Any) -> None:
            for name in ("{k}a", "{k}b"):
                tx.append("SET", name, int(tx.execute("GET", name) or 0) + 1)

        cluster.transaction(function, "{k}a", "{k}b")

    for _ in range(40):
        crowd = [gevent.spawn(rng.choice((add, add, add_watched))) for _ in range(8)]
        for _ in range(rng.randrange(8)):
            gevent.sleep(0)
        for victim in rng.sample(crowd, 4):
            victim.kill(block=False)
        assert len(gevent.joinall(crowd, timeout=30)) == len(crowd)
        assert cluster.execute("ECHO", "x", route_key="{k}") == b"x"
    assert node.data[b"{k}a"] == node.data[b"{k}b"]
    # A question for the slot map may be under way just now.
    node.wait_until(lambda: sum(each.in_flight for each in cluster.statistics().nodes) == 0)
