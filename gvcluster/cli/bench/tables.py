"""What a reader sees: the same tables as plain lines, and as Markdown for a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gvcluster.cli.bench.bars import Verdict
from gvcluster.cli.bench.catalogue import CASES
from gvcluster.cli.bench.clients import CLIENTS, GVCLUSTER
from gvcluster.cli.bench.figures import Row, per_node, readable, spread, summarize
from gvcluster.cli.bench.measured import Results

_RATES = (
    *("client", "commands/s", "CPU µs each", "p50 ms", "p99 ms", "p99.9 ms", "conn./node"),
    *("× as fast", "× as cheap"),
)
# Of these the times are what is compared, and there are no commands to be counted.
_WITHOUT_RATES = frozenset(("map", "parked", "connected", "import"))
_ERROR = 160
_NOWHERE = "failed everywhere"


@dataclass(frozen=True)
class Table:
    """Headings and lines of text. bars: for each line a share from 0 to 1, to be drawn. remarks: said below it."""

    title: str
    headings: tuple[str, ...]
    lines: list[tuple[str, ...]]
    bars: list[float]
    remarks: list[str]


def table_of(results: Results, case: str) -> Table:
    """The table of one case."""
    rows = [summarize(results, case, client) for client in results.clients_of(case)]
    known = CASES.get(case)
    title = f"{known.title if known else case}  [{case}]"
    if known is not None and known.load in _WITHOUT_RATES:
        return _of_figures(title, rows)
    rates = [median(row.rates) for row in rows]
    most = max(rates, default=0.0) or 1.0
    remarks = [*_failures(rows), *_held(rows), *_starts(rows)]
    return Table(title, _RATES, list(map(_line_of_rates, rows)), [rate / most for rate in rates], remarks)


def _line_of_rates(row: Row) -> tuple[str, ...]:
    if row.failed == row.rounds:
        return (row.client, "fails", *["–"] * (len(_RATES) - 2))
    latency = [spread(row.latency.get(name, []), readable, middle_only=True) for name in ("p50", "p99", "p99.9")]
    return (
        row.client,
        spread(row.rates, "{:,.0f}".format),
        spread(row.costs, "{:.1f}".format, middle_only=True),
        *latency,
        per_node(row.connections),
        spread(row.faster, readable),
        spread(row.cheaper, readable, middle_only=True),
    )


def _of_figures(title: str, rows: list[Row]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [(row.client, *(spread(row.figures.get(name, []), readable) for name in names)) for row in rows]
    return Table(title, ("client", *names), lines, [], list(_failures(rows)))


def _failures(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if row.error:
            tried = f"{row.failed} of {row.rounds} rounds" if row.rounds > 1 else "its round"
            where = f", in {row.broken:,} of {row.greenlets:,} greenlets" if row.greenlets > 1 else ""
            yield f"{row.client} failed in {tried}{where}: {row.error[:_ERROR]}"


def _held(rows: Iterable[Row]) -> Iterator[str]:
    """Who holds the event loop for long: what that costs all others in the process."""
    late = {row.client: median(row.hub["p99"]) for row in rows if row.hub.get("p99")}
    if late:
        told = ", ".join(f"{client} {readable(value)}" for client, value in late.items())
        yield f"a timer of the event loop came late by (p99, ms): {told}"


def _starts(rows: Iterable[Row]) -> Iterator[str]:
    found = {row.client: median(row.figures["start ms"]) for row in rows if row.figures.get("start ms")}
    if found:
        yield "from construction to the last reply, ms: " + ", ".join(f"{name} {ms:,.0f}" for name, ms in found.items())


def heading(about: dict[str, Any]) -> list[str]:
    """Where, how often and for how long was measured."""
    return [
        f"{about['server']}; {about['cores']} cores for all; Python {about['python']}, gevent {about['gevent']}",
        f"{about['rounds']} rounds ({about['beyond']} of what only a full run has) of {about['seconds']:g} s after"
        f" {about['warmup']:g} s of warm-up, in a random order"
        f" (seed {about['seed']}); median (smallest–largest);",
        f"× as fast, × as cheap: how many times the client's rate, and how many times less CPU time, {GVCLUSTER} has,"
        " round by round",
    ]


def who(results: Results) -> list[str]:
    """The versions of the clients, and what must be said of them; who is not here."""
    told: dict[str, str] = {}
    for turn in results.turns:
        if told.get(turn.client, _NOWHERE) == _NOWHERE:
            told[turn.client] = turn.measured.how.partition("; by ")[0] if turn.measured.is_sound else _NOWHERE
    known = [(client, how, CLIENTS[client].remark) for client, how in told.items() if client in CLIENTS]
    lines = [f"{client}: {how}" + (f" ({remark})" if remark else "") for client, how, remark in sorted(known)]
    return lines + [f"{client}: left out, {why}" for client, why in results.about.get("absent", {}).items()]


def plain(table: Table) -> str:
    """As lines of equal columns."""
    grid = [table.headings, *table.lines]
    widths = [max(len(line[column]) for line in grid) for column in range(len(table.headings))]
    lines = [table.title]
    for line in grid:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        lines.append("  " + "  ".join([line[0].ljust(widths[0]), *cells[1:]]))
    return "\n".join([*lines, *(f"  {remark}" for remark in table.remarks)])


def markdown(table: Table, level: int = 3) -> str:
    """As a section of a page."""
    lines = [f"{'#' * level} {table.title.partition('  [')[0]}", "", *_markdown_grid(table.headings, table.lines)]
    return "\n".join([*lines, *(f"\n{_escaped(remark)}" for remark in table.remarks)])


def _markdown_grid(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(headings)
    yield "|" + "---|" * len(headings)
    for line in lines:
        bold = line[0] == GVCLUSTER
        yield _row([f"**{cell}**" if bold else cell for cell in line])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def verdicts(found: Sequence[Verdict]) -> Table:
    """The bars, as a table."""
    lines: list[tuple[str, ...]] = [verdict.told for verdict in found]
    failed = [verdict for verdict in found if not verdict.met]
    remark = f"{len(found) - len(failed)} of {len(found)} met" if found else "no bar belongs to what was measured"
    return Table("What must hold", ("bar", "asked for", "measured", "verdict"), lines, [], [remark])


def page(results: Results, found: Sequence[Verdict]) -> str:
    """The whole run as Markdown: docs/performance.md takes it as it is."""
    cases = list(dict.fromkeys(turn.case for turn in results.turns))
    works: dict[str, list[str]] = {}
    for case in cases:
        works.setdefault(case.partition("/")[0], []).append(case)
    about = results.about
    parts = [f"Made by `{about['command']}` on {about['made']}.", "", "  \n".join(heading(about))]
    parts += ["", *(f"- {line}" for line in who(results))]
    for work, members in works.items():
        parts += ["", f"### {work}", *("\n" + markdown(table_of(results, case), 4) for case in members)]
    return "\n".join([*parts, "", markdown(verdicts(found))])
