"""Garnet as a server of LocalCluster: where its binary is, and the arguments it is started with.

No Garnet was ever started here, for there is none in the registries that this project uses: the options are read from
its source (libs/host/Configuration/Options.cs, 2.1.4), and tried with a stand-in.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gvcluster.errors import ConfigError
from gvcluster.testing.errors import ServerMissing
from gvcluster.testing.servers import Server, Setting

_NAMES = ("GarnetServer", "garnet-server")
_INSTALL = (
    "dotnet tool install --global garnet-server  # with .NET 8 or 10; or unpack a release of"
    " https://github.com/microsoft/garnet/releases. Then put GarnetServer or garnet-server on PATH"
)


class GarnetServer(Server):
    """Whatever Garnet is on PATH."""

    @property
    def version(self) -> tuple[int, ...]:
        """The Redis that it says it is, as INFO's `redis_version` has it."""
        return (7, 4, 3)

    @property
    def is_garnet(self) -> bool:
        """It is."""
        return True

    def path(self) -> Path:
        """Find the binary on PATH.

        Raises:
            ServerMissing: It is not there. The message says where to get it.
        """
        for name in _NAMES:
            found = shutil.which(name)
            if found is not None:
                return Path(found)
        raise ServerMissing(f"no {' or '.join(_NAMES)} is on PATH. Install it with: {self.install}")

    def check_reported(self, info: Mapping[str, str]) -> None:
        """Only a Garnet tells its `garnet_version`.

        Raises:
            ServerMissing: It is something else.
        """
        if "garnet_version" not in info:
            raise ServerMissing(f"{self.path()} is no Garnet. Install it with: {self.install}")

    def settings_for(self, replicas: int) -> dict[str, Setting]:
        """Replicas read the log, which is off by default. Its pages are twice the store's, its memory two of them."""
        if not replicas:
            return {}
        return {"aof": "true", "aof-memory": "8m", "aof-page-size": "2m", "aof-segment-size": "64m"}

    def arguments(self, port: int, folder: Path, node_timeout: float, config: Mapping[str, Setting]) -> list[str]:
        """The command line of a cluster node on 127.0.0.1. What `config` says wins.

        `requirepass` becomes the password of clients and nodes. A node that has been in its folder before recovers
        what it was, and attaches to its primary again.
        """
        settings: dict[str, Setting] = {
            "port": port,
            "bind": "127.0.0.1",
            "cluster": "true",
            "checkpointdir": str(folder),
            "gossip-delay": 1,
            "gossip-sp": 100,
            "cluster-timeout": max(1, round(node_timeout)),
            # Off by default, where Valkey and Redis have them.
            "lua": "true",
            "enable-debug-command": "yes",
            # The default is 16 GB for each node. The log of the store has at least four pages.
            "m": "64m",
            "p": "1m",
            "i": "4m",
        }
        if (folder / "cluster").exists():
            settings |= {"recover": "true", "cluster-replication-reestablishment-timeout": 5}
        settings |= {name.replace("_", "-"): value for name, value in config.items()}
        settings.pop("masterauth", None)
        password = settings.pop("requirepass", None)
        if password is not None:
            settings |= {"auth": "Password", "password": password}
            settings |= {"cluster-username": "default", "cluster-password": password}
        return [str(self.path()), *_flags(settings)]


def _flags(settings: Mapping[str, Setting]) -> Iterator[str]:
    """Each option may come once only."""
    for name, value in settings.items():
        if not isinstance(value, str) and isinstance(value, Sequence):
            raise ConfigError(f"Garnet takes one value for {name}, not {list(value)}")
        yield f"-{name}" if len(name) == 1 else f"--{name}"
        yield str(value)


GARNET = GarnetServer("garnet", "garnet-server", None, _INSTALL)
