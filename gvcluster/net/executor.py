"""Send, name the outcome, decide, until answered or out of time: one call from its arguments to its reply."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import gevent

from gvcluster.core.address import Address
from gvcluster.core.commands import Command, CommandTable, Route, block_timeout, route
from gvcluster.core.outcome import Lost, Moved, Outcome, Refused, Unserved, classify
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call, Confirm, Decision, Fail, Follow, Progress, Refetch, decide, exhausted
from gvcluster.core.slots import hash_slot
from gvcluster.errors import (
    BlockedInHub,
    ClosedError,
    GvClusterError,
    NoKey,
    SlotNotCovered,
    StatefulCommand,
    TopologyUnavailable,
    UnknownCommand,
)
from gvcluster.net.loop import TICK
from gvcluster.net.pool import NodePool
from gvcluster.net.runtime import Runtime
from gvcluster.options import CallOptions


@dataclass(frozen=True, slots=True)
class Request:
    """One call, looked at. Times are in seconds.

    data: the packed command. exclusive: it needs a connection of its own.
    command_timeout: one attempt's wait for its reply. block_seconds: how much longer the server may wait by itself,
    which the deadline does not count.
    """

    data: bytes
    call: Call
    exclusive: bool
    command_timeout: float
    block_seconds: float

    def excused(self, seconds: float) -> Request:
        """The same with a deadline that many seconds later."""
        return replace(self, call=replace(self.call, deadline=self.call.deadline + seconds))


class Executor:
    """What executes the commands of one hub."""

    def __init__(self, runtime: Runtime, commands: CommandTable) -> None:
        self.hub = runtime.hub
        self.runtime = runtime
        self.active = 0  # calls that do more than wait for their first reply
        self._state, self._nodes = runtime.state, runtime.nodes
        self._refresher, self._failover = runtime.refresher, runtime.failover
        self._commands = commands
        self._table, self._lone_keys = runtime.nodes.table, commands.lone_keys
        self.keep_time()

    def keep_time(self) -> None:
        """Take over a changed command timeout."""
        self._patience = self._state.patience
        for pool in self._nodes.pools.values():
            pool.keep_time()

    def execute(self, args: tuple[Any, ...]) -> Any:
        """One command with the options of the cluster. This is the hot path: everything rare takes the long way."""
        try:
            slot = hash_slot(args[self._lone_keys[args[0]]])
            lane = self._table[slot].lane  # type: ignore[union-attr]  # None takes the long way, too
            began = monotonic()
            data = encode(args)
        except (LookupError, TypeError, ValueError, AttributeError):
            return self.execute_with(args, {})
        if lane is None:
            return self.execute_with(args, {})
        reply = lane.call(data, began + self._patience)
        if isinstance(reply, Exception):
            request = self._request(args, route(args, self._commands), {}, began)
            return self._pursue(request, classify(reply, slot, lane.address), lane.address)
        return reply

    def execute_with(self, args: tuple[Any, ...], options: CallOptions) -> Any:
        """One command, however it is to be sent. The options' names and values are checked already."""
        if self.is_hub_running():
            raise BlockedInHub("this call would wait, and the hub must not: spawn a greenlet for it")
        if self._state.closing:
            raise ClosedError("the cluster was closed; make a new one")
        began = monotonic()
        way = self._way(args, options)
        self._check(way, options)
        request = self._request(args, way, options, began)
        node = options.get("node")
        if node is not None:
            return self._at_node(request, node)
        return self._pursue(request)

    def is_hub_running(self) -> bool:
        """Whether the caller is the hub itself, which must not wait."""
        return bool(gevent.getcurrent() is self.hub)

    def close(self) -> None:
        """End every call and connection of this hub now. Never switches."""
        self.runtime.nodes.close()

    def drain(self, deadline: float) -> None:
        """Route no new command, and wait until those under way have ended."""
        self._nodes.refuse()
        while (self.active or any(pool.in_flight for pool in self._nodes.pools.values())) and monotonic() < deadline:
            self._nodes.wait_empty(deadline)
            gevent.sleep(TICK)

    # -- before anything is sent --------------------------------------------------------------------------------------

    def _way(self, args: tuple[Any, ...], options: CallOptions) -> Route:
        """What the table knows of the command. A stranger goes only where the caller says, trusted like a script."""
        try:
            return route(args, self._commands)
        except UnknownCommand:
            if options.get("node") is None and options.get("route_key") is None:
                raise
            name = args[0] if isinstance(args[0], str) else args[0].decode("latin-1")
            return Route(Command(name.upper(), -1, script=True), (), None, False, False)

    def _check(self, way: Route, options: CallOptions) -> None:
        command = way.command
        if command.stateful is not None:
            raise StatefulCommand(f"{command.name} would change a connection that others share: {command.stateful}")
        placed = way.slot is not None or options.get("node") is not None or options.get("route_key") is not None
        if not placed and command.request_policy is not None:
            raise NoKey(f"{command.name} concerns several nodes: name one with node=, such as one of cluster.nodes()")

    def _request(self, args: tuple[Any, ...], way: Route, options: CallOptions, began: float) -> Request:
        configured, default = self._state.options, self._state.command_timeout
        block_seconds = (block_timeout(way.command, args) or 0.0) if way.blocking else 0.0
        command_timeout = options.get("command_timeout") or default
        route_key = options.get("route_key")
        call = Call(
            name=way.command.name,
            slot=way.slot if route_key is None else hash_slot(route_key),
            read_only=way.read_only,
            script=way.command.script,
            policy=options.get("retry") or configured.retry,
            began=began,
            deadline=began + (options.get("timeout") or configured.timeout),
            max_redirects=configured.max_redirects,
        )
        # A longer wait than the lane's would be cut short by its watch over the node's silence.
        exclusive = way.blocking or command_timeout > default
        return Request(encode(args), call, exclusive, command_timeout, block_seconds)

    # -- attempts and decisions ---------------------------------------------------------------------------------------

    def _at_node(self, request: Request, address: Address) -> Any:
        """That node only: no redirects, no retries."""
        self.active += 1
        try:
            reply = self._send(request, self._nodes.pool_at(address))
        finally:
            self.active -= 1
        if isinstance(reply, Outcome):
            raise reply.error
        return reply

    def _pursue(self, request: Request, met: Outcome | None = None, asked: Address | None = None) -> Any:
        """Attempt and decide until there is a reply, beginning with what was met already, if anything."""
        progress = Progress()
        target = None
        self.active += 1
        try:
            while True:
                if met is not None:
                    target = self._react(met, request.call, progress, asked)
                sent = monotonic()
                reply, asked = self._attempt(request, target)
                if not isinstance(reply, Outcome):
                    return reply
                met = reply
                if request.block_seconds and not isinstance(met, Refused):
                    request = request.excused(monotonic() - sent)
        finally:
            self.active -= 1

    def _react(self, met: Outcome, call: Call, progress: Progress, asked: Address | None) -> Follow | None:
        """Decide, and do it, waiting included. Returns where to send next; None: by the slot map."""
        progress.errors.append(met.error)
        if self._state.closing:
            raise met.error
        if isinstance(met, Lost | Refused):
            self._refresher.schedule()
        decision = decide(met, call, progress, monotonic(), self._state.options.rng.random())
        if isinstance(decision, Confirm):
            met = decision.claim
            decision = self._confirm(decision, call, progress, asked)
        target = self._obey(decision, met, call, progress, asked)
        now = monotonic()
        if now >= call.deadline:
            raise exhausted(call, progress, now)
        return target

    def _attempt(self, request: Request, target: Follow | None) -> tuple[Any, Address | None]:
        """Send once, and say who was asked. Returns an Outcome instead of an error."""
        call = request.call
        pool = self._pool_for(call) if target is None else self._nodes.pool_at(target.address)
        if isinstance(pool, Unserved):
            return pool, None
        return self._send(request, pool, target is not None and target.asking), pool.address

    def _pool_for(self, call: Call) -> NodePool | Unserved:
        """The pool of the slot's owner; of any primary for a command without a slot."""
        if self._state.topology is None:
            self._refresher.wait_first(call.deadline)
        if call.slot is None:
            assert self._state.topology is not None
            return self._nodes.pool_at(self._state.options.rng.choice(self._state.topology.primaries).address)
        pool = self._table[call.slot]
        if pool is not None:
            return pool
        error = SlotNotCovered(f"no node serves slot {call.slot}: the slot map has no owner for it", slot=call.slot)
        return Unserved(error, fresh=self._state.fetched > call.began)

    def _send(self, request: Request, pool: NodePool, asking: bool = False) -> Any:
        """The reply, or how the attempt ended instead."""
        call = request.call
        try:
            lane = pool.wait_exclusive(call.deadline) if request.exclusive else pool.wait_lane(call.deadline)
        except GvClusterError as error:
            return classify(error, call.slot, pool.address)
        try:
            patience = min(request.command_timeout, call.deadline - monotonic()) + request.block_seconds
            reply = lane.call_within(request.data, monotonic() + patience, asking=asking)
        finally:
            if request.exclusive:
                lane.close()
        if isinstance(reply, Exception):
            return classify(reply, call.slot, pool.address, script=call.script)
        return reply

    def _obey(
        self, decision: Decision, met: Outcome, call: Call, progress: Progress, asked: Address | None
    ) -> Follow | None:
        """Do what was decided, waiting included. Returns where to send next; None: by the slot map."""
        if isinstance(decision, Fail):
            raise decision.error
        if isinstance(decision, Refetch):
            self._refetch(call)
            return None
        if isinstance(decision, Follow):
            progress.redirects += 1
            self._state.redirects += 1
            if isinstance(met, Moved):
                self._nodes.patch(met.slot, decision.address)
                self._refresher.schedule(asked)
            if decision.after:
                gevent.sleep(max(TICK, decision.after))
            return decision
        assert not isinstance(decision, Confirm)
        progress.retries += 1
        self._state.retries += 1
        if decision.refresh:
            self._refresher.schedule()
            self._failover.wait(call.slot, decision.after)
        else:
            gevent.sleep(max(TICK, decision.after))
        return None

    def _refetch(self, call: Call) -> None:
        try:
            self._refresher.fetch(call.deadline)
        except TopologyUnavailable:
            if self._state.topology is None or monotonic() >= call.deadline:
                raise
            gevent.sleep(0.01)

    def _confirm(self, decision: Confirm, call: Call, progress: Progress, asked: Address | None) -> Decision:
        """Believe a script's MOVED only if a fresh slot map says the same; anything else a script says is its own."""
        claim, error = decision.claim, progress.errors[-1]
        if isinstance(claim, Moved) and self._owner_in_fresh_map(call) == claim.address != asked:
            error.maybe_executed = False
            return decide(claim, call, progress, monotonic(), self._state.options.rng.random())
        return Fail(error)

    def _owner_in_fresh_map(self, call: Call) -> Address | None:
        try:
            owner = self._refresher.fetch(call.deadline).owner(call.slot or 0)
        except TopologyUnavailable:
            return None
        return None if owner is None else owner.address
