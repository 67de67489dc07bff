"""`gvcluster soak` runs as users run it, tells the truth about what it found, and leaves nothing behind."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gvcluster import Address, ConnectionLost, PartialFailure, ReplyTimeout
from gvcluster.cli import main
from gvcluster.cli.soak.book import SILENT, name_of
from gvcluster.cli.soak.course import Course, Report
from gvcluster.cli.soak.crew import Crew
from gvcluster.cli.soak.criteria import MET, NOT_APPLICABLE, NOT_MET, Criterion, Outcome, judge, passed
from gvcluster.cli.soak.history import Fate
from gvcluster.cli.soak.ledger import happened
from gvcluster.cli.soak.page import page
from gvcluster.cli.soak.plan import CALM, LOSSY, SORTS, STRICT, Window, plan_windows
from gvcluster.cli.soak.plot import Band, Curve, plot
from gvcluster.cli.soak.resources import Sample
from gvcluster.cli.soak.scene import Scene
from gvcluster.cli.soak.workers import LUA_APPEND

SOAK = [sys.executable, "-m", "gvcluster.cli", "soak"]
SMALL = ["--seed", "5", "--no-timings", "--greenlets", "128", "--pace", "1500", "--fault-seconds", "3"]


@contextmanager
def soak(*arguments: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """The soak in a process of its own, its servers' files in `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    pipe = subprocess.PIPE
    command = [*SOAK, *SMALL, *arguments]
    with subprocess.Popen(command, text=True, env=environment, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def test_some_faults_are_played_and_all_criteria_are_printed_with_their_measures(tmp_path: Path) -> None:
    servers, told, shown = tmp_path / "servers", tmp_path / "soak.json", tmp_path / "soak.html"
    servers.mkdir()
    arguments = ("--minutes", "0.05", "--faults", "failover,client-kill", "--json", str(told), "--html", str(shown))
    with soak(*arguments, folder=servers) as process:
        printed, complaints = process.communicate(timeout=110)
    assert (process.returncode, complaints) == (0, ""), printed
    assert re.search(r"^gvcluster soak: seed 5, 128 greenlets, gvcluster \S+, Python ", printed)
    assert re.search(r"^ +[\d.]+ s  failover: planned failover of shard \d", printed, re.MULTILINE)
    assert re.search(r"^met +no reply to somebody else \(C1\): 0 problems in [\d,]+ answers$", printed, re.MULTILINE)
    ledger = json.loads(told.read_text())
    assert next(window["fault"] for window in ledger["windows"]) == CALM
    assert sorted(ledger["faults"]) == sorted([CALM, "failover", "client-kill"])
    assert ledger["commands"] > 1000
    assert ledger["interrupted"] > 10
    assert all(window["checked"]["overheard"] > 100 for window in ledger["windows"])
    assert len(ledger["series"]) >= 9
    assert all(criterion["name"] in printed for criterion in ledger["criteria"])
    assert "<svg" in shown.read_text()
    assert list(servers.iterdir()) == []


def test_no_window_begins_without_the_script_that_the_last_one_has_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[list[int]] = []
    sha = hashlib.sha1(LUA_APPEND.encode()).hexdigest()

    def look(course: Course, *_: object) -> None:
        known.extend(node.command("SCRIPT", "EXISTS", sha) for node in course.scene.servers.live_nodes())

    monkeypatch.setattr(Course, "_under_load", look)
    with Scene("valkey-9.1.2", seed=1, node_timeout=3.0) as scene:
        scene.everywhere("SCRIPT", "LOAD", LUA_APPEND)
        scene.everywhere("SCRIPT", "FLUSH")
        Course(scene, Crew(64, 100.0), 1, print).play(iter([Window(1, "failover", 3.0, 1)]))
    assert known == [[1]] * 6


def test_a_partial_failure_is_called_by_what_its_parts_have_met() -> None:
    late, lost = ReplyTimeout("late"), ConnectionLost("lost")
    assert name_of(PartialFailure(results=["OK", late])) == "PartialFailure of ReplyTimeout"
    both = PartialFailure(results={Address("h", 1): lost, Address("h", 2): late, Address("h", 3): 1})
    assert name_of(both) == "PartialFailure of ConnectionLost, ReplyTimeout"


def test_an_interrupted_soak_stops_its_servers_and_writes_its_ledger(tmp_path: Path) -> None:
    servers, told = tmp_path / "servers", tmp_path / "soak.json"
    servers.mkdir()
    with soak("--minutes", "5", "--faults", "client-kill", "--json", str(told), folder=servers) as process:
        assert process.stdout is not None
        assert next(line for line in process.stdout if "window 1" in line)
        process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in complaints
    assert "stopped: interrupted" in printed
    ledger = json.loads(told.read_text())
    assert ledger["stopped"] == "interrupted"
    assert [window["fault"] for window in ledger["windows"]] == [CALM]
    assert list(servers.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--faults", "earthquake"], ["--minutes", "0"], ["--greenlets", "5"], ["--servers", "memcached"]]
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = main(["soak", *arguments])
    except SystemExit as error:
        code = error.code
    assert code
    assert arguments[1] in capsys.readouterr().err


# -- plan -------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    faults = list(SORTS)
    plan = plan_windows(7, 3600, faults, fault_seconds=10)
    assert plan == plan_windows(7, 3600, faults, fault_seconds=10)
    assert plan != plan_windows(8, 3600, faults, fault_seconds=10)


def test_each_fault_comes_once_before_any_comes_again_and_calm_first() -> None:
    plan = [window.fault for window in plan_windows(7, 3600, list(SORTS), fault_seconds=10)]
    assert plan[0] == CALM
    assert sorted(plan[: len(SORTS)]) == sorted(SORTS)
    assert len(plan) > 200
    assert plan.count("failover") > plan.count("fork")
    assert [window.fault for window in plan_windows(7, 0.1, ["kill"], fault_seconds=3)] == [CALM, "kill"]


# -- criteria ---------------------------------------------------------------------------------------------------------

CHECKED = {"answers": 9, "registers": 9, "increments": 9, "tokens": 9, "overheard": 9, "balances": 9}
QUIET = Report(0, CALM, STRICT, checked=CHECKED, latencies=[{"shard": 0, "p99": 10.0}], opened=6)
SAMPLE = Sample(1.0, 10, 10, 0, 6, 6)


def judged(**changes: Any) -> dict[str, Criterion]:
    """What is said of a quiet window and one with these changes, by criterion."""
    other = Report(1, changes.pop("fault", "client-kill"), STRICT, checked=CHECKED, opened=6)
    for name, value in changes.items():
        setattr(other, name, value)
    return {each.name: each for each in judge(Outcome([QUIET, other], [SAMPLE, SAMPLE], [], 60.0))}


def test_a_good_run_passes_and_what_can_not_be_judged_is_said_to_be_so() -> None:
    criteria = judged(fault="all-down", phase=LOSSY)
    assert {each.verdict for each in criteria.values()} == {MET, NOT_APPLICABLE}
    assert passed(list(criteria.values()), timings=True)
    assert criteria["planned failover and resharding cost no error"].verdict == NOT_APPLICABLE
    assert "too short" in criteria["memory grows by at most 1 MiB/h in the last half"].measured


def test_a_run_that_has_checked_nothing_does_not_pass() -> None:
    criteria = judge(Outcome([Report(0, CALM, STRICT)], [SAMPLE], [], 60.0))
    assert sum(each.verdict == NOT_MET for each in criteria) == 4
    assert not passed(criteria, timings=False)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("no reply to somebody else (C1)", {"checks": {"C1": ["foreign"]}}),
        ("registers are linearizable in STRICT windows (C2)", {"checks": {"C2": ["stale"]}}),
        ("no increment twice; none lost in STRICT windows (C3)", {"checks": {"C3": ["twice"]}}),
        ("no token twice; order kept; none lost in STRICT windows (C4, C7)", {"checks": {"C7": ["twice"]}}),
        ("the wire had no command twice, and agrees with the servers (C5)", {"checks": {"C5": ["twice"]}}),
        ("no money made or lost in transactions (C6)", {"checks": {"C6": ["half"]}}),
        ("files, greenlets, clients in the end as after the first window (C8)", {"checks": {"C8": ["leak"]}}),
        ("after each window nothing is lent, in flight or waited for (C8)", {"checks": {"pools": ["lent"]}}),
        ("no call is stuck", {"stuck": [7]}),
        ("every fault was played", {"problem": "the servers would not"}),
        (
            "planned failover and resharding cost no error",
            {"fault": "failover", "errors": {"ConnectionLost": {Fate.NEVER.value: 1}}},
        ),
        ("planned failover and resharding cost no error", {"fault": CALM, "errors": {"X": {Fate.NEVER.value: 1}}}),
        (
            "planned failover and resharding cost no timeout",
            {
                "fault": "reshard",
                "errors": {SILENT: {Fate.DOUBTFUL.value: 1}, "Redirected MOVED": {Fate.DOUBTFUL.value: 1}},
            },
        ),
        (
            "planned failover and resharding cost no timeout",
            {"fault": "atomic", "errors": {"PartialFailure of ReplyTimeout": {Fate.DOUBTFUL.value: 1}}},
        ),
        (
            "planned failover and resharding cost no error",
            {"fault": "atomic", "errors": {"PartialFailure of ConnectionLost": {Fate.DOUBTFUL.value: 1}}},
        ),
        (
            "planned failover and resharding cost no error",
            {"fault": "atomic", "errors": {"PartialFailure of ConnectionLost, ReplyTimeout": {Fate.NEVER.value: 1}}},
        ),
        ("ConnectionLost in doubt only at nodes whose connections ended", {"unexplained": ["lost at a"]}),
        ("no call later than its deadline + 50 ms + the hub's stall", {"overshoot": 0.2, "stall": 0.1}),
        ("served within 500 ms when the servers agree", {"recovered": 0.6}),
        ("healthy shards: p99 at most 2 × quiet + 5 ms", {"fault": "pause", "latencies": [{"shard": 1, "p99": 26.0}]}),
        ("at most one slot map a second by each client, on average", {"counts": {"refreshes": 121}}),
        ("at most 25 % of a core from 3 s after all nodes died", {"fault": "all-down", "cpu_down": 0.5}),
    ],
)
def test_each_criterion_fails_for_its_reason_alone(name: str, changes: dict[str, Any]) -> None:
    criteria = judged(**changes)
    assert [each.name for each in criteria.values() if each.verdict == NOT_MET] == [name]
    assert not passed(list(criteria.values()), timings=True)
    assert passed(list(criteria.values()), timings=False) == criteria[name].is_timing


def test_whatever_a_check_has_found_is_printed_behind_the_faults_of_its_window() -> None:
    quiet = Report(0, CALM, STRICT, log=[(0.5, "no fault")])
    report = Report(14, "reshard", STRICT, log=[(2.5, "8 slots go")], checks={"C1": [], "C5": ["a twice", "b never"]})
    assert list(happened([quiet, report])) == [
        "      0.50 s  calm: no fault",
        "      2.50 s  reshard: 8 slots go",
        "  C5 in window 14, reshard: a twice",
        "  C5 in window 14, reshard: b never",
    ]


# -- page -------------------------------------------------------------------------------------------------------------


def test_the_page_has_everything_and_escapes_what_servers_say() -> None:
    report = Report(1, "kill", LOSSY, at=2.0, seconds=5.0, problem="<script>", log=[(2.5, "SIGKILL & more")])
    second = {"at": 1.0, "commands": 5, "p50": 1.0, "p99": 2.0, "longest": 3.0, "errors": {"ConnectionLost": 2}}
    second |= {"rss": 50.0, "files": 20, "connections": 9, "cpu": 0.5}
    ledger = {
        "server": "valkey-9.1.2",
        "seed": 5,
        "started": "2026-11-22",
        "stopped": "",
        "versions": {"Python": "3"},
        "seconds": 60.0,
        "commands": 5,
        "interrupted": 1,
        "errors": 2,
        "samples": [asdict(SAMPLE)],
        "criteria": [asdict(Criterion("C1", "0", MET))],
        "windows": [asdict(report)],
        "series": [second] * 3,
    }
    text = page(ledger)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "SIGKILL &amp; more" in text
    assert text.count("<svg") == 6
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_plot_is_xml_and_draws_each_curve_and_band_in_its_place() -> None:
    curves = [Curve("a & b", "#111111", [(0, 0), (100, 50)]), Curve("c", "#222222", [(0, 100), (100, 100)])]
    root = ElementTree.fromstring(plot("things", curves, [Band(25, 75, "kill <9>", "#ffd8d8")], names=True))
    lines = [each.attrib["points"] for each in root.iter() if each.tag.endswith("polyline")]
    (rising, flat) = ([tuple(map(float, point.split(","))) for point in line.split()] for line in lines)
    assert rising[0][1] > rising[1][1] > flat[0][1] == flat[1][1], "y grows downwards"
    band = next(each.attrib for each in root.iter() if each.attrib.get("fill") == "#ffd8d8")
    middle = (rising[0][0] + rising[1][0]) / 2
    assert float(band["x"]) < middle < float(band["x"]) + float(band["width"])
    assert "kill <9>" in {each.text for each in root.iter()}
    assert ElementTree.fromstring(plot("nothing", [], [], logarithmic=True)) is not None
