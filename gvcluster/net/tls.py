"""TLS without I/O of its own: OpenSSL turns bytes into bytes, and a PlainTransport carries them.

So the hub is never blocked, whose context it may be and whether anything is patched or not. Two rules:

- No more than one record is encrypted ahead of the kernel. What is encrypted can not be taken back; what is not, can.
- After each read all that can be decrypted is, so that nothing waits inside OpenSSL without an event to come.
"""

from __future__ import annotations

from _socket import IPPROTO_TCP, SHUT_RD, socket
from ssl import MemoryBIO, SSLError, SSLWantReadError
from typing import TYPE_CHECKING, Any, cast

import gevent
import gevent.socket

from gvcluster.core.address import Address
from gvcluster.core.topology import Node
from gvcluster.errors import ConnectFailed
from gvcluster.net.loop import HubLoop, remaining
from gvcluster.net.transport import PlainTransport
from gvcluster.tls import Tls, explain

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

# The most that one record carries (RFC 8446, 5.1), and OpenSSL makes one record of what fits. Nobody can read a record
# whose last byte is missing: until it is with the kernel, a command that ends in the record is proved not executed.
RECORD = 16 * 1024
# The most that one `send` encrypts: about 0.5 ms on the hub.
TURN_BYTES = 1024 * 1024
# Ciphertext that is read at once. What is left of a record from before and this, decrypted, fit the 64 KiB of a
# connection's buffer.
ROOM = 40 * 1024

# Linux's tcp_info begins with the connection's state; 1 is TCP_ESTABLISHED (linux/tcp.h, net/tcp_states.h).
_TCP_INFO, _ESTABLISHED = getattr(gevent.socket, "TCP_INFO", None), 1


class TlsTransport:
    """Looks like a PlainTransport, and promises the same: `send` and `recv_into` raise BlockingIOError, and never wait.

    unsent: how many bytes, the last that `send` took, are encrypted without being wholly with the kernel. The next
        `send`, which may be an empty one, hands them over first.
    """

    __slots__ = (
        *("__weakref__", "readable", "unsent", "writable"),
        *("_address", "_end", "_incoming", "_is_sending", "_name", "_outgoing", "_plain", "_rest", "_socket"),
        "_tls",
    )

    def __init__(self, sock: socket, loop: HubLoop, context: SSLContext, address: Address, name: str) -> None:
        self._address, self._name = address, name
        self._incoming, self._outgoing = MemoryBIO(), MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._socket, self._plain = sock, PlainTransport(sock, loop)
        self.readable, self.writable = self._plain.readable, self._plain.writable
        self.unsent = 0
        self._rest = memoryview(b"")  # ciphertext that the kernel has not taken yet
        self._is_sending = False  # who runs inside a `send`, in a finalizer say, must leave its ciphertext alone
        self._end: OSError | None = None  # what came behind the last bytes that could be read

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt from the front of `data` as much as the kernel takes, and one record more at most.

        Returns:
            How many bytes were encrypted: whatever happens, they can not be sent again.
        """
        self._is_sending = True
        try:
            self._push()
            taken = self._encrypt(memoryview(data)[:TURN_BYTES])
        finally:
            self._is_sending = False
        if self._socket.fileno() < 0:  # closed by a finalizer meanwhile
            raise ConnectionError("the connection is closed")
        return taken

    def _encrypt(self, data: memoryview) -> int:
        taken = 0
        try:
            while taken < len(data) and not self.unsent:
                count = self._tls.write(data[taken : taken + RECORD])
                taken += count
                self.unsent = count
                self._push_what_goes()
        except SSLError:
            if not taken:
                raise
        return taken

    def recv_into(self, buffer: bytearray) -> int:
        """Decrypt what has come. Returns 0 at the end of the connection, with TLS's goodbye or without."""
        if self._end is not None:
            raise self._end
        data = self._socket.recv(ROOM)
        if not data:
            return 0
        self._incoming.write(data)
        count = self._decrypt(memoryview(buffer))
        if self._outgoing.pending and not self._is_sending:  # the answer to a key update, or an alert
            self._push_what_goes()
        if self._end is not None and not count:
            raise self._end
        if not count:
            raise BlockingIOError
        return count

    def _decrypt(self, view: memoryview) -> int:
        """Read into `view` what can be read. What comes behind it, if it is the end, is for the next who reads."""
        count, read_into = 0, cast("Callable[[int, memoryview], int]", self._tls.read)  # its stub says bytes
        try:
            while count < len(view) and (self._incoming.pending or self._tls.pending()):
                read = read_into(len(view) - count, view[count:])
                if not read:
                    self._end_with(ConnectionError("the node ended the connection"))
                    break
                count += read
        except SSLWantReadError:
            pass
        except SSLError as error:
            end = ConnectionError(explain(error, self._address, self._name))
            end.__cause__ = error
            self._end_with(end)
        return count

    def _end_with(self, end: OSError) -> None:
        self._end = end
        try:
            self._socket.shutdown(SHUT_RD)  # from now on it is readable for ever: there will be a next who reads
        except OSError:
            pass

    def _push_what_goes(self) -> None:
        """Push, and leave errors to the next who reads or sends: they stay, and what was taken must be said first."""
        try:
            self._push()
        except OSError:
            pass

    def _push(self) -> None:
        """Hand ciphertext to the kernel. Raises BlockingIOError when it does not take all."""
        # Whoever is interrupted here proves nothing: the truth is told again at the end.
        unsent, self.unsent = self.unsent, 0
        try:
            while self._rest or self._outgoing.pending:
                if not self._rest:
                    self._rest = memoryview(self._outgoing.read())
                self._rest = self._rest[self._plain.send(self._rest) :]
                if not self._rest:
                    unsent = 0  # the record was the last of what was there
        except OSError:
            self.unsent = unsent
            raise

    # -- beginning and end --------------------------------------------------------------------------------------------

    def wait_handshake(self, loop: HubLoop) -> None:
        """Shake hands. Raises an OSError, and SSLError is one.

        Blocks: until it is done, for ever. A kill or Timeout leaves it half done: close the transport.
        """
        while True:
            try:
                self._tls.do_handshake()
                is_done = True
            except SSLWantReadError:
                is_done = False
            except SSLError:
                self._push_what_goes()  # an alert, which tells the node what was wrong
                raise
            self._wait_pushed(loop)
            if is_done:
                return
            self._wait(self.readable, loop)
            data = self._socket.recv(ROOM)
            if not data:
                raise ConnectionError("the node ended the connection")
            self._incoming.write(data)

    def _wait_pushed(self, loop: HubLoop) -> None:
        while True:
            try:
                return self._push()
            except BlockingIOError:
                self._wait(self.writable, loop)

    def _wait(self, watcher: Any, loop: HubLoop) -> None:
        with loop.only_here():
            loop.hub.wait(watcher)

    def is_at_eof(self) -> bool:
        """Look, without taking anything, whether the peer has ended the connection. Never waits."""
        if _TCP_INFO is None:
            return self._plain.is_at_eof()
        try:  # a goodbye, which can not be told from other records, stands before the end
            return self._socket.getsockopt(IPPROTO_TCP, _TCP_INFO, 1)[0] != _ESTABLISHED
        except OSError:
            return True

    def close(self) -> None:
        """Say goodbye if that can be done at once, and close."""
        # Half a record is not completed: its commands are proved not executed.
        if self._socket.fileno() >= 0 and not self._rest and not self._is_sending:
            try:
                self._tls.unwrap()
            except OSError:  # there is no waiting for the node's own goodbye
                pass
            self._push_what_goes()
        self._plain.close()

    def abandon(self) -> None:
        """Close without a word, in a forked child or after the hub's end: the goodbye is not ours to say."""
        self._plain.abandon()


Transport = PlainTransport | TlsTransport


def wait_tls(sock: socket, loop: HubLoop, tls: Tls, node: tuple[Address, Node | None], deadline: float) -> TlsTransport:
    """Make a connected socket a transport with TLS, its handshake done.

    Args:
        node: where the socket leads to, and what the slot map says of it.

    Blocks: until the handshake is done or the deadline. A kill or Timeout closes the socket.

    Raises:
        ConnectFailed: the handshake failed; the text says why, and what to do. The socket is closed.
    """
    address = node[0]
    try:
        name = tls.name_of(*node)
        transport = TlsTransport(sock, loop, tls.context, address, name)
    except Exception as error:  # of the user's function, or of a name that can not be one
        sock.close()
        raise _failed(address, f"tls_server_name, or the node's own name, can not be used: {error}") from error
    loop.watch_over(transport)
    try:
        with gevent.Timeout(remaining(deadline)) as patience:
            transport.wait_handshake(loop)
    except BaseException as error:
        transport.close()
        if error is patience:
            raise _failed(address, "the TLS handshake took too long: is this a port without TLS?") from error
        if isinstance(error, OSError):
            raise _failed(address, explain(error, address, name)) from error
        raise
    return transport


def _failed(address: Address, why: str) -> ConnectFailed:
    return ConnectFailed(f"no connection to {address}: {why}", address=address)
