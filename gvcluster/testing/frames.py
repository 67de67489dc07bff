"""Where commands and replies end in a stream of bytes, without looking at what they say."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from gvcluster.testing.fake_connection import CommandReader, NoCommand

# A frame as it came, and its arguments if it is a command.
Taken: TypeAlias = "tuple[bytes, list[bytes]]"


class NoReply(ValueError):
    """Internal: these bytes are no reply."""


class Framer(Protocol):
    """Cuts a stream into frames. From the first byte on that fits none, everything is a frame as it was received."""

    def feed(self, data: bytes) -> list[Taken]:
        """The frames that are whole now."""

    @property
    def rest(self) -> bytes:
        """What is no whole frame yet."""


class CommandFrames:
    """Arrays of bulk strings."""

    def __init__(self) -> None:
        self._reader: CommandReader | None = CommandReader()

    @property
    def rest(self) -> bytes:
        """What has not become a command."""
        return b"" if self._reader is None else self._reader.rest

    def feed(self, data: bytes) -> list[Taken]:
        """The commands that are whole now."""
        if self._reader is None:
            return [(data, [])]
        frames: list[Taken] = []
        self._reader.feed(data)
        try:
            frames.extend(iter(self._reader.take_frame, None))
            if not b"*".startswith(self._reader.rest[:1]):
                raise NoCommand("a command does not begin so")
        except NoCommand:
            frames.append((self._reader.rest, []))
            self._reader = None
        return frames


class ReplyFrames:
    """Replies and pushes of RESP2 and RESP3; an attribute belongs to the reply behind it."""

    _BULKS, _AGGREGATES = b"$=!", b"*~>%|"
    _KINDS = b"+-:_,#(" + _BULKS + _AGGREGATES

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._at = 0  # where the next element begins
        self._owed = 1  # how many elements the frame still needs
        self._is_raw = False

    @property
    def rest(self) -> bytes:
        """What is no whole reply yet."""
        return bytes(self._bytes)

    def feed(self, data: bytes) -> list[Taken]:
        """The replies that are whole now."""
        if self._is_raw:
            return [(data, [])]
        self._bytes += data
        frames: list[Taken] = []
        try:
            while self._take_element():
                if not self._owed:
                    frames.append((self._cut(self._at), []))
        except NoReply:
            self._is_raw = True
            frames.append((self._cut(len(self._bytes)), []))
        return frames

    def _cut(self, end: int) -> bytes:
        data = bytes(self._bytes[:end])
        del self._bytes[:end]
        self._at, self._owed = 0, 1
        return data

    def _take_element(self) -> bool:
        """Step over one element, if it is there: of an aggregate only the head."""
        kind = self._bytes[self._at : self._at + 1]
        if kind not in self._KINDS:  # nothing at all is
            raise NoReply(f"a reply does not begin with {bytes(kind)!r}")
        end = self._bytes.find(b"\r\n", self._at)
        if end < 0:
            return False
        after, inside = end + 2, 0
        if kind in self._BULKS:
            size = self._number(end)
            after += size + 2 if size >= 0 else 0
        elif kind in self._AGGREGATES:
            inside = max(0, self._number(end)) * (2 if kind in b"%|" else 1) + (kind == b"|")
        if after > len(self._bytes):
            return False
        self._at = after
        self._owed += inside - 1
        return True

    def _number(self, end: int) -> int:
        digits = self._bytes[self._at + 1 : end]
        if not digits.removeprefix(b"-").isdigit():
            raise NoReply(f"{bytes(digits[:40])!r} is no size")
        return int(digits)
