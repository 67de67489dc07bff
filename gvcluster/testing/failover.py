"""Planned failovers, watched until they have happened."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from gvcluster.testing.control import wait_for
from gvcluster.testing.node import Node
from gvcluster.testing.views import View

# The servers give a planned failover up after 5 s (CLUSTER_MF_TIMEOUT), silently; asking earlier starts it anew. They
# also let a replica wait that was elected, or tried to be, between 2 and 4 node timeouts ago ("attempt expired").
_ASK_AGAIN_AFTER = 5.5


def fail_over(replica: Node, mode: Sequence[str], views: Callable[[], Sequence[View]], timeout: float) -> None:
    """Make the replica primary. `+OK` is no promise: look at the replica and at what all others say, and ask again."""
    asked = -math.inf

    def objection() -> str | None:
        nonlocal asked
        mine = replica.view()
        if mine.me.primary_id is not None:
            if time.monotonic() - asked > _ASK_AGAIN_AFTER:
                replica.command("CLUSTER", "FAILOVER", *mode)
                asked = time.monotonic()
            return "it is still a replica"
        slots = _slots_of(replica, mine)
        if not slots:
            return "it has no slots"
        late = [str(view) for view in views() if _slots_of(replica, view) != slots]
        return f"{', '.join(late)} do not know it yet" if late else None

    wait_for(objection, timeout, f"{replica!r} becomes primary")


def _slots_of(node: Node, view: View) -> set[tuple[int, int]]:
    return {(first, last) for first, last, primary, _ in view.slot_map if primary == node.id}
