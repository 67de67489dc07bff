"""Connections, open files, greenlets and memory: whether they come back to where they were. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gvcluster.cli.soak.history import in_short


@dataclass(frozen=True)
class Sample:
    """What one process had at one moment.

    at: seconds since the beginning. files, greenlets: how many are open, or alive. rss: bytes.
    connections: that the clients say they have. clients: that the servers say they have. proxied: that the proxies in
    this process carry, with two sockets and two greenlets for each; one whose client has gone may outlive it a little.
    """

    at: float
    files: int
    greenlets: int
    rss: int
    connections: int
    clients: int
    proxied: int = 0

    @property
    def other_files(self) -> int:
        """Open files that are no connections."""
        return self.files - self.connections - 2 * self.proxied

    @property
    def other_greenlets(self) -> int:
        """Greenlets that serve no proxied connection."""
        return self.greenlets - 2 * self.proxied


def leak_problems(before: Sample, after: Sample) -> list[str]:
    """Compare two quiet moments, each with the connections that the clients say they have then. (C8)

    Returns:
        What has come to stay, in words: an open file that is no connection, a greenlet, a connection that only one
        side knows.
    """
    found = []
    if after.other_files > before.other_files:
        found.append(f"{after.other_files - before.other_files} files more are open that are no connections")
    if after.other_greenlets > before.other_greenlets:
        found.append(f"{after.other_greenlets - before.other_greenlets} greenlets more live")
    if after.clients != after.connections:
        found.append(f"the servers have {after.clients} clients, where the client has {after.connections} connections")
    return found


@dataclass(frozen=True)
class Rest:
    """What a client says of one node at a moment when nobody calls. `lanes`: the most that calls share there."""

    connections: int
    idle: int
    used: int
    in_flight: int
    waiting: int
    lanes: int = 2  # one for ordinary calls, and one for large ones


def rest_problems(nodes: Iterable[Rest]) -> list[str]:
    """Check that nothing is lent, owed or waited for, and that idle connections and lanes are all there is. (C8)"""
    return in_short(
        f"of {each.connections} connections {each.idle} are idle and {each.used} lent, with {each.in_flight} calls in"
        f" flight and {each.waiting} that wait, while nobody calls"
        for each in nodes
        if each.used or each.in_flight or each.waiting or not 0 <= each.connections - each.idle <= each.lanes
    )


def slope(samples: Sequence[Sample]) -> float:
    """How many bytes an hour the memory grows, by least squares over the samples; 0.0 if there are too few."""
    if len(samples) < 3:
        return 0.0
    at = sum(sample.at for sample in samples) / len(samples)
    rss = sum(sample.rss for sample in samples) / len(samples)
    over = sum((sample.at - at) * (sample.rss - rss) for sample in samples)
    under = sum((sample.at - at) ** 2 for sample in samples)
    return 3600 * over / under if under else 0.0
