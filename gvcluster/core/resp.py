"""RESP, by hiredis, behind two names: `encode` for what is sent, `ReplyReader` for what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import hiredis

from gvcluster.errors import AuthFailed, Busy, ConfigError, NoScript, ReadOnly, Redirected, ReplyError

# hiredis packs exactly these as the server expects them. Everything else is looked at one by one: hiredis sends a
# float's or an int subclass's repr as it is ("np.float64(1.5)", "Colour.RED"), nan without a word, and crashes the
# interpreter on an int that Python refuses to print.
_PLAIN = frozenset((str, bytes))
# More decimal digits than any server reads in a number, and fewer than Python refuses to print (4,300).
_LARGEST_INT = 10**4000

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
        return cast(bytes, hiredis.pack_command(cast(Any, args)))
    except UnicodeEncodeError:
        raise _bad_argument(_first_unencodable(args), "a str with lone surrogates; pass bytes instead") from None


def _spelled_out(args: tuple[Any, ...]) -> tuple[str | bytes | int, ...]:
    if not args:
        raise ConfigError("an empty command: pass at least the command's name")
    return tuple(_spelled(position, value) for position, value in enumerate(args))


def _spelled(position: int, value: object) -> str | bytes | int:
    """One argument as str, bytes or int."""
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, bool):
        raise _bad_argument(position, "a bool; pass 0 or 1, or a str")
    if isinstance(value, int):
        if not -_LARGEST_INT < value < _LARGEST_INT:
            raise _bad_argument(position, "an int of more than 4,000 digits; pass it as bytes")
        return int(value)
    if isinstance(value, float):
        if value != value:
            raise _bad_argument(position, "nan, which no command accepts")
        return float.__repr__(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise _bad_argument(position, f"of type {type(value).__name__}; pass str, bytes, int or float")


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
    """Bytes in, replies out. `gets` returns INCOMPLETE when more bytes are needed; error replies are ReplyErrors."""

    def __init__(self) -> None:
        super().__init__(notEnoughData=INCOMPLETE, replyError=reply_error)


# What the parser raises for bytes that are not RESP, or that Python cannot hold (an unhashable key of a RESP3 map);
# IndexError is the reader's own, for a reply that nobody asked for. After any of them the stream is lost.
MALFORMED = (hiredis.ProtocolError, TypeError, IndexError)
