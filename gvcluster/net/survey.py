"""What a scan asks of the nodes: a look at one, the next keys of one, and who might have a slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from gvcluster.core.address import Address
from gvcluster.core.looks import QUESTIONS, Look, parse_look
from gvcluster.core.members import UnusableMap
from gvcluster.core.retry import backoff
from gvcluster.core.runs import REFUSALS
from gvcluster.core.topology import Topology
from gvcluster.errors import ProtocolError, ReplyError, TopologyUnavailable
from gvcluster.net.executor import Executor


class _Pipeline(Protocol):
    def append(self, *args: Any, node: Any) -> None: ...
    def execute(self) -> list[Any]: ...


class Survey:
    """The nodes of a cluster, as one scan meets them. Whatever fails is raised; nothing is tried twice."""

    def __init__(self, here: Callable[[], Executor], pipeline: Callable[[], _Pipeline], timeout: float) -> None:
        self._here, self._pipeline, self.timeout = here, pipeline, timeout

    def topology(self) -> Topology:
        """The slot map as it is now."""
        executor = self._here()
        executor.refuse_if_closing()
        executor.attempts.wait_for_first_map(monotonic() + self.timeout)
        topology = executor.runtime.state.topology
        assert topology is not None
        return topology

    def look(self, address: Address) -> Look:
        """What the node says of itself.

        Blocks: until it has answered.
        """
        pipe = self._pipeline()
        for question in QUESTIONS:
            pipe.append(*question, node=address)
        nodes, info = pipe.execute()
        for reply in (nodes, info):
            if isinstance(reply, Exception):
                raise reply
        try:
            return parse_look(nodes, info, address)
        except UnusableMap as cause:
            raise ProtocolError(str(cause), address=address) from cause

    def fetch(self, address: Address, command: Sequence[Any]) -> tuple[bytes, list[bytes]]:
        """The next cursor and some keys.

        Blocks: until the node has answered.
        """
        return page_of(self._execute(command, {"node": address}), address)

    def first_cursor(self, slot: int) -> bytes | None:
        """Where CLUSTERSCAN begins with a slot; None where the servers do not know the command.

        Blocks: until a node has answered.
        """
        try:
            reply = self._execute(("CLUSTERSCAN", "0", "SLOT", slot), {})
        except ReplyError as error:
            if error.code in REFUSALS:
                return None
            raise
        return page_of(reply, None)[0]

    def _execute(self, command: Sequence[Any], options: dict[str, Any]) -> Any:
        return self._here().execute_with(tuple(command), {"timeout": self.timeout, **options})  # type: ignore[typeddict-item]

    def translated(self, address: Address) -> Address:
        """Where a node is that only another node has told of, by the user's `address_map`."""
        return self._here().runtime.nodes.redirected_to(address, False)

    def wait_for_news(self, failures: int) -> None:
        """Wait a little, the longer the more often it was in vain, then have the slot map fetched.

        Blocks: until it is in, or nobody gave one.
        """
        executor = self._here()
        executor.refuse_if_closing()
        executor.pause(backoff(failures, executor.runtime.state.options.rng.random()))
        try:
            executor.runtime.refresher.fetch(monotonic() + self.timeout)
        except TopologyUnavailable:
            pass


def page_of(reply: Any, address: Address | None) -> tuple[bytes, list[bytes]]:
    """The next cursor, and what was found. Raises ProtocolError."""
    match reply:
        case [bytes(cursor), list(keys)] if all(isinstance(key, bytes) for key in keys):
            return cursor, keys
    raise ProtocolError("an answer that does not fit the command: no cursor and list", address=address)
