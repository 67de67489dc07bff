"""Making a cluster of nodes that know nothing of each other, with plain commands: no cli is needed."""

from __future__ import annotations

from collections.abc import Sequence

import gevent

from gvcluster.testing.agreement import SLOTS
from gvcluster.testing.control import wait_for
from gvcluster.testing.node import Node


def launch(nodes: Sequence[Node], timeout: float) -> None:
    """Start the nodes side by side, each on a free port, and return when all answer."""
    starts = [gevent.spawn(_launch, node, timeout) for node in nodes]
    try:
        for start in starts:
            error = start.get()
            if error is not None:
                raise error
    finally:
        gevent.killall(starts)


def _launch(node: Node, timeout: float) -> Exception | None:
    """Start a node, and return what went wrong: gevent would print it for each of them, though it is raised."""
    try:
        node.launch(timeout)
    except Exception as error:
        return error
    return None


def form(nodes: Sequence[Node], primaries: int, timeout: float) -> None:
    """Share the slots out among the first `primaries` nodes, and make the others their replicas, in turn.

    Returns when each node has accepted its part. That they all know it takes until `wait_until_agreed` returns.
    """
    for epoch, node in enumerate(nodes, start=1):
        node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
    for index, node in enumerate(nodes[:primaries]):
        slots = range(SLOTS * index // primaries, SLOTS * (index + 1) // primaries)
        # One by one: ADDSLOTSRANGE came with 7.0.
        node.command("CLUSTER", "ADDSLOTS", *slots)
    # Everybody meets everybody: gossip alone takes about a second longer.
    for index, node in enumerate(nodes):
        meet(node, nodes[:index])
    for index, node in enumerate(nodes[primaries:]):
        replicate(node, nodes[index % primaries], timeout)


def meet(node: Node, others: Sequence[Node]) -> None:
    """Introduce a node to others. They know each other a moment later."""
    if others:
        with node.connection() as connection:
            for other in others:
                connection.call("CLUSTER", "MEET", *other.address)


def replicate(replica: Node, primary: Node, timeout: float) -> None:
    """Make an empty node the replica of a primary that it has met, or is about to meet."""

    def objection() -> None:
        # Answers "ERR Unknown node" until the two have met.
        replica.command("CLUSTER", "REPLICATE", primary.id)

    wait_for(objection, timeout, f"{replica!r} becomes a replica of {primary!r}")
