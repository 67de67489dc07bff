"""The clients that work under gevent, and the greenlets that drive them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from time import perf_counter
from typing import Any

import gevent

from gvcluster.cli.bench.clients import BARE, GVCLUSTER, PATCHED
from gvcluster.cli.bench.loads import Command, Load, Operations, Tally, WrongReply
from gvcluster.core.address import Address

_Ways = dict[str, tuple[Callable[[dict[str, bytes]], Any], Callable[[list[str]], Any]]]


def open_client(name: str, nodes: list[Address]) -> Operations:
    """Open a client of `clients.CLIENTS` that works under gevent."""
    if name in (GVCLUSTER, PATCHED):
        return Ours(nodes, "patched" if name == PATCHED else "not patched")
    if name == "valkey-glide-sync":
        return Glide(nodes)
    if name == BARE:
        from gvcluster.cli.bench.bare import Bare

        return Bare(nodes)
    return Peer(name.removesuffix("-py"), nodes)


class Ours:
    """gvcluster, with its default options."""

    def __init__(self, nodes: list[Address], how: str) -> None:
        gvcluster = import_module("gvcluster")
        path = "compiled" if getattr(gvcluster, "accelerated", False) else "pure Python"
        self.how = f"gvcluster {gvcluster.__version__}, {path}, {how}"
        self.cluster = gvcluster.connect(nodes)
        self._execute = self.cluster.execute
        self.rest = gevent.sleep

    def store(self, key: str, value: bytes) -> Any:
        return self._execute("SET", key, value)

    def fetch(self, key: str) -> Any:
        return self._execute("GET", key)

    def run(self, commands: list[Command]) -> Any:
        pipeline = self.cluster.pipeline()
        for command in commands:
            pipeline.append(*command)
        return pipeline.execute()

    def ways(self) -> _Ways:
        return {"mset, mget": (self.cluster.mset, self.cluster.mget)}

    def store_hash(self, key: str, fields: dict[str, bytes]) -> Any:
        return self._execute("HSET", key, *(part for pair in fields.items() for part in pair))

    def fetch_hash(self, key: str) -> Any:
        return self._execute("HGETALL", key)

    def push(self, key: str, value: bytes) -> Any:
        return self._execute("RPUSH", key, value)

    def pop(self, key: str, seconds: int) -> Any:
        return self._execute("BLPOP", key, seconds)


class Peer:
    """redis-py or valkey-py, which have the same names in them but for their own. Default options."""

    def __init__(self, package: str, nodes: list[Address]) -> None:
        module, utils = import_module(f"{package}.cluster"), import_module(f"{package}.utils")
        parser = {"redis": "hiredis", "valkey": "libvalkey"}[package]
        has_parser = getattr(utils, f"{parser.upper()}_AVAILABLE")
        parsed_by = parser if has_parser else f"pure Python, {parser} is not installed"
        self.how = f"{package}-py {version(package)}, patched, parser: {parsed_by}"
        seeds = [module.ClusterNode(host, port) for host, port in nodes]
        self._client = getattr(module, f"{package.capitalize()}Cluster")(startup_nodes=seeds)
        self._append = module.ClusterPipeline.execute_command
        self.store, self.fetch, self.rest = self._client.set, self._client.get, gevent.sleep

    def run(self, commands: list[Command]) -> Any:
        pipeline = self._client.pipeline()
        for command in commands:
            self._append(pipeline, *command)
        return pipeline.execute()

    def ways(self) -> _Ways:
        client = self._client
        return {"mset_nonatomic, mget_nonatomic": (client.mset_nonatomic, client.mget_nonatomic), **_piped(self.run)}

    def store_hash(self, key: str, fields: dict[str, bytes]) -> Any:
        return self._client.hset(key, mapping=fields)

    def fetch_hash(self, key: str) -> Any:
        return self._client.hgetall(key)

    def push(self, key: str, value: bytes) -> Any:
        return self._client.rpush(key, value)

    def pop(self, key: str, seconds: int) -> Any:
        return self._client.blpop([key], timeout=seconds)


class Glide:
    """valkey-glide-sync. It waits in native threads, so nobody else runs meanwhile: see `clients`."""

    def __init__(self, nodes: list[Address]) -> None:
        self._glide = import_module("glide_sync")
        seeds = [self._glide.NodeAddress(host, port) for host, port in nodes]
        # The default of 250 ms is short for 1 MiB on a busy machine.
        config = self._glide.GlideClusterClientConfiguration(addresses=seeds, request_timeout=5000)
        self._client = self._glide.GlideClusterClient.create(config)
        self.how = f"valkey-glide-sync {version('valkey-glide-sync')}, patched, its calls hold the hub"
        self.store, self.fetch, self.rest = self._client.set, self._client.get, gevent.sleep

    def run(self, commands: list[Command]) -> Any:
        batch = self._glide.ClusterBatch(is_atomic=False)
        for name, *arguments in commands:
            (batch.set if name == "SET" else batch.get)(*arguments)
        return self._client.exec(batch, raise_on_error=True)

    def ways(self) -> _Ways:
        return {"mset, mget": (self._client.mset, self._client.mget), **_piped(self.run)}

    def store_hash(self, key: str, fields: dict[str, bytes]) -> Any:
        return self._client.hset(key, fields)

    def fetch_hash(self, key: str) -> Any:
        return self._client.hgetall(key)

    def push(self, key: str, value: bytes) -> Any:
        return self._client.rpush(key, [value])

    def pop(self, key: str, seconds: int) -> Any:
        popped = self._client.blpop([key], seconds)
        if popped is None:
            raise WrongReply(f"BLPOP holds the hub: nobody could push meanwhile, and {seconds} s later it was empty")
        return popped


def _piped(run: Callable[[list[Command]], Any]) -> _Ways:
    """A pipeline of SETs, and one of GETs."""
    return {"a pipeline": (lambda values: run([("SET", *pair) for pair in values.items()]), _fetch_piped(run))}


def _fetch_piped(run: Callable[[list[Command]], Any]) -> Callable[[list[str]], Any]:
    return lambda keys: run([("GET", key) for key in keys])


def work(load: Load, tally: Tally, *, polite: bool) -> None:
    """Drive one greenlet's load until it is over, or all are to stop. Polite: with a turn for others at each step."""
    reply, send = None, load.send
    try:
        while not tally.stopped:
            reply = send(reply)
            if polite:
                gevent.sleep(0)
    except StopIteration:
        pass
    except WrongReply as error:
        tally.stopped = True
        tally.errors.append(str(error))
    except Exception as error:
        tally.errors.append(f"{type(error).__name__}: {error}")


def pulse(late: list[float], period: float = 0.005) -> None:
    """Sleep again and again, and keep how late the hub came back, seconds."""
    while True:
        due = perf_counter() + period
        gevent.sleep(period)
        late.append(max(0.0, perf_counter() - due))
