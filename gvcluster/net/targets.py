"""To whom the commands of a pipeline go, each time that some of them are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gvcluster.call_options import CallOptions
from gvcluster.core.commands import Command
from gvcluster.core.outcome import Unserved
from gvcluster.core.routing import ReadPolicy, may_leave_primary, read_policy
from gvcluster.net.executor import Executor
from gvcluster.net.pool import NodePool
from gvcluster.net.readers import Choice
from gvcluster.net.state import ClusterState
from gvcluster.net.volley import Case, Entry


def read_policy_of(commands: Iterable[Command], options: CallOptions, state: ClusterState) -> ReadPolicy | None:
    """Who may serve them, if not only primaries: behind a write, a read must see what it wrote."""
    chosen = options.get("read_from")
    policy = state.read_from if chosen is None else read_policy(chosen)
    return policy if policy is not None and all(map(may_leave_primary, commands)) else None


class Targets:
    """Whom the commands of one sending go to. Those that have the same choice of nodes go to one and the same.

    read_from: who may serve them, if not only primaries. case_of: the Case of an entry, made if there is none.
    """

    def __init__(self, executor: Executor, read_from: ReadPolicy | None, case_of: Callable[[Entry], Case]) -> None:
        self._attempts, self._nodes = executor.attempts, executor.runtime.nodes
        self._read_from, self._case_of = read_from, case_of
        self._chosen: dict[Choice | None, NodePool | Unserved] = {}

    def by_slots(self, slots: Iterable[int | None]) -> list[NodePool | None]:
        """The pool of each command, by its slot alone; None: it must be looked at."""
        if self._read_from is not None:
            return [None if slot is None else self._reader_of(slot, self._read_from) for slot in slots]
        table = self._nodes.table
        return [None if slot is None else table[slot] for slot in slots]

    def _reader_of(self, slot: int, policy: ReadPolicy) -> NodePool | None:
        choice = self._nodes.readers.choice_at(policy, slot)
        if choice is None:
            return None
        pool = self._chosen.get(choice)
        if pool is None:
            reader = self._nodes.readers.pick(choice, ())
            if reader is None:
                return None
            pool = self._chosen[choice] = reader.pool
        return pool if isinstance(pool, NodePool) else None

    def of(self, entry: Entry) -> NodePool | Unserved:
        """The pool of one command, by all that is known of it."""
        target, slot = entry.only_at, entry.slot
        if target is not None:
            return self._nodes.pool_at(target)
        if slot is None:
            if None not in self._chosen:
                self._chosen[None] = self._attempts.pool_for(self._case_of(entry).call)
            return self._chosen[None]
        if self._read_from is not None:
            return self._to_read_from(slot, self._case_of(entry), self._read_from)
        return self._nodes.table[slot] or self._attempts.pool_for(self._case_of(entry).call)

    def _to_read_from(self, slot: int, case: Case, policy: ReadPolicy) -> NodePool | Unserved:
        avoided = case.progress.avoided
        pool = None if avoided else self._reader_of(slot, policy)
        return pool or self._attempts.pool_to_read_from(case.call, avoided)
