"""What nodes have answered → Facts: each node in its own words. Nothing here asks, judges or prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from typing import Any

from gvcluster.cli.inspect.survey import Answers, Question
from gvcluster.core.address import Address, is_valid_host
from gvcluster.core.looks import Look, parse_look
from gvcluster.core.members import UnusableMap, lines_of
from gvcluster.core.topology import Node, Topology, parse_slots
from gvcluster.errors import GvClusterError, ReplyError

SLOTS, NODES, MYID = ("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"), ("CLUSTER", "MYID")
STATE, INFO = ("CLUSTER", "INFO"), ("INFO",)
SETTINGS, IDLE = ("CONFIG", "GET", "cluster-*"), ("CONFIG", "GET", "timeout")
QUESTIONS: tuple[Question, ...] = (MYID, SLOTS, NODES, STATE, INFO, SETTINGS, IDLE)

_VERSIONS = (("valkey_version", "valkey"), ("garnet_version", "garnet"), ("redis_version", "redis"))


@dataclass(frozen=True, slots=True)
class Facts:
    """One node in its own words.

    trouble: why it could not be talked to; then nothing else is known. topology: its slot map, or map_trouble: why it
    has none. look: what CLUSTER NODES says. flags: what it holds against others, by their id: fail, fail?,
    disconnected. written: where each node is, as CLUSTER NODES writes it, by its id. nowhere: nodes of its map without
    a usable endpoint, as it writes them. state, info, settings: CLUSTER INFO, INFO and CONFIG GET; empty where it does
    not tell. opening, pings: seconds.
    """

    address: Address
    trouble: GvClusterError | None = None
    id: str = ""
    topology: Topology | None = None
    map_trouble: str = ""
    look: Look | None = None
    flags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    nowhere: tuple[str, ...] = ()
    state: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    opening: float | None = None
    pings: tuple[float, ...] = ()

    @property
    def version(self) -> str:
        """Such as `valkey 9.1.2`, or `""`."""
        return version_of(self.info)

    @property
    def ping(self) -> float | None:
        """The median of its PINGs, in seconds."""
        return median(self.pings) if self.pings else None


def facts_of(answers: Answers) -> Facts:
    """Read what a node has answered. What makes no sense is left out."""
    if answers.trouble is not None:
        return Facts(answers.address, answers.trouble)
    replies = answers.replies
    topology, map_trouble = _map(replies.get(SLOTS), answers.address)
    settings = {**pairs_of(replies.get(SETTINGS)), **pairs_of(replies.get(IDLE))}
    return Facts(
        answers.address,
        id=_text(replies.get(MYID)),
        topology=topology,
        map_trouble=map_trouble,
        look=_look(replies.get(NODES), replies.get(INFO), answers.address),
        flags=_flags(replies.get(NODES)),
        written=_written(replies.get(NODES)),
        nowhere=tuple(dict.fromkeys(_nowhere(replies.get(SLOTS)))),
        state=sections_of(replies.get(STATE)),
        info=sections_of(replies.get(INFO)),
        settings=settings,
        opening=answers.opening,
        pings=answers.pings,
    )


def version_of(info: Mapping[str, str]) -> str:
    """The server's name and version, from INFO; `""` if it does not tell."""
    return next((f"{name} {info[field]}" for field, name in _VERSIONS if info.get(field)), "")


def sections_of(reply: object) -> dict[str, str]:
    """The lines `name:value` of INFO and CLUSTER INFO."""
    lines = (line.partition(":") for line in _text(reply).splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in lines}


def pairs_of(reply: Any) -> dict[str, str]:
    """What CONFIG GET answers: a map in RESP3, a flat list in RESP2."""
    if isinstance(reply, (list, tuple)):
        reply = dict(zip(reply[::2], reply[1::2], strict=False))
    return {_text(name): _text(value) for name, value in reply.items()} if isinstance(reply, dict) else {}


def ranges_of(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring slots: first and last. The slots come in order."""
    runs: list[tuple[int, int]] = []
    for slot in slots:
        if runs and runs[-1][1] == slot - 1:
            runs[-1] = (runs[-1][0], slot)
        else:
            runs.append((slot, slot))
    return runs


def write_ranges(slots: Iterable[int], most: int = 0) -> str:
    """`0-99, 105`, and how many more ranges there are than `most`, if that is not 0."""
    runs = ranges_of(slots)
    shown = runs[:most] if most else runs
    text = ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in shown)
    return f"{text} and {len(runs) - len(shown)} more ranges" if len(shown) < len(runs) else text


def _map(reply: object, address: Address) -> tuple[Topology | None, str]:
    if isinstance(reply, ReplyError):
        return None, str(reply)
    try:
        return parse_slots(reply, address), ""
    except UnusableMap as error:
        return None, str(error)


def _look(nodes: object, info: object, address: Address) -> Look | None:
    try:
        return parse_look(nodes, info, address)
    except UnusableMap:
        return None


def _flags(reply: object) -> dict[str, frozenset[str]]:
    try:
        lines = lines_of(reply)
    except UnusableMap:
        return {}
    found: dict[str, frozenset[str]] = {}
    for line in lines:
        if len(line) >= 8 and "myself" not in line[2]:
            told = {*line[2].split(","), line[7]} & {"fail", "fail?", "noaddr", "handshake", "disconnected"}
            found |= {line[0]: frozenset(told)} if told else {}
    return found


def _written(reply: object) -> dict[str, str]:
    try:
        return {line[0]: line[1].partition("@")[0] for line in lines_of(reply) if len(line) >= 8}
    except UnusableMap:
        return {}


def _nowhere(reply: object) -> Iterator[str]:
    """The nodes of CLUSTER SLOTS that no client can connect to."""
    entries = reply if isinstance(reply, list) else []
    for told in chain.from_iterable(entry[2:] for entry in entries if isinstance(entry, list)):
        if isinstance(told, list) and told[1:] and not _is_somewhere(told):
            yield f"{_text(told[0]) or '(none)'}:{told[1]}"


def _is_somewhere(told: list[Any]) -> bool:
    host, metadata = _text(told[0]), told[3] if len(told) > 3 else {}
    if host == "?":
        host = pairs_of(metadata).get("ip", "?")
    return (host == "" or is_valid_host(host)) and type(told[1]) is int and 0 < told[1] <= 65535


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def nodes_of(every: Iterable[Facts]) -> dict[Address, Node]:
    """All nodes that any slot map names, by their address. Where maps differ, the first counts."""
    named: dict[Address, Node] = {}
    for facts in every:
        for node in facts.topology.nodes if facts.topology is not None else ():
            named.setdefault(node.address, node)
    return named
