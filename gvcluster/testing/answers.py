"""What a fake node can do when a command comes: raw bytes, or one of these values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.fake_node import FakeNode


@dataclass(frozen=True)
class Close:
    """Close the connection, after sending these bytes. `on` names the connection in a script."""

    after: bytes = b""
    on: str | None = None


@dataclass(frozen=True)
class Reset:
    """Reset the connection: the other side meets ECONNRESET. `on` names the connection in a script."""

    on: str | None = None


@dataclass(frozen=True)
class Pieces:
    """Send the bytes in pieces of this size, and let the hub turn, or wait for some seconds, between them."""

    data: bytes
    size: int = 1
    pause: float = 0.0


@dataclass(frozen=True)
class Delay:
    """Answer after so many seconds. Later commands of the same connection wait, as they would for a server."""

    seconds: float
    then: bytes | Close | Reset | Pieces | None = None


@dataclass(frozen=True)
class NotHandled:
    """Leave the command to the next in line: the handlers set with `on`, then the default answer."""


NOT_HANDLED: Final = NotHandled()

# None: stay silent.
Answer: TypeAlias = bytes | Close | Reset | Pieces | Delay | NotHandled | None
Handler: TypeAlias = "Callable[[FakeNode, FakeConnection, list[bytes]], Answer]"


def encode_reply(value: object, protocol: int = 3) -> bytes:
    """Write a reply as a server does.

    Args:
        value: `str` (a simple string), `bytes` (a bulk string), `int`, `float`, `bool`, None, an exception (an error
            reply with its text), and lists, tuples and mappings of these.
        protocol: 2 or 3. RESP2 has no maps, booleans and doubles, and writes them as lists, integers and strings.

    Returns:
        The raw bytes.

    Raises:
        TypeError: RESP has no form for such a value.
    """
    for kind, encode in _FORMS:
        if isinstance(value, kind):
            return encode(value, protocol)
    raise TypeError(f"RESP has no form for {type(value).__name__}")


def _null(_value: Any, protocol: int) -> bytes:
    return b"_\r\n" if protocol == 3 else b"$-1\r\n"


def _boolean(value: bool, protocol: int) -> bytes:
    return b"#%b\r\n" % (b"t" if value else b"f") if protocol == 3 else b":%d\r\n" % value


def _integer(value: int, _protocol: int) -> bytes:
    return b":%d\r\n" % value


def _double(value: float, protocol: int) -> bytes:
    return f",{value!r}\r\n".encode() if protocol == 3 else _bulk(repr(value).encode(), protocol)


def _simple(value: str, _protocol: int) -> bytes:
    return f"+{value}\r\n".encode()


def _bulk(value: bytes, _protocol: int) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _error(value: BaseException, _protocol: int) -> bytes:
    return f"-{value}\r\n".encode()


def _map(value: Mapping[object, object], protocol: int) -> bytes:
    parts = [part for pair in value.items() for part in pair]
    if protocol != 3:
        return _list(parts, protocol)
    return b"%%%d\r\n" % len(value) + b"".join(encode_reply(part, protocol) for part in parts)


def _list(value: Sequence[object], protocol: int) -> bytes:
    return b"*%d\r\n" % len(value) + b"".join(encode_reply(part, protocol) for part in value)


# A bool is an int too: it comes first.
_FORMS: tuple[tuple[type, Callable[[Any, int], bytes]], ...] = (
    (type(None), _null),
    (bool, _boolean),
    (int, _integer),
    (float, _double),
    (str, _simple),
    (bytes, _bulk),
    (BaseException, _error),
    (Mapping, _map),
    (list, _list),
    (tuple, _list),
)
