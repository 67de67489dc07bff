"""The rules half of a FaultProxy: which fault strikes which frame."""

from __future__ import annotations

import random
from collections.abc import Iterable

from gvcluster.testing.faults import Fault, Frame, Rule


class Ruled:
    """Has rules, and asks them about each frame.

    Args:
        rules: The first rules.
        seed: Of what rules leave to chance.

    Attributes:
        rules: The rules, in the order in which they are asked: the first that strikes a frame is the only one.
    """

    def __init__(self, rules: Iterable[Rule], seed: int) -> None:
        self.rules: tuple[Rule, ...] = tuple(rules)
        self._rng = random.Random(seed)

    def add(self, *rules: Rule) -> None:
        """Ask these rules, too, after those that are there. Frames that are under way already are not struck.

        Blocks:
            Never.
        """
        self.rules = (*self.rules, *rules)

    def remove(self, *rules: Rule) -> None:
        """Ask these rules no more.

        Blocks:
            Never.
        """
        self.rules = tuple(rule for rule in self.rules if rule not in rules)

    def clear(self) -> None:
        """Ask no rules any more. What stands still, goes on standing still: `resume()`.

        Blocks:
            Never.
        """
        self.rules = ()

    def fault_for(self, frame: Frame) -> Fault | None:
        """What the rules say about a frame; they count it.

        Blocks:
            Never.
        """
        for rule in self.rules:
            if rule.strikes(frame, self._rng):
                return rule.fault
        return None
