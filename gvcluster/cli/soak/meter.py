"""What this process and the servers have, second by second: the series of the plots, and samples at quiet moments."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, process_time
from typing import TypedDict

import gevent

from gvcluster.cli.soak.desk import Desk
from gvcluster.cli.soak.history import Fate
from gvcluster.cli.soak.resources import Rest, Sample, leak_problems, rest_problems
from gvcluster.cli.soak.scene import Scene
from gvcluster.cli.tally import Latencies
from gvcluster.errors import NodeError, ReplyError

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Seconds between two looks whether the hub is late.
_PULSE = 0.02
# How often, and how many seconds apart, a leak must be seen to be one.
_LOOKS, _BETWEEN = 12, 0.5


class Second(TypedDict):
    """One point of the series; times in seconds, latencies in milliseconds, memory in MiB."""

    at: float
    commands: int
    p50: float
    p99: float
    longest: float
    errors: dict[str, int]
    rss: float
    files: int
    connections: int
    cpu: float


class Meter:
    """Reads a soak again and again.

    Attributes:
        series: A point for each second.
        samples: One for each quiet moment.
    """

    def __init__(self, scene: Scene, desk: Desk) -> None:
        self.series: list[Second] = []
        self.samples: list[Sample] = []
        self.began = monotonic()
        self._scene, self._desk = scene, desk
        self._told: Counter[str] = Counter()
        self._commands, self._cpu, self._at = 0, process_time(), self.began
        self._book = desk.book

    def __repr__(self) -> str:
        return f"<Meter {len(self.series)} seconds>"

    def run(self) -> None:
        """Write down a point each second, until killed.

        Blocks: for ever.
        """
        while True:
            self._desk.rest(1.0)
            self.series.append(self.read())

    def pulse(self) -> None:
        """Write down how late the hub is, until killed.

        Blocks: for ever.
        """
        while True:
            began = monotonic()
            self._desk.rest(_PULSE)
            late = monotonic() - began - _PULSE
            self._desk.book.stall = max(self._desk.book.stall, late)

    def read(self) -> Second:
        """What was since the last time."""
        book, now, cpu = self._desk.book, monotonic(), process_time()
        if book is not self._book:
            self._book, self._commands, self._told = book, 0, Counter()
        latencies, book.second = book.second, Latencies()
        told = Counter(
            {
                f"{name}, {'in doubt' if fate is Fate.DOUBTFUL else fate.value}": times
                for (name, fate), times in book.errors.items()
            }
        )
        commands, self._commands = book.commands - self._commands, book.commands
        errors, self._told = told - self._told, told
        busy, self._cpu, self._at = (cpu - self._cpu) / (now - self._at), cpu, now
        return Second(
            at=round(now - self.began, 2),
            commands=commands,
            p50=round(latencies.percentile(50) * 1000, 2),
            p99=round(latencies.percentile(99) * 1000, 2),
            longest=round(latencies.percentile(100) * 1000, 2),
            errors=dict(errors),
            rss=round(rss() / 2**20, 1),
            files=open_files(),
            connections=self.connections(),
            cpu=round(busy, 3),
        )

    def connections(self, line: str = "") -> int:
        """How many the clients, or one of them, say they have."""
        every = [each.cluster.statistics() for each in self._scene.lines if line in ("", each.name)]
        return sum(node.connections for statistics in every for node in statistics.nodes)

    def leaks(self) -> dict[str, list[str]]:
        """Look at everything, and compare it with the first time; only when nobody is at work, for it takes a while.

        Returns:
            What has come to stay (C8), and what is not at rest in the pools, in words. What is about to end gets some
            seconds.

        Blocks: until the servers have answered; longer if there is something.
        """
        problems: dict[str, list[str]] = {}
        for _ in range(_LOOKS):
            sample = self._sample()
            leaked = leak_problems(self.samples[0], sample) if self.samples else []
            problems = {"C8": leaked, "pools": rest_problems(self._at_rest())}
            if not any(problems.values()):
                break
            gevent.sleep(_BETWEEN)
        self.samples.append(sample)
        return problems

    def _at_rest(self) -> Iterator[Rest]:
        for line in self._scene.lines:
            for node in line.cluster.statistics().nodes:
                idle, used, pending = (
                    getattr(node.exclusive, name) + getattr(node.blocking, name)
                    for name in ("idle", "used", "pending_requests")
                )
                yield Rest(node.connections, idle, used, node.in_flight, node.waiting + pending)

    def _sample(self) -> Sample:
        gc.collect()
        # Not those of gevent's threads, which resolve names and end when they are not needed: up to 20 come and go.
        greenlets = sum(isinstance(each, gevent.Greenlet) and not each.dead for each in gc.get_objects())
        clients = sum(self._clients_of(node) for node in self._scene.servers.live_nodes())
        return Sample(
            at=round(monotonic() - self.began, 2),
            files=open_files(),
            greenlets=greenlets,
            rss=rss(),
            connections=self.connections(),
            proxied=sum(proxy.connections.open for proxy in self._scene.proxies.values()),
            clients=clients,
        )

    def _clients_of(self, node: object) -> int:
        try:
            listed: bytes = node.command("CLIENT", "LIST", "TYPE", "normal")  # type: ignore[attr-defined]
        except (NodeError, ReplyError):
            return 0
        return sum(b" name=soak-" in line for line in listed.splitlines())


def rss() -> int:
    """The memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def open_files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))
