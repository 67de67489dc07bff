"""The page of a soak: one HTML file with everything in it, plots as SVG. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

from gvcluster.cli.soak.plot import Band, Curve, plot

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1d2733; margin: 2rem auto; max-width: 1080px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
p.sub { color: #5b6775; margin-top: 0; } svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e3e8ee; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.met { color: #14743c; } .not-met { color: #b3261e; font-weight: 600; } .not-applicable { color: #7a8694; }
details { font-size: .86rem; } summary { cursor: pointer; } pre { white-space: pre-wrap; margin: .3rem 0; }
.key span { display: inline-block; margin-right: 1.1rem; font-size: .86rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; vertical-align: -1px; }
"""
# Colours that differ also for those who do not see all of them.
_COLOURS = ("#0b6fb8", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#5c940d", "#364fc7", "#846358")
_BANDS = MappingProxyType({"STRICT": "#fff3bf", "LOSSY": "#ffd8d8"})
_KINDS_SHOWN = 6


def page(ledger: Mapping[str, Any]) -> str:
    """Write the page of a ledger, as `ledger.py` has it."""
    title = f"gvcluster soak: {ledger['server']}, seed {ledger['seed']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(_subtitle(ledger))}</p>',
        _criteria(ledger["criteria"]),
        _legend(),
        *_plots(ledger),
        "<h2>Windows</h2>",
        _windows(ledger["windows"]),
        "<h2>What was done, and when</h2>",
        _log(ledger["windows"]),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f"<!DOCTYPE html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _subtitle(ledger: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in ledger["versions"].items())
    minutes, stopped = ledger["seconds"] / 60, f" · {ledger['stopped']}" if ledger["stopped"] else ""
    return (
        f"{ledger['started']} · {minutes:.1f} minutes{stopped} · {ledger['commands']:,} commands"
        f" · {ledger['interrupted']:,} calls killed or timed out · {ledger['errors']:,} errors · {versions}"
    )


def _criteria(criteria: Sequence[Mapping[str, Any]]) -> str:
    rows = (
        f'<tr><td class="{each["verdict"].replace(" ", "-")}">{each["verdict"]}</td>'
        f"<td>{escape(each['name'])}</td><td>{escape(each['measured'])}</td></tr>"
        for each in criteria
    )
    return f"<h2>Criteria</h2><table><tr><th></th><th>criterion</th><th>measured</th></tr>{''.join(rows)}</table>"


def _legend() -> str:
    told = (
        ("STRICT", "a fault after which every acknowledged write must be there"),
        ("LOSSY", "a fault with which servers may lose some of them"),
    )
    keys = "".join(f'<span><i style="background:{_BANDS[phase]}"></i>{phase}: {text}</span>' for phase, text in told)
    return f'<h2>Over time</h2><p class="key">{keys}</p>'


def _plots(ledger: Mapping[str, Any]) -> Iterator[str]:
    series, bands = ledger["series"], _bands(ledger["windows"])

    def curve(name: str, index: int, take: Callable[[Mapping[str, Any]], float]) -> Curve:
        return Curve(name, _COLOURS[index % len(_COLOURS)], [(each["at"], take(each)) for each in series])

    yield plot("commands per second", [curve("commands", 0, lambda each: each["commands"])], bands, names=True)
    longest = curve("longest", 1, lambda each: each["longest"])
    latencies = [longest, curve("p99", 3, lambda each: each["p99"]), curve("p50", 2, lambda each: each["p50"])]
    yield plot("latency, ms (logarithmic)", latencies, bands, logarithmic=True)
    errors = [curve(kind, index, _taking(kind)) for index, kind in enumerate(_kinds(series))]
    yield plot("errors per second (logarithmic)", errors or [curve("none", 0, lambda _: 0)], bands, logarithmic=True)
    yield plot("resident memory, MiB", [curve("memory", 0, lambda each: each["rss"])], bands)
    files = curve("open files", 1, lambda each: each["files"])
    greenlets = Curve(
        "greenlets, at quiet moments", _COLOURS[2], [(s["at"], s["greenlets"]) for s in ledger["samples"]]
    )
    connections = curve("connections", 0, lambda each: each["connections"])
    yield plot("open files, connections and greenlets", [files, connections, greenlets], bands)
    yield plot("processor, % of a core", [curve("processor", 4, lambda each: 100 * each["cpu"])], bands)


def _taking(kind: str) -> Callable[[Mapping[str, Any]], float]:
    """What takes the number of errors of one kind from a point of the series."""
    return lambda each: float(each["errors"].get(kind, 0))


def _kinds(series: Sequence[Mapping[str, Any]]) -> list[str]:
    totals: dict[str, int] = {}
    for each in series:
        for kind, times in each["errors"].items():
            totals[kind] = totals.get(kind, 0) + times
    return sorted(totals, key=lambda kind: -totals[kind])[:_KINDS_SHOWN]


def _bands(windows: Sequence[Mapping[str, Any]]) -> list[Band]:
    return [
        Band(each["at"], each["at"] + each["seconds"], each["fault"], _BANDS[each["phase"]])
        for each in windows
        if each["fault"] != "calm"
    ]


def _windows(windows: Sequence[Mapping[str, Any]]) -> str:
    heads = (
        "",
        "fault",
        "phase",
        "at, s",
        "lasted, s",
        "commands",
        "interrupted",
        "errors",
        "served after, ms",
        "problems",
    )
    rows = []
    for each in windows:
        problems = [f"{check}: {told}" for check, found in each["checks"].items() for told in found]
        problems += [each["problem"]] if each["problem"] else []
        numbers = (f"{each['at']:.0f}", f"{each['seconds']:.1f}", f"{each['commands']:,}", f"{each['interrupted']:,}")
        errors = "<br>".join(
            escape(f"{sum(by.values()):,} {kind} ({', '.join(by)})") for kind, by in each["errors"].items()
        )
        cells = (
            f'<td class="n">{each["number"]}</td><td>{each["fault"]}</td><td>{each["phase"]}</td>',
            *(f'<td class="n">{number}</td>' for number in numbers),
            f'<td>{errors}</td><td class="n">{each["recovered"] * 1000:.0f}</td><td>{escape("; ".join(problems))}</td>',
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table>"


def _log(windows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{at:8.2f} s  {text}" for each in windows for at, text in each["log"]]
    return f"<details><summary>{len(lines)} lines</summary><pre>{escape(chr(10).join(lines))}</pre></details>"
