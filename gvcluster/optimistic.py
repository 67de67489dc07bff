"""Transactions for a Cluster: one for a `with` statement, or one that a function makes until it succeeds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any, Protocol, Unpack, cast, overload

from gvcluster.call_options import CallOptions, call_options_from
from gvcluster.checks import whole_number
from gvcluster.core.multi import not_asked
from gvcluster.core.outcome import Aborted
from gvcluster.core.retry import Progress, pause_after_abort
from gvcluster.core.slots import Key, hash_slot
from gvcluster.errors import CrossSlot, GvClusterError
from gvcluster.net.executor import Executor
from gvcluster.net.state import ClusterState
from gvcluster.net.transactions import call_for
from gvcluster.net.watched import Failure
from gvcluster.transaction import Transaction, TransactionOptions


class RepeatedOptions(TransactionOptions, total=False):
    """The keyword arguments where a function is given."""

    attempts: int | None


class _Cluster(Protocol):
    _state: ClusterState

    def _executor_here(self) -> Executor: ...


class Transactions:
    """What makes `Cluster` do transactions."""

    @overload
    def transaction(self: _Cluster, *keys: Key, **options: Unpack[TransactionOptions]) -> Transaction: ...

    @overload
    def transaction(
        self: _Cluster, function: Callable[[Transaction], object], /, *keys: Key, **options: Unpack[RepeatedOptions]
    ) -> list[Any]: ...

    def transaction(self: _Cluster, *args: Any, **options: Unpack[RepeatedOptions]) -> Any:
        """Make a transaction for a `with` statement; or have a function make one, as often as needed. (libvalkey: none)

            def withdraw(tx):
                balance = int(tx.execute("GET", "{u1}balance"))
                tx.append("SET", "{u1}balance", balance - 10)

            cluster.transaction(withdraw, "{u1}balance")

        With a function: the keys are watched, the function is called with the Transaction, and what it has appended is
        committed. Where a watched key has changed meanwhile, or the slot has moved, all that is done again: the
        function must bear to be called several times. It may `discard`.

        Args:
            args: The keys to watch, if any. Before them the function, if any.
            options: `timeout`: seconds for each method that waits; with a function for all of it together.
                `retry`: as for `execute`, of all commands as one: "always" may run them twice.
                `route_key`: a key whose slot is that of the transaction, where its commands name none.
                `attempts`: with a function only: how many times it is called at most; None: until the time is over.

        Returns:
            Without a function an empty Transaction. Else the replies: see `Transaction.commit`.

        Raises:
            ConfigError: An option or a key makes no sense.
            TransactionAborted: With a function: in no attempt the watched keys stayed as they were.
            GvClusterError: With a function: as `Transaction.commit`; and what the function raises.

        Blocks: with a function: see `Transaction.commit`. Else never.
        """
        known = RepeatedOptions if args and callable(args[0]) else TransactionOptions
        attempts = options.get("attempts")
        if attempts is not None and known is RepeatedOptions:
            whole_number("attempts", attempts, 1)
        checked = call_options_from(cast(CallOptions, options), known)
        if known is TransactionOptions:
            _check_keys(args)
            return Transaction(self._state, self._executor_here, checked, args)
        _check_keys(args[1:])
        return _Repeated(self._state, self._executor_here, checked, args[1:]).until_done(args[0], attempts)


def _check_keys(keys: tuple[Key, ...]) -> None:
    slots = {hash_slot(key) for key in keys}
    if len(slots) > 1:
        raise CrossSlot(f"the keys to watch are of {len(slots)} hash slots, and a transaction is of one", keys=keys)


class _Repeated:
    """A transaction that a function makes, until it succeeds."""

    def __init__(
        self, state: ClusterState, here: Callable[[], Executor], options: CallOptions, keys: tuple[Key, ...]
    ) -> None:
        self._state, self._here, self._options, self._keys = state, here, options, keys
        self._deadline = monotonic() + (options.get("timeout") or state.options.timeout)
        self._progress = Progress()
        self._aborted = 0

    def until_done(self, function: Callable[[Transaction], object], attempts: int | None) -> list[Any]:
        """Call it, and commit, until that succeeds."""
        executor = self._here()
        executor.runtime.loop.refuse_to_wait_in_hub()
        for number in count(1):
            tx = Transaction(self._state, self._here, self._options, self._keys, self._deadline)
            try:
                with tx:
                    function(tx)
                    return tx.finish()
            except GvClusterError as error:
                failure = tx.failure
                if failure is None or failure.told is not error or number == attempts:
                    raise
            self._wait_before_next(executor, failure)
        raise AssertionError  # pragma: no cover - count() never ends

    def _wait_before_next(self, executor: Executor, failure: Failure) -> None:
        """Raises if there is to be no other attempt."""
        if isinstance(failure.met, Aborted):
            self._aborted += 1
            pause = pause_after_abort(self._aborted, self._state.options.rng.random())
            if monotonic() + pause >= self._deadline:
                raise failure.told
            if pause:
                executor.pause(pause)
            return
        slot = hash_slot(self._keys[0]) if self._keys else None
        call = call_for(slot, self._options, self._state, self._deadline, read_only=failure.read_only)
        executor.react(not_asked(failure.met), call, self._progress, failure.asked)
