"""What a subscription object is in its hub: calls that wait for confirmations, what links tell, and the inbox."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import monotonic, time
from typing import Any

import gevent
from gevent.event import Event

from gvcluster.core.inbox import Inbox
from gvcluster.core.outcome import Ask, Moved, NotNow, Outcome, classify
from gvcluster.core.retry import FREE_HOPS, LONGEST_WAIT, SHORTEST_GAP, backoff
from gvcluster.core.subscriptions import Gap, Key, Message, gap
from gvcluster.errors import (
    AuthFailed,
    ClosedError,
    ConnectFailed,
    ConnectionLost,
    GvClusterError,
    ReplyError,
    ReplyTimeout,
)
from gvcluster.net.link import Link
from gvcluster.net.loop import TICK, YEAR, remaining
from gvcluster.net.placement import Placement, moved_from
from gvcluster.net.runtime import Runtime
from gvcluster.net.subscription import GOOD, Request, Subscription
from gvcluster.net.volley import own
from gvcluster.records import Record

# Callbacks that never wait are called for so long, then others have their say; seconds.
_TURN = 0.010
_NO_SHARDS = "sharded pub/sub came with Redis 7.0: this server has subscribe() and psubscribe() only"


class Settings(Record):
    """The options of a subscription object: see `Cluster.pubsub`."""

    max_messages: int
    max_bytes: int
    ping_interval: float
    on_message: Callable[[Message | Gap], object] | None


class Subscriber:
    """One subscription object in its hub. What links tell comes in anybody's frame: nothing of it waits."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self.is_closed, self._wakes = False, 0
        self.loop = runtime.loop
        self.inbox = Inbox(settings.max_messages, settings.max_bytes)
        self._news = Event()  # something came, or it is closed, or `wake` was called
        self._runtime, self._settings = runtime, settings
        self._state, self._nodes, self._refresher = runtime.state, runtime.nodes, runtime.refresher
        self._placement = Placement(self, runtime, settings.ping_interval)
        self._hold: Any = None  # keeps the loop alive as long as a callback may be called
        self._teller: gevent.Greenlet[..., None] | None = None
        runtime.subscribers.add(self)
        runtime.loop.watch_over(self)

    def __repr__(self) -> str:
        wanted, links = self._placement.subscriptions.values(), self._placement.links
        held = sum(each.holder is not None for each in wanted)
        state = "closed" if self.is_closed else f"{len(links)} connections, {len(self.inbox)} items wait"
        return f"<Subscriber {held} of {len(wanted)} subscriptions, {state}>"

    @property
    def keys(self) -> tuple[Key, ...]:
        """All subscriptions that are wanted."""
        return tuple(self._placement.subscriptions)

    # -- what users ask for -------------------------------------------------------------------------------------------

    def subscribe(self, keys: Sequence[Key], deadline: float) -> None:
        """Wait until all are confirmed. If one is refused, or not confirmed in time, none of the new ones remains."""
        request = Request()
        for each in map(self._placement.want, keys):
            if each.holder is None:
                request.open.add(each.key)
            each.requests.add(request)
        try:
            self._placement.place()
            self._hold_loop()
            if request.open and not self.loop.wait(request.done, remaining(deadline)):
                request.error = self._overdue(request)
            if request.error is not None:
                raise request.error
            for each in self._placement.wanted(keys):
                each.is_kept = True
        finally:
            self._leave(request, keys)

    def _leave(self, request: Request, keys: Sequence[Key]) -> None:
        """A call is over: what nobody else wants, and no call has got before, is given up."""
        those = self._placement.wanted(keys)
        for each in those:
            each.requests.discard(request)
        self.unsubscribe([each.key for each in those if not each.is_kept and not each.requests])

    def _overdue(self, request: Request) -> GvClusterError:
        met = (each.error for each in self._placement.wanted(request.open))
        late = ReplyTimeout("the subscriptions were not confirmed in time")
        return own(next((error for error in met if error is not None), late))  # others may meet the same

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        """End these, at once: nothing of them is taken in from now on. Never switches."""
        self._placement.remove(keys)
        self._hold_loop()

    def wait(self, deadline: float) -> Message | Gap | None:
        """The next item, or None if none comes in time or before `wake`. ClosedError: closed, and all was taken."""
        wakes = self._wakes
        while True:
            item = self.inbox.take()
            if item is not None:
                return item
            if self.is_closed:
                raise ClosedError("the subscriptions were closed")
            self._news.clear()
            if not self.loop.wait(self._news, remaining(deadline)) or self._wakes != wakes:
                return self.inbox.take()

    def wake(self) -> None:
        """Have those who wait look what else there is for them. Never switches."""
        self._wakes += 1
        self._news.set()

    def reconsider(self) -> None:
        """There is a new slot map."""
        self._placement.reconsider()

    # -- what links tell ----------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        """It is connected."""
        self._placement.ask(link, link.wanted)

    def lost(self, link: Link, error: GvClusterError) -> None:
        """It could not be opened, or has ended."""
        self._placement.forget(link)
        those = self._placement.wanted([*link.wanted, *link.held])
        failures = 0 if link.lasted >= GOOD else min((each.failures for each in those), default=0)
        pause = backoff(failures, self._jitter())
        for each in those:
            if each.holder in (link, None):  # None: the Gap from before may have been told already
                each.interrupt(link.heard, str(error))
            if each.home is link:
                self._placement.unhome(each)
                each.failures = failures
                (each.refuse if isinstance(error, AuthFailed) else each.fail)(error, pause)
        self._placement.place()

    def confirmed(self, link: Link, key: Key, together: list[Key]) -> None:
        """The server confirms a subscription."""
        for each in self._placement.wanted([key]):
            if self._is_doubtful(each, link):
                link.unsubscribe([key])
                self._placement.unhome(each)
                each.fail(ConnectionLost(each.why, address=link.address), SHORTEST_GAP)
                self._refresher.schedule(link.address, urgent=True)
                self._placement.place()
            else:
                if each.since is not None:
                    self._tell_gaps(link, together)
                each.confirm(link)

    def _is_doubtful(self, each: Subscription, link: Link) -> bool:
        """Whether it is confirmed by the very node that has ended it, and no slot map was fetched since.

        A primary that has become a replica ends the subscriptions to its slots, and accepts them again at once; but
        what is published at its successor may not reach it yet, and nothing would tell that it has not.
        """
        return each.slot is not None and each.ended_by == link.address and self._state.fetched <= each.ended_at

    def _tell_gaps(self, link: Link, together: list[Key]) -> None:
        """Put the Gaps of those that are confirmed together in front of the first message that they may bring."""
        gaps: dict[str, list[Subscription]] = {}
        for each in self._placement.wanted(together):
            if each.home is link and each.since is not None:
                gaps.setdefault(each.why, []).append(each)
        now, here = time(), monotonic()
        for why, those in gaps.items():
            lasted = here - min(each.since for each in those if each.since is not None)
            for each in those:
                each.since = None
            self.inbox.put_gap(gap([each.key for each in those], now - lasted, now, why))
            self._announce()

    def refused(self, link: Link, keys: list[Key], error: ReplyError) -> None:
        """The server refuses some."""
        for each in self._placement.wanted(keys):
            if each.home is link:
                self._placement.unhome(each)
                self._react(each, classify(error, each.slot, link.address), link)
        self._placement.place()

    def _react(self, each: Subscription, met: Outcome, link: Link) -> None:
        """Try again elsewhere or later, or tell those who wait that it was refused."""
        if isinstance(met, Moved):
            self._follow(each, met, link)
        elif isinstance(met, Ask | NotNow):
            each.fail(met.error, backoff(each.failures, self._jitter()))
            self._refresher.schedule()
        else:
            if each.slot is not None and "unknown command" in str(met.error):
                met.error.add_note(_NO_SHARDS)
            each.refuse(met.error, LONGEST_WAIT * (1 + self._jitter()))

    def _follow(self, each: Subscription, moved: Moved, link: Link) -> None:
        free = 0 if moved.to_itself else FREE_HOPS
        each.fail(moved.error, 0.0 if each.failures < free else backoff(each.failures - free, self._jitter()))
        self._refresher.schedule(link.address)
        if moved.address is not None:
            try:
                self._nodes.patch(moved.slot, self._nodes.redirected_to(moved.address, False))
            except ConnectFailed as error:
                each.refuse(error, LONGEST_WAIT)

    def withdrawn(self, link: Link, key: Key) -> None:
        """The server has ended one by itself: as a rule its slot has moved."""
        for each in self._placement.wanted([key]):
            if each.holder is not link:
                continue
            each.note_end(link.address)
            why = moved_from(link) if each.slot is not None else f"{link.address} has ended the subscription"
            each.interrupt(each.ended_at, why)
            if each.home is link:
                self._placement.unhome(each)
                self._refresher.schedule(link.address)
        self._placement.place()

    def received(self, message: Message) -> None:
        """A message of a subscription that is confirmed."""
        self.inbox.put(message, time())
        self._announce()

    def _jitter(self) -> float:
        return self._state.options.rng.random()

    # -- telling the user ---------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        if self._settings.on_message is None:
            if not self._news.is_set():
                self._news.set()
        elif self._teller is None:
            self._teller = self.loop.spawn(self._tell_all)

    def _tell_all(self) -> None:
        """Call the callback for each item. What it raises, the hub reports; it may wait, for the inbox has a bound."""
        tell = self._settings.on_message
        assert tell is not None
        began = monotonic()
        try:
            while not self.is_closed and (item := self.inbox.take()) is not None:
                try:
                    tell(item)
                except Exception as error:
                    self.loop.hub.handle_error(tell, type(error), error, error.__traceback__)
                if monotonic() - began > _TURN:
                    self.loop.sleep(TICK)
                    began = monotonic()
        finally:
            self._teller = None
            if self.inbox and not self.is_closed:  # a gevent.Timeout or a kill: another greenlet tells the rest
                self._announce()

    def _hold_loop(self) -> None:
        """Keep the loop alive while a callback may be called. (Who waits for an item keeps it alive by waiting.)"""
        is_wanted = self._settings.on_message is not None and bool(self._placement.subscriptions) and not self.is_closed
        if is_wanted and self._hold is None:
            self._hold = self.loop.timer(YEAR, ref=True)
            self._hold.start(int)
        elif not is_wanted and self._hold is not None:
            self.loop.end(self._hold)
            self._hold = None

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all subscriptions and connections now. Never switches."""
        if self.is_closed:
            return
        self.is_closed = True
        self._runtime.subscribers.discard(self)
        self._placement.close()
        self._hold_loop()
        for each in self._placement.subscriptions.values():
            each.settle(ClosedError("the subscriptions were closed"))
        self._news.set()

    def abandon(self) -> None:
        """Let it go in a forked child, or when its hub is no more: nobody is told. Never switches."""
        self.is_closed = True
        self._placement.abandon()
        if self._hold is not None:
            self.loop.drop(self._hold)
            self._hold = None
