"""The servers of a run: clusters of real nodes and of scripted ones, started when a case needs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Self, cast

import gevent
from gevent import subprocess

from gvcluster import Cluster
from gvcluster.cli.bench.loads import PREFIX
from gvcluster.core.address import Address
from gvcluster.testing import ControlConnection, LocalCluster
from gvcluster.testing.errors import LocalClusterError

YOURS = "3 nodes"
_REAL = MappingProxyType({"3 nodes": 3, "12 nodes": 12})
# What `scripted` is started with: primaries, replicas of each, ranges.
_SCRIPTED = MappingProxyType(
    {"1000 scripted": (1000, 0, 1000), "500 ranges": (500, 1, 500), "16384 ranges": (3, 0, 16384)}
)
_SCRIPT = "from gvcluster.cli.bench.scripted import main; main()"
_START = 60.0


@dataclass(frozen=True)
class Site:
    """Where a case runs. nodes: `host:port` of each primary. counts: whether they can be asked for connections."""

    nodes: list[str]
    counts: bool

    def sweep(self) -> None:
        """Delete what a case has stored."""


class Local(Site):
    """Real servers that are ours alone."""

    def sweep(self) -> None:
        for node in self.nodes:
            with ControlConnection(_address(node)) as control:
                control.call("FLUSHALL")


class Yours(Site):
    """The user's cluster: only the benchmark's own keys are touched."""

    def sweep(self) -> None:
        with Cluster(",".join(self.nodes)) as cluster:
            keys = list(cluster.scan_iter(match=f"{PREFIX}*"))
            for start in range(0, len(keys), 1000):
                cluster.delete(*keys[start : start + 1000])


class Sites:
    """At most one at a time: what is idle costs something, too. Use it in a `with`."""

    def __init__(self, server: str, seeds: str | None) -> None:
        self._server, self._seeds = server, seeds
        self._name = ""
        self._site: Site | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def has(self, name: str) -> bool:
        """Whether there is such a site: on somebody's cluster only what needs no other one."""
        return self._seeds is None or name == YOURS or name not in _REAL

    def need(self, name: str) -> Site:
        """Start it, if it is not the one that runs.

        Raises:
            LocalClusterError: It did not start.
            GvClusterError: The user's cluster is not to be had.
        """
        if self._site is None or name != self._name:
            self._open.close()
            self._site, self._name = None, name
            self._site = self._start(name)
        return self._site

    def _start(self, name: str) -> Site:
        if name == "none":
            return Site([], False)
        if name in _SCRIPTED:
            return Site(self._open.enter_context(_scripted(_SCRIPTED[name])), False)
        if self._seeds is not None:
            site: Site = Yours(_primaries(self._seeds), True)
            self._open.callback(site.sweep)
            return site
        cluster = self._open.enter_context(LocalCluster(self._server, primaries=_REAL[name], replicas=0))
        return Local([str(node.address) for node in cluster.primaries()], True)


@contextmanager
def _scripted(shape: Sequence[int]) -> Iterator[list[str]]:
    """Scripted nodes in a process of their own, which ends when its input does."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _SCRIPT, *map(str, shape)]
    process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        with gevent.Timeout(_START, LocalClusterError(f"scripted nodes did not start within {_START:g} s")):
            line = process.stdout.readline()
        if not line:
            raise LocalClusterError("scripted nodes did not start: they need a file descriptor each (ulimit -n)")
        yield cast("list[str]", line.split())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _primaries(seeds: str) -> list[str]:
    with Cluster(seeds) as cluster:
        cluster.refresh()
        return [str(node.address) for node in cluster.primaries()]


def _address(node: str) -> Address:
    host, _, port = node.rpartition(":")
    return Address(host, int(port))
