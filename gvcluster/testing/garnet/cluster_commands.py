"""CLUSTER at a Garnet node: what clients ask, and the table of what operators do."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING

from gvcluster.core.slots import hash_slot
from gvcluster.errors import ReplyError
from gvcluster.testing.garnet import forming, maps, moving, verify
from gvcluster.testing.garnet.command import Command, Raw, Table
from gvcluster.testing.garnet.refusals import Wrong, known, slot_of

if TYPE_CHECKING:
    from gvcluster.testing.fake_connection import FakeConnection
    from gvcluster.testing.garnet.node import GarnetNode


def _countkeysinslot(node: GarnetNode, args: list[bytes]) -> object:
    slot = _own(node, args[0])
    return len(node.keys_in(slot))


def _getkeysinslot(node: GarnetNode, args: list[bytes]) -> object:
    slot = _own(node, args[0])
    return node.keys_in(slot)[: int(args[1])]


def _own(node: GarnetNode, text: bytes) -> int:
    slot = slot_of(text)
    owner = node.config.owners[slot]
    if owner is None:
        raise Wrong(verify.CLUSTERDOWN)
    if owner != node.id:
        raise Wrong(verify.moved(node, slot))
    return slot


def _replicas(node: GarnetNode, args: list[bytes]) -> object:
    return [maps.line(node, worker).encode() for worker in node.config.replicas_of(args[0].decode())]


def _endpoint(node: GarnetNode, args: list[bytes]) -> object:
    worker = node.config.workers[known(node, args[0])]
    return f"{worker.host}:{worker.port}".encode()


def _myid(node: GarnetNode, _args: list[bytes]) -> object:
    return node.id.encode()


def _banlist(node: GarnetNode, _args: list[bytes]) -> object:
    return [id_.encode() for id_ in sorted(node.config.banned)]


def _myparentid(node: GarnetNode, _args: list[bytes]) -> object:
    return (node.config.mine.primary_id or node.id).encode()


_Sub = Callable[["GarnetNode", list[bytes]], object]
# Subcommand → how many arguments it takes, negative: at least so many; and what it does.
_SUBCOMMANDS: MappingProxyType[str, tuple[int, _Sub]] = MappingProxyType(
    {
        "SLOTS": (0, lambda node, _: Raw(maps.slots(node))),
        "SHARDS": (0, lambda node, _: Raw(maps.shards(node))),
        "NODES": (0, lambda node, _: maps.nodes(node)),
        "INFO": (0, lambda node, _: maps.info(node)),
        "MYID": (0, _myid),
        "MYPARENTID": (0, _myparentid),
        "KEYSLOT": (1, lambda _, args: hash_slot(args[0])),
        "SLOTSTATE": (1, lambda node, args: maps.slot_state(node, slot_of(args[0]))),
        "COUNTKEYSINSLOT": (1, _countkeysinslot),
        "GETKEYSINSLOT": (2, _getkeysinslot),
        "REPLICAS": (1, _replicas),
        "ENDPOINT": (1, _endpoint),
        "MTASKS": (0, lambda _node, _args: 0),
        "BANLIST": (0, _banlist),
        "SET-CONFIG-EPOCH": (1, forming.set_config_epoch),
        "BUMPEPOCH": (0, forming.bumpepoch),
        "MEET": (2, forming.meet),
        "ADDSLOTS": (-1, forming.addslots),
        "ADDSLOTSRANGE": (-2, forming.addslotsrange),
        "DELSLOTS": (-1, forming.delslots),
        "REPLICATE": (-1, forming.replicate),
        "FORGET": (-1, forming.forget),
        "SETSLOT": (-2, moving.setslot),
        "FAILOVER": (0, moving.failover),
    }
)


def _cluster(node: GarnetNode, _connection: FakeConnection, args: list[bytes]) -> object:
    name = args[0].decode("latin-1").upper()
    count, run = _SUBCOMMANDS.get(name, (None, None))
    if count is None or run is None:
        return ReplyError(f"ERR unknown subcommand '{args[0].decode('latin-1')}'. Try CLUSTER HELP")
    given = len(args) - 1
    if name != "FAILOVER" and (given != count if count >= 0 else given < -count):
        return ReplyError(f"ERR wrong number of arguments for 'cluster|{name.lower()}' command")
    return run(node, args[1:])


COMMANDS: Table = MappingProxyType({"CLUSTER": Command(_cluster, -2), "MIGRATE": Command(moving.migrate, -6)})
