"""coredis under asyncio, and the tasks that drive it: the twin of `greenlets` and of the worker's turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from time import perf_counter
from typing import Any

from gvcluster.cli.bench.loads import Command, Load, Tally, WrongReply
from gvcluster.core.address import Address


class Coredis:
    """coredis, with its default options."""

    def __init__(self, client: Any) -> None:
        self.how = f"coredis {version('coredis')}, asyncio"
        self._client = client
        self.store, self.fetch, self.rest = client.set, client.get, asyncio.sleep
        self.fetch_hash = client.hgetall

    async def run(self, commands: list[Command]) -> Any:
        async with self._client.pipeline(transaction=False) as pipeline:
            replies = [(pipeline.set if name == "SET" else pipeline.get)(*rest) for name, *rest in commands]
        return [await reply for reply in replies]

    def ways(self) -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
        def store(values: dict[str, bytes]) -> Any:
            return self.run([("SET", *pair) for pair in values.items()])

        def fetch(keys: list[str]) -> Any:
            return self.run([("GET", key) for key in keys])

        return {"mset, mget": (self._client.mset, self._client.mget), "a pipeline": (store, fetch)}

    def store_hash(self, key: str, fields: dict[str, bytes]) -> Any:
        return self._client.hset(key, fields)

    def push(self, key: str, value: bytes) -> Any:
        return self._client.rpush(key, [value])

    def pop(self, key: str, seconds: int) -> Any:
        return self._client.blpop([key], seconds)


@asynccontextmanager
async def open_client(nodes: list[Address]) -> AsyncIterator[Coredis]:
    """coredis, as long as the block lasts."""
    seeds = [{"host": host, "port": port} for host, port in nodes]
    async with import_module("coredis").RedisCluster(startup_nodes=seeds) as client:
        yield Coredis(client)


async def work(load: Load, tally: Tally) -> None:
    """Drive one task's load until it is over, or all are to stop."""
    reply, send = None, load.send
    try:
        while not tally.stopped:
            reply = await send(reply)
    except StopIteration:
        pass
    except WrongReply as error:
        tally.stopped = True
        tally.errors.append(str(error))
    except Exception as error:
        tally.errors.append(f"{type(error).__name__}: {error}")


async def pulse(late: list[float], period: float = 0.005) -> None:
    """Sleep again and again, and keep how late the loop came back, seconds."""
    while True:
        due = perf_counter() + period
        await asyncio.sleep(period)
        late.append(max(0.0, perf_counter() - due))
