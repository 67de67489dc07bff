"""`gvcluster bench` runs from end to end, as users run it: a process of its own, with whatever peers are installed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest

from gvcluster.cli.bench.catalogue import CASES
from gvcluster.cli.bench.clients import ALL, NATIVE, why_absent
from gvcluster.testing import LocalCluster

pytestmark = pytest.mark.unaffected_by("patched")

BENCH = (sys.executable, "-m", "gvcluster.cli", "bench")
TINY = ("--rounds", "1", "--seconds", "0.05", "--warmup", "0.05")


@contextmanager
def bench(*arguments: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """The bench in a process of its own, its files in `folder`."""
    pipe = subprocess.PIPE
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen([*BENCH, *arguments], text=True, env=environment, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_quick_run_writes_the_turns_of_all_who_are_here(any_server: str, tmp_path: Path) -> None:
    file, left = tmp_path / "run.json", tmp_path / "left"
    left.mkdir()
    with bench(
        "--quick", "--work", "calls/100", *TINY, "--server", any_server, "--json", str(file), folder=left
    ) as process:
        printed, complaints = process.communicate(timeout=100)
    assert process.returncode == 0, complaints
    written = json.loads(file.read_text())
    here = {name for name in ALL if why_absent(name) is None}
    assert set(written["about"]["clients"]) == here
    met = {(turn["case"], turn["client"]) for turn in written["turns"]}
    assert met == {("calls/100", client) for client in here & set(CASES["calls/100"].clients)}
    ours = [turn["measured"] for turn in written["turns"] if turn["client"] in ("gvcluster", "gvcluster-patched")]
    for measured in ours:
        assert (measured["error"], measured["connections"]) == ("", [1, 1, 1])
        assert measured["commands"] > 0
        assert 0 < measured["latency"]["p50"] <= measured["latency"]["p99"] <= measured["latency"]["max"]
    assert "[calls/100]" in printed
    for client in set(ALL) - here - {NATIVE}:
        assert f"{client}: left out, not installed: python3 -m pip install" in printed
    assert "\x1b" not in printed
    assert left_behind(left) == []


def test_who_reads_only_the_beginning_has_in_the_file_what_was_measured(
    live_cluster: LocalCluster, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    which = ("--work", "calls/1", "--clients", "gvcluster", "--nodes", live_cluster.seeds)
    with bench(*which, *TINY, "--json", str(file), folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline()  # it has begun: the heading is printed
        process.stdout.close()
        complaints = process.stderr.read()
        process.wait(60)
    assert "Traceback" not in complaints
    assert [turn["case"] for turn in json.loads(file.read_text())["turns"]] == ["calls/1"]


def test_each_work_is_done_by_gvcluster_on_your_cluster_and_leaves_no_key(
    live_cluster: LocalCluster, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    live_cluster.command(live_cluster.primary_of("theirs"), "SET", "theirs", "untouched")
    cases = ("keys/mget-100", "pace/5000", "blocking/50", "cold/1000", "sizes/64KiB")
    which = ("--work", ",".join(cases), "--clients", "gvcluster", "--nodes", live_cluster.seeds)
    with bench(*which, *TINY, "--json", str(file), folder=tmp_path) as process:
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    turns = {turn["case"]: turn["measured"] for turn in json.loads(file.read_text())["turns"]}
    assert set(turns) == set(cases)
    assert [(measured["error"], measured["commands"] > 0) for measured in turns.values()] == [("", True)] * len(cases)
    keys = [key for node in live_cluster.primaries() for key in node.command("KEYS", "*")]
    assert keys == [b"theirs"]


@pytest.mark.skipif("libuv" in repr(gevent.config.loop), reason="the turns of a libuv loop cannot be measured")
def test_parked_calls_and_a_large_map_are_measured_and_judged(any_server: str, tmp_path: Path) -> None:
    which = ("--work", "memory/calls,maps/500-ranges", "--clients", "gvcluster", "--server", any_server, "--check")
    with bench(*which, *TINY, folder=tmp_path) as process:
        printed, complaints = process.communicate(timeout=60)
    line = r"^  (map of 1,000 nodes|a parked call).* ≤ [\d.]+ (?:ms|B) +[\d.,]+ (?:ms|B) +(met|NOT met)$"
    found = re.findall(line, printed, re.M)
    assert len(found) == 2, printed + complaints
    assert process.returncode == int(any(verdict == "NOT met" for _, verdict in found))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_server_and_no_client(any_server: str, number: signal.Signals, tmp_path: Path) -> None:
    which = ("--work", "calls/10", "--clients", "gvcluster", "--seconds", "30", "--server", any_server)
    with bench(*which, folder=tmp_path) as process:
        assert process.stderr is not None
        assert next(line for line in process.stderr if "round 1" in line)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in complaints
    assert left_behind(tmp_path) == []


def left_behind(folder: Path) -> list[str]:
    """Its files, and the processes that were told of the folder. The watchdog of the servers is the last to go."""
    deadline = time.monotonic() + 5
    while found := [*map(str, folder.iterdir()), *processes_of(folder)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return found


def processes_of(folder: Path) -> list[str]:
    """All processes with this TMPDIR, by their ids: servers, clients, and the bench itself."""
    wanted, found = f"TMPDIR={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            pass  # it has just ended, or is not ours
    return found
