"""gunicorn -k gevent serves an application whose Cluster is made at import, before anything is forked or patched."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import gevent
import pytest
from gunicorn_server import Gunicorn, reload_under_load, serving

from gvcluster.testing import LocalCluster

HERE = Path(__file__).parent
SERVER = "valkey-9.1.2"
TOKENS = itertools.count()


@pytest.fixture(scope="module")
def seeds() -> Iterator[str]:
    """Where a cluster of three primaries is."""
    with LocalCluster(SERVER, primaries=3, replicas=0) as cluster:
        yield cluster.seeds


def served(seeds: str, *options: str) -> AbstractContextManager[Gunicorn]:
    """A gunicorn that serves gunicorn_app.py."""
    return serving("gunicorn_app:app", HERE, {"GVCLUSTER_TEST_SEEDS": seeds}, *options, path="/first")


def ask(gunicorn: Gunicorn) -> tuple[int, int]:
    """Send a token of its own. Returns the worker's pid, and that of the process which imported the app."""
    token = f"t{next(TOKENS)}"
    answer = gunicorn.request(f"/{token}")
    assert answer.status == 200, answer
    value, worker, imported_in = answer.body.split()
    assert value == token
    return int(worker), int(imported_in)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_both_workers_serve_and_every_request_reads_its_own_token(seeds, preload):
    with served(seeds, *["--preload"] * preload) as gunicorn:
        answers: list[tuple[int, int]] = []

        def client() -> None:
            asked = 0
            while asked < 20 or len({worker for worker, _ in answers}) < 2:  # the second one may begin late
                answers.append(ask(gunicorn))
                asked += 1

        clients = [gevent.spawn(client) for _ in range(20)]
        gevent.joinall(clients, timeout=60, raise_error=True)
        assert all(each.ready() for each in clients)
        workers = {worker for worker, _ in answers}
        assert len(workers) == 2
        if preload:
            assert {imported_in for _, imported_in in answers} == {gunicorn.process.pid}
        else:
            assert all(worker == imported_in for worker, imported_in in answers)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_a_graceful_reload_under_load_fails_not_one_request(seeds, preload):
    with served(seeds, *["--preload"] * preload) as gunicorn:
        before, after = reload_under_load(gunicorn, lambda: ask(gunicorn)[0])
        assert len(before) == 2
        assert after
