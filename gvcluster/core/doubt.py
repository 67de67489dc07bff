"""Whether an error from a script is true: which independent look tells, and what it must show.

The text of an error from EVAL, FCALL or a module's command belongs to whoever wrote the script: `redis.error_reply`
makes any. So nothing is sent because of such an error, and the script is not run again, before the same node has
confirmed it in answer to a command that no script has a part in.

What remains: a script that forges ASK or TRYAGAIN while its own slot is really on the move, with the true target, is
believed; no stranger is reached by it, but the script runs again. And what was true when it was said may be over when
we look (a node that has just finished loading): then the error is raised, with `maybe_executed`, though nothing ran.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from gvcluster.core.address import Address
from gvcluster.core.outcome import Ask, Moved, NotNow, Outcome
from gvcluster.core.topology import Node, Topology, UnusableMap, parse_nodes
from gvcluster.errors import ReplyError

_LOOK_AT_NODES = ("CLUSTER", "NODES")
_LOOK_AT_ROLE = ("ROLE",)
_LOOKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "TRYAGAIN": _LOOK_AT_NODES,
        "MIGRATING": _LOOK_AT_NODES,
        "LOADING": ("PING",),
        "CLUSTERDOWN": ("CLUSTER", "INFO"),
        "READONLY": _LOOK_AT_ROLE,
        "MASTERDOWN": _LOOK_AT_ROLE,
    }
)
# A node's line about itself, and in it an open slot: migrating to, or importing from, the node of this id.
_MYSELF = r"(?am)^(\S+) \S+ (?:\S+,)?myself(?:,\S+)? .*$"
_OPEN = r"(?a)\[(\d{1,5})-([<>])-([^\] ]+)\]"


def question(claim: Outcome) -> tuple[str, ...] | None:
    """The command whose answer, by the node that made the claim, tells whether it is true; None: nothing can."""
    if isinstance(claim, Moved | Ask):
        return _LOOK_AT_NODES
    return _LOOKS.get(_code(claim))


def is_confirmed(claim: Outcome, answer: object, slot: int | None, answered_by: Address) -> bool:
    """Judge a claim.

    Args:
        claim: What the script's error would mean if it were true.
        answer: The reply to `question(claim)`, or the error that came instead.
        slot: The slot of the script's keys; servers redirect no script without keys.
        answered_by: The node that was asked: the same that made the claim.
    """
    if isinstance(answer, ReplyError):
        # A node that loads its data runs no script, and refuses most questions; some say CLUSTERDOWN first.
        return answer.code == "LOADING" and isinstance(claim, NotNow)
    look = question(claim)
    if look == _LOOK_AT_NODES:
        return slot is not None and _is_on_the_move(claim, _text(answer), slot, answered_by)
    if look == _LOOK_AT_ROLE:
        return isinstance(answer, list) and answer[:1] in ([b"slave"], ["slave"])
    return look is not None and "cluster_state:fail" in _text(answer).split()


def _is_on_the_move(claim: Outcome, text: str, slot: int, answered_by: Address) -> bool:
    """Whether the node itself tells the same about the slot in CLUSTER NODES.

    A slot that was open when the script was refused may have moved for good until we look.
    """
    myself = re.search(_MYSELF, text)
    topology = _topology(text, answered_by)
    if myself is None or topology is None:
        return False
    owners = _new_owners(topology, slot, myself[1])
    opened = _opened(myself[0], slot)
    if not isinstance(claim, Moved | Ask):
        return bool(opened or owners)
    if isinstance(claim, Ask):
        owners |= {other for direction, other in opened if direction == ">"}
    return any(_is_at(node, claim.address) for node in topology.nodes if node.id in owners)


def _new_owners(topology: Topology, slot: int, me: str) -> set[str]:
    """The id of the slot's owner, unless it is me."""
    owner = topology.owner(slot)
    return set() if owner is None or owner.id == me else {owner.id}


def _opened(line: str, slot: int) -> list[tuple[str, str]]:
    """`>` and the id of the node that the slot is migrating to, or `<` and that of the one it is imported from."""
    return [(direction, other) for number, direction, other in re.findall(_OPEN, line) if int(number) == slot]


def _topology(text: str, answered_by: Address) -> Topology | None:
    try:
        return parse_nodes(text, answered_by)
    except UnusableMap:
        return None


def _is_at(node: Node, address: Address | None) -> bool:
    """Whether a redirect to this address means the node. None: it did not say where; a fresh map will."""
    return address in (None, node.address, Address(node.hostname or "", node.address.port))


def _code(claim: Outcome) -> str:
    return claim.error.code if isinstance(claim.error, ReplyError) else ""


def _text(answer: object) -> str:
    if isinstance(answer, bytes):
        return answer.decode("utf-8", "surrogateescape")
    return answer if isinstance(answer, str) else ""
