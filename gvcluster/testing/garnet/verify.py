"""Whether a Garnet node serves these keys now, and what it answers if not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from gvcluster.core.slots import hash_slot
from gvcluster.errors import ReplyError
from gvcluster.testing.garnet.config import Worker

if TYPE_CHECKING:
    from gvcluster.testing.garnet.node import GarnetNode

CROSSSLOT = "CROSSSLOT Keys in request do not hash to the same slot"
CLUSTERDOWN = "CLUSTERDOWN Hash slot not served"
TRYAGAIN = "TRYAGAIN Multiple keys request during rehashing of slot"


def refusal(
    node: GarnetNode, keys: Sequence[bytes], *, writes: bool, asking: bool, readwrite: bool
) -> ReplyError | None:
    """What a node answers for these keys instead of obeying.

    Args:
        node: The node, with its own view of the cluster.
        keys: The command's keys; or those of a whole transaction, and the watched ones.
        writes: The command is of the write class: a replica sends it away.
        asking: ASKING was the command before.
        readwrite: READWRITE was sent over this connection: then a replica writes, and differs from its primary.
    """
    if len(slots := set(map(hash_slot, keys))) != 1:
        return ReplyError(CROSSSLOT) if slots else None
    (slot,) = slots
    answers = {_about(node, key, slot, writes=writes and not readwrite, asking=asking) for key in keys}
    # Some of the keys are here, some have gone.
    return ReplyError(TRYAGAIN) if len(answers) > 1 else _error(answers)


def _error(answers: Collection[str | None]) -> ReplyError | None:
    (text,) = answers
    return None if text is None else ReplyError(text)


def _about(node: GarnetNode, key: bytes, slot: int, *, writes: bool, asking: bool) -> str | None:
    owner, mine = node.config.owners[slot], node.config.mine
    if mine.primary_id is not None:
        return _about_at_replica(node, slot, writes=writes)
    if owner == mine.id:
        return CLUSTERDOWN if node.is_recovering else _absent(node, key, slot)
    if owner is None:
        return CLUSTERDOWN
    opened = node.config.open.get(slot)
    is_guest = opened is not None and opened.state == "importing" and asking
    return None if is_guest else moved(node, slot)


def _about_at_replica(node: GarnetNode, slot: int, *, writes: bool) -> str | None:
    """It sends writers away before it looks at the slot: even if nobody owns that."""
    owner = node.config.owners[slot]
    if writes or (owner == node.config.mine.primary_id and node.is_recovering):
        return moved(node, slot)
    if owner is None:
        return CLUSTERDOWN
    return None if owner == node.config.mine.primary_id else moved(node, slot)


def _absent(node: GarnetNode, key: bytes, slot: int) -> str | None:
    """Of its own slots the node serves all keys, or, when they are leaving, those that are still here."""
    opened = node.config.open.get(slot)
    is_here = opened is None or opened.state != "migrating" or key in node.data
    return None if is_here or opened is None else f"ASK {slot} {_endpoint(node, opened.peer)}"


def moved(node: GarnetNode, slot: int) -> str:
    """Where the node believes that the slot is."""
    return f"MOVED {slot} {_endpoint(node, node.config.owners[slot])}"


def _endpoint(node: GarnetNode, id_: str | None) -> str:
    worker = node.config.workers.get(id_ or "")
    if worker is None:
        return "unassigned:0" if node.cluster.endpoint_type == "ip" else "?:0"
    return f"{preferred(node, worker) or '?'}:{worker.port}"


def preferred(node: GarnetNode, worker: Worker) -> str:
    """How clients are told to reach a node: empty where they are not told."""
    kind = node.cluster.endpoint_type
    return {"ip": worker.host, "hostname": worker.hostname}.get(kind, "")
