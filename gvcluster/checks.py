"""Checks of single values that users give: each raises ConfigError with the option's name, and never shows a secret."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gvcluster.errors import ConfigError

SocketOption = tuple[int, int, int | bytes]  # level, name, value: what setsockopt takes

_UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


def seconds(name: str, value: object) -> float:
    """A time in seconds, greater than 0 and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a number of seconds greater than 0, not {value!r}")
    return value


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ConfigError unless the value is one of those allowed."""
    if isinstance(value, bool) or value not in allowed:
        raise ConfigError(f"{name} must be {' or '.join(repr(each) for each in allowed)}, not {value!r}")


def whole_number(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")


def word(name: str, value: object) -> None:
    """A str without control characters; the value itself is never shown: it may be secret."""
    if value is None:
        return
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a str, not {type(value).__name__}")
    if _UNPRINTABLE.search(value):
        raise ConfigError(f"{name} has a control character or a lone surrogate in it")
    if name == "client_name" and (not value or " " in value):
        raise ConfigError("client_name must not be empty nor have blanks in it")


def socket_options(given: object) -> tuple[SocketOption, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise ConfigError(f"socket_options must be a list of (level, name, value), not {type(given).__name__}")
    for each in given:
        kinds = [type(part) for part in each] if isinstance(each, tuple | list) else []
        if kinds not in ([int, int, int], [int, int, bytes]):
            raise ConfigError(f"socket_options has {each!r}: each must be (level, name, value), value may be bytes")
    return tuple((level, name, value) for level, name, value in given)


def flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {type(value).__name__}")


def callback(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise ConfigError(f"{name} must be callable")
