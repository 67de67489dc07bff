"""Lists to which tokens are appended, and queues from which they are taken: each once, and in order. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gvcluster.cli.soak.history import Fate, Op, in_short


def list_problems(
    appends: Sequence[Op], final: Sequence[Any], reads: Sequence[Sequence[Any]] = (), *, strict: bool
) -> list[str]:
    """Check one list to which greenlets append tokens of their own. (C4)

    Args:
        appends: `argument` is the token, no two alike; `reply` is the length of the list after it.
        final: The list in the end.
        reads: What was read of it before, from its beginning.
        strict: No server may have lost what it acknowledged.

    Returns:
        What cannot be: in words.
    """
    found = [*_once(appends, final), *_in_order(appends, final)]
    if strict:
        found += _kept(appends, final, reads)
    return in_short(found)


def _once(appends: Sequence[Op], final: Sequence[Any]) -> Iterator[str]:
    """Each token at most once, and none that was not appended, or is said not to have been."""
    fates = {op.argument: op.fate for op in appends}
    for token, times in Counter(final).items():
        if times > 1:
            yield f"{token!r} was appended {times} times"
        if token not in fates:
            yield f"{token!r} is nobody's"
        elif fates[token] is Fate.NEVER:
            yield f"{token!r} was appended, and reported as not executed"


def _in_order(appends: Sequence[Op], final: Sequence[Any]) -> Iterator[str]:
    """A token stands behind those that the same greenlet had appended, with success, before it was called."""
    place = {token: index for index, token in enumerate(final)}
    last: dict[int, int] = {}
    for op in sorted(appends, key=lambda op: (op.who, op.seq)):
        here = place.get(op.argument)
        if here is None:
            continue
        if here < last.get(op.who, -1):
            earlier = final[last[op.who]]
            yield f"greenlet {op.who}: {op.argument!r} stands before {earlier!r}, which it had appended before"
        if op.fate is Fate.DONE:
            last[op.who] = max(here, last.get(op.who, -1))


def _kept(appends: Sequence[Op], final: Sequence[Any], reads: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Each acknowledged token is where its reply said; what was read is how the list begins."""
    for op in appends:
        if op.fate is not Fate.DONE:
            continue
        if type(op.reply) is not int or not 0 < op.reply <= len(final):
            yield f"{op.argument!r} was acknowledged as number {op.reply!r} of {len(final)}"
        elif final[op.reply - 1] != op.argument:
            yield f"{op.argument!r} was acknowledged as number {op.reply}, where {final[op.reply - 1]!r} is"
    for read in reads:
        if list(final[: len(read)]) != list(read):
            yield f"the list began otherwise when {len(read)} tokens of it were read"


def queue_problems(pushes: Sequence[Op], pops: Sequence[Op], left: Sequence[Any], *, strict: bool) -> list[str]:
    """Check one queue with many who push tokens and many who take them. (C7)

    Args:
        pushes: `argument` is the token, no two alike.
        pops: `reply` is the token that was taken, None if there was none in time.
        left: The tokens that are in the queue in the end.
        strict: No server may have lost what it acknowledged: neither tokens nor that they were taken.

    Returns:
        What cannot be: in words. A token may be lost for each pop in doubt, which may have taken it.
    """
    return in_short(_queue_problems(pushes, pops, left, strict))


def _queue_problems(pushes: Sequence[Op], pops: Sequence[Op], left: Sequence[Any], strict: bool) -> Iterator[str]:
    fates = {op.argument: op.fate for op in pushes}
    seen = Counter([*(op.reply for op in pops if op.fate is Fate.DONE), *left])
    del seen[None]
    for token in seen:
        if fates.get(token, Fate.NEVER) is Fate.NEVER:
            what = "was pushed, and reported as not executed" if token in fates else "is nobody's"
            yield f"{token!r} {what}"
    if strict:
        yield from (f"{token!r} was delivered {times} times" for token, times in seen.items() if times > 1)
        yield from _lost(fates, pops, seen)


def _lost(fates: Mapping[Any, Fate], pops: Sequence[Op], seen: Counter[Any]) -> Iterator[str]:
    """Tokens that nobody has, more than pops are in doubt."""
    lost = [token for token, fate in fates.items() if fate is Fate.DONE and token not in seen]
    doubtful = sum(op.fate is Fate.DOUBTFUL for op in pops)
    if len(lost) > doubtful:
        yield f"{len(lost)} acknowledged tokens are gone, {lost[0]!r} first, and only {doubtful} pops are in doubt"
