"""RESP, by hiredis, behind two names: `encode` for what is sent, `ReplyReader` for what comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import hiredis

from gvcluster.errors import AuthFailed, Busy, ConfigError, NoScript, ReadOnly, Redirected, ReplyError

# Its stub takes a tuple of one. Once, for `cast` is a call: 2 × 0.1 µs per command.
_pack = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)

# hiredis packs exactly these as the server expects them. Everything else is looked at one by one: hiredis sends a
# float's or an int subclass's repr as it is ("np.float64(1.5)", "Colour.RED"), nan without a word, and crashes the
# interpreter on an int that Python refuses to print.
_PLAIN = frozenset((str, bytes))

# Never False: that is RESP3's `#f`, and one EVAL returning it would shift every later reply.
INCOMPLETE: Any = type("Incomplete", (), {"__repr__": lambda self: "INCOMPLETE", "__slots__": ()})()

Push = hiredis.PushNotification

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
    try:
        return _pack(args)
    except UnicodeEncodeError:
        pass  # it shows the value: it must not be the context of what is raised
    raise _bad_argument(_first_unencodable(args), "a str with lone surrogates; pass bytes instead")


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

    hiredis takes a RESP3 attribute, which precedes a reply, for a reply of its own: every later reply would be shifted.
    No command of the servers sends attributes, but a module's may. They are dropped here: bytes that could be one
    are fed apart, and if the parser has nothing left when it comes to the `|`, it is one.
    """

    def __init__(self) -> None:
        super().__init__(notEnoughData=INCOMPLETE, replyError=reply_error)
        self._feed: Any = super().feed
        self._early: deque[Any] = deque()  # replies that had to be parsed to see whether an attribute follows
        self._attribute: hiredis.Reader | None = None  # what reads an attribute whose end has not come yet

    def feed(self, data: bytes | bytearray, offset: int = 0, count: int | None = None) -> None:  # type: ignore[override]
        """Take `count` bytes of `data`, or all of them."""
        end = len(data) if count is None else offset + count
        if self._attribute is None and data.find(b"|", offset, end) < 0:
            self._feed(data, offset, end - offset)
        else:
            self._feed_carefully(bytes(data[offset:end]))

    def _feed_carefully(self, data: bytes) -> None:
        while data:
            if self._attribute is not None:
                data = self._skip_attribute(data)
                continue
            at = 0 if data[:1] == b"|" else data.find(b"\n|") + 1
            if not at and data[:1] != b"|":
                self._feed(data)
                return
            self._feed(data[:at])
            self._early.extend(iter(super().gets, INCOMPLETE))
            self.gets = self._gets_early  # type: ignore[method-assign]  # until they are handed out
            if self.has_data():  # inside a string: no attribute
                self._feed(b"|")
                data = data[at + 1 :]
            else:
                self._attribute = hiredis.Reader(notEnoughData=INCOMPLETE)
                data = data[at:]

    def _skip_attribute(self, data: bytes) -> bytes:
        """What follows the attribute. Byte by byte: the parser does not tell how far it has come."""
        assert self._attribute is not None
        for at in range(len(data)):
            self._attribute.feed(data[at : at + 1])
            if self._attribute.gets() is not INCOMPLETE:
                self._attribute = None
                return data[at + 1 :]
        return b""

    def _gets_early(self, *decode: bool) -> Any:
        if self._early:
            return self._early.popleft()
        vars(self).pop("gets", None)  # whoever has looked it up before may still call it
        return super().gets(*decode)


# What the parser raises for bytes that are not RESP, or that Python cannot hold (an unhashable key of a RESP3 map);
# IndexError is the reader's own, for a reply that nobody asked for. After any of them the stream is lost.
MALFORMED = (hiredis.ProtocolError, TypeError, IndexError)
