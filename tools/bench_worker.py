#!/usr/bin/env python3
"""One client's turn in the benchmark, in a process of its own: what a peer patches, it patches for nobody else.

`tools/bench.py` starts it. It prints one line of JSON, the fields of `Measured`.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from itertools import cycle
from time import perf_counter
from typing import Any

import gevent
import gevent.monkey

VALUE_SIZE = 64
# Keys of each greenlet: enough that one greenlet alone speaks with every node.
KEYS = 16
# How long the greenlets may take to end, seconds.
ENDING = 10.0

Address = tuple[str, int]


@dataclass(frozen=True)
class Measured:
    """What one turn has shown.

    how: the client's version, and how it was set up. commands: answered within `seconds`; `cpu` seconds were used.
    connections: of each node, at the end. failed: how many greenlets ended early; `error` is the first one's.
    """

    how: str
    commands: int
    seconds: float
    cpu: float
    connections: list[int]
    failed: int
    error: str

    @property
    def rate(self) -> float:
        """Commands per second."""
        return self.commands / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of CPU time per command, in the client's process."""
        return self.cpu / max(1, self.commands) * 1e6


@dataclass(frozen=True)
class Client:
    """One way to store and to fetch; both return when the reply is in.

    pipeline: makes what collects commands; `append` adds one to it, and its `execute()` returns the replies.
    """

    how: str
    store: Callable[[str, bytes], Any]
    fetch: Callable[[str], Any]
    pipeline: Callable[[], Any]
    append: Callable[..., Any]


def open_client(name: str, nodes: list[Address]) -> Client:
    """Open the client of this name: `redis-py@2000` is redis-py with `max_connections=2000`."""
    kind, _, most = name.partition("@")
    if kind != "gvcluster":
        gevent.monkey.patch_all()
    if kind.startswith("gvcluster"):
        return _gvcluster("patched" if kind.endswith("-patched") else "not patched", nodes)
    options = {"max_connections": int(most)} if most else {}
    return _peer(kind.removesuffix("-py"), nodes, options)


def _gvcluster(how: str, nodes: list[Address]) -> Client:
    gvcluster = import_module("gvcluster")
    cluster = gvcluster.connect(nodes)
    how = f"gvcluster {gvcluster.__version__}, {how}"
    store, fetch = partial(cluster.execute, "SET"), partial(cluster.execute, "GET")
    return Client(how, store, fetch, cluster.pipeline, gvcluster.Pipeline.append)


def _peer(package: str, nodes: list[Address], options: dict[str, int]) -> Client:
    """redis-py and valkey-py have the same names in them but for their own."""
    module, utils = import_module(f"{package}.cluster"), import_module(f"{package}.utils")
    parser = {"redis": "hiredis", "valkey": "libvalkey"}[package]
    parsed_by = parser if getattr(utils, f"{parser.upper()}_AVAILABLE") else f"pure Python, {parser} is not installed"
    seeds = [module.ClusterNode(host, port) for host, port in nodes]
    client = getattr(module, f"{package.capitalize()}Cluster")(startup_nodes=seeds, **options)
    chosen = [f"{name}={value}" for name, value in options.items()] or ["default options"]
    how = ", ".join([f"{package}-py {version(package)}", "patched", f"parser: {parsed_by}", *chosen])
    append = module.ClusterPipeline.execute_command
    return Client(how, client.set, client.get, client.pipeline, append)


class Turn:
    """Greenlets that store and fetch until they are stopped, or fail; so many commands at once if `pipeline`."""

    def __init__(self, client: Client, greenlets: int, pipeline: int) -> None:
        self._client = client
        self._stopped = False
        self._pairs = [0] * greenlets
        self._errors: list[str] = []
        work = partial(self._work_in_pipelines, pipeline // 2) if pipeline else self._work
        self._greenlets = [gevent.spawn(work, number) for number in range(greenlets)]

    def measure(self, warmup: float, seconds: float) -> tuple[int, float, float]:
        """Let them work. Returns commands, seconds and CPU seconds, those of the warm-up not counted."""
        gevent.sleep(warmup)
        pairs, cpu, began = sum(self._pairs), _cpu(), perf_counter()
        gevent.sleep(seconds)
        pairs, cpu, took = sum(self._pairs) - pairs, _cpu() - cpu, perf_counter() - began
        return 2 * pairs, took, cpu

    def end(self) -> list[str]:
        """Stop them all. Returns the errors with which some had ended."""
        self._stopped = True
        late = len(self._greenlets) - len(gevent.joinall(self._greenlets, timeout=ENDING))
        return self._errors + [f"not ended {ENDING:g} s after the end"] * late

    def _work(self, number: int) -> None:
        store, fetch, pairs = self._client.store, self._client.fetch, self._pairs
        names = [f"bench:{number}:{key}" for key in range(KEYS)]
        try:
            for key, value in cycle([(name, name.ljust(VALUE_SIZE, ".").encode()) for name in names]):
                store(key, value)
                if fetch(key) != value:
                    raise ValueError("a wrong reply")
                pairs[number] += 1
                if self._stopped:
                    return
        except Exception as error:
            self._errors.append(f"{type(error).__name__}: {error}")

    def _work_in_pipelines(self, size: int, number: int) -> None:
        append, pairs = self._client.append, self._pairs
        names = [f"bench:{number}:{key}" for key in range(size)]
        values = [name.ljust(VALUE_SIZE, ".").encode() for name in names]
        try:
            while not self._stopped:
                pipeline = self._client.pipeline()
                for key, value in zip(names, values, strict=True):
                    append(pipeline, "SET", key, value)
                    append(pipeline, "GET", key)
                if pipeline.execute()[1::2] != values:
                    raise ValueError("a wrong reply")
                pairs[number] += size
        except Exception as error:
            self._errors.append(f"{type(error).__name__}: {error}")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _count_connections(node: Address) -> int:
    """Ask the node how many clients it has, but for the one who asks. Imported late, so that it slows no peer."""
    from gvcluster.core.address import Address as NodeAddress
    from gvcluster.testing import ControlConnection

    with ControlConnection(NodeAddress(*node)) as control:
        lines = bytes(control.call("INFO", "clients")).decode().split()
    return int(dict(line.split(":") for line in lines if ":" in line)["connected_clients"]) - 1


def _allow_many_sockets() -> None:
    """A peer has one connection for each greenlet and node."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: list[str]) -> int:
    name, seeds, greenlets, warmup, seconds, pipeline = arguments
    nodes = [(host, int(port)) for host, _, port in (seed.rpartition(":") for seed in seeds.split(","))]
    _allow_many_sockets()
    client = open_client(name, nodes)
    turn = Turn(client, int(greenlets), int(pipeline))
    commands, took, cpu = turn.measure(float(warmup), float(seconds))
    connections = [_count_connections(node) for node in nodes]
    errors = turn.end()
    measured = Measured(client.how, commands, took, cpu, connections, len(errors), errors[0] if errors else "")
    print(json.dumps(asdict(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
