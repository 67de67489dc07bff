"""The long run's targets with few inputs; and that it tells of what it finds."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import fuzz
import fuzz_corpus
import fuzz_pool
import fuzz_reader
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvcluster.testing import FakeCluster

# How often each must have been taken for what it is: else the inputs are so wild that only the refusals are tested.
TAKEN = {
    "format": "a command",
    "encoded": "a command",
    "redirect": "Moved",
    "slots": "a map",
    "nodes": "a map",
    "look": "a look",
    "url": "a Cluster",
    "push": "Message",
    "descriptions": "commands",
    "reader": "replies",
    "pool": "losses",
}


# A story of a pool takes 30 ms and more.
FEWER = {"reader": 50, "pool": 6}


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_only_declared_errors_come_of_generated_input(name: str) -> None:
    ended, reports = fuzz.feed(fuzz.TARGETS[name], range(FEWER.get(name, 200)))
    assert reports == []
    assert ended[TAKEN[name]] > 0
    assert len(ended) > 1


def test_what_was_not_declared_is_reported_with_the_number_that_makes_it_again() -> None:
    def check(given: int) -> str:
        return f"{1 // (given % 3)}"

    def draw(rng: Random) -> Any:
        return rng.randrange(1000)

    ended, reports = fuzz.feed(fuzz.Target(draw, check), range(60))
    wrong = [number for number in range(60) if Random(number).randrange(1000) % 3 == 0]
    assert ended["something else"] == len(reports) == len(wrong) > 0
    assert reports[0].startswith(f"input {wrong[0]}: {draw(Random(wrong[0]))}\n")
    assert "ZeroDivisionError" in reports[0]


def test_each_target_must_hold_what_it_says() -> None:
    with pytest.raises(AssertionError, match="expected the slot"):
        fuzz._require(False, "the slot")
    assert fuzz.main(["redirect", "--count", "10", "--processes", "1"]) == 0


CORPUS = list(fuzz_corpus.inputs())


@pytest.mark.parametrize(("target", "path"), CORPUS, ids=[f"{target}-{path.stem}" for target, path in CORPUS])
def test_the_corpus_meets_nothing_else(target: str, path: Path) -> None:
    fuzz.TARGETS[target].check(fuzz_corpus.read(path))


def test_each_target_has_a_corpus_and_belongs_to_a_group() -> None:
    assert {target for target, _ in CORPUS} == set(fuzz.TARGETS)
    assert {name for group in fuzz.GROUPS.values() for name in group} == set(fuzz.TARGETS)


def test_what_was_not_declared_is_kept_and_can_be_fed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_corpus, "CORPUS", tmp_path)
    broken = fuzz.Target(fuzz.TARGETS["reader"].generate, lambda _: f"{1 // 0}")
    monkeypatch.setattr(fuzz, "TARGETS", {**fuzz.TARGETS, "reader": broken})
    ended, reports = fuzz.feed(broken, range(1))
    assert ended["something else"] == 1
    ((target, path),) = fuzz_corpus.inputs()
    assert target == "reader"
    assert f"kept as {path}" in reports[0]
    assert fuzz_corpus.read(path) == tuple(broken.generate(Random(0)))


@pytest.mark.parametrize("group", ["t2", "t4"])
def test_a_group_is_fed_for_some_time_and_a_run_can_be_repeated(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--seconds", "0.01", "--target", group, "--begin", "7", "--processes", "1"]) == 0
    first = capsys.readouterr().out
    assert "--begin 7" in first
    assert f"{group}: " in first
    assert fuzz.feed_for(group, 0.001, 7)[1] == fuzz.feed_for(group, 0.001, 7)[1]


@pytest.mark.parametrize(
    ("shift", "what"),
    [
        (lambda found: found[1:], "a reply that is lost"),
        (lambda found: [*found, None], "one too many"),
        (lambda found: found[::-1], "another order"),
    ],
)
def test_the_reader_target_notices(
    shift: Callable[[list[Any]], list[Any]], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fuzz_reader.by_gvcluster
    monkeypatch.setattr(fuzz_reader, "by_gvcluster", lambda data, cuts: shift(right(data, cuts)))
    with pytest.raises(AssertionError):
        fuzz_reader.check_wire((b"+a\r\n+b\r\n:1\r\n", (3,), False))


@pytest.mark.parametrize(("key", "reply"), [(b"a", b"b"), (b"a", ValueError()), (b"a", None)])
def test_the_pool_target_notices_a_wrong_reply_or_an_error_that_is_not_ours(key: bytes, reply: Any) -> None:
    with FakeCluster(1) as fake:
        play = fuzz_pool._Play(fake)
        try:
            with pytest.raises(AssertionError):
                play._look_at(reply, key)
        finally:
            play.cluster.close()


@given(st.lists(st.tuples(st.sampled_from(fuzz_pool.STEPS), st.integers(0, 7)), max_size=12))
@settings(max_examples=15, deadline=None)
def test_whatever_happens_to_a_pool_the_model_is_kept(story: fuzz_pool.Story) -> None:
    """hypothesis makes a story that breaks it shorter."""
    fuzz_pool.check_story(story)
