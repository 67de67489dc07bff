"""What headers of replies announce: the parser makes room for all of it before a single element has come.

`*1073741823` reserves 8 GiB, and a push of as many elements takes them. Whether bytes are a header only the parser
knows, for a string may hold anything; so here is what could be one, and the reader asks the parser about those few.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

NEWLINE, ATTRIBUTE = ord("\n"), ord("|")
# What one element takes in the list that is made for them.
_ROOM = 8
# The longest header is "*9223372036854775807\r\n".
_LONGEST = 24

# From four digits on a header is looked at: shorter ones take 8 kB each, and nest 1,024 deep at most. It need not begin
# a line: the parser takes any two bytes for the end of a string.
_MANY, _END = rb"[1-9][0-9]{3}", rb"[0-9]{0,18}\r\n"
_find = re.compile(rb"[|*~%>](?:(?<=\|)[-0-9]|" + _MANY + rb")" + _END).search
# What is in a long string need not be looked at, once the parser has said that it is one.
_find_or_string = re.compile(rb"[|*~%>$=](?:(?<=\|)[-0-9]|" + _MANY + rb")" + _END).search
_unfinished = re.compile(rb"[|*~%>]-?[0-9]{0,19}\r?\Z").search

# One search for each kind: a first character that is always the same makes `re` fast, 0.7 ns for a byte.
_SEARCHES = (
    (b"|", re.compile(rb"\|[-0-9]" + _END).search),
    *((kind, re.compile(re.escape(kind) + _MANY + _END).search) for kind in (b"*", b">", b"%", b"~")),
)
# For a few bytes one search is faster than one for each character: 0.3 µs instead of 1.0.
_FEW = 100
# What a line begins with, said by the parser itself.
LINE_TYPES = b"+-:,_$*%~#=>(|"
_NUMBER = re.compile(rb"[0-9]{1,19}(?=\r\n)")

_WORDS: Mapping[str, str] = MappingProxyType({"*": "an array", "~": "a set", "%": "a map", ">": "a push"})


class TooMuch(Exception):
    """A node has announced more than it may send."""


def may_have_header(data: bytes | bytearray, end: int) -> bool:
    """Whether there could be an attribute or a large header in it. Every read passes here.

    A read of a few bytes is looked at in 0.3 µs, one of 64 KiB without these characters in 5 µs.
    """
    if end < _FEW:
        return _find(data, 0, end) is not None
    for kind, search in _SEARCHES:  # noqa: SIM110 - `any` takes twice as long
        if data.find(kind, 0, end) >= 0 and search(data, 0, end):
            return True
    return False


def find_header(data: bytes, begin: int) -> int:
    """Where the first of them stands, or a string of 1,000 bytes and more; or -1."""
    found = _find_or_string(data, begin)
    return found.start() if found else -1


def kept_back_from(data: bytes | bytearray, end: int) -> int:
    """Where that begins which could become such a header by what follows; else the end.

    A character that can begin a line too: the parser takes it at once, and then has nothing left, as if a header could
    follow. No reply is complete without its last newline, so nobody waits longer for that.
    """
    found = _unfinished(data, max(0, end - _LONGEST), end)
    if found:
        start = found.start()
        return start - (start > 0 and data[start - 1] != NEWLINE)  # the byte before it, too, for the same reason
    return end - 1 if end and data[end - 1] in LINE_TYPES else end


class Announced:
    """What the unfinished reply has announced so far, and how much it may: `most` in bytes."""

    __slots__ = ("elements", "most")

    def __init__(self) -> None:
        self.most: float = math.inf
        self.elements = 0

    def add(self, data: bytes, at: int) -> None:
        """Take the header that stands there. Raises TooMuch if that is more than the reply may have."""
        kind, number = data[at], _NUMBER.match(data, at + 1)
        if number is None:
            return  # the parser refuses it
        count = int(number[0])
        self.elements += count
        # No server sends such a push, and hiredis fills its list when it begins: 14 s for a billion.
        if kind == ord(">") or self.elements * _ROOM > self.most:
            of_all = f" ({self.elements:,} in all)" if self.elements > count else ""
            hint = "" if kind == ord(">") else ": see the option max_reply_bytes"
            raise TooMuch(f"the header of {_WORDS[chr(kind)]} of {count:,} elements{of_all}{hint}")
