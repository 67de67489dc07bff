"""Which scripts were loaded over which connections of a hub, so that a call knows whether its digest will do.

The first call over a connection carries the source, behind a SCRIPT LOAD in the same write; those after its reply carry
the digest. What was loaded so stays until SCRIPT FLUSH: servers may forget only what EVAL has left with them. A node
that took over, or came back, is met by other connections. So NOSCRIPT is rare, and can be looked into each time.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TypeVar
from weakref import WeakKeyDictionary

from gvcluster.core.address import Address
from gvcluster.core.outcome import Failed, Forgotten, Outcome
from gvcluster.core.retry import Call, may_run_twice
from gvcluster.core.script_text import ScriptText, is_missing
from gvcluster.errors import GvClusterError, NoScript, ReplyError
from gvcluster.net.doubts import PATIENCE
from gvcluster.net.multiplexed import MultiplexedConnection
from gvcluster.net.runtime import Runtime
from gvcluster.net.waiter import Waiter

_K = TypeVar("_K")
_V = TypeVar("_V")
# Who makes up scripts all the time pays with their sources, not with memory.
MOST = 10_000


class ScriptCall:
    """One call of a script.

    sent_at: when it was last sent by its digest, None if it went with its source. wants_source: it is to go with that.
    """

    __slots__ = ("by_sha", "sent_at", "text", "wants_source")

    def __init__(self, text: ScriptText, by_sha: bytes) -> None:
        self.text, self.by_sha = text, by_sha
        self.sent_at: float | None = None
        self.wants_source = False

    def __repr__(self) -> str:
        return f"<ScriptCall {self.text.sha}>"


class Scripts:
    """The scripts of one hub. `most`: how many are remembered for a connection, and how many misses."""

    def __init__(self, runtime: Runtime) -> None:
        self.most = MOST
        self._state, self._loop, self._nodes = runtime.state, runtime.loop, runtime.nodes
        # Of each connection: digest → whether it was loaded; False: not yet, or it may not be.
        self._loaded: WeakKeyDictionary[MultiplexedConnection, dict[str, bool]] = WeakKeyDictionary()
        self._missed: dict[tuple[Address, str], float] = {}  # when a node was last found to be without one

    def __repr__(self) -> str:
        return f"<Scripts, loaded over {len(self._loaded)} connections>"

    def bytes_for(self, call: ScriptCall, lane: MultiplexedConnection, *, is_shared: bool = True) -> bytes:
        """What to send over this connection. Whatever it has to load is queued already. Never switches."""
        text = call.text
        loaded = self._loaded.setdefault(lane, {}) if is_shared else {}
        if loaded.get(text.sha) and not call.wants_source:
            call.sent_at = monotonic()
            return call.by_sha
        call.sent_at = None
        if is_shared and text.sha not in loaded:
            _remember(loaded, text.sha, False, self.most)
            waiter = Waiter(text.load, self._loop.hub, monotonic() + self._state.command_timeout)
            waiter.wake = partial(self._on_loaded, loaded, text)
            if lane.post(waiter) is not None:
                del loaded[text.sha]
        return text.with_source(call.by_sha)

    def _on_loaded(self, loaded: dict[str, bool], text: ScriptText, waiter: Waiter) -> None:
        """SCRIPT LOAD was answered. If this user may not, each call carries the source. Called in the hub."""
        reply = waiter.reply
        if isinstance(reply, ReplyError) and reply.code not in ("ERR", "NOPERM"):
            loaded.pop(text.sha, None)  # not now, as while a script runs: the next call tries again
        elif text.sha in loaded and reply in (text.sha, text.sha.encode()):
            loaded[text.sha] = True
        waiter.leave()

    def judge(self, met: Outcome, script: ScriptCall | None, asked: Address, call: Call) -> Outcome:
        """What NOSCRIPT means: that the call is to be sent with its source, if the node itself says the same.

        If it has the script now, somebody else may have loaded it since, or the script made this up after it has run:
        then only what may run twice is sent again.

        Blocks: until it answers, for PATIENCE and the deadline at most.
        """
        if script is None or script.sent_at is None or not isinstance(met, Failed):
            return met
        if not isinstance(met.error, NoScript):
            return met
        place = asked, script.text.sha
        # Who has found it missing may have loaded it by now; what was sent before that has met the same.
        if not self._was_missing(place, script.sent_at):
            if self._is_missing(script.text, asked, call.deadline):
                self._missed.pop(place, None)
                _remember(self._missed, place, monotonic(), self.most)
                self._forget(*place)
            elif not self._was_missing(place, script.sent_at):
                return _unconfirmed(met.error, script, call)
        met.error.maybe_executed = False
        return Forgotten(met.error)

    def _was_missing(self, place: tuple[Address, str], sent_at: float) -> bool:
        return sent_at < self._missed.get(place, float("-inf"))

    def _is_missing(self, text: ScriptText, address: Address, deadline: float) -> bool:
        pool = self._nodes.readers.pools.get(address) or self._nodes.pool_at(address)
        deadline = min(monotonic() + PATIENCE, deadline)
        try:
            return is_missing(pool.wait_lane(deadline).call_within(text.question, deadline))
        except GvClusterError:
            return False

    def _forget(self, address: Address, sha: str) -> None:
        for lane, loaded in list(self._loaded.items()):
            if lane.address == address:
                loaded.pop(sha, None)


def _remember(known: dict[_K, _V], key: _K, value: _V, most: int) -> None:
    """Put it in, and forget the oldest if there are too many."""
    if len(known) >= most:
        del known[next(iter(known))]
    known[key] = value


def _unconfirmed(error: NoScript, script: ScriptCall, call: Call) -> Outcome:
    """It may have run. Sent again, it goes with its source: what says NOSCRIPT then is the script itself."""
    twin = NoScript(
        f"{error.message} (but the node has the script, or does not tell: the script may have run and made this up)",
        maybe_executed=True,
    )
    twin.__cause__ = error
    if not may_run_twice(call):
        return Failed(twin)
    script.wants_source = True
    return Forgotten(twin)
