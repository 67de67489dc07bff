"""Addresses of nodes: every way in which people and servers write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gvcluster.errors import ConfigError

# The longest domain name (RFC 1035, 2.3.4), which no printed IP address reaches.
_LONGEST_HOST = 253
# What separates a host from its surroundings in URLs, seed lists and replies; `?` is the servers' "I do not know".
_NEVER_IN_A_HOST = frozenset(" []/@,?#\\\"'<>|")


class Address(NamedTuple):
    """Where a node listens. The host is a name or an IP address; an IPv6 host carries no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address that a user wrote.

        Args:
            text: `host:port`, `[::1]:7000`, or `::1:7000`, which is split at the last colon. Port 1 to 65535.

        Returns:
            The address, the host spelled as in `text`, without brackets.

        Raises:
            ConfigError: There is no port, or the host or the port can not be one.
        """
        try:
            host, port = _split(text)
        except ValueError as error:
            raise ConfigError(f"{error}: write host:port, such as 'localhost:6379' or '[::1]:6379'") from None
        if not 1 <= port <= 65535 or not is_valid_host(host):
            raise ConfigError(f"{_shown(text)} is no address: the host or the port can not be one")
        return cls(host, port)


def parse_redirect_target(text: str, answered_by: Address) -> Address | None:
    """Read what follows the slot in MOVED and ASK.

    The forms are those of Valkey and Redis (`host:port`, `:port`, `?:port`, IPv6 without brackets) and of Garnet
    (`unassigned:0`).

    Args:
        text: The third word of the error reply.
        answered_by: The node that sent it; an empty host means its host.

    Returns:
        The target, or None when the node does not know it (host `?` or port 0): look into a fresh slot map.

    Raises:
        ValueError: It is none of these forms.
    """
    host, port = _split(text)
    if port > 65535:
        raise ValueError(f"{_shown(text)} has a port above 65535")
    if host not in ("", "?") and not is_valid_host(host):
        raise ValueError(f"{_shown(text)} names a host that can not be one")
    if host == "?" or port == 0:
        return None
    return Address(host or answered_by.host, port)


def translate(address: Address, address_map: Callable[[Address], Any] | None) -> Address:
    """Where to connect to instead of `address`, by the user's `address_map`; without one it is the same.

    Raises:
        ValueError: `address_map` refused the address by raising, or returned what is no address.
    """
    if address_map is None:
        return address
    try:
        told = address_map(address)
    except Exception as error:
        raise ValueError(f"address_map refused {address}: {error or type(error).__name__}") from error
    match told:
        case (str(host), int(port)) if is_valid_host(host) and 1 <= port <= 65535:
            return Address(host, int(port))
    raise ValueError(f"address_map must return an Address or (host, port) for {address}, or raise")


def is_valid_host(text: str) -> bool:
    """Tell whether `text` can be a host: printable, without blanks, not too long, and IPv6 where it has a colon."""
    if not 0 < len(text) <= _LONGEST_HOST or not text.isprintable() or not _NEVER_IN_A_HOST.isdisjoint(text):
        return False
    return ":" not in text or _is_ipv6(text)


def _is_ipv6(text: str) -> bool:
    import ipaddress  # here: most clusters have none

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _split(text: str) -> tuple[str, int]:
    """Split at the last colon and take the brackets off. The port is checked to be a number, the host not at all."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{_shown(text)} has no port")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise ValueError(f"{_shown(text)} has no number as its port")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    return host, int(port)


def _shown(text: str) -> str:
    """`text` for an error message: shortened, and hidden where it might hold a password."""
    return "what stands around the '@'" if "@" in text else repr(text[:80])
