"""Every form in which people and servers write addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster.core.address import Address, is_valid_host, parse_redirect_target
from gvcluster.errors import ConfigError

ANSWERED_BY = Address("10.0.0.9", 6379)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:6379", "localhost", 6379),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("node-1.example.com:65535", "node-1.example.com", 65535),
        ("[::1]:7000", "::1", 7000),
        ("::1:7000", "::1", 7000),
        ("2001:db8::7:7000", "2001:db8::7", 7000),
        ("[fe80::1%eth0]:7000", "fe80::1%eth0", 7000),
        ("under_score:7000", "under_score", 7000),
    ],
)
def test_an_address_from_a_user_is_split_at_the_last_colon(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":6379",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "localhost:-1",
        "localhost:+1",
        "localhost: 1",
        "localhost:1_0",
        "localhost:6379x",
        "localhost:٣",
        "localhost:000006379",
        "local host:6379",
        "local\thost:6379",
        "local\u202ehost:6379",
        "localhost\r\n:6379",
        "::1",
        "fe80::1",
        "a:b:6379",
        "[localhost]:6379",
        "[::1:6379",
        "::1]:6379",
        "[]:6379",
        "[::1]",
        "?:6379",
        "h1:1,h2:2",
        "redis://h:1",
        "h" * 254 + ":1",
    ],
)
def test_what_can_not_be_an_address_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        Address.parse(text)


def test_the_longest_host_is_253_characters() -> None:
    assert Address.parse("h" * 253 + ":1") == ("h" * 253, 1)


def test_the_error_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"^'localhost' has no port: write host:port, such as 'localhost:6379'"):
        Address.parse("localhost")


def test_the_error_never_shows_a_password() -> None:
    for text in ("user:secret@localhost:6379", "user:secret@localhost", "secret@h:0"):
        with pytest.raises(ConfigError) as raised:
            Address.parse(text)
        assert "secret" not in str(raised.value)


def test_only_ipv6_is_printed_with_brackets() -> None:
    assert str(Address("localhost", 6379)) == "localhost:6379"
    assert str(Address("::1", 6379)) == "[::1]:6379"
    assert f"{Address('::1', 6379)}" == "[::1]:6379"
    assert repr(Address("::1", 6379)) == "Address(host='::1', port=6379)"


@given(st.sampled_from(["h", "127.0.0.1", "::1", "2001:db8::1"]), st.integers(1, 65535))
def test_what_is_printed_can_be_parsed_again(host: str, port: int) -> None:
    address = Address(host, port)
    assert Address.parse(str(address)) == address
    assert parse_redirect_target(f"{host}:{port}", ANSWERED_BY) == address


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:7001", Address("127.0.0.1", 7001)),
        ("node.example.com:7001", Address("node.example.com", 7001)),
        ("::1:7001", Address("::1", 7001)),
        ("[::1]:7001", Address("::1", 7001)),
        (":7001", Address("10.0.0.9", 7001)),
        ("?:7001", None),
        ("?:0", None),
        (":0", None),
        ("127.0.0.1:0", None),
        ("unassigned:0", None),  # Garnet: no node owns the slot
    ],
)
def test_a_redirect_names_a_node_or_sends_to_a_fresh_map(text: str, target: Address | None) -> None:
    assert parse_redirect_target(text, ANSWERED_BY) == target


@pytest.mark.parametrize(
    "text",
    ["", ":", "7001", "h", "h:", "h:x", "?:x", "h:-1", "h:65536", "h:999999", "h h:1", "h\x00:1", "h\n:1", "a:b:1",
     "??:1", "user@h:1", "h" * 254 + ":1", "::65536"],
)  # fmt: skip
def test_a_redirect_to_junk_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_redirect_target(text, ANSWERED_BY)
    assert not isinstance(raised.value, ConfigError)


@given(st.text())
def test_any_redirect_gives_a_usable_address_or_none_or_a_value_error(text: str) -> None:
    try:
        target = parse_redirect_target(text, ANSWERED_BY)
    except ValueError:
        return
    assert target is None or (is_valid_host(target.host) and 1 <= target.port <= 65535)
