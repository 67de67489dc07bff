"""Forking in tests: a child that tells what it has found, while its parent's hub stands still."""

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import gevent.os
from gevent.monkey import get_original

FORKS = {"os.fork": get_original("os", "fork"), "gevent.os.fork": gevent.os.fork_gevent}


def in_child(fork: Callable[[], int], run: Callable[[], object]) -> Any:
    """What `run` returns in a child. The hub of the parent stands still meanwhile."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(run()).encode())
        except BaseException as error:
            os.write(writing, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        readable = get_original("select", "select")([reading], [], [], 20)[0]
        if not readable:
            os.kill(pid, signal.SIGKILL)
        return json.loads(os.read(reading, 65536))
    finally:
        os.close(reading)
        get_original("os", "waitpid")(pid, 0)


def open_files() -> set[str]:
    """All that this process has open, as /proc names it."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass  # that of the listing itself
    return found
