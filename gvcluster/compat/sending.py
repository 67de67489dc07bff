"""Sends the parts of commands: one alone, or those of many commands together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any

from gvcluster.cluster import Cluster
from gvcluster.compat.nodes import Nodes
from gvcluster.compat.routing import Part, Plan, Queued, Router
from gvcluster.compat.shapes import Shapes
from gvcluster.core.address import Address
from gvcluster.errors import (
    ClosedError,
    ConfigError,
    GvClusterError,
    NodeError,
    ReadOnly,
    Redirected,
    RoutingError,
    StatefulCommand,
    TopologyUnavailable,
)
from gvcluster.net.loop import remaining
from gvcluster.pipeline import Pipeline

# Seconds between two attempts at a command for several nodes, one of which is gone: a failover takes some.
_PAUSE = 0.2


class Sender:
    """Carries plans out over a Cluster, and gives their replies the library's shapes."""

    def __init__(self, cluster: Callable[[], Cluster], router: Router, nodes: Nodes, shapes: Shapes) -> None:
        self._cluster, self._router, self._nodes, self._shapes = cluster, router, nodes, shapes
        self._encode = router.encoder.command

    def execute(self, queued: Queued) -> Any:
        """Carry out one command. Raises the library's exceptions. Blocks: as `Cluster.execute`."""
        args, options = queued.args, queued.options
        # The long way costs a GET 20 µs more.
        if args[0] in self._router.plain and queued.script is None and "target_nodes" not in options:
            try:
                return self._shapes.of_one(args, self._cluster().execute(*self._encode(args)), options)
            except StatefulCommand:
                pass
            except GvClusterError as error:
                return self._shapes.of_one(args, error, options)
        return self._execute(queued)

    def _execute(self, queued: Queued) -> Any:
        try:
            parts, replies, plan = self._answered(queued)
        except GvClusterError as error:
            raise self._shapes.translator.translate(error, queued.args) from error
        return self._shaped(queued, plan, parts, replies)

    def _answered(self, queued: Queued) -> tuple[Sequence[Part], list[Any], Plan]:
        """The parts of a command with their replies; nodes of our choice that are gone give way to others."""
        cluster = self._cluster()
        plan = self._router.plan(queued)
        if not plan.is_chosen:
            return plan.parts, self._send(cluster, plan.parts), plan
        answered: dict[str, tuple[Part, Any]] = {}
        options = cluster._state.options
        deadline = monotonic() + options.timeout
        while True:
            lost = self._ask(cluster, plan, answered, deadline)
            may_go_on = options.retry != "never" and monotonic() < deadline
            if not (lost and may_go_on and self._chooses_anew(cluster, lost, deadline)):
                parts, replies = zip(*answered.values(), strict=True)
                return parts, list(replies), plan
            for name in lost:
                del answered[name]
            plan = self._router.plan(queued)

    def _ask(self, cluster: Cluster, plan: Plan, answered: dict[str, tuple[Part, Any]], deadline: float) -> list[str]:
        """Send what is not answered yet, and return the nodes that were not reached."""
        parts = [part for part in plan.parts if _name(part) not in answered]
        replies = self._send(cluster, parts, timeout=remaining(deadline))
        for part, reply in zip(parts, replies, strict=True):
            answered[_name(part)] = part, reply
        return [name for name, (part, reply) in answered.items() if _has_not_run(part, reply)]

    def _chooses_anew(self, cluster: Cluster, lost: Sequence[str], deadline: float) -> bool:
        """Take another default node; else wait a while, in which another may succeed the one that is gone.

        Returns whether to ask again: not where the client was closed, nor after the deadline.
        """
        if self._cluster() is not cluster:
            return False
        if self._nodes.default_node.name in lost:
            self._nodes.replace_default()
        else:
            cluster._executor_here().pause(_PAUSE)
        try:
            cluster.refresh(timeout=remaining(deadline))
        except (TopologyUnavailable, ClosedError):
            pass  # what it means for the command, the next attempt at it tells
        return self._cluster() is cluster and monotonic() < deadline

    def execute_all(self, commands: Sequence[Queued]) -> list[Any]:
        """Carry out many commands, each node's in one write. Errors stand among the replies, translated."""
        outcomes: list[Any] = []
        plans: list[Plan | Exception] = [self._planned(queued) for queued in commands]
        replies = self._replies(plan for plan in plans if isinstance(plan, Plan))
        for queued, plan in zip(commands, plans, strict=True):
            if not isinstance(plan, Plan):
                outcomes.append(plan)
                continue
            mine = [next(replies) for _ in plan.parts]
            try:
                outcomes.append(self._shaped(queued, plan, plan.parts, mine))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _replies(self, plans: Iterable[Plan]) -> Iterator[Any]:
        """What all their parts are answered, in order."""
        try:
            return iter(self._together(self._cluster(), [part for plan in plans for part in plan.parts]))
        except GvClusterError as error:
            raise self._shapes.translator.translate(error) from error

    def _planned(self, queued: Queued) -> Plan | Exception:
        try:
            return self._router.plan(queued)
        except Exception as error:
            return self._shapes.translator.translate(error, queued.args)

    def _shaped(self, queued: Queued, plan: Plan, parts: Sequence[Part], replies: list[Any]) -> Any:
        """What the replies are to the user. Raises the first error, whose `maybe_executed` is about all parts."""
        try:
            return self._joined(queued, plan, parts, replies)
        except Exception as error:
            if hasattr(error, "maybe_executed"):
                error.maybe_executed = error.maybe_executed or any(map(_may_have_run, replies))
            raise

    def _joined(self, queued: Queued, plan: Plan, parts: Sequence[Part], replies: list[Any]) -> Any:
        args, options = queued.args, {key: each for key, each in queued.options.items() if key != "target_nodes"}
        if plan.join is not None:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise self._shapes.translator.translate(reply, args)
            replies = [plan.join(replies)]
            return self._shapes.of_one(args, replies[0], options)
        values = {}
        for part, reply in zip(parts, replies, strict=True):
            values[_name(part)] = self._shapes.of_one(args, reply, options)
        return self._shapes.together(args, values, options)

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send(self, cluster: Cluster, parts: Sequence[Part], timeout: float | None = None) -> list[Any]:
        """The replies, or errors, in order. `timeout`: seconds; None: the client's own."""
        if len(parts) == 1:
            return [self._outcome(cluster, parts[0], timeout=timeout)]
        return self._together(cluster, parts, timeout=timeout)

    def _together(self, cluster: Cluster, parts: Sequence[Part], timeout: float | None = None) -> list[Any]:
        """All at once; but for what a pipeline does not take, in its place in the order."""
        replies: list[Any] = []
        pipe = cluster.pipeline(timeout=timeout)
        for part in parts:
            try:
                self._append(cluster, pipe, part)
            except GvClusterError as error:
                _send_on(pipe, replies)
                is_for_itself = isinstance(error, ConfigError | RoutingError)
                replies.append(self._outcome(cluster, part, timeout=timeout) if is_for_itself else error)
        _send_on(pipe, replies)
        return [self._followed(cluster, part, reply, timeout) for part, reply in zip(parts, replies, strict=True)]

    def _append(self, cluster: Cluster, pipe: Pipeline, part: Part) -> None:
        if part.script is not None:
            script = cluster.script(part.script.source)
            pipe.append_script(script, part.script.keys, part.script.args)
        elif part.node is not None:
            pipe.append(*part.words, node=_address(part))
        else:
            pipe.append(*part.words, **part.options)

    def _outcome(self, cluster: Cluster, part: Part, timeout: float | None = None) -> Any:
        """The reply, or the error."""
        try:
            return self._reply(cluster, part, timeout=timeout)
        except GvClusterError as error:
            return self._followed(cluster, part, error, timeout)

    def _reply(self, cluster: Cluster, part: Part, timeout: float | None = None) -> Any:
        try:
            if part.script is not None:
                return cluster.script(part.script.source)(part.script.keys, part.script.args)
            if part.node is not None:
                return cluster.execute(*part.words, node=_address(part), timeout=timeout)
            return cluster.execute(*part.words, **part.options, timeout=timeout)
        except StatefulCommand:
            if part.node is None:
                raise
        # Who names the node for what would change a connection that others share gets one of its own for it.
        with cluster.connection(_address(part), timeout=timeout) as connection:
            return connection.execute(*part.words)

    def _followed(self, cluster: Cluster, part: Part, reply: Any, timeout: float | None) -> Any:
        """What the right node says, where `target_nodes` named another one.

        A primary that has become a replica tells so nobody but us: have a newer slot map fetched.
        """
        if _is_demoted(part, reply) and not cluster._state.closing:
            cluster._executor_here().runtime.refresher.schedule()
        if not isinstance(reply, Redirected) or part.node is None or not part.follows:
            return reply
        try:
            return cluster.execute(*part.words, timeout=timeout)
        except GvClusterError as error:
            return error


def _send_on(pipe: Pipeline, replies: list[Any]) -> None:
    """Execute, and add the replies; also where the client was closed meanwhile, if some parts were sent before that."""
    count = len(pipe)
    try:
        replies.extend(pipe.execute())
    except ClosedError as error:
        if not replies:
            raise
        replies.extend([error] * count)


def _address(part: Part) -> Address:
    return Address(part.node.host, part.node.port)


def _name(part: Part) -> str:
    return part.node.name if part.node is not None else ""


def _has_not_run(part: Part, reply: Any) -> bool:
    """Whether it is certain that it did not, so that another node may be asked."""
    return (isinstance(reply, NodeError) and not reply.maybe_executed) or _is_demoted(part, reply)


def _may_have_run(reply: Any) -> bool:
    return not isinstance(reply, GvClusterError) or reply.maybe_executed


def _is_demoted(part: Part, reply: Any) -> bool:
    """Whether a node that the slot map calls a primary has refused to write, as replicas do."""
    is_refusal = isinstance(reply, ReadOnly) and not reply.maybe_executed
    return is_refusal and part.node is not None and part.node.server_type == "primary"
