"""What `tools/peer_figures.py` measures, with the client at work in a process of its own: `peer_client.py`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic
from typing import IO, Any, cast

import gevent
from failover_events import PATIENCE, PROBE, Seen, percentile
from gevent import subprocess

import gvcluster
from gvcluster.testing import LocalCluster, Node, ServerFailed

CLIENT = Path(__file__).with_name("peer_client.py")
WORKERS = 30
QUIET = 4.0
STUCK = 50
OUTAGE = 10.0
SETTLED = 3.0


@dataclass
class Run:
    """One event. Times are in seconds; None where they make no sense."""

    event: str
    client: str
    late: float | None
    down: float | None = None
    others: float | None = None
    slowest_other: float | None = None
    quiet: float | None = None
    raw: float | None = None
    hub: float | None = None
    core: float | None = None
    errors: dict[str, int] = field(default_factory=dict)
    in_doubt: int = 0
    twice: int = 0

    @property
    def over(self) -> float | None:
        """By how much the other shards were slower than they may be; negative if they were not."""
        if self.others is None or self.quiet is None:
            return None
        return self.others - (2 * self.quiet + 0.005)


class Client:
    """A client at work in another process, as long as the `with` lasts."""

    def __init__(self, name: str, python: str, servers: LocalCluster) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python if name != "gvcluster" else sys.executable, str(CLIENT), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.primaries = servers.primaries()
        self.keys = keys_of(servers, self.primaries)
        seeds = [list(address) for address in servers.addresses]
        self.ask(seeds=seeds, keys=self.keys, timeout=1.0)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order, and wait for the answer."""
        orders, answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        orders.write(json.dumps(order) + "\n")
        orders.flush()
        return cast("dict[str, Any]", json.loads(answers.readline()))


def keys_of(servers: LocalCluster, primaries: list[Node]) -> list[list[str]]:
    """Some keys of each shard."""
    with gvcluster.connect(servers.seeds) as cluster:
        found: dict[Any, list[str]] = {node.address: [] for node in primaries}
        for key in map("{{figures-{}}}".format, count()):
            owner = cluster.node_for_key(key)
            assert owner is not None
            if len(found[owner.address]) < WORKERS:
                found[owner.address].append(key)
            if all(len(keys) == WORKERS for keys in found.values()):
                return list(found.values())
    raise AssertionError


def lose_primary(servers: LocalCluster, client: Client, event: str, number: int) -> Run:
    """Kill or freeze the primary of one shard."""
    shard = number % 3
    primary = client.primaries[shard]
    (replica,) = servers.replicas_of(primary)
    other = client.primaries[(shard + 1) % 3]
    words = (*replica.address, client.keys[shard][0] + ":p", *other.address, client.keys[(shard + 1) % 3][0] + ":p")
    with probe(words) as seen:
        gevent.sleep(QUIET)
        at = monotonic()
        if event == "freeze":
            servers.pause(primary)
            client.ask(do="crowd", shard=shard, number=STUCK)
        else:
            servers.kill(primary)
        told = seen()
        back = client.ask(do="back", shard=shard, after=at + 0.5, patience=PATIENCE)["back"]
        gevent.sleep(1.5)
        told_by_client = client.ask(do="end")
    shards = told_by_client["shards"]
    bystanders = [each for index, each in enumerate(shards) if index != shard]
    until = back if back is not None else monotonic()
    during, before = latencies(bystanders, at, until), latencies(bystanders, at - min(QUIET, until - at), at)
    run = Run(event, client.name, None if back is None else back - told.promoted, told.refused)
    run.others, run.slowest_other, run.quiet = percentile(during, 99), max(during), percentile(before, 99)
    run.raw = told.raw(at, until)
    run.hub = max((late for when, late in told_by_client["late"] if at <= when < until), default=0.0)
    return with_errors(run, shards)


@contextmanager
def probe(words: tuple[object, ...]) -> Iterator[Callable[[], Seen]]:
    """`failover_probe.py`: what is yielded waits for the end, and returns what was seen."""
    with subprocess.Popen([sys.executable, str(PROBE), *map(str, words)], stdout=subprocess.PIPE, text=True) as process:
        told = cast("IO[str]", process.stdout)
        try:
            assert told.readline() == "ready\n"
            yield lambda: Seen(**json.loads(told.readline()))
        finally:
            process.kill()


def lose_all(servers: LocalCluster, client: Client, event: str, number: int) -> Run:
    """Kill all nodes, and bring them back."""
    gevent.sleep(QUIET / 4)
    for node in servers.nodes:
        servers.kill(node)
    gevent.sleep(SETTLED)
    before = client.ask(do="usage")
    gevent.sleep(OUTAGE - SETTLED)
    after = client.ask(do="usage")
    for node in servers.nodes:
        start_again(node)
    watching = [
        gevent.spawn(first_accepted, node, keys[0]) for node, keys in zip(client.primaries, client.keys, strict=True)
    ]
    gevent.joinall(watching, raise_error=True)
    late = []
    for shard, greenlet in enumerate(watching):
        back = client.ask(do="back", shard=shard, after=after["at"], patience=PATIENCE)["back"]
        late.append(None if back is None else back - greenlet.value)
    shards = client.ask(do="end")["shards"]
    run = Run(event, client.name, None if None in late else max(cast("list[float]", late)))
    run.core = (after["cpu"] - before["cpu"]) / (after["at"] - before["at"])
    return with_errors(run, shards)


def start_again(node: Node) -> None:
    """Start it on its port, which a client that tries to connect may have had for its own end for a moment."""
    for _ in range(50):
        try:
            return node.start(30)
        except ServerFailed:
            gevent.sleep(0.1)
    raise AssertionError(f"{node!r} does not start")


def first_accepted(node: Node, key: str) -> float:
    """When the node, asked every 2 ms, has taken a write."""
    until = monotonic() + PATIENCE
    with node.connection() as connection:
        while monotonic() < until:
            if connection.calls([("SET", key + ":p", "x")]) == [b"OK"]:
                return monotonic()
            gevent.sleep(0.002)
    raise AssertionError("the cluster does not come back")


def latencies(shards: list[dict[str, Any]], since: float, until: float) -> list[float]:
    """How long the calls took that began between these two times, failed ones included, seconds."""
    timed = [pair[:2] for each in shards for pair in (*each["answered"], *each["failed"])]
    return [ended - began for began, ended in timed if since <= began < until] or [float("nan")]


def with_errors(run: Run, shards: list[dict[str, Any]]) -> Run:
    failed = [each for shard in shards for each in shard["failed"]]
    run.errors = dict(Counter(f"{kind} ({command})" for _, _, command, kind, _ in failed))
    run.in_doubt = sum(command == "INCR" and not is_clear for _, _, command, _, is_clear in failed)
    run.twice = sum(shard["twice"] for shard in shards)
    return run


def restore(servers: LocalCluster) -> None:
    """Bring back what was killed or frozen."""
    for node in servers.nodes:
        if node.is_paused:
            servers.resume(node)
        elif not node.is_running():
            start_again(node)
    servers.wait_until_agreed(60)
