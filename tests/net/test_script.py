"""A node that plays a script meets exactly that traffic, or dies and says why."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import ANY

import pytest
from raw_client import END, Client, client_of

from gvcluster.errors import ConfigError
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import Close, Reset
from gvcluster.testing.script import Expect, ExpectClose, ExpectConnect, ScriptFailed, Send, Sleep


@contextmanager
def playing(*steps: Any, timeout: float = 5.0) -> Iterator[tuple[FakeCluster, Client]]:
    """A started cluster of one node that plays these steps, and a client of it. The test stops the cluster."""
    fake = FakeCluster(1)
    fake.nodes[0].play(*steps, timeout=timeout)
    with client_of(fake.start().nodes[0]) as client:
        yield fake, client


def test_a_script_meets_exactly_its_traffic() -> None:
    steps = (
        ExpectConnect(),
        Expect("GET", b"foo"),
        Send(b"$3\r\nbar\r\n", size=1),
        Expect("SET", "n", 7),
        Sleep(0.001),
        Send(b"+OK\r\n"),
        Expect("CLIENT", "SETINFO", ANY, ANY),
        Send(b"+OK\r\n"),
        ExpectClose(),
    )
    with playing(*steps) as (fake, client):
        node = fake.nodes[0]
        assert client.ask("GET", "foo") == b"bar"
        assert client.ask("SET", "n", "7") == b"OK"
        assert client.ask("CLIENT", "SETINFO", "LIB-NAME", "x") == b"OK"
        client.socket.close()
        node.wait_played()
        assert node.commands("GET") == [[b"GET", b"foo"]]
        assert node.connections == (1, 0)
        fake.stop()


def test_a_script_can_follow_several_connections_by_name() -> None:
    fake = FakeCluster(1)
    node = fake.nodes[0]
    node.play(
        ExpectConnect("a"),
        ExpectConnect("b"),
        Expect("PING", "from a", on="a"),
        Expect("PING", "from b"),
        Send(b"+to a\r\n", on="a"),
        Send(b"+to b\r\n", on="b"),
        Close(b"+bye\r\n", on="a"),
        Reset(on="b"),
    )
    with fake, client_of(node) as a, client_of(node) as b:
        b.send("PING", "from b")
        assert a.ask("PING", "from a") == b"to a"
        assert b.read() == b"to b"
        assert (a.read(), a.read()) == (b"bye", END)
        with pytest.raises(ConnectionResetError):
            b.read()


@pytest.mark.parametrize(
    ("steps", "sent", "complaint"),
    [
        (
            (Expect("GET", "foo"),),
            [("GET", "bar")],
            r"step 2 of 2, Expect\(.*\), met \[b'GET', b'bar'\] on connection 1",
        ),
        ((Expect("GET", "foo"),), [("GET",)], r"met \[b'GET'\] on connection 1"),
        ((Expect("GET", "foo"),), [], r"did not happen within 0.05 s"),
        ((Expect("GET"), Send(b"x"), Expect("GET")), [("GET",)], r"step 4 of 4, .* did not happen"),
        ((ExpectClose(),), [("GET",)], r"ExpectClose\(on=None\), met b'\*1"),
        ((ExpectClose(),), [], r"did not happen within 0.05 s"),
        ((ExpectConnect(),), [], r"step 2 of 2, ExpectConnect\(on=None\), did not happen"),
        ((Expect("A"), Close()), [("A",), ("GET",)], r"Close\(.*\), met b'\*1"),
        ((Send(b"x", on="unknown"),), [], r"has no connection"),
        ((Send(cast(Any, "text")),), [], r"raised TypeError"),
    ],
)
def test_any_other_traffic_ends_the_script_and_says_why(steps: Any, sent: Any, complaint: str) -> None:
    with playing(ExpectConnect(), *steps, timeout=0.05) as (fake, client):
        for args in sent:
            client.send(*args)
        with pytest.raises(ScriptFailed):
            fake.nodes[0].wait_played()
        with pytest.raises(ConnectionRefusedError):  # it died at once
            Client(fake.nodes[0].address)
        with pytest.raises(ScriptFailed, match=complaint):
            fake.stop()


def test_bytes_that_are_no_command_end_the_script() -> None:
    with playing(ExpectConnect(), Expect("GET")) as (fake, client):
        client.socket.sendall(b"GET\r\n")
        with pytest.raises(ScriptFailed, match="met no command"):
            fake.stop()


def test_the_end_of_the_client_ends_a_script_that_expects_more() -> None:
    with playing(ExpectConnect(), Expect("GET")) as (fake, client):
        client.socket.close()
        with pytest.raises(ScriptFailed, match="met the end of connection 1"):
            fake.stop()


def test_a_command_after_the_last_step_is_one_too_many() -> None:
    with playing(ExpectConnect(), Expect("A"), Send(b"+OK\r\n")) as (fake, client):
        assert client.ask("A") == b"OK"
        assert client.ask("B") == END
        with pytest.raises(ScriptFailed, match=r"after the last of 3 steps met b'\*1\\r\\n\$1\\r\\nB\\r\\n'"):
            fake.stop()


def test_a_connection_after_the_last_step_is_one_too_many() -> None:
    with playing(ExpectConnect()) as (fake, client):
        fake.nodes[0].wait_played()
        with client_of(fake.nodes[0]) as another:
            with pytest.raises(ConnectionResetError):
                another.read()
            assert client.read() == END
        with pytest.raises(ScriptFailed, match="after the last of 1 steps met one more connection"):
            fake.stop()


def test_clients_may_leave_after_the_last_step() -> None:
    with playing(ExpectConnect()) as (fake, client):
        fake.nodes[0].wait_played()
        client.socket.close()
        fake.nodes[0].wait_until(lambda: fake.nodes[0].connections.open == 0)
        fake.stop()


def test_what_comes_at_the_very_end_is_seen() -> None:
    with playing(ExpectConnect()) as (fake, client):
        fake.nodes[0].wait_played()
        client.socket.sendall(b"x")  # no switch between this and the end
        with pytest.raises(ScriptFailed, match="after the last of 1 steps met b'x'"):
            fake.stop()


def test_a_script_comes_before_the_start_and_resets_its_connections_itself() -> None:
    with FakeCluster(1) as fake, pytest.raises(ConfigError, match="runs already"):
        fake.nodes[0].play(ExpectConnect())
    with playing(ExpectConnect()) as (other, _):
        with pytest.raises(ConfigError, match="plays a script"):
            other.nodes[0].reset_connections()
        other.stop()


def test_a_script_that_is_done_may_be_stopped_and_one_that_never_began_is_nobodys_fault() -> None:
    with playing(ExpectConnect()) as (fake, _):
        fake.nodes[0].wait_played()
        fake.nodes[0].stop()
        fake.stop()
    fake = FakeCluster(1)
    fake.nodes[0].play(ExpectConnect())
    fake.stop()


def test_a_script_that_was_stopped_has_failed() -> None:
    with playing(ExpectConnect(), Expect("GET")) as (fake, _):
        fake.nodes[0].wait_until(lambda: fake.nodes[0].connections.accepted)
        fake.nodes[0].stop()
        with pytest.raises(ScriptFailed, match="is not done"):
            fake.stop()
