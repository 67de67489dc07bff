"""Checks: is every slot served, and do all nodes tell the same slot map."""

from __future__ import annotations

from collections.abc import Iterator

from gvcluster.cli.inspect.facts import Facts, write_ranges
from gvcluster.cli.inspect.findings import Case, Finding, Severity, counted, named, signature
from gvcluster.core.slots import SLOTS
from gvcluster.core.topology import Node, Topology


def coverage(case: Case) -> Iterator[Finding]:
    """Slots that nobody serves."""
    topology = case.topology
    if topology is None or topology.covered == SLOTS:
        return
    holes = [slot for slot, owner in enumerate(topology.owners) if owner is None]
    strict = any(facts.settings.get("cluster-require-full-coverage") == "yes" for facts in case.reached)
    yield Finding(
        "slots-not-covered",
        Severity.ERROR,
        f"nobody serves {counted(holes, 'slot')} of {SLOTS}: {write_ranges(holes, 4)}",
        "Every key in them is out of reach"
        + (
            ", and as cluster-require-full-coverage is yes, all others are refused too (CLUSTERDOWN)."
            if strict
            else "."
        ),
        "It fetches the slot map again, and raises SlotNotCovered if that shows no owner either.",
        "Bring back the node that served them; if it is gone for good, their keys are lost: "
        "`valkey-cli --cluster fix HOST:PORT` lets others serve the slots.",
    )


def state(case: Case) -> Iterator[Finding]:
    """Nodes that say of themselves that the cluster is down."""
    down = [facts.address for facts in case.reached if facts.state.get("cluster_state", "ok") != "ok"]
    if down:
        yield Finding(
            "cluster-down",
            Severity.ERROR,
            f"{len(down)} of {counted(case.reached, 'node')} say that the cluster is down: {named(down)}",
            "They refuse commands with CLUSTERDOWN: slots are not covered, or the node is cut off from most primaries.",
            "It proves that such a command was not executed, waits, and tries again until `timeout`.",
            "See the findings about slots and about nodes that can not be reached.",
            tuple(map(str, down)),
        )


def no_map(case: Case) -> Iterator[Finding]:
    """Nodes that answer, but tell no slot map."""
    for facts in case.reached:
        if not facts.map_trouble:
            continue
        no_cluster = "cluster support disabled" in facts.map_trouble
        yield Finding(
            "no-cluster" if no_cluster else "no-map",
            Severity.ERROR,
            f"{facts.address} tells no slot map: {facts.map_trouble}",
            "It is a server of its own." if no_cluster else "Clients learn nothing from it.",
            "It asks another node; if none tells a map, it can not start.",
            "Use a client for single servers, or set cluster-enabled yes."
            if no_cluster
            else "See whether the node has "
            "joined (CLUSTER MEET), and whether the user may run CLUSTER SLOTS (ACL: +cluster|slots).",
            (str(facts.address),),
        )


def agreement(case: Case) -> Iterator[Finding]:
    """Nodes whose slot map is not that of most."""
    common = case.topology
    if common is None:
        return
    groups: dict[tuple[object, ...], list[Facts]] = {}
    for facts in case.reached:
        if facts.topology is not None and signature(facts.topology) != signature(common):
            groups.setdefault(signature(facts.topology), []).append(facts)
    for group in groups.values():
        yield _foreign(group) if _are_strangers(group, common) else _disagreement(case, group, common)


def _are_strangers(group: list[Facts], common: Topology) -> bool:
    """Whether the two maps have no node in common, by their ids."""
    ours = {node.id for node in common.nodes}
    theirs = {node.id for node in group[0].topology.nodes} if group[0].topology is not None else set()
    return ours.isdisjoint(theirs)


def _foreign(group: list[Facts]) -> Finding:
    addresses = [facts.address for facts in group]
    return Finding(
        "another-cluster",
        Severity.ERROR,
        f"{counted(addresses, 'node belongs', 'nodes belong')} to another cluster, with no node in common: "
        f"{named(addresses)}",
        "Which of the two a process uses depends on which seed answers it first.",
        "It takes the map of the first seed that answers, and stays in that cluster.",
        "Name seeds of one cluster only.",
        tuple(map(str, addresses)),
    )


def _disagreement(case: Case, group: list[Facts], common: Topology) -> Finding:
    other = group[0].topology
    assert other is not None
    differing = [slot for slot in range(SLOTS) if _where(common.owners[slot]) != _where(other.owners[slot])]
    first = differing[0]
    addresses = [facts.address for facts in group]
    return Finding(
        "maps-differ",
        Severity.ERROR,
        f"{len(group)} of {counted(case.reached, 'node')} ({named(addresses)}) "
        f"{'tells' if len(group) == 1 else 'tell'} another map than most: {counted(differing, 'slot')} "
        f"({write_ranges(differing, 3)}); slot {first} is at {_where(other.owners[first])}, most say "
        f"{_where(common.owners[first])}",
        "While slots move or a failover goes on, that is so for moments. If it stays, the nodes are cut off from each "
        "other, or a node came back with an old map.",
        "It uses the map of the node that it asked last, never goes back to a primary that was replaced, and follows "
        "redirects meanwhile.",
        "Run the doctor again in a few seconds. If it stays: look at the cluster bus between these nodes, and compare "
        "CLUSTER NODES on both sides.",
        tuple(map(str, addresses)),
    )


def _where(owner: Node | None) -> str:
    return "nobody" if owner is None else str(owner.address)


def open_slots(case: Case) -> Iterator[Finding]:
    """Slots that are on their way from node to node, and those of which only one side knows."""
    looks = [facts.look for facts in case.reached if facts.look is not None]
    leaving = {slot for look in looks for slot in look.leaving}
    arriving = {slot for look in looks for slot in look.arriving}
    if leaving & arriving:
        yield _moving(sorted(leaving & arriving))
    if leaving ^ arriving:
        yield _half_open(case, leaving ^ arriving)


def _moving(slots: list[int]) -> Finding:
    return Finding(
        "slots-moving",
        Severity.NOTE,
        f"{counted(slots, 'slot')} on the way to another node, key by key: {write_ranges(slots, 4)}",
        "Somebody is resharding. Commands with several keys of such a slot may have to wait.",
        "It follows ASK, and tries again after TRYAGAIN: no call fails.",
        "Nothing, if a resharding runs. If it has died: `valkey-cli --cluster fix HOST:PORT`.",
    )


def _half_open(case: Case, slots: set[int]) -> Finding:
    looks = [(facts.address, facts.look) for facts in case.reached if facts.look is not None]
    where = [str(address) for address, look in looks if slots & (look.leaving.keys() | look.arriving.keys())]
    return Finding(
        "slots-half-open",
        Severity.WARNING,
        f"{counted(len(slots), 'slot')} open on one side only: {write_ranges(sorted(slots), 4)} at {named(where)}",
        "A resharding has died in the middle: keys may be redirected to a node that does not take them.",
        "It follows at most 16 redirects (max_redirects), then the call fails.",
        "`valkey-cli --cluster fix HOST:PORT`, or CLUSTER SETSLOT … STABLE on the node that has it open.",
        tuple(where),
    )


CHECKS = (no_map, coverage, state, agreement, open_slots)
