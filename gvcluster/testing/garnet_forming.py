"""Making a cluster of Garnets, which is done in another order: epochs before anybody meets, one meeting at a time."""

from __future__ import annotations

from collections.abc import Sequence

from gvcluster.core.slots import SLOTS
from gvcluster.testing.control import wait_for
from gvcluster.testing.node import Node
from gvcluster.testing.views import parse_info


def form_garnets(nodes: Sequence[Node], primaries: int, timeout: float) -> None:
    """Share the slots out among the first `primaries` nodes, and make the others their replicas, in turn.

    The order is that of Garnet's own cluster tests (ClusterTestUtils.SimpleSetupClusterAsync).
    """
    for index, node in enumerate(nodes[:primaries]):
        # Never all slots with ADDSLOTS, which takes 16383 arguments.
        first, last = SLOTS * index // primaries, SLOTS * (index + 1) // primaries - 1
        node.command("CLUSTER", "ADDSLOTSRANGE", first, last)
    for epoch, node in enumerate(nodes, start=1):
        node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
    for index, node in enumerate(nodes[1:], start=1):
        # +OK also where nobody listens: look whether it has happened before the next one comes.
        nodes[0].command("CLUSTER", "MEET", *node.address)
        met = nodes[: index + 1]
        wait_for(lambda met=met: _strangers(met), timeout, f"{node!r} joins")  # type: ignore[misc]
    wait_for(lambda: _ignorant(nodes), timeout, "all nodes know all slots")
    for index, node in enumerate(nodes[primaries:]):
        # SYNC: answered when it has attached.
        node.command("CLUSTER", "REPLICATE", nodes[index % primaries].id, "SYNC", timeout=timeout)
    for node in nodes[primaries:]:
        wait_for(lambda node=node: _detached(node), timeout, f"{node!r} replicates")  # type: ignore[misc]


def _strangers(nodes: Sequence[Node]) -> str | None:
    """What stands against: they all list each other."""
    for node in nodes:
        told = node.command("CLUSTER", "NODES").decode()
        missing = [other for other in nodes if other.id not in told]
        if missing:
            return f"{node!r} does not know {missing[0]!r}"
    return None


def _ignorant(nodes: Sequence[Node]) -> str | None:
    """`cluster_state` is always ok; the counts are not."""
    for node in nodes:
        info = parse_info(node.command("CLUSTER", "INFO"))
        known, assigned = info.get("cluster_known_nodes"), info.get("cluster_slots_assigned")
        if (known, assigned) != (str(len(nodes)), str(SLOTS)):
            return f"{node!r} knows {known} nodes and {assigned} slots"
    return None


def _detached(replica: Node) -> str | None:
    role = replica.command("ROLE")
    return None if role[0] == b"slave" and role[3] == b"connected" else f"ROLE says {role}"
