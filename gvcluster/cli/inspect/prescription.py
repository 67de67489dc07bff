"""How `gvcluster doctor` tells what it has found."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from types import MappingProxyType

from rich.console import Console
from rich.text import Text

from gvcluster.cli.inspect.doctor import Diagnosis, expectations
from gvcluster.cli.inspect.facts import Facts
from gvcluster.cli.inspect.findings import Case, Finding, Severity, counted

_STYLES = MappingProxyType({Severity.NOTE: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"})
_PARTS = (("means", "means"), ("client", "gvcluster"), ("todo", "do"))


def show(console: Console, diagnosis: Diagnosis) -> None:
    """On a terminal, wrapped to its width."""
    console.print(Text("Nodes", "bold"))
    for facts in diagnosis.case.every:
        console.print(Text(f"  {_node(diagnosis.case, facts)}", "red" if facts.trouble else ""), soft_wrap=True)
    console.print(Text("\nThis client", "bold"))
    for subject, sentence in expectations(diagnosis.case):
        _hang(console, f"  {subject:9} ", sentence)
    console.print(Text("\nFindings", "bold"))
    for finding in diagnosis.findings:
        _show(console, finding)
    console.print(Text(f"\n{summary(diagnosis)}", _STYLES[diagnosis.severity] if diagnosis.findings else "green"))


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """For a pipe: every line says what it is about."""
    for facts in diagnosis.case.every:
        yield f"node: {_node(diagnosis.case, facts)}"
    for subject, sentence in expectations(diagnosis.case):
        yield f"client: {subject}: {sentence}"
    for finding in diagnosis.findings:
        yield f"{finding.severity.name.lower()}: {finding.name}: {finding.what}"
        for field, label in _PARTS:
            yield f"  {label}: {getattr(finding, field)}"
    yield summary(diagnosis)


def as_json(diagnosis: Diagnosis) -> dict[str, object]:
    """For programs. Times are in milliseconds."""
    case = diagnosis.case
    return {
        "severity": diagnosis.severity.name.lower() if diagnosis.findings else "none",
        "findings": [
            {
                "name": finding.name,
                "severity": finding.severity.name.lower(),
                **{name: getattr(finding, name) for name in ("what", "means", "client", "todo")},
                "nodes": list(finding.nodes),
            }
            for finding in diagnosis.findings
        ],
        "client": dict(expectations(case)),
        "nodes": [
            {
                "address": str(facts.address),
                "id": facts.id or None,
                "role": case.role(facts.address),
                "version": facts.version or None,
                "trouble": str(facts.trouble) if facts.trouble else None,
                "connect_ms": _milliseconds(facts.opening),
                "ping_ms": _milliseconds(facts.ping),
                "ping_max_ms": _milliseconds(max(facts.pings, default=None)),
            }
            for facts in case.every
        ],
    }


def summary(diagnosis: Diagnosis) -> str:
    """The last line."""
    counts = [
        counted(found, severity.name.lower())
        for severity in sorted(Severity, reverse=True)
        if (found := [finding for finding in diagnosis.findings if finding.severity is severity])
    ]
    if diagnosis.severity is Severity.NOTE:
        return f"All is well{f' ({counts[0]})' if counts else ''}."
    return f"{', '.join(counts)}."


def _node(case: Case, facts: Facts) -> str:
    head = f"{facts.address!s:21} {case.role(facts.address):7}"
    if facts.trouble is not None:
        return f"{head}  {str(facts.trouble).removeprefix(f'no connection to {facts.address}: ')}"
    times = f"connect {_milliseconds(facts.opening)} ms, ping {_milliseconds(facts.ping)} ms"
    return f"{head}  {times}{f', {facts.version}' if facts.version else ''}"


def _show(console: Console, finding: Finding) -> None:
    label = finding.severity.name.lower()
    _hang(console, f"  {label} ", f"{finding.what} [{finding.name}]", _STYLES[finding.severity])
    for field, label in _PARTS:
        _hang(console, f"      {label:9} ", getattr(finding, field))


def _hang(console: Console, label: str, text: str, style: str = "") -> None:
    """A label, and a text that is indented as far wherever it goes on."""
    first, *others = wrap(text, max(20, console.width - len(label)), break_long_words=False, break_on_hyphens=False)
    console.print(Text.assemble((label, style or "dim"), (first, "bold" if style else "")), soft_wrap=True)
    for line in others:
        console.print(Text(" " * len(label) + line, "bold" if style else ""), soft_wrap=True)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
