"""What a greenlet does, written once for all clients: a generator that yields what a client's operation returned.

gevent's driver sends it back as it is, asyncio's awaits it first. A reply is compared with what was stored.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter
from types import MappingProxyType
from typing import Any, Protocol

# All keys of the benchmark begin with it, so that they can be found and deleted.
PREFIX = "gvcluster-bench:"
# Keys of each greenlet: enough that one greenlet alone speaks with every node; of large values less is to be stored.
_KEYS, _LARGE_KEYS = 16, 4
# So many greenlets have keys of their own.
_APART = 100
# Of so many calls one is timed: the clock costs a hundredth of a call.
_TIMED = 4
# The longest that a consumer waits for an item, seconds.
_PATIENCE = 1
_FIELDS = 10
# A way to store or fetch many keys is chosen by the shortest of so many calls.
_TRIALS = 3

Load = Generator[Any, Any, None]
Command = tuple[str, str] | tuple[str, str, bytes]


class WrongReply(Exception):
    """A client returned something else than was stored."""


class Operations(Protocol):
    """What a client can do. Each returns the reply, or what asyncio awaits to have it."""

    how: str

    def store(self, key: str, value: bytes) -> Any:
        """SET."""

    def fetch(self, key: str) -> Any:
        """GET: bytes."""

    def run(self, commands: list[Command]) -> Any:
        """SETs and GETs in one pipeline: a list of the replies."""

    def ways(self) -> dict[str, tuple[Callable[[dict[str, bytes]], Any], Callable[[list[str]], Any]]]:
        """The ways to store and to fetch many keys of any slots, by name. What fetches returns a sequence."""

    def store_hash(self, key: str, fields: dict[str, bytes]) -> Any:
        """HSET."""

    def fetch_hash(self, key: str) -> Any:
        """HGETALL: a mapping of bytes."""

    def push(self, key: str, value: bytes) -> Any:
        """RPUSH."""

    def pop(self, key: str, seconds: int) -> Any:
        """BLPOP: key and item, or None."""

    def rest(self, seconds: float) -> Any:
        """Sleep."""


@dataclass
class Tally:
    """What the greenlets of a turn have done, and whether they are to end.

    done: commands of each greenlet. taken: latencies, seconds. due: when the call began that a paced greenlet is in,
    or 0. way: how many keys are stored and fetched.
    """

    greenlets: int
    count: int
    size: int
    tag: str
    began: float = 0.0
    stopped: bool = False
    way: str = ""
    errors: list[str] = field(default_factory=list)
    taken: array[float] = field(default_factory=lambda: array("d"))

    def __post_init__(self) -> None:
        self.done = [0] * self.greenlets
        self.due = [0.0] * self.greenlets
        self._common: dict[int, dict[str, bytes]] = {}

    @property
    def keys(self) -> int:
        """Of each greenlet that makes single calls."""
        usual = _KEYS if self.size <= 1 << 16 else _LARGE_KEYS
        return self.count if self.count > 1 else usual

    @property
    def first(self) -> int:
        """Commands of each greenlet that are warm-up in any case: all its keys where they are many, for each may be at
        a node that was not met before."""
        return 2 * self.count if self.count > 1 else 1

    def overdue(self, now: float) -> Iterator[float]:
        """How long paced calls that are not answered yet have taken until now."""
        return (now - due for due in self.due if 0.0 < due < now)

    def common_values(self, number: int) -> dict[str, bytes]:
        """Keys of a greenlet, shared with every hundredth other: so many greenlets are compared with fewer, and not a
        working set of megabytes with one that the processor's cache holds."""
        number %= _APART
        if number not in self._common:
            self._common[number] = self.values(number, self.keys)
        return self._common[number]

    def values(self, number: int, keys: int) -> dict[str, bytes]:
        """Keys of a greenlet, each with a value of its own."""
        names = [f"{PREFIX}{number}:{key}" for key in range(keys)]
        return {name: name.encode().ljust(self.size, b".")[-self.size :] for name in names}


def calls(ops: Operations, tally: Tally, number: int) -> Load:
    """SET, GET, and again, key after key."""
    values = tally.common_values(number)
    store, fetch, done, taken = ops.store, ops.fetch, tally.done, tally.taken
    while True:
        for place, (key, value) in enumerate(values.items()):
            yield store(key, value)
            done[number] += 1
            if place % _TIMED:
                reply = yield fetch(key)
            else:
                began = perf_counter()
                reply = yield fetch(key)
                taken.append(perf_counter() - began)
            if reply != value:
                raise WrongReply(f"GET {key} returned {str(reply)[:60]}")
            done[number] += 1


def once(ops: Operations, tally: Tally, number: int) -> Load:
    """A SET and a GET, and that is all."""
    ((key, value),) = tally.values(number, 1).items()
    began = perf_counter()
    yield ops.store(key, value)
    reply = yield ops.fetch(key)
    tally.taken.append(perf_counter() - began)
    if reply != value:
        raise WrongReply(f"GET {key} returned {str(reply)[:60]}")
    tally.done[number] += 2


def pipelines(ops: Operations, tally: Tally, number: int) -> Load:
    """Half of each pipeline are SETs, the other half GETs."""
    values = tally.values(number, tally.count // 2)
    commands: list[Command] = []
    for key, value in values.items():
        commands += (("SET", key, value), ("GET", key))
    wanted = list(values.values())
    while True:
        began = perf_counter()
        replies = yield ops.run(commands)
        tally.taken.append(perf_counter() - began)
        if list(replies[1::2]) != wanted:
            raise WrongReply("a pipeline returned other values than it stored")
        tally.done[number] += len(commands)


def mget(ops: Operations, tally: Tally, number: int) -> Load:
    """Fetch all keys in one call, by the fastest way."""
    yield from _many(ops, tally, number, 1)


def mset(ops: Operations, tally: Tally, number: int) -> Load:
    """Store all keys in one call, by the fastest way."""
    yield from _many(ops, tally, number, 0)


def _many(ops: Operations, tally: Tally, number: int, fetches: int) -> Load:
    values = tally.values(number, tally.count)
    names, wanted = list(values), list(values.values())
    arguments: Any = (values, names)[fetches]
    tried: dict[str, float] = {}
    for name, (store, fetch) in ops.ways().items():
        times = []
        for _ in range(_TRIALS):
            began = perf_counter()
            yield store(values)
            stored = perf_counter()
            fetched = yield fetch(names)
            times.append(perf_counter() - stored if fetches else stored - began)
            if list(fetched) != wanted:
                raise WrongReply(f"{name} returned other values than were stored")
        tried[name] = min(times)
    tally.way = min(tried, key=lambda name: tried[name])
    call: Callable[[Any], Any] = ops.ways()[tally.way][fetches]
    while True:
        began = perf_counter()
        fetched = yield call(arguments)
        tally.taken.append(perf_counter() - began)
        if fetches and list(fetched) != wanted:
            raise WrongReply(f"{tally.way} returned other values than were stored")
        tally.done[number] += len(names)


def pace(ops: Operations, tally: Tally, number: int) -> Load:
    """Calls at times that were fixed before. Who is late begins at once; the latency counts from when it was due."""
    rng = random.Random(number)
    values = tally.values(number, _KEYS)
    keys, name = list(values), f"{PREFIX}{number}:hash"
    fields = {f"field{part}": values[keys[part]] for part in range(_FIELDS)}
    yield ops.store_hash(name, fields)
    for key, value in values.items():
        yield ops.store(key, value)
    due = tally.began
    for call in count():
        due += rng.expovariate(tally.count / tally.greenlets)
        wait = due - perf_counter()
        if wait > 0:
            yield ops.rest(wait)
        tally.due[number] = due
        key, kind = keys[call % _KEYS], rng.random()
        if kind < 0.8:
            right = (yield ops.fetch(key)) == values[key]
        elif kind < 0.9:
            right = len((yield ops.fetch_hash(name))) == _FIELDS
        else:
            right = bool((yield ops.store(key, values[key])))
        if not right:
            raise WrongReply(f"{key} or {name} has other values than were stored")
        tally.due[number] = 0.0
        tally.taken.append(perf_counter() - due)
        tally.done[number] += 1


def blocking(ops: Operations, tally: Tally, number: int) -> Load:
    """The even ones push an item and wait until their partner, who waited for it, has pushed it back."""
    pair, answers = divmod(number, 2)
    there, back = f"{PREFIX}{tally.tag}:there:{pair}", f"{PREFIX}{tally.tag}:back:{pair}"
    item = b"x" * tally.size
    while True:
        began = perf_counter()
        if not answers:
            yield ops.push(there, item)
        popped = yield ops.pop(there if answers else back, _PATIENCE)
        if popped is None or popped[1] != item:
            raise WrongReply(f"BLPOP returned {str(popped)[:60]} after {perf_counter() - began:.1f} s")
        if answers:
            yield ops.push(back, item)
        else:
            tally.taken.append(perf_counter() - began)
        tally.done[number] += 2


LOADS: MappingProxyType[str, Callable[[Operations, Tally, int], Load]] = MappingProxyType(
    {
        "calls": calls,
        "sizes": calls,
        "cold": once,
        "pipelines": pipelines,
        "mget": mget,
        "mset": mset,
        "pace": pace,
        "blocking": blocking,
    }
)
