"""The application that the workers run: its broker and its result backend are what the environment names."""

import json
import os
import time
from pathlib import Path
from typing import Any

import celery

FOLDER = Path(os.environ["GVCLUSTER_TEST_FOLDER"])

app = celery.Celery("celery_app")
app.conf.update(
    broker_url=os.environ["GVCLUSTER_TEST_BROKER"],
    # The broker is a cluster of one node: all of its keys are in one slot.
    broker_transport_options={"global_keyprefix": "{broker}"},
    broker_connection_retry_on_startup=True,
    result_backend=os.environ["GVCLUSTER_TEST_BACKEND"],
    result_extended=True,
    task_track_started=False,
    task_default_queue="work",
    worker_hijack_root_logger=False,
    result_chord_join_timeout=30.0,
    **json.loads(os.environ.get("GVCLUSTER_TEST_SETTINGS", "{}")),
)


@app.task
def noop(number: int) -> int:
    return number


@app.task
def add(left: int, right: int) -> int:
    return left + right


@app.task
def total(numbers: list[int]) -> int:
    """Adds a line to a file each time that it runs: a body that runs twice is seen."""
    with (FOLDER / "bodies").open("a") as file:
        file.write(f"{total.request.id}\n")
    return sum(numbers)


@app.task
def fail(text: str) -> None:
    raise ValueError(text)


@app.task
def text_of(length: int) -> str:
    return "x" * length


@app.task
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "rested"


@app.task(bind=True, max_retries=3)
def third_time(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)
    return int(self.request.retries)


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once(mark: str) -> str:
    """Takes its process down the first time."""
    path = FOLDER / mark
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), 9)
    return "survived"


@app.task
def sum_within(count: int) -> int:
    """Waits, in a worker, for results of other tasks."""
    from celery.result import allow_join_result

    group = celery.group(noop.s(number) for number in range(count)).apply_async()
    with allow_join_result():
        return sum(group.get(timeout=60))


@app.task(bind=True)
def grow(self: Any, number: int) -> int:
    """Adds a task to the chord that it is in."""
    self.add_to_chord(noop.si(number))
    return number


@app.task
def describe(results: Any) -> str:
    return repr(results)
