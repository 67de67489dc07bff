"""A command of Garnet: what it does, how many arguments it takes, where its keys are, and whether it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from gvcluster.testing.answers import encode_reply

if TYPE_CHECKING:
    from gvcluster.testing.garnet.node import GarnetNode

# A reply as Python value, Raw bytes, or a ReplyError, which is answered and not raised. `args` is without the name.
# Writes look at no connection: it is None where a replica reads the log.
Run: TypeAlias = "Callable[[GarnetNode, Any, list[bytes]], object]"


@dataclass(frozen=True)
class Raw:
    """A reply that is written already."""

    data: bytes


@dataclass(frozen=True)
class Command:
    """One command. `arity` counts the name, and is negative where more arguments may follow, as in COMMAND.

    `keys`: first, last and step among the arguments, the name being 0; (0, 0, 0) for none; `counted`: the first
    argument behind the name of which is a number of keys, as in EVAL, counts from `counted`.
    """

    run: Run
    arity: int
    keys: tuple[int, int, int] = (0, 0, 0)
    writes: bool = False
    counted: int = 0
    no_multi: bool = False

    def takes(self, args: list[bytes]) -> bool:
        """Whether the number of arguments, the name included, is right."""
        return len(args) == self.arity if self.arity > 0 else len(args) >= -self.arity

    def keys_of(self, args: list[bytes]) -> list[bytes]:
        """The keys of a call, the name included in `args`."""
        if self.counted:
            number = args[self.counted]
            return args[self.counted + 1 :][: int(number)] if number.isdigit() else []
        first, last, step = self.keys
        return args[first : len(args) + last + 1 if last < 0 else last + 1 : step] if step else []


Table: TypeAlias = Mapping[str, Command]


def encode(value: object, protocol: int) -> bytes:
    """Write a reply as Garnet does."""
    return value.data if isinstance(value, Raw) else encode_reply(value, protocol)


def verbatim(text: bytes, protocol: int) -> Raw:
    """Text as INFO and CLIENT LIST have it: a verbatim string in RESP3."""
    return Raw(b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if protocol == 3 else encode_reply(text, 2))
