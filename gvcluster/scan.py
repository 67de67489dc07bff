"""scan_iter: all keys of the cluster, none missed while slots move and primaries fail over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

from gvcluster.busy import Busy
from gvcluster.checks import seconds, whole_number
from gvcluster.core.coverage import Coverage
from gvcluster.core.resp import encode
from gvcluster.core.scan_cursor import read_cursor, write_cursor
from gvcluster.core.slots import SLOTS, Key
from gvcluster.errors import ConfigError
from gvcluster.net.elements import Elements
from gvcluster.net.executor import Executor
from gvcluster.net.scanning import Scanned, Scanning
from gvcluster.net.state import ClusterState
from gvcluster.net.survey import Survey
from gvcluster.pipeline import Pipeline

# SCAN's own default is 10, a round trip for each; 1,000 hold a server for half a millisecond.
_COUNT = 1000
_REFUSAL = "another greenlet waits for what is next: give each greenlet an iterator of its own"


class ScanIterator:
    """All keys of a cluster, one after the other. Made by `Cluster.scan_iter`.

        keys = cluster.scan_iter(match="user:*")
        for key in keys:
            ...
            store(keys.cursor)

    It serves one greenlet at a time. After an error it can be asked for the next key again: it goes on from where it
    was. So it can be after a kill or a Timeout.

    One thing escapes it: that the move of a slot, key by key, is called off (SETSLOT STABLE), the keys that had gone
    are brought back, and the same move is begun again, all of it between two looks at the node, of which there is one
    every 32 fetches at least. What came back in between may then be missed.
    """

    def __init__(self, nodes: Scanned, filters: tuple[Any, ...], count: int, cursor: str | None) -> None:
        self._busy = Busy(_REFUSAL)
        self._filters = encode(("SCAN", *filters))
        done, place = read_cursor(cursor, self._filters) if cursor is not None else (frozenset[int](), None)
        self._scan = Scanning(nodes, (*filters, "COUNT", count), Coverage(done), place)

    def __repr__(self) -> str:
        return f"<ScanIterator {len(self._scan.coverage.done)} of {SLOTS} slots>"

    def __iter__(self) -> Self:
        return self

    @property
    def cursor(self) -> str:
        """Where the scan stands, as printable text, for `scan_iter(cursor=…)` in any process.

        All keys before it were returned; some of them are returned once more by who goes on from here. At the end
        there is nothing left to go on with. It never goes bad: where a node has failed over or restarted since, the
        slots that were not covered are scanned from their beginning.

        Take a few times `count` keys from an iterator before you go on with another: less may lead nowhere.
        """
        return write_cursor(self._scan.coverage.done, self._scan.place, self._filters)

    def __next__(self) -> bytes:
        """Return the next key.

        Raises:
            StopIteration: That was all.
            ConfigError: Another greenlet waits for a key of this iterator.
            TopologyUnavailable: The slots change hands faster than they can be scanned.
            SlotNotCovered: Nobody has the slots that are left.
            NodeError, RetriesExhausted: Nothing could be had for so long as `timeout` says.
            ReplyError: A node refuses.
            ClosedError: The cluster was closed.

        Blocks: until there is a key, at most `timeout` for each answer. A kill or Timeout there loses nothing.
        """
        self._busy.refuse()
        scan = self._scan
        if not scan.keys:
            with self._busy:
                scan.wait_anew()
                while not scan.keys and not scan.coverage.is_whole:
                    scan.go_on()
            if not scan.keys:
                raise StopIteration
        return scan.keys.popleft()


class ElementIterator:
    """The elements of one key, one after the other. Made by `Cluster.hscan_iter`, `sscan_iter` and `zscan_iter`.

    It serves one greenlet at a time. After an error, a kill or a Timeout it can be asked for the next one again.
    """

    def __init__(self, elements: Elements) -> None:
        self._busy = Busy(_REFUSAL)
        self._elements = elements

    def __repr__(self) -> str:
        return f"<ElementIterator {self._elements!r}>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """Return the next element.

        Raises:
            StopIteration: That was all.
            ConfigError: Another greenlet waits for an element of this iterator.
            GvClusterError: As `Cluster.execute`.

        Blocks: until there is one, at most `timeout` for each answer. A kill or Timeout there loses nothing.
        """
        self._busy.refuse()
        elements = self._elements
        if not elements.found:
            with self._busy:
                while not elements.found and not elements.has_ended:
                    elements.go_on()
            if not elements.found:
                raise StopIteration
        return elements.found.popleft()


def _pairs(found: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(found[::2], found[1::2], strict=True))


def _scored(found: list[bytes]) -> list[tuple[bytes, float]]:
    return [(member, float(score)) for member, score in _pairs(found)]


class _Cluster(Protocol):
    _state: ClusterState

    def _executor_here(self) -> Executor: ...
    def pipeline(self, *, timeout: float | None = None) -> Pipeline: ...


class ScanCommands:
    """What `Cluster` does to go over keys."""

    def scan_iter(
        self: _Cluster,
        match: str | bytes | None = None,
        count: int | None = None,
        type: str | None = None,
        *,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> ScanIterator:
        """Iterate over all keys of the cluster.

        Every key that exists from the beginning to the end is returned at least once, whatever happens meanwhile: slots
        that move, key by key or atomically, failovers, restarts (`ScanIterator` names the one exception). Some may be
        returned more than once, as SCAN itself does; keys that come or go meanwhile may be returned or not. Nothing is
        sent before the first key is asked for. Memory stays the same however many keys there are.

        Args:
            match: Only keys that match this pattern, as in SCAN.
            count: About how many keys a node looks through for each answer; 1,000 if None.
            type: Only keys of this type, such as `"hash"`.
            cursor: Go on where another iterator stood: its `cursor`. `match` and `type` must be the same.
            timeout: Seconds without any progress after which an error is raised, as long as a failover may take; the
                option `timeout` if None.

        Returns:
            An iterator of keys, each `bytes`; its `cursor` can be stored.

        Raises:
            ConfigError: An argument makes no sense, or the cursor is damaged or of a scan with other filters.

        Blocks: never; the iterator does, see `ScanIterator.__next__`.
        """
        filters = _filters(("MATCH", match), ("TYPE", type))
        if count is not None:
            whole_number("count", count, 1)
        patience = self._state.options.timeout if timeout is None else seconds("timeout", timeout)
        survey = Survey(self._executor_here, lambda: self.pipeline(timeout=patience), patience)
        return ScanIterator(survey, filters, count or _COUNT, cursor)

    def hscan_iter(
        self: _Cluster,
        key: Key,
        match: str | bytes | None = None,
        count: int | None = None,
        *,
        timeout: float | None = None,
    ) -> ElementIterator:
        """Iterate over the fields of a hash. (HSCAN)

        What is in it from the beginning to the end is returned at least once, also when the key's slot moves or its
        primary fails over: then all that was returned before may come again. What comes or goes meanwhile may be
        returned or not. Nothing is sent before the first one is asked for.

        Args:
            key: The key. One that does not exist has no elements.
            match: Only fields that match this pattern.
            count: About how many the node looks through for each answer; 1,000 if None.
            timeout: Seconds for each answer; the option `timeout` if None.

        Returns:
            An iterator of `(field, value)`, both bytes.

        Raises:
            ConfigError: An argument makes no sense.

        Blocks: never; the iterator does, see `ElementIterator.__next__`.
        """
        return _elements(self, "HSCAN", _pairs, key, match, count, timeout)

    def sscan_iter(
        self: _Cluster,
        key: Key,
        match: str | bytes | None = None,
        count: int | None = None,
        *,
        timeout: float | None = None,
    ) -> ElementIterator:
        """Iterate over the members of a set, each `bytes`. (SSCAN) Otherwise as `hscan_iter`.

        Blocks: never; the iterator does, see `ElementIterator.__next__`.
        """
        return _elements(self, "SSCAN", list, key, match, count, timeout)

    def zscan_iter(
        self: _Cluster,
        key: Key,
        match: str | bytes | None = None,
        count: int | None = None,
        *,
        timeout: float | None = None,
    ) -> ElementIterator:
        """Iterate over a sorted set: `(member, score)`, bytes and float. (ZSCAN) Otherwise as `hscan_iter`.

        Blocks: never; the iterator does, see `ElementIterator.__next__`.
        """
        return _elements(self, "ZSCAN", _scored, key, match, count, timeout)


def _elements(
    cluster: _Cluster,
    name: str,
    read: Callable[[list[bytes]], list[Any]],
    key: Key,
    match: str | bytes | None,
    count: int | None,
    timeout: float | None,
) -> ElementIterator:
    if count is not None:
        whole_number("count", count, 1)
    if timeout is not None:
        seconds("timeout", timeout)
    options = (*_filters(("MATCH", match)), "COUNT", count or _COUNT)
    encode((name, key, 0, *options))  # else a key that is none would be told at the first element
    return ElementIterator(Elements(cluster._executor_here, (name, key), options, timeout, read))


def _filters(*given: tuple[str, str | bytes | None]) -> tuple[str | bytes, ...]:
    filters: tuple[str | bytes, ...] = ()
    for name, value in given:
        if value is not None and not isinstance(value, str | bytes):
            raise ConfigError(f"{name.lower()} must be a str or bytes, not {value.__class__.__name__}")
        filters += () if value is None else (name, value)
    return filters
