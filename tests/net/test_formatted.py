"""printf-like and RESP-encoded commands, on the wire."""

import pytest

from gvcluster.errors import ConfigError, CrossSlot, Redirected, StatefulCommand


def test_a_printf_like_command_goes_where_its_key_is(fake, cluster):
    key = fake.key_at(fake.nodes[2])
    assert cluster.command("SET %s %b", key, b"a b\r\n*1\r\n\0") == b"OK"
    assert cluster.command(b"GET %s", key, timeout=5.0) == b"a b\r\n*1\r\n\0"
    assert [node.work() for node in fake.nodes] == [
        *([], []),
        [[b"SET", key.encode(), b"a b\r\n*1\r\n\0"], [b"GET", key.encode()]],
    ]


def test_a_printf_like_command_for_one_node_is_not_redirected(fake, cluster):
    node = fake.nodes[0]
    assert cluster.command_to_node(node.address, "SET %s %d", fake.key_at(node), 42) == b"OK"
    assert cluster.command_to_node(str(node.address), "GET %s", fake.key_at(node)) == b"42"
    assert cluster.command_to_node(cluster.primaries()[0], "PING") == b"PONG"
    with pytest.raises(Redirected):
        cluster.command_to_node(node.address, "GET %s", fake.key_at(fake.nodes[1]))
    assert [each.work() for each in fake.nodes[1:]] == [[], []]
    with pytest.raises(ConfigError, match="not None"):
        cluster.command_to_node(None, "PING")


def test_an_encoded_command_goes_where_its_key_is(fake, cluster):
    key = fake.key_at(fake.nodes[1]).encode()
    data = b"*3\r\n$3\r\nset\r\n$%d\r\n%b\r\n$0\r\n\r\n" % (len(key), key)
    assert cluster.execute_formatted(data) == b"OK"
    assert cluster.execute_formatted(bytearray(data), timeout=5.0) == b"OK"
    assert [node.work() for node in fake.nodes] == [[], [[b"set", key, b""]] * 2, []]


@pytest.mark.parametrize(
    ("call", "args", "error"),
    [
        ("command", ("SET %s", "k", "v"), ConfigError),
        ("command", ("SET %s %d", "k", "v"), ConfigError),
        ("command", ("  ",), ConfigError),
        ("command", ("SET k 100%",), ConfigError),
        ("command", ("GET",), ConfigError),
        ("command", ("MGET %s %s", "a", "b"), CrossSlot),
        ("command", ("SELECT %d", 1), StatefulCommand),
        ("execute_formatted", (b"*1\r\n$4\r\nPING\r\n\r\n",), ConfigError),
        ("execute_formatted", (b"*2\r\n$4\r\nPING\r\n",), ConfigError),
        ("execute_formatted", ("*1\r\n$4\r\nPING\r\n",), ConfigError),
        ("execute_formatted", (b"PING\r\n",), ConfigError),
        ("execute_formatted", (b"*1\r\n$3\r\nGET\r\n",), ConfigError),
        ("execute_formatted", (b"*1\r\n$0\r\n\r\n",), ConfigError),
        ("execute_formatted", (b"*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n",), CrossSlot),
        ("execute_formatted", (b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n",), StatefulCommand),
        ("execute_formatted", (b"*1\r\n$5\r\nMULTI\r\n",), StatefulCommand),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_byte_is_sent(fake, cluster, call, args, error):
    with pytest.raises(error):
        getattr(cluster, call)(*args)
    assert [node.work() for node in fake.nodes] == [[], [], []]
