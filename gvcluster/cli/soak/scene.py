"""What a soak is played with: real servers, one client straight to them, and one through fault proxies."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice, product
from time import monotonic
from typing import Any, Self

import gevent

import gvcluster
from gvcluster.cli.soak.workers import CALL_TIMEOUT, COMMAND_TIMEOUT, Place
from gvcluster.core.address import Address
from gvcluster.core.slots import hash_slot
from gvcluster.errors import GvClusterError, NodeError, ReplyError
from gvcluster.options import ClusterOptions
from gvcluster.testing import ControlConnection, FaultProxy, LocalCluster, Node, Recorder

SHARDS = 3
_SLOTS = 16384
# How many hash tags each shard has: so many keys of each kind are shared.
TAGS = 8
_PATIENCE = 60.0
# Between two attempts to be served, seconds.
_AGAIN = 0.02


def oracle_token(command: tuple[bytes, ...]) -> Hashable:
    """What the wire oracle counts: tokens that are appended or pushed, and increments by their key."""
    name = command[0].upper()
    if name in (b"RPUSH", b"LPUSH"):
        return command[-1]
    if name == b"INCR":
        return command[1]
    return None


@dataclass
class Line:
    """One client. `lost`: its connections that ended by themselves. `opened`: those that it opened."""

    name: str
    cluster: gvcluster.Cluster
    lost: Counter[Address] = field(default_factory=Counter)
    opened: int = 0


class Scene:
    """Use it in a `with`, which starts and ends everything.

    Args:
        server: Which server, by name.
        seed: Of what the clients and the proxies draw.
        node_timeout: Of the servers, seconds.
    """

    def __init__(self, server: str, seed: int, node_timeout: float) -> None:
        self.servers = LocalCluster(server, node_timeout=node_timeout)
        self.node_timeout = node_timeout
        self.lines: list[Line] = []
        self.proxies: dict[Address, FaultProxy] = {}
        self.recorder = Recorder(oracle_token)
        self.places: list[Place] = []
        self._seed = seed
        self._stack = ExitStack()

    def __repr__(self) -> str:
        return f"<Scene {self.servers!r}, {len(self.proxies)} proxies>"

    def __enter__(self) -> Self:
        try:
            self._stack.enter_context(self.servers)
            for number, address in enumerate(self.servers.addresses):
                proxy = FaultProxy(address, recorder=self.recorder, seed=self._seed + number)
                self.proxies[address] = self._stack.enter_context(proxy)
            self.lines = [self._connect("direct", None), self._connect("proxied", self._through)]
            self.places = [*self._places()]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- servers ------------------------------------------------------------------------------------------------------

    def shard_of(self, node: Node) -> int:
        """Which shard a primary serves, by its first slot; -1 if it has none."""
        slots = node.view().me.slots
        return min(slots)[0] * SHARDS // _SLOTS if slots else -1

    def primary(self, shard: int) -> Node:
        """Who serves a shard now."""
        return self.servers.primary_of(_SLOTS * shard // SHARDS)

    def everywhere(self, *command: object) -> None:
        """Tell all nodes that live; who does not answer is left out."""
        for node in self.servers.live_nodes():
            try:
                node.command(*command)
            except (NodeError, ReplyError):
                pass

    @contextmanager
    def held(self) -> Iterator[list[ControlConnection]]:
        """A connection to each live node, for times when no other is let in."""
        with ExitStack() as stack:
            yield [stack.enter_context(node.connection()) for node in self.servers.live_nodes()]

    def heal(self) -> None:
        """Undo whatever a fault has left behind, and wait until the servers agree.

        Blocks: until they do.
        """
        for proxy in self.proxies.values():
            proxy.clear()
            proxy.resume()
        for node in self.servers.nodes:
            if node.is_paused:
                node.resume()
        live = self.servers.live_nodes()
        for node in self.servers.nodes:
            if node not in live:
                node.start(_PATIENCE)
        self.servers.wait_until_agreed(_PATIENCE)

    def serving_again(self, patience: float) -> Iterator[tuple[str, float]]:
        """How long it takes until each client has written to each shard: which, and seconds; `patience` if it was more.

        Blocks: until then.
        """
        for line, place in product(self.lines, self.places[::TAGS]):
            began, took = monotonic(), patience
            while monotonic() - began < patience:
                try:
                    line.cluster.execute("SET", f"{{{place.tag}}}:probe", b"1", retry="always")
                    took = monotonic() - began
                    break
                except GvClusterError:
                    gevent.sleep(_AGAIN)
            yield f"{line.name} client, shard {place.shard}", took

    def failed_over(self) -> frozenset[str]:
        """Who is primary: to see whether the servers have changed that by themselves."""
        return frozenset(node.id for node in self.servers.primaries())

    # -- clients ------------------------------------------------------------------------------------------------------

    def _connect(self, name: str, address_map: Any) -> Line:
        line: Line

        def opened(_connection: gvcluster.Connection, error: BaseException | None) -> None:
            line.opened += error is None

        def lost(connection: gvcluster.Connection, error: BaseException | None) -> None:
            line.lost[connection.address] += error is not None

        options = ClusterOptions(
            timeout=CALL_TIMEOUT,
            command_timeout=COMMAND_TIMEOUT,
            rng=random.Random(f"{self._seed}:{name}"),
            client_name=f"soak-{name}",
            on_connect=opened,
            on_disconnect=lost,
        )
        if address_map is not None:
            options["address_map"] = address_map
        seeds = [address_map(each) if address_map else each for each in self.servers.addresses]
        line = Line(name, gvcluster.Cluster([str(seed) for seed in seeds], **options))
        self._stack.callback(line.cluster.close)
        line.cluster.connect()
        return line

    def _through(self, address: Address) -> Address:
        proxy = self.proxies.get(address)
        return address if proxy is None else proxy.address

    def _places(self) -> Iterator[Place]:
        for shard in range(SHARDS):
            slots = range(-(-_SLOTS * shard // SHARDS), _SLOTS * (shard + 1) // SHARDS)
            tags = (tag for tag in map("t{}".format, count()) if hash_slot(tag) in slots)
            yield from (Place(shard, tag) for tag in islice(tags, TAGS))
