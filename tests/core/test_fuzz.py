"""The long run's targets with few inputs; and that it tells of what it finds."""

from random import Random
from typing import Any

import fuzz
import pytest

# How often each must have been taken for what it is: else the inputs are so wild that only the refusals are tested.
TAKEN = {
    "format": "a command",
    "encoded": "a command",
    "redirect": "Moved",
    "slots": "a map",
    "nodes": "a map",
    "url": "a Cluster",
    "descriptions": "commands",
}


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_only_declared_errors_come_of_generated_input(name: str) -> None:
    ended, reports = fuzz.feed(fuzz.TARGETS[name], range(200))
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
