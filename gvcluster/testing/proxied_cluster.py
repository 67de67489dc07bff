"""ProxiedCluster: a FaultProxy before each node of a cluster, and the map that leads a client to them."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

import gevent
import gevent.socket
from gevent.monkey import get_original

from gvcluster.core.address import Address
from gvcluster.errors import ConfigError
from gvcluster.testing.errors import LocalClusterError
from gvcluster.testing.faults import Rule
from gvcluster.testing.proxy import FaultProxy
from gvcluster.testing.recorder import Recorder

_PATIENCE = 10.0


class _HasAddress(Protocol):
    @property
    def address(self) -> Address:
        """Where it listens."""


class ProxiedCluster:
    """A proxy before each node. All share their rules, and one recorder.

        with LocalCluster() as servers, ProxiedCluster(servers.nodes) as proxied:
            cluster = gvcluster.connect(proxied.seeds, address_map=proxied.address_map)
            proxied.add(Rule(Cut(end="rst"), probability=0.01))
            ...
            assert all(times <= 1 + proxied.recorder.refused[token] for token, times in proxied.recorder.sent.items())

    Args:
        nodes: Nodes of a LocalCluster or a FakeCluster, or addresses.
        recorder: Counts the commands of all proxies; one of its own by default, which keeps all commands in memory.
        seed: Of what rules leave to chance.
        own_thread: Run the proxies in a thread and a hub of their own. Then neither a busy nor a blocked hub of the
            client holds them up; `when` of rules and `token` of the recorder are called in that thread.

    Attributes:
        proxies: The proxies, in the order of the nodes.
        recorder: Counts the commands.
    """

    def __init__(
        self,
        nodes: Iterable[_HasAddress | tuple[str, int]],
        *,
        recorder: Recorder | None = None,
        seed: int = 0,
        own_thread: bool = False,
    ) -> None:
        self.recorder = Recorder() if recorder is None else recorder
        self.proxies = tuple(
            FaultProxy(_address_of(node), recorder=self.recorder, seed=seed + index) for index, node in enumerate(nodes)
        )
        self._by_target = {proxy.target: proxy for proxy in self.proxies}
        self._thread = _ProxyThread(self.proxies) if own_thread else None

    def __repr__(self) -> str:
        return f"<ProxiedCluster {', '.join(map(repr, self.proxies))}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def seeds(self) -> str:
        """The addresses of the proxies as a client wants them: `127.0.0.1:p,127.0.0.1:p`."""
        return ",".join(str(proxy.address) for proxy in self.proxies)

    def address_map(self, address: Address) -> Address:
        """Tell a client which proxy stands before a node: for the option `address_map`.

        Returns:
            The address of the proxy; that of a node without a proxy as it is.

        Blocks:
            Never.
        """
        proxy = self._by_target.get(address)
        return address if proxy is None else proxy.address

    def proxy_of(self, node: _HasAddress | tuple[str, int]) -> FaultProxy:
        """Find the proxy that stands before a node.

        Raises:
            ConfigError: There is none.

        Blocks:
            Never.
        """
        target = _address_of(node)
        if target not in self._by_target:
            raise ConfigError(f"there is no proxy before {target}")
        return self._by_target[target]

    def start(self) -> Self:
        """Let all proxies listen.

        Returns:
            The cluster itself.

        Blocks:
            Until they listen, some milliseconds if they have a thread of their own.
        """
        if self._thread is not None:
            self._thread.start()
        else:
            for proxy in self.proxies:
                proxy.start()
        return self

    def stop(self) -> None:
        """End all connections, and give the ports back. It can not be started again.

        Blocks:
            Until the greenlets of the proxies have ended, and their thread.
        """
        if self._thread is not None:
            self._thread.stop()
        for proxy in self.proxies:
            proxy.release()

    def add(self, *rules: Rule) -> None:
        """Have all proxies ask these rules, too. A rule counts over all of them.

        Blocks:
            Never.
        """
        for proxy in self.proxies:
            proxy.add(*rules)

    def remove(self, *rules: Rule) -> None:
        """Have none of them ask these rules any more.

        Blocks:
            Never.
        """
        for proxy in self.proxies:
            proxy.remove(*rules)

    def clear(self) -> None:
        """Have them ask no rules any more.

        Blocks:
            Never.
        """
        for proxy in self.proxies:
            proxy.clear()

    def stall(self, *directions: str) -> None:
        """Let nothing pass: `FaultProxy.stall` of all.

        Blocks:
            Never.
        """
        for proxy in self.proxies:
            proxy.stall(*directions)

    def resume(self) -> None:
        """Let everything pass again: `FaultProxy.resume` of all.

        Blocks:
            Never.
        """
        for proxy in self.proxies:
            proxy.resume()

    def reset_connections(self, rst: bool = True) -> None:
        """End all connections: `FaultProxy.reset_connections` of all.

        Blocks:
            Never.
        """
        for proxy in self.proxies:
            proxy.reset_connections(rst)


class _ProxyThread:
    """Runs proxies beside the hub that they are used from.

    The two reach each other by a descriptor and by looking, not by gevent's `run_callback_threadsafe`: that crashes on
    libuv when the other loop is on its way out.
    """

    def __init__(self, proxies: tuple[FaultProxy, ...]) -> None:
        self._proxies = proxies
        self._bell = -1
        self._inbox: deque[Callable[[], object]] = deque()
        self._is_ending = self._has_begun = self._has_ended = False

    def start(self) -> None:
        if self._bell >= 0:
            return
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for proxy in self._proxies:
            proxy.reach = self.call
        start_thread: Callable[..., Any] = get_original("_thread", "start_new_thread")
        start_thread(self._run, ())
        self._wait("begin", lambda: self._has_begun)

    def stop(self) -> None:
        if self._bell >= 0:
            self.call(self._end)
            self._wait("end", lambda: self._has_ended)
            os.close(self._bell)
            self._bell = -1
            for proxy in self._proxies:
                proxy.reach = None

    def call(self, function: Callable[..., object], *args: Any) -> None:
        self._inbox.append(lambda: function(*args))
        os.eventfd_write(self._bell, 1)

    def _wait(self, what: str, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + _PATIENCE
        while not is_so():
            if time.monotonic() > until:
                raise LocalClusterError(f"the thread of the proxies does not {what}")
            gevent.sleep(0.002)

    def _end(self) -> None:
        self._is_ending = True

    def _run(self) -> None:
        try:
            for proxy in self._proxies:
                proxy.start()
            self._has_begun = True
            while not self._is_ending:
                gevent.socket.wait_read(self._bell)
                os.eventfd_read(self._bell)
                while self._inbox:
                    self._inbox.popleft()()
        finally:
            for proxy in self._proxies:
                proxy.stop()
            gevent.get_hub().destroy(destroy_loop=True)
            self._has_ended = True


def _address_of(node: _HasAddress | tuple[str, int]) -> Address:
    return Address(*node) if isinstance(node, tuple) else node.address
