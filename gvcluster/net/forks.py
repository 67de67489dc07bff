"""The one hook for forks: in the child, before anything else runs there, every copy of a connection is let go.

The child has copies of the parent's greenlets, sockets, watchers and timers. Not one of them may speak to a node, or
run code of the user: the originals do. `HubLoop.abandon` says how. It works for `os.fork`, `gevent.os.fork` and
`multiprocessing` alike, for Python calls the hook in all of them.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Copied(Protocol):
    """Whatever must know that it is a copy now."""

    def _after_fork(self) -> None:
        """Runs in the child. Must not switch, wait, send, or touch anything that the parent shares."""


# Weak: who is collected needs no telling. A lock here could be held by another thread during the fork.
_EVERYBODY: WeakSet[Copied] = WeakSet()


def remember(somebody: Copied) -> None:
    """Have it told in a forked child."""
    _EVERYBODY.add(somebody)


def _in_child() -> None:
    for somebody in list(_EVERYBODY):
        somebody._after_fork()


os.register_at_fork(after_in_child=_in_child)
