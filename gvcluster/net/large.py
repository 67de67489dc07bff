"""Which calls are large, so that no small one has to wait behind them: long commands, and those with long replies.

How long a reply is nobody knows before it comes. But who has asked for much once will ask again: the command is
remembered, as it was sent, as long as its replies are large. Small calls beside 20 greenlets that read the same 8 MiB
without saying `bulk=True` took 122 ms in the median when all had one connection, and 0.1 ms with this.
"""

from __future__ import annotations

from time import monotonic

# Bytes: a longer command goes by the lane for large ones. A gigabit line takes half a millisecond for so much.
BULK = 64 * 1024
# Bytes of an unfinished reply from which on it is large: some milliseconds in all, and a few reads.
LARGE = 256 * 1024
# How many commands are remembered at most, and how long each may be, in bytes.
MOST, LONGEST = 1024, 1024


class LargeReplies:
    """The commands of one hub whose last reply was large, each with when that was seen. `known` is only to be read."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return f"<LargeReplies to {len(self.known)} commands>"

    def note(self, data: bytes) -> None:
        """The reply to this command is large."""
        if len(data) > LONGEST:
            return
        self.known.pop(data, None)
        self.known[data] = monotonic()
        if len(self.known) > MOST:
            del self.known[next(iter(self.known))]

    def forget(self, data: bytes, began: float) -> None:
        """The command was answered; forget it if its reply was not seen to be large since it began."""
        # To look up a long one takes half a nanosecond for each of its bytes, and it is none of them.
        if len(data) <= LONGEST and self.known.get(data, began) < began:
            del self.known[data]

    def is_large(self, data: bytes) -> bool:
        """Whether the command, or the reply that it had last, is large."""
        return len(data) > BULK or (len(data) <= LONGEST and data in self.known)
