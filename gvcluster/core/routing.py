"""Read policy + one shard of a slot map → which nodes may serve a read, in which order, and which of them does now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Protocol, TypeVar

from gvcluster.core.address import Address
from gvcluster.core.commands import Command
from gvcluster.core.members import Node
from gvcluster.core.topology import Topology
from gvcluster.errors import ConfigError
from gvcluster.records import Record

# Only reads, and still for the primary: what TOUCH touches counts only there, and a cursor means something only to the
# node that gave it, for each server process has a hash seed of its own.
_FOR_THE_PRIMARY = frozenset(("TOUCH", "SCAN", "HSCAN", "SSCAN", "ZSCAN", "CLUSTERSCAN"))

_NAMES = ("primary", "prefer_replica", "replica", "any")


class ReadPolicy(Record):
    """Who serves reads: "prefer_replica", "replica", "any", or "az" with the zone."""

    name: str
    zone: str | None = None

    @property
    def never_primary(self) -> bool:
        """Whether a read rather fails than burdens the primary."""
        return self.name == "replica"


def read_policy(value: object, option: str = "read_from") -> ReadPolicy | None:
    """Read the option `read_from`. None is "primary". Raises ConfigError."""
    if isinstance(value, str):
        if value in _NAMES:
            return ReadPolicy(value) if value != "primary" else None
        kind, _, zone = value.partition(":")
        if kind == "az" and zone and zone.isprintable():
            return ReadPolicy("az", zone)
    raise ConfigError(f'{option} must be {", ".join(map(repr, _NAMES))} or "az:" and a zone\'s name, not {value!r}')


def may_leave_primary(command: Command | None) -> bool:
    """Whether the command can be served by a replica as well. One that may block is for the primary, too."""
    return command is not None and command.read_only and not command.blocking and command.name not in _FOR_THE_PRIMARY


def preference(policy: ReadPolicy, primary: Node, replicas: Sequence[Node]) -> tuple[tuple[Node, ...], ...]:
    """The nodes of a shard that may serve a read, the best first; those of one tuple are as good as each other.

    A zone is for what traffic between zones costs: of its nodes the replicas come first, then the primary, and only
    then the replicas elsewhere (valkey-glide: AZ_AFFINITY_REPLICAS_AND_PRIMARY).
    """
    others = tuple(replicas)
    if policy.name == "any":
        return ((primary, *others),)
    if policy.never_primary:
        return _filled(others)
    near = tuple(each for each in others if policy.zone is not None and each.availability_zone == policy.zone)
    far = tuple(each for each in others if each not in near)
    if policy.zone is not None and primary.availability_zone == policy.zone:
        return _filled(near, (primary,), far)
    return _filled(near, far, (primary,))


def readers_of(
    policy: ReadPolicy | None, command: Command, primary: Node | None, topology: Topology | None
) -> tuple[Node, ...]:
    """The nodes that may serve the command instead of only the primary, the best first; none if it is the primary's."""
    if policy is None or primary is None or topology is None or not may_leave_primary(command):
        return ()
    return tuple(chain.from_iterable(preference(policy, primary, topology.replicas_of(primary))))


def _filled(*tiers: tuple[Node, ...]) -> tuple[tuple[Node, ...], ...]:
    return tuple(tier for tier in tiers if tier)


class Candidate(Protocol):
    """What `choose` must know of a node."""

    @property
    def address(self) -> Address:
        """Where it is."""

    @property
    def failures(self) -> int:
        """How often in a row it has failed; 0: it is well."""

    def is_late(self) -> bool:
        """Whether it owes a reply for longer than others would take."""


_C = TypeVar("_C", bound=Candidate)


def choose(tiers: Sequence[Sequence[_C]], turn: int, avoided: Collection[Address]) -> _C | None:
    """Choose who serves a read.

    Args:
        tiers: The candidates, the best first.
        turn: A number that grows with each choice: within a tier each candidate has its turn.
        avoided: Who has failed this call already.

    Returns:
        The first that is well and not late, else the first that is well, else the one that has failed least; None if
        all are avoided.
    """
    willing = [each for each in _in_turn(tiers, turn) if each.address not in avoided]
    for candidate in willing:
        if not candidate.failures and not candidate.is_late():
            return candidate
    return min(willing, key=lambda candidate: candidate.failures, default=None)


def _in_turn(tiers: Sequence[Sequence[_C]], turn: int) -> Iterator[_C]:
    for tier in tiers:
        first = turn % len(tier)
        yield from tier[first:]
        yield from tier[:first]


# Seconds for which a node that has failed is left alone, before it is asked how it is: long enough that one which loads
# its data or has lost its primary costs next to nothing, short enough that one which is back has work again soon.
SHORTEST_REST = 0.25
LONGEST_REST = 4.0


def rest(failures: int, jitter: float) -> float:
    """Seconds for which to leave a node alone after so many failures in a row: doubling, spread over the upper half."""
    return float(min(LONGEST_REST, SHORTEST_REST * 2 ** min(failures, 10)) * (0.5 + jitter / 2))
