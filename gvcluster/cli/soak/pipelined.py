"""Greenlets that send many commands at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from time import monotonic
from typing import Any

from gvcluster.cli.soak.book import EVERYWHERE, Book
from gvcluster.cli.soak.history import Fate, Op, fate_of
from gvcluster.cli.soak.workers import CALL_TIMEOUT, Place, Worker
from gvcluster.errors import GvClusterError


class Pipelined(Worker):
    """Sends increments, tokens to append and tokens to echo in one pipeline, over all shards. (C1, C3, C4)

    Args:
        who, places, client, rng: As for Worker, with all the places where its keys may be.
        width: How many commands a pipeline has.
    """

    def __init__(self, who: int, places: Sequence[Place], client: Any, rng: random.Random, *, width: int) -> None:
        super().__init__(who, places[0], client, rng)
        self._places, self._width = places, width

    def step(self, book: Book) -> None:
        with self.client.pipeline() as pipe:
            sent = [self._append(book, pipe, self.rng.choice(self._places)) for _ in range(self._width)]
            began = monotonic()
            replies: list[Any] = []
            try:
                replies = pipe.execute()
            except GvClusterError as error:
                replies = [error] * len(sent)
            except BaseException:
                book.interrupted += 1
                raise
            finally:
                self._write_down(book, sent, replies, began)

    def _append(self, book: Book, pipe: Any, place: Place) -> tuple[list[Op] | None, bytes, int, str]:
        """Append a command. Returns where it is written down, its token, its number and its name."""
        token, drawn = self.token(), self.rng.random()
        if drawn < 0.3:
            key = f"{{{place.tag}}}:{book.name}:count{self.crowd}"
            pipe.append("INCR", key)
            return book.counters[key], token, self.seq, "INCR"
        if drawn < 0.6:
            key = f"{{{place.tag}}}:{book.name}:list{self.crowd}"
            pipe.append("RPUSH", key, token)
            return book.lists[key], token, self.seq, "RPUSH"
        pipe.append("ECHO", token, route_key=place.tag)
        return None, token, self.seq, "ECHO"

    def _write_down(
        self, book: Book, sent: list[tuple[list[Op] | None, bytes, int, str]], replies: list[Any], began: float
    ) -> None:
        ended = monotonic()
        for index, (ops, token, seq, name) in enumerate(sent):
            reply = replies[index] if replies else None
            fate = Fate.DONE if replies else Fate.DOUBTFUL
            if isinstance(reply, GvClusterError):
                book.failed(name, reply)
                fate, reply = fate_of(reply), None
            if ops is not None:
                ops.append(Op(self.who, seq, token, reply, began, ended, fate))
            elif fate is Fate.DONE:
                book.expect(self.who, name, token, reply)
        book.took(EVERYWHERE, began, most=CALL_TIMEOUT, commands=len(sent))
