"""From an address to a connected socket: resolve, try each address, call the user. OS errors are translated here."""

from __future__ import annotations

import os
from _socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_TCP,
    SO_KEEPALIVE,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
)
from _socket import socket as raw_socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from types import MappingProxyType
from typing import Any

import gevent
import gevent.socket

from gvcluster.core.address import Address
from gvcluster.errors import ConnectFailed
from gvcluster.net.loop import TICK, HubLoop, remaining
from gvcluster.options import Options

_FAMILIES = MappingProxyType({"ipv4": AF_INET, "prefer_ipv4": AF_INET, "ipv6": AF_INET6, "prefer_ipv6": AF_INET6})
_IPPROTO_MPTCP = 262  # Linux's number
# Keepalive after 15 s of silence, then every 5 s, 3 times; and unacknowledged data for 30 s: a peer that went without a
# word is found within half a minute, idle or not. Option numbers are Linux's; other systems keep their defaults.
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000))

OnConnect = Callable[["Connection", BaseException | None], object]


class Connection:
    """What connection callbacks are given.

    address: the node, as the slot map or the seed list names it.
    purpose: "multiplexed", "bulk" (the lane of large commands and replies) or "exclusive".
    socket: connected and non-blocking, for `setsockopt`; None where the attempt failed. It is not yours to read,
        write or close.
    peername: the numeric address at the other end, None where the attempt failed.
    read_only: it is for reading from a replica (READONLY).
    """

    __slots__ = ("address", "peername", "purpose", "read_only", "socket")

    def __init__(self, address: Address, purpose: str, *, read_only: bool = False) -> None:
        self.address, self.purpose, self.read_only = address, purpose, read_only
        self.socket: raw_socket | None = None
        self.peername: Address | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.purpose} to {self.address}>"


class HalfOpen:
    """A socket that no connection owns yet."""

    __slots__ = ("__weakref__", "_socket")

    def __init__(self, sock: Any) -> None:
        self._socket = sock

    def abandon(self) -> None:
        """Put a socket that leads nowhere under its number: gevent may be watching it, or wait in its `connect`."""
        if self._socket.fileno() >= 0:
            nowhere = raw_socket(AF_UNIX, SOCK_DGRAM)
            os.dup2(nowhere.fileno(), self._socket.fileno(), inheritable=False)
            nowhere.close()


def dial(connection: Connection, deadline: float, options: Options, loop: HubLoop) -> raw_socket:
    """Connect to the first of the address's resolved addresses that accepts, and fill in `connection`.

    Args:
        connection: what callbacks are given.
        deadline: on the monotonic clock.
        options: which addresses, what is set before connecting, and whom to tell.
        loop: of the hub that runs now.

    Blocks: until connected or the deadline. A kill or Timeout closes what was opened.

    Raises:
        ConnectFailed: no address accepted in time, or `on_connect` raised, or did not return in time.
    """
    address, on_connect = connection.address, options.on_connect
    try:
        sock = _connect_any(address, deadline, options, loop)
    except OSError as cause:
        error = _failed(address, cause)
        if on_connect is not None:
            with loop.only_here():
                _tell_failure(on_connect, connection, error, options.connect_timeout)
        raise error from cause
    half_open = HalfOpen(sock)
    loop.watch_over(half_open)
    try:
        connection.socket, connection.peername = sock, Address(*sock.getpeername()[:2])
        if on_connect is not None:
            with loop.only_here(), gevent.Timeout(remaining(deadline), TimeoutError):
                on_connect(connection, None)
        loop.halt_copy()
    except BaseException as cause:
        connection.socket = None
        sock.close()
        if isinstance(cause, Exception):
            raise _failed(address, cause) from cause
        raise
    return sock


def _failed(address: Address, cause: BaseException) -> ConnectFailed:
    what = "it took too long" if isinstance(cause, TimeoutError) else str(cause) or type(cause).__name__
    return ConnectFailed(f"no connection to {address}: {what}", address=address)


def _tell_failure(on_connect: OnConnect, connection: Connection, error: ConnectFailed, patience: float) -> None:
    """A callback that raises must not hide why the attempt failed; one that never returns would keep it from ending."""
    try:
        with gevent.Timeout(patience, TimeoutError):
            on_connect(connection, error)
    except Exception as raised:
        error.add_note(f"on_connect raised {type(raised).__name__} when it was told")


def _connect_any(address: Address, deadline: float, options: Options, loop: HubLoop) -> raw_socket:
    with loop.only_here():
        candidates = _chosen(_resolve(address, deadline), options.address_family)
    kind = "" if options.address_family not in ("ipv4", "ipv6") else f" for address_family={options.address_family!r}"
    failure: BaseException = OSError(f"{address.host} has no address{kind}")
    for position, (family, sockaddr) in enumerate(candidates):
        # An address that swallows packets must not use up the time of those after it.
        share = (deadline - monotonic()) / (len(candidates) - position)
        try:
            with loop.only_here():
                return _connect(_socket(family, options), sockaddr, share, loop)
        except OSError as error:
            failure = error
    raise failure


def _resolve(address: Address, deadline: float) -> list[tuple[int, Any]]:
    """Family and socket address of every resolved address; numeric ones do not need the resolver."""
    import ipaddress

    try:
        version = ipaddress.ip_address(address.host).version
    except ValueError:
        with gevent.Timeout(remaining(deadline), TimeoutError):
            found = gevent.socket.getaddrinfo(address.host, address.port, 0, SOCK_STREAM)
        return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))
    return [(gevent.socket.AF_INET if version == 4 else gevent.socket.AF_INET6, (address.host, address.port))]


def _chosen(candidates: list[tuple[int, Any]], preference: str) -> list[tuple[int, Any]]:
    """The candidates to try, in the order to try them."""
    if preference in ("ipv4", "ipv6"):
        return [each for each in candidates if each[0] == _FAMILIES[preference]]
    return sorted(candidates, key=lambda each: each[0] != _FAMILIES.get(preference, each[0]))


def _socket(family: int, options: Options) -> gevent.socket.socket:
    """A new socket with all that is set before it connects."""
    sock = None
    if options.mptcp:
        with suppress(OSError):
            sock = gevent.socket.socket(family, SOCK_STREAM, _IPPROTO_MPTCP)
    if sock is None:
        sock = gevent.socket.socket(family, SOCK_STREAM)
    try:
        _tune(sock)
        for level, name, value in options.socket_options:
            try:
                sock.setsockopt(level, name, value)
            except OSError as error:
                raise OSError(error.errno, f"socket option ({level}, {name}): {error.strerror}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(sock: gevent.socket.socket, sockaddr: Any, seconds: float, loop: HubLoop) -> raw_socket:
    half_open = HalfOpen(sock)
    loop.watch_over(half_open)
    try:
        sock.settimeout(max(TICK, seconds))
        sock.connect(sockaddr)
        # From here on the connection has watchers of its own: gevent's socket object would only be in the way.
        raw = raw_socket(sock.family, SOCK_STREAM, 0, fileno=sock.detach())
    except BaseException:
        sock.close()
        raise
    raw.setblocking(False)
    return raw


def _tune(sock: gevent.socket.socket) -> None:
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(gevent.socket, name):
            with suppress(OSError):  # Linux has no TCP_USER_TIMEOUT for Multipath TCP
                sock.setsockopt(IPPROTO_TCP, getattr(gevent.socket, name), value)
