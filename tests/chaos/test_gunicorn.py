"""gunicorn -k gevent serves an application whose Cluster is made at import, before anything is forked or patched."""

import itertools
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import gevent.event
import gevent.socket
import gevent.subprocess
import pytest

from gvcluster.testing import LocalCluster

HERE = Path(__file__).parent
SERVER = "valkey-9.1.2"


@pytest.fixture(scope="module")
def seeds() -> Iterator[str]:
    """Where a cluster of three primaries is."""
    with LocalCluster(SERVER, primaries=3, replicas=0) as cluster:
        yield cluster.seeds


class Gunicorn:
    """A running gunicorn with two workers."""

    def __init__(self, seeds: str, log: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        self._tokens = itertools.count()
        environment = {**os.environ, "GVCLUSTER_TEST_SEEDS": seeds, "GEVENT_LOOP": "libev-cext"}
        environment["HOME"] = environment["XDG_RUNTIME_DIR"] = str(log.parent)  # for its control socket
        command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", f"127.0.0.1:{self.port}"]
        with log.open("wb") as output:
            self.process = gevent.subprocess.Popen(
                [*command, "--chdir", str(HERE), "--graceful-timeout", "10", *options, "gunicorn_app:app"],
                env=environment,
                stdout=output,
                stderr=output,
            )

    def request(self) -> tuple[int, int]:
        """Send a token of its own. Returns the worker's pid, and that of the process which imported the app."""
        token = f"t{next(self._tokens)}"
        with gevent.Timeout(10):
            sock = gevent.socket.create_connection(("127.0.0.1", self.port))
            try:
                sock.sendall(f"GET /{token} HTTP/1.0\r\n\r\n".encode())
                text = b""
                while chunk := sock.recv(65536):
                    text += chunk
            finally:
                sock.close()
        head, _, body = text.decode().partition("\r\n\r\n")
        assert " 200 OK" in head, text
        value, worker, imported_in = body.split()
        assert value == token
        return int(worker), int(imported_in)

    def wait_serving(self) -> None:
        """Wait until it answers."""
        with gevent.Timeout(20):
            while True:
                try:
                    self.request()
                    return
                except ConnectionRefusedError:
                    assert self.process.poll() is None, self.log.read_text()
                    gevent.sleep(0.02)

    def load(self, workers: set[int], counts: list[int], until: gevent.event.Event) -> None:
        """Send one request after the other until told to end."""
        while not until.is_set():
            workers.add(self.request()[0])
            counts[0] += 1

    def stop(self) -> int:
        """End it and its workers, gracefully at first."""
        self.process.terminate()
        try:
            return int(self.process.wait(timeout=20))
        finally:
            if self.process.poll() is None:
                self.process.kill()


@contextmanager
def serving(seeds: str, *options: str) -> Iterator[Gunicorn]:
    """A gunicorn that answers; its log is shown when something fails."""
    with tempfile.TemporaryDirectory() as folder:
        gunicorn = Gunicorn(seeds, Path(folder) / "log", *options)
        try:
            gunicorn.wait_serving()
            yield gunicorn
        except BaseException:
            print(gunicorn.log.read_text())
            raise
        finally:
            status = gunicorn.stop()
        log = gunicorn.log.read_text()
        assert status == 0, log
        assert "Traceback" not in log, log


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_both_workers_serve_and_every_request_reads_its_own_token(seeds, preload):
    with serving(seeds, *["--preload"] * preload) as gunicorn:
        answers: list[tuple[int, int]] = []

        def client() -> None:
            for _ in range(20):
                answers.append(gunicorn.request())

        gevent.joinall([gevent.spawn(client) for _ in range(20)], timeout=60, raise_error=True)
        assert len(answers) == 400
        workers = {worker for worker, _ in answers}
        assert len(workers) == 2
        if preload:
            assert {imported_in for _, imported_in in answers} == {gunicorn.process.pid}
        else:
            assert all(worker == imported_in for worker, imported_in in answers)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_a_graceful_reload_under_load_fails_not_one_request(seeds, preload):
    with serving(seeds, *["--preload"] * preload) as gunicorn:
        enough, before, counts = gevent.event.Event(), set(), [0]
        clients = [gevent.spawn(gunicorn.load, before, counts, enough) for _ in range(10)]
        with gevent.Timeout(60):
            while len(before) < 2 or counts[0] < 100:
                gevent.sleep(0.01)
            old = set(before)
            os.kill(gunicorn.process.pid, signal.SIGHUP)
            while any(Path(f"/proc/{worker}").exists() for worker in old):
                gevent.sleep(0.01)
            reached = counts[0]
            while counts[0] < reached + 100:
                gevent.sleep(0.01)
        enough.set()
        gevent.joinall(clients, timeout=30, raise_error=True)
        after = before - old
        assert len(old) == 2
        assert after
