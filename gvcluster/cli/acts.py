"""What an administrator does to the demo's cluster while the load goes on, and what the load notices of it: nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from time import monotonic

import gevent

from gvcluster.cli.load import Load
from gvcluster.cli.shards import Shard
from gvcluster.cli.tally import Phase
from gvcluster.core.slots import hash_slot
from gvcluster.errors import GvClusterError
from gvcluster.testing import LocalCluster, Node

# How many slots are moved there and back: key by key each costs some 15 ms, at once nearly nothing.
ONE_BY_ONE, AT_ONCE = 60, 1000
# Seconds that the load goes on after an act before its calls are counted: those under way have ended then.
_SETTLE = 0.5


class Acts:
    """A planned failover, and slots moved there and back. `tell` says a line."""

    def __init__(self, load: Load, servers: LocalCluster, tell: Callable[..., None]) -> None:
        self._load, self._servers, self._tell = load, servers, tell

    def fail_over(self, shard: Shard) -> None:
        """Let a primary and its replica change places."""
        node = self._servers.node_at(shard.primary)
        heir = self._servers.replicas_of(node)[0]
        self._tell(f"planned failover: primary {node.address} (shard {shard.number}) hands over to {heir.address}")
        shard.hand_over(heir.address)
        self._play("planned failover", lambda: self._servers.failover(heir), "handed over")

    def move_one_by_one(self, source: Shard, target: Shard) -> None:
        """Move slots that are in use to another shard key by key, and back."""
        spared = hash_slot(source.tag)  # it tells who serves the shard
        used = {hash_slot(worker.tag) for worker in self._load.workers if worker.shard is source} - {spared}
        owned = (slot for slot in self._slots_of(source) if slot not in used and slot != spared)
        slots = sorted([*islice(used, ONE_BY_ONE), *islice(owned, max(0, ONE_BY_ONE - len(used)))])
        self._tell(f"moving {len(slots)} slots from shard {source.number} to {target.number} and back, key by key")
        self._there_and_back("slots key by key", source, target, lambda to: self._servers.move_slots(slots, to))

    def move_at_once(self, source: Shard, target: Shard) -> None:
        """Move a range of slots to another shard atomically, and back."""
        slots = self._range_of(source)
        busy = sum(hash_slot(worker.tag) in slots for worker in self._load.workers)
        self._tell(
            f"moving {len(slots):,} slots from shard {source.number} to {target.number} and back, at once each way; "
            f"{busy:,} greenlets work in them"
        )
        move = self._servers.move_slots_atomically
        self._there_and_back("slots atomically", source, target, lambda to: move(slots[0], slots[-1], to))

    def _there_and_back(self, name: str, source: Shard, target: Shard, move: Callable[[Node], None]) -> None:
        nodes = [self._servers.node_at(shard.primary) for shard in (target, source)]

        def there_and_back() -> None:
            for node in nodes:
                move(node)

        self._play(name, there_and_back, "there and back")

    def _play(self, name: str, act: Callable[[], object], done: str) -> None:
        phase = Phase(name, is_planned=True)
        self._load.begin(phase)
        began = monotonic()
        try:
            act()
        except GvClusterError as error:
            phase.problem = f"{type(error).__name__}: {error}"
            self._tell(f"the servers have not done it: {phase.problem}", "bad")
            return
        phase.took = monotonic() - began
        gevent.wait([self._load.ended], timeout=_SETTLE)
        slowest = f"the slowest took {phase.latencies.percentile(100) * 1000:,.0f} ms"
        errors = f"{phase.errors:,} errors" if phase.errors else "no error"
        text = f"{done} in {phase.took:.2f} s: {errors} in {phase.commands:,} commands, {slowest}"
        self._tell(text, "bad" if phase.errors else "good")

    def _slots_of(self, shard: Shard) -> Iterator[int]:
        for first, last in self._servers.node_at(shard.primary).view().me.slots:
            yield from range(first, last + 1)

    def _range_of(self, shard: Shard) -> range:
        """The longest run of the shard's slots without the one that tells who serves it; no more than are moved."""
        spared = hash_slot(shard.tag)
        runs = [range(0)]
        for slot in self._slots_of(shard):
            if slot == spared or slot != runs[-1].stop:
                runs.append(range(slot + (slot == spared), slot + 1))
            else:
                runs[-1] = range(runs[-1].start, slot + 1)
        return max(runs, key=len)[:AT_ONCE]
