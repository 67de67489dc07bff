"""The backend against a real cluster, without workers: what is stored, who is told, and when a chord's body is sent."""

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import celery_support
import pytest
from celery_support import PATIENCE, Made, eventually

from gvcluster import AuthFailed, Cluster, TopologyUnavailable
from gvcluster.testing import LocalCluster

WAIT = 0.05


@pytest.fixture(scope="module")
def cluster(any_server: str) -> Iterator[LocalCluster]:
    with LocalCluster(any_server, replicas=0) as cluster:
        yield cluster


@pytest.fixture
def make(cluster: LocalCluster) -> Iterator[Any]:
    """Makes apps, which are closed at the end."""
    with celery_support.apps(cluster) as make:
        yield make


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_results_expire_as_the_settings_say(make):
    made = make(result_expires=100, result_failure_expires=1000)
    made.backend.store_result("t1", 1, "SUCCESS")
    made.backend.store_result("t2", ValueError("no"), "FAILURE")
    assert 0 < made.ttl(b"celery-task-meta-{t1}") <= 100
    assert 100 < made.ttl(b"celery-task-meta-{t2}") <= 1000
    lasting = make(result_expires=0)
    lasting.backend.store_result("t3", 1, "SUCCESS")
    assert lasting.ttl(b"celery-task-meta-{t3}") == -1
    lasting.backend.expire(b"celery-task-meta-{t3}", 50)
    assert 0 < lasting.ttl(b"celery-task-meta-{t3}") <= 50
    lasting.backend.expire(b"celery-task-meta-{t3}", None)
    assert lasting.ttl(b"celery-task-meta-{t3}") == -1


def test_an_expired_result_is_gone(make):
    made = make(result_expires=1)
    made.backend.store_result("t1", 1, "SUCCESS")
    eventually(
        lambda: made.app.AsyncResult("t1").state == "PENDING" and made.ttl(b"celery-task-meta-{t1}") == -2, "gone"
    )


def test_the_stock_key_format_is_what_other_tools_read_and_chords_work_in_it(make, cluster):
    made = make(result_backend_transport_options={"key_format": "stock"})
    made.backend.store_result("t1", {"a": 1}, "SUCCESS")
    with Cluster(cluster.seeds) as client:
        assert b'"status": "SUCCESS"' in client.execute("GET", "celery-task-meta-t1")
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, 1)
    made.part("g", "t2", 1, 2)
    assert made.bodies == [[1, 2]]


def test_a_success_is_not_overwritten_by_what_comes_late(make):
    made = make()
    made.backend.store_result("t1", 1, "SUCCESS")
    made.backend.store_result("t1", None, "STARTED")
    assert made.app.AsyncResult("t1").get(timeout=PATIENCE) == 1


def test_compressed_results_and_other_serializers_come_back(make):
    made = make(result_compression="gzip", result_serializer="pickle", accept_content=["pickle", "json"])
    made.backend.store_result("t1", {"set": {1, 2}}, "SUCCESS")
    assert made.app.AsyncResult("t1").get(timeout=PATIENCE) == {"set": {1, 2}}


def test_a_counter_counts(make):
    made = make()
    assert [made.backend.incr("counter"), made.backend.incr("counter")] == [1, 2]
    made.backend.delete("counter")
    assert made.backend.get("counter") is None


# -- who is told ------------------------------------------------------------------------------------------------------


def test_one_process_is_told_what_another_stores(make):
    made = make()
    threading.Timer(0.3, lambda: made.backend.store_result("t1", 7, "SUCCESS")).start()
    assert made.app.AsyncResult("t1").get(timeout=PATIENCE) == 7


NET = "found a result that was not pushed"


def test_a_result_that_is_too_long_to_be_pushed_is_read_when_news_of_it_come(make, caplog):
    caplog.set_level(logging.INFO)
    made = make()
    threading.Timer(0.3, lambda: made.backend.store_result("t1", "x" * 5_000_000, "SUCCESS")).start()
    assert len(made.app.AsyncResult("t1").get(timeout=PATIENCE)) == 5_000_000
    assert NET not in caplog.text


def test_without_pushing_results_are_looked_for(make):
    made = make(result_backend_transport_options={"push": False})
    threading.Timer(0.3, lambda: made.backend.store_result("t1", 7, "SUCCESS")).start()
    assert made.app.AsyncResult("t1").get(timeout=PATIENCE) == 7
    assert "polled" in repr(made.backend.result_consumer._mailbox())


def test_a_result_that_nobody_can_read_is_an_error_of_who_waits_for_it(make, cluster, caplog):
    made = make()

    def store() -> None:
        with Cluster(cluster.seeds) as client:
            client.execute("SPUBLISH", "celery-task-meta-{t1}", b"{not json")

    threading.Timer(0.3, store).start()
    with pytest.raises(Exception, match="Expecting property name"):
        made.app.AsyncResult("t1").get(timeout=PATIENCE)


def test_what_is_no_result_fails_the_one_that_waits_for_it_and_no_other(make):
    made = make()
    result = made.app.AsyncResult("t1")
    made.backend.add_pending_result(result)
    junk = b'{"status": "SUCCESS"}'  # names no task
    made.backend.result_consumer._tell(made.backend.get_key_for_task("t1"), junk)  # Celery's drainer calls it, too
    assert result.state == "FAILURE"


def test_a_result_is_told_though_the_connection_of_the_subscription_was_lost(make, cluster, caplog):
    caplog.set_level(logging.INFO)
    made = make()
    results: list[Any] = []
    waiter = threading.Thread(target=lambda: results.append(made.app.AsyncResult("t1").get(timeout=PATIENCE)))
    waiter.start()
    nodes = cluster.primaries()
    eventually(lambda: any(b"t1" in b"".join(n.command("PUBSUB", "SHARDCHANNELS")) for n in nodes), "subscribed")
    for node in nodes:
        node.command("CLIENT", "KILL", "TYPE", "pubsub")
    made.backend.store_result("t1", 8, "SUCCESS")
    waiter.join()
    assert results == [8]
    assert NET not in caplog.text


def test_what_was_not_pushed_though_it_should_have_been_is_found(make, cluster, caplog):
    caplog.set_level(logging.INFO)
    made, other = make(), make(result_backend_transport_options={"push": False})
    threading.Timer(0.3, other.backend.store_result, ("t1", 9, "SUCCESS")).start()
    assert made.app.AsyncResult("t1").get(timeout=PATIENCE) == 9
    assert NET in caplog.text


def test_who_has_got_his_result_leaves_no_subscription(make, cluster):
    made = make()
    for number in range(20):
        threading.Timer(WAIT, made.backend.store_result, (f"t{number}", number, "SUCCESS")).start()
        assert made.app.AsyncResult(f"t{number}").get(timeout=PATIENCE) == number
    nodes = cluster.primaries()
    eventually(lambda: not any(node.command("PUBSUB", "SHARDCHANNELS") for node in nodes), "no subscriptions are left")


def test_a_user_without_the_right_to_publish_stores_results_and_the_log_says_it_once(make, cluster, caplog):
    for node in cluster.nodes:
        node.command("ACL", "SETUSER", "mute", "on", ">secret", "~*", "+@all", "resetchannels")
    made = make(f"gvcluster://mute:secret@{cluster.seeds}")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            made.backend.store_result(f"t{number}", number, "SUCCESS")
        assert made.app.AsyncResult("t2").get(timeout=PATIENCE) == 2  # nor to subscribe: it looks
        threading.Timer(0.3, made.backend.store_result, ("t3", 3, "SUCCESS")).start()
        assert made.app.AsyncResult("t3").get(timeout=PATIENCE) == 3
    assert caplog.text.count("not pushed to who waits") == 1
    assert caplog.text.count("nobody pushes them") == 1
    assert "secret" not in caplog.text


def test_the_rights_that_the_page_names_are_enough(make, cluster, caplog):
    for node in cluster.nodes:
        node.command("ACL", "SETUSER", "worker", "on", ">secret", *celery_support.rights())
    made = make(f"gvcluster://worker:secret@{cluster.seeds}")
    threading.Timer(0.3, made.backend.store_result, ("t1", 1, "SUCCESS")).start()
    assert made.app.AsyncResult("t1").get(timeout=PATIENCE) == 1
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, 1)
    made.part("g", "t2", 1, 2)
    assert made.bodies == [[1, 2]]
    made.app.GroupResult("g1", [made.app.AsyncResult("t1")]).save()
    assert made.app.GroupResult.restore("g1").get(timeout=PATIENCE) == [1]
    made.backend.forget("t1")
    assert not caplog.text


def test_a_wrong_password_is_an_error_at_once_which_does_not_show_it(make, cluster, caplog):
    for node in cluster.nodes:
        node.command("ACL", "SETUSER", "guarded", "on", ">secret", "~*", "&*", "+@all")
    made = make(f"gvcluster://guarded:wrong-secret@{cluster.seeds}")
    with pytest.raises(Exception) as caught:  # whose class is told by its cause
        made.app.AsyncResult("t1").get(timeout=PATIENCE)
    assert "wrong-secret" not in repr(caught.value) + caplog.text
    with pytest.raises((AuthFailed, TopologyUnavailable)):
        made.backend.store_result("t1", 1, "SUCCESS")
    assert "retry" not in caplog.text


def test_a_refused_read_is_an_error_of_who_waits(make, cluster):
    for node in cluster.nodes:
        node.command("ACL", "SETUSER", "blind", "on", ">secret", "~*", "+@all", "-mget")
    with pytest.raises(AuthFailed, match="NOPERM"):
        make(f"gvcluster://blind:secret@{cluster.seeds}").app.AsyncResult("t1").get(timeout=PATIENCE)


# -- trying again -----------------------------------------------------------------------------------------------------


def test_storing_is_tried_again_as_often_as_the_policy_says(caplog):
    policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0.01, "interval_max": 0.01}
    options = {"retry_policy": policy, "cluster": {"timeout": 0.2}}
    made = Made("gvcluster://127.0.0.1:1", result_backend_transport_options=options)
    with caplog.at_level(logging.ERROR), pytest.raises(made.backend.connection_errors):
        made.backend.store_result("t1", 1, "SUCCESS")
    assert caplog.text.count("The cluster did not answer") == 2
    made.backend.close()


def test_who_waits_while_there_is_no_cluster_gets_a_timeout(caplog):
    from celery.exceptions import TimeoutError

    made = Made("gvcluster://127.0.0.1:1", result_backend_transport_options={"cluster": {"timeout": 0.2}})
    with pytest.raises(TimeoutError):
        made.app.AsyncResult("t1").get(timeout=0.5)
    made.backend.close()


def test_who_waits_is_told_that_the_backend_was_closed(make):
    from gvcluster import ClosedError

    made = make()
    threading.Timer(0.5, made.backend.close).start()
    with pytest.raises(ClosedError):
        made.app.AsyncResult("t1").get(timeout=PATIENCE)


# -- chords -----------------------------------------------------------------------------------------------------------


def test_the_body_gets_the_parts_in_the_order_of_the_header(make):
    made = make()
    made.chord_begins("g", 3)
    for tid, index, result in (("t3", 2, "c"), ("t1", 0, "a"), ("t2", 1, "b")):
        made.part("g", tid, index, result)
    assert made.bodies == [["a", "b", "c"]]


def test_or_in_that_of_their_arrival(make):
    made = make(result_backend_transport_options={"result_chord_ordered": False})
    made.chord_begins("g", 3)
    for tid, index, result in (("t3", 2, "c"), ("t1", 0, "a"), ("t2", 1, "b")):
        made.part("g", tid, index, result)
    assert made.bodies == [["c", "a", "b"]]


def test_a_part_that_comes_twice_counts_once_before_the_end_and_after_it(make):
    made = make()
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, "first")
    made.part("g", "t1", 0, "again")
    assert made.bodies == []
    made.part("g", "t2", 1, "last")
    assert made.bodies == [["first", "last"]]
    for tid, index in (("t1", 0), ("t2", 1)):
        made.part("g", tid, index, "late")
    assert made.bodies == [["first", "last"]]
    assert 0 < made.ttl(b"chord-unlock-{g}") <= 86400


def test_a_chord_with_the_same_id_runs_anew_when_it_is_applied_anew(make):
    made = make()
    for _ in range(2):
        made.chord_begins("g", 2)
        made.part("g", "t1", 0, 1)
        made.part("g", "t2", 1, 2)
    assert made.bodies == [[1, 2], [1, 2]]


def test_parts_may_come_before_the_size_is_known(make):
    made = make()
    made.backend.apply_chord(("g", []), made.body.s())
    made.part("g", "t1", 0, 1)
    made.backend.set_chord_size("g", 2)
    made.part("g", "t2", 1, 2)
    assert made.bodies == [[1, 2]]


def test_a_worker_that_is_asked_again_gets_the_same_answer(make):
    made = make()
    made.chord_begins("g", 1)
    scripts, key = made.backend._chord_scripts, made.backend.get_key_for_chord("g")
    part = {"keys": [key], "args": ["p:0:t1", "[]", "me", 100, 60]}
    assert [scripts.part(**part), scripts.part(**part)] == [1, 1]
    assert scripts.part(keys=[key], args=["p:1:t2", "[]", "another", 100, 60]) == 0
    assert [scripts.send(keys=[key], args=["me"]) for _ in range(2)] == [1, 1]
    assert scripts.send(keys=[key], args=["another"]) == 0
    assert [scripts.over(keys=[key], args=["me", 100]), scripts.over(keys=[key], args=["me", 100])] == [1, 0]


def _silent_for_an_hour(made: Made, gid: str, state: str) -> None:
    long_ago = int(time.time()) - 3600
    key = made.backend.get_key_for_chord(gid)
    made.backend.client.execute("HSET", key, "state", state, "by", "a dead worker", "since", long_ago)


def test_a_worker_that_died_before_it_sent_the_body_is_replaced(make):
    made = make()
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, 1)
    _silent_for_an_hour(made, "g", "claimed")
    made.part("g", "t2", 1, 2)
    assert made.bodies == [[1, 2]]


def test_a_body_that_may_have_been_sent_is_not_sent_again_and_the_log_says_so(make, caplog):
    made = make()
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, 1)
    _silent_for_an_hour(made, "g", "sending")
    with caplog.at_level(logging.ERROR):
        made.part("g", "t2", 1, 2)
    assert made.bodies == []
    assert "It is not sent again" in caplog.text
    assert "b1" in caplog.text


def test_a_failed_part_fails_the_body_with_its_cause_when_all_have_come(make):
    from celery.exceptions import ChordError

    made = make()
    made.chord_begins("g", 2)
    made.part("g", "t1", 0, ValueError("broken"), "FAILURE")
    assert made.app.AsyncResult("b1").state == "PENDING"
    made.part("g", "t2", 1, 2)
    assert made.bodies == []
    with pytest.raises(ChordError, match=r"Dependency t1 raised ValueError\('broken'\)"):
        made.app.AsyncResult("b1").get(timeout=PATIENCE)


def test_a_body_that_can_not_be_sent_fails(make):
    from celery.exceptions import ChordError

    made = make(broker_url="redis://127.0.0.1:1/0", task_publish_retry=False)
    made.app.conf.task_always_eager = False
    made.chord_begins("g", 1)
    made.part("g", "t1", 0, 1)
    with pytest.raises(ChordError, match="Callback error"):
        made.app.AsyncResult("b1").get(timeout=PATIENCE)


def test_a_header_of_500_parts_of_ten_threads_ends_once(make):
    made = make()
    made.chord_begins("g", 500)

    def parts(first: int) -> None:
        for index in range(first, 500, 10):
            made.part("g", f"t{index}", index, index)

    threads = [threading.Thread(target=parts, args=(first,)) for first in range(10)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert made.bodies == [list(range(500))]
