"""Commands in, bytes out; bytes in, replies out."""

import enum
import math
import subprocess
import sys

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.resp import INCOMPLETE, MALFORMED, Push, ReplyReader, bulk_strings, encode, reply_error
from gvcluster.errors import AuthFailed, Busy, ConfigError, NoScript, ReadOnly, Redirected, ReplyError


class Colour(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    RED = "red"


class NumpyLike(float):
    """As numpy's float64: a float whose repr is not its number."""

    def __repr__(self) -> str:
        return f"np.float64({float(self)})"

    __str__ = __repr__


class OddInt(int):
    """An int that says another number wherever it is asked politely."""

    def __repr__(self) -> str:
        return "odd"

    __str__ = __repr__

    def __int__(self) -> int:
        return 7


class Unspeakable:
    def __repr__(self) -> str:
        raise AssertionError("an error shows the type of an argument, never its value")


def argument(value: object) -> bytes:
    """How a value is sent, as the second argument of a command."""
    head, _, rest = encode(("X", value)).removeprefix(b"*2\r\n$1\r\nX\r\n").partition(b"\r\n")
    assert head == b"$%d" % (len(rest) - 2)
    assert rest.endswith(b"\r\n")
    return rest[:-2]


@given(st.lists(st.text() | st.binary() | st.integers() | st.floats(allow_nan=False), min_size=1))
def test_bulk_strings_are_what_encode_packs(values):
    assert b"*%d\r\n" % len(values) + b"".join(bulk_strings(values)) == encode(tuple(values))


@pytest.mark.parametrize(("value", "reason"), [(None, "NoneType"), (True, "bool"), ("\ud800", "surrogates")])
def test_bulk_strings_refuse_what_encode_refuses(value, reason):
    for pack in (bulk_strings, encode):
        with pytest.raises(ConfigError, match=f"argument 1 is .*{reason}"):
            pack(("x", value))


def replies(data: bytes, step: int | None = None) -> list[object]:
    """All that the reader makes of these bytes, fed at once or in steps; INCOMPLETE is left out."""
    reader, found = ReplyReader(), []
    for start in range(0, len(data), step or len(data)):
        reader.feed(data[start : start + (step or len(data))])
        while (reply := reader.gets()) is not INCOMPLETE:
            found.append(reply)
    return found


# -- encode -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("word", b"word"),
        ("", b""),
        ("naïve ☃ \U0001f40d", "naïve ☃ \U0001f40d".encode()),
        ("two words\r\n$3\r\nabc", b"two words\r\n$3\r\nabc"),
        ("%s %d %b \0", b"%s %d %b \0"),
        (b"bytes", b"bytes"),
        (b"", b""),
        (b"\x00\xff\r\n", b"\x00\xff\r\n"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        (memoryview(b"abcdef")[::2], b"ace"),
        (memoryview(b""), b""),
        (0, b"0"),
        (-5, b"-5"),
        (2**70, b"1180591620717411303424"),
        (Colour.RED, b"1"),
        (Word.RED, b"red"),
        (1.5, b"1.5"),
        (0.1, b"0.1"),
        (-0.0, b"-0.0"),
        (1e300, b"1e+300"),
        (math.inf, b"inf"),
        (-math.inf, b"-inf"),
        (NumpyLike(2.25), b"2.25"),
        (OddInt(5), b"5"),
    ],
)
def test_each_type_of_argument_is_sent_as_the_server_reads_it(value, sent):
    assert argument(value) == sent


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (True, "a bool; pass 0 or 1, or a str"),
        (False, "a bool; pass 0 or 1, or a str"),
        (None, "of type NoneType; pass str, bytes, int or float"),
        (math.nan, "nan, which no command accepts"),
        (NumpyLike("nan"), "nan, which no command accepts"),
        ("half \ud800", "a str with lone surrogates; pass bytes instead"),
        ("\udcff", "a str with lone surrogates; pass bytes instead"),
        ([1], "of type list; pass str, bytes, int or float"),
        (("GET", "a"), "of type tuple; pass str, bytes, int or float"),
        ({"a": 1}, "of type dict; pass str, bytes, int or float"),
        (1j, "of type complex; pass str, bytes, int or float"),
        (Unspeakable(), "of type Unspeakable; pass str, bytes, int or float"),
    ],
)
def test_what_no_server_understands_is_refused_with_its_position(value, why):
    with pytest.raises(ConfigError) as caught:
        encode(("SET", "key", value, 3))
    assert str(caught.value) == f"argument 2 is {why}"
    assert not caught.value.maybe_executed


def test_the_first_bad_argument_is_the_one_that_is_named():
    with pytest.raises(ConfigError, match=r"^argument 1 is a str with lone surrogates"):
        encode(("SET", "\ud800", 1.5, "\udfff"))
    with pytest.raises(ConfigError, match=r"^argument 1 is a bool"):
        encode(("SET", True, None))


def test_f64_an_empty_command_is_refused():
    with pytest.raises(ConfigError, match="an empty command"):
        encode(())


def test_an_int_that_python_refuses_to_print_is_refused_with_its_position():
    # In a process of its own: hiredis 3.5 asks for the repr, gets none, and dies of it.
    code = "from gvcluster.core.resp import encode; encode(('SET', 'key', 10**4301))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, f"ended with {ended.returncode}"
    assert "gvcluster.errors.ConfigError: argument 2 is" in ended.stderr


def test_the_longest_int_that_python_prints_is_sent():
    assert argument(10**4299) == b"1" + b"0" * 4299


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8).map(tuple))
def test_no_bytes_of_an_argument_end_it_or_begin_another(args):
    assert replies(encode(args)) == [list(args)]


@given(st.lists(st.one_of(st.text(max_size=20), st.integers(), st.floats(allow_nan=False)), min_size=1, max_size=6))
def test_str_int_and_float_come_back_as_they_were(args):
    (sent,) = replies(encode(tuple(args)))
    assert [type(value)(text.decode()) for value, text in zip(args, sent, strict=True)] == args


# -- ReplyReader ------------------------------------------------------------------------------------------------------

RESP2 = [
    (b"+OK\r\n", b"OK"),
    (b"+\r\n", b""),
    (b"+\xff\xfe\r\n", b"\xff\xfe"),
    (b":5\r\n", 5),
    (b":-9223372036854775808\r\n", -(2**63)),
    (b"$5\r\na\r\nb\0\r\n", b"a\r\nb\0"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n$-1\r\n*1\r\n+a\r\n", [1, None, [b"a"]]),
]
RESP3 = [
    (b"_\r\n", None),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",1.5\r\n", 1.5),
    (b",inf\r\n", math.inf),
    (b",-inf\r\n", -math.inf),
    (b"(3492890328409238509324850943850943825024385\r\n", b"3492890328409238509324850943850943825024385"),
    (b"%2\r\n+a\r\n:1\r\n:2\r\n#f\r\n", {b"a": 1, 2: False}),
    (b"%0\r\n", {}),
    (b"~2\r\n+a\r\n+a\r\n", [b"a", b"a"]),
    (b"=7\r\ntxt:abc\r\n", b"abc"),
    (b"*2\r\n#f\r\n_\r\n", [False, None]),
]


@pytest.mark.parametrize("step", [None, 1, 2])
@pytest.mark.parametrize(("data", "value"), RESP2 + RESP3)
def test_each_type_of_reply_is_one_reply_however_it_arrives(data, value, step):
    met = replies(data + b"+next\r\n", step)
    assert met == [value, b"next"]
    assert type(met[0]) is type(value)


@pytest.mark.parametrize("step", [None, 1])
def test_nan_is_a_reply(step):
    number, following = replies(b",nan\r\n+next\r\n", step)
    assert number != number
    assert following == b"next"


def test_not_enough_bytes_are_told_from_resp3_false():
    reader = ReplyReader()
    assert reader.gets() is INCOMPLETE
    reader.feed(b"#f\r\n$3\r\nab")
    assert reader.gets() is False
    assert reader.gets() is INCOMPLETE
    reader.feed(b"c\r\n")
    assert reader.gets() == b"abc"
    assert reader.gets() is INCOMPLETE


def test_incomplete_is_no_value_of_resp_and_says_what_it_is():
    assert INCOMPLETE is not False
    assert INCOMPLETE is not None
    assert repr(INCOMPLETE) == "INCOMPLETE"


def test_a_push_is_told_from_an_array():
    push, reply = replies(b">2\r\n+invalidate\r\n*1\r\n+k\r\n*2\r\n+invalidate\r\n*1\r\n+k\r\n")
    assert type(push) is Push
    assert type(reply) is list
    assert list(push) == reply


@pytest.mark.parametrize("step", [None, 1])
def test_an_attribute_is_no_reply(step):
    # Valkey sends them for DEBUG PROTOCOL ATTRIB, and modules by ValkeyModule_ReplyWithAttribute. One that counts as a
    # reply shifts all replies that follow.
    assert replies(b"|1\r\n+key-popularity\r\n%1\r\n+a\r\n,0.19\r\n+reply\r\n:2\r\n", step) == [b"reply", 2]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ERR unknown command", ReplyError),
        ("WRONGTYPE Operation against a key", ReplyError),
        ("NOAUTH Authentication required.", AuthFailed),
        ("WRONGPASS invalid username-password pair", AuthFailed),
        ("NOPERM this user has no permissions", AuthFailed),
        ("NOSCRIPT No matching script.", NoScript),
        ("READONLY You can't write against a read only replica.", ReadOnly),
        ("BUSY Valkey is busy running a script.", Busy),
        ("MOVED 1 127.0.0.1:1", Redirected),
        ("ASK 1 127.0.0.1:1", Redirected),
        ("moved 1 127.0.0.1:1", ReplyError),
        ("MOVEDX 1", ReplyError),
        ("BUSYKEY Target key name already exists.", ReplyError),
        ("BUSYGROUP Consumer Group name already exists", ReplyError),
        ("MOVED", Redirected),
        ("", ReplyError),
        (" leading blank", ReplyError),
    ],
)
def test_an_error_reply_is_the_exception_of_its_code(text, kind):
    (error,) = replies(f"-{text}\r\n".encode())
    assert type(error) is kind
    assert (error.code, error.message, str(error)) == (text.split(" ")[0], text, text)
    assert not error.maybe_executed
    assert type(reply_error(text)) is kind


def test_errors_within_an_array_are_values_of_it():
    ((first, second),) = replies(b"*2\r\n-MOVED 1 a:1\r\n:1\r\n")
    assert type(first) is Redirected
    assert second == 1


def test_f59_an_error_that_is_no_utf_8_is_an_error_all_the_same():
    (error,) = replies(b"-ERR \xff\xfe\r\n")
    assert type(error) is ReplyError
    assert error.code == "ERR"


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n",
        b"$x\r\n",
        b"$?\r\n",
        b"*?\r\n",
        b":abc\r\n",
        b"#x\r\n",
        b",1.5x\r\n",
        b"$-2\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"%1\r\n*1\r\n:1\r\n:1\r\n",
        b"\r\n",
    ],
)
def test_bytes_that_are_no_reply_raise_what_the_connection_expects(data):
    with pytest.raises(MALFORMED):
        replies(data)


def test_after_bytes_that_are_not_resp_the_reader_stays_broken():
    reader = ReplyReader()
    reader.feed(b"garbage\r\n")
    for _ in range(2):
        with pytest.raises(hiredis.ProtocolError):
            reader.gets()
        reader.feed(b"+OK\r\n")


@given(st.data())
def test_however_replies_are_cut_they_come_out_the_same(data):
    stream = b"".join(wire for wire, _ in RESP2 + RESP3)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, found = ReplyReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[start:end])
        while (reply := reader.gets()) is not INCOMPLETE:
            found.append(reply)
    assert found == [value for _, value in RESP2 + RESP3]


def test_a_string_that_begins_like_an_attribute_is_a_reply_like_any_other():
    reader = ReplyReader()
    gets = reader.gets
    reader.feed(b"$2\r\n|x\r\n+next\r\n")
    early = reader.gets
    assert [early(), early(), early(), early()] == [b"|x", b"next", INCOMPLETE, INCOMPLETE]
    reader.feed(b":1\r\n")
    assert [early(), gets(), reader.gets()] == [1, INCOMPLETE, INCOMPLETE]
