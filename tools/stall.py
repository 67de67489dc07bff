"""Run a command on a machine that stalls: its process is stopped for a moment, again and again.

    python tools/stall.py pytest -q tests/net                            0.1 to 0.5 s, after 1 to 4 s each
    python tools/stall.py --seed 7 --longest 1 pytest -q tests/live      other moments, longer ones

A test that fails here and nowhere else looks at the clock where it should wait for something, or has found what nobody
else has: a shared machine stalls like this. Only the process itself is stopped, with its threads; real servers go on.
Prints how often it was stopped; exits as the command does.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random

SHORTEST_GAP, LONGEST_GAP = 1.0, 4.0  # seconds between two stalls


def stall(pid: int, seconds: float) -> None:
    """Stop a process that nobody has waited for yet, so that its number is nobody else's, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def run(command: Sequence[str], seed: int, shortest: float, longest: float) -> int:
    """Run it to its end. Returns its exit code."""
    rng, stalls, stalled = Random(seed), 0, 0.0
    process = subprocess.Popen(command)
    while process.returncode is None:
        with suppress(KeyboardInterrupt):  # it has got one itself, and ends as it likes
            try:
                process.wait(rng.uniform(SHORTEST_GAP, LONGEST_GAP))
            except subprocess.TimeoutExpired:
                pause = rng.uniform(shortest, longest)
                stall(process.pid, pause)
                stalls, stalled = stalls + 1, stalled + pause
    code = process.returncode
    print(f"stopped {stalls} times, for {stalled:.0f} s in all; seed {seed}; exit code {code}", file=sys.stderr)
    return code if code >= 0 else 128 - code


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="other moments (default: 1)")
    parser.add_argument("--shortest", type=float, default=0.1, help="seconds (default: 0.1)")
    parser.add_argument("--longest", type=float, default=0.5, help="seconds (default: 0.5)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, with its arguments")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("say what to run")
    if not 0 <= arguments.shortest <= arguments.longest:
        parser.error("--shortest must be at most --longest, and neither below 0")
    return run(arguments.command, arguments.seed, arguments.shortest, arguments.longest)


if __name__ == "__main__":
    sys.exit(main())
