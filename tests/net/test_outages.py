"""F18: every node is gone, and greenlets go on calling: how often anybody is asked, and that they find back alone."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic

import gevent
import pytest
from calls import ends, outcome

from gvcluster.testing import FakeCluster, black_hole
from gvcluster.testing.answers import NOT_HANDLED, Close, encode_reply

CALLERS = 200
KEYS = ("b", "c", "a")  # in the first, second and last third of the slots
# When it is counted, seconds from the beginning. Earlier it is more on purpose: most failovers are over in 2 to 4 s.
SINCE, UNTIL = 3.5, 7.5
MOST = 2 * (UNTIL - SINCE) + 1


class Outage:
    """Three nodes that fail, a client, and 200 greenlets that call all the time, each in one of three ways.

    asked, attempts: when any node was asked for the slot map, and when it was tried to connect to which address.
    """

    def __init__(self, fake, make):
        self.fake, self.make = fake, make
        self.asked, self.attempts, self.served = [], [], set()
        self.is_on = False

    def begin(self):
        self.cluster = self.make(
            self.fake.seeds, timeout=60, command_timeout=1, connect_timeout=1, on_connect=self.note_attempt
        )
        self.cluster.connect()
        for node in self.fake.nodes:
            node.override = self.override
        self.is_on = True
        self.fail()
        self.began = monotonic()
        self.callers = [gevent.spawn(self.call, number) for number in range(CALLERS)]

    def note_attempt(self, connection, _error):
        self.attempts.append((monotonic(), connection.address))

    def override(self, _node, _connection, args):
        if args[:2] == [b"CLUSTER", b"SLOTS"]:
            self.asked.append((monotonic(), "any"))
        return self.answer(args) if self.is_on else NOT_HANDLED

    def call(self, number):
        options = ({}, {"timeout": 0.3}, {"retry": "never"})[number % 3]
        while number not in self.served:
            reply = outcome(self.cluster, "SET", KEYS[number // 3 % 3], "x", **options)
            if reply == b"OK" and not self.is_on:
                self.served.add(number)
            gevent.sleep(0.25)

    def most(self, events):
        """How often the one came that came most often, while it is counted."""
        counts = Counter(what for at, what in events if SINCE <= at - self.began < UNTIL)
        return max(counts.values(), default=0)

    def end(self):
        self.is_on = False
        self.recover()

    # -- what happens, unless a subclass knows better

    def fail(self):
        """What breaks."""

    def answer(self, args):
        return NOT_HANDLED

    def recover(self):
        """And what mends it."""


class Refused(Outage):
    def fail(self):
        for node in self.fake.nodes:
            node.stop()

    def recover(self):
        for node in self.fake.nodes:
            node.start()


class Frozen(Outage):
    def fail(self):
        for node in self.fake.nodes:
            node.freeze()

    def recover(self):
        for node in self.fake.nodes:
            node.thaw()


class HangingUp(Outage):
    def answer(self, args):
        return Close()


class Down(Outage):
    """They are there, and serve nothing but slot maps: those of a cluster that has lost too many."""

    def answer(self, args):
        return b"-CLUSTERDOWN The cluster is down\r\n" if args[0] == b"SET" else NOT_HANDLED


class BlackHole(Refused):
    """The nodes of the map swallow all packets, and the seeds are gone."""

    def begin(self):
        with ExitStack() as self.holes:
            thirds = [(0, 5461), (5462, 10922), (10923, 16383)]
            told = [[*third, list(self.holes.enter_context(black_hole()))] for third in thirds]
            for node in self.fake.nodes:
                node.on("CLUSTER SLOTS", lambda *_: NOT_HANDLED if self.is_on is None else encode_reply(told))
            super().begin()
            self.holes = self.holes.pop_all()

    def end(self):
        self.is_on = None
        self.holes.close()
        self.recover()


def test_f18_200_greenlets_without_a_cluster_have_at_most_two_maps_a_second_fetched_and_each_node_tried_twice(make):
    kinds = (Refused, Frozen, HangingUp, Down, BlackHole)
    with ExitStack() as fakes:
        outages = [kind(fakes.enter_context(FakeCluster()), make) for kind in kinds]
        for each in outages:
            each.begin()
        gevent.sleep(UNTIL)
        attempts = {type(each).__name__: each.most(each.attempts) for each in outages}
        asked = {type(each).__name__: each.most(each.asked) for each in outages}
        assert max(attempts.values()) <= MOST, attempts
        assert max(asked.values()) <= MOST, asked
        # They were asked at all, each as far as it can be.
        assert min(attempts[kind.__name__] for kind in (Refused, Frozen, HangingUp, BlackHole)) >= 1
        assert asked["Down"] >= 1
        for each in outages:
            each.end()
        for each in outages:
            ends(*each.callers, within=30)


def in_a_pipeline(cluster):
    pipe = cluster.pipeline()
    pipe.append("GET", "k")
    pipe.execute()


def in_a_transaction(cluster):
    with cluster.transaction("k") as tx:
        tx.append("GET", "k")
        tx.commit()


def test_a_shard_without_replicas_has_nobody_to_ask_and_no_pool_is_kept_for_it(make):
    def slow(*_):
        gevent.sleep(0.5)
        return NOT_HANDLED

    with FakeCluster(1) as fake:
        cluster = make(fake.seeds, username="u", password="p")
        cluster.connect()
        cluster.close_idle()
        for name in ("HELLO", "AUTH"):
            fake.nodes[0].on(name, slow, times=1)
        assert cluster.execute("GET", "k") is None
        assert cluster._executor_here().runtime.failover._connecting == {}


WAYS = {
    "a call": lambda cluster: cluster.execute("GET", "k"),
    "a pipeline": in_a_pipeline,
    "submitted": lambda cluster: cluster.submit("GET", "k").get(),
    "exclusive": lambda cluster: cluster.execute("BLPOP", "k", 0),
    "a transaction": in_a_transaction,
    "elements": lambda cluster: next(cluster.hscan_iter("k")),
}


@pytest.mark.parametrize("way", WAYS)
def test_replicas_are_asked_no_longer_than_connecting_takes(make, protocol, way):
    def slow(*_):
        gevent.sleep(0.5)
        return NOT_HANDLED

    with FakeCluster(1, replicas=1) as fake:
        primary, replica = fake.nodes
        cluster = make(fake.seeds, timeout=60, username="u", password="p")
        cluster.connect()
        cluster.close_idle()
        primary.on("HSCAN", encode_reply([b"0", [b"f", b"v"]]))
        primary.on("HELLO" if protocol == 3 else "AUTH", slow, times=1)
        waiting = gevent.spawn(WAYS[way], cluster)
        primary.wait_until(lambda: replica.commands("ROLE"))
        primary.wait_until(lambda: not any(node.in_flight for node in cluster.statistics().nodes))
        gevent.sleep(1.0)  # it is connected, and has lingered
        before = len(replica.commands("ROLE"))
        gevent.sleep(0.5)
        assert len(replica.commands("ROLE")) == before
        waiting.kill()


@pytest.mark.parametrize("leaves", [False, True])
def test_replicas_are_asked_no_longer_than_somebody_waits_for_a_primary_that_refuses(make, leaves):
    with FakeCluster(1, replicas=1) as fake:
        primary, replica = fake.nodes
        cluster = make(fake.seeds, timeout=60)
        cluster.connect()
        primary.stop()
        waiting = gevent.spawn(cluster.execute, "GET", "k")
        replica.wait_until(lambda: len(replica.commands("ROLE")) > 5)
        if leaves:
            waiting.kill()
        else:
            primary.start()
            assert waiting.get(timeout=20) is None
        gevent.sleep(1.0)  # they have lingered
        before = len(replica.commands("ROLE"))
        gevent.sleep(0.5)
        assert len(replica.commands("ROLE")) == before


def test_a_dead_primary_that_left_the_slot_map_and_came_back_into_it_is_found_when_it_serves_again(fake, make):
    def until(condition):
        with gevent.Timeout(10):
            while not condition():
                gevent.sleep(0.001)

    node, cluster = fake.nodes[0], make(timeout=60)
    cluster.connect()
    runtime, known = cluster._executor_here().runtime, cluster._state.topology
    other = known.node_at(fake.nodes[1].address)
    node.stop()
    waiting = gevent.spawn(cluster.execute, "GET", fake.key_at(node))
    until(lambda: any(expected == "to be back" for _, expected in runtime.failover._watched))
    runtime.adopt(replace(known, nodes=(other,), owners=(other,) * 16384, starts=()), monotonic())
    runtime.adopt(known, monotonic())
    until(lambda: runtime.nodes.pool_at(node.address).is_failing())
    gevent.sleep(0.1)  # the caller waits again
    node.start()
    assert waiting.get(timeout=20) is None
