"""Counters and accounts: what was done, against what the servers have in the end. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gvcluster.cli.soak.history import Fate, Op, in_short


def counter_problems(ops: Sequence[Op], final: int, *, strict: bool) -> list[str]:
    """Check one key that many greenlets increment by one, from 0. (C3)

    Args:
        ops: The increments; `reply` is what was answered.
        final: The value in the end.
        strict: No server may have lost what it acknowledged.

    Returns:
        What cannot be: in words.
    """
    acked = [op for op in ops if op.fate is Fate.DONE]
    doubtful = sum(op.fate is Fate.DOUBTFUL for op in ops)
    return in_short(_counter_problems(acked, doubtful, final, strict))


def _counter_problems(acked: list[Op], doubtful: int, final: int, strict: bool) -> Iterator[str]:
    most = len(acked) + doubtful
    if final > most:
        yield f"the count is {final}, but {len(acked)} were acknowledged and {doubtful} are in doubt: one ran twice"
    if strict and final < len(acked):
        yield f"the count is {final}, but {len(acked)} were acknowledged: one is lost"
    if strict:
        yield from _reply_problems(acked, most)


def _reply_problems(acked: list[Op], most: int) -> Iterator[str]:
    """Replies that two have got, that go back, or that are too high."""
    answered: set[object] = set()
    last: dict[int, int] = {}
    for op in sorted(acked, key=lambda op: (op.who, op.seq)):
        if type(op.reply) is not int or not 0 < op.reply <= most:
            yield f"greenlet {op.who} was answered {op.reply!r}, where {most} is the most"
            continue
        if op.reply in answered:
            yield f"two increments were answered {op.reply}"
        if op.reply <= last.get(op.who, 0):
            yield f"greenlet {op.who} was answered {op.reply} after {last[op.who]}"
        answered.add(op.reply)
        last[op.who] = op.reply


def bank_problems(reads: Sequence[Sequence[int]], total: int) -> list[str]:
    """Check accounts between which money is moved in transactions. (C6)

    Args:
        reads: What was read of all accounts at once, again and again; the last is the end.
        total: What all have together.

    Returns:
        Reads with another total, or a debt, in words: a transaction half done, or done twice.
    """
    found = (f"the accounts have {sum(read)} instead of {total}: {list(read)}" for read in reads if sum(read) != total)
    debts = (f"an account is in debt: {list(read)}" for read in reads if sum(read) == total and min(read) < 0)
    return in_short([*found, *debts])
