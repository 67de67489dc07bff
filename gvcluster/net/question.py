"""What was asked over a subscribed connection and is not answered yet."""

from __future__ import annotations

from time import monotonic

from gvcluster.core.subscriptions import Key
from gvcluster.errors import ReplyError


class Question:
    """A command. `awaited`: the subscriptions whose confirmation is owed; a PING has none."""

    __slots__ = ("awaited", "is_subscribing", "keys", "sent", "word")

    def __init__(self, keys: list[Key], is_subscribing: bool, word: str) -> None:
        self.keys, self.is_subscribing, self.word = keys, is_subscribing, word
        self.awaited = set(keys)
        self.sent = monotonic()

    def wants_other_word(self, error: ReplyError) -> bool:
        """Whether it was refused by a Garnet, to which shard channels are channels that UNSUBSCRIBE ends.

        Left alone, it would go on sending what nobody wants. The error is that of an unknown command, or in RESP2 that
        a subscriber may not send it.
        """
        return self.word == "SUNSUBSCRIBE" and error.code == "ERR"
