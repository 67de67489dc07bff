"""Transactions that watch nothing, over a lane that all share; and which commands may be in a transaction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from gvcluster.call_options import CallOptions
from gvcluster.core.commands import find_command, route
from gvcluster.core.multi import AskedInVain
from gvcluster.core.outcome import Outcome, Unserved, classify
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call, Follow, Progress
from gvcluster.errors import (
    ConfigError,
    CrossSlot,
    GvClusterError,
    NoKey,
    StatefulCommand,
    UnknownCommand,
)
from gvcluster.net.executor import Executor
from gvcluster.net.inquiry import Inquiry
from gvcluster.net.multi import Work, send
from gvcluster.net.pool import NodePool
from gvcluster.net.request import Request, look_at
from gvcluster.net.state import ClusterState

_UNWATCH = encode(("UNWATCH",))
# What a transaction sends by itself.
_OWN = frozenset(("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"))


def call_for(
    slot: int | None, options: CallOptions, state: ClusterState, deadline: float | None, *, read_only: bool
) -> Call:
    """What decisions need to know of a transaction, or of a step on the way to it, which begins now.

    Args:
        deadline: of the whole, if there is one; else the step has one of its own.
    """
    configured = state.options
    timeout = options.get("timeout") or configured.timeout
    until = deadline or monotonic() + timeout
    policy = options.get("retry") or configured.retry
    return Call("the transaction", slot, read_only, False, policy, until - timeout, until, configured.max_redirects)


def carry_out(executor: Executor, work: Work) -> list[Any]:
    """Execute a transaction that watches nothing: the whole of it again, as long as nothing of it has run.

    Raises:
        GvClusterError: how it ended instead.

    Blocks: until EXEC has answered, at most until the call's deadline. A kill or Timeout leaves the connections sound.
    """
    vain = AskedInVain()

    def attempt(target: Follow | None) -> tuple[Any, NodePool | None]:
        pool = pool_for(executor, work.call, target)
        if isinstance(pool, Unserved):
            return pool, None
        asking = target is not None and target.asking
        reply = _send(executor, work, pool, asking=asking)
        return (vain.read(reply, asking=asking) if isinstance(reply, Outcome) else reply), pool

    return pursue(executor, work.call, attempt)  # type: ignore[no-any-return]


def pursue(executor: Executor, call: Call, attempt: Any) -> Any:
    """Attempt and decide until there is no Outcome."""
    progress, target = Progress(), None
    executor.active += 1
    try:
        while True:
            reply, pool = attempt(target)
            if not isinstance(reply, Outcome):
                return reply
            target = executor.react(reply, call, progress, None if pool is None else pool.address)
    finally:
        executor.active -= 1


def pool_for(executor: Executor, call: Call, target: Follow | None) -> NodePool | Unserved:
    if target is not None:
        return executor.runtime.nodes.pool_at(target.address)
    return executor.attempts.pool_for(call)


def _send(executor: Executor, work: Work, pool: NodePool, *, asking: bool) -> Any:
    call, runtime, began = work.call, executor.runtime, monotonic()
    large = runtime.nodes.large
    try:
        lane = pool.wait_lane_for(large.is_large(work.data), call.deadline, on_slow(executor, call, pool))
    except GvClusterError as error:
        return classify(error, call.slot, pool.address)
    reply = send(work, lane, runtime.loop, runtime.state.command_timeout, asking=asking)
    large.forget(work.data, began)
    return reply


def on_slow(executor: Executor, call: Call, pool: NodePool) -> partial[None]:
    return partial(executor.runtime.failover.attend_while_connecting, call.slot, pool)


def admitted(
    args: tuple[Any, ...], slot: int | None, state: ClusterState, inquiry: Callable[[], Inquiry], seconds: float
) -> tuple[Request, int | None]:
    """A command that may be in a transaction of this slot, and the transaction's slot with it.

    Args:
        args: the command.
        slot: of the transaction, if it is known.
        state: of the cluster.
        inquiry: asks a node about what the table does not tell, for so many `seconds` at most.

    Raises:
        ConfigError, RoutingError: it may not.

    Blocks: never; but where a node is asked.
    """
    try:
        command = find_command(args, state.commands)
        if command.name in _OWN:
            raise StatefulCommand(f"{command.name} is sent for you: use watch(), commit() and discard()")
        request = look_at(args, {}, state.commands, state, 0.0)
    except NoKey:
        raise NoKey(f"{command.name} concerns several nodes, and a transaction only one") from None
    except UnknownCommand:
        request = inquiry().look_at(args, {"timeout": seconds}, monotonic())
    if request.exclusive:
        raise ConfigError(f"{request.command.name} may wait in the server, and in a transaction nothing can")
    slots = {each for each in (slot, request.call.slot) if each is not None}
    if len(slots) > 1:
        keys = () if request.command.ask_keys else route(args, state.commands).keys
        raise _several_slots(slots, keys)
    return request, next(iter(slots), None)


def one_slot(slot: int | None, slots: set[int], keys: tuple[Any, ...]) -> int:
    """The slot of a transaction, after keys of these slots have come to it. Raises CrossSlot if they are several."""
    together = slots if slot is None else slots | {slot}
    if len(together) > 1:
        raise _several_slots(together, keys)
    return together.pop()


def _several_slots(slots: set[int], keys: tuple[Any, ...]) -> CrossSlot:
    shown = ", ".join(map(str, sorted(slots)[:5]))
    return CrossSlot(
        f"a transaction is of one hash slot, and with these keys it would be of {len(slots)} ({shown}): give all its"
        " keys one hash tag, such as {user:1}",
        keys=keys,
    )
