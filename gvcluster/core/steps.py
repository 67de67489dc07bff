"""Work in steps: a generator that yields wherever others may be served meanwhile. `core` says where, `net` when."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

_T = TypeVar("_T")
Steps = Generator[None, None, _T]  # yields after each step, and returns the result


def at_once(steps: Steps[_T]) -> _T:
    """All steps, one after the other."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
