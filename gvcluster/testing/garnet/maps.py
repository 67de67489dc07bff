"""How a Garnet node tells clients who is who: CLUSTER SLOTS, SHARDS, NODES and INFO, byte for byte."""

from __future__ import annotations

from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING

from gvcluster.core.slots import SLOTS
from gvcluster.testing.answers import encode_reply
from gvcluster.testing.garnet.config import Config, Worker
from gvcluster.testing.garnet.verify import preferred

if TYPE_CHECKING:
    from gvcluster.testing.garnet.node import GarnetNode

# Ticks of .NET, 100 ns since the year 1, where others tell milliseconds.
_TICKS = 638875895159094739
_ARROWS = MappingProxyType({"migrating": "->-", "importing": "-<-"})
_MARKS = MappingProxyType({"migrating": ">", "importing": "<"})


def slots(node: GarnetNode) -> bytes:
    """CLUSTER SLOTS: in RESP2's form also in RESP3, metadata and null included."""
    config = node.config
    ranges: list[object] = []
    for owner, group in groupby(range(SLOTS), key=lambda slot: config.owners[slot]):
        if owner is not None:
            first, *_, last = run if len(run := list(group)) > 1 else run * 2
            shard = [config.workers[owner], *config.replicas_of(owner)]
            ranges.append([first, last, *(_told_of(node, worker) for worker in shard)])
    return encode_reply(ranges, 2)


def _told_of(node: GarnetNode, worker: Worker) -> list[object]:
    ip, hostname = [b"ip", worker.host.encode()], [b"hostname", worker.hostname.encode()]
    named = hostname if worker.hostname else []
    kind = node.cluster.endpoint_type
    metadata = {"ip": named, "hostname": ip}.get(kind, [*ip, *named])
    endpoint = None if kind == "unknown" else (preferred(node, worker) or "?").encode()
    return [endpoint, worker.port, worker.id.encode(), metadata]


def shards(node: GarnetNode) -> bytes:
    """CLUSTER SHARDS: flat lists also in RESP3. A replica that is asked says of itself that it is offline."""
    config = node.config
    told: list[object] = []
    for primary in config.workers.values():
        if primary.primary_id is None:
            bounds = [slot for pair in config.ranges_of(primary.id) for slot in pair]
            shard = [primary, *config.replicas_of(primary.id)]
            told.append([b"slots", bounds, b"nodes", [_shard_node(node, worker) for worker in shard]])
    return encode_reply(told, 2)


def _shard_node(node: GarnetNode, worker: Worker) -> list[object]:
    is_me, is_replica = worker.id == node.config.mine.id, worker.primary_id is not None
    is_online = not is_replica if is_me else node.is_linked(worker.id)
    endpoint = preferred(node, worker) or "?"
    fields: dict[bytes, object] = {b"id": worker.id.encode(), b"port": worker.port, b"ip": worker.host.encode()}
    fields[b"endpoint"] = endpoint.encode()
    if worker.hostname:
        fields[b"hostname"] = worker.hostname.encode()
    fields[b"role"] = b"slave" if is_replica else b"master"
    fields[b"replication-offset"] = node.offset_of(worker)
    fields[b"health"] = b"online" if is_online else b"offline"
    return [part for pair in fields.items() for part in pair]


def nodes(node: GarnetNode) -> bytes:
    """CLUSTER NODES: a line for each node that it knows, never with `fail` or `handshake`."""
    return "".join(f"{line(node, worker)}\n" for worker in node.config.workers.values()).encode()


def line(node: GarnetNode, worker: Worker) -> str:
    """One line of CLUSTER NODES."""
    config = node.config
    is_me = worker.id == config.mine.id
    heard = 0 if is_me else _TICKS
    is_linked = is_me or node.is_linked(worker.id)
    words = [
        worker.id,
        f"{worker.host}:{worker.port}@{worker.port + 10000},{worker.hostname}".rstrip(","),
        "myself," * is_me + ("master" if worker.primary_id is None else "slave"),
        f"{worker.primary_id or '-'} {heard} {heard} {worker.epoch}",
        "connected" if is_linked else "disconnected",
        *_ranges(config, worker.id),
    ]
    return " ".join([*words, *_open_slots(config)] if is_me else words)


def _ranges(config: Config, id_: str) -> list[str]:
    return [f"{first}-{last}" if first != last else str(first) for first, last in config.ranges_of(id_)]


def _open_slots(config: Config) -> list[str]:
    return [f"[{slot}{_ARROWS[state]}{peer}]" for slot, (state, peer) in sorted(config.open.items())]


def info(node: GarnetNode) -> bytes:
    """CLUSTER INFO: the state is always ok, and slots that are open here are not counted."""
    config = node.config
    stable = sum(owner is not None and slot not in config.open for slot, owner in enumerate(config.owners))
    told = {
        "state": "ok",
        "slots_assigned": stable,
        "slots_ok": stable,
        "slots_pfail": 0,
        "slots_fail": 0,
        "known_nodes": len(config.workers),
        "size": sum(worker.primary_id is None for worker in config.workers.values()),
        "current_epoch": config.highest_epoch,
        "my_epoch": config.mine.epoch,
        "stats_messages_sent": 0,
        "stats_messages_received": 0,
    }
    return "".join(f"cluster_{name}:{value}\r\n" for name, value in told.items()).encode()


def slot_state(node: GarnetNode, slot: int) -> str:
    """CLUSTER SLOTSTATE: `<slot> <=|>|<|x> <node id>`."""
    state, peer = node.config.open.get(slot, ("", ""))
    owner = node.config.owners[slot]
    mark = _MARKS[state] if state else "x" if owner is None else "="
    return f"{slot} {mark} {peer or owner or ''}".rstrip()
