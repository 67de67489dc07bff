"""Calls of scripts: when the source is sent, and when NOSCRIPT is believed."""

import hashlib

import gevent
import pytest
from calls import begin, ends

from gvcluster import BlockedInHub, ClosedError, ConfigError, CrossSlot, NoScript, ReplyTimeout, Script
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import Close, Delay

SOURCE = "return redis.call('incr', KEYS[1])"
SHA = hashlib.sha1(SOURCE.encode()).hexdigest()
KEY = "{k}1"
NOSCRIPT = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"


class Lua:
    """Has a node run scripts: each counts, and returns how often it has run."""

    def __init__(self, node) -> None:
        self.node, self.known, self.runs = node, set(), 0
        self.denials: list[object] = []  # what the next calls by digest are answered, whatever is known
        for name in ("EVAL", "EVAL_RO", "EVALSHA", "EVALSHA_RO", "SCRIPT LOAD", "SCRIPT EXISTS"):
            node.on(name, self._answer)

    def _answer(self, _node, _connection, args: list[bytes]) -> bytes:
        name = args[0].upper()
        if name == b"SCRIPT" and args[1] == b"EXISTS":
            return b"*1\r\n:%d\r\n" % (args[2].decode() in self.known)
        if name in (b"EVALSHA", b"EVALSHA_RO"):
            if self.denials:
                return self.denials.pop(0)
            if args[1].decode() not in self.known:
                return NOSCRIPT
        else:
            sha = hashlib.sha1(args[-1] if name == b"SCRIPT" else args[1]).hexdigest()
            self.known.add(sha)
            if name == b"SCRIPT":
                return b"$40\r\n%s\r\n" % sha.encode()
        self.runs += 1
        return b":%d\r\n" % self.runs


@pytest.fixture
def node(fake):
    return fake.node_for_key(KEY)


@pytest.fixture
def lua(node) -> Lua:
    return Lua(node)


def names(node) -> list[str]:
    """What the node was asked, without keys and arguments."""
    return [b" ".join(args[: 2 if args[0] == b"SCRIPT" else 1]).decode() for args in node.work()]


def test_the_first_call_over_a_connection_carries_the_source_and_the_others_the_digest(cluster, node, lua):
    script = cluster.script(SOURCE)
    assert [script([KEY], ["a"]) for _ in range(3)] == [1, 2, 3]
    assert names(node) == ["SCRIPT LOAD", "EVAL", "EVALSHA", "EVALSHA"]
    assert node.commands("EVAL") == [[b"EVAL", SOURCE.encode(), b"1", KEY.encode(), b"a"]]
    assert node.commands("EVALSHA")[0] == [b"EVALSHA", SHA.encode(), b"1", KEY.encode(), b"a"]


def test_it_tells_what_it_is(cluster):
    script = cluster.script(SOURCE)
    assert isinstance(script, Script)
    assert (script.sha, script.source, script.read_only) == (SHA, SOURCE.encode(), False)
    assert SHA in repr(script)


def test_a_new_connection_is_sent_the_source_again(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY])
    script([KEY])
    lua.known.clear()  # as a node that comes back
    node.reset_connections()
    gevent.sleep(0.01)
    assert script([KEY]) == 3
    assert names(node) == ["SCRIPT LOAD", "EVAL", "EVALSHA", "SCRIPT LOAD", "EVAL"]
    assert cluster.statistics().retries == 0


def test_scripts_do_not_mix(cluster, node, lua):
    one, two = cluster.script(SOURCE), cluster.script(SOURCE + " ")
    assert one.sha != two.sha
    one([KEY]), two([KEY]), one([KEY]), two([KEY])
    assert [args[1].decode() for args in node.commands("EVALSHA")] == [one.sha, two.sha]


def test_two_objects_of_one_source_share_what_is_loaded(cluster, node, lua):
    cluster.script(SOURCE)([KEY])
    cluster.script(SOURCE.encode())([KEY])
    assert names(node) == ["SCRIPT LOAD", "EVAL", "EVALSHA"]


def test_many_at_once_send_the_source_but_load_it_once(cluster, node, lua):
    script = cluster.script(SOURCE)
    cluster.execute("GET", KEY)
    calls = [gevent.spawn(script, [KEY]) for _ in range(20)]
    assert sorted(ends(*calls)) == list(range(1, 21))
    assert names(node).count("SCRIPT LOAD") == 1
    assert len(node.commands("EVAL")) == 20


def test_after_a_flush_it_is_sent_again_when_the_node_has_confirmed_that_it_is_missing(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY]), script([KEY])
    lua.known.clear()
    assert script([KEY]) == 3
    assert script([KEY]) == 4
    assert names(node)[3:] == ["EVALSHA", "SCRIPT EXISTS", "SCRIPT LOAD", "EVAL", "EVALSHA"]
    assert cluster.statistics().retries == 1


def test_a_crowd_after_a_flush_has_no_error(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY])
    script([KEY])
    lua.known.clear()
    calls = [gevent.spawn(script, [KEY]) for _ in range(30)]
    assert sorted(ends(*calls, within=5)) == list(range(3, 33))


def test_who_hears_of_a_flush_when_others_have_loaded_it_again_has_no_error_either(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY]), script([KEY], bulk=True)
    lua.known.clear()
    lua.denials.append(Delay(0.3, NOSCRIPT))
    late = gevent.spawn(script, [KEY], bulk=True)  # over a connection of its own
    node.wait_until(lambda: len(node.commands("EVALSHA")) == 1)
    assert script([KEY]) == 3
    assert script([KEY]) == 4
    assert lua.known == {SHA}
    assert ends(late) == [5]
    assert len(node.commands("SCRIPT EXISTS")) == 1


def test_noscript_that_the_node_does_not_confirm_is_raised_and_nothing_runs_twice(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY])
    node.on("EVALSHA", NOSCRIPT)  # a script that says so after it has written
    with pytest.raises(NoScript, match="made this up") as caught:
        script([KEY])
    assert caught.value.maybe_executed
    assert names(node) == ["SCRIPT LOAD", "EVAL", "EVALSHA", "SCRIPT EXISTS"]


class Rival:
    """A second client, which loads the script again between NOSCRIPT of the first and its question."""

    def __init__(self, node, lua: Lua, run) -> None:
        self.lua, self.run = lua, run
        node.on("SCRIPT EXISTS", self._answer)

    def _answer(self, node, connection, args: list[bytes]) -> bytes:
        if not self.lua.known:
            self.run()
        return self.lua._answer(node, connection, args)


@pytest.fixture
def rival(make, fake, node, lua):
    """Runs the script at the first question of the cluster, and has it loaded before."""
    other = make(fake.seeds)
    script = other.script(SOURCE)
    script([KEY])
    return Rival(node, lua, lambda: other.execute("EVAL", SOURCE, 1, KEY))


def test_a_write_is_in_doubt_if_another_client_has_loaded_its_script_again_since_the_flush(cluster, node, lua, rival):
    """The script could as well have written, and made NOSCRIPT up: two clients and a flush look the same."""
    script = cluster.script(SOURCE)
    assert script([KEY]) == 2
    lua.known.clear()
    with pytest.raises(NoScript, match="made this up") as caught:
        script([KEY])
    assert caught.value.maybe_executed
    assert lua.runs == 3, "that of the rival"
    assert script([KEY]) == 4


@pytest.mark.parametrize("way", ["alone", "node", "pipeline"])
@pytest.mark.parametrize("said", ["read_only", "always"])
def test_what_may_run_twice_has_no_error_if_another_client_has_loaded_its_script_again(
    cluster, node, lua, rival, said, way
):
    script = cluster.script(SOURCE, read_only=said == "read_only")
    options = {} if said == "read_only" else {"retry": "always"}
    where = {"node": node.address} if way == "node" else {}
    assert script([KEY]) == 2
    lua.known.clear()
    if way == "pipeline":
        with cluster.pipeline(**options) as pipe:
            pipe.append_script(script, [KEY])
            assert pipe.execute() == [4]
    else:
        assert script([KEY], **options, **where) == 4
    assert len(node.commands("SCRIPT EXISTS")) == 1
    assert script([KEY]) == 5


def test_a_script_that_makes_noscript_up_and_may_run_twice_is_sent_once_more_with_its_source(cluster, node, lua):
    script = cluster.script(SOURCE, read_only=True)
    script([KEY])
    for name in ("EVALSHA_RO", "EVAL_RO"):
        node.on(name, NOSCRIPT)
    with pytest.raises(NoScript) as caught:
        script([KEY])
    assert caught.value.maybe_executed
    assert names(node) == ["SCRIPT LOAD", "EVAL_RO", "EVALSHA_RO", "SCRIPT EXISTS", "EVAL_RO"]


def test_noscript_of_a_call_with_its_source_is_the_scripts_own(cluster, node, lua):
    node.on("EVAL", NOSCRIPT)
    with pytest.raises(NoScript) as caught:
        cluster.script(SOURCE)([KEY])
    assert caught.value.maybe_executed
    assert names(node) == ["SCRIPT LOAD", "EVAL"]


@pytest.mark.parametrize("answer", [b"-NOPERM no\r\n", b"+OK\r\n", b"*0\r\n", Close()])
def test_a_node_that_does_not_tell_confirms_nothing(cluster, node, lua, answer):
    script = cluster.script(SOURCE)
    script([KEY])
    lua.known.clear()
    node.on("SCRIPT EXISTS", answer)
    with pytest.raises(NoScript) as caught:
        script([KEY])
    assert caught.value.maybe_executed
    assert lua.runs == 1


@pytest.mark.parametrize("answer", [b"-NOPERM no permissions to run 'script|load'\r\n", b"+OK\r\n", b"-ERR x\r\n"])
def test_who_may_not_load_sends_the_source_each_time(cluster, node, lua, answer):
    node.on("SCRIPT LOAD", answer)
    script = cluster.script(SOURCE)
    assert [script([KEY]) for _ in range(3)] == [1, 2, 3]
    assert names(node) == ["SCRIPT LOAD", "EVAL", "EVAL", "EVAL"]


@pytest.mark.parametrize("options", [{"retry": "never"}, {"node": True}])
def test_what_a_node_does_not_have_it_has_not_run_so_that_it_is_sent_even_if_nothing_is_to_be_repeated(
    cluster, node, lua, options
):
    options = {"node": node.address} if "node" in options else options
    script = cluster.script(SOURCE)
    script([KEY])
    lua.known.clear()
    assert script([KEY], **options) == 2
    assert names(node)[2:] == ["EVALSHA", "SCRIPT EXISTS", "SCRIPT LOAD", "EVAL"]
    node.on("EVALSHA", NOSCRIPT)  # unconfirmed
    with pytest.raises(NoScript) as caught:
        script([KEY], **options)
    assert caught.value.maybe_executed
    assert lua.runs == 2


def test_a_node_that_could_not_load_it_for_a_while_is_asked_again(cluster, node, lua):
    node.on("SCRIPT LOAD", b"-BUSY a script runs\r\n")
    script = cluster.script(SOURCE)
    assert script([KEY]) == 1
    node.on("SCRIPT LOAD", lua._answer)
    assert [script([KEY]), script([KEY])] == [2, 3]
    assert names(node) == ["SCRIPT LOAD", "EVAL", "SCRIPT LOAD", "EVAL", "EVALSHA"]


def test_scripts_that_are_made_up_all_the_time_cost_no_more_and_more_memory(cluster, node, lua):
    known = cluster._executor_here().attempts.scripts
    known.most = 8
    for number in range(30):
        script = cluster.script(f"{SOURCE} -- {number}")
        assert (script([KEY]), script([KEY])) == (4 * number + 1, 4 * number + 2)
        lua.known.clear()
        assert (script([KEY]), script([KEY])) == (4 * number + 3, 4 * number + 4)
    assert max(len(known._missed), *map(len, known._loaded.values())) <= 8


def test_in_a_pipeline_too(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY])
    for place, options in (({}, {"retry": "never"}), ({"node": node.address}, {})):
        lua.known.clear()
        with cluster.pipeline(**options) as pipe:
            pipe.append_script(script, [KEY], **place)
            pipe.append_script(script, [KEY], **place)
            first, second = pipe.execute()
        assert second == first + 1
    assert lua.runs == 5


def test_a_redirected_call_brings_its_source_where_it_is_not_known(fake, cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY]), script([KEY])
    other = next(each for each in fake.nodes if each is not node)
    there = Lua(other)
    node.on("EVALSHA", f"-MOVED {cluster.hash_slot(KEY)} {other.address}\r\n".encode())
    fake.move_slot(cluster.hash_slot(KEY), other)
    assert script([KEY]) == 1
    assert there.known == {SHA}


def test_a_call_with_a_connection_of_its_own_carries_the_source(cluster, node, lua):
    script = cluster.script(SOURCE)
    assert script([KEY], command_timeout=9) == 1
    assert names(node) == ["EVAL"]


def test_a_read_only_script_is_called_so_and_by_replicas_too(make):
    with FakeCluster(nodes=1, replicas=1) as fake:
        primary, replica = fake.nodes
        at_primary, at_replica = Lua(primary), Lua(replica)
        cluster = make(fake.seeds, read_from="prefer_replica")
        script = cluster.script(SOURCE, read_only=True)
        assert [script([KEY]) for _ in range(3)] == [1, 2, 3]
        assert names(replica) == ["READONLY", "SCRIPT LOAD", "EVAL_RO", "EVALSHA_RO", "EVALSHA_RO"]
        at_replica.known.clear()
        assert script([KEY]) == 4
        assert at_primary.runs == 0


def test_in_a_pipeline_as_alone(fake, cluster, node, lua):
    script = cluster.script(SOURCE)
    with cluster.pipeline() as pipe:
        for round_of_calls in range(2):
            pipe.append("SET", "{k}x", "y")
            pipe.append_script(script, [KEY], ["a"])
            pipe.append_script(script, [KEY])
            assert pipe.execute() == [b"OK", 2 * round_of_calls + 1, 2 * round_of_calls + 2]
    assert names(node) == ["SCRIPT LOAD", "SET", "EVAL", "EVAL", "SET", "EVALSHA", "EVALSHA"]


def test_in_a_pipeline_after_a_flush(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY])
    lua.known.clear()
    with cluster.pipeline() as pipe:
        for _ in range(3):
            pipe.append_script(script, [KEY])
        assert pipe.execute() == [2, 3, 4]
    assert lua.runs == 4


def test_in_a_pipeline_noscript_that_is_not_confirmed_is_that_commands_error(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY])
    lua.denials.append(NOSCRIPT)
    with cluster.pipeline() as pipe:
        for _ in range(2):
            pipe.append_script(script, [KEY])
        first, second = pipe.execute()
    assert isinstance(first, NoScript)
    assert first.maybe_executed
    assert second == 2


def test_what_makes_no_sense_is_refused_before_anything_is_sent(cluster, node, lua):
    script = cluster.script(SOURCE)
    with pytest.raises(ConfigError, match="keys must be a list"):
        script(KEY)
    with pytest.raises(ConfigError, match="argument 3"):
        script([True])
    with pytest.raises(CrossSlot):
        script(["a", "b"])
    with pytest.raises(ConfigError, match="unknown option"):
        script([KEY], nonsense=1)
    with pytest.raises(ConfigError, match="str or bytes"):
        cluster.script(None)
    with cluster.pipeline() as pipe, pytest.raises(ConfigError, match=r"Cluster\.script"):
        pipe.append_script(SOURCE, [KEY])
    assert node.work() == []


def test_nothing_is_sent_when_a_script_is_made_and_it_can_be_made_early(make):
    cluster = make()
    cluster.script(SOURCE)
    assert cluster.statistics().nodes == ()


def test_it_may_not_wait_in_the_hub_nor_after_the_end(cluster, lua):
    script = cluster.script(SOURCE)
    met = []

    def call() -> None:
        try:
            script([KEY])
        except BlockedInHub as error:
            met.append(error)

    gevent.get_hub().loop.run_callback(call)
    gevent.sleep(0.01)
    assert len(met) == 1
    cluster.close()
    with pytest.raises(ClosedError):
        script([KEY])


def test_calls_that_are_killed_leave_the_connection_sound(cluster, node, lua):
    script = cluster.script(SOURCE)
    for _ in range(3):
        calls = [gevent.spawn(script, [KEY]) for _ in range(10)]
        gevent.sleep(0)
        gevent.killall(calls[::2])
        assert all(isinstance(value, int) for value in ends(*calls[1::2]))
    assert ends(begin(cluster, "GET", KEY)) == [None]
    assert node.connections.accepted <= 2


def test_what_a_call_by_digest_may_have_done_is_told_where_there_is_no_time_to_send_the_source(cluster, node, lua):
    script = cluster.script(SOURCE)
    script([KEY], node=node.address)
    lua.denials.append(NOSCRIPT)
    for name in ("SCRIPT EXISTS", "EVAL"):
        node.on(name, None)
    with pytest.raises(ReplyTimeout) as caught:
        script([KEY], node=node.address, retry="always", timeout=0.3)
    assert caught.value.maybe_executed
