"""The hubs that use a Cluster: one executor for each, made at first use, and dropped when the hub is no more."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from time import monotonic

from gevent._hub_local import get_hub_if_exists
from gevent.hub import get_hub

from gvcluster.errors import ClosedError, ConnectFailed
from gvcluster.net.everywhere import Everywhere
from gvcluster.net.executor import Executor
from gvcluster.net.reading import ReadingExecutor
from gvcluster.net.runtime import Runtime
from gvcluster.net.state import ClusterState
from gvcluster.net.submitter import Submitter
from gvcluster.net.turns import Turns
from gvcluster.reports import PoolStatistics, Statistics, past, total

# Seconds between two looks at whether calls are still under way.
_LOOK_AGAIN = 0.005


class Hubs:
    """The executors of a Cluster."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._executors: list[Executor] = []
        self._commands_before, self._refreshes_before = 0, 0  # of hubs that are no more
        self._lent_before = PoolStatistics(), PoolStatistics()

    def here(self) -> Executor:
        """The executor of the hub that runs now.

        Raises:
            ClosedError: the cluster takes no work any more.
            ConnectFailed: the process may open no more files.
        """
        if self._state.closing:
            raise ClosedError("the cluster was closed; make a new one")
        hub = get_hub()
        for executor in self._living():
            if executor.hub is hub:
                return executor
        try:
            runtime = Runtime(self._state, hub)
        except OSError as cause:
            raise ConnectFailed(f"no way into this hub for other threads: {cause}") from cause
        executor = Executor(runtime) if self._state.read_from is None else ReadingExecutor(runtime)
        executor.submitter, executor.everywhere = Submitter(executor), Everywhere(executor)
        runtime.begin()
        self._executors.append(executor)
        executor.keep_time()  # it may have been changed meanwhile
        if self._state.closed:  # or this: who closed it knew nothing of this hub
            executor.close()
            raise ClosedError("the cluster was closed; make a new one")
        return executor

    def everywhere(self, do: Callable[[Executor], object]) -> None:
        """Have it done in every hub: at once in this one, soon in those of other threads."""
        here = get_hub_if_exists()
        for executor in self._living():
            if executor.hub is here:
                do(executor)
            else:
                executor.runtime.loop.from_other_threads(do, executor)

    def drain(self, deadline: float) -> None:
        """Have all hubs refuse new calls, and wait until those under way have ended, in other threads as well."""
        loop = self.here().runtime.loop
        self._state.closing = True
        self.everywhere(Executor.refuse)
        # Looked at again and again, for no event reaches across hubs; a few milliseconds more do not matter here.
        while any(executor.is_busy() for executor in self._living()) and monotonic() < deadline:
            loop.sleep(_LOOK_AGAIN)

    def _living(self) -> list[Executor]:
        """The executors whose hubs still exist. The connections of the others are closed."""
        for executor in tuple(self._executors):
            if executor.runtime.is_over():
                self._drop(executor)
        return list(self._executors)

    def _drop(self, executor: Executor) -> None:
        runtime = executor.runtime
        try:
            self._executors.remove(executor)
            self._state.runtimes.remove(runtime)
        except ValueError:
            return  # another thread was faster
        self._commands_before += runtime.nodes.commands
        self._refreshes_before += runtime.refresher.refreshes
        self._lent_before = total([self._lent_before, past(runtime.nodes.lent)])
        runtime.abandon()

    def start_over(self) -> None:
        """Begin anew in a forked child, with the slot map as it is. Never switches."""
        self._executors.clear()
        self._state.runtimes.clear()
        self._state.turns = Turns()

    def statistics(self) -> Statistics:
        """Count over all hubs."""
        runtimes = [executor.runtime for executor in self._living()]
        topology = self._state.topology
        nodes = tuple(pool.statistics() for runtime in runtimes for pool in runtime.nodes.all_pools())
        exclusive, blocking = total([self._lent_before, *(runtime.nodes.lent for runtime in runtimes)])
        return Statistics(
            route_version=topology.route_version if topology is not None else 0,
            commands=self._commands_before + sum(runtime.nodes.commands for runtime in runtimes),
            redirects=self._state.redirects,
            retries=self._state.retries,
            refreshes=self._refreshes_before + sum(runtime.refresher.refreshes for runtime in runtimes),
            nodes=nodes,
            exclusive=exclusive,
            blocking=blocking,
        )


def release(state: ClusterState) -> None:
    """The Cluster was collected without close(): have each hub close its connections, and say so.

    A collection strikes anywhere, in any thread: never switches, waits or sends.
    """
    if state.closed or not state.runtimes:
        return
    state.closing = state.closed = True
    seeds = ",".join(map(str, state.seeds))
    for runtime in tuple(state.runtimes):
        if runtime.is_over():
            runtime.abandon()
        else:
            cause = ConnectionError("the Cluster was dropped without close()")
            runtime.loop.from_other_threads(runtime.close, cause)
    warnings.warn(f"a Cluster was dropped without close(): {seeds}", ResourceWarning, stacklevel=2)
