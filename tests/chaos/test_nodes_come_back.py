"""Nodes that end and come back: with their data, without their memory, at another address; and seeds that do not.

The number in a test's name is that of its failure mode in docs/reliability.md.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gvcluster
from gvcluster import Address, Cluster, ConnectionLost
from gvcluster.events import Event, SlotMapUpdated
from gvcluster.testing import LocalCluster, Node


def test_f14_a_primary_that_restarts_with_its_data_costs_only_what_was_under_way(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    victim, *others = shards
    with load(cluster, may_lose=True) as under_load:
        victim.command("SAVE")
        live_cluster.restart(victim)
        dump(victim).unlink()
        under_load.wait_until_served()
    told_honestly(under_load, victim, others)
    assert {worker.cluster.execute("GET", worker.token) for worker in under_load.workers} == {
        worker.tag.encode() for worker in under_load.workers
    }


def test_f15_a_node_that_returns_without_its_memory_takes_no_slot_from_the_map(
    live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any], protocol: int
) -> None:
    victim, *others = shards
    events: list[Event] = []
    options = {"protocol": protocol, "on_event": events.append}
    with gvcluster.connect(live_cluster.seeds, **options) as cluster:
        with load(cluster, may_lose=True) as under_load:
            victim.kill()
            under_load.wait_until_served()  # by the heir; else older servers let it copy what an empty primary has
            (victim.folder / "nodes.conf").unlink()
            dump(victim).unlink(missing_ok=True)  # a server claims the slots of the keys that it finds
            victim.start(30)
            assert victim.command("CLUSTER", "SLOTS") == []
            for _ in range(5):
                cluster.refresh()
            under_load.wait_until_served()
            assert cluster.node_for_key(under_load.of(victim.address)[0].tag).address != victim.address
        told_honestly(under_load, victim, others)
    assert {event.covered for event in events if isinstance(event, SlotMapUpdated)} == {16384}


def test_f19_all_seeds_are_dead_and_the_members_are_enough(
    live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any], protocol: int
) -> None:
    victim, *others = shards
    with gvcluster.connect([victim.address], protocol=protocol) as cluster:
        with load(cluster, may_lose=True) as under_load:
            live_cluster.kill(victim)
            under_load.wait_until_served()
            cluster.refresh()
            under_load.wait_until_served()
            live_cluster.restart(victim)
            live_cluster.wait_until_agreed()
            under_load.wait_until_served()
        told_honestly(under_load, victim, others)


def test_f20_a_node_that_returns_at_another_address_is_found_there(
    cluster: Cluster, live_cluster: LocalCluster, shards: list[Node], load: Callable[..., Any]
) -> None:
    victim, *others = shards
    before = victim.address
    with load(cluster, may_lose=True) as under_load:
        victim.command("SAVE")
        victim.kill()
        victim.address = Address("127.0.0.1", free_port())
        victim.start(30)
        dump(victim).unlink()
        under_load.wait_until_served()
        live_cluster.wait_until_agreed()
        cluster.refresh()
        under_load.wait_until_served()
        assert before not in {node.address for node in (*cluster.primaries(), *cluster.replicas())}
        assert victim.address in {node.address for node in (*cluster.primaries(), *cluster.replicas())}
    assert under_load.wrong == []
    assert [under_load.errors(other.address) for other in others] == [[], []]
    assert {type(error) for error in under_load.errors()} <= {ConnectionLost}
    under_load.check_counts()


def dump(node: Node) -> Path:
    return node.folder / "dump.rdb"


def told_honestly(under_load: Any, victim: Node, others: list[Node]) -> None:
    """Only writes that were under way at the victim have failed, and said that they may have run."""
    assert under_load.wrong == []
    assert under_load.errors(command="GET") == []
    assert [under_load.errors(other.address) for other in others] == [[], []]
    told = {(type(error), error.maybe_executed, error.address) for error in under_load.errors()}
    assert told <= {(ConnectionLost, True, victim.address)}
    under_load.check_counts()


def free_port() -> int:
    """A port that is free, and that of its cluster bus too."""
    while True:
        with socket.socket() as for_clients, socket.socket() as for_bus:
            for_clients.bind(("127.0.0.1", 0))
            port: int = for_clients.getsockname()[1]
            try:
                for_bus.bind(("127.0.0.1", port + 10000))
            except (OSError, OverflowError):
                continue
            return port
