"""The ledger of a soak: all that it met, as JSON and as a page, and in short on the terminal."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gvcluster._version import __version__
from gvcluster.cli.soak.course import Course, Report
from gvcluster.cli.soak.criteria import Criterion
from gvcluster.cli.soak.page import page


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    installed = {name: version(name) for name in ("gevent", "greenlet", "hiredis")}
    return {"gvcluster": __version__, "Python": platform.python_version(), **installed}


def ledger(
    course: Course, criteria: Sequence[Criterion], settings: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """Collect everything."""
    reports = course.reports
    return {
        **settings,
        "started": datetime.now(UTC).isoformat(" ", "seconds"),
        "versions": versions(),
        "seconds": round(seconds, 1),
        "commands": sum(each.commands for each in reports),
        "sent": sum(each.counts.get("commands", 0) for each in reports),
        "interrupted": sum(each.interrupted for each in reports),
        "errors": sum(each.errors_of() for each in reports),
        "faults": faults_played(course),
        "criteria": [asdict(each) for each in criteria],
        "windows": [asdict(each) for each in reports],
        "samples": [asdict(each) for each in course.meter.samples],
        "series": course.meter.series,
        "complaints": course.complaints,
    }


def faults_played(course: Course) -> dict[str, int]:
    """How many windows of each fault there were."""
    played: dict[str, int] = {}
    for each in course.reports:
        played[each.fault] = played.get(each.fault, 0) + 1
    return played


def write(written: Mapping[str, Any], json_file: Path | None, html_file: Path | None) -> None:
    """Write the files that were asked for."""
    if json_file is not None:
        json_file.write_text(json.dumps(written, indent=1, default=str) + "\n")
    if html_file is not None:
        html_file.write_text(page(written))


def happened(reports: Sequence[Report]) -> Iterator[str]:
    """The fault log in lines, and what the checks have found in each window."""
    for report in reports:
        for at, text in report.log:
            yield f"  {at:8.2f} s  {report.fault}: {text}"
        for check, problems in report.checks.items():
            for problem in problems:
                yield f"  {check} in window {report.number}, {report.fault}: {problem}"


def in_short(written: Mapping[str, Any]) -> Iterator[str]:
    """The summary in lines, and the row for docs/reliability.md."""
    errors: dict[str, int] = {}
    for window in written["windows"]:
        for kind, by in window["errors"].items():
            for fate, times in by.items():
                errors[f"{kind} ({fate})"] = errors.get(f"{kind} ({fate})", 0) + times
    minutes = written["seconds"] / 60
    yield f"{written['commands']:,} commands in {minutes:.1f} min, {written['interrupted']:,} interrupted"
    for kind, times in sorted(errors.items(), key=lambda item: -item[1]):
        yield f"  {times:>9,}  {kind}"
    verdicts = [each["verdict"] for each in written["criteria"]]
    result = f"{verdicts.count('met')} met, {verdicts.count('not met')} not met, {verdicts.count('not applicable')} n/a"
    faults = sum(times for fault, times in written["faults"].items() if fault != "calm")
    cells = (
        *(written["started"][:10], written["server"], written["seed"], f"{written['seconds'] / 60:.1f}"),
        *(f"{written['commands']:,}", f"{written['interrupted']:,}", faults, f"{written['errors']:,}", result),
    )
    yield f"| {' | '.join(map(str, cells))} |"
