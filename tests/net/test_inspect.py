"""`gvcluster topology`, `doctor` and `exec` as a user meets them: what is printed where, and the exit codes."""

import fcntl
import io
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent.os
import gevent.subprocess
import pytest

from gvcluster.cli import main
from gvcluster.cli.inspect.commands import doctor, exec_, topology
from gvcluster.cli.inspect.execute import holds_secret, shows_secret
from gvcluster.cli.inspect.replies import as_json, as_raw, as_text
from gvcluster.core.address import Address
from gvcluster.errors import ReplyError
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import Close, encode_reply

GONE = "127.0.0.1:1"
# The command in a process of its own: unpatched, in RESP3.
of_its_own = pytest.mark.unaffected_by("patched")


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    """Three shards of two nodes, one in a zone."""
    with FakeCluster(3, replicas=1) as cluster:
        for node in cluster.nodes:
            node.on("INFO", encode_reply(b"# Server\r\nvalkey_version:9.1.2\r\nrun_id:aa\r\n"))
            node.on("CONFIG GET", encode_reply([b"cluster-node-timeout", b"2000"], 2))
        cluster.nodes[0].availability_zone = "zone-a"
        yield cluster


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what the tests' own shell may have set."""
    for name in ("SEEDS", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"GVCLUSTER_{name}", raising=False)


def run_on_terminal(arguments: list[str], until: bytes = b"") -> tuple[int, str, str]:
    """Run a command on a pseudo-terminal: its exit code, what was on it, and the same without what moves and colours.

    `until`: what must be seen before Ctrl-C is pressed.

    Blocks: until it has ended; other greenlets run meanwhile.
    """
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "gvcluster.cli", *arguments]
    process = gevent.subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    gevent.os.make_nonblocking(mine)
    seen = b""
    try:
        while data := gevent.os.nb_read(mine, 65536):
            seen += data
            if until and until in seen:
                process.send_signal(signal.SIGINT)
                until = b""
    except OSError:
        pass  # EIO: the last one who had it open is gone
    finally:
        os.close(mine)
    text = seen.decode().replace("\r\n", "\n")
    return process.wait(timeout=30), text, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


# -- topology


def test_a_pipe_gets_one_line_for_each_node(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", str(fake.nodes[0].address)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    first, second, *others = printed.splitlines()
    assert first == (
        f"shard=1 primary {fake.nodes[0].address} id={fake.nodes[0].id} slots=5462 ranges=0-5461 zone=zone-a "
        "hostname=- version=valkey-9.1.2 state=ok"
    )
    assert second.startswith(f"shard=1 replica {fake.nodes[3].address} ")
    assert len(others) == 4


def test_json_tells_the_same_and_holes_are_the_exit_code(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    for slot in (1, 2, 16383):
        fake.move_slot(slot, None)
    fake.nodes[4].stop()
    assert main(["topology", fake.seeds, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["uncovered"] == [[1, 2], [16383, 16383]]
    assert told["covered"] == 16381
    assert [len(shard["nodes"]) for shard in told["shards"]] == [2, 2, 2]
    assert told["shards"][0]["ranges"] == [[0, 0], [3, 5461]]
    assert told["shards"][0]["nodes"][0]["zone"] == "zone-a"
    assert told["shards"][1]["nodes"][1]["trouble"].startswith("no connection to")


@of_its_own
def test_a_terminal_of_80_columns_gets_bars_and_colours(fake: FakeCluster) -> None:
    fake.move_slot(16383, None)
    code, coloured, text = run_on_terminal(["topology", str(fake.nodes[0].address)])
    assert code == 1
    assert "\x1b[" in coloured
    lines = text.splitlines()
    assert lines[0] == "16383 of 16384 slots, 3 shards, 6 nodes, valkey 9.1.2"
    assert lines[2] == "shard 1  ██████████▒·····················  5462 slots  0-5461"
    assert lines[3] == f"  primary {fake.nodes[0].address}  zone zone-a  valkey 9.1.2"
    assert lines[-1] == "nobody   ·······························▒     1 slots  16383"
    assert max(map(len, lines)) <= 80


@of_its_own
def test_watching_on_a_terminal_has_a_screen_of_its_own_and_gives_it_back(fake: FakeCluster) -> None:
    code, coloured, text = run_on_terminal(["topology", fake.seeds, "--watch"], until=b"Ctrl-C ends")
    assert code == 0
    assert coloured.startswith("\x1b[?1049h")
    assert coloured.endswith("\x1b[?1049l")
    assert "shard 3  ·····················▒██████████" in text


@of_its_own
def test_watching_on_a_pipe_prints_when_something_changes_and_ends_well_with_ctrl_c(fake: FakeCluster) -> None:
    command = [sys.executable, "-m", "gvcluster.cli", "topology", fake.seeds, "--watch", "--interval", "0.1"]
    process = gevent.subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        before = [process.stdout.readline().decode() for _ in range(6)]
        looks = len(fake.nodes[5].commands("INFO"))
        # So that what does not change would have been printed again by then.
        fake.nodes[5].wait_until(lambda: len(fake.nodes[5].commands("INFO")) > looks + 2)
        fake.promote(3)
        after = [process.stdout.readline().decode() for _ in range(6)]
    finally:
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (0, b"")
    assert f"shard=1 primary {fake.nodes[0].address} " in before[0]
    assert f"shard=1 primary {fake.nodes[3].address} " in after[0]
    assert all(re.match(r"\d\d:\d\d:\d\d shard=", line) for line in before + after)


@of_its_own
def test_watching_with_json_prints_an_object_for_each_look(fake: FakeCluster) -> None:
    command = [sys.executable, "-m", "gvcluster.cli", "topology", fake.seeds, "--watch", "--json", "--interval", "0.1"]
    process = gevent.subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert [len(look["shards"]) for look in looks] == [3, 3, 3]
    assert all(look["time"] for look in looks)


def test_a_cluster_that_nobody_serves_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", GONE, "--timeout", "0.3"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gvcluster topology: no usable slot map (127.0.0.1:1: no connection")
    assert printed.err.count("\n") == 1


# -- doctor


def test_the_doctor_ends_with_the_severity_of_the_worst(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", fake.seeds]) == 0
    assert main(["doctor", fake.seeds, "--timeout", "1"]) == 1
    fake.move_slot(3, None)
    assert main(["doctor", fake.seeds]) == 3
    printed = capsys.readouterr()
    assert "error: slots-not-covered: nobody serves 1 slot of 16384: 3\n" in printed.out
    assert "\x1b" not in printed.out
    assert printed.err == ""


def test_the_doctor_in_json_is_one_object(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", str(fake.nodes[0].address)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["severity"] == "note"
    assert {"name", "severity", "what", "means", "client", "todo", "nodes"} == set(told["findings"][0])
    assert len(told["nodes"]) == 6


@of_its_own
def test_the_doctor_on_a_terminal_has_a_bar_colours_and_lines_that_fit(fake: FakeCluster) -> None:
    code, coloured, text = run_on_terminal(["doctor", str(fake.nodes[0].address), "--timeout", "1"])
    assert code == 1
    assert "asking the nodes ━" in text
    picture = text[text.index("Nodes\n") :].splitlines()
    assert max(map(len, picture)) <= 80
    assert not [line for line in picture if line != line.rstrip()]
    assert "\x1b[33m  warning \x1b[0m" in coloured
    assert any(
        line.startswith("  warning the client's timeout is 1 s, but a failover may take 5 s") for line in picture
    )
    assert picture[-1] == "1 warning, 2 notes."


# -- exec


def test_a_pipe_gets_the_bytes_as_they_are(fake: FakeCluster, capfdbinary: Any) -> None:
    assert main(["exec", "-s", fake.seeds, "SET", "k", "-1"]) == 0
    assert main(["exec", "-s", fake.seeds, "GET", "k"]) == 0
    assert main(["exec", "-s", fake.seeds, "MGET", "k", "{k}x"]) == 0
    assert capfdbinary.readouterr().out == b"OK\n-1\n-1\n\n"


@of_its_own
def test_a_terminal_gets_what_shows_types_and_can_not_move_the_cursor(fake: FakeCluster) -> None:
    key = fake.key_at(fake.nodes[2])
    fake.nodes[2].data[key.encode()] = b"\x1b[2Jx"
    code, seen, _ = run_on_terminal(["exec", "-s", fake.seeds, "GET", key])
    assert (code, seen) == (0, '"\\x1b[2Jx"\n')


def test_the_seeds_may_come_from_the_environment(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GVCLUSTER_SEEDS", fake.seeds)
    assert main(["exec", "--json", "INCR", "n"]) == 0
    assert json.loads(capsys.readouterr().out) == 1


def test_node_sends_it_there_and_follows_no_redirect(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    key = fake.key_at(fake.nodes[0])
    other = str(fake.nodes[1].address)
    assert main(["exec", "-s", fake.seeds, "--node", other, "GET", key]) == 1
    assert capsys.readouterr().err.startswith("gvcluster exec: MOVED ")
    assert fake.nodes[1].commands("GET") == [[b"GET", key.encode()]]
    assert fake.nodes[0].commands("GET") == []


def test_explain_says_where_it_would_go_and_sends_nothing(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    key = fake.key_at(fake.nodes[1])
    assert main(["exec", "-s", fake.seeds, "--explain", "--json", "SET", key, "v"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["nodes"] == [str(fake.nodes[1].address)]
    assert (told["command"], told["keys"], told["read_only"]) == ("SET", [key], False)
    assert not any(node.commands("SET") for node in fake.nodes)


def test_explain_knows_of_the_node_that_is_named(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    key = fake.key_at(fake.nodes[1])
    assert main(["exec", "-s", fake.seeds, "--explain", "--json", "--node", GONE, "GET", key]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == [GONE]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ("GET", 2, "GET needs 1 argument"),
        ("MGET a b", 2, "slot"),
        ("SUBSCRIBE c", 2, "SUBSCRIBE"),
        ("INCR text", 1, "ERR value is not an integer"),
    ],
)
def test_errors_are_one_line_and_have_an_exit_code(
    arguments: str, code: int, complaint: str, fake: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    for node in fake.nodes:
        node.data[b"text"] = b"abc"
    assert main(["exec", "-s", fake.seeds, *arguments.split()]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gvcluster exec: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


def test_what_was_certainly_not_executed_differs_from_what_may_have_been(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["exec", "-s", GONE, "--timeout", "0.3", "SET", "k", "v"]) == 3
    for node in fake.nodes:
        node.on("SET", Close())
    assert main(["exec", "-s", fake.seeds, "--json", "SET", "k", "v"]) == 4
    printed = capsys.readouterr()
    assert json.loads(printed.out)["maybe_executed"] is True
    assert main(["exec", "-s", fake.seeds, "SET", "k", "v"]) == 4
    assert "it may have been executed" in capsys.readouterr().err


def test_what_fails_at_some_nodes_is_one_line_of_json_with_what_each_has_said(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    first, refusing, _ = fake.nodes[:3]
    for node in fake.nodes:
        node.on("DBSIZE", b"-ERR not today\r\n" if node is refusing else b":7\r\n")
    assert main(["exec", "-s", fake.seeds, "--json", "DBSIZE"]) == 4
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told["kind"] == "PartialFailure"
    assert told["results"][str(first.address)] == 7
    assert told["results"][str(refusing.address)] == {"error": "ERR not today"}
    assert main(["exec", "-s", fake.seeds, "DBSIZE"]) == 4
    printed = capsys.readouterr()
    assert "ERR not today" in printed.out
    assert printed.err.count("\n") == 1


# -- secrets


def test_what_a_server_repeats_of_a_secret_is_not_shown(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in fake.nodes:
        node.on("ACL", lambda _node, _connection, args: b"-ERR Error in modifier '%b': no\r\n" % args[-1])
    for form in ("--raw", "--json"):
        assert main(["exec", "-s", fake.seeds, form, "ACL", "SETUSER", "ada", ">hunter2"]) == 1
    fake.nodes[0].on("ACL", encode_reply("OK"))
    assert main(["exec", "-s", fake.seeds, "ACL", "SETUSER", "ada", ">hunter2"]) == 4, "one node has done it"
    printed = capsys.readouterr()
    assert "hunter2" not in printed.out + printed.err
    assert "`ps` shows secrets" in printed.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b">hunter3")))
    assert main(["exec", "-s", fake.seeds, "--stdin", "ACL", "SETUSER", "ada"]) == 4
    printed = capsys.readouterr()
    assert "ps" not in printed.err
    assert "hunter3" not in printed.err
    assert fake.nodes[0].commands("ACL SETUSER")[-1][-1] == b">hunter3"


def test_what_may_hold_a_secret_and_what_does() -> None:
    for text in (
        "AUTH x",
        "acl setuser a on >x",
        "CONFIG SET requirepass x",
        "MIGRATE h p k 0 1 AUTH x",
        "HELLO 3 AUTH a b",
    ):
        command = text.encode().split()
        assert holds_secret(command)
        assert shows_secret(command)
    for text in ("CONFIG SET maxmemory 1", "HELLO 3", "ACL SETUSER a on", "MIGRATE h p k 0 1", "ACL LIST", "AUTH"):
        assert not shows_secret(text.encode().split())
    assert not holds_secret(b"SET AUTH x".split())


def test_a_password_comes_from_stdin_or_the_environment_and_in_a_url_with_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeCluster(3, username="ada", password="right") as fake:
        url = f"valkey://ada:right@{fake.seeds}"
        monkeypatch.setattr(sys, "stdin", io.StringIO("right\n"))
        assert main(["exec", "-s", fake.seeds, "--user", "ada", "--password-stdin", "PING"]) == 0
        monkeypatch.setenv("GVCLUSTER_SEEDS", url)
        assert main(["exec", "PING"]) == 0
        assert capsys.readouterr().err == ""
        assert main(["exec", "-s", url, "PING"]) == 0
        warning = capsys.readouterr().err
        assert warning.startswith("warning: `ps` shows the password in the URL")
        assert "right" not in warning
        monkeypatch.setenv("GVCLUSTER_USERNAME", "ada")
        monkeypatch.setenv("GVCLUSTER_PASSWORD", "wrong")
        assert main(["exec", "-s", fake.seeds, "PING"]) != 0
        printed = capsys.readouterr()
        assert "WRONGPASS" in printed.err
        assert "the right password goes into GVCLUSTER_PASSWORD" in printed.err
        assert "wrong" not in printed.err.replace("WRONGPASS", "")


# -- arguments, and what is installed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("topology", "which cluster?"),
        ("doctor nonsense", "'nonsense' has no port"),
        ("exec -s h:1", "Missing argument 'COMMAND"),
        ("exec -s h:1 --timeout 0 GET k", "0.0 is not in the range"),
        ("exec -s h:1 --ca /nowhere GET k", "'/nowhere' does not exist"),
        ("exec -s h:1 --user ada GET k", "username needs a password"),
        ("exec -s http://h:1 GET k", "the URL must begin with one of"),
        ("topology h:1 --wacht", "No such option"),
        ("exec -s h:1 --stdin --password-stdin GET", "standard input can be one of them"),
        ("exec -s h:1 --ca {page} GET k", "can not be used: "),
        ("topology h:1 --ca {page}", "can not be used: "),
        ("doctor h:1 --key {page}", "need tls_cert_file"),
    ],
)
def test_bad_arguments_are_refused(arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments.format(page=__file__).split())
    assert refused.value.code == 2
    printed = capsys.readouterr()
    assert complaint in " ".join(printed.err.split())
    assert printed.out == ""


def test_all_commands_are_listed_and_help_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert {"demo", "topology", "doctor", "exec"} <= set(capsys.readouterr().out.split())
    for name in ("topology", "doctor", "exec"):
        assert main([name, "--help"]) == 0
        assert "exit codes:\n    0    " in capsys.readouterr().out


@of_its_own
@pytest.mark.parametrize("missing", ["click", "rich"])
@pytest.mark.parametrize("name", ["topology", "doctor", "exec"])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(name: str, missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from gvcluster.cli import main; sys.exit(main([{name!r}]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "python3 -m pip install 'gvcluster[cli]'" in line


@of_its_own
def test_neither_the_client_nor_the_other_commands_import_click_or_rich() -> None:
    program = (
        "import sys, gvcluster, gvcluster.cli as cli\n"
        "try: cli.main(['demo', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('click', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_of_the_page_is_one_that_is_understood() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    written = [shlex.split(line.partition("|")[0]) for line in re.findall(r"^\$ gvcluster (.*)$", page, re.MULTILINE)]
    assert len(written) >= 7
    for name, *arguments in written:
        command = {"topology": topology, "doctor": doctor, "exec": exec_}[name]
        command.make_context(name, arguments).close()


# -- replies


@pytest.mark.parametrize(
    ("reply", "text", "raw", "told"),
    [
        (None, "(nil)", b"", None),
        (7, "(integer) 7", b"7", 7),
        (2.5, "(double) 2.5", b"2.5", 2.5),
        (True, "(true)", b"1", True),
        (b'a"\\', '"a\\"\\\\"', b'a"\\', 'a"\\'),
        ("é".encode(), '"é"', "é".encode(), "é"),
        (b"\xff\n", '"\\xff\\n"', b"\xff\n", {"base64": "/wo="}),
        ([], "(empty)", b"", []),
        ([b"a", [1, None]], '1) "a"\n2) 1) (integer) 1\n   2) (nil)', b"a\n1\n", ["a", [1, None]]),
        ({b"f": b"v"}, '1) "f" => "v"', b"f\nv", {"f": "v"}),
        ({Address("h", 1): 2}, "1) h:1 => (integer) 2", b"h:1\n2", {"h:1": 2}),
        ({1: 2}, "1) (integer) 1 => (integer) 2", b"1\n2", [[1, 2]]),
        ([ReplyError("ERR no")], "1) (error) ERR no", b"ERR no", [{"error": "ERR no"}]),
        (float("inf"), "(double) inf", b"inf", "inf"),
    ],
)
def test_a_reply_in_its_three_forms(reply: Any, text: str, raw: bytes, told: Any) -> None:
    assert as_text(reply) == text
    assert as_raw(reply) == raw
    assert json.loads(as_json(reply)) == told
