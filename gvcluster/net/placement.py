"""Where each subscription belongs, and the links that lead there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any

import gevent

from gvcluster.core.retry import backoff
from gvcluster.core.subscriptions import Key
from gvcluster.errors import SlotNotCovered
from gvcluster.net.link import Link, Owner
from gvcluster.net.loop import TICK
from gvcluster.net.pool import NodePool
from gvcluster.net.runtime import Runtime
from gvcluster.net.subscription import Subscription


class Placement:
    """The subscriptions of one object, and its links.

    What is wanted and what is so are two things. `place` brings them together whenever something has changed: a call, a
    lost link, a slot that has moved, a new slot map, a back-off that is over. It never switches: links connect in
    greenlets of their own, so that a sick node holds up no other.
    """

    def __init__(self, owner: Owner, runtime: Runtime, ping_interval: float) -> None:
        self.subscriptions: dict[Key, Subscription] = {}
        self.links: set[Link] = set()
        self._homeless: dict[Key, Subscription] = {}
        self._classic: Link | None = None  # for channels and patterns: any node will do
        self._by_pool: dict[NodePool, Link] = {}  # for shard channels
        self._owner, self._runtime, self._ping_interval = owner, runtime, ping_interval
        self._state, self._nodes, self._refresher = runtime.state, runtime.nodes, runtime.refresher
        self._timer: Any = None
        self._is_over = False

    def wanted(self, keys: Iterable[Key]) -> list[Subscription]:
        """Those of them that are wanted, each once."""
        return [self.subscriptions[key] for key in dict.fromkeys(keys) if key in self.subscriptions]

    def want(self, key: Key) -> Subscription:
        """The subscription, a new one if it was not wanted yet. It is not asked for before `place`."""
        each = self.subscriptions.get(key)
        if each is None:
            each = self.subscriptions[key] = self._homeless[key] = Subscription(key)
        return each

    def remove(self, keys: Iterable[Key]) -> None:
        """Want them no longer, and say so where they are."""
        departed: dict[Link, list[Key]] = {}
        for each in self.wanted(keys):
            del self.subscriptions[each.key]
            self._homeless.pop(each.key, None)
            for link in {each.home, each.holder}:
                if link is not None:
                    link.wanted.pop(each.key, None)
                    departed.setdefault(link, []).append(each.key)
            each.settle(None)
        for link, names in departed.items():
            link.unsubscribe(names)
        self._dismiss_idle()

    def reconsider(self) -> None:
        """There is a new slot map: find a new home for those whose slot has moved, or whose node is gone."""
        for each in self.subscriptions.values():
            each.not_before = 0.0
            if each.home is not None and not self._is_right(each, each.home):
                self.unhome(each)
        if self._classic is not None and not self._classic.wanted:
            self._classic = None
        self.place()

    def _is_right(self, each: Subscription, link: Link) -> bool:
        if each.slot is not None:
            return self._nodes.table[each.slot] in (None, link.pool)
        topology = self._state.topology
        return topology is None or topology.node_at(link.address) is not None

    def place(self) -> None:
        """Give each subscription that has no home one, and ask for it there."""
        now, next_time = monotonic(), math.inf
        asked: dict[Link, list[Key]] = {}
        for key, each in list(self._homeless.items()) if not self._is_over else ():
            link = self._link_for(each) if each.not_before <= now else None
            if link is None:
                next_time = min(next_time, each.not_before)
                continue
            del self._homeless[key]
            each.home = link
            link.wanted[key] = None
            asked.setdefault(link, []).append(key)
        for link, keys in asked.items():
            if link.is_open:
                self.ask(link, keys)
        self._dismiss_idle()
        self._set_clock(next_time)

    def ask(self, link: Link, keys: Iterable[Key]) -> None:
        """Ask for subscriptions at a link that is open, and end them where they were until now.

        Not earlier: the old node may have messages still. Not later: some might come twice.
        """
        keys = list(keys)
        for each in self.wanted(keys):
            old = each.holder
            if old is not None and old is not link:
                each.interrupt(old.heard, moved_from(old))
                old.unsubscribe([each.key])
        link.subscribe(keys)

    def _link_for(self, each: Subscription) -> Link | None:
        if each.slot is None:
            if self._classic is None:
                self._classic = self._new_link(self._any_pool(), None)
            return self._classic
        pool = self._nodes.table[each.slot]
        if pool is None:
            self._refresher.schedule()
            error = SlotNotCovered(f"no node serves slot {each.slot}", slot=each.slot)
            each.fail(error, backoff(each.failures, self._state.options.rng.random()))
            return None
        if pool not in self._by_pool:
            self._by_pool[pool] = self._new_link(pool, each.slot)
        return self._by_pool[pool]

    def _new_link(self, pool: NodePool, slot: int | None) -> Link:
        link = Link(self._owner, self._runtime, pool, slot is not None, self._ping_interval)
        self.links.add(link)
        link.open(slot).rawlink(partial(self._opening_ended, link))
        return link

    def _opening_ended(self, link: Link, greenlet: gevent.Greenlet[..., None]) -> None:
        """Who was killed while he connected, or ended by a signal handler, must leave nobody without a connection."""
        if greenlet.exception is not None or greenlet.value is not None:  # of a kill, GreenletExit is the value
            link.ended(greenlet.exception)

    def _any_pool(self) -> NodePool:
        assert self._state.topology is not None
        pools = [self._nodes.pool_at(node.address) for node in self._state.topology.primaries]
        return self._state.options.rng.choice([pool for pool in pools if not pool.is_failing()] or pools)

    def unhome(self, each: Subscription) -> None:
        """It does not belong where it was asked for."""
        if each.home is not None:
            each.home.wanted.pop(each.key, None)
            if each.holder is None:  # its Gap may have been told already, with that of one that was confirmed
                each.interrupt(each.home.heard, moved_from(each.home))
            each.home = None
        self._homeless[each.key] = each

    def forget(self, link: Link) -> None:
        """The link is no more."""
        self.links.discard(link)
        if self._classic is link:
            self._classic = None
        if self._by_pool.get(link.pool) is link:
            del self._by_pool[link.pool]

    def _dismiss_idle(self) -> None:
        for link in [link for link in self.links if not link.wanted and not link.held]:
            self.forget(link)
            link.close()

    def _set_clock(self, when: float) -> None:
        """Have `place` called then."""
        old, self._timer = self._timer, None
        if when < math.inf and not self._is_over:
            after = max(TICK, when - monotonic())
            self._timer = self._runtime.loop.timer(after, again=after)
            self._timer.start(self.place, update=True)
        if old is not None:
            self._runtime.loop.end(old)

    def close(self) -> None:
        """End all links. Never switches."""
        self._is_over = True
        for link in tuple(self.links):
            self.forget(link)
            link.close()
        self._set_clock(math.inf)

    def abandon(self) -> None:
        """Let them go in a forked child, or when their hub is no more. Never switches."""
        self._is_over = True
        for link in tuple(self.links):
            link.abandon()
        if self._timer is not None:
            self._runtime.loop.drop(self._timer)
            self._timer = None


def moved_from(link: Link) -> str:
    """The reason for a Gap."""
    return f"{link.address} serves its slot no longer"
