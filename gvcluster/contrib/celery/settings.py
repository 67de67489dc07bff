"""Celery's settings, as seeds and options of a Cluster."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from celery.exceptions import ImproperlyConfigured
from celery.utils.log import get_logger
from kombu.utils.imports import symbol_by_name

from gvcluster.checks import flag, one_of
from gvcluster.cluster import Cluster
from gvcluster.errors import ConfigError
from gvcluster.options import ClusterOptions
from gvcluster.records import Record
from gvcluster.seeds import parse_url

logger = get_logger(__name__)

SCHEME = "gvcluster"
# What Celery itself gives for a setting that the user has not made: it would have a dead node waited for that long.
_NOT_SET = ("redis_socket_timeout", 120.0)
_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "redis_username": "username",
        "redis_password": "password",
        "redis_client_name": "client_name",
        "redis_db": "db",
        "redis_max_connections": "max_connections",
        "redis_socket_connect_timeout": "connect_timeout",
        "redis_socket_timeout": "command_timeout",
    }
)
_TLS: Mapping[str, str] = MappingProxyType(
    {"ssl_ca_certs": "tls_ca_file", "ssl_certfile": "tls_cert_file", "ssl_keyfile": "tls_key_file"}
)
_TRANSPORT = ("seeds", "cluster", "key_format", "push", "result_chord_ordered", "retry_policy", "global_keyprefix")
_RETRY = ("max_retries", "interval_start", "interval_step", "interval_max", "timeout")


class TransportOptions(Record):
    """What `result_backend_transport_options` says, checked.

    `is_tagged`: whether keys have the id in braces. `is_pushed`: whether results are published, and subscribed to.
    `is_ordered`: whether a chord's body gets the results in the order of the header, not in that of their arrival.
    """

    seeds: Any
    cluster: ClusterOptions
    is_tagged: bool
    is_pushed: bool
    is_ordered: bool
    retry_policy: dict[str, Any]


def transport_options(conf: Any) -> TransportOptions:
    """Read `result_backend_transport_options`.

    Raises:
        ImproperlyConfigured: A value makes no sense, or a name is nearly one of ours.
    """
    given = conf.get("result_backend_transport_options") or {}
    for name in given:
        if name not in _TRANSPORT:
            _refuse_near(name)
    key_format, pushed = given.get("key_format", "tagged"), given.get("push", True)
    ordered, policy = given.get("result_chord_ordered", True), dict(given.get("retry_policy") or {})
    try:
        one_of("key_format", key_format, ("tagged", "stock"))
        flag("push", pushed)
        for name in policy:
            one_of("the name of a part of retry_policy", name, _RETRY)
        if not isinstance(given.get("cluster", {}), Mapping):
            raise ConfigError('"cluster" must be a dict of options, as of gvcluster.Cluster')
    except ConfigError as error:
        raise ImproperlyConfigured(f"result_backend_transport_options: {error}") from None
    options = cast(ClusterOptions, dict(given.get("cluster", {})))
    return TransportOptions(given.get("seeds"), options, key_format == "tagged", pushed, bool(ordered), policy)


def _refuse_near(name: str) -> None:
    """Raise for what is misspelt; what other transports know is let be, as in Celery."""
    near = difflib.get_close_matches(name, _TRANSPORT, n=1)
    if near:
        raise ImproperlyConfigured(f"result_backend_transport_options has {name!r}; did you mean {near[0]!r}?")
    logger.warning("gvcluster has no use for %r in result_backend_transport_options", name)


def cluster_from(conf: Any, url: str | None, transport: TransportOptions) -> Cluster:
    """Make the Cluster. No I/O.

    The URL stands above the `redis_…` settings, and the transport option `cluster` above both.

    Raises:
        ImproperlyConfigured: They make no sense, or name no node. The message never shows the URL.
    """
    try:
        seeds, options = _from_url(url)
        seeds = seeds or transport.seeds or _one_host(conf)
        return Cluster(seeds, **cast(ClusterOptions, {**_from_settings(conf), **options, **transport.cluster}))
    except ConfigError as error:
        raise ImproperlyConfigured(f"result_backend: {error}") from None


def _from_url(url: str | None) -> tuple[str, Mapping[str, Any]]:
    """The seeds, perhaps none, and the options."""
    scheme, found, rest = (url or "").partition("://")
    if not found or not rest:
        return "", {"tls": True} if scheme in ("valkeys", "rediss") else {}
    if scheme == SCHEME:
        scheme = "valkey"
    if rest[:1] in "/?":  # no seeds: the parser insists on one
        return "", parse_url(f"{scheme}://none:1{rest}")[1]
    return parse_url(f"{scheme}://{rest}")


def _one_host(conf: Any) -> str:
    if not conf.get("redis_host"):
        raise ConfigError(
            'no node is named: write gvcluster://host:port,host:port, or the transport option "seeds" beside gvcluster://'
        )
    return f"{conf.get('redis_host')}:{conf.get('redis_port') or 6379}"


def _from_settings(conf: Any) -> dict[str, Any]:
    """The `redis_…` settings, as options."""
    options: dict[str, Any] = {}
    for name, option in _OPTIONS.items():
        value = conf.get(name)
        if value and (name, value) != _NOT_SET:
            options[option] = value
    options.update(_tls(conf.get("redis_backend_use_ssl")))
    provider = conf.get("redis_backend_credential_provider")
    if provider:
        options["credentials"] = _credentials(provider)
        options.pop("username", None)
        options.pop("password", None)
    return options


def _tls(given: Any) -> dict[str, Any]:
    """`redis_backend_use_ssl`: True, or redis-py's options."""
    if not given:
        return {}
    options: dict[str, Any] = {"tls": True}
    for name, value in given.items() if isinstance(given, Mapping) else ():
        if name in _TLS:
            options[_TLS[name]] = value
        elif name == "ssl_cert_reqs":
            options["danger_accept_invalid_certificates"] = _accepts_all(value)
        elif name == "ssl_check_hostname":
            options["danger_accept_invalid_hostnames"] = not value
        else:
            known = ", ".join((*_TLS, "ssl_cert_reqs", "ssl_check_hostname"))
            raise ConfigError(f"redis_backend_use_ssl has {name!r}; known are {known}")
    return options


def _accepts_all(value: Any) -> bool:
    """What `ssl_cert_reqs` says: a member of ssl.VerifyMode, or its name."""
    name = str(getattr(value, "name", value)).upper().removeprefix("CERT_")
    one_of("ssl_cert_reqs", name, ("NONE", "OPTIONAL", "REQUIRED"))
    return name == "NONE"


def _credentials(provider: Any) -> Callable[[Any], Any]:
    """A credential provider as redis-py has them, an instance, a class or the path of one, as our option."""
    made = symbol_by_name(provider) if isinstance(provider, str) else provider
    made = made() if isinstance(made, type) else made
    if not callable(getattr(made, "get_credentials", None)):
        raise ConfigError("redis_backend_credential_provider has no get_credentials()")

    def credentials(address: Any) -> Any:
        told = tuple(made.get_credentials())
        return told if len(told) == 2 else told[0]

    return credentials


def without_secrets(url: str | None) -> str:
    """The URL for a log: `gvcluster://user:**@h1:7000`."""
    scheme, _, rest = (url or f"{SCHEME}://").partition("://")
    if scheme != SCHEME:
        scheme = f"{SCHEME}+{scheme}"
    return f"{scheme}://{re.sub(r':.*@', ':**@', rest, flags=re.DOTALL)}"
