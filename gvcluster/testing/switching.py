"""throw_at_every_switch: a kill, a timeout or Ctrl-C at each point where an operation waits, one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
import greenlet

_LIMIT = 1000


@dataclass(frozen=True)
class Thrown:
    """One run of the operation, and how it ended.

    point: at which of its switches it was thrown at, from 1.
    turns: how many turns of the loop later.
    meant: what was thrown.
    error: what the operation ended with; None if it came to its end all the same.
    value: what it returned then.
    """

    point: int
    turns: int
    meant: BaseException
    error: BaseException | None
    value: Any = None

    @property
    def is_surprise(self) -> bool:
        """The operation ended with another error than the one that was thrown."""
        return self.error is not None and self.error is not self.meant


@dataclass(frozen=True)
class SwitchReport:
    """What became of an operation that was thrown at.

    thrown: each run, in order.
    value: what the operation returned when it was not thrown at any more.
    """

    thrown: tuple[Thrown, ...]
    value: Any = None

    @property
    def points(self) -> int:
        """How often it was thrown at."""
        return len(self.thrown)

    @property
    def outcomes(self) -> dict[str, int]:
        """How often the operation ended with which error, by its class; `finished` is without any."""
        return dict(Counter("finished" if each.error is None else type(each.error).__name__ for each in self.thrown))

    @property
    def surprises(self) -> list[Thrown]:
        """The runs that ended with another error than the one that was thrown."""
        return [each for each in self.thrown if each.is_surprise]

    def __str__(self) -> str:
        told = ", ".join(f"{name} {count}" for name, count in self.outcomes.items())
        return f"thrown at {self.points} switch points: {told or 'it never waits'}"


def throw_at_every_switch(
    operation: Callable[[], Any],
    error: Callable[[], BaseException] = gevent.GreenletExit,
    *,
    turns: Sequence[int] = (0, 1),
    after: Callable[[Thrown], object] | None = None,
    timeout: float = 10.0,
) -> SwitchReport:
    """Run an operation again and again, each time in a greenlet of its own, and throw at it at its first switch to
    the hub, at its second, and so on, until it comes through untouched.

    A switch to the hub is wherever a greenlet waits: for a reply, a connection, a lock, a place in a pool. A kill,
    `gevent.Timeout` and Ctrl-C strike there. It works unpatched and after `monkey.patch_all()`, with any gevent code:

        def order():
            with pool.reserve(item):
                cluster.execute("INCR", "orders")

        def check(thrown):
            assert pool.reserved == 0

        report = throw_at_every_switch(order, gevent.Timeout, after=check)
        assert report.points and not report.surprises, report

    Args:
        operation: Any function without arguments. It runs once for each of its switches, and once more.
        error: Makes what is thrown: `gevent.GreenletExit`, `gevent.Timeout`, `KeyboardInterrupt`, or any function.
        turns: How many turns of the loop after the switch it is thrown; with several, all is done for each. 0 is
            before what it waits for can have come, but for what was in the loop already, such as `sleep(0)`; 1 may be
            when it has come, and the greenlet was told in that turn.
        after: Called after each run that was thrown at. What it raises ends the whole.
        timeout: Seconds that one run may take.

    Returns:
        A report. It is for you to say what must hold: that it has points, that it has no surprises.

    Raises:
        AssertionError: The operation does not end within the timeout, or has more than 1000 switches.
        BaseException: What the operation itself raises when nothing is thrown at it.

    Blocks:
        For as long as all the runs take. A kill or Timeout of the caller kills the run under way.

    Source: our own; no client that we know offers it.
    """
    thrown: list[Thrown] = []
    value = None
    for late in turns:
        for point in range(1, _LIMIT + 2):
            run = _Run(operation, error(), point, late)
            run.go(timeout)
            if run.passed < point:
                value = run.result()
                break
            thrown.append(Thrown(point, late, run.meant, run.error, run.value))
            if after is not None:
                after(thrown[-1])
        else:
            raise AssertionError(f"it has more than {_LIMIT} switches")
    return SwitchReport(tuple(thrown), value)


class _Run:
    """The operation once, thrown at when it has switched so many times."""

    def __init__(self, operation: Callable[[], Any], meant: BaseException, point: int, turns: int):
        self.passed = 0
        self.meant = meant
        self.error: BaseException | None = None
        self.value: Any = None
        self._operation, self._point, self._turns = operation, point, turns
        self._hub = gevent.get_hub()
        self._working: gevent.Greenlet[..., Any] = gevent.Greenlet(self._work)

    def go(self, timeout: float) -> None:
        before = greenlet.settrace(self._note)
        try:
            self._working.start()
            self._working.join(timeout)
        finally:
            greenlet.settrace(before)
            is_stuck = not self._working.ready()
            self._working.kill(block=False)
        if is_stuck:
            raise AssertionError(f"stuck after {self.passed} switches, thrown at {self._point}")

    def result(self) -> Any:
        """What the operation has returned, or raised."""
        if self.error is not None:
            raise self.error
        return self.value

    def _work(self) -> None:
        try:
            self.value = self._operation()
        except BaseException as error:
            self.error = error

    def _note(self, event: str, arguments: Any) -> None:
        left, entered = arguments
        if event == "switch" and left is self._working and entered is self._hub and not left.dead:
            self.passed += 1
            if self.passed == self._point:
                self._hub.loop.run_callback(self._throw, self._turns)

    def _throw(self, turns: int) -> None:
        if self._working.dead:
            return
        if turns:
            self._hub.loop.run_callback(self._throw, turns - 1)
        else:
            self._working.throw(self.meant)
