"""LocalCluster: a real cluster on this machine, for tests, demos and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from gvcluster.errors import ConfigError
from gvcluster.testing import forming
from gvcluster.testing.errors import LocalClusterError
from gvcluster.testing.failover import fail_over
from gvcluster.testing.garnet_forming import form_garnets
from gvcluster.testing.node import Node, NodeOptions
from gvcluster.testing.resharding import MovableSlots
from gvcluster.testing.servers import ServerTls, Setting, find_server
from gvcluster.testing.watchdog import Watchdog


class LocalCluster(MovableSlots):
    """Real servers on free ports of 127.0.0.1, which are gone when you are, even after `kill -9`.

    Use it in a `with`, or call `start()` and `stop()`. It needs no monkey-patching and never blocks the hub. It does
    not use gvcluster's client. Without persistence: a node that is restarted has lost its data until it has copied
    them from its primary. After a stop it can be started again, empty and on other ports.

    Args:
        server: `valkey-9.1.2`, `valkey-8.1.8`, `redis-7.0.15` or `redis-6.2.14`, or the beginning, such as `valkey-9`;
            or `garnet`: what `GarnetServer` or `garnet-server` is on PATH. `docs/servers.md` tells what that can do.
        primaries: How many shards to share the slots out to.
        replicas: How many replicas each of them has.
        node_timeout: Seconds after which the nodes suspect one that does not answer; a failover takes a bit longer.
        tls: The certificate with which the servers, and only so, take connections.
        config: More settings for each server: `{"maxmemory": "10mb"}`; options for Garnet. A list gives a setting
            several values.

    Raises:
        ConfigError: No such server, no primaries, or TLS with Garnet.
        ServerMissing: It is not installed. The message has the command that installs it.
    """

    def __init__(
        self,
        server: str = "valkey-9.1.2",
        *,
        primaries: int = 3,
        replicas: int = 1,
        node_timeout: float = 2.0,
        tls: ServerTls | None = None,
        config: Mapping[str, Setting] | None = None,
    ) -> None:
        if primaries < 1 or replicas < 0:
            raise ConfigError(f"a cluster has primaries, not {primaries}, and perhaps replicas, not {replicas}")
        self.server = find_server(server)
        if tls is not None and self.server.is_garnet:
            raise ConfigError("LocalCluster does not know how to start Garnet with TLS")
        self._primaries = primaries
        self._replicas = replicas
        settings = {**self.server.settings_for(replicas), **(config or {})}
        self._options = NodeOptions(self.server, node_timeout, settings, tls)

    def __repr__(self) -> str:
        where = self.seeds if self._watchdog else "not started"
        return f"<LocalCluster {self.server.name} {self._primaries}+{self._primaries * self._replicas} {where}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """Where the nodes' folders are. It is removed at the end.

        Raises:
            LocalClusterError: The cluster is not started.
        """
        return self._running().folder

    @property
    def watchdog_pid(self) -> int:
        """The process that started the servers, and ends them when it sees that this one is gone."""
        return self._running().pid

    def start(self, timeout: float = 30.0) -> Self:
        """Start the servers and form the cluster.

        Args:
            timeout: Seconds for starting, and again for agreeing.

        Returns:
            The cluster itself, when all nodes agree and each replica could take over.

        Raises:
            ServerMissing: The binary is of another version than its name says.
            ServerFailed: A server ended; the message has the tail of its log.
            ClusterTimeout: The nodes did not agree in time.

        Blocks:
            For a bit more than 2 s: so long fresh nodes wait before they serve. A kill or Timeout ends the
            servers.
        """
        if self._watchdog:
            raise LocalClusterError(f"{self!r} runs already")
        self._watchdog = Watchdog()
        try:
            count = self._primaries * (1 + self._replicas)
            self._nodes = tuple(self._new_node(number) for number in range(1, count + 1))
            forming.launch(self._nodes, timeout)
            form = form_garnets if self.server.is_garnet else forming.form
            form(self._nodes, self._primaries, timeout)
            self.wait_until_agreed(timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all servers, whatever state they are in, and remove their folder. Stopping twice does nothing.

        In a forked child it does nothing either: the servers are the parent's.

        Blocks:
            Until the processes are gone and reaped, some 10 ms. After a kill or Timeout they go on their own.
        """
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None and watchdog.is_mine:
            watchdog.stop()

    def kill(self, node: Node) -> None:
        """Kill a node with SIGKILL, paused or not.

        Blocks:
            Until the process is gone and reaped, some milliseconds.
        """
        node.kill()

    def pause(self, node: Node) -> None:
        """Stop a node with SIGSTOP: it answers nobody, but its connections stay open.

        Blocks:
            Until the process stands still, below a millisecond.
        """
        node.pause()

    def resume(self, node: Node) -> None:
        """Let a paused node go on. If it was replaced meanwhile, `wait_until_agreed()` waits until it knows."""
        node.resume()

    def restart(self, node: Node, timeout: float = 30.0) -> None:
        """Start a node again on the same port and in the same folder. If it runs, it is killed first.

        Args:
            node: One of `nodes`.
            timeout: Seconds for starting, and again for rejoining.

        Raises:
            ServerFailed: The server ended; the message has the tail of its log.
            ClusterTimeout: It did not come back in time.

        Blocks:
            Until it and the other live nodes are linked, agree on the slots, and nobody suspects it any more.
        """
        node.kill()
        node.start(timeout)
        self._wait_until_connected(timeout, f"{node!r} rejoins")

    def add_node(self, replica_of: Node | None = None, timeout: float = 30.0) -> Node:
        """Start one more node.

        Args:
            replica_of: The primary that it is to follow; without one it is a primary with no slots.
            timeout: Seconds for starting, and again for joining.

        Returns:
            The new node, which all live nodes know.

        Raises:
            ServerFailed: The server ended; the message has the tail of its log.
            ClusterTimeout: The others did not get to know it in time.

        Blocks:
            For about 2 s. A kill or Timeout may leave it half joined, until `stop()`.
        """
        others = self.live_nodes()
        node = self._new_node(len(self._nodes) + 1)
        self._nodes = (*self._nodes, node)
        node.launch(timeout)
        forming.meet(node, others)
        if replica_of is not None:
            forming.replicate(node, replica_of, timeout)
        self._wait_until_connected(timeout, f"{node!r} joins")
        return node

    def failover(self, node: Node, *, mode: str | None = None, timeout: float = 20.0) -> Node:
        """Make a replica primary with CLUSTER FAILOVER.

        Args:
            node: The replica; or its primary, whose first live replica is taken then.
            mode: `FORCE`, without the primary's consent, or `TAKEOVER`, without anybody's.
            timeout: Seconds.

        Returns:
            The new primary, when all live nodes know it. The old one may still be copying data from it.

        Raises:
            LocalClusterError: The node is a primary without a live replica.
            ClusterTimeout: It did not happen in time; the message may say why the server refuses.

        Blocks:
            Until the live nodes are linked, and then until it has happened, below 0.1 s for each. On Redis, a node
            that was elected less than 4 node timeouts ago waits for the rest of them. A kill or Timeout leaves the
            failover to the servers.
        """
        replica = next(iter(self.replicas_of(node)), node)
        if replica is node and node.role == "primary":
            raise LocalClusterError(f"{node!r} is a primary without a live replica")
        if mode is None:
            # A primary ignores a replica of which it has not heard yet that it is its own; the other says +OK.
            self._wait_until_connected(timeout, f"{replica!r} is ready for a failover")
        fail_over(replica, () if mode is None else (mode,), self._views, timeout)
        return replica

    def _new_node(self, number: int) -> Node:
        watchdog = self._running()
        return Node(self._options, watchdog, watchdog.folder / f"node-{number}")
