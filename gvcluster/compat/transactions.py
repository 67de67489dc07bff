"""MULTI … EXEC for the facade's pipelines, over `gvcluster.Transaction`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gvcluster.compat.routing import Queued
from gvcluster.compat.shapes import EMPTY_RESPONSE, Shapes
from gvcluster.errors import CrossSlot, GvClusterError, TransactionAborted
from gvcluster.transaction import Transaction


class Multi:
    """One transaction of a pipeline: watched from its first WATCH on, or only executed."""

    def __init__(self, client: Any, shapes: Shapes) -> None:
        self._client, self._shapes = client, shapes
        self._transaction: Transaction = client.gvcluster.transaction()
        self._is_entered = False

    def watch(self, names: Sequence[Any]) -> None:
        """Watch keys. Blocks: until the server has answered."""
        try:
            if not self._is_entered:
                self._transaction.__enter__()
                self._is_entered = True
            self._transaction.watch(*map(self._client.encoder.encode, names))
        except GvClusterError as error:
            raise self._told(error, ("WATCH", *names)) from error

    def ask(self, queued: Queued) -> Any:
        """Execute one command over the connection that watches. Blocks: until the reply is in."""
        try:
            reply = self._transaction.execute(*self._words(queued))
        except GvClusterError as error:
            raise self._told(error, queued.args) from error
        value = self._shapes.of_one(queued.args, reply, queued.options)
        return self._shapes.together(queued.args, {"": value}, queued.options)

    def commit(self, stack: Sequence[Queued]) -> list[Any]:
        """Execute what was queued, all of it or nothing. Blocks: as `Transaction.commit`.

        Raises:
            WatchError: A watched key has changed.
            CrossSlotTransactionError: Its keys are of several slots. (Before redis 6: RedisClusterException.)
        """
        for queued in stack:
            if EMPTY_RESPONSE not in queued.options:
                self._append(queued)
        try:
            replies = iter(self._transaction.commit())
        except GvClusterError as error:
            raise self._told(error, stack[0].args if stack else ()) from error
        return [
            queued.options[EMPTY_RESPONSE] if EMPTY_RESPONSE in queued.options else self._shaped(queued, next(replies))
            for queued in stack
        ]

    def _append(self, queued: Queued) -> None:
        try:
            self._transaction.append(*self._words(queued))
        except GvClusterError as error:
            raise self._told(error, queued.args) from error

    def _words(self, queued: Queued) -> tuple[Any, ...]:
        """What is sent; of a script the source, for nothing can be sent again in the midst of a transaction."""
        encoder, script = self._client.encoder, queued.script
        if script is None:
            return encoder.command(queued.args)  # type: ignore[no-any-return]
        return ("EVAL", encoder.encode(script.source), len(script.keys), *script.keys, *script.args)

    def end(self, *, waits: bool = True) -> None:
        """Watch nothing any more. Blocks: until the server has confirmed it; without `waits` never."""
        if not self._is_entered:
            return
        self._is_entered = False
        if not waits:
            self._transaction.__exit__(BaseException, None, None)
            return
        try:
            self._transaction.discard()
        except BaseException as error:
            self._transaction.__exit__(type(error), error, None)
            if not isinstance(error, GvClusterError):
                raise  # else the connection that watched is gone, and the watch with it
        else:
            self._transaction.__exit__(None, None, None)

    def _shaped(self, queued: Queued, reply: Any) -> Any:
        try:
            return self._shapes.of_one(queued.args, reply, queued.options, plain=self._shapes.plain_in_transactions)
        except Exception as error:
            return error

    def _told(self, error: GvClusterError, args: tuple[Any, ...]) -> Exception:
        if isinstance(error, CrossSlot):
            return self._shapes.translator.cross_slot_transaction()
        if isinstance(error, TransactionAborted):
            error = TransactionAborted("Watched variable changed.")
        return self._shapes.translator.translate(error, args)
