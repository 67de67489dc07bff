"""What the pages name exists: files and headings that they link to, commands, options and tools in their prose."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from snippets import ROOT, name_of, pages, snippets_in

PAGES = [*pages(), ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_COMMAND = re.compile(r"(gvcluster [a-z]+|python3? tools/\w+\.py)(?= |$)")


def prose_of(text: str) -> str:
    """The page without its fences and comments."""
    return re.sub(r"^\s*(```+).*?^\s*\1\s*$|<!--.*?-->", "", text, flags=re.S | re.M)


def anchors_in(text: str) -> set[str]:
    """The anchors of the headings, as GitHub and myst make them."""
    headings = re.findall(r"^#+ (.+?)\s*$", prose_of(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in _LINK.findall(prose_of(page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors_in(target.read_text())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One & two\n\n[a](page.md#one--two) [b](other.md) [c](#three) [d](https://x.org/) `[e](f.md)`\n")
    assert broken_links(page) == ["other.md", "#three", "f.md"]


@cache
def help_of(command: str) -> str:
    """Where its options are told: its `--help`, or the source of a tool."""
    words = command.split()
    if words[0] != "gvcluster":
        tool = ROOT / words[1]
        return tool.read_text() if tool.is_file() else ""
    program = [sys.executable, "-m", "gvcluster.cli", words[1], "--help"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""


def commands_on(page: Path) -> set[tuple[str, str]]:
    """Each (command, option) in prose and fences; the option is empty for the command itself."""
    text = page.read_text()
    lines = _CODE.findall(prose_of(text))
    for snippet in snippets_in(text, name_of(page)):
        if snippet.language in ("sh", "console"):
            lines += [line.removeprefix("$ ").partition("  #")[0] for line in snippet.text.splitlines()]
    found = set()
    for line in lines:
        for part in re.split(r" && | \| ", line):
            command = _COMMAND.match(part.strip())
            if command:
                found.update((command[1].replace("python3", "python"), each) for each in ("", *_OPTION.findall(part)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    unknown = [pair for pair in commands_on(page) if not help_of(pair[0]) or pair[1] not in help_of(pair[0])]
    assert unknown == []


def test_an_option_that_does_not_exist_is_found() -> None:
    assert ("gvcluster demo", "--seconds") in commands_on(ROOT / "docs" / "failover-drill.md")
    assert "--seconds" in help_of("gvcluster demo")
    assert "--minutes" not in help_of("gvcluster demo")
    assert help_of("gvcluster nonsense") == ""


def test_every_environment_of_tox_that_a_page_names_exists() -> None:
    parts = set(re.findall(r"\w+", (ROOT / "tox.ini").read_text()))
    lists = [found for page in PAGES for found in re.findall(r"tox -e ([\w,-]+)", page.read_text())]
    named = {name for found in lists for name in found.split(",")}
    assert {"soak", "compat-redis52"} <= named
    assert [name for name in named if not parts.issuperset(name.split("-"))] == []


# -- the comparison ---------------------------------------------------------------------------------------------------


def test_the_figures_of_the_comparison_are_those_that_were_measured() -> None:
    told, measured = (
        (ROOT / "docs" / "comparison.md").read_text(),
        {
            r"[\d.]+ \([\d.]+–[\d.]+\)": (ROOT / "docs" / "performance-tables.md").read_text(),
            r"\d[\d.]* / \d[\d.]*": (ROOT / "docs" / "reliability.md").read_text(),
        },
    )
    for figure, page in measured.items():
        figures = re.findall(figure, told)
        assert len(figures) > 12
        assert [each for each in figures if each not in page] == []
