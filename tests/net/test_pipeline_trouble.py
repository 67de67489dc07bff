"""Pipelines on a bad day: redirects, lost nodes, deadlines, kills. Each command comes to an end of its own."""

from typing import Any

import gevent
import pytest
from calls import Steady
from gevent.event import Event
from gevent.monkey import get_original

from gvcluster import (
    ClosedError,
    ConnectFailed,
    ConnectionLost,
    PoolFull,
    Redirected,
    ReplyError,
    ReplyTimeout,
    RetriesExhausted,
    SlotNotCovered,
    TopologyUnavailable,
    hash_slot,
)
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import NOT_HANDLED, Close, Reset, encode_reply


def names(node: Any) -> list[bytes]:
    return [b" ".join(args) for args in node.work()]


def appended(cluster: Any, *commands: tuple[Any, ...], **options: Any) -> Any:
    pipe = cluster.pipeline(**options)
    for command in commands:
        pipe.append(*command)
    return pipe


# -- redirects ---------------------------------------------------------------------------------------------------------


def test_moved_commands_wait_for_their_block_and_go_together_in_their_order(fake, cluster):
    old, new, _ = fake.nodes
    stays, moves = fake.key_at(old, "stays"), fake.key_at(old, "moves")
    cluster.execute("GET", fake.key_at(new))
    fake.move_slot(hash_slot(moves), new)
    pipe = appended(
        cluster,
        ("SET", moves, "1"),
        ("SET", stays, "a"),
        ("INCR", moves),
        ("GET", stays),
        ("INCR", moves),
        ("GET", moves),
    )
    assert pipe.execute() == [b"OK", b"OK", 2, b"a", 3, b"3"]
    key, other = moves.encode(), stays.encode()
    assert names(old) == [
        b"SET " + key + b" 1",
        b"SET " + other + b" a",
        b"INCR " + key,
        b"GET " + other,
        b"INCR " + key,
        b"GET " + key,
    ]
    assert names(new)[1:] == [b"SET " + key + b" 1", b"INCR " + key, b"INCR " + key, b"GET " + key]
    assert (cluster.statistics().redirects, cluster.statistics().retries) == (4, 0)
    assert [len(node.commands("SET")) for node in fake.nodes] == [2, 1, 0]


def test_asked_commands_have_asking_in_front_of_each_and_the_map_stays(fake, cluster):
    old, new, _ = fake.nodes
    key = fake.key_at(old)
    fake.begin_migration(hash_slot(key), new)
    pipe = appended(cluster, ("SET", key, "1"), ("INCR", key), ("GET", key))
    assert pipe.execute() == [b"OK", 2, b"2"]
    assert [name.split()[0] for name in names(new)] == [b"ASKING", b"SET", b"ASKING", b"INCR", b"ASKING", b"GET"]
    assert cluster.statistics().redirects == 3
    pipe = appended(cluster, ("GET", key))
    assert pipe.execute() == [b"2"]
    assert len(old.commands("GET")) == 2  # asked first again: ASK is not MOVED


def test_some_are_asked_some_moved_some_answered_and_the_order_of_the_results_is_kept(fake, cluster):
    one, two, three = fake.nodes
    keys = [fake.key_at(one, f"{number}:") for number in range(9)]
    for key in keys[::3]:
        fake.move_slot(hash_slot(key), two)
    for key in keys[1::3]:
        fake.begin_migration(hash_slot(key), three)
    pipe = appended(cluster, *[("SET", key, number) for number, key in enumerate(keys)])
    for key in keys:
        pipe.append("GET", key)
    assert pipe.execute() == [b"OK"] * 9 + [b"%d" % number for number in range(9)]
    assert cluster.statistics().redirects == 12
    assert [len(node.commands("SET")) for node in fake.nodes] == [9, 3, 3]


def test_where_asking_is_refused_too_that_is_said_and_the_others_have_their_replies(fake, cluster):
    old, new, _ = fake.nodes
    key, fine = fake.key_at(old), fake.key_at(new)
    fake.begin_migration(hash_slot(key), new)
    new.on("ASKING", b"-NOPERM no ASKING for you\r\n")
    replies = appended(cluster, ("SET", key, "1"), ("SET", fine, "2"), timeout=0.5).execute()
    assert "ASKING" in str(replies[0])
    assert replies[1] == b"OK"


@pytest.mark.parametrize(
    "error", ["TRYAGAIN later", "CLUSTERDOWN The cluster is down", "LOADING wait", "MASTERDOWN wait", "READONLY not me"]
)
def test_those_that_the_server_may_take_later_wait_once_and_go_together(fake, make, error):
    cluster = make(rng=Steady())
    node = fake.nodes[0]
    keys = [fake.key_at(node, f"{number}:") for number in range(4)]
    cluster.execute("GET", keys[0])
    node.received.clear()
    node.on("SET", f"-{error}\r\n".encode(), times=4)
    pipe = appended(cluster, *[("SET", key, "v") for key in keys], ("GET", keys[0]))
    assert pipe.execute() == [b"OK"] * 4 + [None]
    assert [name.split()[1] for name in names(node)] == [key.encode() for key in [*keys, keys[0], *keys]]
    assert cluster.statistics().retries == 4


def test_what_the_server_refuses_for_good_is_that_commands_alone_and_sent_once(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    node.on("INCR", b"-OOM command not allowed\r\n")
    replies = appended(cluster, ("SET", key, "1"), ("INCR", key), ("GET", key)).execute()
    assert replies[::2] == [b"OK", b"1"]
    assert (replies[1].code, replies[1].maybe_executed) == ("OOM", False)
    assert len(node.commands("INCR")) == 1


def test_retry_never_repeats_nothing_but_follows_redirects(fake, cluster):
    old, new, _ = fake.nodes
    key, moves = fake.key_at(old, "a"), fake.key_at(old, "b")
    fake.move_slot(hash_slot(moves), new)
    old.on("INCR", b"-TRYAGAIN\r\n")
    replies = appended(cluster, ("INCR", key), ("SET", moves, "1"), retry="never").execute()
    assert (replies[0].code, replies[1]) == ("TRYAGAIN", b"OK")
    assert len(old.commands("INCR")) == 1


def test_a_moved_pingpong_ends_for_these_commands_alone(fake, make):
    one, two, _ = fake.nodes
    cluster = make(max_redirects=3)
    key, fine = fake.key_at(one, "bad"), fake.key_at(one, "fine")
    cluster.connect()
    one.on("SET", f"-MOVED {hash_slot(key)} {two.address}\r\n".encode())
    two.on("SET", f"-MOVED {hash_slot(key)} {one.address}\r\n".encode())
    replies = appended(cluster, ("SET", key, "1"), ("GET", fine), ("SET", key, "2")).execute()
    assert [type(reply) for reply in replies] == [RetriesExhausted, type(None), RetriesExhausted]
    assert [len(reply.attempts) for reply in replies[::2]] == [4, 4]
    assert not replies[0].maybe_executed
    assert replies[0] is not replies[2]


def test_an_unserved_slot_is_that_commands_alone_after_one_fetch(fake, cluster):
    node = fake.nodes[0]
    gone, fine = fake.key_at(node, "gone"), fake.key_at(node, "fine")
    fake.move_slot(hash_slot(gone), None)
    cluster.refresh()
    maps = sum(len(each.commands("CLUSTER SLOTS")) for each in fake.nodes)
    replies = appended(cluster, ("SET", gone, "1"), ("SET", fine, "2"), ("GET", gone)).execute()
    assert [type(reply) for reply in replies] == [SlotNotCovered, bytes, SlotNotCovered]
    assert sum(len(each.commands("CLUSTER SLOTS")) for each in fake.nodes) == maps + 1
    fake.move_slot(hash_slot(gone), node)
    assert appended(cluster, ("SET", gone, "1"), ("SET", fine, "2")).execute() == [b"OK", b"OK"]


def test_a_scripts_forged_redirect_sends_nothing_anywhere(fake, cluster):
    node, other, _ = fake.nodes
    key = fake.key_at(node)
    node.on("EVAL", f"-MOVED {hash_slot(key)} {other.address}\r\n".encode())
    replies = appended(cluster, ("EVAL", "return 1", 1, key), ("GET", key)).execute()
    assert (replies[0].code, replies[0].maybe_executed, replies[1]) == ("MOVED", True, None)
    assert names(other) == []
    assert len(node.commands("EVAL")) == 1


def test_redirects_of_one_node_do_not_wait_for_another_that_is_silent(fake, make):
    silent, old, new = fake.nodes
    cluster = make(command_timeout=1.0)
    cluster.connect()
    key = fake.key_at(old)
    fake.move_slot(hash_slot(key), new)
    silent.on("INCR", None)
    pipe = appended(cluster, ("INCR", fake.key_at(silent)), ("SET", key, "v"), timeout=1.0)
    executing = gevent.spawn(pipe.execute)
    new.wait_until(lambda: new.commands("SET"))
    assert not executing.ready()
    replies = executing.get(timeout=5)
    assert isinstance(replies[0], ReplyTimeout | ConnectionLost)
    assert replies[1] == b"OK"


# -- lost nodes --------------------------------------------------------------------------------------------------------


def test_a_lost_node_fails_only_its_own_commands_and_only_those_not_answered(fake, cluster):
    lost, fine, _ = fake.nodes
    keys = [fake.key_at(lost, f"{number}:") for number in range(4)]
    for key in keys:
        cluster.execute("SET", key, "1")
    lost.on("INCR", lambda node, connection, args: Reset() if args[1] == keys[2].encode() else NOT_HANDLED)
    pipe = appended(cluster, *[("INCR", key) for key in keys], ("SET", fake.key_at(fine), "v"))
    replies = pipe.execute()
    assert replies[:2] == [2, 2]
    assert [type(reply) for reply in replies[2:]] == [ConnectionLost, ConnectionLost, bytes]
    assert [reply.maybe_executed for reply in replies[2:4]] == [True, True]
    assert replies[2] is not replies[3]
    assert all(isinstance(reply.__cause__, OSError) for reply in replies[2:4])
    assert len(lost.commands("INCR")) == 3


def test_reads_of_a_lost_node_are_read_again_and_writes_are_not(fake, cluster):
    node = fake.nodes[0]
    keys = [fake.key_at(node, f"{number}:") for number in range(3)]
    for key in keys:
        cluster.execute("SET", key, "1")
    node.received.clear()
    node.on("GET", Reset(), times=1)
    replies = appended(cluster, ("GET", keys[0]), ("INCR", keys[1]), ("GET", keys[1]), ("GET", keys[2])).execute()
    assert isinstance(replies[1], ConnectionLost)
    assert replies[1].maybe_executed
    assert replies[::2] == [b"1", b"1"]
    assert replies[3] == b"1"
    assert [name.split()[0] for name in names(node)] == [b"GET"] * 4


def test_retry_always_repeats_writes_as_well(fake, cluster):
    node = fake.nodes[0]
    key = fake.key_at(node)
    cluster.execute("SET", key, "1")
    node.on("INCR", Close(), times=1)
    assert appended(cluster, ("INCR", key), ("INCR", key), retry="always").execute() == [2, 3]


def test_what_the_kernel_did_not_take_is_proved_not_executed_command_by_command(one_node, connect_to):
    node = one_node.nodes[0]
    value = b"x" * 300_000
    frozen = Event()

    def freeze(_node: Any, _connection: Any, args: list[bytes]) -> Any:
        if args[0] != b"SET":
            return NOT_HANDLED
        frozen.set()
        node.freeze()
        return None

    cluster = connect_to(one_node, client_info=False, retry="never", command_timeout=20, timeout=20)
    cluster.execute("GET", "k")
    node.override = freeze
    pipe = appended(cluster, *[("SET", f"k{number}", value) for number in range(100)])
    executing = gevent.spawn(pipe.execute)
    assert frozen.wait(5)
    gevent.sleep(0.1)
    node.thaw()
    node.reset_connections()
    replies = executing.get(timeout=10)
    assert {type(reply) for reply in replies} == {ConnectionLost}
    told = [reply.maybe_executed for reply in replies]
    assert told == sorted(told, reverse=True)
    assert told[0] is True
    assert told[-1] is False
    assert len(node.commands("SET")) <= sum(told)


def test_a_node_that_refuses_connections_fails_its_commands_and_no_others(fake, make):
    dead, fine, _ = fake.nodes
    cluster = make(str(fine.address))
    cluster.connect()
    dead.stop()
    replies = appended(
        cluster, ("SET", fake.key_at(dead), "v"), ("SET", fake.key_at(fine), "v"), retry="never"
    ).execute()
    assert isinstance(replies[0], ConnectFailed)
    assert not replies[0].maybe_executed
    assert replies[1] == b"OK"


def test_commands_for_a_dead_primary_wait_for_its_successor(make, protocol):
    with FakeCluster(2, replicas=1) as fake:
        dead, fine, heir, _ = fake.nodes
        cluster = make(str(fine.address), timeout=10)
        cluster.connect()
        keys = [fake.key_at(dead, f"{number}:") for number in range(3)]
        pipe = appended(cluster, *[("SET", key, "v") for key in keys], ("SET", fake.key_at(fine), "v"))
        dead.stop()
        executing = gevent.spawn(pipe.execute)
        fine.wait_until(lambda: fine.commands("SET"))
        fake.promote(heir)
        assert executing.get(timeout=10) == [b"OK"] * 4
        assert [args[1] for args in heir.commands("SET")] == [key.encode() for key in keys]
        cluster.close()


def test_a_nodes_overdue_replies_are_dropped_and_the_connection_lives_on(fake, make):
    node = fake.nodes[0]
    cluster = make()
    key = fake.key_at(node)
    cluster.execute("GET", key)
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    pipe = appended(cluster, ("SET", key, "1"), ("SET", key, "2"), ("SET", key, "3"), timeout=0.1)
    executing = gevent.spawn(pipe.execute)
    node.wait_until(lambda: len(held) == 3)
    node.on("GET", None)
    held[0].send(b"+OK\r\n")
    replies = executing.get(timeout=5)
    assert replies[0] == b"OK"
    assert [type(reply) for reply in replies[1:]] == [ReplyTimeout] * 2
    assert all(reply.maybe_executed for reply in replies[1:])
    later = gevent.spawn(cluster.execute, "GET", key)
    node.wait_until(lambda: len(node.commands("GET")) == 2)
    held[0].send(b"+LATE\r\n+LATER\r\n+MINE\r\n")
    assert later.get(timeout=5) == b"MINE"
    assert node.connections.accepted == 1


def test_a_connection_that_is_closed_by_the_user_ends_each_command_with_an_error(fake, cluster):
    for node in fake.nodes:
        node.on("SET", None)
    keys = [fake.key_at(node) for node in fake.nodes]
    executing = gevent.spawn(appended(cluster, *[("SET", key, "v") for key in keys]).execute)
    for node in fake.nodes:
        node.wait_until(lambda node=node: node.commands("SET"))
    cluster.close()
    replies = executing.get(timeout=5)
    assert [type(reply) for reply in replies] == [ClosedError] * 3
    assert all(reply.maybe_executed for reply in replies)


@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
def test_disconnect_lets_a_pipeline_end_and_redirects_are_the_callers(fake, cluster, kind):
    node, other, _ = fake.nodes
    key = fake.key_at(node)
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    executing = gevent.spawn(appended(cluster, ("SET", key, "1"), ("SET", key, "2")).execute)
    node.wait_until(lambda: len(held) == 2)
    leaving = gevent.spawn(cluster.disconnect)
    gevent.sleep(0)
    held[0].send(f"+OK\r\n-{kind} {hash_slot(key)} {other.address}\r\n".encode())
    replies = executing.get(timeout=5)
    assert replies[0] == b"OK"
    assert isinstance(replies[1], Redirected)
    leaving.get(timeout=5)
    assert other.commands("SET") == []


def test_without_a_slot_map_each_command_is_told_so(protocol):
    from gvcluster import Cluster

    with FakeCluster(1) as fake:
        cluster = Cluster(fake.seeds, protocol=protocol, timeout=1)
        fake.nodes[0].on("CLUSTER SLOTS", b"-LOADING wait\r\n")
        replies = appended(cluster, ("SET", "a", "1"), ("GET", "b")).execute()
        assert [type(reply) for reply in replies] == [TopologyUnavailable] * 2
        assert replies[0] is not replies[1]
        assert replies[0].failures
        assert not replies[0].maybe_executed
        cluster.close()


def test_bytes_that_are_no_resp_end_the_connection_and_the_rest_of_the_block(fake, cluster):
    node = fake.nodes[0]
    keys = [fake.key_at(node, f"{number}:") for number in range(3)]
    node.on("SET", lambda _node, _connection, args: NOT_HANDLED if args[1] == keys[0].encode() else b"?what\r\n")
    replies = appended(cluster, *[("SET", key, "v") for key in keys]).execute()
    assert replies[0] == b"OK"
    assert [type(reply) for reply in replies[1:]] == [ConnectionLost] * 2
    assert "not RESP" in str(replies[1])


# -- a lane that is full -----------------------------------------------------------------------------------------------


def test_a_pipeline_is_one_call_of_a_lane_and_waits_for_room_or_hears_that_there_is_none(fake, make):
    node = fake.nodes[0]
    cluster = make(max_in_flight=1, max_waiting=1)
    key = fake.key_at(node)
    cluster.execute("GET", key)
    held: list[Any] = []
    node.on("SET", lambda _node, connection, _args: held.append(connection))
    commands = [("SET", key, number) for number in range(3)]
    first, second, third = [gevent.spawn(appended(cluster, *commands).execute) for _ in range(3)]
    replies = third.get(timeout=5)
    assert [type(reply) for reply in replies] == [PoolFull] * 3
    assert not any(reply.maybe_executed for reply in replies)
    node.wait_until(lambda: len(held) == 3)
    assert not first.ready()
    held[0].send(b"+OK\r\n" * 3)
    node.wait_until(lambda: len(held) == 6)
    held[0].send(b"+OK\r\n" * 3)
    assert (first.get(timeout=5), second.get(timeout=5)) == ([b"OK"] * 3, [b"OK"] * 3)
    assert sum(each.in_flight for each in cluster.statistics().nodes) == 0


# -- kills and timeouts ------------------------------------------------------------------------------------------------


class Scene:
    """A new cluster and a pipeline that meets all there is: a first map, connections, MOVED, ASK, TRYAGAIN, a loss."""

    def __init__(self, protocol: int) -> None:
        from gvcluster import Cluster

        self.fake = FakeCluster(3).start()
        one, two, three = self.fake.nodes
        self.cluster = Cluster(self.fake.seeds, protocol=protocol, client_info=False, rng=Steady())
        self.keys = [self.fake.key_at(node, f"{letter}:") for node in self.fake.nodes for letter in "abcd"]
        moved, asked = hash_slot(self.keys[0]), hash_slot(self.keys[1])
        for node in self.fake.nodes:
            node.on("CLUSTER SLOTS", encode_reply(self.fake.slot_ranges()))
        self.fake.move_slot(moved, two)
        self.fake.begin_migration(asked, three)
        one.on("INCR", b"-TRYAGAIN later\r\n", times=1)
        self.pipe = self.cluster.pipeline()
        for key in self.keys:
            self.pipe.append("SET", key, key)
        for key in self.keys[2:4]:
            self.pipe.append("DEL", key)
            self.pipe.append("INCR", key)
        for key in self.keys:
            self.pipe.append("GET", key)
        stored: list[Any] = [key.encode() for key in self.keys]
        stored[2:4] = [None, b"1"]  # its INCR has waited, and the GET behind it has not
        self.expected = [b"OK"] * 12 + [1, 1, 1, 1] + stored

    def check(self) -> None:
        """Nobody is left behind, nothing was sent twice, and the same connections still answer rightly."""
        for number, key in enumerate(self.keys):
            name = f"{key}:after:{number}"
            assert self.cluster.execute("ECHO", name, route_key=key) == name.encode()
        again = self.cluster.pipeline()
        for number, key in enumerate(self.keys):
            again.append("ECHO", f"{number}", route_key=key)
        assert again.execute() == [b"%d" % number for number in range(len(self.keys))]
        for node in self.fake.nodes:
            sent = [args[1] for args in node.commands("SET")]
            assert len(sent) == len(set(sent)), "a write was sent twice to one node"
            assert node.connections.accepted == 1
        assert self.cluster.statistics().nodes
        # A question for the slot map, after the redirects, may be under way just now.
        self.fake.nodes[0].wait_until(lambda: sum(each.in_flight for each in self.cluster.statistics().nodes) == 0)

    def end(self) -> None:
        self.cluster.close()
        self.fake.stop()


def run_until_turn(protocol: int, turn: int, error: Any) -> bool:
    """Execute, and throw the error at the caller after so many turns of the loop. Returns whether it was in time."""
    scene = Scene(protocol)
    try:
        executing = gevent.spawn(scene.pipe.execute)
        for _ in range(turn):
            gevent.sleep(0)
        was_in_time = not executing.ready()
        if was_in_time:
            executing.kill(error(), timeout=5)
            assert executing.ready()
            assert len(scene.pipe) == 0 or turn == 0
        else:
            assert executing.get() == scene.expected
        scene.check()
        return was_in_time
    finally:
        scene.end()


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, lambda: ZeroDivisionError("mine")])
def test_a_throw_at_the_caller_in_any_turn_of_the_loop_leaves_all_sound(protocol, error):
    turn, hits = 0, 0
    while run_until_turn(protocol, turn, error):
        hits += 1
        turn += 1 + max(0, turn - 20) // 2
    assert hits > 10


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout])
def test_a_throw_at_each_switch_of_the_caller_leaves_all_sound(protocol, error):
    """The caller parks for the first map and for its replies: at each of its switches it is thrown at at once."""
    import greenlet

    def throw_at(number: int) -> bool:
        scene = Scene(protocol)
        executing = gevent.spawn(scene.pipe.execute)
        hub, passed = gevent.get_hub(), []

        def note(event: str, arguments: Any) -> None:
            if event == "switch" and arguments[0] is executing and arguments[1] is hub and not executing.dead:
                passed.append(arguments)
                if len(passed) == number:
                    hub.loop.run_callback(executing.throw, error())

        before = greenlet.settrace(note)
        try:
            executing.join(5)
        finally:
            greenlet.settrace(before)
        try:
            assert executing.ready()
            if len(passed) < number:
                assert executing.get() == scene.expected
            else:
                assert not executing.successful() or isinstance(executing.value, gevent.GreenletExit)
            scene.check()
        finally:
            scene.end()
        return len(passed) >= number

    number = 1
    while throw_at(number):
        number += 1
    assert number >= 3


def test_a_timeout_with_commands_unsent_never_sends_them(one_node, connect_to):
    node = one_node.nodes[0]
    cluster = connect_to(one_node, client_info=False)
    pipe = appended(cluster, ("SET", "a", "1"), ("SET", "b", "2"))
    executing = gevent.spawn(pipe.execute)
    gevent.get_hub().loop.run_callback(executing.throw, gevent.Timeout())  # after it has queued, before the flush
    executing.join(5)
    assert isinstance(executing.exception, gevent.Timeout)
    gevent.sleep(0.01)
    assert cluster.execute("ECHO", "x") == b"x"
    assert node.commands("SET") == []


def test_a_killed_pipelines_mended_commands_are_not_sent_any_more(fake, make):
    node = fake.nodes[0]
    cluster = make(rng=Steady())
    key = fake.key_at(node)
    node.on("SET", b"-TRYAGAIN\r\n")
    executing = gevent.spawn(appended(cluster, ("SET", key, "1")).execute)
    node.wait_until(lambda: len(node.commands("SET")) == 4)
    gevent.sleep(0.01)  # the reply is in, and it waits for 80 ms
    executing.kill()
    sent = len(node.commands("SET"))
    gevent.sleep(0.3)
    assert len(node.commands("SET")) == sent


def test_replies_that_nobody_waits_for_are_not_kept(one_node, connect_to):
    """Many long replies to a killed caller: they are dropped as they come."""
    import resource

    node = one_node.nodes[0]
    cluster = connect_to(one_node, client_info=False)
    big = b"$100000\r\n" + b"x" * 100_000 + b"\r\n"
    node.on("GET", big)
    executing = gevent.spawn(appended(cluster, *[("GET", "k")] * 1000).execute)
    node.wait_until(lambda: node.commands("GET"))
    executing.kill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert cluster.execute("ECHO", "x") == b"x"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60_000, f"{grown} KiB were kept"


def test_an_error_reply_in_a_nested_reply_is_left_alone(fake, cluster):
    node = fake.nodes[0]
    node.on("ECHO", b"*2\r\n-MOVED 1 1.2.3.4:5\r\n+OK\r\n")
    pipe = cluster.pipeline()
    pipe.append("ECHO", "x", node=node.address)
    replies = pipe.execute()
    assert isinstance(replies[0][0], ReplyError)
    assert replies[0][1] in (b"OK", "OK")


@pytest.mark.parametrize("met", ["refused", "moved"])
def test_what_is_under_way_again_when_a_late_hub_finds_the_time_over_may_have_run(fake, make, met):
    """The first attempt was not executed; the second one may be, though nothing of it has come back in time."""
    node, other = fake.nodes[:2]
    key = fake.key_at(node)
    moved = f"-MOVED {hash_slot(key)} {other.address}\r\n".encode()
    attempts: list[str] = []

    def hold_up_the_hub() -> None:
        get_original("time", "sleep")(1.0)

    def answer(asked: Any, _connection: object, _args: list[bytes]) -> Any:
        attempts.append(asked.address)
        if len(attempts) == 1:
            return moved if met == "moved" else b"-TRYAGAIN not yet\r\n"
        gevent.spawn(hold_up_the_hub)  # until the deadline, and all timers behind it, are past
        return None

    for each in fake.nodes:
        each.on("INCR", answer)
    cluster = make(fake.seeds, rng=Steady())
    cluster.execute("GET", key)
    cluster.execute("GET", fake.key_at(other))
    (error,) = appended(cluster, ("INCR", key), timeout=0.5).execute()
    assert len(attempts) == 2
    assert (type(error), error.maybe_executed) == (ReplyTimeout, True)
