"""Slots that move between Garnet nodes, and replicas that take over: SETSLOT, MIGRATE, FAILOVER."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gvcluster.core.slots import hash_slot
from gvcluster.errors import ReplyError
from gvcluster.testing.garnet.config import OpenSlot
from gvcluster.testing.garnet.refusals import Wrong, known, slot_of

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.garnet.node import GarnetNode

_OK = "OK"


def setslot(node: GarnetNode, args: list[bytes]) -> object:
    """CLUSTER SETSLOT."""
    slot, state = slot_of(args[0]), args[1].upper()
    config = node.config
    if state == b"STABLE":
        config.open.pop(slot, None)
        return _OK
    id_ = known(node, args[2])
    if state == b"MIGRATING":
        begin_leaving(node, slot, id_)
    elif state == b"IMPORTING":
        begin_coming(node, slot, id_)
    elif state == b"NODE":
        config.give([slot], id_)
        config.bump()
        node.cluster.changed(node)
    else:
        raise Wrong(f"ERR Slot state {state.decode('latin-1')} not supported.")
    return _OK


def begin_leaving(node: GarnetNode, slot: int, to: str) -> None:
    """SETSLOT MIGRATING."""
    if to == node.id:
        raise Wrong("ERR Can't MIGRATE to myself")
    if node.config.owners[slot] != node.id:
        raise Wrong(f"ERR I'm not the owner of hash slot {slot}")
    if slot in node.config.open:
        raise Wrong(f"ERR Slot already scheduled for migration from {node.config.open[slot].peer}")
    node.config.open[slot] = OpenSlot("migrating", to)


def begin_coming(node: GarnetNode, slot: int, source: str) -> None:
    """SETSLOT IMPORTING."""
    if node.config.owners[slot] == node.id:
        raise Wrong(f"ERR This is a local hash slot {slot} and is already imported")
    if node.config.owners[slot] != source:
        raise Wrong(f"ERR Slot {slot} is not owned by {source}")
    node.config.open[slot] = OpenSlot("importing", source)


def migrate(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    """MIGRATE host port "" 0 timeout [COPY] [REPLACE] KEYS key … | SLOTS slot … | SLOTSRANGE first last …."""
    host, port, words = args[0].decode(), int(args[1]), [word.upper() for word in args]
    workers = node.config.workers.values()
    target = next((each for each in workers if (each.host, each.port) == (host, port)), None)
    if target is None:
        return ReplyError("ERR Unknown endpoint")
    if target.primary_id is not None:
        return ReplyError(f"ERR Cannot initiate migration, target node ({host}:{port}) is not a primary.")
    if b"KEYS" in words:
        return _send_keys(node, target.id, args[words.index(b"KEYS") + 1 :])
    return _send_slots(node, target.id, _slots_named(args, words))


def _slots_named(args: list[bytes], words: list[bytes]) -> list[int]:
    if b"SLOTS" in words:
        return [slot_of(arg) for arg in args[words.index(b"SLOTS") + 1 :]]
    bounds = [slot_of(arg) for arg in args[words.index(b"SLOTSRANGE") + 1 :]]
    if len(bounds) % 2:
        raise Wrong("ERR incomplete slotrange")
    return [slot for at in range(0, len(bounds), 2) for slot in range(bounds[at], bounds[at + 1] + 1)]


def _send_slots(node: GarnetNode, target: str, slots: list[int]) -> object:
    for slot in slots:
        if node.config.owners[slot] != node.id:
            raise Wrong(f"ERR slot {slot} not owned by current node.")
        if slots.count(slot) > 1:
            raise Wrong(f"ERR Slot {slot} specified multiple times.")
    for slot in slots:
        move(node, slot, target)
    return _OK


def _send_keys(node: GarnetNode, target: str, keys: list[bytes]) -> object:
    for slot in set(map(hash_slot, keys)):
        is_open = node.config.open.get(slot)
        if is_open is None or is_open.state != "migrating":
            return ReplyError("ERR slot state not set to MIGRATING state")
    if node.tell(target, "restore", {key: node.data[key] for key in keys if key in node.data}) is None:
        return ReplyError("IOERR Migrate keys failed")
    for key in keys:
        node.data.pop(key, None)
    if keys:
        node.cluster.replicate(node, "log", [b"DEL", *keys])
    return _OK


def move(node: GarnetNode, slot: int, target: str) -> None:
    """Send a whole slot to another node, and let it have it. The source knows at once, others by gossip."""
    if node.tell(target, "gossip", node.config.told()) is None:
        return
    node.tell(target, "import", slot, node.id)
    node.config.open[slot] = OpenSlot("migrating", target)
    _send_keys(node, target, node.keys_in(slot))
    told = node.tell(target, "adopt", slot)
    if told is not None:
        node.config.hear(told)
        node.config.give([slot], target)


# -- failover ----------------------------------------------------------------------------------------------------------


def failover(node: GarnetNode, args: list[bytes]) -> object:
    """CLUSTER FAILOVER [FORCE | TAKEOVER | ABORT], to the replica."""
    mode = args[0].upper() if args else b""
    primary = node.config.mine.primary_id
    if not node.cluster.aof:
        raise Wrong("ERR Replication unaivalable because AOF is switched off, please restart replica with --aof option")
    if primary is None:
        raise Wrong("ERR Node is not configured as a REPLICA")
    if mode == b"ABORT":
        return _OK
    if mode not in (b"FORCE", b"TAKEOVER"):
        node.tell(primary, "stop_writes", node.id)
    take_over(node)
    return _OK


def stop_writes(node: GarnetNode, heir: str) -> None:
    """Be a replica, with all slots mapped to the heir, who does not know it yet: clients go to and fro."""
    node.config.give(node.config.slots_of(node.id), heir)
    node.config.change(primary_id=heir)


def follow(node: GarnetNode, primary: str) -> None:
    """Be a replica of the node that has taken over."""
    node.config.give(node.config.slots_of(node.id), primary)
    node.config.change(primary_id=primary)
    node.config.bump()
    node.is_recovering = False
    node.cluster.changed(node)


def take_over(node: GarnetNode) -> None:
    """Be the primary of the slots that the primary had, and tell everybody."""
    former = node.config.mine.primary_id
    assert former is not None
    node.config.give(node.config.slots_of(former), node.id)
    node.config.change(primary_id=None)
    node.config.bump()
    node.is_recovering, node.failover_state = False, "failover-completed"
    node.cluster.changed(node)
    node.cluster.promoted(node, former)


def hear(node: GarnetNode, word: str, *values: Any) -> Any:
    """What other nodes say of slots and failovers; see `GarnetNode.hear`."""
    match [word, *values]:
        case ["import", slot, source]:
            node.config.open[slot] = OpenSlot("importing", source)
        case ["adopt", slot]:
            node.config.give([slot], node.id)
            node.config.bump()
            node.cluster.changed(node)
            return node.config.told()
        case ["stop_writes", heir]:
            stop_writes(node, heir)
        case ["follow", primary]:
            follow(node, primary)
    return True
