"""Greenlets that are killed or timed out in the midst of whatever they do."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import gevent

from gvcluster.cli.soak.book import Book
from gvcluster.cli.soak.desk import stay_if_copied
from gvcluster.cli.soak.workers import Worker


class Victim:
    """Lets one of its workers begin a step, and interrupts it.

    Args:
        who: Its number.
        workers: What it draws from.
        rng: Draws who, when and how.
        patience: Seconds that a step gets at most.
    """

    def __init__(self, who: int, workers: Sequence[Worker], rng: random.Random, *, patience: float) -> None:
        self.who, self._workers, self._rng, self._patience = who, workers, rng, patience
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Victim {self.who}>"

    def work(self, book: Book) -> None:
        """Let somebody begin; kill it, or time it out.

        Blocks: until it is interrupted, or done before.
        """
        worker, seconds = self._rng.choice(self._workers), self._rng.random() * self._patience
        if self._rng.random() < 0.5:
            greenlet = gevent.spawn(self._let_begin, worker, book)
            greenlet.join(seconds)
            greenlet.kill()
        else:
            timeout = gevent.Timeout.start_new(seconds)
            try:
                worker.work(book)
            except gevent.Timeout as error:
                if error is not timeout:
                    raise
            finally:
                timeout.close()

    def _let_begin(self, worker: Worker, book: Book) -> None:
        stay_if_copied(self._pid)
        worker.work(book)
