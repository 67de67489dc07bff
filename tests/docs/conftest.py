"""One cluster for all pages, and the list of what is not run."""

from collections.abc import Iterator

import pytest
from snippets import name_of, pages, run_by, snippets_in

from gvcluster.testing import LocalCluster


@pytest.fixture(scope="session")
def cluster(any_server: str) -> Iterator[LocalCluster]:
    """Where the snippets of all pages work; a page that kills nodes has one of its own."""
    with LocalCluster(any_server) as servers:
        yield servers


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the snippets that are not run as they stand on their page, with the reason."""
    every = [each for page in pages() if not run_by(page) for each in snippets_in(page.read_text(), name_of(page))]
    run = sum(snippet.is_run and not snippet.why_not for snippet in every)
    terminalreporter.section("snippets")
    for snippet in every:
        if snippet.why_not:
            terminalreporter.write_line(f"{snippet}: {snippet.why_not}")
    for page in pages():
        if run_by(page):
            terminalreporter.write_line(f"{name_of(page)}: run by {', '.join(run_by(page))}")
    terminalreporter.write_line(f"{run} snippets run as they stand on their page")
