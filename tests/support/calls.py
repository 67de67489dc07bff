"""Calls whose outcome, reply or error, is a value: for tests of what comes of them."""

from typing import Any

import gevent

from gvcluster import Cluster
from gvcluster.testing import FakeCluster


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
