"""The URLs of both libraries, also with several hosts: the arguments that they stand for."""

from __future__ import annotations

from typing import Any

from gvcluster.compat.library import Library
from gvcluster.core.address import Address


def options_of_url(url: str, library: Library) -> dict[str, Any]:
    """What a URL says, by the library's own rules.

    Raises:
        ValueError: It makes no sense to the library.
        RedisClusterException, ValkeyClusterException: It is a socket's, or names a database.
    """
    first, others = _hosts_apart(url, library)
    told: dict[str, Any] = library.parse_url(first)
    error = library.error("RedisClusterException")
    if "path" in told:
        raise error(f"{library.named('RedisCluster')} does not currently support Unix Domain Socket connections")
    if told.pop("db", 0) != 0:
        raise error("A ``db`` querystring option can only be 0 in cluster mode")
    if told.pop("connection_class", None) is not None:
        told["ssl"] = True
    told.setdefault("host", "localhost")
    return {**told, "startup_nodes": others} if others else told


def _hosts_apart(url: str, library: Library) -> tuple[str, list[Address]]:
    """The URL with its first host only, as neither library reads several, in its own scheme; and the other hosts."""
    scheme, separator, rest = url.partition("://")
    if scheme.startswith(("redis", "valkey")):
        scheme = scheme.removesuffix("+cluster").replace("valkey", "redis").replace("redis", library.name)
    end = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    userinfo, at, hosts = rest[:end].rpartition("@")
    first, *others = hosts.split(",")
    nodes = [Address.parse(each if ":" in each else f"{each}:6379") for each in others]
    return f"{scheme}{separator}{userinfo}{at}{first}{rest[end:]}", nodes
