"""How one attempt ended, as a value. Redirects and refusals are not exceptions inside: `retry.decide` reads these."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gvcluster.core.address import Address, parse_redirect_target
from gvcluster.core.slots import SLOTS
from gvcluster.errors import ConnectFailed, ConnectionLost, GvClusterError, ReplyError, ReplyTimeout
from gvcluster.records import Record, replace


class Outcome(Record):
    """The root: an attempt that brought no reply for the caller. `error` is what the caller would be told of it."""

    error: GvClusterError


class Moved(Outcome):
    """Another node owns the slot; `address` is None where the server did not say which: look into a fresh map.

    `to_itself`: it is the address of the very node that was asked, so one of the two is not who we think.
    """

    slot: int
    address: Address | None
    to_itself: bool = False


class Ask(Outcome):
    """The key is already at another node; the slot is not yet. `port`: where `address` is None, what was told of it."""

    slot: int
    address: Address | None
    to_itself: bool = False
    port: int = 0


class NotNow(Outcome):
    """The server may accept the same command later. `stale`: a fresh slot map may help."""

    stale: bool


class Refused(Outcome):
    """Nothing was sent, or not all of it: the command is proved not executed."""


class Lost(Outcome):
    """Sent, and no reply: the command may have been executed, or may still be."""


class Unserved(Outcome):
    """The slot has no owner in the map. `fresh`: the map was fetched after the call began."""

    fresh: bool


class Doubtful(Outcome):
    """An error that whoever wrote a script could have made up. Nothing is sent because of it until it is confirmed."""

    claim: Outcome


class Aborted(Outcome):
    """EXEC was answered with null: a watched key changed, and nothing was executed."""


class Unfit(Outcome):
    """One of several nodes that may serve a read did not. `why`: what it met. `others`: some were not asked yet."""

    why: Outcome
    others: bool


class Forgotten(Outcome):
    """The node does not have the script that was called by its digest: next time its source goes.

    Not executed; or in doubt, but the call may run twice.
    """


class Failed(Outcome):
    """Everything else: the error is the caller's."""


# The servers' codes for "not executed, come back": True where the slot map may be out of date.
# MIGRATING is Garnet's (facts/garnet.md); MASTERDOWN and READONLY are answered by replicas.
_NOT_NOW: Mapping[str, bool] = MappingProxyType(
    {
        "TRYAGAIN": False,
        "MIGRATING": False,
        "LOADING": True,
        "CLUSTERDOWN": True,
        "MASTERDOWN": True,
        "READONLY": True,
        "UNBLOCKED": True,  # a blocked pop whose node became a replica (Valkey 8.1 and Redis)
    }
)
# UNBLOCKED by somebody who sent CLIENT UNBLOCK … ERROR: that is meant for the caller.
_ON_PURPOSE = "via CLIENT UNBLOCK"
# MOVED or ASK, a slot without superfluous digits, and where to go.
_REDIRECT = re.compile(r"(MOVED|ASK) (0|[1-9][0-9]{0,4}) ([^ ]+)", re.ASCII)


def classify(error: Exception, slot: int | None, answered_by: Address, *, script: bool = False) -> Outcome:
    """Name what an attempt met.

    Args:
        error: What the connection returned instead of a value.
        slot: The command's slot; a redirect must name it. None for commands without a key, which nobody redirects.
        answered_by: The node that was asked; an empty host in a redirect means its host.
        script: The command runs code of others (EVAL, FCALL …), which can forge the text of any error.
    """
    if isinstance(error, ReplyError):
        outcome = _reply_outcome(error, slot, answered_by)
        if not script or isinstance(outcome, Failed):
            error.maybe_executed = script
            return outcome
        error.maybe_executed = True
        return Doubtful(error, outcome)
    if isinstance(error, ConnectFailed | ConnectionLost | ReplyTimeout):
        return Lost(error) if error.maybe_executed else Refused(error)
    if isinstance(error, GvClusterError):
        return Failed(error)
    raise error


def unfit(met: Outcome, *, others: bool, never_primary: bool) -> Outcome:
    """What an attempt of a read means when another node may serve it as well.

    It only reads, so that nothing is lost if a script has made the error up; but a redirect that a script may have made
    up reaches nobody unconfirmed. `never_primary`: redirects, which lead to primaries, are not followed.
    """
    why = met.claim if isinstance(met, Doubtful) else met
    is_redirect = isinstance(why, Moved | Ask)
    if isinstance(why, Refused | Lost | NotNow) or (is_redirect and never_primary):
        return Unfit(met.error, why, others)
    return met


def _reply_outcome(error: ReplyError, slot: int | None, answered_by: Address) -> Outcome:
    if error.code in ("MOVED", "ASK"):
        return _redirect(error, slot, answered_by)
    stale = _NOT_NOW.get(error.code)
    is_on_purpose = error.code == "UNBLOCKED" and _ON_PURPOSE in error.message
    return Failed(error) if stale is None or is_on_purpose else NotNow(error, stale)


def _redirect(error: ReplyError, slot: int | None, answered_by: Address) -> Outcome:
    """A redirect, if every part of it makes sense; else a plain error: no byte goes anywhere because of it."""
    found = _REDIRECT.fullmatch(error.message)
    named = int(found[2]) if found else SLOTS
    if found is None or named >= SLOTS or slot != named:
        return Failed(error)
    try:
        address = parse_redirect_target(found[3], answered_by)
    except ValueError:
        return Failed(error)
    if found[1] == "MOVED":
        return Moved(error, named, address, address == answered_by)
    return Ask(error, named, address, address == answered_by, int(found[3].rpartition(":")[2]))


def located(outcome: Outcome, answered_by: Address, is_member: Callable[[Address], object]) -> Outcome:
    """An ASK that names only a port, as one that names the node: the member with this port on the host that answered.

    Garnet tells no host (`?`) where it is told to announce none. After a MOVED a fresh map tells where the slot is; but
    as long as it moves no map tells where its keys are. Who is no member, or has answered, can not be meant.
    """
    if isinstance(outcome, Doubtful):
        return replace(outcome, claim=located(outcome.claim, answered_by, is_member))
    if not isinstance(outcome, Ask) or outcome.address is not None:
        return outcome
    guessed = Address(answered_by.host, outcome.port)
    return replace(outcome, address=guessed) if guessed != answered_by and is_member(guessed) else outcome
