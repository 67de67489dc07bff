"""Ctrl-C and SIGTERM, for a command that has to clean up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import gevent


@contextmanager
def signals_to_this_greenlet() -> Iterator[None]:
    """Ctrl-C and SIGTERM end this greenlet, which cleans up, and not whatever happens to run when they come."""
    here = gevent.getcurrent()
    wanted = {signal.SIGINT: KeyboardInterrupt(), signal.SIGTERM: SystemExit(128 + signal.SIGTERM)}
    before = {number: signal.getsignal(number) for number in wanted}
    watchers = [gevent.signal_handler(number, gevent.kill, here, error) for number, error in wanted.items()]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
