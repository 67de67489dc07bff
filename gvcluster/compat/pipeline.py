"""Pipelines of the facade: commands that are queued and sent together, and transactions, also watched ones."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from gvcluster.compat.routing import Queued
from gvcluster.compat.sending import Sender
from gvcluster.compat.shapes import Shapes
from gvcluster.compat.transactions import Multi
from gvcluster.errors import GvClusterError


class FacadePipeline:
    """Before the library's command mixins among the bases: their methods queue, and return the pipeline.

    Commands may be of any slots and for any nodes, PUBLISH, MGET, EVALSHA and blocking ones too. With
    `transaction=True`, and after `watch`, it is a transaction instead, and all keys must be of one slot.
    """

    _is_async_client = False

    def __init__(self, client: Any, sender: Sender, shapes: Shapes, transaction: bool) -> None:
        self._client, self._sender, self._shapes = client, sender, shapes
        self._transaction = transaction
        self._multi: Multi | None = None
        self.command_stack: list[Queued] = []
        self.explicit_transaction = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.command_stack)} commands>"

    def __len__(self) -> int:
        return len(self.command_stack)

    def __bool__(self) -> bool:
        """True, also while nothing is queued: callers ask whether there is a pipeline."""
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget what was not executed. Blocks: as `reset`; not where a kill or Timeout ends the block."""
        self._forget(waits=kind is None or issubclass(kind, Exception))

    @property
    def watching(self) -> bool:
        """Whether keys are watched."""
        return self._multi is not None

    # -- queueing -----------------------------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queue one command, and return the pipeline; while keys are watched, and before `multi`, execute it at once.

        Blocks: only while keys are watched, as `Transaction.execute`.
        """
        return self.run_queued(Queued(args, options))

    def run_queued(self, queued: Queued) -> Any:
        """As `execute_command`. Blocks: as that."""
        if self._multi is not None and not self.explicit_transaction:
            return self._multi.ask(queued)
        queued.position = len(self.command_stack)
        self.command_stack.append(queued)
        return self

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute one command now, and queue nothing. Blocks: as `Cluster.execute`."""
        if self._multi is not None:
            return self._multi.ask(Queued(args, options))
        return self._sender.execute(Queued(args, options))

    def delete(self, *keys: Any) -> Any:
        """Queue DEL."""
        return self.execute_command("DEL", *keys)

    def unlink(self, *keys: Any) -> Any:
        """Queue UNLINK."""
        return self.execute_command("UNLINK", *keys)

    def exists(self, *keys: Any) -> Any:
        """Queue EXISTS."""
        return self.execute_command("EXISTS", *keys)

    def touch(self, *keys: Any) -> Any:
        """Queue TOUCH."""
        return self.execute_command("TOUCH", *keys)

    def mget_nonatomic(self, keys: Any, *args: Any) -> Any:
        """Queue MGET, of any slots."""
        return self.mget(keys, *args)  # type: ignore[attr-defined]

    def mset_nonatomic(self, mapping: Any) -> Any:
        """Queue MSET, of any slots."""
        return self.mset(mapping)  # type: ignore[attr-defined]

    def register_script(self, script: str | bytes) -> Any:
        """As the client's."""
        return self._client.register_script(script)

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> Any:
        """Another one, as the client's: the modules' clients look for it."""
        return self._client.pipeline(transaction, shard_hint)

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """As the client's, and for all of it: the modules' clients set theirs."""
        self._client.set_response_callback(command, callback)

    def get_encoder(self) -> Any:
        """The client's."""
        return self._client.get_encoder()

    @property
    def encoder(self) -> Any:
        """The client's."""
        return self._client.encoder

    @property
    def nodes_manager(self) -> Any:
        """The client's."""
        return self._client.nodes_manager

    # -- transactions -------------------------------------------------------------------------------------------------

    def watch(self, *names: Any) -> None:
        """Watch keys: commands are executed at once from now on, until `multi`. (WATCH)

        Raises:
            RedisError, ValkeyError: After `multi`.

        Blocks: until the server has answered.
        """
        if self.explicit_transaction:
            raise self._shapes.translator.root("Cannot issue a WATCH after a MULTI")
        if self._multi is None:
            self._multi = Multi(self._client, self._shapes)
        self._transaction = True
        self._multi.watch(names)

    def unwatch(self) -> None:
        """Watch nothing any more. Blocks: until the server has answered, if anything was watched."""
        self._end_watch()

    def multi(self) -> None:
        """Queue commands from now on, though keys are watched.

        Raises:
            RedisError, ValkeyError: Called twice, or commands are queued already.
        """
        if self.explicit_transaction:
            raise self._shapes.translator.root("Cannot issue nested calls to MULTI")
        if self.command_stack:
            raise self._shapes.translator.root("Commands without an initial WATCH have already been issued")
        self._transaction = self.explicit_transaction = True

    def discard(self) -> None:
        """Forget what was queued, and watch nothing. Blocks: as `reset`."""
        self.reset()

    # -- executing ----------------------------------------------------------------------------------------------------

    def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Send what was queued, and return the replies in that order. The pipeline is empty afterwards.

        Args:
            raise_on_error: Raise the first error; else errors stand among the replies.
            allow_redirections: Accepted; redirects are always followed.

        Raises:
            WatchError: A watched key has changed: nothing was executed.
            RedisError, RedisClusterException: The library's exceptions, told which command they are of.

        Blocks: as `Pipeline.execute`, or as `Transaction.commit`.
        """
        stack = self.command_stack
        try:
            replies = self._replies(stack)
        except BaseException as error:
            self._forget(waits=isinstance(error, Exception))
            raise
        self.reset()
        if raise_on_error:
            for queued, reply in zip(stack, replies, strict=True):
                if isinstance(reply, Exception):
                    raise self._annotated(reply, queued)
        return replies

    def _replies(self, stack: list[Queued]) -> list[Any]:
        if not self._transaction:
            return self._sender.execute_all(stack)
        multi = self._multi or Multi(self._client, self._shapes)
        return multi.commit(stack) if stack or self._multi is not None else []

    def _annotated(self, error: Exception, queued: Queued) -> Exception:
        if not isinstance(error.__cause__, GvClusterError):
            return error  # it was never sent
        words = " ".join(map(_shown, queued.args))
        if len(words) > 100 and self._shapes.translator.shortens:
            words = f"{words[:97]}..."
        told = f"Command # {queued.position + 1} ({words}) of pipeline caused error: {error.args[0]}"
        error.args = (told, *error.args[1:])
        return error

    def reset(self) -> None:
        """Forget what was queued, and watch nothing. Blocks: until the end of a watch is confirmed."""
        self._forget(waits=True)

    def _forget(self, *, waits: bool) -> None:
        self.command_stack = []
        self.explicit_transaction = False
        self._end_watch(waits=waits)

    def _end_watch(self, *, waits: bool = True) -> None:
        multi, self._multi = self._multi, None
        if multi is not None:
            multi.end(waits=waits)


def _shown(value: Any) -> str:
    return str(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)
