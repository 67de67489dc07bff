"""One shard of the demo's cluster: who serves it, since when it does not, and since when it does again."""

from __future__ import annotations

from gevent.event import Event

from gvcluster.core.address import Address


class Shard:
    """What the workers of a shard have in common. Times are on the monotonic clock.

    Attributes:
        tag: A hash tag whose slot the shard owns.
        primary: The node that serves it, as the last slot map says.
        epoch: Goes up whenever another node takes over, with what it has got by asynchronous replication: earlier
            values are legal then. A call that begins in an epoch is not answered by a node of the one before.
        answered: How many commands got their reply.
        killed_at: When its primary was sent SIGKILL.
        handed_over: The node that served it before it was told to hand it over.
        is_lost: Set when the connection to the killed primary has ended: all replies after it are its successor's.
        is_back: Set by the first of these.
    """

    def __init__(self, number: int, tag: str, primary: Address) -> None:
        self.number, self.tag, self.primary = number, tag, primary
        self.epoch = 0
        self.answered = 0
        self.killed: Address | None = None
        self.killed_at = self.back_at = 0.0
        self.is_lost, self.is_back = Event(), Event()
        self.handed_over: Address | None = None
        self._heirs = 0
        self._ordered: Address | None = None

    def __repr__(self) -> str:
        return f"<Shard {self.number} {self.primary} epoch {self.epoch}>"

    @property
    def is_out(self) -> bool:
        """Its primary was killed, and nobody has answered since."""
        return self.killed is not None and not self.is_back.is_set()

    def count(self, now: float) -> None:
        """Note a reply."""
        self.answered += 1
        if self.is_lost.is_set() and not self.is_back.is_set():
            self.back_at = now
            self.is_back.set()

    def kill(self, now: float) -> None:
        """Note that the primary is about to be killed."""
        self.killed, self.killed_at = self.primary, now

    def bury(self) -> None:
        """Note that the killed process is gone: whoever is asked from now on asks its successor."""
        self.epoch += 1

    def disconnected(self, address: Address) -> None:
        """Note that a connection has ended."""
        if address == self.killed:
            self.is_lost.set()

    def hand_over(self, heir: Address) -> None:
        """Note that the primary is about to be told to hand over to a replica: nothing may get lost."""
        self.handed_over, self._ordered = self.primary, heir

    def serve(self, primary: Address) -> bool:
        """Note what a slot map says. Returns whether it was a failover that nobody has ordered."""
        if primary == self.primary:
            return False
        self.primary = primary
        if primary == self._ordered:
            self._ordered = None
            return False
        self._heirs += 1
        if self.killed is not None and self._heirs == 1:
            return False
        self.epoch += 1
        return True
