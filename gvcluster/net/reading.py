"""The executor of a cluster that reads from replicas: its hot path takes the next reader in turn, if it is well."""

from __future__ import annotations

from time import monotonic
from typing import Any

from gvcluster.call_options import CallOptions
from gvcluster.core.outcome import classify
from gvcluster.core.packing import Heads, pack
from gvcluster.core.routing import may_leave_primary
from gvcluster.net.executor import Executor
from gvcluster.net.lanes import LATE
from gvcluster.net.large import BULK
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.request import look_at
from gvcluster.net.runtime import Runtime


class ReadingExecutor(Executor):
    """What executes the commands of one hub, where reads need not go to the primary."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._readers, self._choices = runtime.nodes.readers, runtime.nodes.readers.table
        commands = runtime.state.commands
        self._lone_reads = {
            name: position for name, position in commands.lone_keys.items() if may_leave_primary(commands.get(name))
        }
        self._read_heads = Heads(self._lone_reads)

    def refuse(self) -> None:
        """As the executor's."""
        super().refuse()
        self._lone_reads = {}

    def execute(self, args: tuple[Any, ...]) -> Any:
        """One command with the options of the cluster. This is the hot path for reads."""
        lane, is_read = None, False
        try:
            is_read = args[0] in self._lone_reads
            if is_read:
                data, slot = pack(args, self._read_heads)
                lane = self._lane_to_read_from(slot, data)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            pass  # and the long way not from in here: this error, which shows values, would be the context of any other
        if not is_read:
            return super().execute(args)
        began = monotonic()
        if lane is None or lane.owes_since(began) >= LATE:
            return self.execute_with(args, {})
        reply = lane.call(data, began + self._patience)
        if isinstance(reply, Exception):
            request = look_at(args, {}, self._state.commands, self._state, began)
            met = classify(reply, slot, lane.address, script=request.call.script)
            return self.pursue(request, self._readers.judge(met, request.call, lane.address, ()), lane.address)
        return reply

    def execute_by(self, args: tuple[Any, ...], options: CallOptions) -> Any:
        """One command with options of its own: whoever serves it, by the long way."""
        return self.execute_with(args, options)

    def _lane_to_read_from(self, slot: int, data: bytes) -> MultiplexedConnection | None:
        """The lane of the next in turn. None, or an error: this takes the long way."""
        if len(data) > BULK or (self._large and data in self._large):
            return None
        choice = self._choices[slot]
        first = choice.first  # type: ignore[union-attr]  # None takes the long way, too
        reader = first[next(choice.turns) % len(first)]  # type: ignore[union-attr]
        return None if reader.failures else reader.pool.lane or reader.pool.lane_for(False)
