"""One client's turn, in a process of its own: what a peer patches, it patches for nobody else.

`program()` is what the process runs, with a Spec as JSON for its argument. The last line that it prints is a Measured
as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from time import perf_counter

from gvcluster.cli.bench.clients import CLIENTS
from gvcluster.cli.bench.loads import LOADS, Tally
from gvcluster.cli.bench.measured import Measured, percentiles
from gvcluster.core.address import Address

# How long the greenlets may take to end, and at most to begin, after the warm-up; and how often that is looked at;
# seconds.
_ENDING, _WARMING, _GLANCE = 2.0, 6.0, 0.02
# Seconds more than it should last, after which a turn is ended: a client in trouble may hang.
PATIENCE = 10.0
_PATCH = "import gevent.monkey; gevent.monkey.patch_all(); "
_MAIN = "from gvcluster.cli.bench.worker import main; main()"


@dataclass(frozen=True)
class Spec:
    """What a turn is to do.

    load: as `catalogue.Case` names it. nodes: `host:port` of each primary. counts: whether they can be asked for their
    connections. tag: another one for each turn. Times are in seconds.
    """

    client: str
    load: str
    nodes: list[str]
    counts: bool
    greenlets: int
    count: int
    size: int
    warmup: float
    seconds: float
    tag: str

    @property
    def addresses(self) -> list[Address]:
        """The nodes."""
        return [Address(host, int(port)) for host, _, port in (node.rpartition(":") for node in self.nodes)]

    @property
    def limit(self) -> float:
        """When the process ends itself, seconds after its start."""
        return self.warmup + self.seconds + _WARMING + PATIENCE


def program(client: str) -> str:
    """The program of a client's process. Nothing is imported before what is to be patched."""
    return (_PATCH if CLIENTS[client].patched else "") + _MAIN


def main() -> None:
    """Take the turn that the argument describes, print what it has shown, and end whatever still runs."""
    spec = Spec(**json.loads(sys.argv[1]))
    # Nobody may be left to hear of a hang: the kernel ends the process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, spec.limit)
    allow_many_sockets()
    measured = _take(spec)
    sys.stdout.write(json.dumps(asdict(measured)) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _take(spec: Spec) -> Measured:
    if spec.load not in LOADS:
        from gvcluster.cli.bench import special

        return special.TURNS[spec.load](spec)
    if spec.client == "coredis":
        import asyncio

        return asyncio.run(_take_with_tasks(spec))
    return _take_with_greenlets(spec)


class _Meter:
    """What a turn shows, from a moment on."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.tally = Tally(spec.greenlets, spec.count, spec.size, spec.tag)
        self.late: list[float] = []
        self._others = self._count_connections()
        self._done, self._cpu, self._began = 0, cpu_seconds(), perf_counter()
        self.tally.began = self._began

    def is_warm(self) -> bool:
        """Whether all have done something, or one has failed, or it takes too long."""
        tally = self.tally
        is_done = min(tally.done) >= (tally.first if self.spec.load == "calls" else 1)
        return is_done or bool(tally.errors) or perf_counter() - self._began > _WARMING

    def begin(self) -> None:
        """The warm-up is over."""
        del self.late[:]
        del self.tally.taken[:]
        self._done, self._cpu, self._began = sum(self.tally.done), cpu_seconds(), perf_counter()

    def end(self, how: str) -> Measured:
        """Look at all there is, and let the greenlets end."""
        tally, now = self.tally, perf_counter()
        commands, cpu = sum(tally.done) - self._done, cpu_seconds() - self._cpu
        tally.stopped = True
        taken = [*tally.taken, *tally.overdue(now)]
        figures = {"start ms": (now - self._began) * 1000} if self.spec.load == "cold" else {}
        return Measured(
            f"{how}; by {tally.way}" if tally.way else how,
            commands,
            now - self._began,
            cpu,
            [ours - other for ours, other in zip(self._count_connections(), self._others, strict=True)],
            percentiles(taken),
            percentiles(self.late),
            figures,
            self.spec.greenlets,
        )

    def _count_connections(self) -> list[int]:
        return [count_clients(address) for address in self.spec.addresses] if self.spec.counts else []


def _take_with_greenlets(spec: Spec) -> Measured:
    import gevent

    from gvcluster.cli.bench import greenlets

    meter = _Meter(spec)
    client = greenlets.open_client(spec.client, spec.addresses)
    load, polite = LOADS[spec.load], spec.client == "valkey-glide-sync"
    gevent.spawn(greenlets.pulse, meter.late)
    running = [
        gevent.spawn(greenlets.work, load(client, meter.tally, number), meter.tally, polite=polite)
        for number in range(spec.greenlets)
    ]
    if spec.load == "cold":
        gevent.joinall(running, timeout=spec.seconds + _ENDING)
    else:
        gevent.sleep(spec.warmup)
        while not meter.is_warm():
            gevent.sleep(_GLANCE)
        meter.begin()
        gevent.sleep(spec.seconds)
    measured = meter.end(client.how)
    ended = gevent.joinall(running, timeout=_ENDING)
    return _with_failures(measured, meter.tally, len(running) - len(ended))


async def _take_with_tasks(spec: Spec) -> Measured:
    import asyncio

    from gvcluster.cli.bench import tasks

    meter = _Meter(spec)
    async with tasks.open_client(spec.addresses) as client:
        load = LOADS[spec.load]
        pulse = asyncio.create_task(tasks.pulse(meter.late))
        running = [
            asyncio.create_task(tasks.work(load(client, meter.tally, number), meter.tally))
            for number in range(spec.greenlets)
        ]
        if spec.load == "cold":
            await asyncio.wait(running, timeout=spec.seconds + _ENDING)
        else:
            await asyncio.sleep(spec.warmup)
            while not meter.is_warm():
                await asyncio.sleep(_GLANCE)
            meter.begin()
            await asyncio.sleep(spec.seconds)
        measured = meter.end(client.how)
        _, late = await asyncio.wait(running, timeout=_ENDING)
        for task in (pulse, *late):
            task.cancel()
    return _with_failures(measured, meter.tally, len(late))


def _with_failures(measured: Measured, tally: Tally, late: int) -> Measured:
    errors = tally.errors + [f"not ended {_ENDING:g} s after the end"] * late
    if not measured.commands and not errors:
        errors.append(f"no answer within {measured.seconds:.1f} s")
    told = {"failed": len(errors), "error": errors[0][:300] if errors else ""}
    return Measured(**{**asdict(measured), **told})


def cpu_seconds() -> float:
    """CPU time of this process, all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def count_clients(node: Address) -> int:
    """Ask a node how many clients it has. The one who asks is among them."""
    from gvcluster.testing import ControlConnection

    with ControlConnection(node) as control:
        lines = bytes(control.call("INFO", "clients")).decode().split()
    return int(dict(line.split(":") for line in lines if ":" in line)["connected_clients"])


def allow_many_sockets() -> None:
    """A peer has one connection for each greenlet and node."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
