"""Recorder: what was sent how often, as the wire has it. No client can talk itself out of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

Token = Callable[[tuple[bytes, ...]], Hashable]

# After one of these the server has not executed the command (but for scripts, whose text may say anything).
_REFUSALS = frozenset(
    "MOVED ASK TRYAGAIN CLUSTERDOWN LOADING MASTERDOWN NOAUTH NOPERM OOM MISCONF NOREPLICAS BUSY CROSSSLOT READONLY"
    " UNBLOCKED".split()
)
_SCRIPTS = frozenset("EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO".split())


def whole_command(command: tuple[bytes, ...]) -> Hashable:
    """The token of a command by default: all of it, so that commands are counted together only if they are the same.

    Blocks:
        Never.
    """
    return (command[0].upper(), *command[1:])


class Recorder:
    """Counts whole command frames by token, whatever segments they come in.

    A command that must not run twice has been sent at most once more often than the server has refused it:
    `recorder.sent[token] <= 1 + recorder.refused[token]`. That shows a double send even where the server lost the
    first. One recorder may serve many proxies. A token that is None is not counted. Any thread may read the counts.

    Args:
        token: What a command is counted as, e.g. `lambda command: command[-1] if command[0] == b"RPUSH" else None`. By
            default all its words, with the name in capitals; that keeps every command in memory.

    Attributes:
        sent: Token → how many whole frames have come from clients, also those that a fault kept from the server.
        forwarded: Token → how many of them were passed on whole.
        refused: Token → how many replies said that the command was not executed (MOVED, TRYAGAIN …; not for scripts).
    """

    def __init__(self, token: Token = whole_command) -> None:
        self._token = token
        self.sent: Counter[Hashable] = Counter()
        self.forwarded: Counter[Hashable] = Counter()
        self.refused: Counter[Hashable] = Counter()

    def __repr__(self) -> str:
        return f"<Recorder sent={self.sent.total()} forwarded={self.forwarded.total()} refused={self.refused.total()}>"

    def count(self, *command: str | bytes) -> int:
        """How often this very command was sent, by the default token: `recorder.count("INCR", "k")`.

        Blocks:
            Never.
        """
        return self.sent[whole_command(tuple(word.encode() if isinstance(word, str) else word for word in command))]

    def clear(self) -> None:
        """Begin again.

        Blocks:
            Never.
        """
        for counts in (self.sent, self.forwarded, self.refused):
            counts.clear()

    def note_sent(self, command: tuple[bytes, ...], whole: int) -> None:
        """A client sent it whole, and so many copies of it go on to the server.

        Blocks:
            Never.
        """
        token = self._token(command)
        if token is not None:
            self.sent[token] += 1
            self.forwarded[token] += whole

    def note_reply(self, command: tuple[bytes, ...], reply: bytes) -> None:
        """The server answered it.

        Blocks:
            Never.
        """
        if reply[:1] != b"-" or command[0].decode("latin-1").upper() in _SCRIPTS:
            return
        if reply[1:32].partition(b" ")[0].strip().decode("latin-1") in _REFUSALS:
            token = self._token(command)
            if token is not None:
                self.refused[token] += 1
