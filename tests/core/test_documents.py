"""What the documents name exists."""

import re
from pathlib import Path

import pytest
from shape.imports import ORDER

TESTS = Path(__file__).parents[1]
PAPER = TESTS.parent / "docs" / "from-libvalkey.md"
ARCHITECTURE = TESTS.parent / "ARCHITECTURE.md"
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


RELIABILITY = TESTS.parent / "docs" / "reliability.md"
_IN_ROW = re.compile(r"`(?:tests/)?((?:core|net|live|chaos)/test_\w+\.py)(?:::(\w+))?")


def modes() -> list[tuple[int, str]]:
    """The number of each failure mode and its row."""
    rows = [line for line in RELIABILITY.read_text().splitlines() if re.match(r"\|[ *`]*F\d", line)]
    return [(int(number), row) for row in rows for number in re.findall(r"\bF(\d+)\b", row.split("|")[1])]


def test_each_failure_mode_has_exactly_one_row() -> None:
    assert sorted(number for number, _ in modes()) == list(range(1, 66))


def test_each_row_names_tests_that_exist_or_says_why_there_are_none() -> None:
    named = {number: _IN_ROW.findall(row) for number, row in modes()}
    assert [f"{file}::{test}" for tests in named.values() for file, test in tests if not is_there(file, test)] == []
    unproved = [row for number, row in modes() if not named[number] and "cannot be provoked" not in row]
    assert unproved == []


def test_every_other_test_that_the_page_of_the_failures_names_exists() -> None:
    """Its rows of failure modes are not all of it: the checks, the bytes and the soak name tests, too."""
    found = _NAMED.findall(RELIABILITY.read_text())
    assert len(found) > 150
    assert [f"{file}::{test}" for file, test in found if not is_there(file, test)] == []


def listed() -> list[str]:
    """The modules in ARCHITECTURE.md's listing, `core.slots` for one in a folder."""
    modules, folder = [], ""
    for line in ARCHITECTURE.read_text().split("```")[1].splitlines():
        entry = re.match(r"( +)(\w+)(/|\.py) ?", line)
        if line.startswith("tools/"):
            break
        if entry is None:
            continue
        depth, name, kind = len(entry[1]), entry[2], entry[3]
        if kind == "/":
            folder = f"{name}."
        else:
            modules.append((folder if depth == 4 else "") + name)
    return modules


@pytest.mark.parametrize("folder", ["", "core", "net"])
def test_the_listing_has_every_module_in_its_order(folder: str) -> None:
    """A newcomer finds each room, and those above it are those that it may use."""
    package = TESTS.parent / "gvcluster"
    built = [name for name in ORDER if (package / (name.replace(".", "/") + ".py")).is_file() and name != "__init__"]
    assert [name for name in built if name.rpartition(".")[0] == folder] == [
        name for name in listed() if name.rpartition(".")[0] == folder
    ]


def test_every_test_that_the_page_of_the_servers_names_exists() -> None:
    found = _NAMED.findall((TESTS.parent / "docs" / "servers.md").read_text())
    assert len(found) > 12
    assert [f"{file}::{test}" for file, test in found if not is_there(file, test)] == []
