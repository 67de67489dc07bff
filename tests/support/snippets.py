"""The snippets of the pages: what README.md and docs/ show in fences, and the comments above that say how to run it.

    <!-- not run: it needs the network -->
    <!-- run as: `gvcluster demo --seconds 5`, because it takes 25 s -->
    <!-- file: app.py -->            it is saved there, for what follows on the page
    <!-- background: Listening -->   it goes on until the end of the page; what follows waits until it has printed that
    <!-- before: PYTHON -->          done before it; `servers` is a LocalCluster of the page's own
    <!-- output -->                  what the snippet before it prints; … stands for anything
    <!-- output varies: REASON -->   of a `console` snippet: the output is not compared

A page whose snippets need more than a cluster, a framework for instance, is run by a test of its own, and says so:

    <!-- run by tests/contrib/test_recipes.py -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("python", "sh", "console")
SHOWN = ("text", "ini", "toml", "json", "html", "yaml", "c", "diff", "dockerfile")
_FENCE = re.compile(r"(\s*)(```+|~~~+)\s*(\S*)[^`]*$")
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.S)
_MARKS = ("not run", "run as", "file", "background", "before", "output", "output varies")
_RUN_AS = re.compile(r"((?:`[^`]+`(?:, )?)+), because (.+)", re.S)


@dataclass
class Snippet:
    """One fence. `line` is that of its first line; `marks` are the comments above it."""

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Whether a test executes it."""
        return self.language in RUN and "not run" not in self.marks

    @property
    def why_not(self) -> str:
        """Why it is not run, or not as it stands there; empty otherwise."""
        if "run as" in self.marks:
            return f"run as {' and '.join(self.commands)}: {_parts(self)[1]}"
        return self.marks.get("not run", "")

    @property
    def commands(self) -> list[str]:
        """What is run in the place of the shell commands on the page."""
        return re.findall(r"`([^`]+)`", _parts(self)[0])


def _parts(snippet: Snippet) -> tuple[str, str]:
    found = _RUN_AS.fullmatch(snippet.marks["run as"])
    assert found, f"{snippet}: write <!-- run as: `command`, because … -->"
    return found[1], found[2]


_RUN_BY = re.compile(r"<!-- run by (tests/\w+/test_\w+\.py) -->")


def run_by(page: Path) -> list[str]:
    """The tests that run the page's snippets instead of `tests/docs`, which it names."""
    return _RUN_BY.findall(page.read_text())


def pages() -> list[Path]:
    """README.md and every page in docs/, also those that others add."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    """`docs/cli.md`"""
    return str(page.relative_to(ROOT))


def snippets_in(text: str, page: str) -> list[Snippet]:
    """All fences of a page that are no directives of Sphinx."""
    return list(_snippets(text.splitlines(), page))


def _snippets(lines: list[str], page: str) -> Iterator[Snippet]:
    above: list[str] = []
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        number += 1
        if opened is None:
            above.append(lines[number - 1])
            continue
        indent, fence, language = opened.groups()
        first = number
        while number < len(lines) and not re.fullmatch(rf"\s*{fence}\s*", lines[number]):
            number += 1
        text = "".join(f"{line.removeprefix(indent)}\n" for line in lines[first:number])
        number += 1
        if not language.startswith("{"):
            yield Snippet(page, first + 1, language, text, _marks(above))
        above = []


def _marks(above: list[str]) -> dict[str, str]:
    """The comments at the end of what stands above a fence."""
    text, marks = "\n".join(above).rstrip(), {}
    while text.endswith("-->"):
        start = text.rindex("<!--")
        comment = _COMMENT.fullmatch(text[start:])
        assert comment
        name, _, value = comment[1].partition(":")
        if name.strip() in _MARKS:
            marks[name.strip()] = value.strip()
        text = text[:start].rstrip()
    return marks
