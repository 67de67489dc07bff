"""What a FaultProxy can do to what passes through it: the faults, and the rules that choose where they strike.

Four rules:

    proxy.add(Rule(Cut(3), command="INCR", times=1))            # three bytes of the reply to INCR, then FIN
    proxy.add(Rule(Cut(9, "rst"), "request", nth=5))            # the fifth command ends within, by RST
    proxy.add(Rule(Split(), probability=0.05))                  # one reply of twenty comes byte by byte
    proxy.add(Rule(Delay(0.2), when=lambda frame: frame.connection > 1))
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from gvcluster.core.address import Address
from gvcluster.errors import ConfigError

if TYPE_CHECKING:
    from gvcluster.testing.proxy_connection import Way

Direction: TypeAlias = Literal["request", "reply", "accept"]
End: TypeAlias = Literal["fin", "rst", "half"]


@dataclass(frozen=True)
class Frame:
    """One whole command or reply on its way through a proxy. What is no RESP, such as TLS, comes as it was received.

    Attributes:
        direction: "request", or "reply" (a push too); "accept" is a new connection, before anything has come.
        target: The node behind the proxy.
        connection: 1 for the first connection that the proxy accepted.
        number: 1 for the connection's first frame in this direction; 0 for "accept".
        command: The command, or the one that is answered; empty for a push, and where that is not known.
        data: All its bytes.
    """

    direction: Direction
    target: Address
    connection: int
    number: int
    command: tuple[bytes, ...]
    data: bytes

    @property
    def name(self) -> str:
        """The command's name in capitals, or ""."""
        return self.command[0].decode("latin-1").upper() if self.command else ""


class Fault(Protocol):
    """What is done to a frame."""

    def do(self, way: Way, data: bytes) -> None:
        """Send on what shall arrive of `data`, and do what else there is to do."""

    def whole(self, size: int) -> int:
        """How many whole and true copies of a frame of this size arrive."""


@dataclass(frozen=True)
class Pass:
    """Nothing at all: what this rule chooses is spared by later ones."""

    def do(self, way: Way, data: bytes) -> None:
        """Send it on."""
        way.send(data)

    def whole(self, size: int) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class Delay:
    """The frame, and all that follows it in its direction, comes so many seconds later. Then `then` happens to it."""

    seconds: float
    then: Fault = Pass()

    def do(self, way: Way, data: bytes) -> None:
        """Wait."""
        way.pause(self.seconds)
        self.then.do(way, data)

    def whole(self, size: int) -> int:
        """What `then` lets through."""
        return self.then.whole(size)


@dataclass(frozen=True)
class Stall:
    """After `at` bytes of the frame nothing more passes in this direction, until `resume()` lets the rest through."""

    at: int = 0

    def do(self, way: Way, data: bytes) -> None:
        """Stand still within."""
        if self.at:
            way.send(data[: self.at])
        way.stall()
        way.send(data[self.at :])

    def whole(self, size: int) -> int:
        """One, sooner or later."""
        return 1


@dataclass(frozen=True)
class Cut:
    """Let `at` bytes of the frame pass (None: all), then end the connection.

    `end`: "fin" closes both sides in order, "rst" resets both; "half" closes this direction only: the other one goes
    on, as after `shutdown(SHUT_WR)`.
    """

    at: int | None = 0
    end: End = "fin"

    def __post_init__(self) -> None:
        if self.end not in ("fin", "rst", "half"):
            raise ConfigError(f"a connection ends by 'fin', 'rst' or 'half', not by {self.end!r}")

    def do(self, way: Way, data: bytes) -> None:
        """Send the beginning, and end."""
        beginning = data[: self.at]
        if beginning:
            way.send(beginning)
        way.end(self.end)

    def whole(self, size: int) -> int:
        """None, unless all of it passes."""
        return int(self.at is None or self.at >= size)


@dataclass(frozen=True)
class Split:
    """The frame comes in segments of `size` bytes, `pause` seconds apart (with 0, as soon as the last one has left)."""

    size: int = 1
    pause: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ConfigError(f"segments have 1 byte at least, not {self.size!r}")

    def do(self, way: Way, data: bytes) -> None:
        """Send piece by piece."""
        for start in range(0, len(data), self.size):
            way.send(data[start : start + self.size])
            way.pause(self.pause)

    def whole(self, size: int) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class Coalesce:
    """Frames wait until `frames` of them are there, or for `seconds`, and leave in one write."""

    frames: int = 2
    seconds: float = 0.02

    def do(self, way: Way, data: bytes) -> None:
        """Keep it for a while."""
        way.hold(data, self.frames, self.seconds)

    def whole(self, size: int) -> int:
        """One, a bit later."""
        return 1


@dataclass(frozen=True)
class Duplicate:
    """The frame comes twice: a command is executed twice, a reply is one too many."""

    def do(self, way: Way, data: bytes) -> None:
        """Send it twice."""
        way.send(data + data)

    def whole(self, size: int) -> int:
        """Two."""
        return 2


@dataclass(frozen=True)
class Corrupt:
    """One byte of the frame is another: that at `at` (negative: from the end), with the bits of `flip` changed."""

    at: int = 0
    flip: int = 0xFF

    def do(self, way: Way, data: bytes) -> None:
        """Change the byte, if the frame is so long, and send it on."""
        changed = bytearray(data)
        if -len(data) <= self.at < len(data):
            changed[self.at] ^= self.flip
        way.send(bytes(changed))

    def whole(self, size: int) -> int:
        """None: what arrives is something else."""
        return int(not -size <= self.at < size)


@dataclass(eq=False)
class Rule:
    """Which frames a fault strikes. All conditions that are given must hold; the first rule that does strikes alone.

    Attributes:
        fault: What is done.
        direction: "request", "reply", or "accept" (Cut, Delay and Stall, on connections before they are used).
        command: Only commands of these names, or the replies to them: "INCR", or several names with blanks between.
        when: Only frames for which this is true. It must not wait.
        connection: Only on the connection of this number, from 1.
        nth: Only the so-manieth, from 1, of those frames for which all above holds.
        every: Only each so-manieth of them.
        probability: Only so many of them, at random, by the proxy's seed.
        times: So often at most.
        seen: How many frames fulfilled the conditions up to `connection`.
        made: How often the fault was done.
    """

    fault: Fault
    direction: Direction = "reply"
    command: str = ""
    when: Callable[[Frame], object] | None = None
    connection: int | None = None
    nth: int | None = None
    every: int | None = None
    probability: float = 1.0
    times: int | None = None
    seen: int = field(default=0, init=False)
    made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.direction not in ("request", "reply", "accept"):
            raise ConfigError(f"a rule is for requests, replies or accept, not {self.direction!r}")
        if not callable(getattr(self.fault, "do", None)):  # the answers of fake nodes have a Delay, too
            raise ConfigError(f"{self.fault!r} is none of the faults of gvcluster.testing.faults")
        if not isinstance(self.command, str):
            raise ConfigError(f"a rule's commands are one text, with blanks between the names, not {self.command!r}")
        if any(each is not None and each < 1 for each in (self.nth, self.every)):
            raise ConfigError(f"nth and every count from 1: {self!r}")
        self._names = frozenset(self.command.upper().split())

    def strikes(self, frame: Frame, rng: random.Random) -> bool:
        """Whether the fault is to be done to this frame; counts it.

        Blocks:
            Never.
        """
        if self.times is not None and self.made >= self.times:
            return False
        if not self._is_about(frame):
            return False
        self.seen += 1
        strikes = self.nth in (None, self.seen) and self.seen % (self.every or 1) == 0
        if strikes and self.probability < 1.0:
            strikes = rng.random() < self.probability
        self.made += strikes
        return strikes

    def _is_about(self, frame: Frame) -> bool:
        return (
            frame.direction == self.direction
            and self.connection in (None, frame.connection)
            and (not self._names or frame.name in self._names)
            and (self.when is None or bool(self.when(frame)))
        )
