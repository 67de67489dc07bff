"""Commands with many keys, over all slots: split by slot, one write per node, all nodes at once, merged in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict, Unpack, cast

from gvcluster.call_options import CallOptions, call_options_from
from gvcluster.checks import one_of
from gvcluster.core.commands import Command
from gvcluster.core.resp import bulk_strings
from gvcluster.core.slots import Key, hash_slot
from gvcluster.errors import ConfigError, CrossSlot, GvClusterError, PartialFailure, ProtocolError
from gvcluster.net.batch import run
from gvcluster.net.executor import Executor
from gvcluster.net.state import ClusterState
from gvcluster.net.volley import Rows
from gvcluster.options import refuse_unknown


class MultiKeyOptions(TypedDict, total=False):
    """The keyword arguments of commands with many keys.

    timeout: seconds for all of it.
    retry, read_from: as for `Cluster.execute`, for each part.
    cross_slot: "split", or "error" to refuse keys of several slots; None: the option of the cluster.
    """

    timeout: float | None
    retry: str | None
    read_from: str | None
    cross_slot: str | None


class _Cluster(Protocol):
    _state: ClusterState

    def _executor_here(self) -> Executor: ...


class MultiKeyCommands:
    """What `Cluster` does with many keys at once.

    Keys of one slot go together in one command, which the server executes as a whole; those of other slots go in
    others. So nothing here is atomic over several slots, and some parts can fail while others succeed: PartialFailure
    then has the outcome of each key, and is `maybe_executed` as soon as one part of a write has run. If all keys are in
    one slot, its error is raised as it is.

    `timeout`, `retry`, `read_from` and `cross_slot` are as in `gvcluster.multikey.MultiKeyOptions`.
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
        return parts.results(_values)

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
        pairs = list(values.items())  # at once: nobody can change the mapping between its keys and its values
        parts = _Parts(self, "MSET", [key for key, _ in pairs], options)
        parts.results(_nothing, [value for _, value in pairs])

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
        self._cluster, self._name, self._keys = cluster, name, keys
        self._options = _checked(options)
        self._slots: dict[int, list[int]] = {}  # slot → the positions of its keys
        slots = self._slots
        for position, slot in enumerate(map(hash_slot, keys)):
            if slot in slots:
                slots[slot].append(position)
            else:
                slots[slot] = [position]
        choice = options.get("cross_slot") or cluster._state.options.cross_slot
        if len(slots) > 1 and choice == "error":
            raise CrossSlot(f"{name}: the keys belong to {len(slots)} slots, and cross_slot is 'error'", keys=keys)

    @property
    def _command(self) -> Command:
        command = self._cluster._state.commands.named(self._name)
        assert command is not None
        return command

    def total(self) -> int:
        """Send, and add up the counts."""
        counted: list[int] = []

        def note(reply: Any, count: int) -> list[Any]:
            if reply.__class__ is not int:
                raise _unexpected(reply)
            counted.append(reply)
            return [None] * count

        self.results(note)
        return sum(counted)

    def results(self, read: Callable[[Any, int], list[Any]], values: Sequence[Any] | None = None) -> list[Any]:
        """Send, and return for each key what `read` makes of its part's reply, given that and how many keys it has.

        Args:
            read: Raises what is wrong with a reply.
            values: What stands behind each key in the command.
        """
        words, width = bulk_strings(self._keys), 1
        if values is not None:
            words, width = list(map(bytes.__add__, words, bulk_strings(values))), 2
        replies = run(self._cluster._executor_here(), self._rows(words, width), self._options)
        results: list[Any] = [None] * len(self._keys)
        failed = False
        for positions, reply in zip(self._slots.values(), replies, strict=True):
            try:
                outcomes = read(reply, len(positions))
            except GvClusterError as error:
                outcomes, failed = [error] * len(positions), True
            if len(positions) == 1:
                results[positions[0]] = outcomes[0]
            else:
                for position, one in zip(positions, outcomes, strict=True):
                    results[position] = one
        if failed:
            self._raise_failures(results)
        return results

    def _rows(self, words: Sequence[bytes], width: int) -> Rows:
        """A command for each slot. `words`: for each key what stands in the command for it, in so many arguments."""
        rows, command = Rows(), self._command
        (name,) = bulk_strings([self._name])
        head = b"*%d\r\n%b" % (1 + width, name)
        for positions in self._slots.values():
            if len(positions) == 1:
                rows.data.append(head + words[positions[0]])
            else:
                count, joined = 1 + width * len(positions), b"".join([words[each] for each in positions])
                rows.data.append(b"*%d\r\n%b%b" % (count, name, joined))
        rows.slots.extend(self._slots)
        rows.commands.extend([command] * len(rows))
        return rows

    def _raise_failures(self, results: list[Any]) -> None:
        errors = [result for result in results if isinstance(result, GvClusterError)]
        if len(self._slots) == 1:
            raise errors[0]
        is_write = not self._command.read_only
        has_run = is_write and len(errors) < len(results)  # sent again as a whole, it would run there twice
        raise PartialFailure(
            f"{self._name} failed for {len(errors)} of {len(self._keys)} keys; the first: {errors[0]}",
            results=results,
            keys=[key for key, one in zip(self._keys, results, strict=True) if isinstance(one, GvClusterError)],
            maybe_executed=has_run or any(error.maybe_executed for error in errors),
        ) from errors[0]


def _checked(options: MultiKeyOptions) -> CallOptions:
    """What of the options is for the parts. Raises ConfigError."""
    refuse_unknown(options, MultiKeyOptions.__annotations__)
    if options.get("cross_slot") is not None:
        one_of("cross_slot", options["cross_slot"], ("split", "error"))
    given = {name: value for name, value in options.items() if name != "cross_slot"}
    return call_options_from(cast(CallOptions, given))


def _listed(keys: Iterable[Key]) -> list[Key]:
    if isinstance(keys, str | bytes | Mapping) or not isinstance(keys, Iterable):
        raise ConfigError(f"mget takes a list of keys, not {type(keys).__name__}")
    return list(keys)


def _values(reply: Any, count: int) -> list[Any]:
    if reply.__class__ is not list or len(reply) != count:
        raise _unexpected(reply)
    return reply


def _nothing(reply: Any, count: int) -> list[Any]:
    if reply.__class__ not in (bytes, str):
        raise _unexpected(reply)
    return [None] * count


def _unexpected(reply: Any) -> GvClusterError:
    """The part's error, or that its reply is none."""
    if isinstance(reply, GvClusterError):
        return reply
    return ProtocolError(f"an answer that does not fit the command: {type(reply).__name__}", maybe_executed=True)
