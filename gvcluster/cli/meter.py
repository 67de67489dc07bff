"""What the demo shows while it runs: rates since the last look."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from gvcluster.cli.load import Load
from gvcluster.cli.shards import Shard
from gvcluster.core.address import Address


@dataclass(frozen=True)
class ShardStatus:
    """One shard; `rate` in replies per second, `state` in words."""

    number: int
    primary: Address
    rate: float
    is_out: bool
    state: str


@dataclass(frozen=True)
class Status:
    """The whole load; `elapsed` in seconds, `rate` in replies per second."""

    elapsed: float
    rate: float
    shards: tuple[ShardStatus, ...]
    errors: int
    wrong: int


class Meter:
    """Reads a load again and again."""

    def __init__(self, load: Load, began: float) -> None:
        self._load, self._began = load, began
        self._last = monotonic()
        self._answered = [shard.answered for shard in load.shards]

    def read(self) -> Status:
        """The rates since the last time."""
        now = monotonic()
        answered = [shard.answered for shard in self._load.shards]
        rates = [(new - old) / (now - self._last) for new, old in zip(answered, self._answered, strict=True)]
        self._last, self._answered = now, answered
        shards = tuple(
            ShardStatus(shard.number, shard.primary, rate, shard.is_out, _state(shard, now))
            for shard, rate in zip(self._load.shards, rates, strict=True)
        )
        return Status(now - self._began, sum(rates), shards, self._load.tally.failed, self._load.tally.wrong)


def _state(shard: Shard, now: float) -> str:
    if shard.is_out:
        return f"no service for {now - shard.killed_at:.1f} s"
    return "serving" if shard.killed is None else f"back after {shard.back_at - shard.killed_at:.2f} s"
