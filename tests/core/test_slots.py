"""Keys and their hash slots, as CLUSTER KEYSLOT of Valkey 9.1.2 answered."""

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.slots import SLOTS, Key, hash_slot, hash_tag, key_bytes
from gvcluster.errors import ConfigError


class Colour(enum.IntEnum):
    RED = 12


class Shouting(float):
    def __repr__(self) -> str:
        return "LOUD"


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("", 0),
        ("key2", 4998),
        ("123456789", 0x31C3),
        ("user1000", 3443),
        ("{user1000}.following", 3443),
        ("foo{}{bar}", 8363),
        ("foo{{bar}}zap", 4015),
        ("foo{bar}{zap}", 5061),
        ("{}", 15257),
        ("{", 4092),
        ("}", 12090),
        ("}{", 12793),
        ("{a", 10276),
        ("a}", 5921),
        ("{}a", 10875),
        ("}a{b}", 3300),
        ("{a}{", 15495),
        ("a{b}c}", 3300),
        ("{{}", 4092),
        ("{{}}", 4092),
        ("{ }", 9314),
        ("{\0}", 0),
        (b"\xff{\x00\xff}", 7920),
        ("schlüssel", 7677),
        ("{ü}x", 9552),
        (12, 8373),
        (-7, 13838),
        (1.5, 12682),
        (1e22, 249),
    ],
)
def test_a_key_has_the_slot_that_the_server_gives_it(key: Key, slot: int) -> None:
    assert hash_slot(key) == slot


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        ("{user1000}.following", b"user1000"),
        ("foo{}{bar}", b"foo{}{bar}"),
        ("foo{{bar}}zap", b"{bar"),
        ("foo{bar}{zap}", b"bar"),
        ("}a{b}", b"b"),
        ("{open", b"{open"),
        (b"\x00{\xff}", b"\xff"),
        ("", b""),
        (7, b"7"),
    ],
)
def test_the_hash_tag_is_between_the_first_brace_and_the_first_that_closes_it(key: Key, tag: bytes) -> None:
    assert hash_tag(key) == tag


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("ü", b"\xc3\xbc"),
        (b"\xff", b"\xff"),
        (bytearray(b"a"), b"a"),
        (memoryview(b"b"), b"b"),
        (10**30, b"1000000000000000000000000000000"),
        (-0.0, b"-0.0"),
        (Colour.RED, b"12"),
        (Shouting(1.5), b"1.5"),
    ],
)
def test_a_key_that_is_no_text_is_hashed_as_it_is_sent(key: Key, sent: bytes) -> None:
    assert key_bytes(key) == sent
    assert hash_slot(key) == hash_slot(sent)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "a key must be str, bytes, int or float, not NoneType"),
        (True, "a key must be str, bytes, int or float, not bool"),
        (["k"], "a key must be str, bytes, int or float, not list"),
        ("\udc80secret", "a key must not be a str with lone surrogates; pass bytes instead"),
        pytest.param(10**5000, "a key must not be an int of thousands of digits; pass bytes instead", id="10**5000"),
    ],
)
@pytest.mark.parametrize("function", [hash_slot, hash_tag, key_bytes])
def test_what_can_not_be_a_key_is_refused_without_showing_it(function, key, message) -> None:
    with pytest.raises(ConfigError) as raised:
        function(key)
    assert str(raised.value) == message


def crc16_bit_by_bit(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def slot_by_the_book(key: bytes) -> int:
    opened = key.find(b"{")
    closed = key.find(b"}", opened + 1) if opened >= 0 else -1
    return crc16_bit_by_bit(key[opened + 1 : closed] if closed > opened + 1 else key) % SLOTS


@given(st.binary() | st.text("{}ab").map(str.encode))
def test_every_key_has_the_slot_of_the_specification(key: bytes) -> None:
    assert hash_slot(key) == slot_by_the_book(key)


@given(st.text() | st.text("{}ü"))
def test_a_str_has_the_slot_of_its_utf_8(key: str) -> None:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        with pytest.raises(ConfigError):
            hash_slot(key)
    else:
        assert hash_slot(key) == hash_slot(encoded) == crc16_bit_by_bit(hash_tag(key)) % SLOTS
