"""What a key may hold: the demo's memory of its own writes, against which it checks each reply. Pure.

A token carries the run, the worker, the key and the number of the write, again and again up to a length of its own, so
that each part of it and even its length betray a reply that belongs to somebody else. To a parser that has lost its
place, a part that begins with `|` is an attribute of RESP3.

After a failover a key may hold an *earlier* value: the servers replicate asynchronously, and what the killed primary
had acknowledged but not passed on is lost. That is no wrong reply; it is counted as what it is. An epoch is a shard's
number of failovers: an earlier value is legal once after each.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator


class Register:
    """A key that one worker alone writes, a new token each time. Write 0 means that the key does not exist."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known = 0  # the write that was seen last, or acknowledged
        self.open: set[int] = set()  # writes that failed, and may have run or may still run
        self._written = 0
        self._epoch = 0  # when `known` was learnt
        self._held: bytes | None = None  # the token of `known`

    def __repr__(self) -> str:
        return f"<Register {self.name} holds {self.known}, or one of {sorted(self.open)}>"

    def token(self, write: int) -> bytes | None:
        """The value of a write, 40 to 139 bytes long."""
        if write == 0:
            return None
        unit = f"{self.name}:{write}|".encode()
        length = 40 + zlib.crc32(unit) % 100
        return (unit * (length // len(unit) + 1))[:length]

    def next_write(self) -> int:
        """The number of the next write."""
        self._written += 1
        return self._written

    def acknowledge(self, write: int, began: int) -> None:
        """A write that began in the epoch `began` has succeeded."""
        self.known, self._held = write, self.token(write)
        self._epoch = max(self._epoch, began)

    def doubt(self, write: int) -> None:
        """A write has failed and may have run, or may still run."""
        self.open.add(write)

    def observe(self, value: object, began: int, epoch: int) -> int | None:
        """Compare a value that was read.

        Args:
            value: The whole value.
            began: The shard's epoch when the call began.
            epoch: The epoch now.

        Returns:
            How many acknowledged writes the servers have lost; None if the value is none that the key may hold.
        """
        seen = next((write for write in self._legal(epoch) if self._is(write, value)), None)
        if seen is None:
            return None
        lost = 0
        if seen in self.open:
            self.open.discard(seen)
        elif seen < self.known:
            lost = self.known - seen - sum(seen < write < self.known for write in self.open)
        self.acknowledge(seen, began)
        return lost

    def fits(self, test: Callable[[bytes], bool], epoch: int) -> bool:
        """Whether a value that the key may hold passes the test, for replies that show only a part of it."""
        return any(test(self.token(write) or b"") for write in self._legal(epoch))

    def _legal(self, epoch: int) -> Iterator[int]:
        yield self.known
        yield from tuple(self.open)
        if epoch > self._epoch:
            yield from range(self.known - 1, -1, -1)

    def _is(self, write: int, value: object) -> bool:
        return value == (self._held if write == self.known else self.token(write))


class Counter:
    """A number that one worker alone increments, far away from the numbers of all others."""

    def __init__(self, start: int) -> None:
        self.start = self.known = start
        self.open = 0  # increments that failed, and may have run or may still run
        self._epoch = 0

    def __repr__(self) -> str:
        return f"<Counter at {self.known}, or up to {self.open} more>"

    def doubt(self) -> None:
        """An increment has failed and may have run, or may still run."""
        self.open += 1

    def observe(self, value: object, began: int, epoch: int, *, incremented: int = 0) -> int | None:
        """Compare a number that was read, or that an increment has answered; as `Register.observe`."""
        if type(value) is not int:
            return None
        expected = self.known + incremented
        lost = max(0, expected - value)
        if lost and not (epoch > self._epoch and value >= self.start + incremented):
            return None
        if value > expected + self.open:
            return None
        self.open -= max(0, value - expected)
        self.known, self._epoch = value, max(self._epoch, began)
        return lost
