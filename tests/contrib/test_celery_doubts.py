"""What happens to results and chords where things end in the midst of others: kills, races, closes, refusals."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import celery_support
import gevent
import pytest
from celery_support import PATIENCE, Made, eventually
from gevent.event import Event

from gvcluster import ReplyError
from gvcluster.testing import LocalCluster


@pytest.fixture(scope="module")
def cluster(any_server: str) -> Iterator[LocalCluster]:
    with LocalCluster(any_server, replicas=0) as cluster:
        yield cluster


@pytest.fixture
def make(cluster: LocalCluster) -> Iterator[Any]:
    """Makes apps, which are closed at the end."""
    with celery_support.apps(cluster) as make:
        yield make


# -- chords whose worker is killed between two steps ------------------------------------------------------------------


class Killed(BaseException):
    """kill -9: nothing of what comes next is done."""


def _kill_before(made: Made, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def kill(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(made.backend, step, kill)
        with pytest.raises(Killed):
            made.part("g", "t2", 1, 2)


@pytest.mark.parametrize("step", ["_chord_results", "_may_send"])
def test_a_part_that_is_delivered_again_at_once_takes_over_from_the_worker_that_was_killed(make, monkeypatch, step):
    made = make()
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, 1)
    _kill_before(made, monkeypatch, step)
    made.part("g", "t1", 0, 1)  # of another task: its worker may live, and be about to send
    assert made.bodies == []
    made.part("g", "t2", 1, 2)
    assert made.bodies == [[1, 2]]
    made.part("g", "t2", 1, 2)
    assert made.bodies == [[1, 2]]


def test_who_was_replaced_sends_nothing(make, monkeypatch):
    made, replaced = make(), []
    made.chord_begins("g", 1)
    read = made.backend._chord_results

    def read_slowly(gid: str) -> Any:
        results = read(gid)
        if not replaced:
            replaced.append(True)
            made.part("g", "t1", 0, 1)
        return results

    monkeypatch.setattr(made.backend, "_chord_results", read_slowly)
    made.part("g", "t1", 0, 1)
    assert made.bodies == [[1]]


@pytest.mark.parametrize("step", ["_send", "_over"])
def test_who_was_killed_while_he_sent_is_not_replaced_and_the_log_of_the_next_one_says_so(
    make, monkeypatch, caplog, step
):
    made = make()
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, 1)
    _kill_before(made, monkeypatch, step)
    sent = list(made.bodies)
    with caplog.at_level(logging.ERROR):
        made.part("g", "t2", 1, 2)
    assert made.bodies == sent
    assert "It is not sent again" in caplog.text
    assert "b1" in caplog.text


def test_a_chord_whose_body_may_not_have_been_sent_can_be_applied_anew_as_the_log_advises(make, monkeypatch):
    made = make(result_chord_join_timeout=0)
    monkeypatch.setattr("gvcluster.contrib.celery.chords._SILENCE", 1)
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, 1)
    _kill_before(made, monkeypatch, "_send")
    key = made.backend.get_key_for_chord("g")
    made.backend.client.execute("HSET", key, "since", int(time.time()) - 3600)
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, 1)
    made.part("g", "t2", 1, 2)
    assert made.bodies == [[1, 2]]


def test_a_chord_that_is_applied_twice_while_its_body_is_sent_has_one(make, monkeypatch):
    made = make()
    made.chord_begins("g", 1)
    send = made.backend._send

    def send_slowly(*args: Any) -> None:
        made.chord_begins("g", 1)
        made.part("g", "t1", 0, 1)
        send(*args)

    monkeypatch.setattr(made.backend, "_send", send_slowly)
    made.part("g", "t1", 0, 1)
    assert made.bodies == [[1]]


# -- subscriptions ----------------------------------------------------------------------------------------------------


class Slow:
    """The subscriptions of a mailbox wait for a gate, and are counted."""

    def __init__(self, mailbox: Any) -> None:
        self.subscribe, self.asked = mailbox._pubsub.ssubscribe, []
        self.begun, self.gate = Event(), Event()
        mailbox._pubsub.ssubscribe = self

    def __call__(self, *keys: bytes, timeout: float) -> None:
        self.asked += keys
        self.begun.set()
        self.gate.wait()
        self.subscribe(*keys, timeout=timeout)


def test_a_result_that_comes_while_it_is_subscribed_to_leaves_no_subscription(make):
    consumer = make().backend.result_consumer
    mailbox = consumer._mailbox()
    slow = Slow(mailbox)
    consumer.consume_from("t1")
    asks = gevent.spawn(mailbox.catch_up)
    slow.begun.wait()
    consumer.cancel_for("t1")
    mailbox.catch_up()
    slow.gate.set()
    asks.get()
    mailbox.catch_up()
    assert mailbox._pubsub.shard_channels == ()


def test_many_who_begin_to_wait_at_once_subscribe_once_each(make, monkeypatch):
    monkeypatch.setattr("gvcluster.contrib.celery.mailbox._BATCH", 10)
    made, count = make(), 30
    mailbox = made.backend.result_consumer._mailbox()
    slow = Slow(mailbox)
    waiting = [gevent.spawn(made.app.AsyncResult(f"t{n}").get, timeout=PATIENCE) for n in range(count)]
    slow.begun.wait()
    gevent.sleep(0.5)  # for all to come so far
    slow.gate.set()
    for number in range(count):
        made.backend.store_result(f"t{number}", number, "SUCCESS")
    assert [each.get() for each in waiting] == list(range(count))
    assert sorted(slow.asked) == sorted(set(slow.asked))
    mailbox.catch_up()
    assert mailbox._pubsub.shard_channels == ()


def test_who_applies_groups_and_never_waits_keeps_nothing_of_what_he_has_let_go(make):
    consumer = make().backend.result_consumer
    for number in range(3_000):
        consumer.consume_from(f"t{number}")
        consumer.cancel_for(f"t{number}")
    mailbox = consumer._mailbox()
    assert max(map(len, (mailbox._wanted, mailbox._new, mailbox._left))) < 1_000


def test_the_mailboxes_of_threads_that_begin_at_once_are_all_known(make):
    consumer = make().backend.result_consumer
    before, found = sys.getswitchinterval(), []
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            start, kept = threading.Barrier(16), []

            def begin(start: Any = start, kept: Any = kept) -> None:
                start.wait()
                kept.append(consumer._mailbox())

            threads = [threading.Thread(target=begin) for _ in range(16)]
            for each in threads:
                each.start()
            for each in threads:
                each.join()
            found.append(sum(each in consumer._living() for each in kept))
    finally:
        sys.setswitchinterval(before)
    assert found == [16] * 20


@pytest.mark.parametrize("text", ["CLUSTERDOWN Hash slot not served", "MOVED 1 127.0.0.1:1", "LOADING"])
def test_a_failover_during_a_subscription_does_not_end_pushing(make, text):
    made = make()
    mailbox = made.backend.result_consumer._mailbox()
    subscribe, refused = mailbox._pubsub.ssubscribe, []

    def refuse_once(*keys: bytes, timeout: float) -> None:
        if not refused:
            refused.append(keys)
            raise ReplyError(text)
        subscribe(*keys, timeout=timeout)

    mailbox._pubsub.ssubscribe = refuse_once
    threading.Timer(0.3, made.backend.store_result, ("t1", 1, "SUCCESS")).start()
    assert made.app.AsyncResult("t1").get(timeout=PATIENCE) == 1
    assert refused
    assert "pushed" in repr(mailbox)


@pytest.mark.parametrize(("timeout", "used"), [(0.1, 1.0), (1.5, 1.5), (3600.0, 2.0)])
def test_who_waits_for_hours_does_not_have_one_command_wait_so_long(make, cluster, monkeypatch, timeout, used):
    made, seen = make(f"gvcluster://{cluster.seeds}?timeout=2"), []
    mailbox = made.backend.result_consumer._mailbox()
    made.backend.store_result("t1", 1, "SUCCESS")
    read = mailbox._mget
    monkeypatch.setattr(mailbox, "_mget", lambda keys, timeout: seen.append(timeout) or read(keys, timeout))
    assert made.app.AsyncResult("t1").get(timeout=timeout) == 1
    assert seen == [used]


def test_results_arrive_though_another_shard_is_down(any_server):
    with LocalCluster(any_server, replicas=0, config={"cluster-require-full-coverage": "no"}) as cluster:
        dead, alive, _ = cluster.primaries()
        made = Made(f"gvcluster://{cluster.seeds}?timeout=1")
        keys = {f"t{n}": made.backend.get_key_for_task(f"t{n}") for n in range(30)}
        first, here = min(part[:2] for part in alive.command("CLUSTER", "SLOTS"))
        slots = {each: alive.command("CLUSTER", "KEYSLOT", key) for each, key in keys.items()}
        assert first == 0
        lost = next(each for each, slot in slots.items() if slot <= here)
        found = next(each for each, slot in slots.items() if slot > here)
        made.backend.store_result("warm", 0, "SUCCESS")
        dead.kill()
        waited_for = made.app.ResultSet([made.app.AsyncResult(lost), made.app.AsyncResult(found)])
        threading.Timer(2.0, made.backend.store_result, (found, 1, "SUCCESS")).start()
        assert next(waited_for.iter_native(timeout=PATIENCE))[0] == found
        made.backend.close()


# -- other things -----------------------------------------------------------------------------------------------------


def test_an_empty_group_has_no_results(make):
    made = make()
    assert made.app.GroupResult("g", []).get(timeout=PATIENCE) == []
    assert list(made.app.ResultSet([]).iter_native()) == []


def test_ids_may_be_bytes_as_in_other_backends(make):
    made = make()
    made.backend.store_result("t1", 1, "SUCCESS")
    assert made.backend.get_key_for_task(b"t1") == made.backend.get_key_for_task("t1")
    assert made.backend.get(made.backend.get_key_for_task(b"t1"))


def test_storing_waits_for_replicas_where_the_server_wants_some(make, cluster, caplog):
    policy = {"max_retries": 200, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
    made = make(result_backend_transport_options={"retry_policy": policy})
    for node in cluster.nodes:
        node.command("CONFIG", "SET", "min-replicas-to-write", "1")
    storing = threading.Thread(target=made.backend.store_result, args=("t1", 1, "SUCCESS"))
    try:
        storing.start()
        eventually(lambda: "did not answer" in caplog.text or not storing.is_alive(), "a first attempt")
    finally:
        for node in cluster.nodes:
            node.command("CONFIG", "SET", "min-replicas-to-write", "0")
        storing.join()
    assert made.app.AsyncResult("t1").get(timeout=PATIENCE) == 1


PATCHED = """
from gevent import monkey; monkey.patch_all()
import gc, gevent, sys
from celery import Celery
from gvcluster import ClosedError
app = Celery("test", backend=sys.argv[1], set_as_current=False)
app.backend.store_result("t1", 1, "SUCCESS")
many = [gevent.spawn(app.AsyncResult("t1").get, timeout=60) for _ in range(50)]
assert [each.get() for each in many] == [1] * 50
drain = [each for each in gc.get_objects() if isinstance(each, gevent.Greenlet) and "Drainer.run" in repr(each)]
assert len(drain) == 1, len(drain)
def wait():
    try:
        app.AsyncResult("t2").get(timeout=60)
    except ClosedError:
        return "told"
waiting = gevent.spawn(wait)
gevent.sleep(0.5)
app.backend.close()
print(waiting.get())
"""


def test_who_waits_under_gevent_is_told_that_the_backend_was_closed_and_nobody_else(cluster):
    import subprocess

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PATCHED, f"gvcluster://{cluster.seeds}"],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("told\n", "", 0)
