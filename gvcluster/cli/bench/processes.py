"""A process that is gone afterwards, whatever happens."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import subprocess

# The last line of a traceback, also within a group of exceptions.
_ERROR = re.compile(r"[\w.]+(Error|Exception|Timeout|Exit|Interrupt|Failed)\b")


@dataclass(frozen=True)
class Ended:
    """How a process ended. why: in one line why it is of no use, or nothing. cpu: seconds."""

    output: str
    why: str
    cpu: float


def run(command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a program. After `limit` seconds, and when this greenlet is killed, it is killed.

    Blocks: until it has ended.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complaints:
        began = _children_cpu()
        process: Any = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=complaints, env=environment
        )
        try:
            gevent.with_timeout(limit, process.wait, timeout_value=None)
        finally:
            is_late = process.poll() is None
            if is_late:
                process.kill()
                process.wait()
        output.seek(0)
        complaints.seek(0)
        why = f"not ended after {limit:g} s" if is_late else _why(process.returncode, complaints.read())
        return Ended(output.read(), why, _children_cpu() - began)


def _why(code: int, complaints: str) -> str:
    if code <= 0:
        return f"ended by signal {-code}" if code else ""
    lines = [line.strip(" |+-") for line in complaints.splitlines()]
    told = [line for line in lines if _ERROR.match(line)] or [line for line in lines if line]
    return told[-1][:300] if told else f"exit code {code}"


def _children_cpu() -> float:
    """CPU seconds of the children that have ended, the servers of a cluster not: they are the watchdog's."""
    used = os.times()
    return used.children_user + used.children_system
