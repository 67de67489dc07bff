"""One connection to one node, for the subscriptions that belong there: opens it, asks, hears, and keeps it awake."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any, Protocol

import gevent

from gvcluster.core.address import Address
from gvcluster.core.resp import encode
from gvcluster.core.retry import LONGEST_WAIT
from gvcluster.core.subscriptions import (
    ENDED_BY,
    Confirmation,
    Key,
    Message,
    Pong,
    fits,
    groups,
    key_of,
    parse_item,
)
from gvcluster.errors import ConnectFailed, ConnectionLost, GvClusterError, ReplyError
from gvcluster.net.listening import ListeningConnection, listen_on
from gvcluster.net.pool import NodePool
from gvcluster.net.question import Question
from gvcluster.net.runtime import Runtime

_PING = encode(("PING",))
# How often a link looks at its clocks: so many times in the shorter of its two times, and within these bounds, seconds.
_LOOKS, _SHORTEST_LOOK, _LONGEST_LOOK = 4, 0.025, 1.0


class Owner(Protocol):
    """Whom a link tells what has happened. Nothing here may switch or raise."""

    def opened(self, link: Link) -> None:
        """It is connected: what is wanted there can be asked for."""

    def lost(self, link: Link, error: GvClusterError) -> None:
        """It could not be opened, or has ended without `close`."""

    def confirmed(self, link: Link, key: Key, together: list[Key]) -> None:
        """The server confirms a subscription, first of those that were asked for together."""

    def refused(self, link: Link, keys: list[Key], error: ReplyError) -> None:
        """The server refuses these subscriptions."""

    def withdrawn(self, link: Link, key: Key) -> None:
        """The server has ended a subscription by itself."""

    def received(self, message: Message) -> None:
        """A message of a subscription that is confirmed."""


class Link:
    """One connection of a subscription object. Used once: who is lost is replaced by another.

    wanted: the subscriptions that belong here. held: those that the server has confirmed and not ended.
    """

    __slots__ = (
        *("__weakref__", "_begun", "_connection", "_ending", "_greenlet", "_is_over", "_is_shard", "_lent", "_owed"),
        *("_owner", "_ping_interval", "_runtime", "_timer", "held", "pool", "wanted"),
    )

    def __init__(self, owner: Owner, runtime: Runtime, pool: NodePool, is_shard: bool, ping_interval: float) -> None:
        self.wanted: dict[Key, None] = {}
        self.held: set[Key] = set()
        self._owner, self._runtime, self.pool = owner, runtime, pool
        self._is_shard, self._ping_interval = is_shard, ping_interval
        self._owed: deque[Question] = deque()
        self._ending: Counter[Key] = Counter()  # how many commands are owed that end it
        self._connection: ListeningConnection | None = None
        self._lent: ListeningConnection | None = None  # the same, until it is given back
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._timer: Any = None
        self._is_over, self._begun = False, monotonic()

    def __repr__(self) -> str:
        state = "over" if self._is_over else "open" if self._connection is not None else "opening"
        return f"<Link to {self.address} {state}, {len(self.held)} of {len(self.wanted)} subscriptions>"

    @property
    def address(self) -> Address:
        """The node's address."""
        return self.pool.address

    @property
    def heard(self) -> float:
        """When the last byte came, on the monotonic clock."""
        return self._connection.heard if self._connection is not None else self._begun

    @property
    def lasted(self) -> float:
        """Seconds since it was connected; 0 if it never was."""
        return monotonic() - self._begun if self._connection is not None else 0.0

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        return self._connection is not None and not self._is_over

    # -- its life -----------------------------------------------------------------------------------------------------

    def open(self, slot: int | None) -> gevent.Greenlet[..., None]:
        """Begin to connect, on behalf of a slot if it is one; a greenlet does it. Never switches."""
        self._greenlet = self._runtime.loop.spawn(self._open, slot)
        return self._greenlet

    def _open(self, slot: int | None) -> None:
        until = monotonic() + self._runtime.state.options.connect_timeout
        attend = partial(self._runtime.failover.attend_while_connecting, slot, self.pool)
        try:
            connection = self.pool.wait_exclusive(until, attend if self._is_shard else None, blocking=True)
        except GvClusterError as error:
            self._greenlet = None
            if not self._is_over:
                self._is_over = True
                if isinstance(error, ConnectFailed):
                    self._runtime.failover.attend(slot, LONGEST_WAIT)
                self._owner.lost(self, error)
            return
        self._greenlet = None
        self._connection = self._lent = listen_on(connection, self)
        self._begun = monotonic()
        if self._is_over:
            self._give_back()
        elif connection.closed:
            self.ended(None)
        else:
            self._start_clock()
            self._owner.opened(self)

    def close(self) -> None:
        """End it. Never switches."""
        self._is_over = True
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self._give_back()

    def ended(self, cause: BaseException | None) -> None:
        """The connection has ended."""
        if self._is_over:
            return
        self._is_over = True
        self._give_back()
        why = "it was closed" if cause is None else str(cause) or type(cause).__name__
        error = ConnectionLost(f"lost the connection to {self.address}: {why}", address=self.address)
        error.__cause__ = cause
        self._owner.lost(self, error)

    def _give_back(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            self._runtime.loop.end(timer)
        lent, self._lent = self._lent, None
        if lent is not None:
            self.pool.give_back(lent)

    def abandon(self) -> None:
        """Let it go in a forked child, or when its hub is no more."""
        self._is_over = True
        if self._timer is not None:
            self._runtime.loop.drop(self._timer)

    # -- asking -------------------------------------------------------------------------------------------------------

    def subscribe(self, keys: Iterable[Key]) -> None:
        """Ask for subscriptions. Those of one slot go together, for they are all refused or none. Never switches."""
        for together in groups(keys):
            self._ask(together, True)

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        """Ask for the end of subscriptions, if it is connected. Never switches."""
        keys = list(keys)
        self.held.difference_update(keys)
        if self.is_open:
            for together in groups(keys):
                self._ask(together, False)

    def _ask(self, keys: list[Key], is_subscribing: bool, word: str = "") -> None:
        kind = keys[0][0]
        word = word or (kind.value if is_subscribing else ENDED_BY[kind])
        if not is_subscribing:
            self._ending.update(keys)
        self._send(encode((word, *(name for _, name in keys))), Question(keys, is_subscribing, word))

    def _send(self, data: bytes, command: Question) -> None:
        assert self._connection is not None
        self._owed.append(command)
        self._connection.send(data)

    # -- hearing ------------------------------------------------------------------------------------------------------

    def take(self, item: Any) -> None:
        """What came over the connection."""
        if self._is_over:
            return
        match parse_item(item, shard=self._is_shard):
            case Message() as message:
                if key_of(message) in self.held:
                    self._owner.received(message)
            case Confirmation() as told:
                self._confirmed(told)
            case Pong():
                self._answered(next((each for each in self._owed if not each.keys), None))
            case ReplyError() as error:
                self._refused(error)

    def _confirmed(self, told: Confirmation) -> None:
        if told.name is None:
            return  # only for an end of all subscriptions, which nobody asks for
        key = told.kind, told.name
        asked = (each for each in self._owed if key in each.awaited and each.is_subscribing == told.is_subscribed)
        command = next(asked, None)
        if command is not None:
            self._note(command, key)
        elif not told.is_subscribed and key in self.held:
            self.held.discard(key)
            self._owner.withdrawn(self, key)

    def _note(self, command: Question, key: Key) -> None:
        """A confirmation that was owed."""
        command.awaited.discard(key)
        if not command.is_subscribing:
            self._is_ended(key)
        if not command.awaited:
            self._answered(command)
        # Ended in the meantime, it is wanted no more: the command that says so is under way.
        if command.is_subscribing and key in self.wanted and key not in self._ending:
            self.held.add(key)
            self._owner.confirmed(self, key, command.keys)

    def _is_ended(self, key: Key) -> None:
        """A command that ends it was answered."""
        self._ending[key] -= 1
        if not self._ending[key]:
            del self._ending[key]

    def _refused(self, error: ReplyError) -> None:
        """An error answers the oldest command; a redirect, the oldest of its slot.

        For where a slot moves while the end of a subscription is under way, the server says twice that it has ended:
        by itself, which looks like the answer, and with MOVED. It must not hit the next command.
        """
        command = next((each for each in self._owed if fits(error, each.keys)), None)
        if command is None:
            return
        self._owed.remove(command)
        if command.is_subscribing:
            keys = [key for key in command.keys if key in self.wanted and key not in self._ending]
            self._owner.refused(self, keys, error)
        else:
            for key in command.awaited:
                self._is_ended(key)
            if command.wants_other_word(error):
                self._ask(command.keys, False, "UNSUBSCRIBE")

    def _answered(self, command: Question | None) -> None:
        if command is not None:
            self._owed.remove(command)

    # -- its clocks ---------------------------------------------------------------------------------------------------

    def _start_clock(self) -> None:
        shorter = min(self._ping_interval, self._runtime.state.command_timeout)
        after = min(max(shorter / _LOOKS, _SHORTEST_LOOK), _LONGEST_LOOK)
        timer = self._runtime.loop.timer(after, again=after)
        timer.start(self._look, timer, update=True)
        old, self._timer = self._timer, timer  # only now: the old one goes on until another runs
        if old is not None:
            self._runtime.loop.end(old)

    def _look(self, timer: Any) -> None:
        """Ping a node that is quiet; give up one that does not answer."""
        connection = self._connection
        if self._is_over or connection is None or timer is not self._timer:
            timer.stop()
            return
        self._start_clock()
        if self._owed:
            self._give_up_if_silent(connection, self._owed[0].sent)
        elif monotonic() - connection.heard >= self._ping_interval:
            self._send(_PING, Question([], False, "PING"))

    def _give_up_if_silent(self, connection: ListeningConnection, asked: float) -> None:
        """After a stalled hub the answer may be in the kernel already: look before the verdict."""
        patience = self._runtime.state.command_timeout
        if monotonic() - max(asked, connection.heard) < patience:
            return
        connection.look()
        silent = monotonic() - max(asked, connection.heard)
        if silent >= patience and not connection.is_behind():
            connection.close(TimeoutError(f"not a byte for {silent:.3g} s while an answer was owed"))
