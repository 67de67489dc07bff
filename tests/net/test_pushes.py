"""RESP3 pushes: they answer nobody, and go to `on_push`."""

from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from gvcluster import ConfigError


@pytest.fixture
def reported(monkeypatch) -> list[Any]:
    """What the hub reports instead of printing it."""
    errors: list[Any] = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda context, kind, error, trace: errors.append(error))
    return errors


def test_a_push_goes_to_on_push_in_the_hub_and_answers_nobody(fake, make):
    pushes: list[Any] = []
    cluster = make(
        protocol=3,
        on_push=lambda connection, push: pushes.append((connection, list(push), gevent.getcurrent() is get_hub())),
    )
    node = fake.nodes[0]
    key = fake.key_at(node)
    node.on("GET", b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n$1\r\nv\r\n>1\r\n$5\r\nhello\r\n")
    pipe = cluster.pipeline()
    for _ in range(3):
        pipe.append("GET", key)
    assert pipe.execute() == [b"v"] * 3
    assert [cluster.execute("GET", key) for _ in range(2)] == [b"v"] * 2
    gevent.sleep(0.01)
    assert [push for _, push, _ in pushes] == [[b"invalidate", [b"k"]], [b"hello"]] * 5
    assert all(in_hub and connection.address == node.address for connection, _, in_hub in pushes)


def test_an_on_push_that_raises_is_reported_and_harms_nobody(fake, make, reported):
    def on_push(_connection: Any, _push: Any) -> None:
        raise ValueError("mine")

    cluster = make(protocol=3, on_push=on_push)
    node = fake.nodes[0]
    node.on("GET", b">1\r\n$5\r\nhello\r\n$1\r\nv\r\n")
    assert [cluster.execute("GET", fake.key_at(node)) for _ in range(3)] == [b"v"] * 3
    gevent.sleep(0.01)
    assert [str(error) for error in reported] == ["mine"] * 3
    assert node.connections.accepted == 1
    with pytest.raises(ConfigError, match="on_push"):
        make(on_push=3)
