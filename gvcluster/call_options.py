"""What one call can be told: the names of its options, checked once."""

from __future__ import annotations

from typing import Any, TypedDict

from gvcluster.checks import one_of, seconds
from gvcluster.core.address import Address
from gvcluster.core.routing import read_policy
from gvcluster.core.topology import Node
from gvcluster.errors import ConfigError
from gvcluster.options import refuse_unknown


class CallOptions(TypedDict, total=False):
    """The keyword arguments of one call; `Cluster.execute` explains each."""

    node: Any
    route_key: str | bytes | None
    timeout: float | None
    command_timeout: float | None
    retry: str | None
    bulk: bool | None
    read_from: str | None


# The way of a call is the same with these; only its waits and attempts are others.
_SAME_WAY = frozenset(("timeout", "command_timeout", "retry"))


def goes_the_same_way(options: CallOptions, command_timeout: float) -> bool:
    """Whether a call with these options is sent as one without. One that waits longer has a connection of its own.

    Args:
        options: Checked.
        command_timeout: That of the cluster, seconds.
    """
    return _SAME_WAY.issuperset(options) and (options.get("command_timeout") or 0.0) <= command_timeout


def call_options_from(given: CallOptions, known: type = CallOptions) -> CallOptions:
    """Check the options of a call, or those that the TypedDict lists. `node` becomes an Address. Raises ConfigError."""
    refuse_unknown(given, known.__annotations__)
    checked = CallOptions(**given)
    for name, value in given.items():
        if name in ("timeout", "command_timeout") and value is not None:
            seconds(name, value)
    if given.get("retry") is not None:
        one_of("retry", given["retry"], ("safe", "never", "always"))
    if not isinstance(given.get("bulk"), bool | None):
        raise ConfigError(f"bulk must be True, False or None, not {type(given['bulk']).__name__}")
    _check_read_from(given)
    if given.get("node") is not None:
        checked["node"] = _node_address(given["node"])
    return checked


def _check_read_from(given: CallOptions) -> None:
    if given.get("read_from") is None:
        return
    read_policy(given["read_from"])
    if given.get("node") is not None:
        raise ConfigError("give node= or read_from=, not both: a command for one node is served by that node")


def _node_address(node: object) -> Address:
    if isinstance(node, Node | Address):
        return node.address if isinstance(node, Node) else node
    if isinstance(node, str):
        return Address.parse(node)
    raise ConfigError(f'node must be a Node, an Address or "host:port", not {type(node).__name__}')
