"""T6 of fuzz.py: stories of what happens to a pool and its connections, and whether a simple model is kept.

A story is a list of steps: calls, kills, loans, a node that answers some, ends its connections in the middle of a
reply, sends what nobody asked for. The model is: each call ends, with its own key for a reply or with a declared error;
no INCR arrives twice; never more connections than allowed; in the end everything is served, and nothing is left open.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import gevent
from gevent.event import Event
from greenlet import GreenletExit

from gvcluster import Cluster
from gvcluster.errors import GvClusterError
from gvcluster.testing import FakeCluster, FakeNode, fake_server
from gvcluster.testing.answers import NOT_HANDLED
from gvcluster.testing.fake_connection import FakeConnection

STEPS = ("call", "incr", "pipeline", "borrow", "give back", "kill", "answer", "half", "eof", "extra", "push", "refresh")
_OFTEN = (*STEPS, "call", "call", "incr", "incr", "borrow", "answer", "answer", "answer", "turn")
_LENT = 2
_PATIENCE = 10.0  # seconds; only a call that is stuck takes so long

Story = list[tuple[str, int]]


def any_story(rng: Random) -> Story:
    """Up to 30 steps; the number of each says whom it strikes."""
    return [(rng.choice(_OFTEN), rng.randrange(8)) for _ in range(rng.randrange(1, 30))]


def check_story(story: Story) -> str:
    """Play it. Returns how calls ended, roughly; raises AssertionError where the model is not kept."""
    with FakeCluster(1) as fake:
        play = _Play(fake)
        try:
            for step, number in story:
                play.do(step, number)
            play.end()
        finally:
            play.cluster.close()
        _until(lambda: play.node.connections.open == 0, "all connections closed")
    return "no losses" if not play.losses else "losses"


class _Play:
    def __init__(self, fake: FakeCluster) -> None:
        (self.node,) = fake.nodes
        self.cluster = Cluster(fake.seeds, max_connections=_LENT, timeout=5.0, client_info=False, rng=Random(7))
        self.cluster.connect()
        self.losses = self._made = 0
        self._owed: list[tuple[FakeConnection, bytes]] = []
        self._calls: list[tuple[gevent.Greenlet[..., Any], bytes | None]] = []
        self._loans: list[Event] = []
        self._is_serving = False
        self.node.override = self._hold

    def _hold(self, node: FakeNode, connection: FakeConnection, args: list[bytes]) -> Any:
        """Answer in the order of the commands: what follows one that is held is held, too."""
        is_ours = args[0] in (b"GET", b"INCR")
        if self._is_serving or not (is_ours or any(owed is connection for owed, _ in self._owed)):
            return b"$%d\r\n%b\r\n" % (len(args[1]), args[1]) if is_ours else NOT_HANDLED
        reply = b"$%d\r\n%b\r\n" % (len(args[1]), args[1]) if is_ours else fake_server.answer(node, connection, args)
        if isinstance(reply, bytes):
            self._owed.append((connection, reply))
            return None
        return reply

    # --- The steps ---

    def do(self, step: str, number: int) -> None:
        """One step, and the turns of the loop in which it shows."""
        steps: dict[str, Callable[[int], None]] = {
            **dict.fromkeys(("call", "incr", "pipeline", "borrow"), partial(self._begin, step)),
            "kill": self._kill,
            "give back": self._give_back,
            "answer": self._answer,
            "half": self._answer_half,
            "eof": lambda number: self.node.reset_connections(rst=number % 2 == 0),
            "extra": self._send_unasked,
            "push": self._push,
            "refresh": lambda _: self._spawn(self._refresh, None),
        }
        if step in steps:
            steps[step](number)
        for _ in range(number):
            gevent.sleep(0)  # which does not poll
        if number % 2:
            gevent.sleep(0.001)

    def _begin(self, step: str, _: int) -> None:
        self._made += 1
        key = b"%s-%d" % (step.encode(), self._made)
        does = {"call": self._get, "incr": self._incr, "pipeline": self._pipeline, "borrow": self._borrow}[step]
        self._spawn(does, key)

    def _kill(self, number: int) -> None:
        if self._calls:
            self._calls[number % len(self._calls)][0].kill(block=False)

    def _give_back(self, number: int) -> None:
        if self._loans:
            self._loans.pop(number % len(self._loans)).set()

    def _answer_half(self, number: int) -> None:
        """The beginning of a reply, and then the end of the connection."""
        if self._owed:
            connection, reply = self._owed.pop(0)
            _send(connection, reply[: 1 + number % (len(reply) - 1)])
            connection.close()

    def _spawn(self, does: Any, key: bytes | None) -> None:
        self._calls.append((gevent.spawn(_ended, does, key), key))

    def _get(self, key: bytes) -> Any:
        return self.cluster.execute("GET", key)

    def _incr(self, key: bytes) -> Any:
        return self.cluster.execute("INCR", key)

    def _pipeline(self, key: bytes) -> Any:
        pipe = self.cluster.pipeline()
        for _ in range(3):
            pipe.append("GET", key)
        replies = set(pipe.execute(raise_errors=True))
        return replies.pop() if len(replies) == 1 else replies

    def _borrow(self, key: bytes) -> Any:
        back = Event()
        with self.cluster.connection(self.node.address) as connection:
            self._loans.append(back)
            reply = connection.execute("GET", key)
            back.wait()
        return reply

    def _refresh(self, _: None) -> None:
        self.cluster.refresh(timeout=1.0)

    def _answer(self, number: int) -> None:
        for _ in range(min(1 + number, len(self._owed))):
            _send(*self._owed.pop(0))

    def _push(self, number: int) -> None:
        """It may come at any time, and answers nobody."""
        if self._open():
            _send(self._open()[number % len(self._open())], b">2\r\n+x\r\n+y\r\n")

    def _send_unasked(self, number: int) -> None:
        """A reply ends the connection. While a command is on its way, it would be taken for that one's."""
        if all(call.dead for call, _ in self._calls):
            gevent.sleep(0.005)  # of those that were killed, bytes may be on their way
            owing = {connection.number for connection, _ in self._owed}
            free = [connection for connection in self._open() if connection.number not in owing]
            if free:
                connection = free[number % len(free)]
                _send(connection, b"+EXTRA\r\n")
                _until(lambda: connection not in self._open(), "the end of a connection with an unasked reply")

    def _open(self) -> list[FakeConnection]:
        return list(self.node.open_connections)

    # --- The end ---

    def end(self) -> None:
        """Have everything answered, and look at what has become of it."""
        self._is_serving = True
        self._answer(len(self._owed))
        giving = gevent.spawn(self._give_all_back)
        try:
            ended = gevent.joinall([call for call, _ in self._calls], timeout=_PATIENCE)
            _require(len(ended) == len(self._calls), "every call to end")
            for call, key in self._calls:
                self._look_at(call.value, key)
            self._look_at(_ended(self._get, b"last"), b"last", may_fail=False)
            self._look_at(_ended(self._pipeline, b"last"), b"last", may_fail=False)
        finally:
            giving.kill()
        arrived = Counter(args[1] for args in self.node.commands("INCR"))
        _require(max(arrived.values(), default=0) <= 1, "no INCR twice")
        _require(self.node.connections.open <= 2 + _LENT, f"at most {2 + _LENT} connections")

    def _give_all_back(self) -> None:
        while True:
            while self._loans:
                self._loans.pop().set()
            gevent.sleep(0.001)

    def _look_at(self, value: Any, key: bytes | None, may_fail: bool = True) -> None:
        if isinstance(value, BaseException):
            self.losses += 1
            _require(may_fail and isinstance(value, GvClusterError | GreenletExit), f"no {value!r}")
        else:
            _require(value == key, f"{key!r} for a reply, not {value!r}")


def _ended(does: Any, key: bytes | None) -> Any:
    """The reply, or what was raised instead."""
    try:
        return does(key)
    except BaseException as error:
        return error


def _send(connection: FakeConnection, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it was ended meanwhile
        connection.send(data)


def _until(is_so: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + _PATIENCE
    while not is_so():
        _require(time.monotonic() < ends, what)
        gevent.sleep(0.001)


def _require(truth: bool, what: str) -> None:
    if not truth:
        raise AssertionError(f"expected {what}")
