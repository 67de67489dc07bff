"""Which errors pass: after which it is worth trying again."""

from __future__ import annotations

from gvcluster.errors import (
    NodeError,
    PartialFailure,
    PoolError,
    ReplyError,
    RetriesExhausted,
    SlotNotCovered,
    TopologyUnavailable,
)

# What a server has said itself, or may be their cause, does not always pass: see is_refusal.
PASSING = (NodeError, PoolError, PartialFailure, ReplyError, RetriesExhausted, SlotNotCovered, TopologyUnavailable)
# What servers say while they start, change their roles, move slots, wait for replicas (min-replicas-to-write) or run a
# long script.
_SOON = frozenset("LOADING CLUSTERDOWN MASTERDOWN TRYAGAIN MOVED ASK READONLY UNBLOCKED NOREPLICAS BUSY".split())


def is_refusal(error: BaseException) -> bool:
    """Whether a server has said no for good, for instance to the password: it would say so again."""
    met: tuple[object, ...] = (error,)
    if isinstance(error, PartialFailure):
        met = tuple(error.results)
    elif isinstance(error, TopologyUnavailable):
        met = tuple(failure for _, failure in error.failures)
    return any(isinstance(each, ReplyError) and each.code not in _SOON for each in met)
