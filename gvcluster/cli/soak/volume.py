"""The mode that counts: so many commands, so many interruptions and so many kill -9, as fast as it goes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gvcluster.cli.soak.criteria import MET, NOT_MET, Criterion
from gvcluster.cli.soak.plan import CALM, Window

if TYPE_CHECKING:
    from gvcluster.cli.soak.course import Course

# So many greenlets work then, in half of them pipelines of so many commands: enough to keep one core busy.
GREENLETS = 48
# How long primaries are killed in one window, seconds: then everything is checked and forgotten.
_SECONDS = 20.0
# A window more than these is not begun: the servers do not do what is asked of them.
_WINDOWS = 400


@dataclass(frozen=True)
class Goal:
    """So many commands, calls killed or timed out, and primaries killed."""

    commands: int
    interruptions: int
    kills: int


def volume_windows(goal: Goal, seed: int, course: Course) -> Iterator[Window]:
    """Windows until the goal is reached: primaries are killed as long as that is wanted, then there is load alone."""
    rng = random.Random(f"volume:{seed}")
    yield Window(0, CALM, 3.0, 0)
    for number in range(1, _WINDOWS):
        commands = sum(each.commands for each in course.reports)
        killed = kills(course)
        if commands >= goal.commands and course.interrupted >= goal.interruptions and killed >= goal.kills:
            return
        yield Window(number, "kill" if killed < goal.kills else CALM, _SECONDS, rng.randrange(1 << 32))


def reached(goal: Goal, course: Course) -> Criterion:
    """Whether it was reached."""
    done = (sum(each.commands for each in course.reports), course.interrupted, kills(course))
    told = "{:,} commands, {:,} calls killed or timed out, {:,} primaries killed".format(*done)
    wanted = (goal.commands, goal.interruptions, goal.kills)
    is_met = all(have >= want for have, want in zip(done, wanted, strict=True))
    return Criterion("as much as was asked for", told, MET if is_met else NOT_MET)


def kills(course: Course) -> int:
    """How many primaries were killed."""
    return sum("SIGKILL to primary" in text for each in course.reports for _, text in each.log)
