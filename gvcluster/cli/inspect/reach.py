"""Checks: can the nodes be reached where they say they are, and are they who they are said to be."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator

from gvcluster.cli.inspect.facts import Facts
from gvcluster.cli.inspect.findings import Case, Finding, Severity, counted, named
from gvcluster.core.address import Address
from gvcluster.core.topology import Node
from gvcluster.errors import AuthFailed

_ELSEWHERE = "is another node by now"


def unreachable(case: Case) -> Iterator[Finding]:
    """Nodes that do not answer, each with the most likely reason."""
    for facts in case.every:
        if facts.trouble is None or _ELSEWHERE in str(facts.trouble):
            continue
        if isinstance(facts.trouble, AuthFailed):
            yield _not_let_in(facts)
        elif _is_about_certificates(facts):
            yield _certificate(facts)
        else:
            yield _silent(case, facts)


def _not_let_in(facts: Facts) -> Finding:
    return Finding(
        "not-let-in",
        Severity.ERROR,
        f"{facts.address} does not let this user in: {facts.trouble}",
        "Every call that needs this node fails.",
        "It sends nothing else there, and does not try again: AuthFailed; TopologyUnavailable if no node lets it in.",
        "Give the right user and password (GVCLUSTER_USERNAME, GVCLUSTER_PASSWORD), the same on all nodes: ACLs are "
        "not replicated between shards.",
        (str(facts.address),),
    )


def _is_about_certificates(facts: Facts) -> bool:
    error: BaseException | None = facts.trouble
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__
    return False


def _certificate(facts: Facts) -> Finding:
    return Finding(
        "tls",
        Severity.ERROR,
        f"{facts.trouble}",
        "Nobody can tell that this node is who it claims to be, so nothing is sent to it.",
        "It treats the node like one that is down: calls for it are tried again until `timeout`, then fail.",
        "Issue a certificate for the name or address that the slot map announces (cluster-announce-hostname with "
        "cluster-preferred-endpoint-type hostname makes it a name), or pass tls_server_name (here: --server-name).",
        (str(facts.address),),
    )


def _silent(case: Case, facts: Facts) -> Finding:
    node, role = case.nodes.get(facts.address), case.role(facts.address)
    elsewhere = next((each for each in case.reached if node is not None and each.id and each.id == node.id), None)
    if elsewhere is not None:
        return _announced_wrongly(facts, elsewhere)
    is_known = node is not None
    consequence = {
        "primary": "Calls for its slots fail until a replica takes over; most primaries must think that it is down.",
        "replica": "It serves no reads, and its shard has one node less to fall back on.",
        "seed": "A process that starts can not learn the slot map from it.",
    }[role]
    return Finding(
        "unreachable",
        Severity.ERROR if role == "primary" else Severity.WARNING,
        f"the {role} {facts.address} can not be reached: {_why(facts)}{_what_others_think(case, facts)}",
        consequence,
        "It asks others for the slot map, and leaves the node alone for a while; calls for its slots wait up to "
        "`timeout`."
        if is_known
        else "It asks the other seeds.",
        "See whether a server listens there, and whether this machine may connect to it (firewall, security group, "
        "network policy). A port that speaks TLS only needs --tls.",
        (str(facts.address),),
    )


def _why(facts: Facts) -> str:
    return str(facts.trouble).removeprefix(f"no connection to {facts.address}: ")


def _what_others_think(case: Case, facts: Facts) -> str:
    """Whether the node is down, or only the way to it."""
    node = case.nodes.get(facts.address)
    if node is None or not node.id or not case.reached:
        return ""
    doubting = [
        each for each in case.reached if {"fail", "fail?", "disconnected"} & each.flags.get(node.id, frozenset())
    ]
    if not doubting:
        return "; all other nodes see it well, so it is the way from here that is closed"
    return f"; {len(doubting)} of {counted(case.reached, 'node')} that answer can not reach it either"


def _announced_wrongly(facts: Facts, elsewhere: Facts) -> Finding:
    return Finding(
        "announced-wrongly",
        Severity.ERROR,
        f"the node at {elsewhere.address} announces itself as {facts.address}, and can not be reached there: "
        f"{_why(facts)}",
        "Clients connect to what is announced: those on this machine can use the seed, but not the node.",
        "It follows the slot map, so calls for this node's slots fail at `timeout`.",
        "Set cluster-announce-ip, cluster-announce-port (or cluster-announce-hostname) to what clients can connect "
        "to; or pass address_map=, if only this machine has another way to it (a tunnel, a published port).",
        (str(elsewhere.address), str(facts.address)),
    )


def not_who_they_are(case: Case) -> Iterator[Finding]:
    """Addresses of the slot map where somebody else answers."""
    for facts in case.every:
        node = case.nodes.get(facts.address)
        if node is not None and _is_another(facts, node):
            yield _another(facts, node)


def _is_another(facts: Facts, node: Node) -> bool:
    """Whether it says so itself, or our own client has found out and refused to talk to it."""
    return bool(facts.id and node.id and facts.id != node.id) or _ELSEWHERE in str(facts.trouble or "")


def _another(facts: Facts, node: Node) -> Finding:
    return Finding(
        "another-node",
        Severity.ERROR,
        f"at {facts.address} the slot map has node {node.id[:8]}, but {facts.id[:8] or 'another one'} answers",
        "The address was given to somebody else, or two nodes announce the same one.",
        "It asks CLUSTER MYID on every new connection, and sends nothing to a stranger: calls for this node fail.",
        "Give each node an address of its own (cluster-announce-ip, cluster-announce-port), and CLUSTER FORGET the "
        "nodes that are gone.",
        (str(facts.address),),
    )


def nowhere(case: Case) -> Iterator[Finding]:
    """Nodes that announce what nobody can connect to."""
    told = {endpoint: facts for facts in reversed(case.reached) for endpoint in facts.nowhere}
    for endpoint, facts in told.items():
        yield Finding(
            "no-endpoint",
            Severity.ERROR,
            f"{facts.address} announces a node as {endpoint}: that is no address",
            "No client can connect to it, and its slots look as if nobody served them.",
            "It leaves the node and its slots out of its map.",
            "Set cluster-announce-hostname on that node, or cluster-preferred-endpoint-type back to ip; a port of 0 "
            "means that only the other kind of port (with TLS, or without) is open.",
            (endpoint,),
        )


def loopback(case: Case) -> Iterator[Finding]:
    """Nodes that announce 127.0.0.1 to those who come from elsewhere."""
    if all(_is_loopback(seed) for seed in case.seeds):
        return
    wrong = [address for address in case.nodes if _is_loopback(address) and address not in case.seeds]
    if wrong:
        yield Finding(
            "announces-loopback",
            Severity.ERROR,
            f"{counted(wrong, 'node')} announced as {named(wrong)}: the machine that asks, whichever it is",
            "Clients on other machines connect to themselves.",
            "It connects to what is announced: nothing there, or a stranger.",
            "Set cluster-announce-ip on each node to an address that clients can reach.",
            tuple(map(str, wrong)),
        )


def _is_loopback(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"


def seeds(case: Case) -> Iterator[Finding]:
    """How a process of the user's gets its first slot map."""
    if case.connecting is not None:
        yield Finding(
            "can-not-start",
            Severity.ERROR,
            f"a client with these seeds gets no slot map: {case.connecting}",
            "A process that starts now can do nothing.",
            "It asks every seed again until `timeout`, then raises TopologyUnavailable, which says what each answered.",
            "See the other findings; what each node has answered is in them.",
        )
    elif len(case.seeds) == 1 and len(case.nodes) > 1:
        yield Finding(
            "one-seed",
            Severity.NOTE,
            f"{case.seeds[0]} is the only seed",
            "A process that starts while this node is down finds nobody to ask.",
            "Once it has a slot map, it asks any node of it.",
            "Name nodes of several shards: " + ",".join(map(str, list(case.nodes)[:3])),
        )


def suspected(case: Case) -> Iterator[Finding]:
    """Nodes that others can not reach, though they are well from here; and those that are given up."""
    here = {facts.id: facts.address for facts in case.reached if facts.id}
    mapped = {node.id for node in case.nodes.values()}
    doubted: dict[str, list[Address]] = {}
    for facts in case.reached:
        for node_id in facts.flags:
            doubted.setdefault(node_id, []).append(facts.address)
    for node_id, by in doubted.items():
        if node_id in here:
            yield _suspected(case, here[node_id], by)
        elif node_id not in mapped:
            yield _given_up(case, node_id, by)


def _suspected(case: Case, address: Address, by: list[Address]) -> Finding:
    return Finding(
        "suspected",
        Severity.WARNING,
        f"{address} answers here, but {len(by)} of {counted(case.reached, 'node')} can not reach it: {named(by)}",
        "The network between the nodes is broken, or was a moment ago; a failover may follow.",
        "It goes by the slot map, and asks again for a newer one when a node redirects or refuses.",
        "Look at the cluster bus: each node must reach the port of every other one plus 10000, or its "
        "cluster-announce-bus-port.",
        (str(address),),
    )


def _given_up(case: Case, node_id: str, by: list[Address]) -> Finding:
    where = next((facts.written[node_id] for facts in case.reached if node_id in facts.written), "")
    return Finding(
        "given-up",
        Severity.WARNING,
        f"node {node_id[:8]} at {where or 'no address'} has failed; {counted(by, 'node')} still know it",
        "Its shard has a node less than was planned.",
        "It does not use the node: no slot map names it.",
        f"Start it again, or have every node forget it: CLUSTER FORGET {node_id}.",
        (node_id,),
    )


CHECKS = (unreachable, not_who_they_are, nowhere, loopback, suspected)
