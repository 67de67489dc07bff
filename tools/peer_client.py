#!/usr/bin/env python3
"""The load of `tools/peer_figures.py`, in a process of its own: greenlets that count and read by one of the clients.

`peer_client.py CLIENT` reads a JSON object a line from stdin: first {"seeds": [[host, port], ...], "keys": [[key, ...]
for each shard], "timeout": seconds}, then {"do": ...}: "crowd" (shard, number), "back" (shard, after, patience),
"usage", "end". It answers with one JSON object a line. Times are on the monotonic clock, which all processes share.

redis-py and valkey-py run after `gevent.monkey.patch_all()`, as their users do; gvcluster needs none.
"""

from __future__ import annotations

import json
import sys

CLIENT = sys.argv[1]
if CLIENT != "gvcluster":
    from gevent import monkey

    monkey.patch_all()

import gc
import random
import resource
from collections.abc import Callable
from importlib import import_module
from time import monotonic
from typing import Any

import gevent
from gevent.fileobject import FileObject

# How long each greenlet rests between two calls, seconds: some 2,000 calls/s by 90 greenlets.
REST = (0.030, 0.060)
# How often it is looked whether the hub comes round, seconds.
TICK = 0.005
# A call of gvcluster's outlives a failover. The others have no such deadline: they have their numbers of attempts.
CALL_TIMEOUT = 30.0


def client_of_gvcluster(seeds: list[tuple[str, int]], timeout: float) -> Any:
    return import_module("gvcluster").connect(seeds, timeout=CALL_TIMEOUT, command_timeout=timeout)


def client_of_redis(seeds: list[tuple[str, int]], timeout: float) -> Any:
    module = import_module("redis.cluster")
    return module.RedisCluster(startup_nodes=[module.ClusterNode(*seed) for seed in seeds], **_times(timeout))


def client_of_valkey(seeds: list[tuple[str, int]], timeout: float) -> Any:
    module = import_module("valkey.cluster")
    return module.ValkeyCluster(startup_nodes=[module.ClusterNode(*seed) for seed in seeds], **_times(timeout))


def _times(timeout: float) -> dict[str, float]:
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout}


MAKERS = {"gvcluster": client_of_gvcluster, "redis-py": client_of_redis, "valkey-py": client_of_valkey}


class Shard:
    """What became of the calls to the keys that one shard had at the beginning.

    answered: (began, ended). failed: (began, ended, command, class of the error, it says that nothing was executed).
    twice: replies that show that an increment was executed twice.
    """

    def __init__(self, execute: Callable[..., Any]) -> None:
        self.execute = execute
        self.answered: list[tuple[float, float]] = []
        self.failed: list[tuple[float, float, str, str, bool]] = []
        self.twice = 0

    def run(self, key: str) -> None:
        """Work until killed."""
        counted = [0, 0]
        while True:
            for command in ("INCR", "GET"):
                self.call(command, key, counted)
                gevent.sleep(random.uniform(*REST))

    def call(self, command: str, key: str, counted: list[int]) -> None:
        """One call, noted. `counted`: increments that were asked for, and that were known not to run."""
        began = monotonic()
        counted[0] += command == "INCR"
        try:
            reply = self.execute(command, key)
        except Exception as error:
            is_clear = getattr(error, "maybe_executed", True) is False
            counted[1] += command == "INCR" and is_clear
            self.failed.append((began, monotonic(), command, type(error).__name__, is_clear))
            return
        self.answered.append((began, monotonic()))
        self.twice += int(reply or 0) > counted[0] - counted[1]


class Work:
    """The client, and its greenlets."""

    def __init__(self, told: dict[str, Any]) -> None:
        seeds = [(host, port) for host, port in told["seeds"]]
        self.client = MAKERS[CLIENT](seeds, told["timeout"])
        execute = self.client.execute if CLIENT == "gvcluster" else self.client.execute_command
        self.keys = told["keys"]
        self.shards = [Shard(execute) for _ in self.keys]
        for keys in self.keys:
            for key in keys:
                execute("DEL", key)
        gc.collect()
        gc.freeze()  # else a collection goes through all modules, 20 to 40 ms, for what is noted of each call
        self.late: list[tuple[float, float]] = []
        self.greenlets: list[gevent.Greenlet[..., Any]] = [
            gevent.spawn(shard.run, key) for shard, keys in zip(self.shards, self.keys, strict=True) for key in keys
        ]
        self.greenlets.append(gevent.spawn(self.watch_hub))

    def obey(self, told: dict[str, Any]) -> dict[str, Any]:
        """One order, and what is answered."""
        if told["do"] == "crowd":
            self.crowd(told["shard"], told["number"])
        elif told["do"] == "back":
            return {"back": self.back(self.shards[told["shard"]], told["after"], told["patience"])}
        elif told["do"] == "usage":
            return self.usage()
        return {}

    def watch_hub(self) -> None:
        """Note when this greenlet was woken late, and by how much: so long others had the hub, or the machine did."""
        while True:
            due = monotonic() + TICK
            gevent.sleep(TICK)
            if (late := monotonic() - due) > TICK:
                self.late.append((due, late))

    def crowd(self, shard: int, number: int) -> None:
        """So many writes and as many reads, each by a greenlet and on a key of its own, now."""
        for index in range(2 * number):
            key = f"{self.keys[shard][0]}:{index}"
            self.greenlets.append(gevent.spawn(self.shards[shard].call, "GET" if index % 2 else "INCR", key, [0, 0]))

    def back(self, shard: Shard, after: float, patience: float) -> float | None:
        """When the first call ended with a reply after this moment."""
        until = monotonic() + patience
        while monotonic() < until:
            found = [ended for _, ended in shard.answered[-1000:] if ended > after]
            if found:
                return min(found)
            gevent.sleep(0.02)
        return None

    def usage(self) -> dict[str, Any]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        told = {"at": monotonic(), "cpu": used.ru_utime + used.ru_stime}
        if CLIENT == "gvcluster":
            told["retries"] = self.client.statistics().retries
        return told

    def end(self) -> dict[str, Any]:
        """Stop, and tell all that was seen."""
        gevent.killall(self.greenlets, timeout=5)
        shards = [{"answered": s.answered, "failed": s.failed, "twice": s.twice} for s in self.shards]
        return {"shards": shards, "late": self.late}


def main() -> None:
    orders = FileObject(sys.stdin.fileno(), "rb", close=False)
    work = Work(json.loads(orders.readline()))
    say({"ready": True})
    while (told := json.loads(orders.readline()))["do"] != "end":
        say(work.obey(told))
    say(work.end())


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
