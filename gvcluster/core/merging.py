"""Replies of several nodes to one command → one reply, after the command's response policy.

The policies are the servers' (https://valkey.io/topics/command-tips): a command says by its request policy who must be
asked, and by its response policy what becomes of the answers. Nothing here waits or sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gvcluster.core.address import Address
from gvcluster.core.command_spec import Command
from gvcluster.core.topology import Node, Topology
from gvcluster.errors import GvClusterError, PartialFailure, ProtocolError, ReplyError

Replies = Mapping[Address, Any]  # what each node that was asked has answered, or the GvClusterError that it met

_Combine = Callable[[Sequence[Any]], Any]

_LISTS = (list, set, frozenset)  # a RESP3 set comes as either
_REQUEST_POLICIES = ("all_nodes", "all_shards")


def asks_several(command: Command) -> bool:
    """Whether the command, where it names no key, is for all nodes or all shards."""
    return command.request_policy in _REQUEST_POLICIES


def nodes_to_ask(command: Command, topology: Topology) -> tuple[Node, ...]:
    """Whom the request policy names: every node, or one of each shard, which is its primary. Primaries come first."""
    if not asks_several(command):
        return ()
    primaries = topology.primaries
    return (*primaries, *topology.replicas) if command.request_policy == "all_nodes" else primaries


def merge(command: Command, replies: Replies, draw: float) -> Any:
    """Make one reply of those of all nodes.

    Args:
        command: What they were asked.
        replies: By the node's address, in the order in which the nodes are to be named; at least one.
        draw: A random number in [0, 1), for RANDOMKEY.

    Returns:
        `one_succeeded`: the first reply that is no error. `all_succeeded`: the first one. `agg_…`: the numbers, or the
        lists of numbers place by place, taken together. RANDOMKEY: one of the keys. No policy: all lists as one.
        `special` and policies that are not known: a dict of each node's reply; and so if there is no list to join.

    Raises:
        ReplyError: All nodes refused with the same code.
        PartialFailure: Some failed; `results` has what each node answered or met.
        GvClusterError: The one node that was asked failed.
    """
    values = [reply for reply in replies.values() if not isinstance(reply, GvClusterError)]
    wins = _winners(command, values)
    if wins:
        return wins[int(draw * len(wins))]
    _raise_if_failed(command, replies)
    combine = _combination(command, values)
    try:
        return dict(replies) if combine is None else combine(values)
    except (TypeError, ValueError) as error:
        message = f"{command.name}: the nodes' replies can not be taken together: {error}"
        raise ProtocolError(message, maybe_executed=True) from None


def _combination(command: Command, values: Sequence[Any]) -> _Combine | None:
    """What makes one reply of the values; None if each stays as it is."""
    if command.name == "RANDOMKEY":
        return _COMBINATIONS["all_succeeded"]  # nil, and so say all
    if command.response_policy is None:
        return _joined if all(isinstance(value, _LISTS) for value in values) else None
    return _COMBINATIONS.get(command.response_policy)


def _winners(command: Command, values: Sequence[Any]) -> Sequence[Any]:
    """The replies of which any one is the reply to the whole, whatever other nodes met."""
    if command.name == "RANDOMKEY":
        return [key for key in values if key is not None]  # an empty shard must not win
    return values[:1] if command.response_policy == "one_succeeded" else ()


def _raise_if_failed(command: Command, replies: Replies) -> None:
    errors = [reply for reply in replies.values() if isinstance(reply, GvClusterError)]
    if not errors:
        return
    # What has run at one node has run: sent again as a whole, the command would run there twice.
    maybe_executed = len(errors) < len(replies) or any(error.maybe_executed for error in errors)
    if len(errors) == len(replies) and _is_one_error(errors):
        errors[0].maybe_executed = maybe_executed
        raise errors[0]
    first = next(address for address, reply in replies.items() if reply is errors[0])
    raise PartialFailure(
        f"{command.name} failed at {len(errors)} of {len(replies)} nodes; the first, {first}: {errors[0]}",
        results=replies,
        maybe_executed=maybe_executed,
    ) from errors[0]


def _is_one_error(errors: Sequence[GvClusterError]) -> bool:
    """Whether the one error tells all: a bad argument, say, which every node refuses in the same way."""
    codes = {error.code if isinstance(error, ReplyError) else None for error in errors}
    return len(errors) == 1 or (len(codes) == 1 and None not in codes)


def _joined(values: Sequence[Any]) -> list[Any]:
    return [item for value in values for item in value]


def _placewise(function: Callable[[list[int]], int]) -> _Combine:
    """Apply it to numbers, and to lists of numbers place by place."""

    def combine(values: Sequence[Any]) -> Any:
        if not all(isinstance(value, list) for value in values):
            return function([_number(value) for value in values])
        return [function([_number(one) for one in place]) for place in zip(*values, strict=True)]

    return combine


def _number(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{type(value).__name__} is no number")


_COMBINATIONS: Mapping[str, _Combine] = MappingProxyType(
    {
        "all_succeeded": lambda values: values[0],
        "one_succeeded": lambda values: values[0],
        "agg_sum": _placewise(sum),
        "agg_min": _placewise(min),
        "agg_max": _placewise(max),
        "agg_logical_and": _placewise(lambda values: int(all(values))),
        "agg_logical_or": _placewise(lambda values: int(any(values))),
    }
)
