"""Real Celery workers, and an app that speaks to them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from gvcluster.testing import LocalCluster

# tox -e contrib sets it: there a missing Celery is a failure.
if importlib.util.find_spec("celery") is None and "GVCLUSTER_TEST_CONTRIB" not in os.environ:
    pytest.skip("Celery is not installed: pip install 'gvcluster[celery]'", allow_module_level=True)

HERE = Path(__file__).parent
# Seconds for whatever has no bound of its own, on a machine that does other things at the same time.
PATIENCE = 60.0


def broker(server: str) -> LocalCluster:
    """One server, which Celery's own transport takes for a single one."""
    return LocalCluster(server, primaries=1, replicas=0)


def eventually(condition: Callable[[], object], what: str, within: float = PATIENCE) -> None:
    """Wait until it is true."""
    ends = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends, f"{what}: not in {within:g} s"
        time.sleep(0.05)


class Office:
    """A folder for logs and marks, and the environment of all processes that share a broker and a backend."""

    def __init__(
        self, folder: Path, broker: LocalCluster, backend: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.backend = folder, backend
        for primary in broker.primaries():
            primary.command("FLUSHALL")
        self.workers: list[Worker] = []
        self.environment = {
            **os.environ,
            "GVCLUSTER_TEST_FOLDER": str(folder),
            "GVCLUSTER_TEST_BROKER": f"redis://{broker.seeds}/0",
            "GVCLUSTER_TEST_BACKEND": backend,
            "GVCLUSTER_TEST_SETTINGS": json.dumps(dict(settings or {})),
            "PYTHONWARNINGS": "default",
        }

    @property
    def bodies(self) -> list[str]:
        """The ids of the bodies that have run, each as often as it has."""
        path = self.folder / "bodies"
        return path.read_text().split() if path.exists() else []

    @contextmanager
    def worker(self, pool: str, *options: str, concurrency: int = 2) -> Iterator["Worker"]:
        """A worker that is ready. Its log is shown when something fails."""
        worker = Worker(self, pool, concurrency, options)
        try:
            worker.wait_ready()
            yield worker
        except BaseException:
            print(worker.log.read_text())
            raise
        finally:
            worker.kill()

    def run(self, script: str, *arguments: str, patched: bool = False) -> str:
        """Run a script of this folder in a process of its own. Returns what it printed."""
        way = ["-m", "gevent.monkey"] if patched else []
        done = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", *way, str(HERE / script), *arguments],
            env={**self.environment, "PYTHONPATH": _path()},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for word in ("Warning", "Traceback", "not pushed"):
            assert word not in done.stderr, done.stderr
        return done.stdout


def _path() -> str:
    return os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])


class Worker:
    """`celery worker` as its users start it."""

    def __init__(self, office: Office, pool: str, concurrency: int, options: tuple[str, ...]) -> None:
        self.log = office.folder / f"worker-{pool}-{time.monotonic_ns()}.log"
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-P", pool, "-c", str(concurrency)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "-l", "INFO", *quiet, *options],
                env={**office.environment, "PYTHONPATH": _path()},
                cwd=office.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_ready(self) -> None:
        """Wait until it takes tasks."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.text
            return " ready." in self.text

        eventually(is_ready, "the worker is ready")

    def kill(self) -> None:
        """End it and its children at once, if they have not ended yet."""
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass
        self.process.wait()


@contextmanager
def tasks_of(office: Office) -> Iterator[ModuleType]:
    """The module of the tasks as a client of the office has it. Its backend is closed at the end."""
    spec = importlib.util.spec_from_file_location("celery_app", HERE / "celery_app.py")
    assert spec is not None
    assert spec.loader is not None
    tasks = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, office.environment):
        spec.loader.exec_module(tasks)
    try:
        yield tasks
    finally:
        tasks.app.backend.close()
        tasks.app.close()


class Made:
    """An app whose tasks run at once, in this process."""

    def __init__(self, url: str, **conf: Any) -> None:
        from celery import Celery

        self.app = Celery("test", set_as_current=False)
        self.app.conf.update(result_backend=url, task_always_eager=True, task_store_eager_result=True, **conf)
        self.bodies: list[Any] = []

        def body(results: Any) -> None:
            self.bodies.append(results)

        self.body = self.app.task(name="body", shared=False)(body)
        self.backend = self.app.backend

    def chord_begins(self, gid: str, size: int) -> None:
        self.backend.apply_chord((gid, []), self.body.s())
        self.backend.set_chord_size(gid, size)

    def part(self, gid: str, tid: str, index: int, result: Any, state: str = "SUCCESS", body_id: str = "b1") -> None:
        body = self.body.s().set(task_id=body_id)
        request = SimpleNamespace(id=tid, group=gid, group_index=index, chord=body)
        self.backend.on_chord_part_return(request, state, result)

    def ttl(self, key: bytes) -> int:
        """Seconds that a key has left; -1: it lives for ever, -2: there is none."""
        return self.backend.client.execute("TTL", key)


@contextmanager
def apps(cluster: LocalCluster) -> Iterator[Callable[..., Made]]:
    """Makes such apps, over an empty cluster. They are closed at the end."""
    made: list[Made] = []
    for primary in cluster.primaries():
        primary.command("FLUSHALL")

    def new(url: str = f"gvcluster://{cluster.seeds}", **conf: Any) -> Made:
        made.append(Made(url, **conf))
        return made[-1]

    yield new
    for each in made:
        each.backend.close()


def rights() -> list[str]:
    """The rights of a worker's user, as docs/celery.md names them."""
    page = (HERE.parents[1] / "docs" / "celery.md").read_text()
    found = re.search(r"ACL SETUSER worker on >secret (.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1].replace("\\\n", " ").split()
