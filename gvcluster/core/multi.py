"""What the replies to MULTI … EXEC say. The servers' own words: no script has run when one of these errors is written.

MULTI answers OK and each command QUEUED, or an error that dooms the whole; EXEC answers the list of replies, null where
a watched key changed, or an error, and then nothing was executed. Garnet looks at slots only when EXEC comes, and
Valkey 9 for ASK: so EXEC's own error may be a redirect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gvcluster.core.address import Address
from gvcluster.core.outcome import Aborted, Ask, Failed, Moved, NotNow, Outcome, classify
from gvcluster.core.resp import encode, reply_error
from gvcluster.errors import ProtocolError, ReplyError, TransactionAborted

MULTI, EXEC = encode(("MULTI",)), encode(("EXEC",))
# An empty transaction shows that the connection takes one. DISCARD would leave it inside MULTI where a user has the
# right to MULTI, but not to DISCARD; an EXEC that is refused ends the transaction, with Valkey, Redis and Garnet.
PROBE = MULTI + EXEC
# The codes of EXEC's own error after which all of these servers have ended the transaction.
_ENDS = frozenset("EXECABORT MOVED ASK TRYAGAIN CLUSTERDOWN CROSSSLOT LOADING MASTERDOWN MIGRATING".split())
_BECAUSE = "because of: "


def is_over(replies: Sequence[Any]) -> bool:
    """Whether the connection is certainly not inside MULTI any more. `replies`: to MULTI, all commands, and EXEC."""
    refused, executed = isinstance(replies[0], ReplyError), replies[-1]
    if isinstance(executed, ReplyError):
        return refused or executed.code in _ENDS
    return executed is None or isinstance(executed, list)


def result_of(
    replies: Sequence[Any], slot: int | None, answered_by: Address, scripts: Sequence[bool] = ()
) -> list[Any] | Outcome:
    """What a transaction has come to: EXEC's list, or how the attempt ended instead.

    Args:
        replies: To MULTI, all commands, and EXEC. Errors inside EXEC's list are nobody's but the caller's.
        slot, answered_by: As for `classify`.
        scripts: Whether each command runs code of others, which may do something before it fails.
    """
    multi, *queued, executed = replies
    if isinstance(multi, ReplyError):
        return _refused(multi, queued, slot, answered_by, any(scripts))
    if isinstance(executed, ReplyError):
        return classify(_reason(queued, executed), slot, answered_by)
    if executed is None:
        return Aborted(TransactionAborted("a watched key changed: nothing of the transaction was executed"))
    if multi == b"OK" and isinstance(executed, list) and len(executed) == len(queued):
        return _marked(executed, scripts)
    what = f"{answered_by} did not answer MULTI and EXEC as a transaction is answered"
    return Failed(ProtocolError(what, address=answered_by, maybe_executed=True))


def _marked(replies: list[Any], scripts: Sequence[bool]) -> list[Any]:
    for reply, is_script in zip(replies, scripts, strict=False):
        if isinstance(reply, ReplyError):
            reply.maybe_executed = is_script
    return replies


def _refused(
    multi: ReplyError, queued: Sequence[Any], slot: int | None, answered_by: Address, scripts: bool
) -> Outcome:
    """Without MULTI each command ran by itself, if it was not refused as well."""
    outcome = classify(multi, slot, answered_by)
    if scripts or not all(isinstance(reply, ReplyError) for reply in queued):
        multi.maybe_executed = True
        return Failed(multi)
    return outcome


def _reason(queued: Sequence[Any], executed: ReplyError) -> ReplyError:
    """The error that EXECABORT stands for, if it is one."""
    if executed.code != "EXECABORT":
        return executed
    first = next((reply for reply in queued if isinstance(reply, ReplyError)), None)
    _, because, text = executed.message.partition(_BECAUSE)
    return first or (reply_error(text) if because else executed)


class AskedInVain:
    """Whether to go where ASK sends a transaction.

    Garnet checks at EXEC, when ASKING has long expired: the node that imports the slot sends back to the one that it
    leaves, again and again. After the first such answer ASK only means: not now.
    """

    __slots__ = ("_is_vain",)

    def __init__(self) -> None:
        self._is_vain = False

    def read(self, outcome: Outcome, *, asking: bool) -> Outcome:
        """The outcome as it is to be judged. `asking`: the attempt had ASKING in front."""
        if asking and isinstance(outcome, Moved):
            self._is_vain = True
        return not_asked(outcome) if self._is_vain else outcome


def not_asked(outcome: Outcome) -> Outcome:
    """ASK as: not now. With ASKING a node answers for keys that it does not have yet as if there were none."""
    return NotNow(outcome.error, stale=False) if isinstance(outcome, Ask) else outcome
