"""What a connection has read of a reply that is not complete: the parser keeps all of it, unless we end it.

hiredis has no limits, and does not tell how far it has come. What can be counted from outside is the bytes since the
last complete reply. A line without an end is worse than its size: at each read the parser looks through all of it
again, 4 s for 64 MiB (facts: F57). A string of known length costs nothing to wait for; so who is slow is a line.
"""

from __future__ import annotations

from time import perf_counter

from gvcluster.core.resp import ReplyReader

# Bytes without a newline: from here on it is looked which of the two it is. To come so far costs 10 ms.
LONG_LINE = 4 * 2**20
# Seconds that the parser takes to say "not enough": 0.2 µs for a string, 200 µs and more for a line this long. The
# best of five, so that nothing else that the machine does can make the one look like the other.
SLOW, LOOKS = 50e-6, 5


class Hoard:
    """The unfinished reply of one connection. `size`: its bytes so far, to the nearest read; set to 0 at its end."""

    __slots__ = ("_line", "_reader", "size")

    def __init__(self, reader: ReplyReader) -> None:
        self.size = 0
        self._line = 0  # bytes since the last newline, or more, as long as the reply is no longer than LONG_LINE
        self._reader = reader

    def __repr__(self) -> str:
        return f"<Hoard of {self.size} bytes>"

    @property
    def most(self) -> float:
        """How many bytes a reply may have, come or announced."""
        return self._reader.announced.most

    @most.setter
    def most(self, most: float) -> None:
        self._reader.announced.most = most

    def objection(self, data: bytearray, count: int) -> str | None:
        """Take a read of so many bytes, which completed no reply. Returns what is wrong, if anything is."""
        self.size += count
        if self.size > self.most:
            return f"a reply of more than {self.most:,} bytes: see the option max_reply_bytes"
        if self.size <= LONG_LINE:  # so is the line: to look for its beginning takes as long as to read it
            self._line = self.size
            return None
        last_newline = data.rfind(b"\n", 0, count)
        self._line = count - last_newline - 1 if last_newline >= 0 else self._line + count
        if self._line > LONG_LINE and min(self._look() for _ in range(LOOKS)) > SLOW:
            return "a line without an end"
        return None

    def _look(self) -> float:
        began = perf_counter()
        self._reader.gets()
        return perf_counter() - began
