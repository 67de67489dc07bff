"""What to do after an attempt that brought no reply: the one place that spends a call's retry budget."""

from __future__ import annotations

from collections.abc import Iterable

from gvcluster.core.address import Address
from gvcluster.core.outcome import Ask, Doubtful, Forgotten, Lost, Moved, NotNow, Outcome, Refused, Unfit, Unserved
from gvcluster.core.routing import ReadPolicy
from gvcluster.errors import GvClusterError, RetriesExhausted, SlotNotCovered
from gvcluster.records import Record

# Back-off: go-redis waits 10 ms to 1 s as well; libvalkey does not wait at all and burns its 5 tries in a millisecond.
SHORTEST_WAIT = 0.010
LONGEST_WAIT = 1.0
# A redirect, and the redirect of a node that moved on meanwhile, are normal; from then on two nodes disagree.
FREE_HOPS = 3


class Call(Record):
    """What a decision needs to know of a call. Times are absolute, on the monotonic clock.

    read_from: who may serve it, if not only the primary.
    """

    name: str
    slot: int | None
    read_only: bool
    script: bool
    policy: str
    began: float
    deadline: float
    max_redirects: int
    read_from: ReadPolicy | None = None

    def longest_wait(self, after: float, now: float) -> float:
        """How long the call may wait for a slot map, if its back-off is so many seconds, and its primary is gone.

        A read need not wait for a new primary: a replica may serve it again at any time.
        """
        return self.deadline - now if self.read_from is None else after


class Progress:
    """What a call has met so far. `avoided`: nodes that could not serve this read, until each has had its turn."""

    __slots__ = ("avoided", "errors", "redirects", "retries")

    def __init__(
        self,
        errors: Iterable[GvClusterError] = (),
        redirects: int = 0,
        retries: int = 0,
        avoided: Iterable[Address] = (),
    ) -> None:
        self.errors, self.redirects, self.retries, self.avoided = list(errors), redirects, retries, set(avoided)

    def __repr__(self) -> str:
        return f"<Progress {self.redirects} redirects, {self.retries} retries, errors {self.errors!r}>"

    def add(self, met: Outcome, asked: Address | None) -> None:
        """Note what an attempt has met, and at which node."""
        self.errors.append(met.error)
        if isinstance(met, Unfit) and asked is not None:
            self.avoided.add(asked)

    def repeat(self, after: float) -> None:
        """Note that the call is to be sent again after so many seconds, in which all nodes may change their minds."""
        self.retries += 1
        if after:
            self.avoided.clear()

    @property
    def maybe_executed(self) -> bool:
        """Whether any attempt may have run the command."""
        return any(error.maybe_executed for error in self.errors)


class Follow(Record):
    """Send the command to the node that the redirect named; with ASKING in front of it where it was an ASK.

    `anew`: over a new connection, because the old one may lead to somebody else by now.
    """

    address: Address
    asking: bool
    after: float
    anew: bool = False


class Retry(Record):
    """Route anew, after a while. `for_news`: a new slot map ends the wait."""

    after: float
    for_news: bool


class Refetch(Record):
    """Have a slot map fetched from now on, wait for it, and route by it."""


class Confirm(Record):
    """Ask somebody else whether the claim is true, then decide again about the claim itself."""

    claim: Outcome


class Fail(Record):
    """Raise the error."""

    error: GvClusterError


Decision = Follow | Retry | Refetch | Confirm | Fail


def decide(outcome: Outcome, call: Call, progress: Progress, now: float, jitter: float) -> Decision:
    """Choose what follows an attempt.

    Args:
        outcome: How the attempt ended; its error is already in `progress.errors`.
        call: The call.
        progress: What it met so far, this attempt included.
        now: Seconds on the monotonic clock.
        jitter: A random number in [0, 1).
    """
    if isinstance(outcome, Doubtful):
        return Confirm(outcome.claim) if now < call.deadline else Fail(outcome.error)
    if not _may_repeat(outcome, call):
        return Fail(told(outcome.error, progress))
    if now >= call.deadline or (isinstance(outcome, Moved | Ask) and progress.redirects >= call.max_redirects):
        return Fail(exhausted(call, progress, now))
    return _next(outcome, progress, jitter, call.deadline - now)


def _next(outcome: Outcome, progress: Progress, jitter: float, left: float) -> Decision:
    """How to send again, with so many seconds left."""
    if isinstance(outcome, Unserved):
        return Refetch()
    if isinstance(outcome, Moved | Ask) and outcome.address is not None:
        free = 0 if outcome.to_itself else FREE_HOPS
        wait = 0.0 if progress.redirects < free else backoff(progress.redirects - free, jitter)
        return Follow(outcome.address, isinstance(outcome, Ask), min(wait, left), anew=outcome.to_itself)
    return _again(outcome, min(backoff(progress.retries, jitter), left))


def _again(outcome: Outcome, wait: float) -> Retry:
    """Route anew: after a while, but at once where another node may serve a read, or a script was only not known."""
    if isinstance(outcome, Forgotten) or (isinstance(outcome, Unfit) and outcome.others):
        return Retry(0.0, for_news=False)
    return Retry(wait, for_news=not isinstance(outcome, NotNow) or outcome.stale)


def hints_at_stale_map(outcome: Outcome) -> bool:
    """Whether a fresh slot map may help the next call, whatever becomes of this one."""
    outcome = _cause(outcome)
    if isinstance(outcome, NotNow):
        return outcome.stale
    if isinstance(outcome, Ask):
        return outcome.address is None
    return isinstance(outcome, Moved | Lost | Refused | Unserved)


def backoff(attempt: int, jitter: float) -> float:
    """Seconds to wait before the next attempt: doubling, at most LONGEST_WAIT, spread over its upper half."""
    return float(min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** min(attempt, 10)) * (0.5 + jitter / 2))


def pause_after_abort(aborted: int, jitter: float) -> float:
    """Seconds before a transaction that was aborted so many times is tried again.

    Somebody else has succeeded each time, so there is no hurry to give way; but rivals must fall out of step.
    """
    return 0.0 if aborted <= 2 else float(0.001 * 2 ** min(aborted - 2, 5) * jitter)


def _cause(outcome: Outcome) -> Outcome:
    """What was met, by a read of several nodes as well."""
    return outcome.why if isinstance(outcome, Unfit) else outcome


def _may_repeat(outcome: Outcome, call: Call) -> bool:
    """Whether sending the command again can not run it twice, or may."""
    outcome = _cause(outcome)
    if isinstance(outcome, Moved | Ask | Forgotten):
        return True
    if isinstance(outcome, Unserved):
        return not outcome.fresh and call.policy != "never"
    if isinstance(outcome, Lost):
        return may_run_twice(call)
    return isinstance(outcome, NotNow | Refused) and call.policy != "never"


def may_run_twice(call: Call) -> bool:
    """Whether it does no harm, or the caller has said so."""
    return call.policy == "always" or (call.policy == "safe" and call.read_only)


def told(error: GvClusterError, progress: Progress) -> GvClusterError:
    """The error for the caller; it must not claim less than an earlier attempt may have done."""
    if progress.maybe_executed:
        error.maybe_executed = True
    return error


def exhausted(call: Call, progress: Progress, now: float) -> GvClusterError:
    """What the caller is told at the deadline: the plain cause if it took all the time, else what each attempt met."""
    last = progress.errors[-1]
    is_plain = len(progress.errors) == 1 and not progress.retries + progress.redirects
    if is_plain or isinstance(last, SlotNotCovered):
        return told(last, progress)
    error = RetriesExhausted(
        f"{call.name} gave up after {now - call.began:.3f} s and {_count(progress.errors, 'attempt')} "
        f"({_count(progress.redirects, 'redirect')}, waited {_count(progress.retries, 'time')}); the last met: {last}",
        attempts=progress.errors,
        maybe_executed=progress.maybe_executed,
    )
    error.__cause__ = last
    return error


def _count(things: int | list[GvClusterError], noun: str) -> str:
    number = things if isinstance(things, int) else len(things)
    return f"{number} {noun}{'s' * (number != 1)}"


# Who waits for a failover asks after 1/80 of the time that it has taken so far: every 40 ms when the promotion comes
# after 3 s, as it does with a node timeout of 2 s; every 150 ms with the servers' default of 15 s. On average half of
# it is lost; and the replica that all clients ask, be they thousands, has an election to win.
_SHARE = 1 / 80
SHORTEST_QUESTION_GAP = 0.030
LONGEST_QUESTION_GAP = 0.150


def question_gap(waited: float, jitter: float) -> float:
    """Seconds until a replica is asked again who is primary, after the shard was gone for so many seconds."""
    gap = min(max(SHORTEST_QUESTION_GAP, waited * _SHARE), LONGEST_QUESTION_GAP)
    return gap * (0.75 + jitter / 2)


# The gap between fetches of the slot map, seconds: libvalkey's is 1 s from the start; a failover is over in 2 to 4 s,
# and the first fetches of one are the likeliest to bring news.
SHORTEST_GAP = 0.1
LONGEST_GAP = 1.0


class Pace:
    """How soon the next fetch of the slot map may begin: at once after a quiet while, then ever slower up to 1 s."""

    __slots__ = ("began", "gap")

    def __init__(self) -> None:
        self.began, self.gap = -LONGEST_GAP * 2, SHORTEST_GAP

    def __repr__(self) -> str:
        return f"<Pace {self.gap:.3f} s>"

    def wait(self, now: float, jitter: float) -> float:
        """Seconds to wait before the next fetch."""
        if now - self.began > 2 * LONGEST_GAP:
            self.gap = SHORTEST_GAP
        return max(0.0, self.began + self.gap * (0.75 + jitter / 2) - now)

    def begin(self, now: float) -> None:
        """Note that a fetch begins."""
        self.began = now
        self.gap = min(self.gap * 2, LONGEST_GAP)
