"""Key → hash tag → hash slot, as the servers compute it (valkey.io/topics/cluster-spec, "Key distribution model")."""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final, TypeAlias

from gvcluster.errors import ConfigError

SLOTS: Final = 16384

Key: TypeAlias = str | bytes | bytearray | memoryview | int | float

_OPEN = ord("{")


def hash_slot(key: Key) -> int:
    """Compute the hash slot that a key belongs to.

    Args:
        key: `str` (as UTF-8), `bytes`, `bytearray`, `memoryview`, `int` (in decimal) or `float` (its repr).

    Returns:
        0 to 16383.

    Raises:
        ConfigError: The key is of another type, or can not be encoded. The message does not show it.
    """
    # Written out, not calling key_bytes and hash_tag: 0.20 µs for a str, 0.17 for bytes, 0.4 with a hash tag. Looking
    # for the number of "{" takes half the time of looking for b"{", and partition two thirds of find and slicing.
    if type(key) is str:
        try:
            key = key.encode()
        except UnicodeEncodeError as error:
            error.object, error.args = "", ()  # it becomes the context of what is raised, and shows the key
            raise _lone_surrogate() from None
    elif type(key) is not bytes:
        key = key_bytes(key)
    if _OPEN in key:
        tag, closed, _ = key.partition(b"{")[2].partition(b"}")
        if closed and tag:
            key = tag
    return crc_hqx(key, 0) & 16383  # crc_hqx from 0 is CRC16/XMODEM


def hash_tag(key: Key) -> bytes:
    """Return the part of a key that is hashed.

    Returns:
        What stands between the first `{` and the first `}` after it; the whole key if there is no such pair, or nothing
        in between.

    Raises:
        ConfigError: As hash_slot.
    """
    whole = key_bytes(key)
    tag, closed, _ = whole.partition(b"{")[2].partition(b"}")
    return tag if closed and tag else whole


def key_bytes(key: Key) -> bytes:
    """A key as the server sees it: what `resp.encode` makes of it."""
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key)
    if isinstance(key, str):
        try:
            return key.encode()
        except UnicodeEncodeError as error:
            error.object, error.args = "", ()
            raise _lone_surrogate() from None
    if isinstance(key, bool) or not isinstance(key, int | float):
        raise ConfigError(f"a key must be str, bytes, int or float, not {type(key).__name__}")
    # Not repr(): that of an IntEnum or a numpy float is not its number.
    try:
        return (int if isinstance(key, int) else float).__repr__(key).encode()
    except ValueError:  # CPython prints no int of more than 4300 digits
        raise ConfigError("a key must not be an int of thousands of digits; pass bytes instead") from None


def _lone_surrogate() -> ConfigError:
    return ConfigError("a key must not be a str with lone surrogates; pass bytes instead")
