"""The pools of exclusive connections: limits, fairness, what is lent again, and who may leave when."""

import os
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import greenlet
import pytest
from gevent.hub import get_hub

from gvcluster import (
    AuthFailed,
    ClosedError,
    Cluster,
    ConfigError,
    ConnectFailed,
    PoolFull,
    PoolTimeout,
)
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import NOT_HANDLED, Delay

NULL = b"*-1\r\n"


def pool_of(cluster: Cluster, node: Any) -> NodePool:
    """The pool of this hub."""
    return cluster._executor_here().runtime.nodes.pool_at(node.address)


def borrow(pool: NodePool, seconds: float = 5.0, **options: Any) -> MultiplexedConnection:
    return pool.wait_exclusive(monotonic() + seconds, **options)


def waits(cluster: Cluster, count: int) -> None:
    """Let greenlets run until so many wait for a connection."""
    until(lambda: cluster.statistics().exclusive.pending_requests == count)


def until(is_so: Callable[[], object]) -> None:
    """Let greenlets run until something is so."""
    with gevent.Timeout(5):
        while not is_so():
            gevent.sleep(0.001)


@pytest.fixture
def node(one_node: FakeCluster) -> Any:
    return one_node.nodes[0]


@pytest.fixture
def lend(one_node, connect_to) -> Callable[..., tuple[Cluster, NodePool]]:
    """`lend(**options)`: a Cluster of one node that has a lane open, and its pool."""

    def lend(**options: Any) -> tuple[Cluster, NodePool]:
        cluster = connect_to(one_node, **{"client_info": False, **options})
        return cluster, pool_of(cluster, one_node.nodes[0])

    return lend


# -- limits and fairness -----------------------------------------------------------------------------------------------


def test_f43_hundreds_on_a_cold_pool_are_served_in_their_order_over_few_connections(node, lend):
    cluster, pool = lend(max_connections=4)
    served: list[int] = []
    most = 0

    def work(number: int) -> None:
        nonlocal most
        connection = borrow(pool)
        served.append(number)
        most = max(most, node.connections.open)
        gevent.sleep(0.002)
        pool.give_back(connection, clean=True)

    gevent.joinall([gevent.spawn(work, number) for number in range(300)], raise_error=True, timeout=20)
    assert served == list(range(300))
    assert most <= 5  # the lane
    assert node.connections.accepted <= 5
    lent = cluster.statistics().exclusive
    assert (lent.granted, lent.returned, lent.used, lent.pending_requests, lent.max) == (300, 300, 0, 0, 4)
    assert lent.created == lent.idle <= 4
    assert lent.wait_time > lent.use_time / 4 > 0


def test_at_most_two_are_opened_at_a_time(node, lend):
    _, pool = lend(protocol=3)
    opening: list[Any] = []
    node.on("HELLO", lambda _node, connection, _args: opening.append(connection))
    borrowing = [gevent.spawn(borrow, pool) for _ in range(6)]
    served = 0
    while served < 6:
        node.wait_until(lambda: opening)
        gevent.sleep(0.01)
        assert len(opening) <= 2
        opening.pop(0).send(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        served += 1
    gevent.joinall(borrowing, raise_error=True, timeout=5)


def test_blocking_calls_have_a_limit_of_their_own(one_node, node, lend):
    cluster, pool = lend(max_connections=1, max_blocking=1, pool_timeout=0.05)
    borrow(pool)
    node.on("BLPOP", None)
    blocked = gevent.spawn(cluster.execute, "BLPOP", "k", 0)
    node.wait_until(lambda: node.commands("BLPOP"))
    refreshes = cluster.statistics().refreshes
    with pytest.raises(PoolTimeout, match="max_blocking") as caught:
        cluster.execute("BLPOP", "k", 0)
    error = caught.value
    assert (error.address, error.limit, error.waiting, error.maybe_executed) == (node.address, 1, 1, False)
    assert isinstance(error, TimeoutError)
    with pytest.raises(PoolTimeout, match="max_connections"):
        cluster.connection(node.address)
    statistics = cluster.statistics()
    assert (statistics.blocking.timeouts, statistics.exclusive.timeouts) == (1, 1)
    assert (statistics.refreshes, statistics.retries) == (refreshes, 0)  # pressure is not the node's fault
    assert cluster.execute("GET", "k") is None
    blocked.kill()


def test_the_calls_own_deadline_ends_the_wait_as_well(node, lend):
    cluster, pool = lend(max_connections=1)
    borrow(pool)
    with pytest.raises(PoolTimeout):
        cluster.connection(node.address, timeout=0.03)


def test_too_many_in_line_are_refused_at_once(node, lend):
    cluster, pool = lend(max_connections=2, max_waiting=1)
    first, _ = borrow(pool), borrow(pool)
    waiting = gevent.spawn(borrow, pool)
    waits(cluster, 1)
    with pytest.raises(PoolFull, match="max_waiting") as caught:
        cluster.connection(node.address)
    assert (caught.value.limit, caught.value.waiting) == (2, 1)
    pool.give_back(first, clean=True)
    assert waiting.get(timeout=5) is first


def test_without_a_waiting_line_there_is_still_room_for_the_first(lend):
    _, pool = lend(max_connections=2, max_waiting=0)
    borrow(pool), borrow(pool)
    with pytest.raises(PoolFull):
        borrow(pool)


@pytest.mark.parametrize(
    "options",
    [
        *({"max_connections": value} for value in (0, True, 1.5, None)),
        *({name: 0} for name in ("max_blocking", "pool_timeout", "max_idle_time", "max_lifetime")),
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Cluster("h:1", **options)


# -- what is lent again ------------------------------------------------------------------------------------------------


def test_what_came_back_clean_is_lent_again_the_last_one_first(node, lend):
    _, pool = lend()
    first, second = borrow(pool), borrow(pool)
    pool.give_back(first, clean=True)
    pool.give_back(second, clean=True)
    assert borrow(pool) is second
    assert borrow(pool) is first
    assert node.connections.accepted == 3


def test_what_is_not_clean_or_owes_a_reply_is_closed(node, lend):
    _, pool = lend()
    node.on("GET", None)
    dirty, owing = borrow(pool), borrow(pool)
    pool.give_back(dirty)
    asking = gevent.spawn(owing.call_within, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", monotonic() + 5)
    node.wait_until(lambda: node.commands("GET"))
    pool.give_back(owing, clean=True)
    assert dirty.closed
    assert owing.closed
    node.wait_until(lambda: node.connections.open == 1)
    asking.join(5)
    pool.give_back(owing, clean=True)  # a second time is no harm
    assert "0 lent, 0 idle" in repr(pool)


@pytest.mark.parametrize("stray", [b"+stray\r\n", b"$5\r\nab", b""])
def test_one_whose_end_or_stray_bytes_nobody_has_read_yet_is_not_lent(node, lend, stray):
    _, pool = lend()
    idle = borrow(pool)
    pool.give_back(idle, clean=True)
    theirs = max(node.open_connections, key=lambda connection: connection.number)
    if stray:
        theirs.send(stray)
    else:
        with socket.socket(fileno=os.dup(theirs.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)  # at once, while gevent's close may wait for the hub
    other = borrow(pool)  # the hub has not turned meanwhile
    assert other is not idle
    assert idle.closed
    assert not other.closed


def test_one_that_ends_while_idle_is_forgotten(node, lend):
    cluster, pool = lend()
    pool.give_back(borrow(pool), clean=True)
    max(node.open_connections, key=lambda connection: connection.number).reset()
    until(lambda: cluster.statistics().exclusive.idle == 0)
    assert not borrow(pool).closed


def test_idle_ones_are_closed_after_their_time_and_those_in_use_are_not(node, lend):
    cluster, pool = lend(max_idle_time=0.05)
    kept, idle = borrow(pool), borrow(pool)
    pool.give_back(idle, clean=True)
    until(lambda: idle.closed)
    assert not kept.closed
    assert cluster.execute("GET", "k") is None
    assert node.connections.accepted == 3


def test_old_ones_are_closed_when_idle_or_given_back(node, lend):
    _, pool = lend(max_lifetime=0.1)
    used, idle = borrow(pool), borrow(pool)
    pool.give_back(idle, clean=True)
    until(lambda: idle.closed)
    gevent.sleep(0.1)
    assert not used.closed
    pool.give_back(used, clean=True)
    assert used.closed


def test_close_idle_closes_idle_ones_only(node, lend):
    cluster, pool = lend()
    kept, idle = borrow(pool), borrow(pool)
    pool.give_back(idle, clean=True)
    assert cluster.close_idle() == 2  # and the lane
    assert idle.closed
    assert not kept.closed


def test_another_node_at_the_address_ends_the_loans_as_well(lend):
    _, pool = lend()
    idle, lent = borrow(pool), borrow(pool)
    pool.give_back(idle, clean=True)
    pool.renew()
    assert idle.closed
    pool.give_back(lent, clean=True)
    assert lent.closed


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_f41_who_is_killed_between_hand_over_and_waking_hands_it_on(lend):
    cluster, pool = lend(max_connections=1)
    connection = borrow(pool)
    killed, next_one = gevent.spawn(borrow, pool), gevent.spawn(borrow, pool)
    waits(cluster, 2)
    killed.kill(block=False)  # it is still parked
    pool.give_back(connection, clean=True)
    assert next_one.get(timeout=5) is connection
    assert cluster.statistics().exclusive.used == 1


def test_who_is_killed_does_not_abort_what_is_being_opened(node, lend):
    _, pool = lend(protocol=3)
    node.on("HELLO", Delay(0.1, b"%1\r\n$5\r\nproto\r\n:3\r\n"))
    killed = gevent.spawn(borrow, pool)
    node.wait_until(lambda: len(node.commands("HELLO")) == 2)
    killed.kill()
    assert borrow(pool) is not None
    assert node.connections.accepted == 2


def test_what_is_lost_on_the_way_is_not_lent_and_the_oldest_stays_the_oldest(lend):
    cluster, pool = lend(max_connections=1)
    connection = borrow(pool)
    served: list[str] = []

    def work(name: str) -> None:
        mine = borrow(pool)
        assert not mine.closed
        served.append(name)
        pool.give_back(mine, clean=True)

    working = [gevent.spawn(work, name) for name in "ab"]
    waits(cluster, 2)
    pool.give_back(connection, clean=True)
    connection.close()  # handed to a, who has not run yet
    gevent.joinall(working, raise_error=True, timeout=5)
    assert served == ["a", "b"]


def test_giving_back_never_switches(lend):
    _, pool = lend(max_connections=2)
    waiting = [gevent.spawn(borrow, pool) for _ in range(4)]
    gevent.joinall(waiting, timeout=0.5, count=2)
    mine, other = [each.value for each in waiting if each.ready()]
    switches: list[Any] = []
    before = greenlet.settrace(lambda event, arguments: switches.append(event))
    try:
        pool.give_back(mine, clean=True)
        pool.give_back(other)
    finally:
        greenlet.settrace(before)
    assert not switches
    gevent.killall(waiting)


class Scene:
    """Six greenlets borrow from a pool of two, send, and give back; one of them is the victim."""

    def __init__(self, fake: FakeCluster, cluster: Cluster, victim: int) -> None:
        self.node, self.cluster = fake.nodes[0], cluster
        self.pool = pool_of(cluster, self.node)
        self.errors: list[BaseException] = []
        self.greenlets = [gevent.spawn(self.work) for _ in range(6)]
        self.victim = self.greenlets[victim]

    def work(self) -> None:
        connection = borrow(self.pool)
        clean = False
        try:
            clean = connection.call_within(b"*1\r\n$4\r\nPING\r\n", monotonic() + 5) in (b"PONG", "PONG")
        finally:
            self.pool.give_back(connection, clean=clean)

    def check(self) -> None:
        """The others were served, nothing is missing, and all places can be lent at once."""
        assert len(gevent.joinall(self.greenlets, timeout=5)) == 6
        for each in self.greenlets:
            assert each.successful() or each is self.victim
        lent = [borrow(self.pool) for _ in range(2)]
        now = self.cluster.statistics().exclusive
        assert (now.used, now.idle, now.pending_requests) == (2, 0, 0)
        for connection in lent:
            self.pool.give_back(connection, clean=True)
        self.node.wait_until(lambda: self.node.connections.open == 3)


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout])
@pytest.mark.parametrize("victim", [0, 1, 3, 5])
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "a turn later"])
def test_a_throw_at_each_switch_of_a_borrower_loses_nothing(one_node, connect_to, error, victim, is_late):
    def throw_at(number: int) -> bool:
        cluster = connect_to(one_node, client_info=False, max_connections=2)
        cluster.connect()
        scene = Scene(one_node, cluster, victim)
        hub, passed, loop = get_hub(), [], get_hub().loop

        def note(event: str, arguments: Any) -> None:
            if event == "switch" and arguments[0] is scene.victim and arguments[1] is hub and not scene.victim.dead:
                passed.append(arguments)
                if len(passed) == number:
                    loop.run_callback(throw, is_late)

        def throw(again: bool) -> None:
            if again:
                loop.run_callback(throw, False)
            elif not scene.victim.dead:
                scene.victim.throw(error())

        before = greenlet.settrace(note)
        try:
            gevent.joinall(scene.greenlets, timeout=5)
        finally:
            greenlet.settrace(before)
        scene.check()
        cluster.close()
        scene.node.wait_until(lambda: scene.node.connections.open == 0)
        return len(passed) >= number

    number = 1
    while throw_at(number):
        number += 1
    assert number >= 3  # it waits for the connection, and for the reply


# -- trouble -----------------------------------------------------------------------------------------------------------


def test_those_who_wait_share_the_failure_of_an_attempt_and_nobody_tries_again_at_once(node, lend):
    failures: list[Any] = []
    _, pool = lend(on_connect=lambda connection, error: failures.append(error) if error else None, retry="never")
    node.stop()
    waiting = [gevent.spawn(borrow, pool) for _ in range(20)]
    gevent.joinall(waiting, timeout=5)
    assert {type(each.exception) for each in waiting} == {ConnectFailed}
    assert len({id(each.exception) for each in waiting}) == 20
    exclusive = len([error for error in failures if error.address == node.address])
    assert exclusive <= 6  # two of ours, the others are the client's, which looks for a slot map
    assert pool.health.failures


def test_while_some_are_lent_a_refused_connection_is_no_reason_to_fail_the_others(node, lend):
    cluster, pool = lend(max_connections=8, protocol=3)
    node.on(
        "HELLO", lambda *_: NOT_HANDLED if node.connections.open <= 3 else b"-ERR max number of clients reached\r\n"
    )
    served = 0

    def work() -> None:
        nonlocal served
        connection = borrow(pool)
        gevent.sleep(0.005)
        pool.give_back(connection, clean=True)
        served += 1

    gevent.joinall([gevent.spawn(work) for _ in range(20)], raise_error=True, timeout=10)
    assert served == 20
    assert cluster.statistics().exclusive.created == 2


def test_a_node_that_lets_nobody_in_is_told_as_that(node, lend):
    _, pool = lend(protocol=3)
    node.on("HELLO", b"-WRONGPASS no\r\n")
    with pytest.raises(AuthFailed):
        borrow(pool)
    with pytest.raises(AuthFailed):  # without asking
        borrow(pool)
    assert len(node.commands("HELLO")) == 2


def test_when_the_last_lent_one_is_gone_those_in_line_learn_that_the_node_refuses(node, lend):
    cluster, pool = lend(max_connections=2, connect_timeout=0.1, protocol=3)
    lent = borrow(pool)
    node.stop_accepting()
    waiting = gevent.spawn(borrow, pool)
    until(lambda: pool.health.failures)
    assert not waiting.ready()
    pool.give_back(lent)
    with pytest.raises(ConnectFailed):
        waiting.get(timeout=5)
    assert cluster.statistics().exclusive.pending_requests == 0


def test_those_in_line_have_the_node_tried_again_when_its_pause_is_over(node, lend):
    cluster, pool = lend(max_connections=2, protocol=3)
    lent = borrow(pool)
    node.on("HELLO", b"-ERR max number of clients reached\r\n", times=1)
    assert borrow(pool) is not lent
    assert pool.health.failures == 0
    assert cluster.statistics().exclusive.used == 2


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_node_that_leaves_lends_no_more_and_what_is_lent_ends_in_peace(fake, make):
    cluster = make(max_connections=2)
    cluster.connect()
    gone, other, _ = fake.nodes
    pool = pool_of(cluster, gone)
    idle, lent = borrow(pool), borrow(pool)
    waiting = gevent.spawn(borrow, pool)
    waits(cluster, 1)
    for slot in range(16384):
        if fake.owner(slot) is gone:
            fake.move_slot(slot, other)
    pool.retire()
    with pytest.raises(ConnectFailed, match="left the slot map"):
        waiting.get(timeout=5)
    with pytest.raises(ConnectFailed, match="left the slot map"):
        borrow(pool)
    assert lent.call_within(b"*1\r\n$4\r\nPING\r\n", monotonic() + 5) == "PONG" or not lent.closed
    pool.give_back(lent, clean=True)
    assert lent.closed
    pool.give_back(idle, clean=True)
    assert idle.closed


def test_who_came_for_a_slot_goes_elsewhere_when_it_moves_and_who_came_for_the_node_waits_on(node, lend):
    cluster, pool = lend(max_connections=1)
    connection = borrow(pool)
    for_slot, for_node = gevent.spawn(borrow, pool, on_slow=list), gevent.spawn(borrow, pool)
    waits(cluster, 2)
    pool.release_waiters()
    with pytest.raises(ConnectFailed, match="lost its slots"):
        for_slot.get(timeout=5)
    pool.give_back(connection, clean=True)
    assert for_node.get(timeout=5) is connection


def test_closing_tells_those_in_line_and_closes_all(node, lend):
    cluster, pool = lend(max_connections=2)
    idle, lent = borrow(pool), borrow(pool)
    pool.give_back(idle, clean=True)
    mine = borrow(pool)
    waiting = gevent.spawn(cluster.connection, node.address)
    waits(cluster, 1)
    cluster.close()
    with pytest.raises(ClosedError):
        waiting.get(timeout=5)
    assert mine.closed
    assert lent.closed
    node.wait_until(lambda: node.connections.open == 0)


def test_disconnect_lets_a_blocked_call_end(node, lend):
    cluster, _ = lend()
    node.on("BLPOP", Delay(0.1, NULL))
    blocked = gevent.spawn(cluster.execute, "BLPOP", "k", 1)
    node.wait_until(lambda: node.commands("BLPOP"))
    cluster.disconnect(timeout=5)
    assert blocked.get(timeout=5) is None
    node.wait_until(lambda: node.connections.open == 0)


def test_statistics_add_up_over_nodes_also_when_some_have_left(fake, make):
    cluster = make()
    cluster.connect()
    for node in fake.nodes[:2]:
        pool = pool_of(cluster, node)
        pool.give_back(borrow(pool), clean=True)
    before = cluster.statistics()
    assert (before.exclusive.created, before.exclusive.idle) == (2, 2)
    assert [each.exclusive.created for each in before.nodes if each.exclusive.idle] == [1, 1]
    for slot in range(16384):
        if fake.owner(slot) is fake.nodes[0]:
            fake.move_slot(slot, fake.nodes[1])
    fake.nodes[0].stop()
    nodes = cluster._executor_here().runtime.nodes
    nodes._retire_all_but({fake.nodes[1].address, fake.nodes[2].address})
    after = cluster.statistics()
    assert (after.exclusive.created, after.exclusive.idle) == (2, 1)


# -- warm-up -----------------------------------------------------------------------------------------------------------


def test_warming_up_opens_lanes_and_exclusive_connections(fake, make):
    cluster = make(lanes=2)
    assert cluster.warm_up(3) == 15
    assert cluster.statistics().exclusive.idle == 9
    assert cluster.warm_up(3) == 15
    assert cluster.statistics().exclusive.created == 9
    accepted = [node.connections.accepted for node in fake.nodes]
    with cluster.connection(fake.nodes[0].address) as connection:
        assert connection.execute("PING")
    assert [node.connections.accepted for node in fake.nodes] == accepted


def test_warming_up_counts_what_it_could_open(fake, cluster):
    gone = fake.nodes[2]
    gone.stop()
    until(lambda: not pool_of(cluster, gone).connections)
    assert cluster.warm_up(1, timeout=1) == 4


def test_warm_ups_do_not_wait_for_each_other_or_for_borrowers(node, lend):
    cluster, pool = lend(max_connections=4, timeout=5)
    warming = [gevent.spawn(cluster.warm_up, 4, timeout=30) for _ in range(3)]
    gevent.joinall(warming, timeout=5)
    assert [each.value for each in warming] == [5] * 3
    lent = [borrow(pool) for _ in range(2)]
    assert gevent.spawn(cluster.warm_up, 4, timeout=30).get(timeout=5) == 5
    for connection in lent:
        pool.give_back(connection, clean=True)
    assert cluster.statistics().exclusive.idle == 4


@pytest.mark.parametrize("connections", [-1, 33, True, 1.5])
def test_a_warm_up_that_makes_no_sense_is_refused(cluster, connections):
    with pytest.raises(ConfigError, match="connections"):
        cluster.warm_up(connections)
