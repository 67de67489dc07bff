"""The constructor arguments of redis-py's and valkey-py's cluster clients → our seeds and options."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gvcluster.compat.library import Library
from gvcluster.compat.secure import SECURE, secure_options
from gvcluster.compat.urls import options_of_url
from gvcluster.core.address import Address

# Theirs → ours, where the value means the same. None means: as without it.
_RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "client_name": "client_name",
        "protocol": "protocol",
        "max_connections": "max_connections",
        "timeout": "pool_timeout",
        "socket_connect_timeout": "connect_timeout",
        "address_remap": "address_map",
    }
)
# Accepted, and nothing follows from them: we do it anyway, or do it otherwise.
_WITHOUT_EFFECT = frozenset(
    "require_full_coverage reinitialize_steps dynamic_startup_nodes socket_read_size health_check_interval"
    " retry_on_timeout retry_on_error queue_class connection_class driver_info event_dispatcher policy_resolver"
    " maint_notifications_config lib_version"
    # rediscluster's, which others pass to this day (Flask-Caching 2.5), and redis-py drops.
    " skip_full_coverage_check nodemanager_follow_cluster init_slot_cache max_connections_per_node".split()
)
# They would change what the client does in a way that we do not know; None, False and 0 are welcome.
_NOT_SUPPORTED = frozenset(
    "cache cache_config cache_enabled client_cache redis_connect_func valkey_connect_func unix_socket_path"
    " connection_pool single_connection_client".split()
)
_HANDLED = frozenset(
    "host port startup_nodes url cluster_error_retry_attempts retry read_from_replicas load_balancing_strategy"
    " username password encoding encoding_errors decode_responses legacy_responses socket_timeout socket_keepalive"
    " socket_keepalive_options credential_provider lib_name db".split()
)
KNOWN = frozenset((*_RENAMED, *_WITHOUT_EFFECT, *_NOT_SUPPORTED, *_HANDLED, *SECURE))

# Whose time is None waits for ever: a day, for a time without an end has no name in our options.
_FOR_EVER = 86_400.0
# What a call may take besides its replies: connecting, redirects, retries.
_BESIDES = 10.0

# LoadBalancingStrategy → who serves what only reads.
_STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "ROUND_ROBIN": "any",
        "RANDOM": "any",
        "ROUND_ROBIN_REPLICAS": "prefer_replica",
        "RANDOM_REPLICA": "prefer_replica",
    }
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the arguments come to. `options` are those of `gvcluster.Cluster`; the rest is for the facade itself."""

    seeds: tuple[tuple[str, int], ...]
    options: dict[str, Any]
    encoding: str
    encoding_errors: str
    decode_responses: bool
    protocol: int | None
    legacy_responses: bool | None


def arguments_from(given: dict[str, Any], library: Library) -> Arguments:
    """Read what a constructor was given.

    Raises:
        TypeError: A name is unknown; the message has the nearest one that is known.
        RedisClusterException, ValkeyClusterException: No node, `db`, or what is not supported.
    """
    refuse_unknown(given)
    url = given.pop("url", None)
    if url is not None:
        told = options_of_url(str(url), library)
        refuse_unknown(told)
        given = {**given, **told}
    error = library.error("RedisClusterException")
    if "db" in given:
        raise error("Argument 'db' is not possible to use in cluster mode")
    for name in _NOT_SUPPORTED & given.keys():
        if given[name]:
            raise error(f"{name} is not supported by gvcluster")
    protocol = None if given.get("protocol") is None else int(given["protocol"])
    return Arguments(
        _seeds(given, library),
        {**_options(given, protocol, library), **secure_options(given)},
        given.get("encoding") or "utf-8",
        given.get("encoding_errors") or "strict",
        bool(given.get("decode_responses")),
        protocol,
        given.get("legacy_responses"),
    )


def refuse_unknown(given: Mapping[str, Any]) -> None:
    """Raise TypeError for the first name that no version of the libraries has."""
    for name in given:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, sorted(KNOWN), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"unexpected argument {name!r}{hint}")


def _seeds(given: Mapping[str, Any], library: Library) -> tuple[tuple[str, int], ...]:
    nodes = given.get("startup_nodes") or ()
    named = [each.strip() for each in nodes.split(",")] if isinstance(nodes, str) else list(nodes)
    seeds = [_seed(each) for each in named]
    if given.get("host") is not None:
        seeds.append((str(given["host"]), int(given.get("port") or 6379)))
    if not seeds:
        raise library.error("RedisClusterException")(
            f"{library.named('RedisCluster')} requires at least one node to discover the cluster. Please provide host"
            " and port, or startup_nodes, or url"
        )
    return tuple(dict.fromkeys(seeds))


def _seed(node: Any) -> tuple[str, int]:
    """A ClusterNode, `{"host": …, "port": …}`, `"host:port"` or (host, port)."""
    if isinstance(node, str):
        return tuple(Address.parse(node))  # type: ignore[return-value]
    if isinstance(node, Mapping):
        return str(node["host"]), int(node.get("port") or 6379)
    if isinstance(node, tuple | list):
        host, port = node
        return str(host), int(port)
    return str(node.host), int(node.port)


def _options(given: Mapping[str, Any], protocol: int | None, library: Library) -> dict[str, Any]:
    options: dict[str, Any] = {
        ours: given[theirs] for theirs, ours in _RENAMED.items() if given.get(theirs) is not None
    }
    options["protocol"] = protocol or (3 if library.has_legacy_responses else 2)
    options |= {**_times(given), **_retries(given), **_readers(given), **_trust(given)}
    if "lib_name" in given and given["lib_name"] is None:
        options["client_info"] = False
    sockets = tuple(_socket_options(given))
    return {**options, "socket_options": sockets} if sockets else options


def _readers(given: Mapping[str, Any]) -> dict[str, str]:
    """Who serves what only reads."""
    if given.get("load_balancing_strategy") is not None:
        return {"read_from": _STRATEGIES[given["load_balancing_strategy"].name]}
    return {"read_from": "any"} if given.get("read_from_replicas") else {}


def _trust(given: Mapping[str, Any]) -> dict[str, Any]:
    """User and password, or who tells them for each connection. Empty ones are none, as for the libraries."""
    if given.get("credential_provider") is not None:
        return {"credentials": _credentials(given["credential_provider"])}
    if given.get("username"):
        return {"username": given["username"], "password": given.get("password") or ""}
    return {"password": given["password"]} if given.get("password") else {}


def _times(given: Mapping[str, Any]) -> dict[str, float]:
    """The time for one reply, and that for a whole call, which is longer."""
    if "socket_timeout" not in given:
        return {}
    reply = _FOR_EVER if given["socket_timeout"] is None else float(given["socket_timeout"])
    return {"command_timeout": reply, "timeout": max(_BESIDES, 2 * reply)}


def _retries(given: Mapping[str, Any]) -> dict[str, str]:
    """Our deadline takes the place of their number of retries; only none is none."""
    retry, count = given.get("retry"), given.get("cluster_error_retry_attempts")
    if retry is not None:
        count = retry.get_retries() if hasattr(retry, "get_retries") else getattr(retry, "_retries", None)
    return {"retry": "never"} if count == 0 else {}


def _credentials(provider: Any) -> Callable[[Address], tuple[str | None, str]]:
    def credentials(address: Address) -> tuple[str | None, str]:
        told = tuple(provider.get_credentials())
        return (told[0], told[1]) if len(told) > 1 else (None, told[0])

    return credentials


def _socket_options(given: Mapping[str, Any]) -> Iterable[tuple[int, int, int]]:
    if given.get("socket_keepalive") is False:
        yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0
    for name, value in (given.get("socket_keepalive_options") or {}).items():
        yield socket.IPPROTO_TCP, int(name), int(value)
