"""How one attempt ended, as a value. Redirects and refusals are not exceptions inside: `retry.decide` reads these."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gvcluster.core.address import Address, parse_redirect_target
from gvcluster.core.slots import SLOTS
from gvcluster.errors import ConnectFailed, ConnectionLost, GvClusterError, ReplyError, ReplyTimeout


@dataclass(frozen=True, slots=True)
class Outcome:
    """The root: an attempt that brought no reply for the caller. `error` is what the caller would be told of it."""

    error: GvClusterError


@dataclass(frozen=True, slots=True)
class Moved(Outcome):
    """Another node owns the slot; `address` is None where the server did not say which: look into a fresh map.

    `to_itself`: it is the address of the very node that was asked, so one of the two is not who we think.
    """

    slot: int
    address: Address | None
    to_itself: bool = False


@dataclass(frozen=True, slots=True)
class Ask(Outcome):
    """The key is already at another node; the slot is not yet."""

    slot: int
    address: Address | None
    to_itself: bool = False


@dataclass(frozen=True, slots=True)
class NotNow(Outcome):
    """The server may accept the same command later. `stale`: a fresh slot map may help."""

    stale: bool


@dataclass(frozen=True, slots=True)
class Refused(Outcome):
    """Nothing was sent, or not all of it: the command is proved not executed."""


@dataclass(frozen=True, slots=True)
class Lost(Outcome):
    """Sent, and no reply: the command may have been executed, or may still be."""


@dataclass(frozen=True, slots=True)
class Unserved(Outcome):
    """The slot has no owner in the map. `fresh`: the map was fetched after the call began."""

    fresh: bool


@dataclass(frozen=True, slots=True)
class Doubtful(Outcome):
    """An error that whoever wrote a script could have made up. Nothing is sent because of it until it is confirmed."""

    claim: Outcome


@dataclass(frozen=True, slots=True)
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


def _reply_outcome(error: ReplyError, slot: int | None, answered_by: Address) -> Outcome:
    if error.code in ("MOVED", "ASK"):
        return _redirect(error, slot, answered_by)
    stale = _NOT_NOW.get(error.code)
    return Failed(error) if stale is None else NotNow(error, stale)


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
    return (Moved if found[1] == "MOVED" else Ask)(error, named, address, address == answered_by)
