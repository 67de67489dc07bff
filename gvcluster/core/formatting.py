"""Two more ways to write a command: printf-like, as libvalkey's redisFormatCommand, and RESP-encoded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gvcluster.errors import ConfigError
from gvcluster.records import Record

# The format's pieces: a blank, literal bytes, or a % with flags, width, precision, the C type's length, and how to
# convert. Four digits are enough for any column, and too few to fill the memory.
_PIECE = rb" |[^ %]+|%([-+ #0]*)([0-9]{0,4})(\.[0-9]{0,4})?(hh|h|ll|l|j|z|t|L|q)?([A-Za-z%])?"
_BASES = MappingProxyType({"d": "d", "i": "d", "u": "d", "o": "o", "x": "x", "X": "X"})
# The digits of a double's fraction in base 16.
_HEX_DIGITS = 13
# The header of an array or of a string: no sign, no superfluous zero, no more digits than a length can have.
_COUNT = rb"\*([1-9][0-9]{0,18})\r\n"
_LENGTH = rb"\$(0|[1-9][0-9]{0,18})\r\n"


class _Specifier(Record):
    """One specifier of a format. `precision` is None where none is given."""

    name: str  # for errors
    flags: str
    width: int
    precision: int | None
    kind: str


def format_command(format: str | bytes, *args: Any) -> list[bytes]:
    """Write a command as C's printf would, and split it into its arguments.

    Only the blanks of `format` itself split: a value with blanks, quotes, CRLF or NUL in it stays one argument. Write
    values as arguments, never into the format.

    Args:
        format: `%s` takes str (sent as UTF-8) or bytes, `%b` bytes, `%d %i %u %o %x %X` an int, `%e %f %g %a` (and in
            upper case) a float or int, `%c` one character or an int from 0 to 255; `%%` is a percent sign. Flags, width
            and precision are those of C, counted in bytes; a length (`%lld`) is ignored: an int has as many digits as
            it needs.
        args: One value for each specifier.

    Returns:
        The command, its name first.

    Raises:
        ConfigError: Too few or too many values, one of a wrong type, an unknown specifier, or no command at all. The
            message shows no value and nothing of the format but the specifier.

    Source: libvalkey's valkeyFormatCommand, which reads past its arguments where the count or a type is wrong.
    """
    words: list[list[bytes]] = [[]]
    values = _Values(args)
    for piece in re.finditer(_PIECE, _utf8("the format", format)):
        if piece[0] == b" ":
            words.append([])
        else:
            words[-1].append(_text(piece, values))
    values.check_all_used()
    command = [b"".join(word) for word in words if word]  # of empty values there is a word, of two blanks there is none
    if not command or not command[0]:
        raise ConfigError("the format makes an empty command: begin with the command's name")
    return command


def parse_command(data: bytes | bytearray | memoryview) -> tuple[bytes, ...]:
    """Take a RESP-encoded command apart.

    Args:
        data: One whole command as the protocol has it, an array of bulk strings: `b"*1\\r\\n$4\\r\\nPING\\r\\n"`.

    Returns:
        The command, its name first. To encode it gives the same bytes.

    Raises:
        ConfigError: It is not exactly one whole command; the message says where, and shows nothing of it.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ConfigError(f"a RESP-encoded command is bytes, not {type(data).__name__}")
    data = bytes(data)
    header, length = re.match(_COUNT, data), re.compile(_LENGTH)
    if header is None:
        raise ConfigError(r'a RESP-encoded command begins with "*", the number of its arguments, and CRLF')
    args: list[bytes] = []
    at, count = header.end(), int(header[1])
    while len(args) < count:
        header = length.match(data, at)
        if header is None:
            raise ConfigError(f'byte {at} of the RESP-encoded command: expected "$", a length and CRLF')
        begin, at = header.end(), header.end() + int(header[1]) + 2
        if data[at - 2 : at] != b"\r\n":
            raise ConfigError(f"argument {len(args)} of the RESP-encoded command does not end where its length says")
        args.append(data[begin : at - 2])
    if at != len(data):
        raise ConfigError(f"{len(data) - at} bytes follow the RESP-encoded command: pass one command at a time")
    return tuple(args)


class _Values:
    """The values of a format, taken one after another."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self._values = values
        self.taken = 0

    def take(self, specifier: _Specifier) -> Any:
        """The next one."""
        if self.taken == len(self._values):
            raise ConfigError(f"there is no value for {specifier.name}: the format takes more than {self.taken}")
        self.taken += 1
        return self._values[self.taken - 1]

    def check_all_used(self) -> None:
        """Refuse those that are too many."""
        if self.taken != len(self._values):
            raise ConfigError(f"the format takes {self.taken} values, got {len(self._values)}")


def _text(piece: re.Match[bytes], values: _Values) -> bytes:
    """Literal bytes as they are, and what a specifier makes of the next value."""
    if not piece[0].startswith(b"%"):
        return piece[0]
    if piece[0] == b"%%":
        return b"%"
    specifier = _specifier(piece)
    value = values.take(specifier)
    try:
        return _CONVERSIONS[specifier.kind](specifier, value)
    except (ValueError, OverflowError) as error:
        problem = str(error) if isinstance(error, ConfigError) else "is too large for it"
    raise ConfigError(f"value {values.taken}, for {specifier.name}, {problem}")


def _specifier(piece: re.Match[bytes]) -> _Specifier:
    flags, width, precision, size, kind = (part.decode() for part in piece.groups(b""))
    name = piece[0].decode()
    if kind not in _CONVERSIONS or (size and kind in "sbc"):
        raise ConfigError(
            f"{name!r}, at byte {piece.start()} of the format, is no specifier; write %% for a percent sign"
        )
    return _Specifier(name, flags, int(width or 0), int(precision[1:] or 0) if precision else None, kind)


def _string(specifier: _Specifier, value: object) -> bytes:
    return _padded(specifier, _utf8("", value)[: specifier.precision])


def _bytes(specifier: _Specifier, value: object) -> bytes:
    if isinstance(value, str):
        raise ConfigError("is a str: %b takes bytes, and %s both")
    return _string(specifier, value)


def _character(specifier: _Specifier, value: object) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= 255:
            raise ConfigError("is not between 0 and 255")
        return _padded(specifier, bytes([value]))
    if isinstance(value, str | bytes | bytearray) and len(value) == 1:
        return _padded(specifier, _utf8("", value))
    raise ConfigError(f"must be one character or an int, not {_kind(value)}")


def _integer(specifier: _Specifier, value: object) -> bytes:
    """An int by C's rules, which differ from Python's in the octal prefix, and in what a precision does."""
    number, signed = _int(value), specifier.kind in "di"
    if number < 0 and not signed:
        raise ConfigError("is negative")
    prefix = _sign(specifier, negative=number < 0) if signed else ""
    if specifier.kind in "xX" and number and "#" in specifier.flags:
        prefix = f"0{specifier.kind}"
    return _filled(specifier, prefix, _digits(specifier, abs(number)), zeros=specifier.precision is None)


def _digits(specifier: _Specifier, number: int) -> str:
    digits = format(number, _BASES[specifier.kind])
    if specifier.precision is not None:
        digits = digits.rjust(specifier.precision, "0") if number or specifier.precision else ""
    if specifier.kind == "o" and "#" in specifier.flags and not digits.startswith("0"):
        digits = f"0{digits}"
    return digits


def _floating(specifier: _Specifier, value: object) -> bytes:
    number = float(value if isinstance(value, float) else _int(value, "a float or int"))
    if math.isnan(number):
        raise ConfigError("is nan, which no command accepts")
    prefix, digits = _sign(specifier, negative=math.copysign(1.0, number) < 0), ""
    if specifier.kind in "aA" and math.isfinite(number):
        prefix, digits = f"{prefix}0x", _hexadecimal(specifier, abs(number))
    else:
        precision = "" if specifier.precision is None else f".{specifier.precision}"
        point = "#" * ("#" in specifier.flags)
        digits = f"%{point}{precision}{specifier.kind.lower().replace('a', 'f')}" % abs(number)
    if specifier.kind.isupper():
        prefix, digits = prefix.upper(), digits.upper()
    return _filled(specifier, prefix, digits, zeros=math.isfinite(number))


def _hexadecimal(specifier: _Specifier, number: float) -> str:
    """A double in base 16 after its 0x: as many digits as it needs, or as `precision` says, rounded half to even."""
    mantissa, _, exponent = number.hex().removeprefix("0x").partition("p")
    lead, _, fraction = mantissa.partition(".")
    fraction = fraction.ljust(_HEX_DIGITS, "0")
    places = specifier.precision
    if places is None:
        fraction = fraction.rstrip("0")
    elif places < _HEX_DIGITS:
        unit = 16 ** (_HEX_DIGITS - places)
        whole, rest = divmod(int(lead + fraction, 16), unit)
        whole += rest * 2 > unit or (rest * 2 == unit and whole % 2)
        lead, fraction = f"{whole // 16**places:x}", f"{whole % 16**places:0{places}x}" if places else ""
    else:
        fraction = fraction.ljust(places, "0")
    return f"{lead}{'.' * bool(fraction or '#' in specifier.flags)}{fraction}p{exponent}"


def _filled(specifier: _Specifier, prefix: str, digits: str, *, zeros: bool) -> bytes:
    """A number as wide as it is to be: with zeros behind its sign, or with blanks."""
    if zeros and "0" in specifier.flags and "-" not in specifier.flags:
        digits = digits.rjust(specifier.width - len(prefix), "0")
    return _padded(specifier, (prefix + digits).encode())


def _padded(specifier: _Specifier, text: bytes) -> bytes:
    return text.ljust(specifier.width) if "-" in specifier.flags else text.rjust(specifier.width)


def _sign(specifier: _Specifier, *, negative: bool) -> str:
    return "-" if negative else "+" if "+" in specifier.flags else " " * (" " in specifier.flags)


def _int(value: object, wanted: str = "an int") -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"must be {wanted}, not {_kind(value)}")
    return int(value)


def _utf8(what: str, value: object) -> bytes:
    """A str or bytes as bytes; an error begins with what it is."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise ConfigError(f"{what} must be str or bytes, not {_kind(value)}".lstrip())
    try:
        return value.encode()
    except UnicodeEncodeError:
        pass  # it shows the value: it must not be the context of what is raised
    raise ConfigError(f"{what} has lone surrogates; pass bytes instead".lstrip())


def _kind(value: object) -> str:
    """What a value is, without showing it."""
    return "None" if value is None else type(value).__name__


_CONVERSIONS: Mapping[str, Callable[[_Specifier, object], bytes]] = MappingProxyType(
    {"s": _string, "b": _bytes, "c": _character}
    | dict.fromkeys(_BASES, _integer)
    | dict.fromkeys("eEfFgGaA", _floating)
)
