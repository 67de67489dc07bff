"""What the documents name exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAPER = TESTS.parent / "docs" / "from-libvalkey.md"
_NAMED = re.compile(r"`((?:core|net|live|chaos)/test_\w+\.py)(?:::(\w+))?`")


def named() -> list[tuple[str, str]]:
    """Each file and the test in it."""
    return _NAMED.findall(PAPER.read_text())


def is_there(file: str, test: str) -> bool:
    path = TESTS / file
    return path.is_file() and f"\ndef {test}(" in path.read_text() if test else path.is_file()


def test_every_test_that_the_document_names_exists() -> None:
    assert [f"{file}::{test}" for file, test in named() if not is_there(file, test)] == []


def test_the_document_is_read_as_it_is_written() -> None:
    assert len(named()) > 100
    assert PAPER.read_text().count("::test_") == len([test for _, test in named() if test])
    assert not is_there("net/test_scenarios.py", "test_set")


@pytest.mark.parametrize("row", [row for row in PAPER.read_text().splitlines() if row.startswith("|")])
def test_every_row_has_a_cell_for_each_column(row: str) -> None:
    assert row.endswith("|")
    assert row.count("|") in (3, 4, 6)
