"""Real Celery workers, of each pool, with results in a real cluster."""

import json
import re
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from celery_support import HERE, PATIENCE, Office, Worker, broker, tasks_of

from gvcluster.testing import LocalCluster

POOLS = ("gevent", "prefork", "threads")


@pytest.fixture(scope="module")
def cluster(any_server: str) -> Iterator[LocalCluster]:
    with LocalCluster(any_server, replicas=0) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def queue(any_server: str) -> Iterator[LocalCluster]:
    with broker(any_server) as queue:
        yield queue


@pytest.fixture(scope="module", params=POOLS)
def office(
    request: pytest.FixtureRequest, cluster: LocalCluster, queue: LocalCluster, tmp_path_factory: Any
) -> Iterator[Office]:
    """A worker of each pool in turn, for all tests of this file."""
    # The default user takes any password.
    backend = f"gvcluster://default:very-secret@{cluster.seeds}"
    office = Office(tmp_path_factory.mktemp(request.param), queue, backend)
    with office.worker(request.param, concurrency=4) as worker:
        office.workers.append(worker)
        yield office


@pytest.fixture
def worker(office: Office) -> Worker:
    return office.workers[0]


@pytest.fixture(scope="module")
def tasks(office: Office) -> Iterator[ModuleType]:
    """The tasks, as a client calls them."""
    with tasks_of(office) as tasks:
        yield tasks


def test_a_result_arrives_and_is_pushed_not_polled(tasks, cluster):
    result = tasks.add.delay(1, 2)
    assert result.get(timeout=PATIENCE) == 3
    assert result.state == "SUCCESS"
    assert result.name.endswith("celery_app.add")
    slow = tasks.sleep.delay(4.0)
    before, began = looks(cluster), time.monotonic()
    assert slow.get(timeout=PATIENCE) == "rested"
    # One before the subscription, one after it, and the net every 10 s; polling would be two a second.
    assert looks(cluster) - before <= 3 + (time.monotonic() - began) / 10


def looks(cluster: LocalCluster) -> int:
    """How often results were asked for: by MGET, as workers do not."""
    told = [node.command("INFO", "commandstats").decode() for node in cluster.primaries()]
    return sum(int(calls) for text in told for calls in re.findall(r"cmdstat_mget:calls=(\d+)", text))


def test_the_snippet_of_the_page_waits_for_results(tasks):
    page = (HERE.parents[1] / "docs" / "celery.md").read_text()
    (snippet,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "delay" in each)
    exec(snippet, {"add": tasks.add, "total": tasks.total})


def test_a_failure_comes_as_its_exception(tasks):
    result = tasks.fail.delay("no")
    with pytest.raises(ValueError, match=r"^no$"):
        result.get(timeout=PATIENCE)
    assert result.state == "FAILURE"
    assert "ValueError: no" in result.traceback


def test_a_retried_task_tells_of_its_retries(tasks):
    result = tasks.third_time.delay()
    states: list[str] = []
    assert result.get(timeout=PATIENCE, on_message=lambda meta: states.append(meta["status"])) == 2
    assert states[-1] == "SUCCESS"
    assert set(states[:-1]) == {"RETRY"}


def test_a_revoked_task_says_so(tasks, office, worker):
    from celery.exceptions import TaskRevokedError

    result = tasks.sleep.apply_async((0.0,), countdown=2)
    tasks.app.backend.mark_as_revoked(result.id, "not needed")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=PATIENCE)
    assert result.state == "REVOKED"


def test_results_of_a_group_arrive_in_order_and_stream(tasks):
    import celery

    group = celery.group(tasks.noop.s(number) for number in range(60)).apply_async()
    assert {task_id for task_id, _ in group.iter_native(timeout=PATIENCE)} == {each.id for each in group}
    assert group.get(timeout=PATIENCE) == list(range(60))
    assert group.completed_count() == 60


def test_get_many_reads_over_all_slots(tasks):
    results = [tasks.noop.delay(number) for number in range(40)]
    found = dict(tasks.app.backend.get_many([each.id for each in results], timeout=PATIENCE))
    assert {task_id: meta["result"] for task_id, meta in found.items()} == {
        each.id: number for number, each in enumerate(results)
    }


def test_a_saved_group_is_restored(tasks):
    import celery

    group = celery.group(tasks.noop.s(number) for number in range(3)).apply_async()
    group.save()
    restored = tasks.app.GroupResult.restore(group.id)
    assert restored == group
    assert restored.get(timeout=PATIENCE) == [0, 1, 2]
    group.delete()
    assert tasks.app.GroupResult.restore(group.id) is None


def test_the_body_of_a_chord_runs_once(tasks, office):
    import celery

    results = [celery.chord((tasks.noop.s(n) for n in range(12)), tasks.total.s()).apply_async() for _ in range(5)]
    assert [each.get(timeout=PATIENCE) for each in results] == [66] * 5
    assert [office.bodies.count(each.id) for each in results] == [1] * 5


def test_a_chord_of_groups_keeps_its_structure(tasks):
    import celery

    inner = celery.chain(tasks.noop.si(0), celery.group(tasks.noop.si(1), tasks.noop.si(2)))
    result = celery.chord([inner, tasks.noop.s(3)], tasks.describe.s()).apply_async()
    assert result.get(timeout=PATIENCE) == "[[1, 2], 3]"


def test_a_chord_with_a_failure_in_its_header_fails_and_no_body_runs(tasks, office):
    import celery
    from celery.exceptions import ChordError

    header = [tasks.noop.s(1), tasks.fail.s("broken"), tasks.noop.s(2)]
    result = celery.chord(header, tasks.total.s()).apply_async()
    with pytest.raises(ChordError, match="broken"):
        result.get(timeout=PATIENCE, follow_parents=False)
    assert result.id not in office.bodies


def test_a_chord_may_grow(tasks, office):
    import celery

    result = celery.chord([tasks.grow.s(1), tasks.noop.s(2)], tasks.total.s()).apply_async()
    assert result.get(timeout=PATIENCE) == 4


def test_chains_with_groups_in_them_pass_their_results_on(tasks):
    import celery

    work = celery.chain(tasks.add.s(1, 1), celery.group(tasks.add.s(10), tasks.add.s(20)), tasks.total.s())
    assert work.apply_async().get(timeout=PATIENCE) == 34


def test_a_task_may_wait_for_others(tasks, office):
    assert tasks.sum_within.delay(3).get(timeout=PATIENCE) == 3


def test_a_result_of_more_than_a_mebibyte_arrives(tasks):
    group = [tasks.text_of.delay(3 * 2**20 + number) for number in range(3)]
    assert [len(each.get(timeout=PATIENCE)) for each in group] == [3 * 2**20 + number for number in range(3)]


def test_nobody_is_told_of_an_unknown_task(tasks):
    from celery.exceptions import TimeoutError

    result = tasks.app.AsyncResult("00000000-0000-0000-0000-000000000000")
    assert result.state == "PENDING"
    with pytest.raises(TimeoutError):
        result.get(timeout=0.3)


def test_what_was_forgotten_is_gone(tasks):
    result = tasks.add.delay(2, 2)
    assert result.get(timeout=PATIENCE) == 4
    result.forget()
    assert tasks.app.AsyncResult(result.id).state == "PENDING"


@pytest.mark.parametrize("office", ["gevent"], indirect=True)
@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_threads_greenlets_and_a_forked_child_wait_in_a_client(office, patched):
    found = json.loads(office.run("celery_client.py", patched=patched))
    assert found == {
        "first": 3,
        "threads": [2 * number for number in range(8)],
        "greenlets": [number + 1 for number in range(8)],
        "another": 6,
        "then": [21],
        "late": 6,
        "child": 0,
        "after": 7,
        "gevent": patched,
    }


def test_the_worker_ends_when_asked_to_and_its_log_shows_neither_warnings_nor_secrets(cluster, worker):
    worker.process.terminate()
    assert worker.process.wait(timeout=PATIENCE) == 0
    assert f"gvcluster://default:**@{cluster.seeds}" in worker.text
    assert "very-secret" not in worker.text
    lines = [line for line in worker.text.splitlines() if "superuser" not in line]
    assert not [line for line in lines if re.search("Warning|Unrecoverable|WARNING|gvcluster.*ERROR", line)]
