"""What the tests of Flask's world share: their libraries, work that goes on meanwhile, and a primary that is killed."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import gevent
import pytest

from gvcluster.testing import LocalCluster


def need(*libraries: str) -> None:
    """Leave a module of tests out where a library is missing, unless this run is there for them."""
    for library in libraries:
        if "GVCLUSTER_TEST_CONTRIB" in os.environ:
            importlib.import_module(library)
        else:
            pytest.importorskip(library, reason=f"{library} is not installed: tox -e contrib has it")


class Load:
    """Greenlets that call a function with one of their keys, one call after the other.

    Args:
        call: The function.
        workers: How many greenlets.
        keys: How many keys each has; all of them together should be in all shards.

    Attributes:
        ended: (key, value) of each call that returned.
        errors: What the others have raised.
    """

    def __init__(self, call: Callable[[str], Any], workers: int, keys: int) -> None:
        self._call, self._keys = call, keys
        self._going = True
        self._calls = [0] * workers  # how many each has made
        self.ended: list[tuple[str, Any]] = []
        self.errors: list[Exception] = []
        self._greenlets = [gevent.spawn(self._work, number) for number in range(workers)]

    def _work(self, number: int) -> None:
        for turn in count():
            if not self._going:
                return
            key = f"worker{number}:{turn % self._keys}"
            try:
                self.ended.append((key, self._call(key)))
            except Exception as error:
                self.errors.append(error)
            self._calls[number] += 1
            gevent.sleep(0)

    def wait_round(self, timeout: float = 60.0) -> None:
        """Wait until each of them has been through all its keys once more."""
        before = list(self._calls)
        with gevent.Timeout(timeout):
            while any(now - then <= self._keys for now, then in zip(self._calls, before, strict=True)):
                gevent.sleep(0.01)

    def stop(self) -> None:
        """Let the calls that are under way end."""
        self._going = False
        gevent.joinall(self._greenlets, timeout=60, raise_error=True)
        assert all(greenlet.ready() for greenlet in self._greenlets), "a call is stuck"


@contextmanager
def through_a_failover(
    cluster: LocalCluster, call: Callable[[str], Any], workers: int = 8, keys: int = 24
) -> Iterator[Load]:
    """Kill a primary while the function is called, and go on until its successor serves. Then the node comes back."""
    load = Load(call, workers, keys)
    try:
        load.wait_round()
        victim = cluster.primaries()[0]
        cluster.kill(victim)
        load.wait_round()
        assert victim not in cluster.primaries()
        cluster.restart(victim)
        cluster.wait_until_agreed()
        load.wait_round()
    finally:
        load.stop()
    yield load


def eventually(check: Callable[[], bool], timeout: float = 60.0) -> None:
    """Wait until it is true."""
    with gevent.Timeout(timeout):
        while not check():
            gevent.sleep(0.02)
