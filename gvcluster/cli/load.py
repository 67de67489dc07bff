"""The demo's load: a client, its shards, and the greenlets that work on them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import gevent
from gevent.event import Event

import gvcluster
from gvcluster.cli.shards import Shard
from gvcluster.cli.tally import Tally
from gvcluster.cli.worker import Worker
from gvcluster.core.address import Address

# Together the greenlets are paced to about so many commands per second. Unpaced, they made 25,000 on the 2 shared cores
# where this was written; but the servers need processor time as well, to notice in time that one of them has died.
PACE = 8_000
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

    @property
    def kill_at(self) -> float:
        """When the primary is killed."""
        return self.seconds / 3


class Load:
    """Use it in a `with`, which ends whatever still runs.

    Attributes:
        ended: Set when the load is to end; by itself when any greenlet of the hub, the client's too, dies of an error.
        failure: The error. The hub has printed its traceback.
        opened: How many connections were opened to each address.
    """

    def __init__(self, plan: Plan, seeds: str, tell: Callable[[str], None]) -> None:
        self.plan, self.tally = plan, Tally()
        self.ended = Event()
        self.failure: BaseException | None = None
        self.opened: Counter[Address] = Counter()
        self.shards: tuple[Shard, ...] = ()
        self._tell = tell
        self._hub = gevent.get_hub()
        self._handle_error = self._hub.handle_error
        self._rng = random.Random(plan.seed)
        self._workers: list[gevent.Greenlet[..., Any]] = []
        self._beside: list[gevent.Greenlet[..., Any]] = []
        self.cluster = gvcluster.Cluster(
            seeds,
            timeout=CALL_TIMEOUT,
            client_name="gvcluster-demo",
            rng=random.Random(plan.seed),
            on_connect=self._connected,
            on_disconnect=self._disconnected,
            on_event=self._learned,
        )

    def __repr__(self) -> str:
        return f"<Load {self.plan.greenlets} greenlets, {self.tally!r}>"

    def __enter__(self) -> Self:
        """Connect, and set the workers to work.

        Blocks: until all are prepared.
        """
        self._hub.handle_error = self._note_error  # type: ignore[method-assign]
        try:
            self.cluster.connect()
            self._hire()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            gevent.killall([*self._workers, *self._beside])
        finally:
            self.cluster.close()
            self._hub.handle_error = self._handle_error  # type: ignore[method-assign]

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
        gevent.joinall(self._workers, timeout=seconds)
        return sum(not worker.ready() for worker in self._workers)

    def _hire(self) -> None:
        """Share the workers out to the shards, and start them when all are prepared."""
        tags = (f"{self._rng.getrandbits(32):08x}.{number}" for number in count())
        primaries = [node.address for node in self.cluster.primaries()]
        self.shards = tuple(Shard(i, self._tag(tags, at), at) for i, at in enumerate(primaries, start=1))
        workers = []
        for number in range(self.plan.greenlets):
            shard = self.shards[number % len(self.shards)]
            rng = random.Random(f"{self.plan.seed}:{number}")
            workers.append(Worker(number, shard, self._tag(tags, shard.primary), self.cluster, self.tally, rng))
        self._workers = [gevent.spawn(worker.prepare) for worker in workers]
        gevent.joinall(self._workers, raise_error=True)
        self._workers = [gevent.spawn(worker.run, self.ended.is_set, self.plan.rest) for worker in workers]

    def _note_error(self, context: Any, type: Any, value: Any, tb: Any) -> None:
        """What the hub calls for each greenlet or callback that ends with an exception."""
        if not issubclass(type, self._hub.NOT_ERROR):
            self.failure = self.failure or value
            self.ended.set()
        self._handle_error(context, type, value, tb)

    def _tag(self, tags: Iterator[str], primary: Address) -> str:
        """The next hash tag of a slot that this node owns."""
        for tag in tags:
            node = self.cluster.node_for_key(tag)
            if node is not None and node.address == primary:
                return tag
        raise AssertionError("the tags never end")

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
                self._tell(f"shard {shard.number} has failed over to {node.address}, and nobody had asked for it")
