"""One node of a LocalCluster: a server process, its port and its folder."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import gevent

from gvcluster.core.address import Address
from gvcluster.testing.control import ControlConnection, wait_for
from gvcluster.testing.errors import LocalClusterError, ServerFailed
from gvcluster.testing.servers import Server, ServerTls, Setting
from gvcluster.testing.views import VIEW_COMMANDS, View, parse_info
from gvcluster.testing.watchdog import Watchdog

# Between looking for a free port and the server's bind, somebody else may take it.
_PORT_ATTEMPTS = 10
# The cluster bus listens on port + 10000.
_BUS = 10000
_TAIL = 2000
# What the servers say of a port that is taken. Between two attempts to get it, seconds.
_TAKEN, _AGAIN = "Address already in use", 0.1


@dataclass(frozen=True)
class NodeOptions:
    """What the nodes of a cluster have in common."""

    server: Server
    node_timeout: float
    config: Mapping[str, Setting] = field(default_factory=dict)
    tls: ServerTls | None = None

    @property
    def password(self) -> str | None:
        """What the config sets as `requirepass`."""
        password = self.config.get("requirepass")
        return None if password is None else str(password)


class Node:
    """A server process. LocalCluster makes it, starts it and ends it.

    Attributes:
        address: Where it listens. Stays the same when it is restarted.
        pid: Of the process; the last one's after it has ended.
        id: Its name in the cluster, 40 hexadecimal digits.
        folder: Has its `nodes.conf` and `server.log`.
        is_paused: It was stopped with `pause()`.
    """

    def __init__(self, options: NodeOptions, watchdog: Watchdog, folder: Path) -> None:
        self.address = Address("127.0.0.1", 0)
        self.pid = 0
        self.id = ""
        self.folder = folder
        self.is_paused = False
        self._options = options
        self._watchdog = watchdog
        folder.mkdir()

    def __repr__(self) -> str:
        return f"<Node {self.address} pid={self.pid}{' paused' if self.is_paused else ''} {self._options.server.name}>"

    @property
    def log(self) -> str:
        """What the server has written so far, all its lives included."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def role(self) -> str:
        """Ask the node what it is: `primary` or `replica`.

        Raises:
            NodeError: It does not answer.

        Blocks:
            Until it answers, at most 5 s.
        """
        return "primary" if self.command("ROLE")[0] == b"master" else "replica"

    @property
    def password(self) -> str | None:
        """What a client must say in AUTH, or None."""
        return self._options.password

    def is_running(self) -> bool:
        """Tell whether the process exists; a paused one does.

        Blocks:
            Until the watchdog process has answered: well below a millisecond.
        """
        return self.pid not in self._watchdog.exit_codes()

    def command(self, *arguments: object, timeout: float = 5.0) -> Any:
        """Run one command on this node, on a connection of its own, without following redirects.

        Args:
            arguments: The command's words: str (sent as UTF-8), bytes, int or float.
            timeout: Seconds for each of connecting, sending and waiting.

        Returns:
            The reply as RESP2 has it: bytes, int, None, or a list of these.

        Raises:
            ReplyError: The node refused, with MOVED or ASK too; `code` is the first word.
            NodeError: It did not answer.

        Blocks:
            Until the reply is in. A kill or Timeout closes the connection; the command may run all the same.
        """
        with self.connection(timeout) as connection:
            return connection.call(*arguments)

    def connection(self, timeout: float = 5.0) -> ControlConnection:
        """Open a connection for several commands, such as ASKING with what follows it. Use it in a `with`.

        Args:
            timeout: Seconds for each of connecting, sending and waiting.

        Raises:
            ConnectFailed: Nobody listens.

        Blocks:
            Until it is connected.
        """
        return ControlConnection(self.address, password=self.password, timeout=timeout, tls=self._options.tls)

    def view(self) -> View:
        """Ask the node for all it says about the cluster."""
        with self.connection(timeout=1.0) as connection:
            replies = connection.calls(VIEW_COMMANDS)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return View.parse(replies)

    def launch(self, timeout: float) -> None:
        """Start it for the first time, on a free port, and wait until it answers."""
        for _ in range(_PORT_ATTEMPTS):
            self.address = Address("127.0.0.1", _free_port())
            try:
                return self.start(timeout)
            except ServerFailed as error:
                if _TAKEN not in str(error):
                    raise
        raise LocalClusterError(f"found no port for a server in {_PORT_ATTEMPTS} attempts")

    def start(self, timeout: float) -> None:
        """Start the process on its port and in its folder, and wait until it answers.

        Started again, it waits until its port is free: while it was down, somebody's connection may have got that one.
        """
        deadline = monotonic() + timeout
        while True:
            try:
                return self._start(max(1.0, deadline - monotonic()))
            except ServerFailed as error:
                if not self.id or _TAKEN not in str(error) or monotonic() > deadline:
                    raise
            gevent.sleep(_AGAIN)

    def _start(self, timeout: float) -> None:
        old_log = len(self.log)
        options = self._options
        tls = options.tls.settings(self.address.port) if options.tls is not None else {}
        config = {**tls, **options.config}
        arguments = options.server.arguments(self.address.port, self.folder, options.node_timeout, config)
        self.pid = self._watchdog.start(arguments, self.folder, self.folder / "server.log")
        self.is_paused = False
        wait_for(lambda: self._starting_objection(old_log), timeout, f"{self!r} starts")
        self.id = self.command("CLUSTER", "MYID").decode()

    def kill(self) -> None:
        """Send SIGKILL, and return when the process is gone and reaped."""
        self._watchdog.signal(self.pid, signal.SIGKILL)
        self.is_paused = False

    def pause(self) -> None:
        """Send SIGSTOP, and return when the process stands still. Its sockets stay open."""
        self._watchdog.signal(self.pid, signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        """Send SIGCONT."""
        self._watchdog.signal(self.pid, signal.SIGCONT)
        self.is_paused = False

    def _starting_objection(self, old_log: int) -> str | None:
        if not self.is_running():
            tail = self.log[old_log:][-_TAIL:]
            raise ServerFailed(
                f"{self._options.server.name} on {self.address} ended at its start. Its log ends with:\n{tail}"
            )
        info = parse_info(self.command("INFO", "server", timeout=1.0))
        # Garnet does not tell. First this: somebody else's server is no fault of the binary.
        if int(info.get("process_id", self.pid)) != self.pid:
            return "another server answers on its port"
        self._options.server.check_reported(info)
        return None


def _free_port() -> int:
    """Ask the kernel for a port, until the port of the cluster bus is free too."""
    while True:
        with socket.socket() as for_clients, socket.socket() as for_bus:
            for_clients.bind(("127.0.0.1", 0))
            port: int = for_clients.getsockname()[1]
            try:
                for_bus.bind(("127.0.0.1", port + _BUS))
            except (OSError, OverflowError):
                continue
            return port
