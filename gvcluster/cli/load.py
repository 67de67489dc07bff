"""The demo's load: a client, its shards, and the greenlets that work on them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Self

import gevent
from gevent.event import Event

import gvcluster
from gvcluster.cli.shards import Shard
from gvcluster.cli.tally import Phase, Tally
from gvcluster.cli.worker import Worker
from gvcluster.core.address import Address
from gvcluster.options import ClusterOptions

# Together the greenlets are paced to about so many commands per second. Unpaced, they made 25,000 on the 2 shared cores
# where this was written; but the servers need processor time as well, to notice in time that one of them has died.
PACE = 8_000
# So many tags hit every slot, or nearly so.
_ATTEMPTS = 200_000
# A call outlives a failover: with a node timeout of 2 s the servers need 3 to 4 s, much more on a busy machine.
CALL_TIMEOUT = 20.0


@dataclass(frozen=True)
class Plan:
    """What to do. Times are in seconds."""

    server: str
    seconds: float
    greenlets: int
    seed: int

    @classmethod
    def of(cls, server: str, seconds: float, greenlets: int, seed: int | None) -> Self:
        """Choose a seed if none is given; it is printed, so that a run can be had again."""
        return cls(server, seconds, int(greenlets), random.randrange(1_000_000) if seed is None else seed)

    @property
    def rest(self) -> float:
        """How long a greenlet rests between two steps, on average."""
        return self.greenlets / PACE


class Load:
    """Use it in a `with`, which ends whatever still runs.

    Args:
        plan: What to do.
        cluster: Makes the client, of the observers that it is given.
        tell: Says a line.
        hire: Makes a worker.
        tidy: Called at the end, however it comes, when no worker works any more and the client is open still.

    Attributes:
        workers: Each with the shard that its keys were in at the beginning.
        ended: Set when the load is to end; by itself when any greenlet of the hub, the client's too, dies of an error.
        failure: The error. The hub has printed its traceback.
        opened: How many connections were opened to each address.
    """

    def __init__(
        self,
        plan: Plan,
        cluster: Callable[[ClusterOptions], gvcluster.Cluster],
        tell: Callable[[str], None],
        hire: Callable[..., Worker] = Worker,
        tidy: Callable[[Load], object] = repr,
    ) -> None:
        self.plan, self.tally = plan, Tally()
        self.ended = Event()
        self.failure: BaseException | None = None
        self.opened: Counter[Address] = Counter()
        self.shards: tuple[Shard, ...] = ()
        self.workers: list[Worker] = []
        self._tell, self._hire, self._tidy = tell, hire, tidy
        self._hub = gevent.get_hub()
        self._handle_error = self._hub.handle_error
        self._rng = random.Random(plan.seed)
        self._working: list[gevent.Greenlet[..., Any]] = []
        self._beside: list[gevent.Greenlet[..., Any]] = []
        options = ClusterOptions(
            timeout=CALL_TIMEOUT,
            rng=random.Random(plan.seed),
            on_connect=self._connected,
            on_disconnect=self._disconnected,
            on_event=self._learned,
        )
        self.cluster = cluster(options)

    def __repr__(self) -> str:
        return f"<Load {self.plan.greenlets} greenlets, {self.tally!r}>"

    def __enter__(self) -> Self:
        """Connect, and set the workers to work.

        Blocks: until all are prepared.
        """
        self._hub.handle_error = self._note_error  # type: ignore[method-assign]
        try:
            self.cluster.connect()
            self._set_to_work()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
            self._tidy(self)
        finally:
            self.cluster.close()
            self._hub.handle_error = self._handle_error  # type: ignore[method-assign]

    def stop(self) -> None:
        """End all greenlets now.

        Blocks: until they are dead.
        """
        self.ended.set()
        gevent.killall([*self._working, *self._beside])

    def begin(self, phase: Phase) -> None:
        """Let another phase begin."""
        self._end_phase()
        self.tally.begin(phase)

    def _end_phase(self) -> None:
        *before, last = self.tally.phases
        last.redirects = self.cluster.statistics().redirects - sum(phase.redirects for phase in before)

    def spawn(self, job: Callable[..., object], *arguments: object) -> None:
        """Start a greenlet beside the workers. It ends with the load."""
        self._beside.append(gevent.spawn(job, *arguments))

    def choose_victim(self) -> Shard:
        """The shard whose primary is to be killed."""
        return self._rng.choice(self.shards)

    def finish(self, seconds: float) -> int:
        """Tell the workers to end after their present call.

        Returns:
            How many have not, after so many seconds: calls that are stuck.

        Blocks: until they have.
        """
        self.ended.set()
        gevent.joinall(self._working, timeout=seconds)
        self._end_phase()
        return sum(not greenlet.ready() for greenlet in self._working)

    def _set_to_work(self) -> None:
        """Share the workers out to the shards, and start them when all are prepared."""
        tags = (f"{self._rng.getrandbits(32):08x}.{number}" for number in count())
        self.shards = tuple(self._find_shards(tags))
        for number in range(self.plan.greenlets):
            shard = self.shards[number % len(self.shards)]
            rng = random.Random(f"{self.plan.seed}:{number}")
            tag = next(iter(self._tags(tags, shard.primary)), None) or next(tags)
            self.workers.append(self._hire(number, shard, tag, self.cluster, self.tally, rng))
        for worker in self.workers[: len(self.shards)]:
            worker.prepare()  # one for each shard, here: what is wrong with a shard is raised once
        self._working = [gevent.spawn(worker.prepare) for worker in self.workers[len(self.shards) :]]
        gevent.joinall(self._working, raise_error=True)
        self._working = [gevent.spawn(worker.run, self.ended.is_set, self.plan.rest) for worker in self.workers]

    def _find_shards(self, tags: Iterator[str]) -> Iterator[Shard]:
        numbers = count(1)
        for node in self.cluster.primaries():
            for tag in self._tags(tags, node.address):
                yield Shard(next(numbers), tag, node.address)

    def _note_error(self, context: Any, type: Any, value: Any, tb: Any) -> None:
        """What the hub calls for each greenlet or callback that ends with an exception."""
        if not issubclass(type, self._hub.NOT_ERROR):
            self.failure = self.failure or value
            self.ended.set()
        self._handle_error(context, type, value, tb)

    def _tags(self, tags: Iterator[str], primary: Address) -> list[str]:
        """The next hash tag of a slot that this node owns; none if it owns no slot."""
        for tag in islice(tags, _ATTEMPTS):
            node = self.cluster.node_for_key(tag)
            if node is not None and node.address == primary:
                return [tag]
        return []

    # -- what the client tells ----------------------------------------------------------------------------------------

    def _connected(self, connection: gvcluster.Connection, error: BaseException | None) -> None:
        if error is None:
            self.opened[connection.address] += 1

    def _disconnected(self, connection: gvcluster.Connection, _error: BaseException | None) -> None:
        for shard in self.shards:
            shard.disconnected(connection.address)

    def _learned(self, event: gvcluster.Event) -> None:
        if not isinstance(event, gvcluster.SlotMapUpdated):
            return
        for shard in self.shards:
            node = self.cluster.node_for_key(shard.tag)
            if node is not None and shard.serve(node.address):
                self._tell(f"shard {shard.number} is served by {node.address} now, and nobody here had asked for it")
