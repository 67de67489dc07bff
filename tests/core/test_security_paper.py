"""docs/security.md is true where a machine can tell: its tests exist, and nothing writes a log."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAPER = (TESTS.parent / "docs" / "security.md").read_text()
PACKAGE = TESTS.parent / "gvcluster"
_NAMED = re.compile(r"`((?:core|net|live|chaos)/test_\w+\.py)(?:::(\w+))?`")
_TELLS = re.compile(r"^\s*(?:import logging|from logging|print\(|sys\.std(?:out|err))|\btraceback\.print", re.MULTILINE)


def test_every_test_that_the_paper_names_exists() -> None:
    named = _NAMED.findall(PAPER)
    assert len(named) > 30
    for file, test in named:
        assert (TESTS / file).is_file()
        assert f"\ndef {test}(" in (TESTS / file).read_text() if test else True


def test_every_attack_has_a_test_and_an_outcome() -> None:
    table = PAPER.split("## Attack")[1].split("##")[0]
    rows = [row for row in table.splitlines() if row.startswith("|")][2:]
    assert len(rows) > 20
    for row in rows:
        attack, test, outcome = (cell.strip() for cell in row.strip("|").split(" | "))
        assert attack
        assert _NAMED.search(test)
        assert outcome


def test_nothing_that_serves_calls_writes_a_log_or_prints() -> None:
    sources = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("cli", "testing")]
    # Examples in docstrings print.
    code = {path: re.sub(r'"""[\s\S]*?"""', "", path.read_text()) for path in sources}
    assert [path for path, text in code.items() if _TELLS.search(text)] == []
