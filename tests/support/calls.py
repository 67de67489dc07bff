"""Calls whose outcome, reply or error, is a value: for tests of what comes of them."""

import random
from typing import Any

import gevent

from gvcluster import Cluster
from gvcluster.testing import FakeCluster, FakeNode


class Steady(random.Random):
    """No jitter: the waits are 10, 20, 40, 80 … ms."""

    def random(self) -> float:
        return 0.999


def bulk(data: bytes) -> bytes:
    """A bulk string on the wire."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def outcome(cluster: Cluster, *args: Any, **options: Any) -> object:
    """The reply, or the error that was raised."""
    try:
        return cluster.execute(*args, **options)
    except BaseException as error:
        return error


def begin(cluster: Cluster, *args: Any, **options: Any) -> gevent.Greenlet:
    """A greenlet whose value is the outcome."""
    return gevent.spawn(outcome, cluster, *args, **options)


def ends(*greenlets: gevent.Greenlet, within: float = 2.0) -> list[Any]:
    """The outcomes, which are there in time."""
    assert len(gevent.joinall(greenlets, timeout=within)) == len(greenlets), "a call is stuck"
    return [each.value for each in greenlets]


def accepted(fake: FakeCluster) -> int:
    return fake.nodes[0].connections.accepted


def names(node: FakeNode) -> str:
    """The commands that the node was asked, without those of connections and slot maps."""
    return " ".join(args[0].decode() for args in node.work())
