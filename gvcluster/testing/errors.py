"""What goes wrong around test clusters: never raised by the client."""

from __future__ import annotations

from gvcluster.errors import GvClusterError


class LocalClusterError(GvClusterError):
    """A test cluster, or a process of it, could not do what was asked."""


class ServerMissing(LocalClusterError):
    """The server is not installed here, or in another version. The message has the command that installs it."""


class ServerFailed(LocalClusterError):
    """A server ended while it was starting. The message has the tail of its log."""


class ClusterTimeout(LocalClusterError, TimeoutError):
    """The cluster did not get there in time. The message says what was missing at the end."""
