"""RESP, by hiredis, behind two names: `encode` for what is sent, `ReplyReader` for what comes back."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import hiredis

from gvcluster.core.announced import (
    ATTRIBUTE,
    NEWLINE,
    Announced,
    TooMuch,
    find_header,
    kept_back_from,
    may_have_header,
)
from gvcluster.errors import AuthFailed, Busy, ConfigError, NoScript, ReadOnly, Redirected, ReplyError

# Its stub takes a tuple of one. Once, for `cast` is a call: 2 × 0.1 µs per command.
_pack = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)

# hiredis packs exactly these as the server expects them. Everything else is looked at one by one: hiredis sends a
# float's or an int subclass's repr as it is ("np.float64(1.5)", "Colour.RED"), nan without a word, and crashes the
# interpreter on an int that Python refuses to print.
_PLAIN = frozenset((str, bytes))

# Bytes or characters: for 1 MiB hiredis took 2.5 ms, a join of the packed arguments a third of that.
_LONG = 32 * 1024

# Never False: that is RESP3's `#f`, and one EVAL returning it would shift every later reply.
INCOMPLETE: Any = type("Incomplete", (), {"__repr__": lambda self: "INCOMPLETE", "__slots__": ()})()

Push = hiredis.PushNotification

# From so many bytes on a read is looked at for being a part of one string.
_LONG_READ = 16 * 1024
_STRING = re.compile(rb"[$=]([0-9]{1,19})\r\n")

# Servers' own attributes have less than a hundred bytes. Each is read apart, line by line.
_MOST_OF_ATTRIBUTE, _DEEPEST_ATTRIBUTE = 64 * 1024, 8

_BY_CODE: Mapping[str, type[ReplyError]] = MappingProxyType(
    {
        "NOAUTH": AuthFailed,
        "WRONGPASS": AuthFailed,
        "NOPERM": AuthFailed,
        "NOSCRIPT": NoScript,
        "READONLY": ReadOnly,
        "BUSY": Busy,
        "MOVED": Redirected,
        "ASK": Redirected,
    }
)


def encode(args: tuple[Any, ...]) -> bytes:
    """Pack one command. Raises ConfigError, before a byte is sent, for what the server could not understand."""
    if not _PLAIN.issuperset(map(type, args)) or not args:
        args = _spelled_out(args)
    if max(map(len, args)) > _LONG:
        return b"".join([b"*%d\r\n" % len(args), *bulk_strings(args)])
    try:
        return _pack(args)
    except UnicodeEncodeError:
        pass  # it shows the value: it must not be the context of what is raised
    raise _bad_argument(_first_unencodable(args), "a str with lone surrogates; pass bytes instead")


def bulk_strings(values: Sequence[Any]) -> list[bytes]:
    """Pack each argument by itself: behind the count of all, one after the other, they are what `encode` makes of them.

    For many short commands this is much faster. Raises ConfigError as `encode`.
    """
    if not _PLAIN.issuperset(map(type, values)):
        values = [_spelled(position, value) for position, value in enumerate(values)]
    try:
        packed = [value.encode() if isinstance(value, str) else value for value in values]
        return [b"$%d\r\n%b\r\n" % (len(data), data) for data in packed]
    except UnicodeEncodeError:
        pass  # it shows the value
    raise _bad_argument(_first_unencodable(values), "a str with lone surrogates; pass bytes instead")


def _spelled_out(args: tuple[Any, ...]) -> tuple[str | bytes, ...]:
    if not args:
        raise ConfigError("an empty command: pass at least the command's name")
    return tuple(_spelled(position, value) for position, value in enumerate(args))


def _spelled(position: int, value: object) -> str | bytes:
    """One argument as str or bytes."""
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, bool):
        raise _bad_argument(position, "a bool; pass 0 or 1, or a str")
    if isinstance(value, int):
        return _decimal(position, value)
    if isinstance(value, float):
        if value != value:
            raise _bad_argument(position, "nan, which no command accepts")
        return float.__repr__(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise _bad_argument(position, f"of type {type(value).__name__}; pass str, bytes, int or float")


def _decimal(position: int, value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:
        raise _bad_argument(position, "an int with more digits than Python prints; pass it as bytes") from None


def _first_unencodable(args: Sequence[Any]) -> int:
    for position, value in enumerate(args):
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            return position
    return 0  # pragma: no cover - only called after one was met


def _bad_argument(position: int, what: str) -> ConfigError:
    return ConfigError(f"argument {position} is {what}")


def reply_error(text: str) -> ReplyError:
    """An error reply as the exception of its code."""
    return _BY_CODE.get(text.split(" ", 1)[0], ReplyError)(text)


class ReplyReader(hiredis.Reader):
    """Bytes in, replies out. `gets` returns INCOMPLETE when more bytes are needed; error replies are ReplyErrors.

    Two things of hiredis are made good here. It takes a RESP3 attribute, which precedes a reply, for a reply of its
    own: every later reply would be shifted. No command of the servers sends attributes, but a module's may; they are
    dropped. And it has no limits: `announced` has. Bytes that could be an attribute or a large header are fed apart;
    if the parser has nothing left when it comes to them, they are one.
    """

    def __init__(self, depth: int = 0) -> None:
        super().__init__(notEnoughData=INCOMPLETE, replyError=reply_error)
        self._depth = depth  # of attributes in attributes, where one of them is read
        self._feed: Any = super().feed
        self.announced = Announced()
        self._string = 0  # bytes that are still to come of a long string
        self._is_careful = False  # whether one of the following is set
        self._kept = b""  # of the last line, what could become a header
        self._fault: BaseException | None = None  # what is to be raised behind the early ones
        self._is_in_attribute = False  # its end has not come yet
        self._attribute: _Attribute | None = None  # what reads attributes, if there was one
        self._early: deque[Any] = deque()  # replies that had to be parsed to see whether a header follows

    def feed(self, data: bytes | bytearray, offset: int = 0, count: int | None = None) -> None:  # type: ignore[override]
        """Take `count` bytes of `data`, or all of them."""
        end = len(data) if count is None else offset + count
        if (self._string or end - offset >= _LONG_READ) and self._is_of_one_string(data, offset, end):
            self._feed(data, offset, end - offset)
        elif self._is_careful or offset or may_have_header(data, end):
            self._feed_carefully(self._kept + data[offset:end])
        else:
            self._feed_lines(data, end)

    def _feed_lines(self, data: bytes | bytearray, end: int) -> None:
        """Feed what has no such header; of a last line without an end it is not known yet."""
        if not end or data[end - 1] == NEWLINE:
            self._feed(data, 0, end)
            return
        rest = kept_back_from(data, end)
        self._feed(data, 0, rest)
        self._kept = bytes(data[rest:end])
        self._is_careful = rest < end

    def _is_of_one_string(self, data: bytes | bytearray, begin: int, end: int) -> bool:
        """Whether all these bytes belong to a string whose header told its length: no other header is among them."""
        if not self._string:
            header = None if self.has_data() else _STRING.match(data, begin)
            if header is None:
                return False
            self._string = header.end() - begin + int(header[1]) + 2
        is_all = self._string >= end - begin
        self._string = max(0, self._string + begin - end)
        return is_all

    def has_data(self) -> bool:
        """Whether a reply has begun that is not complete, as far as that shows: not between elements of an array."""
        return bool(self._is_careful or self._early) or super().has_data()

    def _feed_carefully(self, data: bytes) -> None:
        end = kept_back_from(data, len(data))
        data, self._kept, at = data[:end], data[end:], 0
        try:
            while at < end and self._fault is None:
                at = self._skip_attribute(data, at) if self._is_in_attribute else self._feed_up_to(data, at)
        except MALFORMED as fault:
            self._fault, self.gets = fault, self._gets_early  # type: ignore[method-assign]
        self._is_careful = bool(self._kept or self._is_in_attribute or self._fault)

    def _feed_up_to(self, data: bytes, at: int) -> int:
        """Feed what precedes an attribute, and look at the large headers in it. Returns where the attribute begins."""
        found = find_header(data, at) if at or may_have_header(data, len(data)) else -1
        if found >= 0:
            self.gets = self._gets_early  # type: ignore[method-assign]
        while found >= 0:
            if self._begins_there(data, at, found):
                if data[found] == ATTRIBUTE:
                    self._is_in_attribute = True
                    return found
                if string := _STRING.match(data, found):
                    at = self._feed_string(data, found, string.end() + int(string[1]) + 2)
                    found = find_header(data, at)
                    continue
                self.announced.add(data, found)
            at, found = found, find_header(data, found + 1)
        self._feed(data, at)
        return len(data)

    def _feed_string(self, data: bytes, at: int, end: int) -> int:
        """Feed a string, as far as it is here: nothing in it is a header. Returns where to go on."""
        here = min(end, len(data))
        self._feed(data, at, here - at)
        kept = self._kept[: end - here]
        self._feed(kept)
        self._kept, self._string = self._kept[len(kept) :], end - here - len(kept)
        return here

    def _begins_there(self, data: bytes, at: int, found: int) -> bool:
        """Feed what precedes it; whether a reply, or an element of one, begins there. Else it is within one."""
        before = max(at, found - 1)
        # The parser takes a line's first byte at once: where it had nothing left before that, the rest is its text.
        is_text = self._is_eaten(data, at, before) and before < found
        return self._is_eaten(data, before, found) and not is_text

    def _is_eaten(self, data: bytes, begin: int, end: int) -> bool:
        """Feed it; whether the parser has nothing left."""
        self._feed(data, begin, end - begin)
        while (reply := self._gets_next()) is not INCOMPLETE:
            self._early.append(reply)
        return not super().has_data()

    def _skip_attribute(self, data: bytes, at: int) -> int:
        if self._attribute is None:
            self._attribute = _Attribute(self._depth + 1)
        at = self._attribute.skip(data, at)
        self._is_in_attribute = self._attribute.size > 0
        return at

    def _gets_next(self, *decode: bool) -> Any:
        reply = super().gets(*decode)
        if reply is not INCOMPLETE:
            self.announced.elements = 0
        return reply

    def _gets_early(self, *decode: bool) -> Any:
        if self._early:
            return self._early.popleft()
        if self._fault is not None:
            raise self._fault
        reply = self._gets_next(*decode)
        if not self.announced.elements:
            vars(self).pop("gets", None)  # whoever has looked it up before may still call it
        return reply


class _Attribute:
    """Reads attributes, one after the other, and tells where each ends: the parser does not say how far it has come."""

    __slots__ = ("_reader", "size")

    def __init__(self, depth: int) -> None:
        if depth > _DEEPEST_ATTRIBUTE:
            raise TooMuch("attributes of attributes without an end")
        self._reader = ReplyReader(depth)
        self._reader.announced.most = _MOST_OF_ATTRIBUTE
        self.size = 0  # of the one that has begun

    def skip(self, data: bytes, at: int) -> int:
        """Take bytes, line by line, for only behind a newline it can end; `size` is 0 then. Returns where to go on."""
        while at < len(data):
            following = data.find(b"\n", at) + 1 or len(data)
            line = data[at:following]
            self._reader.feed(line if self.size else b"%" + line[1:])  # it is a map by another name
            self.size, at = self.size + len(line), following
            if self.size > _MOST_OF_ATTRIBUTE:
                raise TooMuch(f"an attribute of more than {_MOST_OF_ATTRIBUTE:,} bytes")
            if self._reader.gets() is not INCOMPLETE:
                if self._reader.has_data():
                    raise hiredis.ProtocolError("an attribute that ends within a line")
                self.size = 0
                return at
        return at


# What the parser raises for bytes that are not RESP, or that Python cannot hold (an unhashable key of a RESP3 map);
# IndexError is the reader's own, for a reply that nobody asked for. After any of them the stream is lost.
MALFORMED = (hiredis.ProtocolError, TypeError, IndexError, TooMuch)
