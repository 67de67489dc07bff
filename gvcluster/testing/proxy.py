"""FaultProxy: stands before one node, and does to its connections what networks do on their bad days."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import gevent
import gevent.socket
from gevent._hub_local import get_hub_if_exists
from gevent.hub import Hub, get_hub
from gevent.monkey import get_original

from gvcluster.core.address import Address
from gvcluster.net import forks
from gvcluster.testing.fake_listener import Connections, refuse, reserve
from gvcluster.testing.faults import Rule
from gvcluster.testing.proxy_connection import ProxiedConnection
from gvcluster.testing.proxy_rules import Ruled
from gvcluster.testing.recorder import Recorder

# Seconds between two attempts to reach a node that has refused.
_KNOCK = 0.02


class FaultProxy(Ruled):
    """Listens on loopback, passes everything on to a node and back, and strikes where its rules say.

        with FakeCluster(1) as fake, FaultProxy(fake.nodes[0].address) as proxy:
            cluster = gvcluster.connect(str(proxy.address), address_map=lambda address: proxy.address)
            proxy.add(Rule(Cut(), command="INCR", times=10))                 # ten replies get lost
            try:
                cluster.execute("INCR", "k")
            except gvcluster.ConnectionLost as error:
                assert error.maybe_executed
            assert proxy.recorder.count("INCR", "k") == 1                    # it was not sent again

    Before a whole cluster: `ProxiedCluster`. It needs no monkey-patching. It lives in greenlets of the hub that starts
    it, which must not be blocked; any thread may use its rules and its recorder. While the node refuses connections, so
    does the proxy. A forked child has none of it: all goes on in the parent. The faults are in
    `gvcluster.testing.faults`.

    Args:
        target: Where the node listens: an Address or (host, port).
        host: Where to listen: "127.0.0.1" or "::1".
        rules: The first rules.
        recorder: What counts the commands; one of its own by default, which keeps all of them.
        seed: Of what rules leave to chance.

    Attributes:
        target: The address of the node.
        address: Its own. The port is reserved from now on, also while it is stopped.
        rules: The rules, in the order in which they are asked: the first that strikes a frame is the only one.
        recorder: Counts the commands that come.
        reach: Has a function called in the proxy's hub, if that is another thread's.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        host: str = "127.0.0.1",
        rules: Iterable[Rule] = (),
        recorder: Recorder | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(rules, seed)
        self.target = Address(*target)
        self.recorder = Recorder() if recorder is None else recorder
        self._reserved, self.address = reserve(host, 0)
        self._listener: gevent.socket.socket | None = None
        self._worker: gevent.Greenlet[..., None] | None = None
        self._carriers: dict[ProxiedConnection, gevent.Greenlet[..., None]] = {}
        self._accepted = 0
        self._stalled: frozenset[str] = frozenset()
        self._hub: Hub | None = None
        self.reach: Callable[..., None] | None = None
        self._is_down = False
        forks.remember(self)

    def __repr__(self) -> str:
        return f"<FaultProxy {self.address} before {self.target}, {len(self._carriers)} connections>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # -- all connections at once ---------------------------------------------------------------------------------------

    @property
    def connections(self) -> Connections:
        """How many connections it has accepted so far, and how many of them are open."""
        return Connections(self._accepted, len(self._carriers))

    def stall(self, *directions: str) -> None:
        """Let nothing pass, in "request", "reply", or both directions by default, on all connections, later ones too.

        Blocks:
            Never.
        """
        self._stalled = frozenset(directions or ("request", "reply"))
        self._in_hub(self._obey_stall)

    def resume(self) -> None:
        """Let everything pass, also what a rule's Stall keeps.

        Blocks:
            Never.
        """
        self._stalled = frozenset()
        self._in_hub(self._obey_stall)

    def reset_connections(self, rst: bool = True) -> None:
        """End all connections and go on listening.

        Args:
            rst: Whether both sides meet ECONNRESET, or an orderly close.

        Blocks:
            Never.
        """
        self._in_hub(self._reset, rst)

    def wait_until(self, predicate: Callable[[], object], timeout: float = 5.0) -> None:
        """Wait until something is true: a rule has struck (`lambda: rule.made`), a command was sent.

        Args:
            predicate: Asked every 2 ms.
            timeout: Seconds.

        Raises:
            TimeoutError: It did not become true.

        Blocks:
            Until then. A kill or Timeout changes nothing.
        """
        until = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > until:
                raise TimeoutError(f"not true within {timeout} s: {self!r}")
            gevent.sleep(0.002)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen; again on the same port if it was stopped.

        Returns:
            The proxy itself.

        Blocks:
            Never.
        """
        if self._worker is None:
            self._hub = get_hub()
            self._listener = gevent.socket.socket(fileno=self._reserved.detach())
            self._listen(self._listener)
        return self

    def stop(self) -> None:
        """Listen no more and end all connections. The port stays reserved: connecting is refused.

        Blocks:
            Until its greenlets have ended, about a turn of the hub.
        """
        worker, self._worker = self._worker, None
        _kill(worker)
        listener, self._listener = self._listener, None
        if listener is not None:
            refuse(listener)
            self._reserved = get_original("socket", "socket")(fileno=listener.detach())
        carriers = dict(self._carriers)
        _kill(*carriers.values())
        for connection in carriers:  # a greenlet that had not begun yet has not closed it
            self._forget(connection)

    def release(self) -> None:
        """Stop, and give the port back.

        Blocks:
            As `stop()` does.
        """
        self.stop()
        self._reserved.close()

    def go_down(self) -> None:
        """Refuse connections until the node takes some again: for connections that have found it refusing.

        Blocks:
            Never.
        """
        if self._listener is not None and not self._is_down:
            worker, self._worker = self._worker, gevent.spawn(self._knock)
            if worker is not None:
                worker.kill(block=False)
            self._is_down = True
            refuse(self._listener)

    def _listen(self, listener: gevent.socket.socket) -> None:
        self._is_down = False
        listener.listen(1024)
        self._worker = gevent.spawn(self._accept_all, listener)

    def _accept_all(self, listener: gevent.socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:  # out of file descriptors
                gevent.sleep(_KNOCK)
                continue
            self._accepted += 1
            connection = ProxiedConnection(self, self._accepted, accepted)
            connection.obey(self._stalled)
            self._carriers[connection] = gevent.spawn(self._carry, connection)

    def _carry(self, connection: ProxiedConnection) -> None:
        try:
            connection.carry()
        finally:
            self._forget(connection)

    def _forget(self, connection: ProxiedConnection) -> None:
        connection.close()
        self._carriers.pop(connection, None)

    def _knock(self) -> None:
        while self._listener is not None:
            gevent.sleep(_KNOCK)
            try:
                gevent.socket.create_connection(self.target).close()
            except OSError:
                continue
            if self._listener is not None:
                return self._listen(self._listener)

    def _obey_stall(self) -> None:
        for connection in self._carriers:
            connection.obey(self._stalled)

    def _reset(self, rst: bool) -> None:
        for connection in list(self._carriers):
            connection.end("rst" if rst else "fin")

    def _after_fork(self) -> None:
        """Let go of all copies: what a child took from a connection would be missing in the parent's counts."""
        if self._listener is None:
            return
        hub, copies = get_hub_if_exists(), (self._worker, *self._carriers.values())
        if hub is not None:
            hub.loop.reinit()  # until then the kernel's list of what to watch is the parent's
        for connection in self._carriers:
            connection.close()
        self._listener.close()
        self._worker = self._listener = None
        self._carriers = {}
        if hub is not None and hub is self._hub:
            gevent.killall([each for each in copies if each is not None], block=False)

    def _in_hub(self, function: Callable[..., object], *args: Any) -> None:
        if self.reach is None or self._hub is get_hub():
            function(*args)
        else:
            self.reach(function, *args)


def _kill(*greenlets: gevent.Greenlet[..., None] | None) -> None:
    gevent.killall([greenlet for greenlet in greenlets if greenlet not in (None, gevent.getcurrent())])
