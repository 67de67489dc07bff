"""A command of one key → its bytes and its hash slot, in one go: one look-up of the name, and the key encoded once."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Mapping
from typing import Any

from gvcluster.core.resp import encode
from gvcluster.core.slots import hash_slot

_OPEN = ord("{")
_TEXT = frozenset((str, bytes))


class Heads(dict[Any, tuple[bytes, bytes]]):
    """The name of a command of one key, as people write it → the packed command, with gaps for one argument or for two.

    Made from the names of such commands and where their key stands; each head is made when it is first asked for, for
    1,000 of them would take longer than all the rest of a Cluster. A name whose key is not right behind it is a
    KeyError.
    """

    __slots__ = ("_positions",)

    def __init__(self, positions: Mapping[Any, int]) -> None:
        super().__init__()
        self._positions = positions

    def __missing__(self, name: str | bytes) -> tuple[bytes, bytes]:
        if self._positions[name] != 1:
            raise KeyError("its key stands elsewhere")
        packed = encode((name,))[4:].replace(b"%", b"%%")
        head = self[name] = (b"*2\r\n" + packed + b"$%d\r\n%b\r\n", b"*3\r\n" + packed + b"$%d\r\n%b\r\n" * 2)
        return head


def pack(args: tuple[Any, ...], heads: Mapping[Any, tuple[bytes, bytes]]) -> tuple[bytes, int]:
    """The packed command and its slot.

    What it raises (LookupError, TypeError, ValueError) only says that the command must take the long way: it may show
    values, and whoever tells the user what is wrong must not do it from within an `except`.
    """
    # Filling in a head takes half the time of hiredis's packing, and no look at each argument is needed before.
    head, key = heads[args[0]], args[1]
    if key.__class__ is str:
        key = key.encode()
    elif key.__class__ is not bytes:
        return encode(args), hash_slot(key)  # which refuses more than `key_bytes`: nan
    if len(args) == 2:
        data = head[0] % (len(key), key)
    elif len(args) == 3 and args[2].__class__ in _TEXT:
        value = args[2] if args[2].__class__ is bytes else args[2].encode()
        data = head[1] % (len(key), key, len(value), value)
    else:
        data = encode(args)
    if _OPEN in key:
        return data, hash_slot(key)
    return data, crc_hqx(key, 0) & 16383  # as hash_slot, a call less
