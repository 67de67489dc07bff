"""One connection that a fake node has accepted, and the commands that come over it."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import gevent
import gevent.socket

from gvcluster.testing.answers import Answer, Close, Delay, Pieces, Reset

if TYPE_CHECKING:
    from gvcluster.testing.fake_listener import FakeListener


class NoCommand(ValueError):
    """Internal: the client sent bytes that are no array of bulk strings."""


class CommandReader:
    """Bytes in, commands out. Takes exactly what clients send: arrays of bulk strings, nothing looser."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Take up what was received."""
        del self._bytes[: self._at]
        self._at = 0
        self._bytes += data

    @property
    def rest(self) -> bytes:
        """What was received and has not become a command."""
        return bytes(self._bytes[self._at :])

    def take(self) -> list[bytes] | None:
        """The next command, or None until all of it is there."""
        start = self._at
        args: list[bytes] = []
        count = self._number(b"*")
        while count is not None and len(args) < count:
            arg = self._bulk()
            if arg is None:
                break
            args.append(arg)
        if count is None or len(args) < count:
            self._at = start
            return None
        return args

    def take_frame(self) -> tuple[bytes, list[bytes]] | None:
        """The next command as it came, and its arguments, or None until all of it is there."""
        start = self._at
        try:
            args = self.take()
        except NoCommand:
            self._at = start
            raise
        return None if args is None else (bytes(self._bytes[start : self._at]), args)

    def _bulk(self) -> bytes | None:
        length = self._number(b"$")
        if length is None or len(self._bytes) < self._at + length + 2:
            return None
        end = self._at + length
        if self._bytes[end : end + 2] != b"\r\n":
            raise NoCommand(f"an argument of {length} bytes does not end after them")
        arg = bytes(self._bytes[self._at : end])
        self._at = end + 2
        return arg

    def _number(self, mark: bytes) -> int | None:
        end = self._bytes.find(b"\r\n", self._at)
        if end < 0:
            return None
        line = bytes(self._bytes[self._at : end])
        digits = line[1:]
        if line[:1] != mark or not digits.isdigit() or (mark == b"*" and digits == b"0"):
            raise NoCommand(f"{line[:40]!r} where {mark.decode()} and a number should be")
        self._at = end + 2
        return int(digits)


class FakeConnection:
    """A connection, as handlers get it.

    Attributes:
        node: The node that accepted it.
        number: 1 for the first connection that the node accepted.
        protocol: 2, or 3 after HELLO 3.
        name: What CLIENT SETNAME said.
        asking: ASKING was the command before.
        readonly: READONLY was sent.
        subscriptions: What it is subscribed to: ("SUBSCRIBE", "PSUBSCRIBE" or "SSUBSCRIBE", name).
        authenticated: The client has given the password, or there is none.
        closed: The node has closed it.
    """

    def __init__(self, node: FakeListener, number: int, accepted: gevent.socket.socket) -> None:
        self.node = node
        self.number = number
        self.protocol = 2
        self.name = b""
        self.asking = False
        self.readonly = False
        self.subscriptions: dict[tuple[str, bytes], None] = {}
        self.authenticated = False
        self.closed = False
        self._socket = accepted
        self._reader = CommandReader()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __repr__(self) -> str:
        return f"<FakeConnection {self.number} of {self.node.address}{' closed' if self.closed else ''}>"

    def fileno(self) -> int:
        """The number of the socket, -1 when closed."""
        return self._socket.fileno()

    @property
    def unread(self) -> bytes:
        """What has been received and is no whole command yet."""
        return self._reader.rest

    def send(self, data: bytes) -> None:
        """Send raw bytes at once, also where no command asks for them (a push, a late reply).

        Raises:
            OSError: The client is gone.

        Blocks:
            While the node is frozen, and while the client reads nothing. A kill or Timeout may leave a part unsent.
        """
        self.node.wait_thawed()
        self._socket.sendall(data)

    def send_in_pieces(self, data: bytes, size: int = 1, pause: float = 0.0) -> None:
        """Send raw bytes in segments of `size` bytes, with `pause` seconds between them.

        Without a pause a client in the same hub still gets the pieces one by one.

        Raises:
            OSError: The client is gone.

        Blocks:
            For two turns of the loop, or the pause, after each piece. A kill or Timeout leaves the rest unsent.
        """
        for start in range(0, len(data), size):
            self.send(data[start : start + size])
            if pause:
                gevent.sleep(pause)
                continue
            # sleep(0) does not poll. The first poll that finds this socket writable finds the client's readable too,
            # the second comes after the client has read.
            gevent.socket.wait_write(self.fileno())
            gevent.socket.wait_write(self.fileno())

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self._socket.close()

    def reset(self) -> None:
        """Reset the connection: the client meets ECONNRESET."""
        self.prepare_reset()
        self.close()

    def prepare_reset(self) -> None:
        """Make `close()` a reset: that is what the kernel does for a socket that lingers for 0 seconds."""
        if not self.closed:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def wait_command(self) -> list[bytes] | None:
        """Read the next command.

        Returns:
            Its arguments, or None when the client has closed or reset the connection.

        Raises:
            NoCommand: The client sent something else.

        Blocks:
            Until a command is complete and the node is not frozen. A kill or Timeout loses nothing.
        """
        while (args := self._reader.take()) is None:
            if not self.wait_bytes():
                return None
        self.node.wait_thawed()
        return args

    def wait_bytes(self) -> bool:
        """Wait for more bytes. False when the client has closed or reset the connection.

        Blocks:
            Until then, and while the node is frozen. A kill or Timeout loses nothing.
        """
        if self.closed:
            return False
        # First wait, then look whether the node is frozen: it must not read what comes while it is.
        gevent.socket.wait_read(self._socket.fileno())
        self.node.wait_thawed()
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            return False
        self._reader.feed(data)
        return bool(data)

    def perform(self, answer: Answer) -> None:
        """Do what a handler or a script says.

        Raises:
            OSError: The client is gone.
            TypeError: It is no answer.

        Blocks:
            As long as the answer takes.
        """
        match answer:
            case None:
                pass
            case bytes():
                self.send(answer)
            case Pieces(data, size, pause):
                self.send_in_pieces(data, size, pause)
            case Delay(seconds, then):
                gevent.sleep(seconds)
                self.perform(then)
            case Close(after):
                self.send(after)
                self.close()
            case Reset():
                self.reset()
            case _:
                raise TypeError(f"{answer!r} is no answer: return bytes, None, Close, Reset, Pieces or Delay")
