"""A reply as people, pipes and programs want it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

_ESCAPES = MappingProxyType({ord('"'): '\\"', ord("\\"): "\\\\", 10: "\\n", 13: "\\r", 9: "\\t"})


def as_text(reply: Any) -> str:
    """For a terminal, in the manner of valkey-cli: types can be seen, and nothing in a value moves the cursor."""
    return "\n".join(_lines(reply))


def as_page(reply: Any) -> str:
    """For a terminal, where the value is a text of many lines, such as INFO: as it is, but for control characters."""
    if isinstance(reply, dict):
        return "\n".join(f"# {name}\n{as_page(each)}" for name, each in reply.items())
    if not isinstance(reply, bytes):
        return as_text(reply)
    lines = reply.decode("utf-8", "replace").splitlines()
    return "\n".join("".join(each if each.isprintable() else "�" for each in line) for line in lines)


def as_raw(reply: Any) -> bytes:
    """For a pipe: values as they are, one a line."""
    match reply:
        case bytes():
            return reply
        case dict():
            return b"\n".join(as_raw(each) for pair in reply.items() for each in pair)
        case list() | set() | frozenset():
            return b"\n".join(map(as_raw, reply))
        case None:
            return b""
        case bool():
            return b"%d" % reply
    return str(reply).encode("utf-8", "surrogateescape")


def as_json(reply: Any) -> str:
    """One line of JSON. Bytes that are no UTF-8 are `{"base64": …}`, errors `{"error": …}`."""
    return json.dumps(_jsonable(reply), ensure_ascii=False)


def _lines(reply: Any) -> Iterator[str]:
    if isinstance(reply, dict):
        reply = [_Pair(*pair) for pair in reply.items()]
    if isinstance(reply, (set, frozenset)):
        reply = list(reply)
    if isinstance(reply, _Pair):
        yield from _labelled(f"{_word(reply.name)} => ", reply.value)
    elif isinstance(reply, list):
        width = len(str(len(reply)))
        for number, each in enumerate(reply, 1):
            yield from _labelled(f"{number:>{width}}) ", each)
        if not reply:
            yield "(empty)"
    else:
        yield _word(reply)


class _Pair:
    """An entry of a map."""

    def __init__(self, name: Any, value: Any) -> None:
        self.name, self.value = name, value


def _labelled(label: str, reply: Any) -> Iterator[str]:
    for index, line in enumerate(_lines(reply)):
        yield (label if not index else " " * len(label)) + line


def _word(value: Any) -> str:
    match value:
        case None:
            return "(nil)"
        case bool():
            return "(true)" if value else "(false)"
        case int():
            return f"(integer) {value}"
        case float():
            return f"(double) {value}"
        case Exception():
            return f"(error) {value}"
        case bytes():
            return _quoted(value)
    return str(value)


def _quoted(value: bytes) -> str:
    """In double quotes, with what is no printable text escaped."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and (text or not value):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return (
        '"'
        + "".join(_ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in value)
        + '"'
    )


def _jsonable(reply: Any) -> Any:
    match reply:
        case bytes():
            return _text_or_base64(reply)
        case dict():
            return _object(reply)
        case list() | set() | frozenset():
            return [_jsonable(each) for each in reply]
        case float() if not math.isfinite(reply):
            return str(reply)
        case None | bool() | int() | float() | str():
            return reply
        case Exception():
            return {"error": str(reply)}
    return str(reply)


def _object(reply: dict[Any, Any]) -> Any:
    """A JSON object if all names are text, else a list of pairs."""
    names = list(map(_jsonable, reply))
    values = [_jsonable(value) for value in reply.values()]
    if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
        return dict(zip(names, values, strict=True))
    return [list(pair) for pair in zip(names, values, strict=True)]


def _text_or_base64(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}
