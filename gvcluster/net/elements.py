"""The elements of one key, by HSCAN, SSCAN or ZSCAN: page by page, and anew where another server process answers.

A cursor means something only to the process that gave it, for each has a hash seed of its own. A connection leads to
one process as long as it lives, and the process is asked once who it is. As long as it stays the same, its cursor holds
even if the key went away and came back in between: where an element stands depends only on its hash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from gvcluster.core.looks import QUESTIONS, run_id
from gvcluster.core.outcome import Unserved, classify
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call, Follow
from gvcluster.errors import GvClusterError, ProtocolError, ReplyError
from gvcluster.net.executor import Executor
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool
from gvcluster.net.request import look_at
from gvcluster.net.survey import page_of
from gvcluster.net.transactions import on_slow, pool_for, pursue

_WHO = encode(QUESTIONS[1])


class Elements:
    """What goes from page to page. After an error, a kill or a Timeout it goes on from where it was.

    Attributes:
        found: What was fetched, and is to be handed out before the next `go_on`.
        has_ended: Nothing is left to fetch.
    """

    def __init__(
        self,
        here: Callable[[], Executor],
        head: tuple[Any, ...],
        options: tuple[Any, ...],
        timeout: float | None,
        read: Callable[[list[bytes]], list[Any]],
    ) -> None:
        """Begin with a key.

        Args:
            head: the command's name and the key.
            options: what stands behind the cursor.
            timeout: seconds for each page; None: the option of the cluster.
            read: makes elements of a page. Raises ValueError.
        """
        self.found: deque[Any] = deque()
        self._read = read
        self.has_ended = False
        self._here, self._head, self._options, self._timeout = here, head, options, timeout
        self._cursor = b"0"
        self._process: Any = None  # whose it is
        # Who answers on a connection: the id of the process; if it does not tell, an object that stands for it.
        self._processes: WeakKeyDictionary[MultiplexedConnection, Any] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Elements by {self._head[0]} at {self._cursor!r}>"

    def go_on(self) -> None:
        """Fetch a page.

        Raises:
            GvClusterError: as `Executor.execute_with`.

        Blocks: until a node has answered.
        """
        executor = self._here()
        executor.runtime.loop.refuse_to_wait_in_hub()
        executor.refuse_if_closing()
        state = executor.runtime.state
        call = look_at(self._command(b"0"), {"timeout": self._timeout}, state.commands, state, monotonic()).call
        process, (cursor, found) = pursue(executor, call, partial(self._attempt, executor, call))
        # In this order: interrupted in between, by a signal handler that raises, the same page is fetched once more.
        self.found.extend(found)
        self._cursor, self._process, self.has_ended = cursor, process, cursor == b"0"

    def _command(self, cursor: bytes) -> tuple[Any, ...]:
        return (*self._head, cursor, *self._options)

    def _attempt(self, executor: Executor, call: Call, target: Follow | None) -> tuple[Any, NodePool | None]:
        """Who has answered, and what; or how it ended instead."""
        pool = pool_for(executor, call, target)
        if isinstance(pool, Unserved):
            return pool, None
        try:
            lane = pool.wait_lane_for(False, call.deadline, on_slow(executor, call, pool))
            process = self._process_at(lane, executor, call)
            command = encode(self._command(self._cursor if process == self._process else b"0"))
            asking = target is not None and target.asking
            reply = lane.call_within(command, _until(executor, call), asking=asking)
            if isinstance(reply, Exception):
                return classify(reply, call.slot, pool.address), pool
            return (process, self._page(reply, pool)), pool
        except GvClusterError as error:
            return classify(error, call.slot, pool.address), pool

    def _page(self, reply: Any, pool: NodePool) -> tuple[bytes, list[Any]]:
        cursor, found = page_of(reply, pool.address)
        try:
            return cursor, self._read(found)
        except ValueError:
            message = "an answer that does not fit the command: no pairs, or no numbers"
            raise ProtocolError(message, address=pool.address) from None

    def _process_at(self, lane: MultiplexedConnection, executor: Executor, call: Call) -> Any:
        process = self._processes.get(lane)
        if process is None:
            told = lane.call_within(_WHO, _until(executor, call))
            if isinstance(told, GvClusterError) and not isinstance(told, ReplyError):
                raise told
            process = self._processes[lane] = run_id(told) or object()
        return process


def _until(executor: Executor, call: Call) -> float:
    return min(monotonic() + executor.runtime.state.command_timeout, call.deadline)
