"""Commands with many keys, over all slots: split by slot, one write per node, all nodes at once, merged in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict, Unpack

from gvcluster.checks import one_of
from gvcluster.core.slots import Key, hash_slot
from gvcluster.errors import ConfigError, CrossSlot, GvClusterError, PartialFailure, ProtocolError
from gvcluster.net.state import ClusterState
from gvcluster.options import refuse_unknown
from gvcluster.pipeline import Pipeline


class MultiKeyOptions(TypedDict, total=False):
    """The keyword arguments of commands with many keys.

    timeout: seconds for all of it. retry: as for `Cluster.execute`, for each part. cross_slot: "split", or "error" to
    refuse keys of several slots; None: the option of the cluster.
    """

    timeout: float | None
    retry: str | None
    cross_slot: str | None


class _Cluster(Protocol):
    _state: ClusterState

    def pipeline(self, *, timeout: float | None = None, retry: str | None = None) -> Pipeline: ...


class MultiKeyCommands:
    """What `Cluster` does with many keys at once.

    Keys of one slot go together in one command, which the server executes as a whole; those of other slots go in
    others. So nothing here is atomic over several slots, and some parts can fail while others succeed: PartialFailure
    then has the outcome of each key. If all keys are in one slot, its error is raised as it is.

    `timeout`, `retry` and `cross_slot` are as in `gvcluster.multikey.MultiKeyOptions`.
    """

    def mget(self: _Cluster, keys: Iterable[Key], **options: Unpack[MultiKeyOptions]) -> list[Any]:
        """Return the value of each key, in the order of the keys; None where there is none. (MGET)

        Raises:
            ConfigError, CrossSlot, RoutingError: Nothing was sent.
            PartialFailure: `results` has a value, None or an error for each key, `keys` are those that failed.
            GvClusterError: As `Cluster.execute`, where all keys are in one slot.

        Blocks: as `Pipeline.execute`.
        """
        keys = _listed(keys)
        parts = _Parts(self, "MGET", keys, options)
        return parts.results([(key,) for key in keys], _values)

    def mset(self: _Cluster, values: Mapping[Key, Any], **options: Unpack[MultiKeyOptions]) -> None:
        """Set each key to its value. (MSET)

        Raises:
            ConfigError, CrossSlot, RoutingError: Nothing was sent.
            PartialFailure: `results` has None or an error for each key, `keys` are those that failed.
            GvClusterError: As `Cluster.execute`, where all keys are in one slot.

        Blocks: as `Pipeline.execute`.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"mset takes a mapping of keys to values, not {type(values).__name__}")
        parts = _Parts(self, "MSET", list(values), options)
        parts.results(list(values.items()), lambda _reply, count: [None] * count)

    def delete(self: _Cluster, *keys: Key, **options: Unpack[MultiKeyOptions]) -> int:
        """Delete the keys, and return how many there were. (DEL) Raises and blocks as `mget`."""
        return _Parts(self, "DEL", keys, options).total()

    def unlink(self: _Cluster, *keys: Key, **options: Unpack[MultiKeyOptions]) -> int:
        """Delete the keys, their memory later, and return how many there were. (UNLINK) Raises and blocks as `mget`."""
        return _Parts(self, "UNLINK", keys, options).total()

    def exists(self: _Cluster, *keys: Key, **options: Unpack[MultiKeyOptions]) -> int:
        """Return how many of the keys exist; one named twice counts twice. (EXISTS) Raises and blocks as `mget`."""
        return _Parts(self, "EXISTS", keys, options).total()

    def touch(self: _Cluster, *keys: Key, **options: Unpack[MultiKeyOptions]) -> int:
        """Count a use of each key, and return how many exist. (TOUCH) Raises and blocks as `mget`."""
        return _Parts(self, "TOUCH", keys, options).total()


class _Parts:
    """One command, split by slot."""

    def __init__(self, cluster: _Cluster, name: str, keys: Sequence[Key], options: MultiKeyOptions) -> None:
        self._name, self._keys = name, keys
        refuse_unknown(options, MultiKeyOptions.__annotations__)
        choice = options.get("cross_slot")
        if choice is not None:
            one_of("cross_slot", choice, ("split", "error"))
        self._pipe = cluster.pipeline(timeout=options.get("timeout"), retry=options.get("retry"))
        self._slots: dict[int, list[int]] = {}
        for position, key in enumerate(keys):
            self._slots.setdefault(hash_slot(key), []).append(position)
        if len(self._slots) > 1 and (choice or cluster._state.options.cross_slot) == "error":
            raise CrossSlot(
                f"{name}: the keys belong to {len(self._slots)} slots, and cross_slot is 'error'", keys=keys
            )

    def total(self) -> int:
        """Send, and add up the counts."""
        counted: list[int] = []

        def note(reply: Any, count: int) -> list[Any]:
            if isinstance(reply, bool) or not isinstance(reply, int):
                raise _unexpected(reply)
            counted.append(reply)
            return [None] * count

        self.results([(key,) for key in self._keys], note)
        return sum(counted)

    def results(self, words: Sequence[Iterable[Any]], read: Callable[[Any, int], list[Any]]) -> list[Any]:
        """Send, and return for each key what `read` makes of its part's reply, given that and how many keys it has.

        Args:
            words: for each key what stands in the command for it.
        """
        for positions in self._slots.values():
            self._pipe.append(self._name, *(word for position in positions for word in words[position]))
        results: list[Any] = [None] * len(self._keys)
        for positions, reply in zip(self._slots.values(), self._pipe.execute(), strict=True):
            for position, one in zip(positions, self._outcomes(reply, len(positions), read), strict=True):
                results[position] = one
        self._raise_if_failed(results)
        return results

    def _outcomes(self, reply: Any, count: int, read: Callable[[Any, int], list[Any]]) -> list[Any]:
        if not isinstance(reply, GvClusterError):
            try:
                return read(reply, count)
            except ProtocolError as error:
                reply = error
        return [reply] * count

    def _raise_if_failed(self, results: list[Any]) -> None:
        errors = [result for result in results if isinstance(result, GvClusterError)]
        if errors and len(self._slots) == 1:
            raise errors[0]
        if errors:
            raise PartialFailure(
                f"{self._name} failed for {len(errors)} of {len(self._keys)} keys; the first: {errors[0]}",
                results=results,
                keys=[key for key, one in zip(self._keys, results, strict=True) if isinstance(one, GvClusterError)],
                maybe_executed=any(error.maybe_executed for error in errors),
            ) from errors[0]


def _listed(keys: Iterable[Key]) -> list[Key]:
    if isinstance(keys, str | bytes | Mapping) or not isinstance(keys, Iterable):
        raise ConfigError(f"mget takes a list of keys, not {type(keys).__name__}")
    return list(keys)


def _values(reply: Any, count: int) -> list[Any]:
    if not isinstance(reply, list) or len(reply) != count:
        raise _unexpected(reply)
    return reply


def _unexpected(reply: Any) -> ProtocolError:
    return ProtocolError(f"an answer that does not fit the command: {type(reply).__name__}", maybe_executed=True)
