"""Which slots a scan has covered, so that no key is missed while slots move and primaries fail over.

A slot is covered when one of two things is sure. Either a node was swept from its first cursor to its last, and the
slot was wholly that node's at each moment when a key was fetched. Or it was on its way from there to another node: then
that node is swept as well, afterwards; keys went only that way meanwhile, so whatever was not met there is met here.

How does one know it of each moment? Fetches come in windows, with a Look at the node before and after each. If both
name one configuration epoch, no slot has left and come back in between; if not, the window is swept again. Whatever is
not sure is dropped: the slot counts as never scanned, and keys are returned twice rather than not at all.

Everything here is pure: looks and cursors come in, what to send next is read from the attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gvcluster.core.looks import Look
from gvcluster.core.slots import SLOTS
from gvcluster.records import Record

# Fetches between two looks at a quiet node: with 1,000 keys each, the looks are lost among them.
LONGEST_WINDOW = 32


class Half(Record):
    """A slot that was swept where it came from, and is to be swept where it went.

    sources: the id of each node that it left, in order, and that node's epoch then. target: the id of the next one.
    """

    sources: tuple[tuple[str, int], ...]
    target: str


class Coverage:
    """What is covered so far.

    done: the slots of which each key that was there all along has been met. halves: see Half.
    """

    def __init__(self, done: Iterable[int] = ()) -> None:
        self.done = set(done)
        self.halves: dict[int, Half] = {}

    def __repr__(self) -> str:
        return f"<Coverage {len(self.done)} of {SLOTS} slots, {len(self.halves)} half>"

    @property
    def is_whole(self) -> bool:
        """Whether every slot is covered."""
        return len(self.done) == SLOTS

    @property
    def fresh(self) -> set[int]:
        """The slots that nobody was swept for, or in vain."""
        return set(range(SLOTS)) - self.done - self.halves.keys()

    def drop_target(self, id_: str) -> None:
        """Begin anew with the slots that were on their way to this node."""
        self.halves = {slot: half for slot, half in self.halves.items() if half.target != id_}

    def settle(self, look: Look, halves: Mapping[int, Half], sources: Mapping[str, Look]) -> None:
        """Cover slots whose target was swept, if it is sure that their keys went only one way.

        Args:
            look: The last one at the target.
            halves: What `Sweep.end` returned.
            sources: A later look at each node where they came from; one that could not be had is missing.
        """
        for slot, half in halves.items():
            self.halves.pop(slot, None)
            ways = zip(half.sources, [*(id_ for id_, _ in half.sources[1:]), look.id], strict=True)
            if all(_went_one_way(slot, sources.get(id_), epoch, to) for (id_, epoch), to in ways):
                self.done.add(slot)


def _went_one_way(slot: int, source: Look | None, epoch: int, to: str) -> bool:
    if source is None or not source.is_primary or source.epoch != epoch:
        return False
    return slot not in source.owned or source.leaving.get(slot) == to


class Sweep:
    """One way through the keys of one node.

    Attributes:
        look: The last look at the node that was taken in.
        slots: Those that may be covered by it; keys of others are not this sweep's business.
        cursor: What to send next.
        kept: The cursor up to which everything is sure.
        has_ended: The last cursor was reached; with the next look it is sure.
    """

    command = "SCAN"

    def __init__(self, coverage: Coverage, look: Look, cursor: bytes = b"0", only: Iterable[int] | None = None) -> None:
        """Begin at a cursor; `only`: for these slots and no others, and none that is half done."""
        self.look = look
        self.cursor = self.kept = cursor
        self.has_ended = False
        self._fetches, self._window = 0, 1
        self._halves: dict[int, Half] = {}
        self.slots = set(only if only is not None else coverage.fresh) & look.owned
        if only is None:
            self._take_over(coverage)
        self._arriving = self._halves.keys() - look.owned
        self._to: dict[int, str] = {}  # slots that are on their way to another node, or gone there
        self._gone: set[int] = set()
        self._finished: set[int] = set()  # since the last look, where slots are finished one by one
        self._follow(look)

    def __repr__(self) -> str:
        return f"<Sweep of {self.look.id[:8]} at {self.cursor!r} for {len(self.slots)} slots>"

    def _take_over(self, coverage: Coverage) -> None:
        """Sweep for the slots that came here as well."""
        look = self.look
        for slot, half in list(coverage.halves.items()):
            if half.target != look.id:
                continue
            if slot in look.owned or look.arriving.get(slot) == half.sources[-1][0]:
                self._halves[slot] = half
            else:
                del coverage.halves[slot]
        self.slots |= self._halves.keys()

    @property
    def owes_look(self) -> bool:
        """Whether a look at the node must come before the next fetch. They are the rarer the quieter the node is."""
        return self.has_ended or self._fetches >= self._window

    @property
    def certain(self) -> set[int]:
        """The slots that were wholly here so far: what a sweep that goes on from `kept` may cover."""
        return self.slots - self._to.keys() - self._halves.keys()

    def fetched(self, cursor: bytes, has_ended: bool) -> None:
        """Note where a fetch has led to."""
        self.cursor, self.has_ended = cursor, has_ended
        self._fetches += 1

    def take(self, look: Look, coverage: Coverage) -> bool:
        """Take in what the node says after a window. Returns False if the sweep has come to nothing."""
        before = self.look
        if (look.id, look.run) != (before.id, before.run) or not look.is_primary:
            return False
        self._fetches, self._window = 0, min(2 * self._window, LONGEST_WINDOW)
        if look.epoch != before.epoch:
            self._begin_window_again(look)
        self._follow(look)
        self.look, self.kept = look, self.cursor
        whole = self._finished & self.certain
        coverage.done |= whole
        self.slots -= whole
        self._finished.clear()
        return True

    def _begin_window_again(self, look: Look) -> None:
        """Slots may have left and come back. Those that were on their way before may have turned round."""
        self.cursor, self.has_ended, self._window = self.kept, False, 1
        self.slots -= self._to.keys()
        self.slots &= look.owned | self._arriving
        self._to.clear()
        self._gone.clear()
        self._finished.clear()

    def _follow(self, look: Look) -> None:
        """Drop the slots of which it is no longer sure where all of their keys are."""
        self._arriving -= look.owned
        moving = (self.slots - look.owned) | (self.slots & look.leaving.keys()) | (self.slots & self._to.keys())
        for slot in moving:
            if not self._goes_one_way(slot, look):
                self.slots.discard(slot)

    def _goes_one_way(self, slot: int, look: Look) -> bool:
        if slot in self._arriving:
            return look.arriving.get(slot) == self._halves[slot].sources[-1][0]
        is_owned = slot in look.owned
        target = look.leaving.get(slot) if is_owned else look.owner_of(slot)
        if target is None or target == look.id or (is_owned and slot in self._gone):
            return False
        if not is_owned:
            self._gone.add(slot)
        return self._to.setdefault(slot, target) == target

    def end(self, coverage: Coverage) -> dict[int, Half]:
        """The last cursor was reached, and the look after it taken in: cover what is sure.

        Returns:
            Slots that came here from other nodes, for `Coverage.settle`.
        """
        for slot in self._halves.keys() - self.slots:
            coverage.halves.pop(slot, None)
        coverage.done |= self.certain
        for slot in self.slots & self._to.keys():
            sources = self._halves[slot].sources if slot in self._halves else ()
            coverage.halves[slot] = Half((*sources, (self.look.id, self.look.epoch)), self._to[slot])
        return {slot: half for slot, half in self._halves.items() if slot in self.slots - self._to.keys()}

    def give_up(self, coverage: Coverage) -> None:
        """It came to nothing: the slots that came here from other nodes are to be begun anew, too."""
        for slot in self._halves:
            coverage.halves.pop(slot, None)
