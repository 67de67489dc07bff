"""No client at all: a gevent socket for each node, and hiredis. What moving the bytes costs by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import gevent
import gevent.socket
import hiredis

from gvcluster.cli.bench.loads import Command
from gvcluster.core.address import Address
from gvcluster.core.slots import hash_slot
from gvcluster.testing import ControlConnection

# Replies of 1 MiB: from 64 KiB on none was faster by more than the noise, below it some 10 % were lost.
_PIECE = 1 << 18
_pack = cast("Callable[[tuple[object, ...]], bytes]", hiredis.pack_command)


class Bare:
    """One greenlet at a time; each key's node is looked up once."""

    def __init__(self, nodes: list[Address]) -> None:
        self.how = f"gevent.socket {gevent.__version__} and hiredis {hiredis.__version__}, not patched"
        self.rest = gevent.sleep
        self._lines = {address: _Line(address) for address in nodes}
        with ControlConnection(nodes[0]) as control:
            told = control.call("CLUSTER", "SLOTS")
        self._ranges = [(first, last, Address(bytes(to[0]).decode(), to[1])) for first, last, to, *_ in told]
        self._known: dict[str, _Line] = {}

    def store(self, key: str, value: bytes) -> Any:
        return self._line(key).call(("SET", key, value))

    def fetch(self, key: str) -> Any:
        return self._line(key).call(("GET", key))

    def _line(self, key: str) -> _Line:
        if key not in self._known:
            slot = hash_slot(key)
            self._known[key] = next(self._lines[to] for first, last, to in self._ranges if first <= slot <= last)
        return self._known[key]

    def run(self, commands: list[Command]) -> Any:
        raise NotImplementedError("a bare socket has no pipelines")

    ways = store_hash = fetch_hash = push = pop = cast(Any, run)


class _Line:
    def __init__(self, address: Address) -> None:
        self._socket = gevent.socket.create_connection(address)
        self._socket.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def call(self, command: tuple[object, ...]) -> Any:
        self._socket.sendall(_pack(command))
        reader, receive = self._reader, self._socket.recv
        while (reply := reader.gets()) is False:
            reader.feed(receive(_PIECE))
        return reply
