"""Transactions that watch keys: a connection of their own, from WATCH to EXEC."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from time import monotonic
from typing import Any

from gevent.hub import get_hub

from gvcluster.core.address import Address
from gvcluster.core.commands import Command
from gvcluster.core.multi import PROBE, is_over, not_asked, result_of
from gvcluster.core.outcome import Ask, Doubtful, Failed, Moved, Outcome, Unserved, classify
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call, Follow, Progress
from gvcluster.errors import GvClusterError, ReplyError, TransactionAborted
from gvcluster.net.executor import Executor
from gvcluster.net.multi import Exchange, Work, proved_by
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.pool import NodePool
from gvcluster.net.transactions import on_slow, pool_for, pursue
from gvcluster.records import Record

_UNWATCH = encode(("UNWATCH",))


class Failure(Record):
    """What was met while keys were watched, and which error the caller was told. `read_only`: the call."""

    met: Outcome
    asked: Address
    read_only: bool
    told: GvClusterError


def watch(executor: Executor, keys: tuple[Any, ...], call: Call, *, learns: bool) -> Session:
    """Watch keys over a connection of one's own.

    ASK is waited out: with ASKING the node that imports the slot answers for a key that it does not have yet as if
    there were none, and what the caller read would be wrong.

    Raises:
        GvClusterError: they can not be watched.

    Blocks: until they are watched, at most until the call's deadline. A kill or Timeout closes what was opened.
    """

    def attempt(target: Follow | None) -> tuple[Any, NodePool | None]:
        pool = pool_for(executor, call, target)
        if isinstance(pool, Unserved):
            return pool, None
        try:
            connection = pool.wait_exclusive(call.deadline, on_slow(executor, call, pool))
        except GvClusterError as error:
            return classify(error, call.slot, pool.address), pool
        session = Session(executor, pool, connection, learns=learns)
        met = session.try_watch(keys, call)
        if met is None:
            return session, pool
        session.give_back(clean=True)  # unless it was closed: WATCH was refused, and so nothing is watched
        return not_asked(met), pool

    return pursue(executor, call, attempt)  # type: ignore[no-any-return]


class Session:
    """A connection on which keys are watched. Once it is over, nothing can be done with it but to begin anew.

    `failure`: what has happened to it that another attempt may mend. `learns`: whether MOVED is taken to heart here,
    because nobody else will.
    """

    def __init__(self, executor: Executor, pool: NodePool, connection: MultiplexedConnection, *, learns: bool) -> None:
        self.address, self._loop = pool.address, executor.runtime.loop
        self._executor, self._pool, self._connection, self._learns = executor, pool, connection, learns
        self.is_over = False
        self.failure: Failure | None = None

    def __repr__(self) -> str:
        return f"<Session at {self.address}{' over' if self.is_over else ''}>"

    def watch(self, keys: tuple[Any, ...], call: Call) -> None:
        """Watch more keys. Raises and blocks as `ask`."""
        self.refuse_if_over()
        met = self.try_watch(keys, call)
        if met is not None:
            raise self._failed(met, call)

    def try_watch(self, keys: tuple[Any, ...], call: Call) -> Outcome | None:
        """Watch keys. What was met if they are not watched.

        Blocks: until the reply is in. A kill or Timeout closes the connection.
        """
        data = encode(("WATCH", *keys))
        if self._connection.takes_multi:
            reply = self._ask(data, call.deadline)
        else:
            # The empty transaction comes first, for its EXEC ends every watch.
            replies = self._exchange(PROBE + data, 3, call.deadline, slice(0, 2))
            met = proved_by(replies, self._connection)
            if met is not None:
                self.give_back()
                return met
            assert isinstance(replies, list)
            reply = replies[-1]
        if not isinstance(reply, Exception):
            return None
        if isinstance(reply, GvClusterError):
            reply.maybe_executed = False
        return self._met(reply, call)

    def ask(self, data: bytes, command: Command, call: Call) -> Any:
        """Execute one command at once.

        Raises:
            TransactionAborted: the slot is moving; it is over.
            GvClusterError: all else. It is over if that was no error reply.

        Blocks: until the reply is in. A kill or Timeout closes the connection.
        """
        self.refuse_if_over()
        reply = self._ask(data, call.deadline)
        if isinstance(reply, Exception):
            raise self._failed(self._met(reply, call, script=command.script), call)
        return reply

    def commit(self, work: Work) -> list[Any]:
        """Execute the transaction; it is over then. Returns EXEC's list.

        Raises:
            TransactionAborted: a watched key has changed, or the slot is moving.
            GvClusterError: all else.

        Blocks: until EXEC has answered. A kill or Timeout closes the connection.
        """
        self.refuse_if_over()
        replies = self._exchange(work.data, work.count + 2, work.call.deadline)
        if isinstance(replies, GvClusterError):
            raise self._failed(self._met(replies, work.call), work.call)
        # Where MULTI was refused there was no transaction whose end would have ended the watch.
        self.give_back(clean=is_over(replies) and not isinstance(replies[0], ReplyError))
        result = result_of(replies, work.call.slot, self.address, work.scripts)
        if isinstance(result, Outcome):
            raise self._failed(result, work.call)
        return result

    def unwatch(self, deadline: float) -> None:
        """Watch nothing any more.

        Blocks: until the reply is in. A kill or Timeout closes the connection.
        """
        if not self.is_over:
            self.give_back(clean=self._ask(_UNWATCH, deadline) == b"OK")

    def give_back(self, *, clean: bool = False) -> None:
        """It is over. `clean`: nothing is watched on the connection, and no reply owed. Never switches."""
        if self._loop.is_copy:
            self.is_over = True
        elif not self.is_here():
            self._loop.from_other_threads(self.give_back)
        elif not self.is_over:
            self.is_over = True
            self._pool.give_back(self._connection, clean=clean and not self._connection.closed)

    def __del__(self) -> None:
        """Nobody can commit or end it any more. Never waits."""
        if getattr(self, "is_over", True) or self._connection.closed or sys.is_finalizing():
            return
        self._loop.from_other_threads(self._pool.give_back, self._connection)
        what = f"{self!r} was dropped while keys were watched: use a with statement"
        warnings.warn(what, ResourceWarning, stacklevel=2)

    def is_here(self) -> bool:
        """Whether it belongs to the hub that runs now, and is no forked child's copy."""
        return self._loop.hub is get_hub() and not self._loop.is_copy

    def refuse_if_over(self) -> None:
        """Raise why it is over, if it is."""
        if self.is_over:
            again = TransactionAborted("nothing is watched any more, and so nothing was executed: begin anew")
            raise self.failure.told if self.failure is not None else again

    # -- inside -------------------------------------------------------------------------------------------------------

    def _patience(self, deadline: float) -> float:
        return min(monotonic() + self._executor.runtime.state.command_timeout, deadline)

    def _ask(self, data: bytes, deadline: float) -> Any:
        try:
            return self._connection.call_within(data, self._patience(deadline))
        except BaseException:
            self.give_back()
            raise

    def _exchange(
        self, data: bytes, owed: int, deadline: float, part: slice = slice(None)
    ) -> list[Any] | GvClusterError:
        try:
            return Exchange(data, owed, self._loop, self._patience(deadline), part).wait(self._connection)
        except BaseException:
            self.give_back()
            raise

    def _met(self, error: Exception, call: Call, *, script: bool = False) -> Outcome:
        if not isinstance(error, ReplyError):
            self.give_back()
        return classify(error, call.slot, self.address, script=script)

    def _failed(self, met: Outcome, call: Call) -> GvClusterError:
        """What the caller is told. Where the slot moves, its keys are watched nowhere from now on."""
        told = met.error
        if isinstance(met, Moved | Ask):
            self.give_back()
            told = TransactionAborted("the slot is moving, and nobody watches its keys: nothing was executed")
            told.__cause__ = met.error
        if not isinstance(met, Failed | Doubtful):
            self.failure = Failure(met, self.address, call.read_only, told)
        if isinstance(met, Moved) and self._learns:
            with suppress(GvClusterError):
                self._executor.judge(met, call, Progress(), self.address)
        return told
