"""Fake nodes in a thread of their own, for tests that fork, or that hold their own hub."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.hub import get_hub
from gevent.monkey import get_original

from gvcluster.testing import FakeCluster


class FakeThread:
    """Runs a FakeCluster beside the test's hub. A forked child has no copy of the nodes: threads are not copied."""

    def __init__(self, nodes: int) -> None:
        self.fake = FakeCluster(nodes)
        self._begun = get_original("threading", "Event")()
        self._over = Event()
        self._hub: Any = None
        self._run_result = gevent.get_hub().threadpool.spawn(self._run)
        assert self._begun.wait(10)

    def _run(self) -> None:
        self._hub = get_hub()
        with self.fake:
            self._begun.set()
            self._over.wait()

    def stop(self) -> None:
        """End the nodes; raises what they met."""
        self._hub.loop.run_callback_threadsafe(self._over.set)
        self._run_result.get(timeout=10)


@pytest.fixture
def distant_fake() -> Iterator[FakeCluster]:
    """Three fake nodes in another thread."""
    thread = FakeThread(3)
    yield thread.fake
    thread.stop()
