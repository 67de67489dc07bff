"""A client of one node that sends what it is told, for tests of the nodes themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import gevent.socket
import hiredis

from gvcluster.core.address import Address
from gvcluster.testing import FakeNode

END = "end of the connection"


class Client:
    """The least that speaks RESP over a gevent socket."""

    def __init__(self, address: Address) -> None:
        self.socket = gevent.socket.create_connection(address, timeout=5)
        self._reader = hiredis.Reader(replyError=cast(Any, str), notEnoughData=END)

    def send(self, *args: Any) -> None:
        self.socket.sendall(hiredis.pack_command(args))

    def read(self) -> Any:
        while (reply := self._reader.gets()) is END:
            data = self.socket.recv(65536)
            if not data:
                return END
            self._reader.feed(data)
        return reply

    def ask(self, *args: Any) -> Any:
        self.send(*args)
        return self.read()


@contextmanager
def client_of(node: FakeNode) -> Iterator[Client]:
    client = Client(node.address)
    try:
        yield client
    finally:
        client.socket.close()
