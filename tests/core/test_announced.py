"""A reply that announces too much is refused before the parser makes room for it; what only looks like it is data."""

from contextlib import suppress

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.announced import LINE_TYPES, TooMuch
from gvcluster.core.resp import INCOMPLETE, MALFORMED, ReplyReader

HUGE = {
    "an array": b"*1073741823\r\n",
    "a set": b"~2000000000\r\n",
    "a map": b"%999999999\r\n",
    "a push": b">1000000000\r\n",
    "just above": b"*100001\r\n",
    "the largest number there is": b"*9223372036854775807\r\n",
}
BEFORE = {
    "first": b"",
    "behind a reply": b"+a\r\n",
    "behind a string with newlines": b"$6\r\n\n*9\r\n\n\r\n",
    "in an array": b"*3\r\n:1\r\n",
    "in a map, as a value": b"%1\r\n+k\r\n",
    "in a push": b">2\r\n+a\r\n",
    "a hundred levels deep": b"*1\r\n" * 100,
    "behind an attribute": b"|1\r\n+k\r\n+v\r\n",
    "in an attribute": b"|1\r\n+k\r\n",
    "in an attribute in an array": b"*2\r\n:1\r\n|1\r\n+k\r\n*1\r\n",
    "behind a string without its end": b"$0\r\nab",
    "behind a string whose end looks like a line": b"*2\r\n$1\r\nx\n+",
}


def reader_with(most: float = 800_000) -> ReplyReader:
    reader = ReplyReader()
    reader.announced.most = most
    return reader


def feed_all(reader: ReplyReader, *pieces: bytes) -> None:
    """Feed them one by one, and take what comes out of each."""
    for piece in pieces:
        reader.feed(piece)
        while reader.gets() is not INCOMPLETE:
            pass


def all_of(reader: ReplyReader, data: bytes, step: int) -> list[object]:
    """What comes out of it, fed in steps; and what was raised at last, if anything was."""
    found: list[object] = []
    try:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
            while (reply := reader.gets()) is not INCOMPLETE:
                found.append(reply)
    except TooMuch as error:
        found.append(error)
    return found


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", HUGE)
def test_f56_a_header_that_announces_too_much_is_refused_wherever_it_stands(name: str, before: str, step: int) -> None:
    *replies, error = all_of(reader_with(), BEFORE[before] + HUGE[name] + b":1\r\n", step)
    assert isinstance(error, TooMuch)
    complete = {
        "behind a reply": [b"a"],
        "behind a string with newlines": [b"\n*9\r\n\n"],
        "behind a string without its end": [b""],
    }
    assert replies == complete.get(before, [])


@pytest.mark.parametrize("kind", LINE_TYPES)
def test_a_line_that_has_only_begun_hides_no_header_behind_what_looks_like_a_long_string(kind: int) -> None:
    """Which only a string without its end brings about: behind a newline such a character was kept back always."""
    reader = reader_with()
    with pytest.raises(MALFORMED):
        feed_all(reader, b"$1\r\naXX" + bytes([kind]), b"$99999\r\n" + HUGE["an array"] + b"x" * 20_000)
    reader = reader_with()
    reader.feed(b"$1\r\naXX+")
    reader.feed(b"|1\r\n+k\r\n")
    assert [reader.gets() for _ in range(4)] == [b"a", b"|1", b"k", INCOMPLETE], "text of a line is no attribute"


@pytest.mark.parametrize("step", [1, 7, 1_500, 4_096, 100_000])
@pytest.mark.parametrize("size", [999, 1_000, 20_000])
def test_nobody_asks_about_what_is_in_a_long_string_and_everybody_about_what_is_behind_it(
    size: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value of 1 MiB in lines like `…|17` took 60 ms where something preceded it in the same read."""
    asked: list[bytes] = []
    ask = ReplyReader._begins_there
    monkeypatch.setattr(ReplyReader, "_begins_there", lambda *of: asked.append(of[1][of[3] :]) or ask(*of))
    text = (b"a|17\r\n*5000\r\n" * size)[:size]
    value = b"$%d\r\n%b\r\n" % (size, text)
    for ending in (b"", b"ab"):
        reader = reader_with()
        whole = b"*3\r\n:1\r\n" + value + value[: -len(ending) or None] + ending
        *replies, error = all_of(reader, whole + b"|1\r\n+k\r\n+v\r\n" + HUGE["an array"], step)
        assert replies == [[1, text, text]]
        assert isinstance(error, TooMuch)
    if step == 100_000 and size >= 1_000:
        assert [each[:1] for each in asked] == [b"$", b"$", b"|", b"*"] * 2


def test_every_character_that_the_parser_takes_for_the_beginning_of_a_line_is_known() -> None:
    taken = []
    for character in range(256):
        parser = hiredis.Reader()
        parser.feed(bytes([character]))
        with suppress(hiredis.ProtocolError):
            parser.gets()
            taken.append(character)
    assert set(LINE_TYPES) == set(taken)


def test_nothing_at_all_may_be_fed_at_any_time() -> None:
    reader = reader_with()
    for piece in (b"", b"|1\r\n+k\r\n", b"", b"+v\r", b"", b"\n+", b"", b"a\r\n", b""):
        reader.feed(piece)
    assert [reader.gets(), reader.gets()] == [b"a", INCOMPLETE]


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("kind", [b"$", b"=", b"*1\r\n$", b"%1\r\n+k\r\n$"])
def test_f56_the_same_bytes_in_a_string_are_data(kind: bytes, step: int) -> None:
    text = b"txt:" + b"\r\n".join([b"", *HUGE.values(), b"|1", b"\n*99999999"]) + b"*99999999\r\n|"
    (reply,) = all_of(reader_with(), kind + b"%d\r\n%b\r\n" % (len(text), text), step)
    value = text[4:] if kind == b"=" else text
    assert reply in (value, [value], {b"k": value})


@pytest.mark.parametrize("step", [1, 2, 3, 5, 10_000])
@pytest.mark.parametrize("before", [b"", b"*1\r\n", b"+a\r\n", b"$0\r\n\r\n"])
@pytest.mark.parametrize("text", [*HUGE.values(), b"|1\r\n", b"|-1\r\n", b"x*99999999\r\n", b">*99999999\r\n"])
def test_f56_the_same_bytes_in_a_line_are_its_text(text: bytes, before: bytes, step: int) -> None:
    *_, reply = all_of(reader_with(), before + b"+" + text, step)
    assert reply in (text[:-2], [text[:-2]])


@pytest.mark.parametrize("step", [1, 10_000])
def test_f56_what_arrays_in_each_other_announce_is_added_up(step: int) -> None:
    (error,) = all_of(reader_with(), b"*20000\r\n" * 20, step)
    assert isinstance(error, TooMuch)
    assert "20,000 elements (120,000 in all)" in str(error)


@pytest.mark.parametrize("step", [1000, 10**6])
@pytest.mark.parametrize("kind", [b"*", b"~"])
def test_many_elements_within_the_limit_are_a_reply_each_time(kind: bytes, step: int) -> None:
    reader = reader_with()
    for _ in range(4):  # each of them is counted anew
        assert all_of(reader, kind + b"60000\r\n" + b":7\r\n" * 60_000, step) == [[7] * 60_000]
    assert all_of(reader, b"*2\r\n" + (kind + b"40000\r\n" + b":7\r\n" * 40_000) * 2, step) == [[[7] * 40_000] * 2]
    assert "gets" not in vars(reader)  # it is the parser's own again


def test_f56_a_push_of_thousands_is_refused_whatever_the_limit() -> None:
    (error,) = all_of(reader_with(10**12), b">10000\r\n", 100)
    assert "a push of 10,000 elements" in str(error)


def test_without_a_limit_nothing_but_a_push_is_refused() -> None:
    assert all_of(ReplyReader(), b"*1000000\r\n", 100) == []


def test_once_refused_always_refused() -> None:
    reader = reader_with()
    assert isinstance(all_of(reader, HUGE["an array"], 100)[-1], TooMuch)
    assert [type(each) for each in all_of(reader, b"+OK\r\n", 100)] == [TooMuch]


@pytest.mark.parametrize(
    "part",
    [b"+xxxxxxxx\r\n", b"$100000\r\n" + b"\n" * 100_000, b"+" + b"x" * 100_000, b"|1\r\n"],
    ids=["many elements", "a long string", "a long line", "attributes of attributes"],
)
def test_f63_an_attribute_without_an_end_is_refused(part: bytes) -> None:
    data = b"|8000\r\n" + part * (100_000 // len(part) + 1)
    assert isinstance(all_of(reader_with(), data, 5000)[-1], TooMuch)


@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_f63_attributes_between_and_within_replies_are_dropped(step: int) -> None:
    attribute = b"|2\r\n+k\r\n*2\r\n:1\r\n$3\r\na\nb\r\n+k2\r\n|1\r\n+x\r\n+y\r\n_\r\n"
    data = attribute * 50 + b"*2\r\n" + attribute + b":1\r\n" + attribute + b":2\r\n" + attribute * 50 + b"+OK\r\n"
    assert all_of(reader_with(), data, step) == [[1, 2], b"OK"]


def test_a_reply_that_has_begun_shows_also_while_its_first_bytes_are_kept_back() -> None:
    for part in (b"*", b"*1000", b"*10000\r", b"|1\r\n", b"|1\r\n+a\r\n", b"$5", b"+O"):
        reader = ReplyReader()
        assert not reader.has_data()
        reader.feed(part)
        assert reader.has_data()


@pytest.mark.parametrize("step", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("wire", "value"),
    [(b"+|1\r\n", b"|1"), (b"+*10000\r\n", b"*10000"), (b"*1\r\n+|\r\n", [b"|"]), (b"$2\r\n|1\r\n", b"|1")],
)
def test_a_line_that_is_cut_behind_its_first_character_is_no_header(wire: bytes, value: object, step: int) -> None:
    """hiredis takes the first character at once: then it has nothing left, as between two replies."""
    assert all_of(reader_with(), wire + wire, step) == [value, value]


@pytest.mark.parametrize("step", [1, 100])
def test_an_attribute_that_ends_within_a_line_is_malformed(step: int) -> None:
    data = b"|1\r\n+k\r\n$3\r\nabcdefgh\r\n+OK\r\n"  # hiredis does not look at the two bytes behind a string
    with pytest.raises(MALFORMED):
        all_of(ReplyReader(), data, step)


@given(st.data())
def test_bytes_that_look_like_headers_are_data_in_strings(data: st.DataObject) -> None:
    parts = st.sampled_from([b"\n", b"*10000", b"~99999\r\n", b">", b"%12345", b"\r\n", b"|x", b"|", b"a", b"*"])
    strings = [b"".join(each) for each in data.draw(st.lists(st.lists(parts, max_size=12), min_size=1, max_size=4))]
    wire = b"*%d\r\n" % len(strings) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in strings)
    assert all_of(reader_with(), wire + wire, data.draw(st.integers(1, len(wire)))) == [strings] * 2


LOOKS_LIKE_RESP = b"|1\r\n+a\r\n+b\r\n*99999999\r\n$3\r\nabc\r\n>5000\r\n"


@pytest.mark.parametrize("kind", [b"$%d\r\n%b\r\n", b"=%d\r\ntxt:%b\r\n", b"*2\r\n:1\r\n$%d\r\n%b\r\n"])
@pytest.mark.parametrize("size", [16_000, 16_384, 40_000, 200_000])
@pytest.mark.parametrize("step", [16_384, 17_001, 65_536, 10**6])
def test_long_strings_are_data_and_what_follows_them_is_looked_at_again(kind: bytes, size: int, step: int) -> None:
    value = (LOOKS_LIKE_RESP * (size // len(LOOKS_LIKE_RESP) + 1))[:size]
    reply = kind % (size + 4 * kind.startswith(b"="), value)
    attribute = b"|1\r\n+ttl\r\n:3600\r\n"
    wire = (reply + attribute) * 3 + reply + b"+end\r\n"
    plain = ReplyReader()
    plain.feed(reply)
    told = plain.gets()
    *found, last = all_of(reader_with(10**6), wire, step)
    assert found == [told] * 4
    assert value in (told[1] if isinstance(told, list) else told, str(told).encode())
    assert last in ("end", b"end")
    *found, refusal = all_of(reader_with(10**6), reply * 3 + b"*99999999\r\n", step)
    assert (found, type(refusal)) == ([told] * 3, TooMuch)
