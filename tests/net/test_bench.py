"""The arithmetic of `gvcluster bench`, its bars and its tables, on made-up turns."""

import json
from pathlib import Path

import pytest

from gvcluster.cli.bench.bars import BARS, judge
from gvcluster.cli.bench.catalogue import CASES, FULL, QUICK, USUAL, WORKS, choose
from gvcluster.cli.bench.clients import ALL, BARE, NATIVE
from gvcluster.cli.bench.figures import paired, per_node, readable, spread, summarize
from gvcluster.cli.bench.measured import Measured, Results, Turn, load, percentiles, save
from gvcluster.cli.bench.native import read
from gvcluster.cli.bench.plots import curves
from gvcluster.cli.bench.processes import Ended
from gvcluster.cli.bench.rounds import Plan, is_hopeless
from gvcluster.cli.bench.tables import markdown, page, plain, table_of, verdicts, who

ABOUT = {
    "clients": list(ALL),
    "absent": {},
    "server": "a server",
    "cores": 2,
    "python": "3.11",
    "gevent": "26",
    "rounds": 3,
    "beyond": 3,
    "seconds": 0.5,
    "warmup": 0.2,
    "seed": 1,
    "command": "gvcluster bench",
    "made": "today",
    "accelerated": False,
}


def turn(case: str, client: str, number: int, commands: int = 100, **more: object) -> Turn:
    """A turn of 1 s. CPU time is as many ms as there are commands, if nothing else is said."""
    measured = {"cpu": commands / 1000, "greenlets": 100, "connections": [1, 1, 1], **more}
    return Turn(case, client, number, Measured(client, commands, 1.0, **measured))  # type: ignore[arg-type]


def failed(case: str, client: str, number: int) -> Turn:
    return turn(case, client, number, 50, failed=70, error="Too many connections")


def results(*turns: Turn, **about: object) -> Results:
    return Results({**ABOUT, **about}, list(turns))


# --- arithmetic


def test_ratios_are_of_one_round_not_of_the_medians() -> None:
    ours, theirs = (900, 100, 500), (100, 50, 100)
    run = results(
        *(turn("calls/100", "gvcluster", number, rate) for number, rate in enumerate(ours)),
        *(turn("calls/100", "valkey-py", number, rate) for number, rate in enumerate(theirs)),
    )
    assert summarize(run, "calls/100", "valkey-py").faster == [9.0, 2.0, 5.0]
    assert summarize(run, "calls/100", "gvcluster").faster == []


def test_cheaper_compares_cpu_time_per_command() -> None:
    run = results(turn("calls/100", "gvcluster", 0, 1000, cpu=0.01), turn("calls/100", "redis-py", 0, 100, cpu=0.02))
    row = summarize(run, "calls/100", "redis-py")
    assert row.costs == [pytest.approx(200.0)]
    assert row.cheaper == [pytest.approx(20.0)]


@pytest.mark.parametrize("who_fails", ["gvcluster", "valkey-py"])
def test_a_failed_turn_gives_no_ratio_and_neither_does_its_partner(who_fails: str) -> None:
    sound = {"gvcluster": "valkey-py", "valkey-py": "gvcluster"}[who_fails]
    run = results(
        *(turn("calls/100", "gvcluster", 0, 300), turn("calls/100", "valkey-py", 0, 100)),
        *(failed("calls/100", who_fails, 1), turn("calls/100", sound, 1)),
    )
    assert summarize(run, "calls/100", "valkey-py").faster == [3.0]


def test_a_round_that_only_one_had_gives_no_ratio() -> None:
    run = results(turn("calls/1", "gvcluster", 0), turn("calls/1", "valkey-py", 1))
    assert paired(run, ("calls/1", "gvcluster"), ("calls/1", "valkey-py"), lambda each: each.rate) == []


def test_failed_turns_are_shown_only_if_none_went_well() -> None:
    mixed = results(turn("calls/100", "redis-py", 0, 70), failed("calls/100", "redis-py", 1))
    assert summarize(mixed, "calls/100", "redis-py").rates == [70.0]
    never = results(failed("calls/100", "redis-py", 0))
    assert summarize(never, "calls/100", "redis-py").rates == [50.0]


@pytest.mark.parametrize(
    ("count", "p50", "p99", "p999"), [(1, 1, 1, 1), (10, 5, 10, 10), (100, 50, 99, 100), (1000, 500, 990, 999)]
)
def test_percentiles_are_those_of_the_nearest_rank_in_milliseconds(count: int, p50: int, p99: int, p999: int) -> None:
    seconds = [number / 1000 for number in range(count, 0, -1)]
    wanted = {"p50": p50, "p99": p99, "p99.9": p999, "max": count}
    assert percentiles(seconds) == {name: pytest.approx(value) for name, value in wanted.items()}
    assert percentiles([]) == {}


def test_a_client_that_failed_in_its_first_two_rounds_is_not_tried_again() -> None:
    turns = [failed("calls/100", "redis-py", 0)]
    assert not is_hopeless(turns, "redis-py")
    turns.append(failed("calls/100", "redis-py", 1))
    assert is_hopeless(turns, "redis-py")
    assert not is_hopeless([*turns, turn("calls/100", "redis-py", 2)], "redis-py")
    assert not is_hopeless(turns, "valkey-py")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.05, "0.050"), (0.51, "0.51"), (9.876, "9.88"), (98.7, "98.7"), (12345.6, "12,346")],
)
def test_figures_have_the_digits_that_say_something(value: float, text: str) -> None:
    assert readable(value) == text


def test_a_spread_is_the_median_with_both_ends() -> None:
    assert spread([3.0, 1.0, 2.0], "{:.0f}".format) == "2 (1–3)"
    assert spread([3.0], "{:.0f}".format) == "3"
    assert spread([], "{:.0f}".format) == "–"


@pytest.mark.parametrize(
    ("connections", "text"), [([], "–"), ([1, 1, 1], "1"), ([4, 5, 6], "4 5 6"), ([1, 2, 1, 2], "1–2")]
)
def test_connections_are_told_in_short(connections: list[int], text: str) -> None:
    assert per_node(connections) == text


# --- the catalogue


def test_each_run_has_more_than_the_smaller_one_and_every_case_belongs_to_a_work() -> None:
    names = [{case.name for case in choose([], level)} for level in (QUICK, USUAL, FULL)]
    assert names[0] < names[1] < names[2] == set(CASES)
    assert {case.work for case in CASES.values()} == set(WORKS)


def test_a_usual_run_can_judge_every_bar() -> None:
    usual = {case.name: case.clients for case in choose([], USUAL)}
    for bar in BARS:
        assert set(bar.cases) <= set(usual), bar.name
        assert all("gvcluster" in usual[case] for case in bar.cases)


def test_a_work_is_all_of_its_cases_and_a_case_is_itself() -> None:
    assert {case.name for case in choose(["keys"], QUICK)} == {name for name in CASES if name.startswith("keys/")}
    assert [case.name for case in choose(["calls/10"], QUICK)] == ["calls/10"]
    with pytest.raises(ValueError, match="no work 'call'"):
        choose(["call"], QUICK)


def test_the_usual_run_takes_minutes_and_the_full_one_not_more_than_fifteen() -> None:
    def minutes(level: int, rounds: int, seconds: float) -> float:
        return Plan(choose([], level), list(ALL), rounds, min(rounds, 3), 0.25, seconds, 1).estimate / 60

    assert minutes(QUICK, 2, 0.3) < 1
    assert 3 < minutes(USUAL, 5, 0.5) < 6
    assert minutes(FULL, 5, 0.5) <= 15


# --- bars


def test_a_bar_is_judged_by_the_median_and_by_what_the_client_is() -> None:
    pairs = ((3000, 100), (1000, 100), (1200, 100))
    turns = [
        turn("calls/100", name, number, rate)
        for number, pair in enumerate(pairs)
        for name, rate in zip(("gvcluster", "valkey-py"), pair, strict=True)
    ]
    pure = {verdict.bar.name: verdict for verdict in judge(results(*turns))}["SET/GET, 100 greenlets, × valkey-py"]
    assert (pure.value, pure.limit, pure.met) == (12.0, 10, True)
    compiled = judge(results(*turns, accelerated=True))[0]
    assert (compiled.value, compiled.limit, compiled.met) == (12.0, 15, False)


def test_what_was_run_and_gave_no_figure_is_not_met_and_says_why() -> None:
    run = results(turn("calls/1", "gvcluster", 0), failed("calls/1", "redis-py", 0))
    verdicts_found = {verdict.bar.name: verdict for verdict in judge(run)}
    assert set(verdicts_found) == {"SET/GET, 1 greenlet, × valkey-py", "SET/GET, 1 greenlet, × redis-py"}
    assert not any(verdict.met for verdict in verdicts_found.values())
    assert verdicts_found["SET/GET, 1 greenlet, × redis-py"].why == "redis-py failed"


def test_one_connection_per_node_is_not_met_by_two_nor_by_an_error() -> None:
    def verdict(*turns: Turn) -> bool:
        return next(each for each in judge(results(*turns)) if "no error" in each.bar.name).met

    assert verdict(turn("calls/1000", "gvcluster", 0))
    assert not verdict(turn("calls/1000", "gvcluster", 0), turn("calls/1000", "gvcluster", 1, connections=[1, 2, 1]))
    assert not verdict(turn("calls/1000", "gvcluster", 0), failed("calls/1000", "gvcluster", 1))


def test_the_slower_of_two_peers_does_not_help_the_best_way() -> None:
    rates = {"gvcluster": 600, "valkey-py": 100, "redis-py": 200}
    (verdict,) = judge(results(*(turn("keys/mget-1000", name, 0, rate) for name, rate in rates.items())))
    assert (verdict.value, verdict.met) == (3.0, False)


# --- what is shown


def test_a_client_that_fails_is_shown_as_failing_with_its_error() -> None:
    run = results(turn("calls/1000", "gvcluster", 0, 500), failed("calls/1000", "redis-py", 0))
    for text in (plain(table_of(run, "calls/1000")), markdown(table_of(run, "calls/1000"))):
        (line,) = (line for line in text.splitlines() if line.strip("| ").startswith("redis-py ") and "fails" in line)
        assert "50" not in line
        assert "redis-py failed in its round, in 70 of 100 greenlets: Too many connections" in text


def test_figures_without_rates_have_columns_of_their_own() -> None:
    run = results(
        turn("import/cpu", "gvcluster", 0, 0, figures={"CPU ms": 21.0}),
        turn("import/cpu", "redis-py", 0, 0, figures={"CPU ms": 120.0}),
    )
    assert table_of(run, "import/cpu").lines == [("gvcluster", "21.0"), ("redis-py", "120")]


def test_the_page_has_every_case_and_every_bar() -> None:
    run = results(*(turn(case, client, 0) for case in CASES for client in CASES[case].clients))
    text = page(run, judge(run))
    for case in CASES.values():
        assert case.title in text
    assert "| bar | asked for | measured | verdict |" in text
    assert len(verdicts(judge(run)).lines) == len(BARS)


def test_what_is_absent_is_told_with_what_installs_it() -> None:
    run = results(turn("calls/1", "gvcluster", 0), absent={"coredis": "not installed: pip install coredis"})
    assert who(run) == ["gvcluster: gvcluster", "coredis: left out, not installed: pip install coredis"]


# --- the file


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = results(turn("calls/1", "gvcluster", 0, latency={"p50": 1.5}), failed("calls/1", BARE, 0))
    save(run, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == run


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', '{"format": 1, "about": {}, "turns": [{}]}'])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        load(tmp_path / "run.json")


def test_what_the_c_program_prints_becomes_a_turn() -> None:
    printed = (
        'Cluster has 3 master nodes:\n\n"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms",'
        '"p95_latency_ms","p99_latency_ms","max_latency_ms"\n'
        '"SET","1000.00","1","1","2.0","1","4.0","9.0"\n"GET","4000.00","1","1","1.0","1","5.0","8.0"\n'
    )
    measured = read(Ended(printed, "", 0.5), "redis-benchmark", 1000, 10)
    assert (measured.commands, measured.seconds, measured.cost) == (2000, 1.25, 250.0)
    assert measured.latency == {"p50": 2.0, "p99": 5.0, "max": 9.0}
    assert read(Ended("", "exit code 1", 0.0), NATIVE, 1000, 10).error == "exit code 1"
    assert read(Ended("no such option", "", 0.0), NATIVE, 1000, 10).error == "no such option"


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    save(results(turn("calls/1", "gvcluster", 3)), tmp_path / "run.json")
    (written,) = json.loads((tmp_path / "run.json").read_text())["turns"]
    assert (written["case"], written["client"], written["round"]) == ("calls/1", "gvcluster", 3)
    assert written["measured"]["commands"] == 100


def test_a_bar_is_asked_for_only_where_its_own_case_was_run() -> None:
    at_100 = results(turn("calls/100", "gvcluster", 0))
    assert all(verdict.bar.cases == ("calls/100",) for verdict in judge(at_100))
    at_1000 = {verdict.bar.name: verdict for verdict in judge(results(turn("calls/1000", "gvcluster", 0)))}
    assert at_1000["SET/GET, 1,000 greenlets, × our rate at 100"].why == "calls/100 was not part of the run"


def test_what_failed_is_no_point_of_a_picture() -> None:
    run = results(turn("calls/1", "redis-py", 0), turn("calls/10", "redis-py", 0), failed("calls/100", "redis-py", 0))
    assert curves(run, "calls", lambda row: row.rates) == {"redis-py": [(1.0, [100.0]), (10.0, [100.0])]}
