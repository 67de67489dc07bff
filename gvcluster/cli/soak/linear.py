"""Whether what was read from and written to one register could have happened one after the other. Pure.

The search is Wing and Gong's with Lowe's memory, as in Porcupine: take any operation that was called before the first
of the others returned, let it happen, go on; a set of operations that happened and a value are not looked at twice.

An operation in doubt may happen at any time after its call, or never. Each write has a value of its own, so two
shortcuts lose nothing: a write in doubt that nobody has read is as if it had never been, and a read that fits the
present value may happen at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gvcluster.cli.soak.history import FOREVER, Fate, Op

# More steps than any honest history of some thousand operations needs. Then there is no verdict.
PATIENCE = 500_000


class Undecided(Exception):
    """The search was given up."""


def register_problem(ops: Sequence[Op], initial: Any = None) -> str | None:
    """Look for an order of the operations on one register that explains all replies.

    Args:
        ops: Writes, whose arguments are all different and not None, and reads, whose argument is None.
        initial: The value at the beginning.

    Returns:
        None if there is an order; else how far the best attempt came.

    Raises:
        Undecided: After PATIENCE steps.
    """
    strange = next((op for op in ops if not isinstance(op.reply, bytes | str | None)), None)
    if strange is not None:
        return f"greenlet {strange.who} was answered {strange.reply!r}, which no register holds"
    search = _Search(_relevant(ops), initial)
    return None if search.succeeds() else search.story()


def _relevant(ops: Sequence[Op]) -> list[Op]:
    """Without what says nothing: reads that failed, writes that did not happen, writes in doubt that nobody read."""
    seen = {op.reply for op in ops if op.argument is None and op.fate is Fate.DONE}
    kept = []
    for op in ops:
        if op.fate is Fate.DONE:
            kept.append(op)
        elif op.fate is Fate.DOUBTFUL and op.argument is not None and op.argument in seen:
            kept.append(op._replace(returned=FOREVER))
    return sorted(kept, key=lambda op: op.called)


class _Search:
    """`done` is a set of operations as the bits of an int."""

    def __init__(self, ops: list[Op], initial: Any) -> None:
        self._ops = ops
        self._must = sum(1 << index for index, op in enumerate(ops) if op.returned != FOREVER)
        self._initial = initial
        self._best: tuple[int, Any] = (0, initial)
        self._steps = 0

    def succeeds(self) -> bool:
        """Go through all that can happen, depth first."""
        todo = [self._with_reads(0, self._initial)]
        met = set(todo)
        while todo:
            done, value = todo.pop()
            if not self._must & ~done:
                return True
            if done.bit_count() > self._best[0].bit_count():
                self._best = done, value
            for index in self._next(done):
                following = self._with_reads(done | 1 << index, self._ops[index].argument)
                if self._ops[index].argument is not None and following not in met:
                    met.add(following)
                    todo.append(following)
        return False

    def story(self) -> str:
        """What was in the way of the longest order."""
        done, value = self._best
        stuck = next((op for index, op in enumerate(self._ops) if not done >> index & 1 and op.argument is None), None)
        of = f"{done.bit_count()} of {len(self._ops)} operations can be put in order"
        if stuck is None:
            return of
        return f"{of}; then greenlet {stuck.who} read {stuck.reply!r} where it must be {value!r}, or a later write"

    def _with_reads(self, done: int, value: Any) -> tuple[int, Any]:
        """Let all reads happen that can, and fit."""
        before = -1
        while before != done:
            before = done
            for index in self._next(before):
                op = self._ops[index]
                if op.argument is None and op.reply == value:
                    done |= 1 << index
        return done, value

    def _next(self, done: int) -> Iterator[int]:
        """Operations that were called before the first of those that are left returned."""
        ends = FOREVER
        index = _lowest_zero(done)
        while index < len(self._ops) and self._ops[index].called <= ends:
            self._steps += 1
            if not done >> index & 1:
                ends = min(ends, self._ops[index].returned)
                yield index
            index += 1
        if self._steps > PATIENCE:
            raise Undecided(f"no verdict after {PATIENCE:,} steps on {len(self._ops):,} operations")


def _lowest_zero(bits: int) -> int:
    return (~bits & (bits + 1)).bit_length() - 1
