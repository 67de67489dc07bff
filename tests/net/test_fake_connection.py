"""What fake nodes read is exactly RESP commands, and what they write is RESP of both versions."""

import hiredis
import pytest

from gvcluster.testing.answers import encode_reply
from gvcluster.testing.fake_connection import CommandReader, NoCommand


def test_commands_may_come_in_any_pieces() -> None:
    reader = CommandReader()
    sent = hiredis.pack_command(("SET", "k", b"\r\n$1\r\n")) + hiredis.pack_command(("GET", ""))  # type: ignore[arg-type]
    commands = []
    for byte in sent:
        reader.feed(bytes([byte]))
        commands += [args for args in [reader.take()] if args is not None]
    assert commands == [[b"SET", b"k", b"\r\n$1\r\n"], [b"GET", b""]]
    reader.feed(sent + b"*1\r\n")
    assert [reader.take(), reader.take(), reader.take()] == [*commands, None]
    assert reader.rest == b"*1\r\n"


@pytest.mark.parametrize(
    "junk", [b"GET k\r\n", b"*0\r\n", b"*-1\r\n", b"*1\r\n:1\r\n", b"*1\r\n$1\r\nabc\r\n", b"*x\r\n"]
)
def test_nothing_looser_than_a_command_is_taken(junk: bytes) -> None:
    reader = CommandReader()
    reader.feed(junk)
    with pytest.raises(NoCommand):
        reader.take()


def test_replies_are_written_for_both_protocols() -> None:
    value = ["s", b"b", 1, True, None, 1.5, {b"k": (2,)}, ValueError("ERR x")]
    assert (
        encode_reply(value, 3)
        == b"*8\r\n+s\r\n$1\r\nb\r\n:1\r\n#t\r\n_\r\n,1.5\r\n%1\r\n$1\r\nk\r\n*1\r\n:2\r\n-ERR x\r\n"
    )
    assert encode_reply(value, 2) == (
        b"*8\r\n+s\r\n$1\r\nb\r\n:1\r\n:1\r\n$-1\r\n$3\r\n1.5\r\n*2\r\n$1\r\nk\r\n*1\r\n:2\r\n-ERR x\r\n"
    )
    with pytest.raises(TypeError, match="no form for object"):
        encode_reply(object())
