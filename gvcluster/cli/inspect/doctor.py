"""Examines a cluster: asks every node that anybody names, then looks at the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gvcluster.cli.inspect import endurance, maps, reach
from gvcluster.cli.inspect.facts import QUESTIONS, Facts, facts_of, nodes_of
from gvcluster.cli.inspect.findings import Case, Finding, Severity, counted
from gvcluster.cli.inspect.survey import Progress, ask_all
from gvcluster.cli.inspect.target import Target
from gvcluster.cluster import Cluster
from gvcluster.core.address import Address
from gvcluster.core.slots import SLOTS
from gvcluster.errors import GvClusterError

# PINGs that are timed at each node.
PINGS = 7
# Nodes name nodes, which name others: after so many rounds nothing new is to be expected.
_ROUNDS = 4
_Check = Callable[[Case], Iterator[Finding]]
_ALWAYS: tuple[_Check, ...] = (*reach.CHECKS, *maps.CHECKS, reach.seeds)
_WITH_A_MAP: tuple[_Check, ...] = endurance.CHECKS


@dataclass(frozen=True)
class Diagnosis:
    """The case, and what was found in it, the worst first."""

    case: Case
    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """That of the worst finding."""
        return max((finding.severity for finding in self.findings), default=Severity.NOTE)


def examine(target: Target, progress: Progress | None = None) -> Diagnosis:
    """Ask all nodes of a cluster, and judge. Nothing is written or changed.

    Blocks: until every node has answered, or its time is over. A kill or Timeout ends it; nothing stays open.
    """
    cluster = target.cluster()
    try:
        every = _explore(cluster, target, progress)
        return diagnose(Case(target.seeds, tuple(every), target.options, _why_not(cluster)))
    finally:
        cluster.close()


def diagnose(case: Case) -> Diagnosis:
    """Let all checks look at the case."""
    checks = _ALWAYS if case.topology is None else (*_ALWAYS, *_WITH_A_MAP)
    findings = [finding for check in checks for finding in check(case)]
    return Diagnosis(case, tuple(sorted(findings, key=lambda finding: -finding.severity)))


def _explore(cluster: Cluster, target: Target, progress: Progress | None) -> list[Facts]:
    every: list[Facts] = []
    wanted = list(target.seeds)
    # Who is impatient wants to know all the same why a connection fails.
    patience = max(target.options.timeout, target.options.connect_timeout + 1)
    for _ in range(_ROUNDS):
        every += map(facts_of, ask_all(cluster, wanted, QUESTIONS, patience, PINGS, progress))
        asked = {facts.address for facts in every}
        wanted = [address for address in _named(every) if address not in asked]
        if not wanted:
            break
    return every


def _named(every: list[Facts]) -> list[Address]:
    """All addresses that any node tells: those of slot maps, and those of nodes that are in no slot map."""
    nodes = nodes_of(every)
    mapped = {node.id for node in nodes.values()} | {facts.id for facts in every}
    others = {id_: at for facts in every if facts.look is not None for id_, at in facts.look.addresses.items()}
    return [*nodes, *(address for id_, address in others.items() if id_ not in mapped)]


def _why_not(cluster: Cluster) -> GvClusterError | None:
    """Why a client can not start here; None if it can."""
    try:
        cluster.connect()
    except GvClusterError as error:
        return error
    return None


def expectations(case: Case) -> list[tuple[str, str]]:
    """What the client would do in this cluster: pairs of a subject and a sentence."""
    options, topology = case.options, case.topology
    if topology is None:
        return [("start", f"asks its seeds until timeout ({options.timeout:g} s), then raises TopologyUnavailable")]
    answering = sum(facts.trouble is None for facts in case.every if facts.address in case.seeds)
    reached = sum(facts.trouble is None for facts in case.every if facts.address in case.nodes)
    primaries, call = counted(topology.primaries, "primary", "primaries"), f"{options.timeout:g}"
    verb = "answers" if answering == 1 else "answer"
    reading = "primaries" if options.read_from == "primary" else options.read_from
    return [
        ("start", f"learns the slot map from a seed ({answering} of {len(case.seeds)} {verb}), later from any node"),
        ("nodes", f"connects to {primaries}; reached {reached} of all {len(case.nodes)} nodes"),
        ("slots", f"finds an owner for {topology.covered} of {SLOTS}"),
        ("reads", f"go to {reading} (read_from={options.read_from})"),
        (
            "patience",
            f"connecting {options.connect_timeout:g} s, a reply {options.command_timeout:g} s, a call {call} s",
        ),
        ("failover", _failover(case)),
    ]


def _failover(case: Case) -> str:
    told = [facts.settings.get("cluster-node-timeout", "") for facts in case.reached]
    known = [int(text) / 1000 for text in told if text.isdigit()]
    if not known:
        return "waits for the new primary until timeout; how long the servers need is not known"
    needed = endurance.failover_seconds(max(known))
    fits = "which it waits for" if needed <= case.options.timeout else "calls fail before"
    return f"may take {needed:g} s (cluster-node-timeout {max(known):g} s): {fits}"
