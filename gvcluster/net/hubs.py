"""The hubs that use a Cluster: one executor for each, made at first use."""

from __future__ import annotations

from collections.abc import Callable

from gevent.hub import get_hub

from gvcluster.core.commands import CommandTable
from gvcluster.errors import ClosedError
from gvcluster.net.executor import Executor
from gvcluster.net.runtime import Runtime
from gvcluster.net.state import ClusterState
from gvcluster.reports import NodeStatistics, Statistics


class Hubs:
    """The executors of a Cluster."""

    def __init__(self, state: ClusterState, commands: CommandTable) -> None:
        self._state, self._commands = state, commands
        self._executors: list[Executor] = []

    def here(self) -> Executor:
        """The executor of the hub that runs now.

        Raises:
            ClosedError: the cluster takes no work any more.
        """
        if self._state.closing:
            raise ClosedError("the cluster was closed; make a new one")
        hub = get_hub()
        for executor in tuple(self._executors):
            if executor.hub is hub:
                return executor
        runtime = Runtime(self._state, hub)
        executor = Executor(runtime, self._commands)
        self._state.runtimes.append(runtime)
        self._executors.append(executor)
        return executor

    def everywhere(self, do: Callable[[Executor], object]) -> None:
        """Have it done in every hub: at once in this one, soon in those of other threads."""
        here = get_hub()
        for executor in tuple(self._executors):
            if executor.hub is here:
                do(executor)
            else:
                executor.runtime.loop.from_other_threads(do, executor)

    def statistics(self) -> Statistics:
        """Count over all hubs."""
        runtimes = [executor.runtime for executor in tuple(self._executors)]
        topology = self._state.topology
        return Statistics(
            route_version=topology.route_version if topology is not None else 0,
            commands=sum(runtime.nodes.commands for runtime in runtimes),
            redirects=self._state.redirects,
            retries=self._state.retries,
            refreshes=sum(runtime.refresher.refreshes for runtime in runtimes),
            nodes=tuple(
                NodeStatistics(pool.address, pool.connections, pool.opened, pool.commands, pool.in_flight)
                for runtime in runtimes
                for pool in tuple(runtime.nodes.pools.values())
            ),
        )
