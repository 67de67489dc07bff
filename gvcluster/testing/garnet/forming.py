"""CLUSTER as an operator uses it to make a cluster of Garnet nodes, in the order of the functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gvcluster.core.slots import SLOTS
from gvcluster.testing.garnet.refusals import Wrong, known, slot_of

if TYPE_CHECKING:
    from gvcluster.testing.garnet.node import GarnetNode

_OK = "OK"


def set_config_epoch(node: GarnetNode, args: list[bytes]) -> object:
    """CLUSTER SET-CONFIG-EPOCH: once, and before it has met anybody."""
    if len(node.config.workers) > 1:
        raise Wrong("ERR The user can assign a config epoch only when the node does not know any other node")
    if node.config.mine.epoch or int(args[0]) < 1:
        raise Wrong("ERR Node config epoch was not set due to invalid epoch specified")
    node.config.change(epoch=int(args[0]))
    return _OK


def meet(node: GarnetNode, args: list[bytes]) -> object:
    """+OK also where nobody is."""
    host, port = args
    told = node.cluster.carry(node, host.decode(), int(port), "gossip", node.config.told())
    if told is not None:
        node.config.hear(told)
        node.cluster.changed(node)
    return _OK


def addslotsrange(node: GarnetNode, args: list[bytes]) -> object:
    """CLUSTER ADDSLOTSRANGE."""
    bounds = [slot_of(arg) for arg in args]
    pairs = list(zip(bounds[::2], bounds[1::2], strict=True))
    for first, last in pairs:
        if first > last:
            raise Wrong(f"ERR Invalid range {first} > {last}!")
    return _add(node, [slot for first, last in pairs for slot in range(first, last + 1)])


def addslots(node: GarnetNode, args: list[bytes]) -> object:
    """CLUSTER ADDSLOTS: never all 16384 at once."""
    if len(args) > SLOTS - 1:
        raise Wrong("ERR wrong number of arguments for 'cluster|addslots' command")
    return _add(node, [slot_of(arg) for arg in args])


def _add(node: GarnetNode, slots: list[int]) -> object:
    if len(set(slots)) < len(slots):
        twice = next(slot for slot in slots if slots.count(slot) > 1)
        raise Wrong(f"ERR Slot {twice} specified multiple times.")
    for slot in slots:
        if node.config.owners[slot] is not None:
            raise Wrong(f"ERR Slot {slot} is already busy")
    node.config.give(slots, node.id)
    return _OK


def delslots(node: GarnetNode, args: list[bytes]) -> object:
    """CLUSTER DELSLOTS: any slot, from this node's own view only."""
    slots = [slot_of(arg) for arg in args]
    for slot in slots:
        if node.config.owners[slot] is None:
            raise Wrong(f"ERR Slot {slot} is not assigned")
    node.config.give(slots, None)
    node.config.bump()
    return _OK


def bumpepoch(node: GarnetNode, _args: list[bytes]) -> object:
    """CLUSTER BUMPEPOCH."""
    node.config.bump()
    node.cluster.changed(node)
    return _OK


def replicate(node: GarnetNode, args: list[bytes]) -> object:
    """CLUSTER REPLICATE id [SYNC | ASYNC]."""
    id_ = args[0].decode()
    if id_ == node.id:
        raise Wrong("ERR Can't replicate myself")
    if node.config.mine.primary_id is not None:
        raise Wrong(f"ERR I am already replica of {node.config.mine.primary_id}.")
    if node.config.slots_of(node.id):
        raise Wrong("ERR Primary has been assigned slots and cannot be a replica")
    primary = node.config.workers[known(node, args[0])]
    if primary.primary_id is not None:
        raise Wrong(f"ERR Trying to replicate node ({id_}) that is not a primary.")
    node.config.change(primary_id=id_)
    node.config.bump()
    node.cluster.attach(node, id_)
    node.cluster.changed(node)
    return _OK


def forget(node: GarnetNode, args: list[bytes]) -> object:
    """CLUSTER FORGET."""
    if args[0].decode() == node.id:
        raise Wrong("ERR I tried hard but I can't forget myself")
    id_ = known(node, args[0])
    if id_ == node.config.mine.primary_id:
        raise Wrong("ERR Can't forget my primary")
    node.config.forget(id_)
    return _OK
