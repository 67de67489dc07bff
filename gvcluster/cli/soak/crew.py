"""Who works in a soak: how many greenlets of each kind, on which client, and at which pace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gevent

from gvcluster.cli.soak.book import Book, is_overheard
from gvcluster.cli.soak.desk import Desk
from gvcluster.cli.soak.pipelined import Pipelined
from gvcluster.cli.soak.victims import Victim
from gvcluster.cli.soak.workers import (
    APART,
    Appender,
    Banker,
    Big,
    Consumer,
    Counter,
    Echo,
    Place,
    Producer,
    Register,
    Scripted,
    Worker,
)

# Of 64 greenlets so many are of each kind; the rest are victims.
_KINDS: tuple[tuple[type[Worker], int], ...] = (
    (Echo, 22),
    (Register, 8),
    (Counter, 8),
    (Appender, 6),
    (Banker, 2),
    (Producer, 2),
    (Consumer, 2),
    (Big, 1),
    (Scripted, 2),
)
_PIPELINED, _OF = 4, 64
_WIDTH, _NARROW = 10, 5
# Seconds that a victim lives at most: most calls take less.
_LIFE = 0.02


def shared(places: Sequence[Place], kind: type[Worker]) -> list[Place]:
    """Where the keys of a kind are: the fewer places, the more greenlets meet at one key."""
    shards: dict[int, list[Place]] = {}
    for place in places:
        shards.setdefault(place.shard, []).append(place)
    return [place for mine in shards.values() for place in mine[: kind.spread]]


class Working(Protocol):
    """What a greenlet does again and again."""

    who: int

    def work(self, book: Book) -> None:
        """Do it once."""


@dataclass(frozen=True)
class Crew:
    """How many greenlets, of which kinds, and how fast.

    greenlets: of all kinds. pace: steps per second of all together; 0: as fast as they can.
    width: commands per pipeline. pipelines_only: all greenlets send pipelines, and every fourth is a victim; those of
    the second client, whose wire the oracle reads, send narrow ones.
    """

    greenlets: int
    pace: float
    width: int = _WIDTH
    pipelines_only: bool = False

    def hire(self, places: Sequence[Place], clients: Sequence[Any], seed: int) -> Iterator[Working]:
        """Make them. The number of each says which client it uses: even ones the first, odd ones the second."""
        kinds = self._kinds()
        for who in range(self.greenlets):
            rng = random.Random(f"{seed}:{who}")
            client = clients[who % 2]
            kind = kinds[who // 2 % len(kinds)]
            if kind is None:
                sorts = [each for each in dict.fromkeys(kinds) if each is not None]
                made = [
                    self._make(each, who + APART * number, places, client, rng)
                    for number, each in enumerate(sorts, start=1)
                ]
                yield Victim(who, made, rng, patience=_LIFE)
            else:
                yield self._make(kind, who, places, client, rng)

    def _kinds(self) -> list[type[Worker] | None]:
        if self.pipelines_only:
            return [Pipelined, Pipelined, Pipelined, None]
        listed: list[type[Worker] | None] = [Pipelined] * _PIPELINED
        for kind, times in _KINDS:
            listed += [kind] * times
        return [*listed, *[None] * (_OF - len(listed))]

    def _make(self, kind: type[Worker], who: int, places: Sequence[Place], client: Any, rng: random.Random) -> Worker:
        if issubclass(kind, Pipelined):
            narrow = self.pipelines_only and is_overheard(who)
            return Pipelined(who, places, client, rng, width=_NARROW if narrow else self.width)
        return kind(who, rng.choice(shared(places, kind)), client, rng)

    def run(self, worker: Working, desk: Desk, rng: random.Random) -> None:
        """Let one greenlet step until the soak is over.

        Blocks: until then.
        """
        rest = self.greenlets / self.pace if self.pace else 0.0
        while (book := desk.enter(worker.who)) is not None:
            try:
                if not (desk.spares and isinstance(worker, Victim)):
                    worker.work(book)
            finally:
                desk.leave(worker.who)
            desk.rest(rng.random() * 2 * rest)

    def spawn(self, workers: Sequence[Working], desk: Desk, seed: int) -> list[gevent.Greenlet[..., Any]]:
        """Set them to work, each as soon as the desk is open."""
        run: Callable[..., None] = self.run
        return [gevent.spawn(run, worker, desk, random.Random(f"{seed}:{worker.who}:rest")) for worker in workers]
