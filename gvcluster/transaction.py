"""Transactions: commands of one slot that are executed together or not at all, and keys that are watched meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypedDict

from gvcluster.busy import Busy
from gvcluster.call_options import CallOptions
from gvcluster.core.commands import Command
from gvcluster.core.formatting import format_command
from gvcluster.core.retry import Call
from gvcluster.core.slots import Key, hash_slot
from gvcluster.errors import (
    ConfigError,
)
from gvcluster.net.executor import Executor
from gvcluster.net.multi import Work
from gvcluster.net.request import Request
from gvcluster.net.state import ClusterState
from gvcluster.net.transactions import admitted, call_for, carry_out, one_slot
from gvcluster.net.watched import Failure, Session, watch
from gvcluster.pipeline import raise_first_error


class TransactionOptions(TypedDict, total=False):
    """The keyword arguments of `Cluster.transaction`, which explains each."""

    timeout: float | None
    retry: str | None
    route_key: str | bytes | None


class Transaction:
    """Commands that are executed together, by MULTI … EXEC. Made by `Cluster.transaction`.

        with cluster.transaction("{u1}balance") as tx:
            balance = int(tx.execute("GET", "{u1}balance"))
            tx.append("SET", "{u1}balance", balance - 10)
            tx.append("RPUSH", "{u1}log", "-10")
            tx.commit()

    `execute` sends at once, over the connection that watches, and is no part of the transaction. `append` collects, and
    `commit` sends all of that in one write; where nothing is watched, over the connection that all share. All keys must
    be in one slot: give them one hash tag. After `commit` and `discard` it is as new, and watches nothing: after
    TransactionAborted `watch` again. For one greenlet at a time.
    """

    def __init__(
        self,
        state: ClusterState,
        here: Callable[[], Executor],
        options: CallOptions,
        keys: tuple[Key, ...],
        deadline: float | None = None,
    ) -> None:
        route_key = options.get("route_key")
        self._state, self._here, self._options, self._keys = state, here, options, keys
        self._deadline = deadline  # of all that is done with it; None: each method has the option timeout
        self._home = None if route_key is None else hash_slot(route_key)
        self._slot = self._home
        self._commands: list[tuple[bytes, Command]] = []
        self._session: Session | None = None  # also one that is over, until it is watched or discarded anew
        self._replies: list[Any] | None = None  # of the last commit
        self._is_entered = self._reads_are_over = False
        self._busy = Busy("this transaction waits for a reply: give each greenlet a transaction of its own")

    def __repr__(self) -> str:
        watching = ", watching" if self._session is not None else ""
        return f"<Transaction of {len(self._commands)} commands{watching}>"

    def __len__(self) -> int:
        """How many commands were appended."""
        return len(self._commands)

    def __enter__(self) -> Self:
        """Watch the keys that were given, if any. Raises and blocks as `watch`."""
        self._is_entered = True
        try:
            if self._keys:
                self.watch(*self._keys)
        except BaseException:
            self._is_entered = False
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the watch. What was appended and not committed is not sent.

        Raises:
            ConfigError: The block has come to its end with commands that were neither committed nor discarded.

        Blocks: until the end of the watch is confirmed; not where a kill or Timeout ends the block.
        """
        forgotten = 0 if self._session is not None and self._session.is_over else len(self._commands)
        self._is_entered = False
        try:
            self._end_watch(wait=kind is None or issubclass(kind, Exception))
        finally:
            self._begin_anew(self._session if self.failure is not None else None)
        if forgotten and kind is None:
            raise ConfigError(f"{forgotten} commands were appended and not sent: end with commit(), or with discard()")

    # -- while keys are watched ---------------------------------------------------------------------------------------

    def watch(self, *keys: Key) -> None:
        """Watch keys from now on: `commit` executes nothing if one of them has changed. (WATCH)

        Can be called again for more keys; after a loss to begin anew: what was appended is forgotten then.

        Args:
            keys: All in the slot of the transaction.

        Raises:
            ConfigError, CrossSlot: No key, or keys of another slot; not in a `with` statement. Nothing was sent.
            TransactionAborted: More keys, and the slot has moved meanwhile: nothing is watched any more.
            GvClusterError: As `Cluster.execute`; nothing is watched.

        Blocks: until the server has answered, at most `timeout`; the first time also for a connection of one's own. A
            kill or Timeout closes that.
        """
        self._refuse_after_multi("watch")
        if not keys:
            raise ConfigError("watch needs a key at least")
        if not self._is_entered:
            raise ConfigError("who watches has a connection of his own: use the transaction in a with statement")
        if self._session is not None and self._session.is_over:
            self._begin_anew()
        slot = one_slot(self._slot, {hash_slot(key) for key in keys}, keys)
        call = self._call(slot, read_only=True)
        executor = self._executor()
        with self._busy:
            if self._session is None:
                self._session = watch(executor, keys, call, learns=self._deadline is None)
            else:
                self._session.watch(keys, call)
        self._slot, self._replies = slot, None

    def execute(self, *args: Any) -> Any:
        """Send one command now, over the connection that watches, and return the reply. It is not in the transaction.

        For reads, above all: a write to a watched key counts as a change of it. Keys must be in the transaction's slot.

        Raises:
            ConfigError: Nothing is watched: `append` what belongs to the transaction. Or after `multi`.
            RoutingError: The command can not be in a transaction. Nothing was sent.
            TransactionAborted: The slot has moved meanwhile: nothing is watched any more, begin anew.
            GvClusterError: As `Cluster.execute`, without redirects and retries.

        Blocks: until the reply is in, at most `timeout`. A kill or Timeout closes the connection.
        """
        self._refuse_after_multi("execute")
        if self._session is None:
            raise ConfigError("nothing is watched: append() what belongs to the transaction, or watch() keys first")
        self._session.refuse_if_over()
        request, _ = self._admitted(args)
        self._executor()
        with self._busy:
            call = self._call(self._slot, read_only=request.command.read_only)
            return self._session.ask(request.data, request.command, call)

    def multi(self) -> None:
        """Say that the reads are over: `watch` and `execute` are refused from now on. Nothing is sent."""
        self._reads_are_over = True

    # -- the transaction ----------------------------------------------------------------------------------------------

    def append(self, *args: Any) -> None:
        """Add one command. Nothing is sent yet.

        Args:
            args: As for `Cluster.execute`. All keys must be in the slot of the first.

        Raises:
            ConfigError: The arguments make no sense, or the command may wait in the server.
            RoutingError: Its keys are of another slot; or it is for several nodes, stateful or unknown.

        In each case the transaction stays as it was.

        Blocks: never; but for a command that no table lists, until a node has told where it has its keys.
        """
        self._busy.refuse()
        request, slot = self._admitted(args)
        self._slot, self._replies = slot, None
        self._commands.append((request.data, request.command))

    def append_command(self, format: str | bytes, *values: Any) -> None:
        """Add one command, written as C's printf would: `append_command("SET %s %d", key, 42)`. As `append`."""
        self.append(*format_command(format, *values))

    def commit(self, *, raise_errors: bool = False) -> list[Any]:
        """Execute what was appended, all of it or nothing, and return the replies. The watch is over then. (EXEC)

        Redirects and "not now" are met by sending all of it again, where the server's answer proves that nothing has
        run; but not where keys are watched, for another connection does not watch them.

        Args:
            raise_errors: Raise PartialFailure if there is any error among the replies.

        Returns:
            For each command its reply, or the ReplyError with which it failed while the others were executed. An empty
            list if nothing was appended; where keys are watched, they have not changed then.

        Raises:
            TransactionAborted: A watched key has changed, or its slot has moved: nothing was executed. Begin anew.
            ReplyError: The server refused a command before the execution, and so executed nothing.
            PartialFailure: With `raise_errors`: `results` has all replies and errors, `__cause__` is the first error.
            NodeError, RetriesExhausted: No reply; `maybe_executed` says whether all of it may have run.
            ConfigError: It has keys to watch and is not used in a `with` statement. Nothing was sent.

        Blocks: until EXEC has answered, at most `timeout`. A kill or Timeout ends the wait at once: what was not sent
            yet is not sent; a connection that all share lives on, one that watches is closed. What was appended is
            forgotten in every case.
        """
        self._busy.refuse()
        if self._keys and not self._is_entered:
            raise ConfigError("this transaction has keys to watch: use it in a with statement")
        commands, session = self._commands, self._session
        call = self._call(self._slot, read_only=all(command.read_only for _, command in commands))
        executor, work, replies = self._executor(), Work.of(commands, call), []
        try:
            with self._busy:
                if session is not None:
                    replies, session = session.commit(work), None
                elif commands:
                    replies = carry_out(executor, work)
        finally:
            self._begin_anew(session)
        self._replies = replies
        if raise_errors:
            raise_first_error(replies)
        return replies

    def discard(self) -> None:
        """Forget what was appended, and watch nothing any more.

        Blocks: where keys are watched, until the end of that is confirmed. A kill or Timeout closes the connection.
        """
        self._busy.refuse()
        try:
            self._end_watch(wait=True)
        finally:
            self._begin_anew()
        self._replies = []

    # -- for who calls a function with it -----------------------------------------------------------------------------

    def finish(self) -> list[Any]:
        """What the function has left to do: the commit, if it has neither committed nor discarded."""
        return self.commit() if self._replies is None else self._replies

    @property
    def failure(self) -> Failure | None:
        """What has happened to the watch that another attempt may mend."""
        return None if self._session is None else self._session.failure

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin_anew(self, session: Session | None = None) -> None:
        """Be as new; but for a session that is over and says why."""
        self._commands, self._session, self._slot = [], session, self._home
        self._reads_are_over, self._replies = False, None

    def _end_watch(self, *, wait: bool) -> None:
        session = self._session
        if session is not None and wait and session.is_here() and not self._state.closing:
            session.unwatch(self._call(self._slot, read_only=True).deadline)
        elif session is not None:
            session.give_back()

    def _refuse_after_multi(self, what: str) -> None:
        self._busy.refuse()
        if self._reads_are_over:
            raise ConfigError(f"{what}() after multi(): append() is for what belongs to the transaction")

    def _admitted(self, args: tuple[Any, ...]) -> tuple[Request, int | None]:
        left = self._call(None, read_only=True).deadline - monotonic()
        return admitted(args, self._slot, self._state, lambda: self._executor().inquiry, left)

    def _executor(self) -> Executor:
        if self._session is not None and not self._session.is_here():
            raise ConfigError(f"{self!r} belongs to another hub: make one in each thread and process")
        executor = self._here()
        executor.runtime.loop.refuse_to_wait_in_hub()
        return executor

    def _call(self, slot: int | None, *, read_only: bool) -> Call:
        return call_for(slot, self._options, self._state, self._deadline, read_only=read_only)
