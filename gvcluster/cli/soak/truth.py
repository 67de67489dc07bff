"""What the servers have in the end: asked without gvcluster's client, which is the one being judged."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from gvcluster.cli.soak.book import ACCOUNTS, MONEY, Book
from gvcluster.cli.soak.scene import SHARDS, Scene
from gvcluster.cli.soak.workers import Place
from gvcluster.core.address import Address
from gvcluster.errors import ReplyError
from gvcluster.testing import ControlConnection

_WAIT_MS = 2000


class Truth:
    """Reads keys at their primaries. Use it in a `with`; the servers agree meanwhile."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._connections: dict[Address, ControlConnection] = {}
        self._primaries = [scene.primary(shard).address for shard in range(SHARDS)]
        self._shard_of = {place.tag: place.shard for place in scene.places}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections.values():
            connection.close()

    def prepare(self, book: Book, places: list[Place]) -> None:
        """Fill the accounts of a window, and wait until the replicas have them too."""
        for place in places:
            keys = [f"{{{place.tag}}}:{book.name}:account:{number}" for number in range(ACCOUNTS)]
            self._ask(keys[0], "MSET", *(word for key in keys for word in (key, MONEY)))
        for address in self._primaries:
            self._at(address).call("WAIT", 1, _WAIT_MS)

    def forget(self) -> None:
        """Delete all keys."""
        for address in self._primaries:
            self._at(address).call("FLUSHALL")

    def read(self, kind: str, key: str) -> Any:
        """A count, a list, or the accounts, as Book.problems wants them."""
        if kind == "count":
            return int(self._ask(key, "GET", key) or 0)
        if kind == "list":
            return self._ask(key, "LRANGE", key, 0, -1)
        accounts = [f"{key}:{number}" for number in range(ACCOUNTS)]
        return [int(value or 0) for value in self._ask(accounts[0], "MGET", *accounts)]

    def _ask(self, key: str, *command: object) -> Any:
        shard = self._shard_of[key[1 : key.index("}")]]
        try:
            return self._at(self._primaries[shard]).call(*command)
        except ReplyError as error:
            if error.code != "MOVED":
                raise
            return self._at(Address.parse(error.message.split()[-1])).call(*command)

    def _at(self, address: Address) -> ControlConnection:
        if address not in self._connections:
            self._connections[address] = ControlConnection(address)
        return self._connections[address]
