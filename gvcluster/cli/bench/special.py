"""Turns that are no load: taking up a large slot map, and what parked calls and connections keep in memory."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, thread_time
from types import MappingProxyType
from typing import Any

import gevent

from gvcluster.cli.bench import greenlets
from gvcluster.cli.bench.loads import PREFIX
from gvcluster.cli.bench.measured import Measured
from gvcluster.cli.bench.worker import Spec, count_clients
from gvcluster.core.address import Address
from gvcluster.core.slots import SLOTS, hash_slot
from gvcluster.testing import ControlConnection

# How long the servers hold writes back, and how long until all calls are parked, seconds.
_PAUSE, _SETTLE = 8.0, 1.0


def take_map(spec: Spec) -> Measured:
    """Fetch the map again, and time the turns of the hub's loop meanwhile: by the CPU clock, which a busy machine
    does not move."""
    client = greenlets.Ours(spec.addresses, "not patched")
    client.cluster.refresh()
    turns: list[float] = []
    with _turns(turns):
        began, cpu = perf_counter(), thread_time()
        client.cluster.refresh()
        took, cpu = perf_counter() - began, thread_time() - cpu
        gevent.sleep(0.01)
    figures = {"longest turn ms": max(turns) * 1000, "CPU in all ms": cpu * 1000, "until there ms": took * 1000}
    return Measured(client.how, figures=figures, greenlets=1)


@contextmanager
def _turns(found: list[float]) -> Iterator[None]:
    """Keep the CPU seconds of each turn of the loop: from when it has polled to when it polls again."""
    loop = gevent.get_hub().loop
    started = [thread_time()]
    check, prepare = loop.check(), loop.prepare()
    check.start(lambda: started.__setitem__(0, thread_time()))
    prepare.start(lambda: found.append(thread_time() - started[0]))
    try:
        yield
    finally:
        for watcher in (check, prepare):
            watcher.stop()
            watcher.close()


def take_parked(spec: Spec) -> Measured:
    """Park calls by letting the servers hold writes back. For gvcluster also, by Python's own count of what it has
    allocated, how much more than a greenlet that waits for nothing."""
    if spec.client == "coredis":
        import asyncio

        return asyncio.run(_park_tasks(spec))
    if spec.client == "valkey-glide-sync":
        return _remembered(spec.client, {}, spec.greenlets, ["the first call holds the hub: no second one is made"])
    return _park_greenlets(spec)


def _park_greenlets(spec: Spec) -> Measured:
    client = greenlets.open_client(spec.client, spec.addresses)
    keys = [f"{PREFIX}{number}" for number in range(spec.greenlets)]
    for key in keys[:50]:
        client.store(key, b"x")
    others, before = sum(map(count_clients, spec.addresses)), _resident()
    with _paused(spec.addresses):
        parked = [gevent.spawn(client.store, key, b"x") for key in keys]
        gevent.sleep(_SETTLE)
        waiting = len(keys) - sum(each.ready() for each in parked)
        figures = {"bytes per parked call": (_resident() - before) / max(1, waiting)}
        figures["connections more"] = sum(map(count_clients, spec.addresses)) - others
    gevent.joinall(parked, timeout=_PAUSE)
    errors = _told(each.exception for each in parked)
    if isinstance(client, greenlets.Ours) and not errors:
        figures["bytes beyond the greenlet"] = _beyond_greenlets(client, spec.addresses, keys)
    return _remembered(client.how, figures, spec.greenlets, errors)


async def _park_tasks(spec: Spec) -> Measured:
    import asyncio

    from gvcluster.cli.bench import tasks

    async with tasks.open_client(spec.addresses) as client:
        keys = [f"{PREFIX}{number}" for number in range(spec.greenlets)]
        for key in keys[:50]:
            await client.store(key, b"x")
        others, before = sum(map(count_clients, spec.addresses)), _resident()
        with _paused(spec.addresses):
            parked = [asyncio.ensure_future(client.store(key, b"x")) for key in keys]
            await asyncio.sleep(_SETTLE)
            waiting = sum(not each.done() for each in parked)
            figures = {"bytes per parked call": (_resident() - before) / max(1, waiting)}
            figures["connections more"] = sum(map(count_clients, spec.addresses)) - others
        await asyncio.wait(parked, timeout=_PAUSE)
        errors = _told(each.exception() for each in parked if each.done())
    return _remembered(client.how, figures, spec.greenlets, errors)


def _told(errors: Iterable[BaseException | None]) -> list[str]:
    return [f"{type(error).__name__}: {error}" for error in errors if error is not None]


def _remembered(how: str, figures: dict[str, float], greenlets: int, errors: list[str]) -> Measured:
    error = errors[0][:300] if errors else ""
    return Measured(how, figures={} if error else figures, greenlets=greenlets, failed=len(errors), error=error)


def _beyond_greenlets(client: Any, nodes: list[Address], keys: list[str]) -> float:
    """Bytes of a parked call, less those of a greenlet that waits in the same way, and is no call."""
    hub = gevent.get_hub()
    tracemalloc.start()
    with _paused(nodes):
        calls = _allocated(lambda: [gevent.spawn(client.store, key, b"x") for key in keys])
    alone = _allocated(lambda: [gevent.spawn(_wait, hub, key, b"x") for key in keys])
    tracemalloc.stop()
    return (calls - alone) / len(keys)


def _wait(hub: Any, key: str, value: bytes) -> Any:
    return hub.switch()


def _allocated(spawn: Callable[[], list[gevent.Greenlet[..., Any]]]) -> int:
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    spawned = spawn()
    gevent.sleep(_SETTLE)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    gevent.killall(spawned)
    return used


def take_connected(spec: Spec) -> Measured:
    """Call each of many nodes once. The map is there already."""
    client = greenlets.open_client(spec.client, spec.addresses)
    client.store(_key_of_slot(0), b"x")
    before, sockets = _resident(), _sockets()
    nodes = spec.count if spec.count > 1 else len(spec.nodes)
    for number in range(nodes):
        client.store(_key_of_slot(number * SLOTS // nodes), b"x")
    opened = _sockets() - sockets
    figures = {"bytes per connection": (_resident() - before) / max(1, opened), "connections opened": opened}
    return Measured(client.how, figures=figures, greenlets=1)


def _key_of_slot(slot: int) -> str:
    """A key of the slot or of one a bit above it."""
    return next(key for key in (f"{PREFIX}{slot}:{turn}" for turn in range(1 << 20)) if 0 <= hash_slot(key) - slot < 8)


@contextmanager
def _paused(nodes: list[Address]) -> Iterator[None]:
    _tell(nodes, "CLIENT", "PAUSE", int(_PAUSE * 1000), "WRITE")
    try:
        yield
    finally:
        _tell(nodes, "CLIENT", "UNPAUSE")


def _tell(nodes: list[Address], *command: object) -> None:
    for node in nodes:
        with ControlConnection(node) as control:
            control.call(*command)


def _resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _sockets() -> int:
    return len(os.listdir("/proc/self/fd"))


TURNS: MappingProxyType[str, Callable[[Spec], Measured]] = MappingProxyType(
    {"map": take_map, "parked": take_parked, "connected": take_connected}
)
