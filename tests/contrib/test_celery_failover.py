"""A primary is killed while workers store results."""

from collections.abc import Iterator

import pytest
from celery_support import PATIENCE, Office, broker, eventually, tasks_of

from gvcluster.testing import LocalCluster

TASKS = 2_000
CHORDS, PARTS = 10, 10


@pytest.fixture(scope="module")
def queue(any_server: str) -> Iterator[LocalCluster]:
    with broker(any_server) as queue:
        yield queue


@pytest.fixture(scope="module")
def cluster(any_server: str) -> Iterator[LocalCluster]:
    with LocalCluster(any_server) as cluster:
        yield cluster


def test_who_waits_gets_his_result_though_processes_and_workers_are_killed(cluster, queue, tmp_path):
    import celery

    office = Office(tmp_path, queue, f"gvcluster://{cluster.seeds}", {"task_acks_late": True})
    with tasks_of(office) as tasks, office.worker("prefork") as first:
        header = [tasks.noop.si(1), tasks.die_once.si("mark"), tasks.noop.si(2)]
        chord = celery.chord(header, tasks.describe.s()).apply_async()
        assert chord.get(timeout=PATIENCE, follow_parents=False) == "[1, 'survived', 2]"
        begun = tasks.sleep.delay(60)
        eventually(lambda: begun.id in first.text, "the worker has begun")
        first.kill()
        with office.worker("gevent"):
            assert tasks.add.delay(2, 2).get(timeout=PATIENCE) == 4
            assert tasks.app.AsyncResult(chord.id).get(timeout=PATIENCE) == "[1, 'survived', 2]"
            assert tasks.app.AsyncResult(begun.id).state == "PENDING"


@pytest.mark.timeout(300)
def test_every_result_of_2000_tasks_arrives_though_a_primary_is_killed_in_their_midst(cluster, queue, tmp_path):
    import celery

    office = Office(tmp_path, queue, f"gvcluster://{cluster.seeds}")
    with office.worker("gevent", concurrency=50), tasks_of(office) as tasks:
        parts = [tasks.noop.s(number) for number in range(PARTS)]
        chords, results = [celery.chord(parts, tasks.total.s()).apply_async() for _ in range(CHORDS // 2)], []
        for number in range(TASKS):
            if number == TASKS // 2:
                eventually(lambda: stored(cluster) > TASKS // 10, "some results are there")
                cluster.primaries()[0].kill()
                chords += [celery.chord(parts, tasks.total.s()).apply_async() for _ in range(CHORDS // 2)]
            results.append(tasks.noop.delay(number))
        assert tasks.app.ResultSet(results).get(timeout=4 * PATIENCE) == list(range(TASKS))
        assert [each.get(timeout=2 * PATIENCE) for each in chords] == [sum(range(PARTS))] * CHORDS
        assert sorted(office.bodies) == sorted(each.id for each in chords)


def stored(cluster: LocalCluster) -> int:
    """How many results there are."""
    return sum(node.command("DBSIZE") for node in cluster.primaries())
