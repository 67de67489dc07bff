"""What one Garnet node believes of the cluster, and what becomes of that when another one tells what it believes. Pure.

Nobody votes and nobody fails anybody (garnet/overview: a passive cluster). A node's word about another one counts if it
has a higher configuration epoch, and so views are late, and have holes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from gvcluster.core.slots import SLOTS


@dataclass(frozen=True, slots=True)
class Worker:
    """A node, as some node knows it. `primary_id`: whom it replicates."""

    id: str
    host: str
    port: int
    hostname: str = ""
    epoch: int = 0
    primary_id: str | None = None


class WorkerChanges(TypedDict, total=False):
    """What a node may change about itself."""

    hostname: str
    epoch: int
    primary_id: str | None


class OpenSlot(NamedTuple):
    """A slot that is coming from, or going to, another node. Never told to others."""

    state: Literal["importing", "migrating"]
    peer: str


class Config:
    """One node's view.

    Attributes:
        workers: id → node, this one first.
        owners: The id of each slot's owner, None for a slot that is offline. An importing slot is still its source's.
        open: slot → what is happening to it here.
        banned: Ids that were forgotten: gossip does not bring them back.
    """

    def __init__(self, mine: Worker) -> None:
        self.workers = {mine.id: mine}
        self.owners: list[str | None] = [None] * SLOTS
        self.open: dict[int, OpenSlot] = {}
        self.banned: set[str] = set()
        self._own_id = mine.id

    @property
    def mine(self) -> Worker:
        """This node."""
        return self.workers[self._own_id]

    @property
    def highest_epoch(self) -> int:
        """Of all nodes that it knows."""
        return max(worker.epoch for worker in self.workers.values())

    def change(self, **changes: Unpack[WorkerChanges]) -> None:
        """Change what this node says of itself."""
        self.workers[self._own_id] = replace(self.mine, **changes)

    def bump(self) -> None:
        """Take an epoch above all that are known, so that the others listen."""
        self.change(epoch=self.highest_epoch + 1)

    def become(self, mine: Worker) -> None:
        """Be another node that knows nobody: CLUSTER RESET."""
        self.__init__(mine)  # type: ignore[misc]

    def give(self, slots: Iterable[int], owner: str | None) -> None:
        """Note who owns slots, or that nobody does. Nothing is happening to them any more."""
        for slot in slots:
            self.owners[slot] = owner
            self.open.pop(slot, None)

    def slots_of(self, owner: str) -> list[int]:
        """The slots of a node."""
        return [slot for slot, id_ in enumerate(self.owners) if id_ == owner]

    def ranges_of(self, owner: str, *, stable: bool = False) -> list[tuple[int, int]]:
        """The slots of a node as first and last of each run. `stable`: without those that are open here."""
        slots = (slot for slot in self.slots_of(owner) if not (stable and slot in self.open))
        return list(runs(slots))

    def replicas_of(self, primary: str) -> list[Worker]:
        """Who says that it replicates this node."""
        return [worker for worker in self.workers.values() if worker.primary_id == primary]

    def forget(self, id_: str) -> None:
        """Know a node no more; its slots are offline."""
        del self.workers[id_]
        self.banned.add(id_)
        self.give(self.slots_of(id_), None)

    def told(self) -> list[list[Any]]:
        """What this node gossips: lists, strings and numbers only."""
        ranges: dict[str | None, list[tuple[int, int]]] = {}
        for owner, group in groupby(range(SLOTS), key=self.owners.__getitem__):
            run = list(group)
            ranges.setdefault(owner, []).append((run[0], run[-1]))
        return [
            [each.id, each.host, each.port, each.hostname, each.epoch, each.primary_id, ranges.get(each.id, [])]
            for each in self.workers.values()
        ]

    def hear(self, told: Sequence[Sequence[Any]]) -> None:
        """Take up what another node gossips, as far as its epochs are higher.

        Where a node tells that it has a slot no more, and nobody has told yet who has it now, the slot is offline. Of
        two nodes with the same epoch the one with the greater id takes the next.
        """
        teller = Worker(*told[0][:-1])
        if teller.epoch == self.mine.epoch and teller.id < self._own_id:
            self.change(epoch=self.mine.epoch + 1)
        for *fields, ranges in told:
            worker = Worker(*fields)
            if self._is_news(worker):
                self.workers[worker.id] = worker
                self._hear_slots(worker, [slot for first, last in ranges for slot in range(first, last + 1)])

    def _is_news(self, worker: Worker) -> bool:
        if worker.id == self._own_id or worker.id in self.banned:
            return False
        known = self.workers.get(worker.id)
        return known is None or worker.epoch > known.epoch

    def _hear_slots(self, worker: Worker, slots: list[int]) -> None:
        claimed = set(slots)
        self.give([slot for slot in self.slots_of(worker.id) if slot not in claimed], None)
        for slot in slots:
            owner = self.workers.get(self.owners[slot] or "")
            if owner is None or owner.epoch < worker.epoch:
                self.give([slot], worker.id)


def runs(slots: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbours. `slots` ascend."""
    for _, group in groupby(enumerate(slots), key=lambda pair: pair[1] - pair[0]):
        run = [slot for _, slot in group]
        yield run[0], run[-1]
