"""The course of a run: case by case, round by round, client by client."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

from gvcluster.cli.bench import importing, native
from gvcluster.cli.bench.catalogue import FULL, Case
from gvcluster.cli.bench.clients import NATIVE
from gvcluster.cli.bench.measured import Measured, Turn
from gvcluster.cli.bench.processes import run
from gvcluster.cli.bench.sites import Site
from gvcluster.cli.bench.worker import PATIENCE, Spec, program

# A client that has failed in all of so many rounds is not tried again in this case.
_TRIES = 2
# The process ends itself; what starts slowly gets so many seconds more.
_MARGIN = 5.0
# How it is told that SIGALRM has ended a process.
_ALARM = "ended by signal 14"
# About what starting a process and a client costs, seconds.
_OVERHEAD = 0.6
# And starting servers.
_START = 3.0


@dataclass(frozen=True)
class Plan:
    """What to measure, by whom, how often and for how long. Times are in seconds.

    rounds: of cases that a usual run has; beyond: of the others.
    """

    cases: list[Case]
    clients: list[str]
    rounds: int
    beyond: int
    warmup: float
    seconds: float
    seed: int

    def clients_of(self, case: Case) -> list[str]:
        """Who has a turn at it."""
        return [client for client in self.clients if client in case.clients]

    @property
    def estimate(self) -> float:
        """About how long it takes, seconds."""
        each = self.warmup + _OVERHEAD
        turns = ((self.rounds_of(case) * len(self.clients_of(case)), case.length) for case in self.cases)
        return sum(count * (each + length * self.seconds) for count, length in turns) + _START

    def rounds_of(self, case: Case) -> int:
        """How many turns each client has at it."""
        return self.beyond if case.level == FULL else self.rounds


class _Sites(Protocol):
    def has(self, name: str) -> bool: ...

    def need(self, name: str) -> Site: ...


def measure(plan: Plan, sites: _Sites, tell: Callable[[str], None]) -> Iterator[tuple[Case, list[Turn]]]:
    """All turns, case by case.

    Args:
        plan: What to measure.
        sites: Where. A case whose servers are not to be had is left out.
        tell: Is told what is next.

    Blocks: for about `plan.estimate` seconds.
    """
    order = random.Random(plan.seed)
    for case in plan.cases:
        clients = plan.clients_of(case)
        if not clients or not sites.has(case.site):
            continue
        tell(f"{case.title}: starting {case.site}")
        site = sites.need(case.site)
        turns: list[Turn] = []
        for number in range(plan.rounds_of(case)):
            turns += _round(plan, case, site, _Round(number, _shuffled(clients, order), turns, tell))
        site.sweep()
        yield case, turns


@dataclass(frozen=True)
class _Round:
    number: int
    clients: list[str]
    before: list[Turn]
    tell: Callable[[str], None]


def _shuffled(clients: list[str], order: random.Random) -> list[str]:
    return order.sample(clients, len(clients))


def _round(plan: Plan, case: Case, site: Site, this: _Round) -> list[Turn]:
    turns = []
    for client in this.clients:
        if is_hopeless(this.before, client):
            continue
        this.tell(f"{case.title}: round {this.number + 1} of {plan.rounds_of(case)}, {client}")
        measured = take(plan, case, site, client, this.number)
        turns.append(Turn(case.name, client, this.number, measured))
    return turns


def is_hopeless(turns: list[Turn], client: str) -> bool:
    """Whether the client has failed in each of its first rounds."""
    met = [turn.measured for turn in turns if turn.client == client]
    return len(met) >= _TRIES and not any(measured.is_sound for measured in met)


def take(plan: Plan, case: Case, site: Site, client: str, number: int) -> Measured:
    """One client's turn, in a process of its own."""
    seconds = plan.seconds * case.length
    if case.load == "import":
        return importing.take(client, plan.warmup + seconds + PATIENCE)
    if client == NATIVE:
        return native.take(site.nodes, case.greenlets, case.size, seconds, plan.warmup + seconds + PATIENCE)
    spec = Spec(
        client=client,
        load=case.load,
        nodes=site.nodes,
        counts=site.counts,
        greenlets=case.greenlets,
        count=case.count,
        size=case.size,
        warmup=plan.warmup,
        seconds=seconds,
        tag=f"{number}:{client}",
    )
    # What a process can not do by itself any more is done here, a bit later.
    ended = run([sys.executable, "-c", program(client), json.dumps(asdict(spec))], spec.limit + _MARGIN)
    if ended.why:
        return Measured(client, greenlets=case.greenlets, failed=case.greenlets, error=_told(ended.why))
    return Measured(**json.loads(ended.output.splitlines()[-1]))


def _told(why: str) -> str:
    return f"it hangs: not ended {PATIENCE:g} s after it should have" if why == _ALARM else why
