"""The owner's handle on its watchdog process, which starts the servers and ends them whatever happens to the owner.

The watchdog is started with posix_spawn, and the servers by the watchdog: gevent.subprocess would install libev's
SIGCHLD handler, which reaps *every* child of the process, also those that a test has forked and wants to wait for.
The pipes are used through gevent.os, which belongs to no hub, so any thread may ask.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
import gevent.os
from gevent.lock import Semaphore

from gvcluster.testing.errors import LocalClusterError

_PROGRAM = Path(__file__).with_name("watchdog_child.py")
# What the watchdog does takes milliseconds, and the removal of large files under load a second or two.
_PATIENCE = 30.0


class WatchdogKilled(LocalClusterError):
    """Somebody has ended the watchdog."""


class Watchdog:
    """A running watchdog. Requests wait for their turn; a killed request leaves the others in order."""

    def __init__(self) -> None:
        self._turn = Semaphore(1)
        self._number = 0
        self._unread = b""
        self._owner = os.getpid()
        self._requests, self._answers, self.pid = _spawn(self._owner)
        try:
            self.folder = Path(self._read_answer(0))
        except BaseException:
            self._close()
            raise

    def __repr__(self) -> str:
        return f"<Watchdog pid={self.pid} of {self._owner}{'' if self.is_open else ' stopped'}>"

    def __del__(self) -> None:
        if self.__dict__.get("_requests", -1) >= 0 and os.getpid() == self._owner:
            warnings.warn(f"a LocalCluster was not stopped: {self!r}", ResourceWarning, stacklevel=2)
            self._close()

    @property
    def is_open(self) -> bool:
        """It was not stopped yet."""
        return self._requests >= 0

    @property
    def is_mine(self) -> bool:
        """False in a forked child, which must leave its parent's servers alone."""
        return os.getpid() == self._owner

    def start(self, arguments: list[str], folder: Path, log: Path) -> int:
        """Start a server in `folder`, its output appended to `log`, and return its pid."""
        pid: int = self._ask("start", {"arguments": arguments, "folder": str(folder), "log": str(log)})
        return pid

    def signal(self, pid: int, number: int) -> None:
        """Send a signal; SIGKILL and SIGSTOP have worked on return. A server that has ended gets none."""
        self._ask("signal", {"pid": pid, "number": int(number)})

    def exit_codes(self) -> dict[int, int]:
        """The exit codes, by pid, of the servers that have ended."""
        return {int(pid): code for pid, code in self._ask("exit_codes").items()}

    def stop(self) -> None:
        """End the servers, remove their folder, and reap the watchdog."""
        try:
            self._ask("stop")
        except WatchdogKilled:
            # The kernel has killed the servers with it.
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._close()
            self._reap()

    def _ask(self, what: str, arguments: Mapping[str, Any] | None = None) -> Any:
        if not self.is_mine:
            raise LocalClusterError(f"the servers belong to process {self._owner}, from which this one was forked")
        with self._turn:
            if not self.is_open:
                raise LocalClusterError("the cluster is stopped")
            self._number += 1
            number = self._number
            try:
                gevent.os.nb_write(
                    self._requests, json.dumps({"id": number, "do": what, **(arguments or {})}).encode() + b"\n"
                )
            except BrokenPipeError:
                raise self._death() from None
            return self._read_answer(number)

    def _read_answer(self, number: int) -> Any:
        while True:
            answer = json.loads(self._read_line())
            # A request that was killed while it waited has left its answer here.
            if answer["id"] == number:
                break
        if "error" in answer:
            raise LocalClusterError(f"the watchdog (pid {self.pid}) could not do it: {answer['error']}")
        return answer["value"]

    def _read_line(self) -> bytes:
        with gevent.Timeout(_PATIENCE, LocalClusterError(f"the watchdog (pid {self.pid}) does not answer")):
            while b"\n" not in self._unread:
                chunk = gevent.os.nb_read(self._answers, 65536)
                if not chunk:
                    raise self._death()
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _death(self) -> WatchdogKilled:
        return WatchdogKilled(f"the watchdog (pid {self.pid}) was killed, and the servers with it")

    def _close(self) -> None:
        descriptors = (self._requests, self._answers)
        self._requests = self._answers = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def _reap(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    return
            except ChildProcessError:  # Somebody who waits for every child was faster.
                return
            gevent.sleep(0.002)


def _spawn(owner: int) -> tuple[int, int, int]:
    """Start the program in a session of its own, so that the terminal's Ctrl-C does not reach it."""
    its_requests, requests = os.pipe()
    answers, its_answers = os.pipe()
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", str(_PROGRAM), str(owner), tempfile.gettempdir()],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, its_requests, 0),
                (os.POSIX_SPAWN_DUP2, its_answers, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,
        )
    except BaseException:
        os.close(requests)
        os.close(answers)
        raise
    finally:
        os.close(its_requests)
        os.close(its_answers)
    gevent.os.make_nonblocking(requests)
    gevent.os.make_nonblocking(answers)
    return requests, answers, pid
