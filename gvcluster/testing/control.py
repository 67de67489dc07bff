"""A tiny client for one node. LocalCluster's own, so that a fault of gvcluster's can not hide itself in its tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, cast

import gevent
import gevent.socket
import gevent.ssl
import hiredis

from gvcluster.core.address import Address
from gvcluster.errors import ConnectFailed, ConnectionLost, NodeError, ReplyError, ReplyTimeout
from gvcluster.testing.errors import ClusterTimeout
from gvcluster.testing.servers import ServerTls

_NOT_ENOUGH = object()
_pack = cast("Callable[[tuple[object, ...]], bytes]", hiredis.pack_command)


class ControlConnection:
    """One connection to one node, in RESP2, with no retries, redirects or pool. Close it, or use it in a `with`."""

    def __init__(
        self, address: Address, *, password: str | None = None, timeout: float = 5.0, tls: ServerTls | None = None
    ) -> None:
        self.address = address
        self._reader = hiredis.Reader(notEnoughData=_NOT_ENOUGH)
        self._socket = gevent.socket.socket(gevent.socket.AF_INET, gevent.socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(address)
            self._socket.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket = _secured(self._socket, tls, address.host)
            if password is not None:
                self.call("AUTH", password)
        except OSError as error:
            self.close()
            raise ConnectFailed(f"{address}: {error}", address=address) from error
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<ControlConnection to {self.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, *arguments: object) -> Any:
        """Run one command.

        Args:
            arguments: The command's words: str (sent as UTF-8), bytes, int or float.

        Returns:
            The reply as RESP2 has it: bytes, int, None, or a list of these. Error replies inside a list are values.

        Raises:
            ReplyError: The node refused; `code` is the first word. A note says which node and command it was.
            NodeError: The connection ended, or was silent for `timeout` seconds.

        Blocks:
            Until the reply is in. After a kill or Timeout the connection is of no more use.
        """
        (reply,) = self.calls([arguments])
        if isinstance(reply, ReplyError):
            reply.add_note(f"{self.address} answered this to: {' '.join(map(str, arguments[:8]))}")
            raise reply
        return reply

    def calls(self, commands: Sequence[Sequence[object]]) -> list[Any]:
        """Run several commands in one write; each element is the reply, or the ReplyError, of one command.

        Raises:
            NodeError: The connection ended, or was silent for `timeout` seconds.

        Blocks:
            Until the last reply is in. After a kill or Timeout the connection is of no more use.
        """
        try:
            self._socket.sendall(b"".join(_pack(tuple(command)) for command in commands))
            return [self._read() for _ in commands]
        except TimeoutError as error:
            raise ReplyTimeout(f"{self.address}: no reply", address=self.address, maybe_executed=True) from error
        except OSError as error:
            raise ConnectionLost(f"{self.address}: {error}", address=self.address, maybe_executed=True) from error

    def close(self) -> None:
        """Close the socket. Never waits; closing twice does nothing."""
        self._socket.close()

    def _read(self) -> Any:
        while (reply := self._reader.gets()) is _NOT_ENOUGH:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionResetError("the node closed the connection")
            self._reader.feed(chunk)
        return ReplyError(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply


def _secured(sock: gevent.socket.socket, tls: ServerTls, name: str) -> gevent.socket.socket:
    # gevent's own class: what the standard library makes in an unpatched process would block the hub.
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls.ca_file)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context.wrap_socket(sock, server_hostname=name)


def wait_for(check: Callable[[], str | None], timeout: float, what: str) -> None:
    """Ask `check` again and again until it has nothing to object; nodes that do not answer are an objection.

    Raises:
        ClusterTimeout: There was an objection still after `timeout` seconds; the message has the last one.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            objection = check()
        except (NodeError, ReplyError) as error:
            objection = str(error)
        if objection is None:
            return
        if time.monotonic() >= deadline:
            raise ClusterTimeout(f"{what}: not within {timeout:g} s: {objection}")
        gevent.sleep(0.02)
