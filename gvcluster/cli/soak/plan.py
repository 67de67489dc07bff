"""What a soak does when: windows with a fault each, drawn from a seed. Pure.

The same seed, faults and minutes give the same plan. What a fault meets, reply by reply, depends on the machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

STRICT, LOSSY = "STRICT", "LOSSY"


@dataclass(frozen=True)
class Sort:
    """A sort of fault.

    phase: STRICT where the servers keep all they acknowledge, LOSSY where a failover may lose some of it.
    weight: how often it is drawn. planned: an administrator orders it, and no call may fail. one_shard: the others
    must not notice it. seconds: how long it needs at least.
    """

    phase: str
    weight: int
    text: str
    planned: bool = False
    one_shard: bool = False
    seconds: float = 3.0


# What comes first: the others are measured by it.
CALM = "calm"
SORTS = MappingProxyType(
    {
        "calm": Sort(STRICT, 1, "nothing at all", planned=True),
        "failover": Sort(STRICT, 8, "planned failovers", planned=True),
        "reshard": Sort(STRICT, 8, "slots moved key by key, one left half moved, and back", planned=True),
        "atomic": Sort(STRICT, 8, "slots moved at once, and back (Valkey 9)", planned=True),
        "client-kill": Sort(STRICT, 8, "CLIENT KILL of all connections, again and again"),
        "proxy": Sort(STRICT, 8, "resets, cut replies, single bytes, delays and stalls on the wire"),
        "pause": Sort(STRICT, 6, "SIGSTOP for 0.2 to 1.2 s", one_shard=True),
        "kill": Sort(LOSSY, 6, "SIGKILL of a primary, restarted when it was replaced", one_shard=True, seconds=8.0),
        "long-pause": Sort(LOSSY, 4, "SIGSTOP of a primary until it was replaced", one_shard=True, seconds=8.0),
        "maxclients": Sort(STRICT, 1, "no more clients let in"),
        "requirepass": Sort(STRICT, 1, "a password set and taken away"),
        "acl": Sort(STRICT, 1, "a right taken away and given back"),
        "all-down": Sort(LOSSY, 2, "all nodes killed, and started again", seconds=8.0),
        "hub-stall": Sort(STRICT, 2, "the hub held up, and the garbage collected"),
        "fork": Sort(STRICT, 1, "a child forked, which makes calls of its own"),
        "files": Sort(STRICT, 1, "no more files to open"),
    }
)


@dataclass(frozen=True)
class Window:
    """A fault, for so many seconds of load, and a number to draw its details from."""

    number: int
    fault: str
    seconds: float
    seed: int

    @property
    def sort(self) -> Sort:
        """What is known of the fault."""
        return SORTS[self.fault]


def plan_windows(seed: int, seconds: float, faults: Sequence[str], *, fault_seconds: float) -> list[Window]:
    """Draw the windows for so many seconds.

    Args:
        seed: The same gives the same.
        seconds: Of the whole soak.
        faults: Which may be drawn; keys of SORTS. Each comes once, in random order, before they are drawn by weight.
        fault_seconds: How long a fault lasts; some need longer.

    Returns:
        Each fault once at least, however short the time is; calm first.
    """
    rng = random.Random(f"soak:{seed}")
    order = [fault for fault in faults if fault != CALM]
    rng.shuffle(order)
    order.append(CALM)
    windows: list[Window] = []
    used = 0.0
    while order or used < seconds:
        fault = order.pop() if order else rng.choices(faults, [SORTS[name].weight for name in faults])[0]
        lasts = max(fault_seconds, SORTS[fault].seconds)
        windows.append(Window(len(windows), fault, lasts, rng.randrange(1 << 32)))
        used += lasts + SETTLING
    return windows


# Seconds that the servers and the checks need between two windows, about.
SETTLING = 2.0
