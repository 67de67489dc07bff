"""Commands that no table lists: a node is asked once what they are, and for the keys of a call if only it can tell."""

import contextlib
import random

import gevent
import pytest
from gevent.event import AsyncResult, Event

from gvcluster.errors import (
    AuthFailed,
    BlockedInHub,
    ClosedError,
    ConfigError,
    CrossSlot,
    ProtocolError,
    RetriesExhausted,
    StatefulCommand,
    TopologyUnavailable,
    UnknownCommand,
)
from gvcluster.testing.answers import NOT_HANDLED, Close, encode_reply

RANGE = {"type": "range", "spec": {"lastkey": 0, "keystep": 1, "limit": 0}}
FIRST = {"flags": ["RO"], "begin_search": {"type": "index", "spec": {"index": 1}}, "find_keys": RANGE}
UNKNOWN = {"flags": [], "begin_search": {"type": "unknown", "spec": {}}, "find_keys": {"type": "unknown", "spec": {}}}


def entry(name, arity, flags=(), specs=(), subcommands=(), tips=()):
    """What COMMAND INFO says of a command."""
    return [name.encode(), arity, list(flags), 0, 0, 0, [], list(tips), list(specs), list(subcommands)]


class Server:
    """Fake nodes that know some more commands, and answer them with the node's number."""

    def __init__(self, fake, protocol):
        self.fake, self.protocol = fake, protocol
        self.entries = {}
        self.keys = {}  # name → a function from the arguments to the reply of GETKEYS
        self.asked = []  # (node's number, question)
        self.was_asked = Event()
        self.held = None  # an Event: COMMAND INFO is answered only after it
        for number, node in enumerate(fake.nodes):
            node.override = self.answers(number)

    def answers(self, number):
        def answer(_node, connection, args):
            name = args[0].decode().upper()
            if name in self.entries:
                return b":%d\r\n" % number
            if name != "COMMAND":
                return NOT_HANDLED
            self.asked.append((number, args[1:]))
            self.was_asked.set()
            return self.tell(connection, args[1:])

        return answer

    def tell(self, connection, question):
        name = question[1].decode().upper()
        if question[0] == b"INFO":
            reply = encode_reply([self.entries.get(name)], self.protocol)
        else:
            reply = encode_reply(self.keys[name](question[2:]), self.protocol)
        if self.held is None:
            return reply
        gevent.spawn(self.later, connection, reply)
        return None

    def later(self, connection, reply):
        self.held.wait()
        with contextlib.suppress(OSError):
            connection.send(reply)

    def wait_until_asked(self):
        assert self.was_asked.wait(10)


@pytest.fixture
def server(fake, protocol):
    return Server(fake, protocol)


@pytest.fixture
def known(server):
    """MY.GET, with its key as first argument."""
    server.entries["MY.GET"] = entry("my.get", 2, ["readonly"], [FIRST])
    return server


def test_an_unlisted_command_is_looked_up_once_and_goes_where_its_key_is(fake, known, cluster):
    for number, node in enumerate(fake.nodes):
        key = fake.key_at(node)
        assert cluster.execute("my.get", key) == number
        assert cluster.execute(b"MY.GET", key) == number
    assert [question for _, question in known.asked] == [[b"INFO", b"MY.GET"]]
    explanation = cluster.explain("MY.GET", "k")
    assert (explanation.keys, explanation.read_only, explanation.slot) == (("k",), True, cluster.hash_slot("k"))
    with pytest.raises(ConfigError, match=r"MY\.GET needs at least|MY\.GET needs 1 argument"):
        cluster.execute("MY.GET")


def test_the_question_goes_over_a_connection_that_is_there(fake, known, cluster):
    node = fake.nodes[1]
    cluster.close_idle()
    cluster.execute("GET", fake.key_at(node))
    accepted = [each.connections.accepted for each in fake.nodes]
    assert cluster.execute("MY.GET", fake.key_at(node)) == 1
    assert [number for number, _ in known.asked] == [1]
    assert [each.connections.accepted for each in fake.nodes] == accepted


def test_many_who_ask_at_the_same_time_ask_once_and_nobody_else_waits(fake, known, cluster):
    known.held = Event()
    key = fake.key_at(fake.nodes[2])
    callers = [gevent.spawn(cluster.execute, "MY.GET", key) for _ in range(20)]
    known.wait_until_asked()
    for node in fake.nodes:  # a server answers in order: the one that is asked owes its answer first
        if node is not fake.nodes[known.asked[0][0]]:
            assert cluster.execute("GET", fake.key_at(node)) is None
    assert not any(caller.ready() for caller in callers)
    callers[0].kill()  # who asked first leaves: the others get their answer all the same
    known.held.set()
    assert [caller.get(timeout=10) for caller in callers[1:]] == [2] * 19
    assert len(known.asked) == 1


def test_what_no_node_knows_is_refused_and_asked_again_next_time(fake, server, cluster):
    for count in (1, 2):
        with pytest.raises(
            UnknownCommand, match="does not know this command, and the command table does not"
        ) as caught:
            cluster.execute("MY.GETT", "secret")
        assert "node= or route_key=" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert not caught.value.maybe_executed
        assert len(server.asked) == count
    server.entries["MY.GETT"] = entry("my.gett", 2, [], [FIRST])  # MODULE LOAD
    assert cluster.execute("MY.GETT", fake.key_at(fake.nodes[1])) == 1


def test_an_unlisted_subcommand_is_looked_up_with_its_container(fake, server, cluster):
    server.entries["MY"] = entry(
        "my",
        -2,
        subcommands=[entry("my|get", 3, [], [FIRST | {"begin_search": {"type": "index", "spec": {"index": 2}}}])],
    )
    assert cluster.execute("MY", "GET", fake.key_at(fake.nodes[1])) == 1
    with pytest.raises(UnknownCommand, match="MY 'SET'"):
        cluster.execute("MY", "SET", "k")
    with pytest.raises(UnknownCommand, match="CLUSTER 'SOON'"):
        cluster.execute("CLUSTER", "SOON")
    assert [question[1] for _, question in server.asked] == [b"MY", b"MY", b"CLUSTER"]


def test_a_command_for_many_nodes_and_one_without_keys(fake, server, cluster):
    server.entries["MY.SIZE"] = entry("my.size", 1, tips=["request_policy:all_shards"])
    server.entries["MY.PING"] = entry("my.ping", 1)
    assert cluster.execute("MY.SIZE") == {node.address: node.index for node in fake.nodes}
    assert cluster.execute("MY.SIZE", node=fake.nodes[2].address) == 2
    assert cluster.execute("MY.PING") in (0, 1, 2)


def test_what_a_server_renamed_is_refused_like_the_original(fake, server, cluster):
    server.entries["HIDDEN"] = entry("auth", -2)
    with pytest.raises(StatefulCommand, match="username="):
        cluster.execute("HIDDEN", "user", "secret")
    assert all(work[0] == b"COMMAND" for node in fake.nodes for work in node.work())


# -- keys that only a server can tell ----------------------------------------------------------------------------------


@pytest.fixture
def movable(server):
    """MY.COPY, whose keys are its last arguments; only the server knows how many."""
    server.entries["MY.COPY"] = entry("my.copy", -2, ["movablekeys"], [UNKNOWN])
    server.keys["MY.COPY"] = lambda args: args[-2:]
    return server


def test_keys_that_only_a_server_can_tell_are_asked_for_with_every_call(fake, movable, cluster):
    for number, node in enumerate(fake.nodes):
        key = fake.key_at(node)
        assert cluster.execute("MY.COPY", 3, 1.5, b"\r\n", key, key) == number
    questions = [question for _, question in movable.asked]
    assert questions[0] == [b"INFO", b"MY.COPY"]
    assert [question[:5] for question in questions[1:]] == [[b"GETKEYS", b"MY.COPY", b"3", b"1.5", b"\r\n"]] * 3


def test_keys_told_by_a_server_must_belong_to_one_slot(fake, movable, cluster):
    with pytest.raises(CrossSlot) as caught:
        cluster.execute("MY.COPY", "a", "b")
    assert caught.value.keys == (b"a", b"b")
    assert [node.work() for node in fake.nodes if any(work[0] == b"MY.COPY" for work in node.work())] == []


def test_no_keys_are_asked_for_where_the_caller_says_where_to_send_it(fake, movable, cluster):
    cluster.execute("MY.COPY", "{x}a", "{x}b")
    asked = len(movable.asked)
    assert cluster.execute("MY.COPY", "a", "b", node=fake.nodes[1].address) == 1
    assert cluster.execute("MY.COPY", "a", "b", route_key=fake.key_at(fake.nodes[2])) == 2
    assert len(movable.asked) == asked


def test_a_call_in_which_the_server_finds_no_keys_goes_anywhere(fake, movable, cluster):
    movable.keys["MY.COPY"] = lambda _: Exception("ERR The command has no key arguments")
    assert cluster.execute("MY.COPY", "x") in (0, 1, 2)


def test_arguments_that_make_no_sense_to_the_server_are_refused(fake, movable, cluster):
    movable.keys["MY.COPY"] = lambda _: Exception("ERR Invalid arguments specified for command")
    with pytest.raises(ConfigError, match=r"finds no keys in these arguments of MY\.COPY: ERR Invalid"):
        cluster.execute("MY.COPY", "x")
    movable.keys["MY.COPY"] = lambda _: [1, 2]
    with pytest.raises(ProtocolError, match="no list of keys"):
        cluster.execute("MY.COPY", "x")


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [b"-LOADING not yet\r\n", b"-BUSY a script runs\r\n", Close()])
def test_another_node_is_asked_where_one_cannot_tell(fake, known, cluster, trouble):
    asked = []

    def refuse_first(node, connection, args):
        if args[0] == b"COMMAND":
            asked.append(node)
            return trouble if len(asked) == 1 else known.tell(connection, args[1:])
        return b":7\r\n" if args[0] == b"MY.GET" else NOT_HANDLED

    for node in fake.nodes:
        node.override = refuse_first
    assert cluster.execute("MY.GET", "k") == 7
    assert len(asked) == len(set(map(id, asked))) == 2


def test_who_may_not_ask_is_told_so(fake, known, cluster):
    for node in fake.nodes:
        node.override = lambda *_: b"-NOPERM User x has no permissions to run the 'command|info' command\r\n"
    with pytest.raises(UnknownCommand, match=r"does not tell what it is.*NOPERM.*node= or route_key=") as caught:
        cluster.execute("MY.GET", "k")
    assert isinstance(caught.value.__cause__, AuthFailed)


@pytest.mark.parametrize("reply", [b"+OK\r\n", b":1\r\n", b"*1\r\n:1\r\n", b"*1\r\n*1\r\n+my.get\r\n", b"%0\r\n"])
def test_an_answer_that_makes_no_sense_is_an_error(fake, known, make, reply):
    cluster = make(protocol=3)
    cluster.connect()
    for node in fake.nodes:
        node.override = lambda _node, _connection, args: reply if args[0] == b"COMMAND" else NOT_HANDLED
    with pytest.raises(ProtocolError, match="COMMAND INFO with nonsense"):
        cluster.execute("MY.GET", "k")
    assert cluster.execute("GET", "k") is None


def test_an_inquiry_ends_at_the_deadline_of_the_call_and_later_calls_may_wait_longer(fake, known, make):
    cluster = make(command_timeout=5.0)
    cluster.connect()
    known.held = Event()
    patient = gevent.spawn(cluster.execute, "MY.GET", fake.key_at(fake.nodes[0]), timeout=20)
    known.wait_until_asked()
    with pytest.raises(RetriesExhausted, match=r"no node told in time what 'MY\.GET' is") as caught:
        cluster.execute("MY.GET", "k", timeout=0.05)
    assert not caught.value.maybe_executed
    known.held.set()
    assert patient.get(timeout=10) == 0
    assert len(known.asked) == 1


def test_nobody_who_tells_in_time_ends_the_call(fake, known, cluster):
    for node in fake.nodes:
        node.on("COMMAND", b"-LOADING not yet\r\n")
        node.override = None
    with pytest.raises(RetriesExhausted, match="in time"):
        cluster.execute("MY.GET", "k", timeout=0.1)


def test_closing_ends_an_inquiry(fake, known, cluster):
    known.held = Event()
    caller = gevent.spawn(cluster.execute, "MY.GET", "k")
    known.wait_until_asked()
    cluster.close()
    with pytest.raises(ClosedError):
        caller.get(timeout=10)


def test_who_may_wait_longer_than_the_first_who_asked_gets_the_answer(fake, known, cluster):
    tell, known.tell = known.tell, lambda *_: b"-LOADING not yet\r\n"
    first = gevent.spawn(cluster.execute, "MY.GET", "k", timeout=0.2)
    patient = gevent.spawn(cluster.execute, "MY.GET", fake.key_at(fake.nodes[1]), timeout=20)
    with pytest.raises(RetriesExhausted):
        first.get(timeout=10)
    known.tell = tell
    assert patient.get(timeout=10) == 1


def test_closing_ends_the_question_for_keys(fake, movable, cluster):
    cluster.execute("MY.COPY", "{x}a", "{x}b")
    movable.was_asked.clear()
    movable.held = Event()
    caller = gevent.spawn(cluster.execute, "MY.COPY", "{x}a", "{x}b")
    movable.wait_until_asked()
    cluster.close()
    with pytest.raises(ClosedError):
        caller.get(timeout=5)


def test_closing_ends_an_inquiry_that_waits_for_the_first_map(fake, make):
    for node in fake.nodes:
        node.on("CLUSTER", None)
    cluster = make()
    caller = gevent.spawn(cluster.execute, "MY.GET", "k")
    gevent.sleep(0)
    cluster.close()
    with pytest.raises(ClosedError):
        caller.get(timeout=5)


def test_who_may_wait_longer_for_the_first_map_than_the_first_who_asked_gets_the_answer(fake, known, make):
    asked, held = Event(), [True]
    for node in fake.nodes:
        node.on("CLUSTER", lambda *_: asked.set() if held else NOT_HANDLED)
    cluster = make()
    first = gevent.spawn(cluster.execute, "MY.GET", "k", timeout=0.5)
    assert asked.wait(10)
    patient = gevent.spawn(cluster.execute, "MY.GET", fake.key_at(fake.nodes[1]), timeout=20)
    with pytest.raises((RetriesExhausted, TopologyUnavailable)):
        first.get(timeout=10)
    held.clear()
    assert patient.get(timeout=15) == 1


def test_an_unlisted_command_may_be_the_first_one(fake, known, make):
    assert make().execute("MY.GET", fake.key_at(fake.nodes[2])) == 2


# -- what the user tells -----------------------------------------------------------------------------------------------


def test_what_the_user_tells_is_not_asked(fake, server, make):
    for name in ("MY.GET", "MY.SET"):
        server.entries[name] = entry(name.lower(), 2)
    first = {"begin_search": {"index": {"pos": 1}}, "find_keys": {"range": {"lastkey": 0, "step": 1, "limit": 0}}}
    cluster = make(command_table={"MY.GET": {"arity": 2, "key_specs": [first]}})
    cluster.register_command("my.set", 3, (1, 1, 1))
    key = fake.key_at(fake.nodes[1])
    assert cluster.execute("MY.GET", key) == 1
    assert cluster.execute("MY.SET", key, "value") == 1
    assert server.asked == []
    assert make().explain("GET", "k").keys == ("k",)
    with pytest.raises(UnknownCommand):
        make().explain("MY.GET", "k")  # each Cluster has its own


def test_a_registered_command_that_blocks_has_a_connection_of_its_own(fake, server, cluster):
    server.entries["MY.POP"] = entry("my.pop", 2)
    cluster.register_command("MY.POP", 2, (1, 1, 1), blocking=True)
    key = fake.key_at(fake.nodes[1])
    cluster.execute("GET", key)
    accepted = fake.nodes[1].connections.accepted
    assert cluster.execute("MY.POP", key) == 1
    assert fake.nodes[1].connections.accepted == accepted + 1


def test_what_is_listed_is_not_registered(cluster):
    with pytest.raises(ConfigError, match="lists GET already"):
        cluster.register_command("get", 2, (1, 1, 1))


def test_a_table_that_cannot_be_read_is_refused_at_once(fake, make):
    with pytest.raises(ConfigError, match="command_table"):
        make(command_table="/nowhere/at/all.json")
    with pytest.raises(ConfigError, match="arity"):
        make(command_table={"MY.GET": {}})


def test_random_names_are_forgotten(fake, server, cluster):
    rng = random.Random(3)
    for _ in range(20):
        with pytest.raises(UnknownCommand):
            cluster.execute(f"MY{rng.random()}")
    assert len(cluster._state.additions) == 0


def test_pipelines_and_submitted_commands_know_what_was_registered_or_learned(fake, known, cluster):
    known.entries["MY.SET"] = entry("my.set", 2)
    cluster.register_command("MY.SET", 2, (1, 1, 1))
    keys = [fake.key_at(node) for node in fake.nodes]
    assert cluster.execute("MY.GET", keys[0]) == 0
    pipe = cluster.pipeline()
    for key in keys:
        pipe.append("MY.SET", key)
        pipe.append("MY.GET", key)
    assert pipe.execute() == [0, 0, 1, 1, 2, 2]
    assert cluster.submit("MY.SET", keys[2]).get(timeout=10) == 2
    assert len(known.asked) == 1
    with pytest.raises(UnknownCommand):  # it must not wait for an answer
        cluster.submit("MY.OTHER", keys[2])


def test_a_pipeline_asks_about_an_unlisted_command_when_it_is_appended(fake, known, cluster):
    pipe = cluster.pipeline()
    keys = [fake.key_at(node) for node in fake.nodes]
    for key in keys:
        pipe.append("MY.GET", key)
    assert [question for _, question in known.asked] == [[b"INFO", b"MY.GET"]]
    with pytest.raises(UnknownCommand, match="does not know this command"):
        pipe.append("MY.OTHER", keys[0])
    assert pipe.execute() == [0, 1, 2]


def test_in_the_hub_a_pipeline_asks_nobody(fake, known, cluster):
    told: AsyncResult[object] = AsyncResult()

    def append() -> None:
        try:
            told.set(cluster.pipeline().append("MY.GET", "k"))
        except BlockedInHub as error:
            told.set_exception(error)

    gevent.get_hub().loop.run_callback(append)
    with pytest.raises(BlockedInHub):
        told.get(timeout=5)
    assert known.asked == []
