"""A connected socket without blocking, and its two watchers: what a connection reads and writes through."""

from __future__ import annotations

from _socket import MSG_DONTWAIT, MSG_PEEK, socket

from gvcluster.net.loop import READ, WRITE, HubLoop

_PEEK = MSG_PEEK | MSG_DONTWAIT


class PlainTransport:
    """TCP as it is. `send` and `recv_into` are the socket's own: they raise BlockingIOError instead of waiting."""

    unsent = 0  # bytes that `send` took and the kernel did not: here there are none
    __slots__ = ("_loop", "_socket", "readable", "recv_into", "send", "writable")

    def __init__(self, sock: socket, loop: HubLoop) -> None:
        self._loop, self._socket = loop, sock
        self.send = sock.send
        self.recv_into = sock.recv_into
        self.readable = loop.io(sock.fileno(), READ)
        self.writable = loop.io(sock.fileno(), WRITE)

    def is_at_eof(self) -> bool:
        """Look, without taking anything, whether the peer has ended the connection. Never waits."""
        try:
            return not self._socket.recv(1, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Stop the watchers, then close the socket: libuv aborts the process if the order is the other one."""
        self._loop.end(self.readable, self.writable, then=self._socket.close)

    def abandon(self) -> None:
        """Close the socket first: libuv asks the kernel at once to stop watching it, and in a forked child that is the
        kernel's list of the parent. Of a socket that is closed already the kernel knows nothing.
        """
        self._socket.close()
        self._loop.drop(self.readable, self.writable)
