"""What was received and nobody has taken yet: bounded, in order, and with a Gap where something had to be dropped."""

from __future__ import annotations

from collections import deque

from gvcluster.core.subscriptions import Gap, Key, Message, gap, key_of

# What a message takes besides its own bytes, roughly: the objects around them.
_OVERHEAD = 200


class Inbox:
    """Messages and Gaps, oldest first. When it is full the oldest make room, and a Gap stands in their place.

    To stop reading instead would only move the problem: the server cuts off who does not read, and by then the loss is
    greater, nobody can count it, and confirmations and the replies to PING are stuck behind the messages.
    """

    def __init__(self, most_messages: int, most_bytes: int) -> None:
        self._most_messages, self._most_bytes = most_messages, most_bytes
        self._items: deque[tuple[Message | Gap, float]] = deque()  # and when they came
        self._bytes = 0
        # Of what was dropped since the last Gap was taken: subscriptions, first and last time, and the number.
        self._dropped: dict[Key, None] = {}
        self._since = self._until = 0.0
        self._count = 0

    def __len__(self) -> int:
        return len(self._items) + bool(self._dropped)

    def put(self, message: Message, now: float) -> None:
        """Take in a message. `now` is in seconds like `time.time()`."""
        self._items.append((message, now))
        self._bytes += _size(message)
        self._make_room()

    def put_gap(self, new: Gap) -> None:
        """Take in a Gap. With one of the same reason that is the youngest item, it becomes one."""
        youngest = self._items[-1][0] if self._items else None
        if isinstance(youngest, Gap) and youngest.reason == new.reason:
            self._items.pop()
            since = min(youngest.since, new.since)
            until = max(youngest.since + youngest.seconds, new.since + new.seconds)
            new = gap([*youngest.keys, *new.keys], since, until, new.reason)
        self._items.append((new, new.since + new.seconds))
        self._make_room()

    def take(self) -> Message | Gap | None:
        """Take out the oldest. None if there is nothing."""
        if self._dropped:
            taken = gap(self._dropped, self._since, self._until, self._why(), self._count)
            self._dropped, self._count = {}, 0
            return taken
        if not self._items:
            return None
        oldest, _ = self._items.popleft()
        self._bytes -= _size(oldest)
        return oldest

    def _why(self) -> str:
        return f"nobody took the messages in time: {len(self._items):,} waited already"

    def _make_room(self) -> None:
        items = self._items
        while len(items) > self._most_messages or (self._bytes > self._most_bytes and len(items) > 1):
            oldest, came = items.popleft()
            self._bytes -= _size(oldest)
            if isinstance(oldest, Gap):
                self._note(oldest.keys, oldest.since, came)
            else:
                self._note([key_of(oldest)], came, came)
                self._count += 1

    def _note(self, keys: list[Key], since: float, until: float) -> None:
        self._since = min(since, self._since) if self._dropped else since
        self._until = until
        self._dropped.update(dict.fromkeys(keys))


def _size(item: Message | Gap) -> int:
    if isinstance(item, Gap):
        return 0
    return _OVERHEAD + len(item.channel) + len(item.data)
