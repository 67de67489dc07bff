"""Who is who in a slot map: an entry of CLUSTER SLOTS or a line of CLUSTER NODES → Node, None if it makes no sense."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal

from gvcluster.core.address import Address, is_valid_host, parse_redirect_target
from gvcluster.core.slots import SLOTS
from gvcluster.core.steps import Steps, at_once
from gvcluster.records import Record

# The servers recommend at most 1,000 nodes (cluster specification, "Main goals"); four times that is a broken reply.
MAX_NODES = 4096
# CLUSTER NODES of 4,096 nodes and all slots alone has 1 MB. Reading 100 MB held the hub for half a second.
MAX_TEXT = 4 * 2**20
# Nodes between two steps, each of which takes 10 µs. All bits set: `not number & _NODES`.
_NODES = 63

Role = Literal["primary", "replica"]


class UnusableMap(ValueError):
    """Internal: the reply gives no slot map. The refresher asks another node; the text says what was wrong."""


class Node(Record):
    """A member of the cluster, as one slot map shows it.

    Attributes:
        id: The node's 40 hexadecimal digits, or `""` where the server names none.
        address: Where clients connect to.
        role: `"primary"` or `"replica"`.
        shard: The id of the shard's primary, or its address as text where the server names no ids.
        availability_zone: What the server announces, else None. CLUSTER NODES never tells it.
        hostname: The name that the server announces *beside* the address, else None. Never connected to.
    """

    id: str
    address: Address
    role: Role
    shard: str
    availability_zone: str | None = None
    hostname: str | None = None

    def __str__(self) -> str:
        return str(self.address)

    def __repr__(self) -> str:
        told = (str(self.address), self.role, self.id[:8], self.availability_zone)
        return f"<Node {' '.join(part for part in told if part)}>"


class Members:
    """The nodes of a CLUSTER SLOTS reply. Each is read once: in 16384 one-slot ranges one comes 5,000 times."""

    def __init__(self, answered_by: Address) -> None:
        self._answered_by = answered_by
        self._read_before: dict[tuple[Any, ...], Node] = {}
        self._nodes: dict[str, Node] = {}
        self._replicas: dict[tuple[Any, ...], tuple[Any, str]] = {}  # what was told of each, and its shard
        self._others: list[tuple[Any, str]] = []  # what makes no key: `_add` judges

    def nodes(self) -> list[Node]:
        """All that could be used, in the order of the reply."""
        return list(self._nodes.values())

    def primary(self, told: Any) -> Node | None:
        """The node that a range names first, or None when it can not be used."""
        try:
            return self._read_before[tuple(told[:3])]
        except (TypeError, KeyError):  # unknown, or no list, or not hashable: `_add` judges
            return self._add(told, "primary", "")

    def note_replicas(self, told: Iterable[Any], shard: str) -> None:
        """Remember the nodes that a range names after its primary, until all primaries are known."""
        for one in told:
            try:
                self._replicas.setdefault(tuple(one[:3]), (one, shard))
            except (TypeError, KeyError):  # no list, or not hashable
                self._others.append((one, shard))

    def add_replicas(self) -> Steps[None]:
        """Take up those that were noted, but for those that are known or can not be used."""
        new = (noted for key, noted in self._replicas.items() if key not in self._read_before)
        for number, (one, shard) in enumerate(chain(new, self._others)):
            self._add(one, "replica", shard)
            if not number & _NODES:
                yield

    def _add(self, told: Any, role: Role, shard: str) -> Node | None:
        node = self._read(told, role, shard)
        if node is None:
            return None
        # One id at two addresses is one node: the first.
        node = self._nodes.setdefault(node.id or str(node.address), node)
        if len(self._nodes) > MAX_NODES:
            raise UnusableMap(f"CLUSTER SLOTS named more than {MAX_NODES} nodes")
        self._read_before[tuple(told[:3])] = node
        return node

    def _read(self, told: Any, role: Role, shard: str) -> Node | None:
        if not isinstance(told, (list, tuple)) or len(told) < 2:
            return None
        host, port, identity, metadata = (*told, None, None)[:4]
        known = _metadata(metadata)
        identity = _text(identity)
        address = self._address(host, port, known)
        if address is None or identity is None:
            return None
        shard = shard or identity or str(address)
        return Node(identity, address, role, shard, known.get("availability-zone"), known.get("hostname"))

    def _address(self, host: Any, port: Any, metadata: Mapping[str, str]) -> Address | None:
        text = _text(host)
        if text == "?":
            text = metadata.get("ip")
        elif text == "":
            text = self._answered_by.host
        if text is None or not is_valid_host(text):
            return None
        return Address(text, port) if type(port) is int and 1 <= port <= 65535 else None


def _metadata(told: Any) -> dict[str, str]:
    """The fourth element of a node: a map in RESP3, a flat list in RESP2 (and always in Garnet)."""
    if isinstance(told, (list, tuple)):
        told = dict(zip(map(_text, told[::2]), told[1::2], strict=False))
    if not isinstance(told, dict):
        return {}
    read = ((_text(name), _text(value)) for name, value in told.items())
    return {name: value for name, value in read if name and value}


def _text(value: Any) -> str | None:
    """Printable text, `""` for NULL, or None when it is neither."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    elif value is None:
        return ""
    # 253 characters is the longest hostname; everything else in a map is shorter.
    return value if isinstance(value, str) and len(value) <= 253 and value.isprintable() else None


Member = tuple[Node, int, list[str]]  # a node, its configuration epoch and its slots


def members_of(lines: Iterable[list[str]], answered_by: Address) -> list[Member]:
    """The nodes of a CLUSTER NODES reply.

    A line is: id, address, flags, id of its primary or `-`, ping, pong, configuration epoch, link state, slots ….
    """
    return at_once(read_members(lines, answered_by))


def read_members(lines: Iterable[list[str]], answered_by: Address) -> Steps[list[Member]]:
    """The same in steps."""
    told = list(filter(_is_member, lines))
    parents = {line[0]: line[3] for line in told if "slave" in line[2] and line[3] != "-"}
    members: dict[str, Member] = {}
    for number, line in enumerate(told):
        node, epoch = _node_of_line(line, parents, answered_by), number_of(line[6], 20)
        if node is not None and epoch is not None:
            members.setdefault(node.id, (node, epoch, line[8:]))
        if not number & _NODES:
            yield
    return list(members.values())


def _is_member(line: list[str]) -> bool:
    return len(line) >= 8 and "".join(line[:4]).isprintable()


def _node_of_line(line: list[str], parents: Mapping[str, str], answered_by: Address) -> Node | None:
    # ip:port@bus-port,hostname,name=value…; without the bus port before Redis 4, without the rest before Redis 7.
    endpoint, hostname = (*line[1].split(","), "")[:2]
    role = _role(line[2].split(","), line[8:])
    if role is None:
        return None
    try:
        address = parse_redirect_target(endpoint.partition("@")[0], answered_by)
    except ValueError:
        return None
    # After a failover some replicas still follow the old primary, a replica itself by now. The bound ends circles.
    shard = line[0]
    for _ in range(8):
        shard = parents.get(shard, shard)
    return address and Node(line[0], address, role, shard, None, hostname or None)


def _role(flags: list[str], slots: list[str]) -> Role | None:
    """The role that the flags tell, or None for a node that is not to be used."""
    if not {"handshake", "noaddr"}.isdisjoint(flags):
        return None
    if "master" in flags:
        return "primary" if slots or "fail" not in flags else None
    return "replica" if "slave" in flags and "fail" not in flags else None


def lines_of(reply: object) -> list[list[str]]:
    """The lines of CLUSTER NODES, each split at its blanks."""
    if isinstance(reply, bytes | str) and len(reply) > MAX_TEXT:
        raise UnusableMap(f"CLUSTER NODES was answered with {len(reply):,} bytes: more than {MAX_TEXT:,}")
    text = reply.decode("utf-8", "surrogateescape") if isinstance(reply, bytes) else reply
    if not isinstance(text, str):
        raise UnusableMap(f"CLUSTER NODES was answered with {kind_of(reply)}, not with text")
    lines = text.splitlines()
    if len(lines) > MAX_NODES:
        raise UnusableMap(f"CLUSTER NODES named {len(lines)} nodes: more than {MAX_NODES}")
    return [line.split() for line in lines]


def spans_of(ranges: Iterable[str]) -> Iterator[tuple[int, int]]:
    """`7` and `7-9`, but neither `[7->-id]` and `[7-<-id]` nor what makes no sense."""
    for told in ranges:
        first, dash, last = told.partition("-")
        start = number_of(first, 5)
        end = number_of(last, 5) if dash else start
        if start is not None and end is not None and start <= end < SLOTS:
            yield start, end


def number_of(text: str, digits: int) -> int | None:
    """The number that `text` writes with at most so many ASCII digits, or None."""
    return int(text) if len(text) <= digits and text.isascii() and text.isdigit() else None


def kind_of(reply: object) -> str:
    """What came instead: the text of an error, else the type."""
    return repr(str(reply)[:200]) if isinstance(reply, Exception) else type(reply).__name__
