"""`gvcluster demo` shows what it promises, and cleans up. It runs as users run it: as a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("elections")

DEMO = [sys.executable, "-m", "gvcluster.cli", "demo"]
STORY = (
    r"^gvcluster \S+ demo: valkey-9\.1\.2, 3 \+ 3 nodes, 500 greenlets, seed 11$",
    r"^started 3 primaries and 3 replicas in [\d.]+ s; node timeout 2 s$",
    r"^ +[\d.]+ s  killed primary 127\.0\.0\.1:\d+ \(shard \d\) with SIGKILL$",
    r"^ +[\d.]+ s  the servers have promoted its replica 127\.0\.0\.1:\d+$",
    r"^ +[\d.]+ s  shard \d answers again after [\d.]+ s \(the servers took [\d.]+ s\)$",
    r"^ +[\d.]+ s  planned failover: primary 127\.0\.0\.1:\d+ \(shard \d\) hands over to 127\.0\.0\.1:\d+$",
    r"^ +[\d.]+ s  handed over in [\d.]+ s: no error in [\d,]+ commands, the slowest took [\d,]+ ms$",
    r"^ +[\d.]+ s  moving 60 slots from shard \d to \d and back, key by key$",
    r"^ +[\d.]+ s  moving 1,000 slots from shard \d to \d and back, at once each way; \d+ greenlets work in them$",
    r"^ +[\d.]+ s  there and back in [\d.]+ s: no error in [\d,]+ commands, the slowest took [\d,]+ ms$",
    r"^kill -9 +[\d.]+ s ",
    r"^planned failover +[\d.]+ s +[\d,]+ +0 +[1-9]",
    r"^slots key by key +[\d.]+ s +[\d,]+ +0 +[1-9]",
    r"^slots atomically +[\d.]+ s +[\d,]+ +0 +[1-9]",
    r"^All is well: ",
)
ROWS = (
    *("commands", "commands/s", "latency p50", "latency p99", "latency max", "other shards p99", "other shards max"),
    *("without service, servers", "without service, gvcluster", "redirects followed", "retries", "refreshes"),
    *("writes lost by the servers", "wrong replies"),
)


@contextmanager
def demo(*arguments: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """The demo in a process of its own, its files in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "TTY_COMPATIBLE"}}
    environment["TMPDIR"] = str(folder)
    pipe = subprocess.PIPE
    with subprocess.Popen([*DEMO, *arguments], text=True, env=environment, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_kills_and_moves_and_finds_no_wrong_reply_and_no_error_in_what_is_planned(tmp_path: Path) -> None:
    with demo("--seconds", "12", "--seed", "11", folder=tmp_path) as process:
        printed, complaints = process.communicate(timeout=100)
    assert (process.returncode, complaints) == (0, ""), printed
    for line in STORY:
        assert re.search(line, printed, re.MULTILINE), f"{line} is not in:\n{printed}"
    figures = dict(re.findall(r"^(\S.*?\S)  +([\d.,]+)(?: |$)", printed, re.MULTILINE))
    assert set(ROWS) <= set(figures)
    assert figures["wrong replies"] == "0"
    assert int(figures["commands"].replace(",", "")) > 10_000
    connections = re.findall(r"^connections 127\.0\.0\.1:\d+ +(\d / \d) +opened / now; shard \d(.*)$", printed, re.M)
    parts = [*(("1 / 1", part) for part in ("", "", ", has handed over", ", promoted"))]
    assert sorted(connections) == [("1 / 0", ", killed"), *parts]
    assert "\x1b" not in printed
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    with demo("--seconds", "60", "--greenlets", "30", folder=tmp_path) as process:
        assert process.stdout is not None
        assert next(line for line in process.stdout if line.startswith("started 3 primaries"))
        process.send_signal(number)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in complaints
    assert left_behind(tmp_path) == []


def left_behind(folder: Path) -> list[str]:
    """Its files, and its processes, which all have the folder in their arguments. The watchdog is the last to go."""
    deadline = time.monotonic() + 5
    while found := [*map(str, folder.iterdir()), *processes_with(str(folder))]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return found


def processes_with(word: str) -> list[str]:
    """The command lines of all processes that have the word in it."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            pass  # it has just ended
    return [line for line in lines if word in line]
