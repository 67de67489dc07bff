"""One of the demo's greenlets: it reads and writes keys that nobody else writes, and believes no reply unseen."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Protocol

import gevent

from gvcluster.cli.shards import Shard
from gvcluster.cli.tally import Tally
from gvcluster.cli.tokens import Counter, Register
from gvcluster.errors import GvClusterError

# The counters of two workers are further apart than either can count.
_APART = 1_000_000_000
# The shortest sleep that libuv knows, seconds.
_TICK = 0.001


class Client(Protocol):
    """What a worker needs of a Cluster."""

    def execute(self, *args: Any) -> Any:
        """Run a command."""

    def refresh(self) -> None:
        """Fetch the slot map."""


class Worker:
    """Its keys share a hash tag, as the keys of one user would, and so live in one shard."""

    def __init__(self, number: int, shard: Shard, tag: str, cluster: Client, tally: Tally, rng: random.Random) -> None:
        name = f"{tag}:{number}"
        self.number, self.shard, self.tag = number, shard, tag
        self._cluster, self._tally, self._rng = cluster, tally, rng
        self._text, self._field, self._count = Register(f"{name}:t"), Register(f"{name}:f"), Counter(number * _APART)
        self._text_key, self._hash_key, self._count_key = f"{{{tag}}}:text", f"{{{tag}}}:hash", f"{{{tag}}}:count"
        self._steps: tuple[Callable[[], None], ...] = (
            *(self._get, self._get, self._set, self._set, self._incr, self._mget),
            *(self._getrange, self._strlen, self._hset, self._hgetall),
        )

    def __repr__(self) -> str:
        return f"<Worker {self.number} of shard {self.shard.number}>"

    def run(self, is_over: Callable[[], bool], rest: float) -> None:
        """Work until it is over, and rest before each step, on average so many seconds."""
        while not is_over():
            gevent.sleep(max(_TICK, self._rng.random() * 2 * rest))
            self.step()

    def prepare(self) -> None:
        """Set the counter to where it starts. This is not part of the load."""
        self._cluster.execute("SET", self._count_key, self._count.start)

    def step(self) -> None:
        """Read or write something; now and then both."""
        try:
            self._rng.choice(self._steps)()
        except GvClusterError:
            pass  # it is in the tally

    # -- steps: reads -------------------------------------------------------------------------------------------------

    def _get(self) -> None:
        command, epoch = ("GET", self._text_key), self.shard.epoch
        reply = self._call(*command, read=True)
        self._compare(command, reply, self._text, reply, epoch)

    def _getrange(self) -> None:
        first = self._rng.randrange(30)
        last = first + self._rng.randrange(10, 60)
        command = ("GETRANGE", self._text_key, first, last)
        reply = self._call(*command, read=True)
        self._match(command, reply, self._text, lambda text: text[first : last + 1] == reply)

    def _strlen(self) -> None:
        command = ("STRLEN", self._text_key)
        reply = self._call(*command, read=True)
        self._match(command, reply, self._text, lambda text: len(text) == reply)

    def _mget(self) -> None:
        command, epoch = ("MGET", self._text_key, self._count_key), self.shard.epoch
        reply = self._call(*command, read=True)
        text, count = reply if isinstance(reply, list) and len(reply) == 2 else (reply, reply)
        number = int(count) if isinstance(count, bytes) and count.isdigit() else None
        self._compare(command, reply, self._text, text, epoch)
        self._compare(command, reply, self._count, number, epoch)

    def _hgetall(self) -> None:
        command, epoch = ("HGETALL", self._hash_key), self.shard.epoch
        reply = self._call(*command, read=True)
        value = reply.get(b"field") if isinstance(reply, dict) else reply
        self._compare(command, reply, self._field, value, epoch)

    # -- steps: writes ------------------------------------------------------------------------------------------------

    def _set(self) -> None:
        """SET … GET answers the old value. If that were the new one, the command would have run twice."""
        write, epoch = self._text.next_write(), self.shard.epoch
        command = ("SET", self._text_key, self._text.token(write), "GET")
        reply = self._write(command, lambda: self._text.doubt(write))
        self._compare(command, reply, self._text, reply, epoch)
        self._text.acknowledge(write, epoch)

    def _incr(self) -> None:
        command, epoch = ("INCR", self._count_key), self.shard.epoch
        reply = self._write(command, self._count.doubt)
        observe = partial(self._count.observe, incremented=1)
        self._judge(command, reply, self._count, lambda: observe(reply, epoch, self.shard.epoch))

    def _hset(self) -> None:
        """HGET before HSET: a loss that is overwritten unseen could not be counted."""
        look, epoch = ("HGET", self._hash_key, "field"), self.shard.epoch
        reply = self._call(*look, read=True)
        self._compare(look, reply, self._field, reply, epoch)
        write, epoch = self._field.next_write(), self.shard.epoch
        command = ("HSET", self._hash_key, "field", self._field.token(write))
        reply = self._write(command, lambda: self._field.doubt(write))
        self._match(command, reply, self._field, lambda text: reply == int(text == b""))
        self._field.acknowledge(write, epoch)

    # -- calls --------------------------------------------------------------------------------------------------------

    def _write(self, command: tuple[Any, ...], doubt: Callable[[], object]) -> Any:
        try:
            return self._call(*command)
        except GvClusterError as error:
            if error.maybe_executed:
                doubt()
            raise

    def _call(self, *command: Any, read: bool = False) -> Any:
        began = monotonic()
        try:
            reply = self._cluster.execute(*command)
        except GvClusterError as error:
            self._tally.took(monotonic() - began, hit=self.shard.killed is not None)
            self._tally.fail(command[0], error, read=read)
            raise
        now = monotonic()
        self._tally.took(now - began, hit=self.shard.killed is not None)
        self.shard.count(now)
        return reply

    # -- verdicts -----------------------------------------------------------------------------------------------------

    def _compare(
        self, command: tuple[Any, ...], reply: object, known: Register | Counter, value: object, began: int
    ) -> None:
        """A value that the reply shows, whose call began in the epoch `began`."""
        self._judge(command, reply, known, lambda: known.observe(value, began, self.shard.epoch))

    def _match(self, command: tuple[Any, ...], reply: object, known: Register, fits: Callable[[bytes], bool]) -> None:
        """A reply that tells only something about the value; b"" where the key is missing."""
        self._judge(command, reply, known, lambda: 0 if known.fits(fits, self.shard.epoch) else None)

    def _judge(self, command: tuple[Any, ...], reply: object, known: object, verdict: Callable[[], int | None]) -> None:
        """Before a reply is called wrong, see if a failover explains it: MOVED may have been faster than the map."""
        lost = verdict()
        if lost is None:
            try:
                self._cluster.refresh()
            except GvClusterError:
                pass
            lost = verdict()
        self._tally.judge(command, reply, lost, known)
