"""printf-like commands, and commands that are RESP-encoded already."""

import ctypes
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gvcluster.core.formatting import format_command, parse_command
from gvcluster.core.resp import encode
from gvcluster.errors import ConfigError

# -- what splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "args", "command"),
    [
        ("PING", (), [b"PING"]),
        ("SET %s %d", ("counter", 42), [b"SET", b"counter", b"42"]),
        (b"SET %b %s", (b"k", "é"), [b"SET", b"k", "é".encode()]),
        ("SET {user:%d}:%s%%  x", (7, "name"), [b"SET", b"{user:7}:name%", b"x"]),
        ("  SET   k  v  ", (), [b"SET", b"k", b"v"]),
        ("SET k %s", ("a b \"c\" 'd'\r\n*1\0",), [b"SET", b"k", b"a b \"c\" 'd'\r\n*1\0"]),
        ("SET k %s", (" ",), [b"SET", b"k", b" "]),
        ("SET %s %b", ("", b""), [b"SET", b"", b""]),
        ("SET k %s%s", ("", ""), [b"SET", b"k", b""]),
        ("SET k\t1 a\r\nb", (), [b"SET", b"k\t1", b"a\r\nb"]),
        ('SET k "a b"', (), [b"SET", b"k", b'"a', b'b"']),
        ("SET é %s", ("v",), [b"SET", "é".encode(), b"v"]),
        ("SET k %s", ("%d %s %",), [b"SET", b"k", b"%d %s %"]),
        ("%s %b %s", (bytearray(b"SET"), memoryview(b"k"), b"\xff"), [b"SET", b"k", b"\xff"]),
        ("SET k % d", (5,), [b"SET", b"k", b" 5"]),
        ("SET k %c%c%c%c", ("é", b"\xff", 0, 255), [b"SET", b"k", "é".encode() + b"\xff\0\xff"]),
        ("SET k %5s|%-5s|%.2s|%5.1b", ("ab", "ab", "abc", b"xyz"), [b"SET", b"k", b"   ab|ab   |ab|    x"]),
        ("SET k %3c|%-3c|", ("x", "y"), [b"SET", b"k", b"  x|y  |"]),
        ("SET k %hhd%hd%ld%lld%jd%zu%tx%Lf%qd", (1, 2, 3, 4, 5, 6, 7, 8, 9), [b"SET", b"k", b"12345678.0000009"]),
        ("SET k %d", (10**40,), [b"SET", b"k", b"1" + b"0" * 40]),
    ],
)
def test_only_the_blanks_of_the_format_split(format, args, command):
    assert format_command(format, *args) == command


WHOLE = some.text(alphabet=some.characters(exclude_categories=["Cs"])) | some.binary()


@given(some.lists(WHOLE, min_size=1), some.sampled_from([" ", "   "]))
def test_a_value_is_one_argument_whatever_is_in_it(values, blanks):
    command = format_command(blanks.join(["SET", *["%s"] * len(values)]), *values)
    assert command == [b"SET", *(each.encode() if isinstance(each, str) else each for each in values)]


# -- numbers are what C prints -----------------------------------------------------------------------------------------

printf = ctypes.CDLL(None).snprintf
FLAGS = some.lists(some.sampled_from("-+ #0"), max_size=3).map("".join)
WIDTH = some.just("") | some.integers(0, 40).map(str)
PRECISION = some.just("") | some.just(".") | some.integers(0, 30).map(".{}".format)


def printed(format: str, value: object) -> bytes:
    buffer = ctypes.create_string_buffer(2000)
    assert 0 <= printf(buffer, 2000, format.encode(), value) < 2000
    return buffer.value


@given(FLAGS, WIDTH, PRECISION, some.sampled_from("diuoxX"), some.integers(-(2**63), 2**63 - 1) | some.integers(-9, 9))
def test_integers_are_what_c_prints(flags, width, precision, kind, value):
    value = value if kind in "di" else abs(value)
    expected = printed(f"%{flags}{width}{precision}ll{kind}", ctypes.c_longlong(value))
    assert format_command(f"SET %{flags}{width}{precision}{kind}|", value) == [b"SET", expected + b"|"]


@given(FLAGS, WIDTH, PRECISION, some.sampled_from("eEfFgGaA"), some.floats(allow_nan=False) | some.integers(-9, 9))
def test_floats_are_what_c_prints(flags, width, precision, kind, value):
    expected = printed(f"%{flags}{width}{precision}{kind}", ctypes.c_double(value))
    assert format_command(f"SET %{flags}{width}{precision}{kind}|", value) == [b"SET", expected + b"|"]


# -- what is refused, without a word of the values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "args", "message"),
    [
        ("", (), "empty command"),
        ("   ", (), "empty command"),
        ("%s", ("",), "empty command"),
        ("%s k v", ("",), "empty command"),
        ("GET", ("k",), "takes 0 values, got 1"),
        ("GET %s", (), "no value for %s"),
        ("GET %s %s", ("secret",), "no value for %s: the format takes more than 1"),
        ("GET %s", ("secret", "secret"), "takes 1 values, got 2"),
        ("SET k %s", (None,), "value 1, for %s, must be str or bytes, not None"),
        ("SET k %s", (1,), "must be str or bytes, not int"),
        ("SET k %b", (None,), "must be str or bytes, not None"),
        ("SET k %b", ("secret",), "%b takes bytes"),
        ("SET %s %d", ("k", "secret"), "value 2, for %d, must be an int, not str"),
        ("SET k %d", (True,), "must be an int, not bool"),
        ("SET k %d", (None,), "must be an int, not None"),
        ("SET k %d", (1.0,), "must be an int, not float"),
        ("SET k %u", (-1,), "is negative"),
        ("SET k %x", (-1,), "is negative"),
        ("SET k %d", (10**5000,), "is too large"),
        ("SET k %f", (10**400,), "is too large"),
        ("SET k %f", ("1.5",), "must be a float or int, not str"),
        ("SET k %f", (True,), "must be a float or int, not bool"),
        ("SET k %f", (Decimal(1),), "must be a float or int, not Decimal"),
        ("SET k %g", (math.nan,), "nan"),
        ("SET k %c", ("secret",), "one character"),
        ("SET k %c", ("",), "one character"),
        ("SET k %c", (256,), "between 0 and 255"),
        ("SET k %c", (True,), "one character"),
        ("SET k %y", (1,), "'%y', at byte 6 of the format, is no specifier"),
        ("SET k %n", (1,), "no specifier"),
        ("SET k %p", (1,), "no specifier"),
        ("SET k %*d", (5, 1), "no specifier"),
        ("SET k %'d", (1,), "no specifier"),
        ("SET k %1$d", (1,), "no specifier"),
        ("SET k %ls", ("secret",), "no specifier"),
        ("SET k %99999d", (1,), "no specifier"),
        ("SET k %.99999f", (1,), "no specifier"),
        ("SET k %5%", (), "no specifier"),
        ("SET k 100%", (), "'%', at byte 9 of the format, is no specifier"),
        ("SET k % ", (), "no specifier"),
        ("SET k %-", (), "no specifier"),
        ("SET k %é", (1,), "no specifier"),
        ("SET k \ud800", (), "the format has lone surrogates"),
        ("SET k %s", ("\ud800",), "value 1, for %s, has lone surrogates"),
        (None, (), "the format must be str or bytes, not None"),
    ],
)
def test_what_makes_no_sense_is_refused_and_no_value_shown(format, args, message):
    with pytest.raises(ConfigError) as caught:
        format_command(format, *args)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


ANYTHING = some.text() | some.binary() | some.integers() | some.floats() | some.booleans() | some.none()
FORMATS = some.text(alphabet="%sbdifgacxoul .-+#0159 \0é\ud800") | some.text() | some.binary()


@given(FORMATS, some.lists(ANYTHING, max_size=4))
def test_whatever_is_formatted_is_a_command_or_a_config_error(format, args):
    try:
        command = format_command(format, *args)
    except ConfigError:
        return
    assert command
    assert command[0]
    assert all(type(part) is bytes for part in command)


# -- RESP-encoded commands ---------------------------------------------------------------------------------------------


@given(some.lists(some.binary(), min_size=1))
def test_an_encoded_command_is_taken_apart_and_encodes_to_the_same_bytes(args):
    data = encode(tuple(args))
    assert parse_command(data) == tuple(args)
    assert parse_command(bytearray(data)) == parse_command(memoryview(data)) == tuple(args)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with"),
        (b"PING\r\n", "begins with"),
        (b"*0\r\n", "begins with"),
        (b"*-1\r\n", "begins with"),
        (b"*01\r\n$4\r\nPING\r\n", "begins with"),
        (b"*+1\r\n$4\r\nPING\r\n", "begins with"),
        (b"*1\n$4\r\nPING\r\n", "begins with"),
        (b"*1", "begins with"),
        (b"*" + b"9" * 30 + b"\r\n", "begins with"),
        (b"*9999999999\r\n$4\r\nPING\r\n", "byte 23"),
        (b"*1\r\n", "byte 4"),
        (b"*1\r\n+PING\r\n", "byte 4"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", "byte 4"),
        (b"*1\r\n$-1\r\n", "byte 4"),
        (b"*1\r\n$04\r\nPING\r\n", "byte 4"),
        (b"*1\r\n$9999999999999999999999\r\n", "byte 4"),
        (b"*1\r\n$4\r\nPIN", "argument 0"),
        (b"*1\r\n$4\r\nPING", "argument 0"),
        (b"*1\r\n$4\r\nPING\r", "argument 0"),
        (b"*1\r\n$3\r\nPING\r\n", "argument 0"),
        (b"*1\r\n$5\r\nPING\r\n", "argument 0"),
        (b"*2\r\n$4\r\nPING\r\n", "byte 14"),
        (b"*1\r\n$4\r\nPING\r\n\r\n", "2 bytes follow"),
        (b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", "14 bytes follow"),
        ("*1\r\n$4\r\nPING\r\n", "is bytes, not str"),
        (None, "is bytes, not NoneType"),
    ],
)
def test_what_is_not_exactly_one_encoded_command_is_refused(data, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_command(data)
    assert "PING" not in str(caught.value)


PIECES = some.sampled_from([b"*", b"$", b"1", b"2", b"4", b"\r\n", b"\r", b"PING", b"$4\r\nPING\r\n", b"*1\r\n", b"-"])


@given(some.lists(PIECES | some.binary(max_size=3)).map(b"".join))
def test_whatever_is_parsed_is_the_encoding_of_a_command_or_a_config_error(data):
    try:
        args = parse_command(data)
    except ConfigError:
        return
    assert encode(args) == data
