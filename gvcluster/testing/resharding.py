"""Moving slots: key by key, as every server can, and atomically, as Valkey 9 can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from gvcluster.errors import ConfigError, ReplyError
from gvcluster.testing.control import ControlConnection, wait_for
from gvcluster.testing.errors import LocalClusterError
from gvcluster.testing.group import NodeGroup
from gvcluster.testing.node import Node
from gvcluster.testing.servers import Server
from gvcluster.testing.views import View

_KEYS_PER_MIGRATE = 100
_MIGRATE_TIMEOUT_MS = 5000
_GOSSIP_PATIENCE = 20.0


@dataclass(frozen=True)
class SlotMove:
    """A slot between two nodes: `source` answers ASK for keys that it no longer has, `target` obeys after ASKING."""

    slot: int
    source: Node
    target: Node

    def move_keys(self, *keys: str | bytes) -> None:
        """Move these keys now. With some keys of a command here and some there, it is answered TRYAGAIN (or ASK).

        Raises:
            ReplyError: A key could not be moved.

        Blocks:
            Until they are moved. A kill or Timeout leaves each key on one of the two nodes.
        """
        with self.source.connection() as source:
            self._migrate(source, keys)

    def begin(self) -> None:
        """Open the slot on both nodes, the target first: else the source would send clients there too early."""
        self.target.command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.source.id)
        self.source.command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.target.id)

    def finish(self, primaries: Sequence[Node]) -> None:
        """Move the keys that are left, and tell the target, the source, and then all other primaries."""
        with self.source.connection() as source:
            while keys := source.call("CLUSTER", "GETKEYSINSLOT", self.slot, _KEYS_PER_MIGRATE):
                self._migrate(source, keys)
        others = [node for node in primaries if node not in (self.source, self.target)]
        for node in (self.target, self.source, *others):
            self._assign(node)

    def _assign(self, node: Node) -> None:
        try:
            node.command("CLUSTER", "SETSLOT", self.slot, "NODE", self.target.id)
        except ReplyError:
            # A primary that has lost its last slot becomes a replica of the new owner at once, and needs no telling.
            if node.role == "primary":
                raise

    def _migrate(self, source: ControlConnection, keys: Sequence[str | bytes]) -> None:
        password = self.target.password
        auth = () if password is None else ("AUTH", password)
        source.call("MIGRATE", *self.target.address, "", 0, _MIGRATE_TIMEOUT_MS, *auth, "KEYS", *keys)


class MovableSlots(NodeGroup):
    """The resharding half of LocalCluster."""

    server: Server

    def begin_move(self, slot: int, target: Node) -> SlotMove:
        """Open a slot for moving, and move no key yet: the owner answers ASK for the keys that it has not.

        Args:
            slot: 0 to 16383.
            target: A primary that does not own it.

        Returns:
            The move: `move_keys(*keys)` moves some keys, `finish_move(move)` ends it.

        Raises:
            ReplyError: A node refused.

        Blocks:
            Until both nodes have agreed. A kill or Timeout may leave the slot open on the target only.
        """
        move = SlotMove(slot, self.primary_of(slot), target)
        move.begin()
        return move

    def finish_move(self, move: SlotMove) -> None:
        """Move the keys that are left, and make the target the owner.

        Raises:
            ReplyError: A node refused.

        Blocks:
            Until all live primaries know the new owner; replicas learn it a moment later. A kill or Timeout leaves
            the slot open.
        """
        move.finish(self._to_be_told())
        self._wait_until_known(move.slot, move.target)

    def move_slots(self, slots: int | Iterable[int], target: Node) -> None:
        """Move slots one after the other, key by key, as every server can.

        Args:
            slots: One slot, or several, such as `range(100)`. Those that the target has already are left alone.
            target: A primary.

        Raises:
            ReplyError: A node refused.

        Blocks:
            Until all live primaries know the new owner; replicas learn it a moment later. A slot takes 4 ms on Redis,
            20 ms on Valkey, which waits for its replicas. A kill or Timeout leaves one slot open.
        """
        seen, primaries = self._views(), self._to_be_told()
        for slot in (slots,) if isinstance(slots, int) else slots:
            move = SlotMove(slot, self._owner(seen, slot), target)
            if move.source is not target:
                move.begin()
                move.finish(primaries)
                self._wait_until_known(slot, target)

    def move_slots_atomically(self, first: int, last: int, target: Node, timeout: float = 30.0) -> None:
        """Move slots with CLUSTER MIGRATESLOTS, one job for each present owner. Nobody ever answers ASK.

        Args:
            first: The first slot.
            last: The last slot, which is moved too.
            target: A primary.
            timeout: Seconds for each job.

        Raises:
            ConfigError: The server can not do it: Valkey 9 can.
            LocalClusterError: The servers gave up; the message says why.
            ReplyError: A node refused.
            ClusterTimeout: It did not happen in time.

        Blocks:
            Until all live nodes know the new owner. A kill or Timeout leaves the job to the servers.
        """
        if not self.server.has_atomic_moves:
            raise ConfigError(f"{self.server.name} can not move slots atomically: Valkey 9 can")
        seen = self._views()
        for source, slots in groupby(range(first, last + 1), lambda slot: self._owner(seen, slot)):
            if source is not target:
                run = list(slots)
                _move_atomically((run[0], run[-1]), source, target, self._views, timeout)

    def _to_be_told(self) -> list[Node]:
        """The live primaries. Garnets hear of a new owner by gossip only."""
        return [] if self.server.is_garnet else self._matching(lambda view: view.me.primary_id is None)

    def _wait_until_known(self, slot: int, target: Node) -> None:
        def objection() -> str | None:
            late = [str(view) for view in self._views() if not view.gives(slot, slot, target.id)]
            return f"{', '.join(late)} do not know it yet" if late else None

        if self.server.is_garnet:
            wait_for(objection, _GOSSIP_PATIENCE, f"all nodes know that {target!r} has slot {slot}")


def _move_atomically(
    slots: tuple[int, int], source: Node, target: Node, views: Callable[[], Sequence[View]], timeout: float
) -> None:
    """Let the source export its slots, first to last, in one job, and wait until everybody knows the new owner."""
    first, last = slots
    name = f"{first}-{last}"
    source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", target.id)

    def objection() -> str | None:
        job = _last_job(source, name)
        if job is None:
            return "the source has lost the job"
        if job["state"] in ("failed", "cancelled"):
            raise LocalClusterError(f"slots {name} were not moved: {job['state']}: {job['message']}")
        if job["state"] != "success":
            return f"the job is in state {job['state']}"
        late = [str(view) for view in views() if not view.gives(first, last, target.id)]
        return f"{', '.join(late)} do not know it yet" if late else None

    wait_for(objection, timeout, f"slots {name} move from {source!r} to {target!r}")


def _last_job(source: Node, slots: str) -> dict[str, str] | None:
    """The newest of the jobs that export these slots, from CLUSTER GETSLOTMIGRATIONS: a flat list of pairs for each."""
    jobs = []
    for reply in source.command("CLUSTER", "GETSLOTMIGRATIONS"):
        words = [word.decode() if isinstance(word, bytes) else str(word) for word in reply]
        jobs.append(dict(zip(words[::2], words[1::2], strict=True)))
    matching = [job for job in jobs if job["slot_ranges"] == slots and job["operation"] == "EXPORT"]
    return max(matching, key=lambda job: int(job["create_time"]), default=None)
