"""Asks nodes, all at once, each for itself: what a slot map says of a node is not what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from gevent.pool import Pool

from gvcluster.cluster import Cluster
from gvcluster.core.address import Address
from gvcluster.errors import AuthFailed, GvClusterError, NodeError, ReplyError, RetriesExhausted

# Nodes that are asked at the same time.
_AT_ONCE = 16

Question = tuple[str, ...]
# (done, of how many)
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one node has answered. Times are in seconds.

    trouble: why it could not be talked to; then there are no replies. replies: each a value, or the ReplyError.
    opening: how long the first reply took, connecting included. pings: how long each PING took.
    """

    address: Address
    trouble: GvClusterError | None = None
    replies: Mapping[Question, Any] = field(default_factory=dict)
    opening: float | None = None
    pings: tuple[float, ...] = ()


def ask_all(
    cluster: Cluster,
    addresses: Iterable[Address],
    questions: Sequence[Question],
    patience: float | None,
    pings: int = 0,
    progress: Progress | None = None,
) -> list[Answers]:
    """Ask all these nodes the same questions.

    Args:
        patience: seconds for each question; the client's `timeout` if None.
        pings: how many PINGs are timed at each, one after the other.
        progress: called whenever one is done.

    Blocks: until each has answered, or its time is over. A kill or Timeout ends all of it.
    """
    wanted, done = list(addresses), 0
    found: dict[Address, Answers] = {}
    pool = Pool(_AT_ONCE)
    try:
        for answers in pool.imap_unordered(
            lambda each: _ask(partial(_reply, cluster, each, patience), each, questions, pings), wanted
        ):
            found[answers.address] = answers
            done += 1
            if progress is not None:
                progress(done, len(wanted))
    finally:
        pool.kill()
    return [found[address] for address in wanted]


def _ask(ask: Callable[[Question], Any], address: Address, questions: Sequence[Question], pings: int) -> Answers:
    try:
        opening, replies = _time(ask), {question: ask(question) for question in questions}
        return Answers(address, None, replies, opening, tuple(_time(ask) for _ in range(pings)))
    except GvClusterError as error:
        return Answers(address, _cause(error))


def _reply(cluster: Cluster, address: Address, patience: float | None, question: Question) -> Any:
    """The reply, or the server's refusal; but who is not let in at all is not asked any further."""
    try:
        return cluster.execute(*question, node=address, timeout=patience)
    except ReplyError as error:
        if isinstance(error, AuthFailed) and error.code != "NOPERM":
            raise
        return error


def _time(ask: Callable[[Question], Any]) -> float:
    began = perf_counter()
    ask(("PING",))
    return perf_counter() - began


def _cause(error: GvClusterError) -> GvClusterError:
    """What the node did, where the call has a longer story."""
    last = error.attempts[-1] if isinstance(error, RetriesExhausted) and error.attempts else error
    return last if isinstance(last, NodeError | AuthFailed) else error
