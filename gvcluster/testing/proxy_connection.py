"""One connection through a FaultProxy: two ways, on each of which frames are read, judged and sent on."""

from __future__ import annotations

import socket
import struct
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import gevent
import gevent.socket
from gevent.event import Event
from gevent.lock import RLock

from gvcluster.testing.faults import Direction, End, Frame
from gvcluster.testing.frames import CommandFrames, Framer, ReplyFrames, Taken

if TYPE_CHECKING:
    from gvcluster.testing.proxy import FaultProxy

_CHUNK = 65536
# libuv warns of shorter timers.
_TICK = 0.001


class ProxiedConnection:
    """A client's connection and the one to the node behind it.

    Attributes:
        number: 1 for the first connection that the proxy accepted.
        requests, replies: The two ways.
        subscribes: It has been used for subscriptions.
        owed: The commands that the node has still to answer.
        is_over: A fault has ended it; what still comes is thrown away.
    """

    def __init__(self, proxy: FaultProxy, number: int, client: gevent.socket.socket) -> None:
        self.proxy = proxy
        self.number = number
        self.owed: deque[tuple[bytes, ...]] = deque()
        self.subscribes = False
        self.is_over = False
        self.requests: Way = RequestWay(self, "request", CommandFrames())
        self.replies: Way = ReplyWay(self, "reply", ReplyFrames())
        self._client = client
        self._node: gevent.socket.socket | None = None

    def __repr__(self) -> str:
        return f"<ProxiedConnection {self.number} to {self.proxy.target}{' over' if self.is_over else ''}>"

    def carry(self) -> None:
        """Connect to the node, and let everything pass until both sides have ended."""
        try:
            fault = self.proxy.fault_for(Frame("accept", self.proxy.target, self.number, 0, (), b""))
            self.replies.sink = self._client
            if fault is not None:
                fault.do(self.replies, b"")
            if not self.is_over:
                self._carry()
        finally:
            self.close()

    def obey(self, stalled: frozenset[str]) -> None:
        """Let nothing pass in these directions, and everything in others."""
        for way in (self.requests, self.replies):
            way.stall() if way.direction in stalled else way.resume()

    def end(self, how: End) -> None:
        """End both sides: in order ("fin"), or with a reset ("rst")."""
        self.is_over = True
        for each in self._sockets():
            with suppress(OSError):
                if how == "rst":
                    # The kernel resets a connection whose socket lingers for 0 seconds.
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    each.close()
                else:
                    each.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close what is still open."""
        self.is_over = True
        for each in self._sockets():
            each.close()

    def _carry(self) -> None:
        try:
            self._node = gevent.socket.create_connection(self.proxy.target)
        except ConnectionRefusedError:
            self.end("rst")
            self.proxy.go_down()
            return
        except OSError:
            self.end("rst")
            return
        if self.is_over:  # ended while it connected
            return
        for each in self._sockets():
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests.source = self.replies.sink = self._client
        self.replies.source = self.requests.sink = self._node
        other = gevent.spawn(self.requests.carry)
        try:
            self.replies.carry()
            other.join()
        finally:
            other.kill()

    def _sockets(self) -> list[gevent.socket.socket]:
        return [each for each in (self._client, self._node) if each is not None]


class Way:
    """One direction of a connection."""

    source: gevent.socket.socket
    sink: gevent.socket.socket

    def __init__(self, connection: ProxiedConnection, direction: Direction, framer: Framer) -> None:
        self.direction = direction
        self._connection = connection
        self._framer = framer
        self._number = 0
        self._open = Event()  # not stalled
        self._open.set()
        self._turn = RLock()
        self._held: list[bytes] = []
        self._is_closed = False

    # -- for faults ----------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send on, behind what is held. Nothing is sent any more when the connection is over, or this way closed."""
        self._open.wait()
        with self._turn:
            data, self._held = b"".join((*self._held, data)), []
            if not data or self._connection.is_over or self._is_closed:
                return
            try:
                self.sink.sendall(data)
            except OSError:
                self._connection.end("rst")

    def hold(self, data: bytes, frames: int, seconds: float) -> None:
        """Keep a frame until so many are there, or for so long."""
        self._held.append(data)
        if len(self._held) >= frames:
            self.send(b"")
        elif len(self._held) == 1:
            gevent.spawn_later(max(_TICK, seconds), self.send, b"")

    def pause(self, seconds: float) -> None:
        """Wait; with 0, until the receiver, if it is in this hub, has had the occasion to read."""
        if seconds:
            gevent.sleep(max(_TICK, seconds))
        elif not self._connection.is_over:
            # sleep(0) does not poll. The first poll that finds the sink writable finds the client's readable too, the
            # second comes after the client has read.
            with suppress(OSError, ValueError):  # a socket that was closed meanwhile has no number
                gevent.socket.wait_write(self.sink.fileno())
                gevent.socket.wait_write(self.sink.fileno())

    def stall(self) -> None:
        """Let nothing pass until `resume()`."""
        self._open.clear()

    def resume(self) -> None:
        """Let everything pass again."""
        self._open.set()

    def end(self, how: End) -> None:
        """End the connection, or this direction of it."""
        if how != "half":
            self._connection.end(how)
            return
        self._is_closed = True
        with suppress(OSError):
            self.sink.shutdown(socket.SHUT_WR)

    # -- the way -------------------------------------------------------------------------------------------------------

    def carry(self) -> None:
        """Send on what comes, until its end."""
        try:
            while data := self._receive():
                self._pass(self._framer.feed(data))
            if not self._connection.is_over:
                self.send(self._framer.rest)
                self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            # Reset by the one, which the other is to see as well; or closed here.
            self._connection.end("rst")

    def note(self, taken: Taken) -> tuple[bytes, ...]:
        """Which command this is, or is the reply to."""
        raise NotImplementedError

    def count(self, command: tuple[bytes, ...], whole: int) -> None:
        """A frame goes on, so many times as a whole."""

    def _receive(self) -> bytes:
        self._open.wait()
        return self.source.recv(_CHUNK)

    def _pass(self, frames: list[Taken]) -> None:
        """Send on what no fault strikes in as few writes as it came in."""
        sound: list[bytes] = []
        proxy = self._connection.proxy
        for taken in frames:
            self._number += 1
            command, data = self.note(taken), taken[0]
            fault = None
            if proxy.rules and not self._connection.is_over:
                number = self._connection.number
                fault = proxy.fault_for(Frame(self.direction, proxy.target, number, self._number, command, data))
            self.count(command, 1 if fault is None else fault.whole(len(data)))
            if fault is None:
                sound.append(data)
                continue
            self.send(b"".join(sound))
            sound = []
            fault.do(self, data)
        self.send(b"".join(sound))


class RequestWay(Way):
    """From the client to the node."""

    def note(self, taken: Taken) -> tuple[bytes, ...]:
        """The command."""
        return tuple(taken[1])

    def count(self, command: tuple[bytes, ...], whole: int) -> None:
        """Remember who is owed a reply, and tell the recorder."""
        if not command:
            return
        connection = self._connection
        if command[0].upper().endswith(b"SUBSCRIBE"):
            connection.subscribes = True  # the confirmations are like pushes
        else:
            connection.owed.extend([command] * whole)
        connection.proxy.recorder.note_sent(command, 0 if connection.is_over else whole)


class ReplyWay(Way):
    """From the node to the client."""

    _KINDS = (b"message", b"pmessage", b"smessage")

    def note(self, taken: Taken) -> tuple[bytes, ...]:
        """The command that is answered."""
        data = taken[0]
        if data[:1] == b">" or not self._connection.owed or self._is_of_subscriptions(data):
            return ()
        command = self._connection.owed.popleft()
        self._connection.proxy.recorder.note_reply(command, data)
        return command

    def _is_of_subscriptions(self, data: bytes) -> bool:
        """In RESP2, what subscribers get are arrays that begin with one of these words."""
        if not self._connection.subscribes or data[:1] != b"*" or data[4:5] != b"$":
            return False
        word = data.split(b"\r\n", 3)[2]
        return word in self._KINDS or word.endswith(b"subscribe")
