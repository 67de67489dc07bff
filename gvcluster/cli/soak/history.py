"""What greenlets did, as values: who asked for what, when, and what became of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

FOREVER = math.inf
# How many problems of one check are spelled out; the others are counted.
_SPELLED_OUT = 5


class Fate(Enum):
    """What the client said of an operation."""

    DONE = "done"
    NEVER = "not executed"
    DOUBTFUL = "may have been executed, or may still be"


class Op(NamedTuple):
    """One operation on one key.

    who: the greenlet. seq: its number among those of this greenlet. argument: what it wrote, None for a read.
    reply: what was answered, where it is DONE. called, returned: seconds on one clock.
    """

    who: int
    seq: int
    argument: Any
    reply: Any
    called: float
    returned: float
    fate: Fate = Fate.DONE


def fate_of(error: BaseException) -> Fate:
    """What an error says. One that is not gvcluster's, such as a kill, says nothing: the operation is in doubt."""
    return Fate.DOUBTFUL if getattr(error, "maybe_executed", True) else Fate.NEVER


def in_short(problems: Iterable[str]) -> list[str]:
    """The first few problems, and how many there are more."""
    found = list(problems)
    more = len(found) - _SPELLED_OUT
    return [*found[:_SPELLED_OUT], f"… and {more:,} more"] if more > 0 else found
