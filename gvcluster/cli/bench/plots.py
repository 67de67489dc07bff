"""The pictures of a run. They need matplotlib, and a file that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from gvcluster.cli.bench.catalogue import CASES
from gvcluster.cli.bench.clients import BARE, GVCLUSTER, NATIVE, PATCHED
from gvcluster.cli.bench.figures import summarize
from gvcluster.cli.bench.measured import Results

# The colours of Okabe and Ito, which people with every kind of colour vision tell apart; and a shape for each.
_LOOKS = MappingProxyType(
    {
        GVCLUSTER: ("#0072B2", "o"),
        PATCHED: ("#56B4E9", "P"),
        "valkey-py": ("#D55E00", "s"),
        "redis-py": ("#CC79A7", "^"),
        "valkey-glide-sync": ("#009E73", "D"),
        "coredis": ("#E69F00", "v"),
        BARE: ("#777777", "X"),
        NATIVE: ("#000000", "*"),
    }
)
_SIZE, _DPI = (8.0, 4.8), 130
_SHOWN = ("p50", "p99", "p99.9")


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what the run has the figures for.

    Returns:
        The files that were written.

    Raises:
        OSError: The folder can not be written to.
    """
    import_module("matplotlib").use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = (_throughput, _latency, _pace, _nodes, _sizes)
    return [path for picture in pictures for path in picture(results, folder)]


def _throughput(results: Results, folder: Path) -> Iterator[Path]:
    lines = curves(results, "calls", lambda row: row.rates)
    title = "SET and GET of 64 bytes: commands per second against greenlets"
    axes = ("greenlets", "commands/s, median of the rounds")
    yield from _draw_lines(folder / "throughput.png", title, axes, lines)


def _latency(results: Results, folder: Path) -> Iterator[Path]:
    lines = curves(results, "calls", lambda row: row.latency.get("p99", []))
    title = "SET and GET of 64 bytes: 99 of 100 calls are faster than this"
    yield from _draw_lines(folder / "latency.png", title, ("greenlets", "p99, ms"), lines)


def _nodes(results: Results, folder: Path) -> Iterator[Path]:
    lines = curves(results, "maps", lambda row: row.costs)
    title = "The cost of a call against the number of nodes, 10 greenlets"
    axes = ("nodes (1,000: scripted ones)", "CPU µs per command, in the client")
    yield from _draw_lines(folder / "nodes.png", title, axes, lines)


def _sizes(results: Results, folder: Path) -> Iterator[Path]:
    lines = curves(results, "sizes", lambda row: row.costs)
    title = "The cost of a call against the size of the value, 1 greenlet"
    axes = ("bytes of the value", "CPU µs per command, in the client")
    yield from _draw_lines(folder / "sizes.png", title, axes, lines)


def curves(results: Results, work: str, values: Any) -> dict[str, list[tuple[float, list[float]]]]:
    """For each client the points of its line: where, and the values of all rounds."""
    lines: dict[str, list[tuple[float, list[float]]]] = {}
    for case in CASES.values():
        place = _place(case.name)
        if case.work == work and place is not None:
            for client in results.clients_of(case.name):
                row = summarize(results, case.name, client)
                _add(lines.setdefault(client, []), place, values(row) if row.failed < row.rounds else [])
    return {client: points for client, points in lines.items() if points}


def _add(points: list[tuple[float, list[float]]], place: float, values: Sequence[float]) -> None:
    sound = [value for value in values if value > 0]
    if sound:
        points.append((place, sound))


def _place(case: str) -> float | None:
    """Where a case is on the axis of its work."""
    work, _, what = case.partition("/")
    if work == "sizes":
        return float(CASES[case].size)
    return float(what) if what.isdigit() else None


def _draw_lines(
    path: Path, title: str, axes: tuple[str, str], lines: dict[str, list[tuple[float, list[float]]]]
) -> Iterator[Path]:
    """One line for each client, with the smallest and the largest of all rounds. Nothing, where there is one point."""
    places = sorted({place for points in lines.values() for place, _ in points})
    if len(places) < 2:
        return
    figure, plot = _open(title)
    for client, points in lines.items():
        _draw_line(plot, client, points)
    plot.set_xscale("log")
    plot.set_yscale("log")
    _name_ticks(plot, places)
    plot.set_xlabel(axes[0])
    plot.set_ylabel(axes[1])
    plot.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    yield _close(figure, path)


def _draw_line(plot: Any, client: str, points: list[tuple[float, list[float]]]) -> None:
    colour, mark = _LOOKS[client]
    middle = [median(values) for _, values in points]
    below = [median(values) - min(values) for _, values in points]
    above = [max(values) - median(values) for _, values in points]
    plot.errorbar(
        [place for place, _ in points],
        middle,
        [below, above],
        label=client,
        color=colour,
        marker=mark,
        linewidth=2.4 if client == GVCLUSTER else 1.4,
        capsize=2.5,
    )


def _pace(results: Results, folder: Path) -> Iterator[Path]:
    """p50, p99 and p99.9 of each client, beside each other."""
    case = "pace/5000"
    rows = [summarize(results, case, client) for client in results.clients_of(case)]
    rows = [row for row in rows if row.latency]
    if not rows:
        return
    figure, plot = _open("80 % GET, 10 % HGETALL, 10 % SET at 5,000/s: latency from when a call was due")
    for number, row in enumerate(rows):
        colour, mark = _LOOKS[row.client]
        heights = [median(row.latency[name]) for name in _SHOWN if name in row.latency]
        places = [place + (number - (len(rows) - 1) / 2) * 0.1 for place in range(len(heights))]
        plot.plot(places, heights, mark, color=colour, markersize=9, label=row.client)
        plot.vlines(places, 0.01, heights, color=colour, linewidth=1.4)
    plot.set_yscale("log")
    plot.set_ylim(bottom=min(median(row.latency["p50"]) for row in rows) / 2)
    plot.set_xticks(range(len(_SHOWN)), _SHOWN)
    plot.set_ylabel("ms, median of the rounds")
    plot.yaxis.set_major_formatter(_readable)
    plot.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    yield _close(figure, folder / "pace.png")


def _open(title: str) -> tuple[Any, Any]:
    figure, plot = import_module("matplotlib.pyplot").subplots(figsize=_SIZE, layout="constrained")
    plot.set_title(title, loc="left", fontsize=11)
    plot.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)
    return figure, plot


def _close(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI)
    import_module("matplotlib.pyplot").close(figure)
    return path


def _name_ticks(plot: Any, places: Sequence[float]) -> None:
    """A tick where something was measured, with a number that people read."""
    plot.set_xticks(places, [_readable(place) for place in places])
    plot.xaxis.set_minor_locator(import_module("matplotlib.ticker").NullLocator())
    plot.yaxis.set_major_formatter(_readable)


def _readable(value: float, _place: object = None) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size and value % size == 0:
            return f"{value / size:g} {unit}"
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
