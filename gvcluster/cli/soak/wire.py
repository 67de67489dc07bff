"""What went over the wire: replies that belong to their calls, and commands that went out once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gvcluster.cli.soak.history import in_short


class Answer(NamedTuple):
    """A reply, and the only one that could be right."""

    who: int
    command: str
    expected: Any
    reply: Any


def echo_problems(answers: Iterable[Answer]) -> list[str]:
    """Check replies that are known beforehand: tokens of their own, numbers and lists in turn. (C1)

    The type is compared as well, for 1, True and 1.0 are equal in Python, and what is shifted by one may look alike.
    """
    return in_short(
        f"greenlet {answer.who}: {answer.command} was answered {answer.reply!r} instead of {answer.expected!r}"
        for answer in answers
        if type(answer.reply) is not type(answer.expected) or answer.reply != answer.expected
    )


def wire_problems(asked: Mapping[Any, int], sent: Mapping[Any, int], refused: Mapping[Any, int]) -> list[str]:
    """Compare what the application asked for with the complete commands that reached the servers. (C5)

    Args:
        asked: For each token how often it was to be written: once, or so many INCR of a key that has no other token.
        sent: How many complete commands with it went to the servers.
        refused: How many of these the servers proved not to have executed: MOVED, ASK, TRYAGAIN and the like.

    Returns:
        Tokens that went out more often, in words: nobody could know that this would not execute them twice.
    """
    return in_short(
        f"{token!r} was asked for {asked.get(token, 0)} times, and sent {times} times,"
        f" {refused.get(token, 0)} of which were refused"
        for token, times in sent.items()
        if times - refused.get(token, 0) > asked.get(token, 0)
    )


def truth_problems(truth: Mapping[Any, int], sent: Mapping[Any, int], refused: Mapping[Any, int]) -> list[str]:
    """Compare what the servers have executed with what the wire carried: more than was sent cannot be. (C5)"""
    return in_short(
        f"{token!r} was executed {times} times, and sent {sent.get(token, 0)} times,"
        f" {refused.get(token, 0)} of which were refused"
        for token, times in truth.items()
        if times > sent.get(token, 0) - refused.get(token, 0)
    )


def lost_problems(lost: Mapping[Any, int], ended: Mapping[Any, int]) -> list[str]:
    """Compare what calls say was lost with the connections that ended.

    Args:
        lost: How many commands failed with ConnectionLost, in doubt, by the address that the error names.
        ended: How many connections have ended by themselves at each address.
    """
    return in_short(
        f"{times} commands were lost with connections to {address}, where none has ended"
        for address, times in lost.items()
        if not ended.get(address, 0)
    )
