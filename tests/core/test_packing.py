"""Bytes and slot in one go are those of `encode` and `hash_slot`, for whatever may be an argument."""

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.commands import COMMANDS
from gvcluster.core.packing import Heads, pack
from gvcluster.core.resp import encode
from gvcluster.core.slots import Key, hash_slot
from gvcluster.errors import ConfigError

NAMES = sorted((name for name, position in COMMANDS.lone_keys.items() if position == 1), key=repr)
KEYS = st.text(st.characters(exclude_categories=["Cs"])) | st.binary() | st.integers() | st.floats(allow_nan=False)
KEYS |= st.builds("{}{{{}}}{}".format, st.text("ab{}"), st.text("ab{}"), st.text("ab{}"))
VALUES = KEYS | st.binary().map(bytearray) | st.binary().map(memoryview)


class Name(str):
    """A str that is none of those that hiredis packs unseen."""


@given(st.sampled_from(NAMES), KEYS, st.lists(VALUES, max_size=4))
def test_bytes_and_slot_are_those_of_encode_and_hash_slot(name: str | bytes, key: Key, values: list[Any]) -> None:
    args = (name, key, *values)
    assert pack(args, COMMANDS.heads) == (encode(args), hash_slot(key))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.binary(), max_size=2))
def test_text_is_packed_as_hiredis_does(values: list[str | bytes]) -> None:
    args = ("set", "key", *values)
    assert pack(args, COMMANDS.heads)[0] == hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub takes a tuple of one


@pytest.mark.parametrize("size", [32 * 1024, 32 * 1024 + 1, 1 << 20])
def test_long_arguments_are_packed_as_hiredis_does(size: int) -> None:
    for long in (b"x" * size, "ж" * size):
        args = ("SET", "key", long, "EX", b"10")
        expected = hiredis.pack_command(args)  # type: ignore[arg-type]
        assert encode(args) == pack(args, COMMANDS.heads)[0] == expected
    with pytest.raises(ConfigError, match="argument 2 is a str with lone surrogates") as raised:
        encode(("SET", "key", "\ud800" * size, "EX", b"10"))
    assert raised.value.__context__ is None


def test_a_name_with_a_percent_sign_is_packed_as_it_is() -> None:
    """A module may call its commands as it likes; a head is filled in with `%`."""
    heads = Heads({"M%b%": 1})
    assert pack(("M%b%", "key", "v"), heads) == (encode(("M%b%", "key", "v")), hash_slot("key"))


@pytest.mark.parametrize(
    "args",
    [
        pytest.param((), id="nothing"),
        pytest.param(("GET",), id="no key"),
        pytest.param(("get ", "k"), id="a name that is none"),
        pytest.param(("PING", "k"), id="a command without a key"),
        pytest.param(("PFDEBUG", "ENCODING", "k"), id="a key that is not right behind the name"),
        pytest.param((["GET"], "k"), id="a name that can not be looked up"),
        pytest.param(("GET", None), id="a key of no type"),
        pytest.param(("GET", True), id="a bool for a key"),
        pytest.param(("SET", "k", True), id="a bool for a value"),
        pytest.param(("SET", "k", float("nan")), id="nan"),
        pytest.param(("GET", float("nan")), id="nan as the key"),
        pytest.param(("SET", "k", "\ud800"), id="a value with a lone surrogate"),
        pytest.param(("GET", "\ud800"), id="a key with a lone surrogate"),
        pytest.param(("SET", "k", 10**5000), id="an int of thousands of digits"),
        pytest.param(("GET", 10**5000), id="a key of thousands of digits"),
    ],
)
def test_what_makes_no_sense_raises_what_the_callers_catch(args: tuple[Any, ...]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        pack(args, COMMANDS.heads)


def test_subclasses_of_str_and_bytes_are_packed_as_encode_does() -> None:
    args = ("SET", Name("ключ"), Name("значение"))
    assert pack(args, COMMANDS.heads) == (encode(args), hash_slot(args[1]))


def test_heads_are_made_when_they_are_asked_for() -> None:
    heads = Heads(COMMANDS.lone_keys)
    assert not heads
    pack(("GET", "k"), heads)
    assert list(heads) == ["GET"]
    with pytest.raises(KeyError):
        pack(("NONE", "k"), heads)
    assert list(heads) == ["GET"]
