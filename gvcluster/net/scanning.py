"""One scan over all nodes: sweep by sweep, until `core/coverage.py` says that every slot is covered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, Protocol

from gvcluster.core.address import Address
from gvcluster.core.coverage import Coverage, Half, Sweep
from gvcluster.core.looks import Look
from gvcluster.core.outcome import Failed, classify
from gvcluster.core.runs import REFUSALS, Run, run_at
from gvcluster.core.scan_cursor import Place
from gvcluster.core.slots import SLOTS, hash_slot
from gvcluster.core.topology import Topology
from gvcluster.errors import (
    GvClusterError,
    NodeError,
    PoolError,
    ProtocolError,
    Redirected,
    ReplyError,
    RetriesExhausted,
    SlotNotCovered,
    TopologyUnavailable,
)

# How many sweeps in a row may cover no slot before the caller hears of it.
_VAIN_SWEEPS = 16
_PASSING = (NodeError, PoolError, Redirected, RetriesExhausted, SlotNotCovered, TopologyUnavailable)


class Scanned(Protocol):
    """The nodes that are scanned: see `gvcluster.net.survey.Survey`."""

    timeout: float

    def topology(self) -> Topology: ...
    def look(self, address: Address) -> Look: ...
    def fetch(self, address: Address, command: tuple[Any, ...]) -> tuple[bytes, list[bytes]]: ...
    def first_cursor(self, slot: int) -> bytes | None: ...
    def translated(self, address: Address) -> Address: ...
    def wait_for_news(self, failures: int) -> None: ...


class Scanning:
    """What goes from node to node. After an error, a kill or a Timeout it goes on from where it was.

    keys: fetched, and to be handed out before the next `go_on`: what is kept as covered then has been handed out.
    """

    def __init__(self, nodes: Scanned, arguments: tuple[Any, ...], coverage: Coverage, place: Place | None) -> None:
        self.keys: deque[bytes] = deque()
        self.coverage = coverage
        self._nodes, self._arguments, self._place = nodes, arguments, place
        self._sweep: Sweep | None = None
        self._address: Address | None = None  # of the node that is being asked
        self._addresses: Mapping[str, Address] = MappingProxyType({})
        self._avoided: set[Address] = set()
        self._troubled: set[int] | None = set()  # slots that are left to SCAN; None: all of them
        self._is_in_doubt = False  # something failed since the last look
        self._failures = self._vain = 0
        self._good = monotonic()

    @property
    def place(self) -> Place | None:
        """Where the sweep under way could be gone on with."""
        sweep = self._sweep
        if sweep is None or sweep.kept == b"0" or isinstance(sweep, Run):
            return self._place
        return Place(sweep.look.id, sweep.look.run, sweep.look.epoch, sweep.kept, frozenset(sweep.certain))

    def go_on(self) -> None:
        """Take one step: begin a sweep, fetch keys, or look at the node.

        Raises:
            GvClusterError: there was no progress for too long, or never will be.

        Blocks: until a node has answered; after a failure also for a new slot map.
        """
        if self._vain > _VAIN_SWEEPS:
            self._vain = 0
            left = SLOTS - len(self.coverage.done)
            raise TopologyUnavailable(
                f"{left} slots change hands faster than they can be scanned: next() tries again, as does a new scan"
                " from `cursor`"
            )
        was_in_doubt = self._is_in_doubt
        try:
            self._advance()
        except GvClusterError as error:
            self._bear(error)
        else:
            if not was_in_doubt:  # else it was a look only, which many a node grants that refuses to be scanned
                self._good, self._failures = monotonic(), 0

    def wait_anew(self) -> None:
        """Somebody asks for more: how long he was busy with what he had is nobody's failure."""
        self._good = monotonic()

    def _advance(self) -> None:
        sweep = self._sweep
        if sweep is None:
            self._sweep = self._begin()
        elif sweep.owes_look or self._is_in_doubt:
            self._look_again(sweep)
        else:
            self._fetch(sweep)

    def _bear(self, error: GvClusterError) -> None:
        """Wait for better times, unless there have been none for too long."""
        address = self._address
        if not _may_pass(error, address):
            raise error
        self._is_in_doubt = True
        if self._sweep is None and address is not None:
            self._avoided.add(address)
        self._failures += 1
        if monotonic() - self._good > self._nodes.timeout:
            self._good = monotonic()
            raise error
        self._nodes.wait_for_news(self._failures)
        if self._sweep is not None and address not in {node.address for node in self._nodes.topology().primaries}:
            self._give_up(self._sweep)

    def _give_up(self, sweep: Sweep) -> None:
        sweep.give_up(self.coverage)
        self._sweep = None
        self._vain += 1

    # -- sweeps -------------------------------------------------------------------------------------------------------

    def _begin(self) -> Sweep:
        """Choose a node and begin with it.

        Raises:
            TopologyUnavailable: it has not what the slot map promised.
        """
        address = self._address = self._choose()
        look = self._nodes.look(address)
        self._addresses, self._is_in_doubt = look.addresses, False
        if not look.is_primary:
            self.coverage.drop_target(look.id)
            raise TopologyUnavailable(f"{address} is no primary any more")
        sweep = self._resumed(look) or self._run(look) or Sweep(self.coverage, look)
        if not sweep.slots:
            raise TopologyUnavailable(f"{address} does not have the slots that the slot map gives to it")
        self._avoided.clear()
        return sweep

    def _resumed(self, look: Look) -> Sweep | None:
        """Go on in the midst of a sweep, if it is the same process, and no slot can have left and come back."""
        place, self._place = self._place, None
        if place is None or (place.id, place.run, place.epoch) != (look.id, look.run, look.epoch):
            return None
        if not look.run:
            return None  # processes without an id can not be told apart
        return Sweep(self.coverage, look, place.cursor, place.slots)

    def _run(self, look: Look) -> Run | None:
        """By CLUSTERSCAN, where the servers have it."""
        run = run_at(self.coverage, look, self._troubled) if self._troubled is not None else None
        if run is None:
            return None
        cursor = self._nodes.first_cursor(run[0])
        if cursor is None:
            self._troubled = None
            return None
        return Run(self.coverage, look, cursor, run)

    def _choose(self) -> Address:
        """Who is next: the node of a stored cursor, an owner of fresh slots, or one that got slots from others."""
        topology, place = self._nodes.topology(), self._place
        chosen = [node.address for node in topology.primaries if place is not None and node.id == place.id]
        chosen += [*self._owners(topology), *self._targets(topology)]
        if not chosen:
            slot = min(self.coverage.fresh or self.coverage.halves)
            raise SlotNotCovered(f"no node serves slot {slot}: the slot map has no owner for it", slot=slot)
        if self._avoided.issuperset(chosen):
            self._avoided.clear()
        return next(address for address in chosen if address not in self._avoided)

    def _owners(self, topology: Topology) -> Iterator[Address]:
        owners = [topology.owner(slot) for slot in sorted(self.coverage.fresh)]
        for owner in {id(owner): owner for owner in owners}.values():
            if owner is not None:
                yield owner.address

    def _targets(self, topology: Topology) -> list[Address]:
        """Where the nodes are to which half-covered slots went. One that has no slot yet is in no slot map."""
        ids = {half.target for half in self.coverage.halves.values()}
        known = {node.id: node.address for node in topology.nodes}
        for id_ in ids - known.keys() & self._addresses.keys():
            known[id_] = self._nodes.translated(self._addresses[id_])
        for id_ in ids - known.keys():
            self.coverage.drop_target(id_)
        return [known[id_] for id_ in sorted(ids & known.keys())]

    def _fetch(self, sweep: Sweep) -> None:
        assert self._address is not None
        try:
            cursor, keys = self._nodes.fetch(self._address, (sweep.command, sweep.cursor, *self._arguments))
        except Redirected:
            if not isinstance(sweep, Run):
                raise
            sweep.is_stopped = self._is_in_doubt = True
            return
        except ReplyError as error:
            if not isinstance(sweep, Run) or error.code not in REFUSALS:
                raise
            self._sweep = self._troubled = None  # an older server than the one that gave the first cursor
            return
        # In this order: interrupted in between, by a signal handler that raises, the same keys are fetched once more.
        self.keys.extend(key for key in keys if hash_slot(key) in sweep.slots)
        sweep.fetched(cursor, has_ended=cursor == b"0")

    def _look_again(self, sweep: Sweep) -> None:
        assert self._address is not None
        look = self._nodes.look(self._address)
        self._is_in_doubt = False
        if not sweep.take(look, self.coverage):
            self._give_up(sweep)
        elif isinstance(sweep, Run):
            if sweep.has_ended or sweep.is_stopped:
                self._sweep = None
                self._troubled = (self._troubled or set()) | sweep.troubled(self.coverage)
        elif sweep.has_ended or not sweep.slots:
            self._end(sweep)

    def _end(self, sweep: Sweep) -> None:
        before = len(self.coverage.done)
        self._sweep = None
        halves = sweep.end(self.coverage)
        if halves:
            self.coverage.settle(sweep.look, halves, self._sources(halves))
        self._vain = 0 if len(self.coverage.done) > before else self._vain + 1

    def _sources(self, halves: Mapping[int, Half]) -> dict[str, Look]:
        """A look at each node from where slots came here; those that can not be had are missing."""
        known = {node.id: node.address for node in self._nodes.topology().nodes}
        looks = {}
        for id_ in sorted({id_ for half in halves.values() for id_, _ in half.sources} & known.keys()):
            try:
                looks[id_] = self._nodes.look(known[id_])
            except NodeError:
                pass
        return looks


def _may_pass(error: GvClusterError, address: Address | None) -> bool:
    """Whether it may be otherwise in a while."""
    if isinstance(error, _PASSING):
        return not isinstance(error, ProtocolError)
    return address is not None and not isinstance(classify(error, None, address), Failed)
