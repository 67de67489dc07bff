"""Checks: what happens on a bad day: spare nodes, failover against our timeouts, slow nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from gvcluster.cli.inspect.facts import Facts
from gvcluster.cli.inspect.findings import Case, Finding, Severity, counted, named
from gvcluster.core.topology import Node, Topology

# From the kill to the first write that a replica accepts, measured on four servers: cluster-node-timeout and 0.4 to
# 2.6 s more (facts on reliability, 2 s and 5 s). A suspicion may need up to as long again to become a majority's.
_ELECTION = 2.0
# A node is slow if its PING takes more than this, in seconds, and so many times as long as most nodes'.
_SLOW, _TIMES = 0.02, 5
_NODE_TIMEOUT = "cluster-node-timeout"


def few_primaries(case: Case) -> Iterator[Finding]:
    """Too few who can vote."""
    serving = case.topology.first_slots() if case.topology is not None else ()
    if len(serving) < 3:
        yield Finding(
            "no-majority",
            Severity.WARNING,
            f"only {counted(len(serving), 'primary', 'primaries')} with slots",
            "Most primaries must agree before a replica takes over: of fewer than three, none may be down.",
            "It waits for a new primary until `timeout`; there will be none.",
            "Have three primaries with slots, or more, on machines of their own.",
        )


def spare_nodes(case: Case) -> Iterator[Finding]:
    """Shards that live and die with one node, machine or zone."""
    topology = case.topology
    if topology is None:
        return
    serving = [node for node in topology.primaries if node.address in topology.first_slots()]
    alone = [node for node in serving if not topology.replicas_of(node)]
    if alone:
        yield Finding(
            "no-replica",
            Severity.WARNING,
            f"{counted(alone, 'shard has', 'shards have')} no replica: {named(alone)}",
            "When the primary is down, its keys are out of reach until it is back.",
            "It waits until `timeout`, then fails with what it met.",
            "Add a replica to each: CLUSTER REPLICATE, on a node without slots.",
            tuple(map(str, alone)),
        )
    yield from _together(topology, [node for node in serving if node not in alone])


def _together(topology: Topology, serving: list[Node]) -> Iterator[Finding]:
    for what, where in (("zone", _zone), ("machine", _machine)):
        places = {where(node) for node in topology.nodes}
        shards = [node for node in serving if _spread(topology, node, where) == 1]
        if shards and None not in places:
            inhabited = sorted({str(where(node)) for node in shards})
            yield _one_place(what, shards, inhabited, is_all=len(places) == 1)


def _spread(topology: Topology, node: Node, where: Callable[[Node], str | None]) -> int:
    return len({where(each) for each in (node, *topology.replicas_of(node))})


def _one_place(what: str, shards: list[Node], inhabited: list[str], *, is_all: bool) -> Finding:
    whose = "all nodes" if is_all else f"all nodes of {counted(shards, 'shard')}"
    return Finding(
        f"one-{what}",
        Severity.NOTE if is_all else Severity.WARNING,
        f"{whose} are {'in' if what == 'zone' else 'on'} one {what}: {named(inhabited)}",
        f"If this {what} is lost, so is every copy of the data.",
        "It has nobody to turn to: calls fail at `timeout`.",
        "Give each shard a replica that is elsewhere; for tests and development it is fine as it is.",
        tuple(map(str, shards)),
    )


def _zone(node: Node) -> str | None:
    return node.availability_zone


def _machine(node: Node) -> str | None:
    return node.address.host


def replication(case: Case) -> Iterator[Finding]:
    """Replicas that do not hear from their primary."""
    cut = [facts.address for facts in case.reached if facts.info.get("master_link_status") == "down"]
    if cut:
        yield Finding(
            "replication-down",
            Severity.WARNING,
            f"{counted(cut, 'replica is', 'replicas are')} cut off from the primary: {named(cut)}",
            "They answer with old values, or refuse (MASTERDOWN); one that is cut off for long is not elected.",
            "It reads elsewhere after a refusal; with read_from that allows replicas, old values may be read.",
            "See INFO replication and the replica's log: the primary's password (primaryauth), disk, network.",
            tuple(map(str, cut)),
        )


def timeouts(case: Case) -> Iterator[Finding]:
    """Our patience against the time that a failover takes."""
    told = {facts.address: facts.settings[_NODE_TIMEOUT] for facts in case.reached if _NODE_TIMEOUT in facts.settings}
    seconds = sorted({int(text) / 1000 for text in told.values() if text.isdigit()})
    if not seconds:
        yield _unknown_settings(case)
        return
    if len(seconds) > 1:
        yield _uneven(seconds)
    needed, given = failover_seconds(seconds[-1]), case.options.timeout
    if given < needed:
        yield Finding(
            "timeout-too-short",
            Severity.WARNING,
            f"the client's timeout is {given:g} s, but a failover may take {needed:g} s "
            f"({_NODE_TIMEOUT} is {seconds[-1]:g} s)",
            "When a primary dies, calls for its slots fail before its replica has taken over.",
            f"It waits for the new primary, but at most {given:g} s; then it raises what it met. Nothing runs twice.",
            f"Give the client timeout={needed:g} or more where a call may wait so long, or lower {_NODE_TIMEOUT} "
            "(5 s is common on a good network).",
        )


def failover_seconds(node_timeout: float) -> float:
    """How long a failover may take from the death of a primary to the first write, in seconds."""
    return node_timeout * 1.5 + _ELECTION


def _unknown_settings(case: Case) -> Finding:
    return Finding(
        "settings-unknown",
        Severity.NOTE,
        f"no node tells its settings (CONFIG GET), so the timeout of {case.options.timeout:g} s can not be judged",
        "A failover takes about one and a half times cluster-node-timeout, and 2 s.",
        "It needs no setting of the servers to work.",
        "Let this user run CONFIG GET (ACL: +config|get), or compare by hand.",
    )


def _uneven(seconds: list[float]) -> Finding:
    return Finding(
        "node-timeouts-differ",
        Severity.WARNING,
        f"{_NODE_TIMEOUT} is not the same on all nodes: {named(f'{each:g} s' for each in seconds)}",
        "Nodes suspect each other at different times: failovers come late, or without need.",
        "It reckons with none of them: it waits until `timeout`.",
        f"CONFIG SET {_NODE_TIMEOUT} to one value, and CONFIG REWRITE, on all nodes.",
    )


def strictness(case: Case) -> Iterator[Finding]:
    """What one lost shard means for the others."""
    strict = [facts for facts in case.reached if facts.settings.get("cluster-require-full-coverage") == "yes"]
    if strict:
        yield Finding(
            "full-coverage-required",
            Severity.NOTE,
            f"cluster-require-full-coverage is yes on {len(strict)} of {counted(case.reached, 'node')}",
            "While one shard is down, all others refuse too (CLUSTERDOWN).",
            "It waits and tries again until `timeout`, for keys of any shard.",
            "If the other shards should go on: CONFIG SET cluster-require-full-coverage no.",
        )


def idling(case: Case) -> Iterator[Finding]:
    """Servers that hang up on who says nothing."""
    limits = sorted(
        {int(text) for text in (facts.settings.get("timeout", "") for facts in case.reached) if text.isdigit()}
    )
    if limits and limits[-1] > 0:
        least = next(limit for limit in limits if limit)
        yield Finding(
            "idle-connections-closed",
            Severity.NOTE,
            f"the servers close connections that are idle for {least} s",
            "After a pause a connection is opened anew.",
            "It notices the end at once, and opens another for the next call: that one takes longer, none fails.",
            "Nothing; or CONFIG SET timeout 0.",
        )


def slowness(case: Case) -> Iterator[Finding]:
    """Nodes that take much longer than the others, or nearly as long as we wait."""
    pings = {facts.address: facts.ping for facts in case.reached if facts.ping is not None}
    usual = median(pings.values()) if pings else 0.0
    impatience = case.options.command_timeout / 2
    slow = {at: ping for at, ping in pings.items() if ping > impatience or ping > max(_SLOW, _TIMES * usual)}
    if slow:
        times = [f"{address} {ping * 1000:.1f} ms" for address, ping in slow.items()]
        yield Finding(
            "slow",
            Severity.WARNING,
            f"{counted(len(slow), 'node is', 'nodes are')} slow: PING takes {named(times)}; "
            f"half of all nodes need {usual * 1000:.1f} ms or less",
            "Calls for their slots take at least as long.",
            f"It waits {case.options.command_timeout:g} s for a reply (command_timeout), then ends the connection.",
            "See SLOWLOG GET and LATENCY LATEST there, its CPU, swapping, and how far away it is.",
            tuple(map(str, slow)),
        )


def versions(case: Case) -> Iterator[Finding]:
    """More than one version."""
    found: dict[str, list[Facts]] = {}
    for facts in case.reached:
        if facts.version:
            found.setdefault(facts.version, []).append(facts)
    if len(found) > 1:
        told = [f"{version} on {counted(nodes, 'node')}" for version, nodes in sorted(found.items())]
        yield Finding(
            "versions-differ",
            Severity.NOTE,
            f"the nodes run several versions: {named(told)}",
            "An upgrade goes on, or was forgotten. Commands of the newer version fail on the older nodes.",
            "It speaks to each node as that node understands it.",
            "Finish the upgrade.",
        )


# They are asked only where there is a slot map.
CHECKS = (few_primaries, spare_nodes, replication, timeouts, strictness, idling, slowness, versions)
