"""Kinds of arguments that several commands take, for argparse: what is wrong is said before anything starts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path


def words(text: str) -> list[str]:
    """Split at commas; nothing between two is nothing, and nothing at all is refused."""
    found = [word for word in text.split(",") if word]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return found


def words_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Split at commas, into words of this list only."""

    def chosen(text: str) -> list[str]:
        found = words(text)
        for word in found:
            if word not in known:
                raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(known)}")
        return found

    return chosen


def between(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    """Read a number from least to most."""

    def number(text: str) -> float:
        value = _number(kind, text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


def above(kind: Callable[[str], float], least: float) -> Callable[[str], float]:
    """Read a number above the least."""

    def number(text: str) -> float:
        value = _number(kind, text)
        if not value > least:
            raise argparse.ArgumentTypeError(f"{text} is not above {least:g}")
        return value

    return number


def writable(text: str) -> Path:
    """Read the path of a file that can be written: who finds out at the end has measured for nothing."""
    path = Path(text)
    is_new = not path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} can not be written: {error.strerror}") from None
    if is_new:
        path.unlink()
    return path


def _number(kind: Callable[[str], float], text: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number") from None
