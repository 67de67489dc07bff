"""gunicorn -k gevent as a process of its own, clients of it, and a graceful reload while they ask."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.parser import HeaderParser
from http.cookies import SimpleCookie
from pathlib import Path
from typing import NamedTuple

import gevent
import gevent.event
import gevent.socket
import gevent.subprocess

# Seconds: for a request, and for a process to begin or to end. Only what is stuck takes so long.
_REQUEST, _PROCESS = 60.0, 60.0
_TWO_WORKERS = ("-k", "gevent", "-w", "2", "--graceful-timeout", "10")


class Answer(NamedTuple):
    """What a request was answered."""

    status: int
    body: str


class Gunicorn:
    """A running gunicorn.

    Args:
        application: `module:name`, as gunicorn wants it, in `folder`.
        folder: Where the module is.
        log: The file for its output.
        environment: What its environment has besides ours.
        options: More arguments of its command line. It has two gevent workers, unless they name its settings (`-c`).
    """

    def __init__(
        self, application: str, folder: Path, log: Path, environment: Mapping[str, str], options: tuple[str, ...]
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        given = {**os.environ, "GEVENT_LOOP": "libev-cext", **environment}
        given["HOME"] = given["XDG_RUNTIME_DIR"] = str(log.parent)  # for its control socket
        command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{self.port}", "--chdir", str(folder)]
        workers = () if "-c" in options else _TWO_WORKERS
        with log.open("wb") as output:
            self.process = gevent.subprocess.Popen(
                [*command, *workers, *options, application], env=given, stdout=output, stderr=output, cwd=log.parent
            )

    def request(
        self, path: str, method: str = "GET", timeout: float = _REQUEST, cookies: dict[str, str] | None = None
    ) -> Answer:
        """Send a request over a connection of its own, and return what it is answered.

        Args:
            path: Begins with a slash.
            cookies: Are sent, and then are what the server has made of them.

        Raises:
            OSError: The connection was refused or reset, or closed without an answer.
        """
        cookies = {} if cookies is None else cookies
        sent = "Cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.items()) + "\r\n" if cookies else ""
        with gevent.Timeout(timeout):
            sock = gevent.socket.create_connection(("127.0.0.1", self.port))
            try:
                sock.sendall(f"{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n{sent}\r\n".encode())
                text = b""
                while chunk := sock.recv(65536):
                    text += chunk
            finally:
                sock.close()
        head, _, body = text.decode().partition("\r\n\r\n")
        status, _, headers = head.partition("\r\n")
        if not status.startswith("HTTP/1."):
            raise ConnectionError(f"no answer, but {text!r}")
        for header in HeaderParser().parsestr(headers).get_all("Set-Cookie", ()):
            cookies.update((name, morsel.value) for name, morsel in SimpleCookie(header).items())
        return Answer(int(status.split()[1]), body)

    def wait_serving(self, path: str) -> None:
        """Wait until it answers."""
        with gevent.Timeout(_PROCESS):
            while True:
                try:
                    self.request(path)
                    return
                except ConnectionRefusedError:
                    assert self.process.poll() is None, self.log.read_text()
                    gevent.sleep(0.02)

    def stop(self) -> int:
        """End it and its workers, gracefully at first."""
        self.process.terminate()
        try:
            return int(self.process.wait(timeout=_PROCESS))
        finally:
            if self.process.poll() is None:
                self.process.kill()


@contextmanager
def serving(
    application: str, folder: Path, environment: Mapping[str, str], *options: str, path: str = "/"
) -> Iterator[Gunicorn]:
    """A gunicorn that answers at the path; its log is shown when something fails, and must have no traceback."""
    with tempfile.TemporaryDirectory() as logs:
        gunicorn = Gunicorn(application, folder, Path(logs) / "log", environment, options)
        try:
            gunicorn.wait_serving(path)
            yield gunicorn
        except BaseException:
            print(gunicorn.log.read_text())
            raise
        finally:
            status = gunicorn.stop()
        log = gunicorn.log.read_text()
        assert status == 0, log
        assert "Traceback" not in log, log


def reload_under_load(gunicorn: Gunicorn, ask: Callable[[], int], clients: int = 10) -> tuple[set[int], set[int]]:
    """Send HUP while clients ask, one request after the other, until all workers are others.

    Args:
        ask: Sends a request, checks the answer and returns the pid of the worker. What it raises, is raised here.

    Returns:
        The pids of the workers before, and of those that answered afterwards.
    """
    enough, seen, counts = gevent.event.Event(), set(), [0]

    def load() -> None:
        while not enough.is_set():
            seen.add(ask())
            counts[0] += 1

    asking = [gevent.spawn(load) for _ in range(clients)]

    def wait_until(condition: Callable[[], bool]) -> None:
        while not condition():
            gevent.joinall([each for each in asking if each.ready()], raise_error=True)
            gevent.sleep(0.01)

    try:
        with gevent.Timeout(100):
            wait_until(lambda: len(seen) >= 2 and counts[0] >= 100)
            old = set(seen)
            os.kill(gunicorn.process.pid, signal.SIGHUP)
            wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in old))
            reached = counts[0]
            wait_until(lambda: counts[0] >= reached + 100)
        enough.set()
        gevent.joinall(asking, timeout=_REQUEST, raise_error=True)
    finally:
        gevent.killall(asking)
    return old, seen - old
