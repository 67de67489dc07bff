"""Steps of scripts, in RESP2: what a node is asked by a client that sends nothing of its own, and what it answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent

from gvcluster import Cluster, hash_slot
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import encode_reply
from gvcluster.testing.script import Expect, ExpectConnect, Send

SLOT = hash_slot("foo")
OK, BAR = b"+OK\r\n", b"$3\r\nbar\r\n"
ALL = (0, 16383)


def slots(*ranges: tuple[int, int, Any]) -> Send:
    """The reply to CLUSTER SLOTS: first slot, last slot, node or (host, port, more)."""
    told = []
    for first, last, node in ranges:
        host, port, *more = node.address if isinstance(node, FakeNode) else node
        told.append([first, last, [host.encode() if host is not None else None, port, b"%040d" % port, *more]])
    return Send(encode_reply(told, 2))


def nodes(*lines: tuple[str, FakeNode, str]) -> Send:
    """The reply to CLUSTER NODES: flags, node and slots. Who asks itself is `myself`, and may not know its host."""
    told = []
    for flags, node, served in lines:
        host = "" if "myself" in flags else node.address.host
        told.append(f"{node.id} {host}:{node.address.port}@{node.address.port} {flags} - 0 0 1 connected {served}\n")
    return Send(encode_reply("".join(told).encode(), 2))


def asked_for_map(*ranges: tuple[int, int, Any]) -> tuple[Any, ...]:
    """CLUSTER SLOTS on a connection that is there."""
    return Expect("CLUSTER", "SLOTS"), slots(*ranges)


def first_map(*ranges: tuple[int, int, Any]) -> tuple[Any, ...]:
    """A connection on which CLUSTER SLOTS is the first that comes."""
    return ExpectConnect(), *asked_for_map(*ranges)


def answered(*args: str, reply: bytes) -> tuple[Any, ...]:
    """A command and its reply."""
    return Expect(*args), Send(reply)


def redirect(kind: str, to: object) -> bytes:
    """MOVED or ASK for the slot of `foo`."""
    return f"-{kind} {SLOT} {to}\r\n".encode()


@contextmanager
def client_of(fake: FakeCluster, seed: object, **options: Any) -> Iterator[Cluster]:
    """Start the nodes, and make a lean client. In the end it disconnects, and the scripts must be played out."""
    with fake:
        cluster = Cluster(str(seed), **{"protocol": 2, "client_info": False, **options})
        try:
            yield cluster
            cluster.disconnect()
            for node in fake.nodes:
                node.wait_played()
        finally:
            cluster.close()


def wait_for_map(cluster: Cluster, version: int) -> None:
    """Wait until so many maps were accepted."""
    with gevent.Timeout(5):
        while cluster.route_version < version:
            gevent.sleep(0.001)
