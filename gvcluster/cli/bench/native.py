"""redis-benchmark or valkey-benchmark, as a figure of what a C program gets out of the same servers."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from gvcluster.cli.bench.clients import find_program
from gvcluster.cli.bench.measured import Measured
from gvcluster.cli.bench.processes import Ended, run

# It wants a number of requests; this is about how many it makes in a second with 1 connection, and with many.
_ALONE, _MANY = 15_000, 40_000


def take(nodes: Sequence[str], greenlets: int, size: int, seconds: float, limit: float) -> Measured:
    """SET, then GET, by as many of its clients as there would be greenlets."""
    program = find_program() or "redis-benchmark"
    requests = max(greenlets, int(seconds / 2 * (_ALONE if greenlets == 1 else _MANY)))
    host, _, port = nodes[0].rpartition(":")
    shape = {"-c": greenlets, "-n": requests, "-d": size, "-r": 10_000, "-t": "set,get"}
    options = [str(part) for pair in shape.items() for part in pair]
    ended = run([program, "--cluster", "-h", host, "-p", port, *options, "--csv"], limit)
    return read(ended, Path(program).name, requests, greenlets)


def read(ended: Ended, name: str, requests: int, greenlets: int) -> Measured:
    """What it printed, as a turn. Of SET's and GET's percentiles the larger one is taken."""
    how = f"{name} --cluster"
    rows = list(csv.DictReader(line for line in ended.output.splitlines() if line.startswith('"')))
    if ended.why or len(rows) != 2:
        return Measured(how, greenlets=greenlets, failed=greenlets, error=ended.why or _last(ended.output))
    seconds = sum(requests / float(row["rps"]) for row in rows)
    latency = {name: max(float(row[f"{name}_latency_ms"]) for row in rows) for name in ("p50", "p99", "max")}
    return Measured(how, 2 * requests, seconds, ended.cpu, [], latency, greenlets=greenlets)


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
