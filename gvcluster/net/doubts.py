"""The independent look at what a script's error claims: `core.doubt` says what to ask and how to judge the answer."""

from __future__ import annotations

from time import monotonic

from gvcluster.core.doubt import is_confirmed, question
from gvcluster.core.outcome import Outcome
from gvcluster.core.resp import encode
from gvcluster.core.retry import Call
from gvcluster.errors import GvClusterError
from gvcluster.net.pool import NodePool

# Seconds. A node that does not answer so small a question in time confirms nothing.
PATIENCE = 1.0


def look_into(claim: Outcome, call: Call, pool: NodePool) -> bool:
    """Ask the node that made the claim, over the lane, and say whether it is true.

    Blocks: until it answers, for PATIENCE and the call's deadline at most.
    """
    command = question(claim)
    if command is None:
        return False
    deadline = min(monotonic() + PATIENCE, call.deadline)
    try:
        answer = pool.wait_lane(deadline).call_within(encode(command), deadline)
    except GvClusterError:
        return False
    return is_confirmed(claim, answer, call.slot, pool.address)
