"""`gvcluster demo --nodes`: the harmless part, on a cluster of the user's own.

It reads and writes keys of its own and nothing else: no command that an administrator would ask about is sent. Each
write carries an expiry in the same command, so that nothing stays whatever happens, to this process too; and at the
end, also after Ctrl-C or an error, all keys are deleted.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

import gevent

from gvcluster import Cluster
from gvcluster._version import __version__
from gvcluster.cli.load import CALL_TIMEOUT, Load, Plan
from gvcluster.cli.meter import Meter
from gvcluster.cli.screen import Screen, open_screen
from gvcluster.cli.shards import Shard
from gvcluster.cli.signals import signals_to_this_greenlet
from gvcluster.cli.summary import guest_objections, guest_rows
from gvcluster.cli.tokens import Register
from gvcluster.cli.worker import Client, Worker
from gvcluster.errors import GvClusterError
from gvcluster.options import ClusterOptions

PRAISE = "All is well: no wrong reply, and no error."
# Seconds by which the keys outlive the run, should nobody be left to delete them.
_OUTLIVE = 120
# Greenlets that delete, and how long all of them may take, seconds.
_SWEEPERS, _SWEEPING = 50, 10.0
# Seconds within which greenlets end that are not stuck.
_NOTICE = 1.0


@dataclass(frozen=True)
class Target:
    """Whose cluster it is: the seeds, and what else the user has said of it."""

    seeds: str
    options: ClusterOptions


class GuestWorker(Worker):
    """A worker that leaves nothing behind: two keys, and only writes that set an expiry in the same command.

    No counter: an increment that runs later than the deletion would make a key that never expires.
    """

    def __init__(
        self, prefix: str, seconds: int, number: int, shard: Shard, tag: str, cluster: Client, *rest: Any
    ) -> None:
        tally, rng = rest
        super().__init__(number, shard, tag, cluster, tally, rng)
        self._seconds = seconds
        self._text_key, self._other_key = f"{prefix}{{{tag}}}:text", f"{prefix}{{{tag}}}:other"
        self._other = Register(f"{tag}:{number}:o")
        self._steps = (*(self._get, self._get, self._set, self._set_other, self._mget), self._getrange, self._strlen)

    @property
    def keys(self) -> tuple[str, str]:
        """All that it ever writes."""
        return self._text_key, self._other_key

    def prepare(self) -> None:
        """Write once: whoever may not is told before the load begins."""
        self._set()

    def _set(self) -> None:
        self._put(self._text_key, self._text)

    def _set_other(self) -> None:
        self._put(self._other_key, self._other)

    def _put(self, key: str, register: Register) -> None:
        write, epoch = register.next_write(), self.shard.epoch
        command = ("SET", key, register.token(write), "GET", "EX", self._seconds)
        reply = self._write(command, lambda: register.doubt(write))
        self._compare(command, reply, register, reply, epoch)
        register.acknowledge(write, epoch)

    def _mget(self) -> None:
        command, epoch = ("MGET", *self.keys), self.shard.epoch
        reply = self._call(*command, read=True)
        text, other = reply if isinstance(reply, list) and len(reply) == 2 else (reply, reply)
        self._compare(command, reply, self._text, text, epoch)
        self._compare(command, reply, self._other, other, epoch)


def run(plan: Plan, target: Target, *, plain: bool) -> int:
    """Read and write for a while on somebody's cluster.

    Args:
        plan: What to do.
        target: Where.
        plain: Lines instead of a picture, also on a terminal.

    Returns:
        The exit code: 0, or 1 if something is wrong, which is printed.

    Raises:
        ConfigError: The seeds or the options make no sense. Nothing was sent.
        GvClusterError: No connection, no slot map, or no permission.
        KeyboardInterrupt: Ctrl-C. The keys are deleted.

    Blocks: until it is over: the plan's seconds, and as long as connecting and deleting takes.
    """
    screen = open_screen(plan.seconds, plain=plain)
    prefix, seconds = f"gvcluster-demo:{secrets.token_hex(8)}:", round(plan.seconds) + _OUTLIVE
    with signals_to_this_greenlet():
        began = monotonic()
        load = Load(
            plan,
            partial(_client, target),
            screen.tell,
            partial(GuestWorker, prefix, seconds),
            partial(_tidy, screen, seconds),
        )
        with load:
            _introduce(screen, load, prefix, monotonic() - began)
            return _play(screen, load)


def _client(target: Target, observers: ClusterOptions) -> Cluster:
    """What the user says goes before what the demo would have. No name: CLIENT SETNAME is a right of its own."""
    options = ClusterOptions(**observers)
    options.update(target.options)
    return Cluster(target.seeds, **options)


def _introduce(screen: Screen, load: Load, prefix: str, took: float) -> None:
    plan, cluster = load.plan, load.cluster
    screen.title(
        f"gvcluster {__version__} demo",
        f"your cluster of {len(cluster.primaries())} primaries, {plan.greenlets:,} greenlets, seed {plan.seed}",
    )
    screen.tell(f"connected and prepared in {took:.2f} s; keys begin with {prefix}, expire, and are deleted at the end")
    screen.tell("nothing is killed, moved or configured, and no key of anybody else is touched")
    screen.tell(
        f"paced: about {plan.rest * 1000:.0f} ms of rest between two steps of a greenlet; every reply is checked"
    )


def _play(screen: Screen, load: Load) -> int:
    screen.start_clock()
    began = monotonic()
    with screen.live():
        load.spawn(_report, screen, load, began)
        load.ended.wait(load.plan.seconds)
        seconds = monotonic() - began
        stuck = load.finish(CALL_TIMEOUT + _NOTICE)
    screen.table(guest_rows(load, seconds))
    reasons = list(guest_objections(load, stuck))
    screen.verdict(reasons, PRAISE)
    return 1 if reasons else 0


def _report(screen: Screen, load: Load, began: float) -> None:
    meter = Meter(load, began)
    while not load.ended.wait(screen.period):
        screen.show(meter.read())


def _tidy(screen: Screen, seconds: int, load: Load) -> None:
    """Delete every key that was or may have been written."""
    left = {key for worker in load.workers if isinstance(worker, GuestWorker) for key in worker.keys}
    if not left or load.cluster.route_version == 0:
        return
    keys = list(left)
    sweepers = [gevent.spawn(_delete, load.cluster, keys[first::_SWEEPERS], left) for first in range(_SWEEPERS)]
    try:
        gevent.joinall(sweepers, timeout=_SWEEPING)
    finally:
        gevent.killall(sweepers, block=False)
        if left:
            screen.tell(f"{len(left):,} of {len(keys):,} keys may be left; they expire within {seconds} s", "bad")
        else:
            screen.tell(f"cleaned up: of {len(keys):,} keys none is left")


def _delete(cluster: Cluster, keys: list[str], left: set[str]) -> None:
    for key in keys:
        try:
            cluster.execute("DEL", key, retry="always")
            left.discard(key)
        except GvClusterError:
            pass  # it stays among those left
