"""T4 of fuzz.py: streams of replies in any pieces, read by gvcluster, by hiredis alone, and by a tiny reader in Python.

What is well formed all three must read alike, however it is cut; what was damaged must be read alike in any pieces, or
be refused by what a connection expects. A header that announces too much is refused where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import hiredis

from gvcluster.core.announced import TooMuch
from gvcluster.core.resp import INCOMPLETE, MALFORMED, ReplyReader, reply_error
from gvcluster.errors import ReplyError

# What one reply may announce here: 5,000 elements.
MOST = 40_000
_REFUSED = "refused"


class Wire(NamedTuple):
    """Bytes, where they are cut, and whether something in them was changed."""

    data: bytes
    cuts: tuple[int, ...]
    damaged: bool


# --- What is sent ---

_SIMPLE = (
    *(b"+OK\r\n", b"+\r\n", b"-ERR no\r\n", b"-MOVED 1 a:1\r\n", b":0\r\n", b":-9223372036854775808\r\n", b"$-1\r\n"),
    *(b"*-1\r\n", b"*0\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n", b",1.5\r\n", b",-inf\r\n", b"(12345678901234567890\r\n"),
    *(b"%0\r\n", b"~0\r\n", b"=7\r\ntxt:a|b\r\n"),
)
_IN_STRINGS = (b"", b"\r\n", b"\n", b"|1", b"\n|", b"*99999999\r\n", b"\n>1000", b"$5\r\n", b"x", b"\0\xff", b"+OK\r\n")
_HUGE = (b"*1073741823\r\n", b"~99999\r\n", b"%5001\r\n", b">1000\r\n", b"*9223372036854775807\r\n", b"*5001\r\n")
_KINDS = (b"*", b"~", b">", b"%")


def _reply(rng: Random, depth: int = 3) -> bytes:
    before = _attribute(rng) if rng.random() < 0.05 else b""
    kind = rng.randrange(10) if depth else 0
    return before + (rng.choice(_SIMPLE) if kind < 4 else _string(rng) if kind < 7 else _aggregate(rng, depth))


def _string(rng: Random) -> bytes:
    text = b"".join(rng.choices(_IN_STRINGS, k=rng.randrange(8)))
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _aggregate(rng: Random, depth: int) -> bytes:
    if rng.random() < 0.03:
        return b"*1200\r\n" + b":1\r\n" * 1200
    mark, count = rng.choice(_KINDS if depth == 3 else _KINDS[:2]), rng.randrange(4)
    parts = [b":%d\r\n" % number * (mark == b"%") + _reply(rng, depth - 1) for number in range(count)]
    return mark + b"%d\r\n" % count + b"".join(parts)


def _attribute(rng: Random) -> bytes:
    return b"|1\r\n+key-popularity\r\n" + _reply(rng, 1)


def any_wire(rng: Random) -> Wire:
    """Some replies, sometimes with a huge header behind them, sometimes with something changed; and where to cut."""
    data = bytearray(b"".join(_reply(rng) for _ in range(rng.randrange(1, 6))))
    if rng.random() < 0.2:
        data += b"*2\r\n" * rng.randrange(3) + rng.choice(_HUGE)
    damaged = rng.random() < 0.3
    for _ in range(rng.randrange(1, 4) * damaged):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randrange(4)] = rng.choice((b"", b"\r", b"\n", b"\r\n", b"$3\r\n", b"*2", b"|", b"9", b"-1"))
    if rng.random() < 0.3:
        del data[rng.randrange(len(data) + 1) :]
    count = rng.choice((0, 1, 3, 10, len(data)))
    return Wire(bytes(data), tuple(sorted(rng.randrange(len(data) + 1) for _ in range(count))), damaged)


# --- Three readers ---


def by_gvcluster(data: bytes, cuts: tuple[int, ...]) -> list[Any]:
    """The replies, and REFUSED at the end if it came to that."""
    reader, found = ReplyReader(), []
    reader.announced.most = MOST
    try:
        for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
            reader.feed(data[begin:end])
            while (reply := reader.gets()) is not INCOMPLETE:
                found.append(_plain(reply))
    except MALFORMED:
        found.append(_REFUSED)
    return found


def by_hiredis(data: bytes) -> list[Any]:
    """The same by the parser itself, which takes attributes for replies."""
    reader = hiredis.Reader(notEnoughData=INCOMPLETE, replyError=reply_error)
    reader.feed(data)
    return [_plain(reply) for reply in iter(reader.gets, INCOMPLETE)]


def by_hand(data: bytes) -> list[Any]:
    """The same by thirty lines of Python, for what is well formed or cut off."""
    found: list[Any] = []
    lines = _Lines(data)
    try:
        while True:
            found.append(lines.reply())
    except EOFError:
        return found
    except TooMuch:
        return [*found, _REFUSED]


class _Lines:
    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._announced, self._depth = data, 0, 0, 0

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise EOFError
        self._at += count
        return self._data[self._at - count : self._at]

    def _line(self) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        return self._take((end if end >= 0 else len(self._data)) + 2 - self._at)[:-2]

    def reply(self) -> Any:
        """One reply; what attributes say is dropped."""
        self._announced = 0
        return self._value()

    def _value(self) -> Any:
        line = self._line()
        mark, rest = chr(line[0]), line[1:]
        if mark == "|":
            announced = self._announced
            self._elements(2 * int(rest))
            self._announced = announced
            return self._value()
        if mark in "$=":
            return self._string(int(rest))[4 * (mark == "=") :] if rest != b"-1" else None
        if mark in "*~>%":
            return self._aggregate(mark, int(rest))
        return _SCALARS[mark](rest)

    def _string(self, length: int) -> bytes:
        return self._take(length + 2)[:-2]

    def _aggregate(self, mark: str, count: int) -> Any:
        if count >= 1000:
            self._announced += count
            if mark == ">" or self._announced * 8 > MOST:
                raise TooMuch
        if mark == "%":
            values = self._elements(2 * count)
            return dict(zip(values[::2], values[1::2], strict=True))
        return None if count < 0 else self._elements(count)

    def _elements(self, count: int) -> list[Any]:
        return [self._value() for _ in range(count)]


_SCALARS: Any = {
    "+": bytes,
    "-": lambda text: ("error", text.decode()),
    ":": int,
    "_": lambda _: None,
    "#": lambda text: text == b"t",
    ",": float,
    "(": bytes,
}


def _plain(reply: Any) -> Any:
    """As the reader by hand makes it: errors and pushes compare by what they are otherwise."""
    if isinstance(reply, ReplyError):
        return ("error", reply.message)
    if isinstance(reply, list):
        return [_plain(each) for each in reply]
    if isinstance(reply, dict):
        return {_plain(key): _plain(value) for key, value in reply.items()}
    return "nan" if isinstance(reply, float) and math.isnan(reply) else reply


# --- What must hold ---


def check_wire(wire: tuple[bytes, tuple[int, ...], bool]) -> str:
    """Read it in all ways. Returns how it ended; raises AssertionError where they differ."""
    data, cuts, damaged = wire
    whole = by_gvcluster(data, ())
    for pieces in (cuts, tuple(range(1, len(data), 1 + len(data) // 300))):
        _compare(f"in pieces {pieces}", by_gvcluster(data, pieces), whole, damaged)
    is_refused = whole[-1:] == [_REFUSED]
    if not damaged:
        for name, read in _others(data, is_refused):
            _compare(name, read, whole, False)
    return "refused" if is_refused else "damaged" if damaged else "replies"


def _compare(name: str, read: list[Any], whole: list[Any], damaged: bool) -> None:
    # A string without its end, which hiredis does not look at, may be noticed a little sooner or later.
    count = min(len(_replies(read)), len(_replies(whole)))
    if read != whole and not (damaged and _replies(read)[:count] == _replies(whole)[:count]):
        raise AssertionError(f"{name}: {read!r}, not {whole!r}")


def _replies(read: list[Any]) -> list[Any]:
    return read[:-1] if read[-1:] == [_REFUSED] else read


def _others(data: bytes, is_refused: bool) -> Iterator[tuple[str, list[Any]]]:
    yield "the reader by hand", by_hand(data)
    if not is_refused and b"|" not in data:
        yield "hiredis", by_hiredis(data)
