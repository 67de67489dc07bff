"""What clients do, in a process of their own: patched or not, with threads, greenlets and a fork."""

import json
import logging
import os
import sys
import threading

import celery
import celery_app as tasks
import gevent
from celery.backends.asynchronous import geventDrainer
from celery_support import PATIENCE

app = tasks.app
# It tells where a result was found by looking for it, though it should have been pushed.
logging.basicConfig(level=logging.INFO, stream=sys.stderr)


def in_threads() -> list[int]:
    """Threads, or greenlets if patched, that wait at the same time through one backend."""
    results: list[int] = []
    backends = set()

    def wait(number: int) -> None:
        backends.add(id(app.backend))
        results.append(tasks.add.delay(number, number).get(timeout=PATIENCE))

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(backends) == 1, backends
    return sorted(results)


def in_greenlets() -> list[int]:
    """Greenlets of one hub."""
    waiting = [gevent.spawn(lambda n=number: tasks.add.delay(n, 1).get(timeout=PATIENCE)) for number in range(8)]
    return [each.get() for each in waiting]


def by_another_thread() -> int:
    """A result that this thread has asked for, and another one waits for."""
    result = tasks.sleep.delay(1.0)
    result.then(lambda _: None)
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(result.get(timeout=PATIENCE)))
    thread.start()
    thread.join()
    return len(got[0])


def then_callbacks() -> list[int]:
    """Callbacks of a result that nobody waits for come while somebody waits for another one."""
    told: list[int] = []
    first, last = tasks.add.delay(20, 1), tasks.sleep.delay(1.5)
    first.then(lambda result: told.append(result.result))
    last.get(timeout=PATIENCE)
    return told


def after_a_callback_that_timed_out() -> int:
    """What others wait for, when a callback that the drainer has called let its own Timeout through."""
    if isinstance(app.backend.result_consumer.drainer, geventDrainer):
        called: list[int] = []

        def slow(result: celery.result.AsyncResult) -> None:
            called.append(result.result)
            with gevent.Timeout(0.01):
                gevent.sleep(PATIENCE)

        log = logging.getLogger("gvcluster.contrib.celery.consumer")
        log.disabled = True  # it tells of the callback, and whoever runs this takes that for a failure
        first = tasks.add.delay(1, 1)
        first.then(slow)
        tasks.sleep.delay(0.5).get(timeout=PATIENCE)
        assert called == [2], called
        log.disabled = False
    result: int = tasks.add.delay(3, 3).get(timeout=PATIENCE)
    return result


def in_a_child() -> int:
    """What a child does after the parent has used the backend, patched and with a drainer at work."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if tasks.add.delay(40, 2).get(timeout=PATIENCE) == 42 else 2
            group = celery.group(tasks.noop.s(number) for number in range(5)).apply_async()
            code = code or (0 if group.get(timeout=PATIENCE) == [0, 1, 2, 3, 4] else 3)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Do them all, and print what came of it."""
    found = {
        "first": tasks.add.delay(1, 2).get(timeout=PATIENCE),
        "threads": in_threads(),
        "greenlets": in_greenlets(),
        "another": by_another_thread(),
        "then": then_callbacks(),
        "late": after_a_callback_that_timed_out(),
        "child": in_a_child(),
        "after": tasks.add.delay(3, 4).get(timeout=PATIENCE),
        "gevent": isinstance(app.backend.result_consumer.drainer, geventDrainer),
    }
    json.dump(found, sys.stdout)


main()
