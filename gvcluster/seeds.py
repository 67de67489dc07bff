"""The forms of a seed list, and of a URL: a seed list with options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from gvcluster.checks import one_of
from gvcluster.core.address import Address
from gvcluster.errors import ConfigError
from gvcluster.options import ClusterOptions

Seeds = str | Iterable[str | Address | tuple[str, int]]

_SCHEMES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {each: {} for each in ("valkey", "redis", "valkey+cluster", "redis+cluster")}
    | {each: {"tls": True} for each in ("valkeys", "rediss", "valkeys+cluster", "rediss+cluster")}
)


def parse_seeds(seeds: Seeds) -> tuple[Address, ...]:
    """Addresses from `"h:p,h:p"` or a list of str, Address or (host, port). Raises ConfigError."""
    given = seeds.split(",") if isinstance(seeds, str) else _listed(seeds)
    addresses = tuple(dict.fromkeys(_seed(each) for each in given))
    if not addresses:
        raise ConfigError('no seeds: name at least one node, such as "10.0.0.1:6379"')
    return addresses


def _listed(seeds: object) -> tuple[Any, ...]:
    if isinstance(seeds, bytes) or not isinstance(seeds, Iterable):
        raise ConfigError(f'seeds must be "host:port,host:port" or a list, not {type(seeds).__name__}')
    return tuple(seeds)


def _seed(seed: object) -> Address:
    if isinstance(seed, str):
        return Address.parse(seed.strip())
    if isinstance(seed, tuple) and len(seed) == 2 and isinstance(seed[0], str):
        return Address.parse(str(Address(*seed)))
    raise ConfigError(f"a seed must be a str, an Address or a (host, port), not {type(seed).__name__}")


_NOT_IN_A_URL = frozenset(
    "rng credentials address_map socket_options tls on_connect on_disconnect on_event".split(),
)


def parse_url(url: str) -> tuple[str, ClusterOptions]:
    """The seed list and the options of `valkey://user:password@h1:p,h2:p/0?command_timeout=1.5`; `valkeys://` is TLS.

    User and password are percent-decoded once. Raises ConfigError, which never shows the URL: it may hold a password.
    """
    from urllib.parse import parse_qsl

    scheme, _, rest = str(url).partition("://")
    if scheme not in _SCHEMES or not rest:
        known = ", ".join(f"{each}://" for each in sorted(_SCHEMES))
        raise ConfigError(f"the URL must begin with one of {known}, and name nodes behind it: host:port,host:port")
    rest, _, query = rest.partition("?")
    rest, _, db = rest.partition("/")
    userinfo, _, seeds = rest.rpartition("@")
    if "@" in db + query:
        raise ConfigError("user and password of the URL must be percent-encoded: / ? @ and : among others")
    options = {**_SCHEMES[scheme], **_credentials(userinfo)}
    for name, text in [("db", db)] * bool(db) + parse_qsl(query, keep_blank_values=True):
        if name in options or name in ("password", "tls_key_password"):
            raise ConfigError(f"the URL gives {name} twice, or where it would be logged")
        options[name] = _cast(name, text)
    return seeds, ClusterOptions(**options)  # type: ignore[typeddict-item]  # names are checked with the values


def _credentials(userinfo: str) -> dict[str, Any]:
    """`user:password` or `:password`, as options."""
    if not userinfo:
        return {}
    from urllib.parse import unquote

    username, colon, password = userinfo.partition(":")
    if not colon:
        raise ConfigError("the URL's user has no password: write user:password@ or :password@")
    return {"username": unquote(username) or None, "password": unquote(password)}


def _cast(name: str, text: str) -> object:
    """The text of a URL as the option's type."""
    if name in ("connect_timeout", "command_timeout", "timeout", "refresh_interval"):
        return _number(name, text, float)
    if name in ("db", "protocol", "lanes") or name.startswith("max_"):
        return _number(name, text, int)
    if name in ("client_info", "mptcp") or name.startswith("danger_"):
        one_of(name, text.lower(), ("true", "false", "1", "0"))
        return text.lower() in ("true", "1")
    if name in (
        "rng",
        "credentials",
        "address_map",
        "socket_options",
        "tls",
        "on_connect",
        "on_disconnect",
        "on_event",
    ):
        raise ConfigError(f"{name} cannot be given in a URL")
    return text


def _number(name: str, text: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(text)
    except ValueError:
        pass  # it shows the text: it must not be the context of what is raised
    raise ConfigError(f"{name} must be a number in the URL")
