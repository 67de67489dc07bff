"""A user name and a password that a function tells, anew for each connection."""

from typing import Any

import gevent
import pytest

from gvcluster import Address, ConnectFailed


@pytest.mark.parametrize("told", ["secret", ("me", "secret"), (None, "secret")])
def test_credentials_are_asked_for_each_connection(fake, make, protocol, told):
    fake.username, fake.password = ("me" if told[0] == "me" else "default"), "secret"
    asked: list[Address] = []

    def credentials(address: Address) -> Any:
        asked.append(address)
        gevent.sleep(0.01)  # it may wait
        return told

    node = fake.nodes[0]
    cluster = make(str(node.address), credentials=credentials)
    cluster.execute("PING", node=node.address)
    assert asked == [node.address]
    cluster.close_idle()
    cluster.execute("PING", node=node.address)
    assert asked == [node.address] * 2
    name = [b"me"] if told[0] == "me" else []
    hello = [b"HELLO", b"3", b"AUTH", *(name or [b"default"]), b"secret"]
    assert node.received[0].args == (hello if protocol == 3 else [b"AUTH", *name, b"secret"])


@pytest.mark.parametrize("told", [None, 7, b"secret", ("me",), ("me", None), ("me", b"secret"), ("me", "se\r\ncret")])
def test_credentials_that_make_no_sense_fail_the_attempt_before_anything_is_sent(fake, make, told):
    node = fake.nodes[0]
    with pytest.raises(ConnectFailed, match="the function must return") as caught:
        make(credentials=lambda _: told).execute("PING", node=node.address)
    assert "secret" not in str(caught.value)
    assert node.connections.accepted == 0


def test_credentials_that_raise_fail_the_attempt_with_their_error_as_cause(fake, make):
    def credentials(_address: Address) -> str:
        raise RuntimeError("the vault is sealed; the key was hunter2")

    node = fake.nodes[0]
    with pytest.raises(ConnectFailed, match=r"no credentials for .*RuntimeError") as caught:
        make(credentials=credentials).execute("PING", node=node.address)
    assert "hunter2" not in str(caught.value)
    assert node.connections.accepted == 0


def test_credentials_that_never_come_hold_up_nobody_beyond_the_connect_timeout(fake, make):
    asked: list[Address] = []

    def credentials(address: Address) -> str:
        asked.append(address)
        if len(asked) == 1:
            gevent.sleep(60)
        return "secret"

    fake.password = "secret"
    node, cluster = fake.nodes[0], make(credentials=credentials, connect_timeout=0.1, timeout=5.0)
    with pytest.raises(ConnectFailed, match="within connect_timeout"):
        cluster.execute("PING", node=node.address)
    gevent.sleep(0.1)  # the node is left alone for some milliseconds after a failure
    assert cluster.execute("PING", node=node.address) == b"PONG"
    assert asked.count(node.address) == 2
