"""A sweep of neighbouring slots by CLUSTERSCAN (Valkey 9.1), which goes from slot to slot: each is covered by itself.

So a failover costs the slot that was under way, not the node's whole sweep. What CLUSTERSCAN can not do is a slot that
moves key by key: it skips the keys on the other side. Such slots are left to sweeps by SCAN.
"""

from __future__ import annotations

from collections.abc import Collection

from gvcluster.core.coverage import Coverage, Sweep
from gvcluster.core.looks import Look
from gvcluster.core.slots import SLOTS, hash_slot

# Each run costs two round trips of its own. Where slots are strewn about, a sweep by SCAN is cheaper for many of them.
_SHORT, _FEW = 64, 256
# How a server says that it does not know CLUSTERSCAN, or not for this user.
REFUSALS = ("ERR", "NOPERM")


def run_at(coverage: Coverage, look: Look, troubled: Collection[int]) -> range | None:
    """The first slots without a gap that the node has and that are not covered, or None if they are not worth it."""
    fresh = (coverage.fresh & look.owned).difference(troubled, look.leaving)
    if not fresh:
        return None
    first = end = min(fresh)
    while end in look.owned:
        end += 1
    return range(first, end) if end - first >= _SHORT or len(fresh) <= _FEW else None


class Run(Sweep):
    """A sweep of some neighbouring slots of a node.

    Attributes:
        is_stopped: The node has sent us elsewhere for the slot of the cursor.
    """

    command = "CLUSTERSCAN"

    def __init__(self, coverage: Coverage, look: Look, cursor: bytes, run: range) -> None:
        super().__init__(coverage, look, cursor, coverage.fresh.intersection(run))
        self.is_stopped = False
        self._run = run

    def fetched(self, cursor: bytes, has_ended: bool) -> None:
        """The new cursor names the slot that comes next: what is before it is finished."""
        slot, before = SLOTS if has_ended else hash_slot(cursor), hash_slot(self.cursor)
        super().fetched(cursor, slot not in self._run or slot < before)
        if slot >= before:
            self._finished.update(each for each in self.slots if each < slot)

    def troubled(self, coverage: Coverage) -> set[int]:
        """The slots that it came to and could not cover."""
        last = hash_slot(self.cursor) if self.is_stopped else SLOTS
        return {slot for slot in self._run if slot <= last} - coverage.done
