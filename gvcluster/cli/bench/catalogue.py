"""The work that clients are compared by: which there is, and which of it a run does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from gvcluster.cli.bench.clients import ALL, BARE, GVCLUSTER, NATIVE, PATCHED

QUICK, USUAL, FULL = 0, 1, 2
# A value, bytes, where the size is not what is compared.
SIZE = 64

_PEERS = tuple(name for name in ALL if name not in (PATCHED, BARE, NATIVE))
_OURS = (GVCLUSTER,)
_UNITS = MappingProxyType({"B": 1, "KiB": 1 << 10, "MiB": 1 << 20})
# Who has a turn only in a full run, or when named, but for the cases that everybody is in.
_RARE = frozenset((PATCHED, "coredis", NATIVE))
# Who imports in Python, and keeps what it has there.
_IN_PYTHON = tuple(name for name in _PEERS if name != "valkey-glide-sync")


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    name: `work/what`. title: what a reader sees above its table. load: what the greenlets do, as `loads` and
    `special` name it. site: on which servers, as `sites` names them. greenlets; count: commands at once, or keys; size:
    of a value, bytes. level: the smallest run that has it. length: times the usual seconds of a turn. usual: who
    takes part where the run is not a full one; if nobody is named, all but those that few ask about.
    """

    name: str
    title: str
    load: str
    clients: tuple[str, ...]
    site: str = "3 nodes"
    greenlets: int = 1
    count: int = 1
    size: int = SIZE
    level: int = USUAL
    length: float = 1.0
    usual: tuple[str, ...] = ()

    @property
    def work(self) -> str:
        """The work that it belongs to."""
        return self.name.partition("/")[0]


WORKS = MappingProxyType(
    {
        "calls": "SET and GET of 64 bytes, one after the other in each greenlet",
        "pipelines": "pipelines of SET and GET of 64 bytes",
        "keys": "many keys of all slots in one call: mget, mset, or the best that a client has for it",
        "sizes": "SET and GET of large values by one greenlet, beside a bare gevent socket with hiredis",
        "pace": "a web-like mix at 5,000 commands/s; latency counts from when a call was due",
        "blocking": "pairs of greenlets that hand each other items by RPUSH and BLPOP",
        "cold": "1,000 greenlets make a SET and a GET each, on a client that is not connected yet",
        "maps": "the cost of a call against the number of nodes, and of taking up a large slot map",
        "memory": "memory per parked call and per connection",
        "import": "CPU time of importing the client, when gevent and hiredis are there",
    }
)


def _calls() -> Iterable[Case]:
    everybody = tuple(name for name in ALL if name != BARE)
    usual = {100: everybody, 10_000: _OURS}
    for greenlets, level in ((1, QUICK), (10, FULL), (100, QUICK), (1000, USUAL), (10_000, USUAL)):
        title = f"{greenlets:,} greenlet{'s' if greenlets > 1 else ''}"
        # 10,000 clients with 3 connections each are too many for redis-benchmark: it hangs.
        clients = everybody if greenlets <= 1000 else tuple(name for name in everybody if name != NATIVE)
        yield Case(
            f"calls/{greenlets}",
            f"SET and GET, {title}",
            "calls",
            clients,
            greenlets=greenlets,
            level=level,
            length={1000: 2.0, 10_000: 4.0}.get(greenlets, 1.0),
            usual=usual.get(greenlets, ()),
        )


def _pipelines() -> Iterable[Case]:
    for count, greenlets, level in ((10, 1, FULL), (100, 1, QUICK), (100, 20, FULL), (1000, 1, FULL)):
        who = "1 greenlet" if greenlets == 1 else f"{greenlets} greenlets"
        name = f"pipelines/{count}" + (f"x{greenlets}" if greenlets > 1 else "")
        title = f"pipelines of {count:,} commands, {who}"
        yield Case(name, title, "pipelines", _PEERS, greenlets=greenlets, count=count, level=level)


def _keys() -> Iterable[Case]:
    for what in ("mget", "mset"):
        for count in (100, 1000):
            level = USUAL if (what, count) == ("mget", 1000) else FULL
            title = f"{what} of {count:,} keys over all slots, 1 greenlet (a key counts as a command)"
            yield Case(f"keys/{what}-{count}", title, what, _PEERS, count=count, level=level)


def _sizes() -> Iterable[Case]:
    for number, unit in ((10, "B"), (1, "KiB"), (64, "KiB"), (1, "MiB"), (8, "MiB")):
        size, is_usual = number * _UNITS[unit], (number, unit) == (1, "MiB")
        name, title = f"sizes/{number}{unit}", f"values of {number} {unit}, 1 greenlet"
        level, length = (USUAL if is_usual else FULL), (2.0 if size > _UNITS["MiB"] else 1.0)
        yield Case(name, title, "sizes", (*_PEERS, BARE), size=size, level=level, length=length)


def _others() -> Iterable[Case]:
    mix = "80 % GET, 10 % HGETALL, 10 % SET at 5,000/s over 100 greenlets, latency from when each was due"
    yield Case("pace/5000", mix, "pace", _PEERS, greenlets=100, count=5000, length=3.0)
    pairs = "50 pairs hand an item to and fro: RPUSH, BLPOP; the latency is that of a round trip"
    yield Case("blocking/50", pairs, "blocking", _PEERS, greenlets=100, level=FULL)
    cold = "a cold start of 1,000 greenlets: from the client's construction to the last reply"
    yield Case("cold/1000", cold, "cold", _PEERS, greenlets=1000)
    spent = "memory of 1,000 parked calls (SET while the servers pause writes)"
    yield Case("memory/calls", spent, "parked", _PEERS, greenlets=1000, length=4.0, usual=_OURS)
    yield Case("import/cpu", "CPU time of the import, gevent and hiredis being there", "import", _IN_PYTHON, "none")


def _maps() -> Iterable[Case]:
    for nodes, site in ((3, "3 nodes"), (12, "12 nodes"), (1000, "1000 scripted")):
        what = f"{nodes:,} nodes" + (", scripted and slow: look at the cost" if nodes == 1000 else "")
        title = f"SET and GET of 1,000 keys, 10 greenlets, {what}"
        yield Case(f"maps/{nodes}", title, "calls", _IN_PYTHON, site, 10, count=100, level=FULL)
    yield Case("maps/500-ranges", "taking up a map of 1,000 nodes and 500 ranges", "map", _OURS, "500 ranges")
    yield Case("maps/16384-ranges", "taking up a map of 16,384 ranges", "map", _OURS, "16384 ranges")
    title = "memory of a connection: a call to each of 1,000 scripted nodes"
    yield Case("memory/connections", title, "connected", _OURS, "1000 scripted", level=FULL)


CASES = MappingProxyType(
    {case.name: case for case in (*_calls(), *_pipelines(), *_keys(), *_sizes(), *_others(), *_maps())}
)


def choose(wanted: Sequence[str], level: int, *, everybody: bool = False) -> list[Case]:
    """The cases of a run.

    Args:
        wanted: Works and cases, all of which are taken.
        level: QUICK, USUAL or FULL: whose cases are taken if none is wanted.
        everybody: With all clients of each case, and not only those that most people want to see.

    Raises:
        ValueError: There is no such work or case.
    """
    unknown = sorted(set(wanted) - {*WORKS, *CASES})
    if unknown:
        raise ValueError(f"there is no work {unknown[0]!r}: choose of {', '.join(WORKS)}, or a case such as calls/100")
    if wanted:
        return [case for case in CASES.values() if {case.work, case.name} & set(wanted)]
    keep = everybody or level == FULL
    return [case if keep else _with_few_clients(case) for case in CASES.values() if case.level <= level]


def _with_few_clients(case: Case) -> Case:
    few = tuple(client for client in case.clients if client not in _RARE)
    return replace(case, clients=case.usual or few)
