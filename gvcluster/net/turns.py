"""Whose turn it is: of all hubs of a Cluster, in several threads, one at a time fetches the slot map. Without a lock.

A native lock that is held while greenlets switch would stop whole hubs, and a fork may copy it locked. Here each claim
names its one successor by `dict.setdefault`, which two threads can not both win. A claim that is not renewed ends by
itself: its thread may have ended, or be stuck in somebody's C code.
"""

from __future__ import annotations


class Claim:
    """The right to fetch, until it is given back or not renewed in time (monotonic clock)."""

    __slots__ = ("holder", "is_over", "successor", "until")

    def __init__(self, holder: object, until: float) -> None:
        self.holder = holder
        self.until = until
        self.is_over = False
        self.successor: dict[None, Claim] = {}


class Turns:
    """The claims of one Cluster."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = Claim(None, float("-inf"))

    def claim(self, holder: object, now: float, seconds: float) -> Claim:
        """The holder's claim, if nobody else's is valid; else that one."""
        last = self._last
        while last.successor:
            last = last.successor[None]
        if now < last.until and not last.is_over:
            return last
        mine = Claim(holder, now + seconds)
        winner = last.successor.setdefault(None, mine)
        if winner is mine:
            self._last = mine  # late or lost, it does no harm: who reads an older one walks on from there
        return winner
