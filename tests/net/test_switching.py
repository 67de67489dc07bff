"""`throw_at_every_switch` itself: it finds each switch, throws what it is told to, and says what came of it."""

import subprocess
import sys

import gevent
import pytest
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from gvcluster.testing import throw_at_every_switch


def waits_three_times():
    for _ in range(3):
        gevent.sleep(0.001)
    return "done"


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, KeyboardInterrupt])
def test_each_switch_is_thrown_at_once_for_each_turn(error):
    report = throw_at_every_switch(waits_three_times, error, turns=(0,))
    assert [(each.point, each.error is each.meant) for each in report.thrown] == [(1, True), (2, True), (3, True)]
    assert (report.points, report.value, report.surprises) == (3, "done", [])
    assert report.outcomes == {error.__name__: 3}
    assert str(report) == f"thrown at 3 switch points: {error.__name__} 3"


def test_thrown_a_turn_later_it_may_have_come_through():
    told = Event()

    def waits():
        told.clear()
        gevent.get_hub().loop.run_callback(told.set)
        told.wait()
        return "done"

    assert [each.error for each in throw_at_every_switch(waits, turns=(1,)).thrown] == [None]
    assert throw_at_every_switch(waits_three_times).points == 6


def test_what_does_not_wait_has_no_points():
    report = throw_at_every_switch(lambda: 7)
    assert (report.points, report.value) == (0, 7)
    assert "never waits" in str(report)


def test_an_error_of_the_operation_itself_is_raised_when_it_is_left_alone():
    def breaks():
        gevent.sleep(0.001)
        raise LookupError("broken")

    with pytest.raises(LookupError):
        throw_at_every_switch(breaks)


def test_whoever_turns_what_was_thrown_into_something_else_is_a_surprise():
    def turns_it_round():
        try:
            gevent.sleep(0.001)
        except BaseException as error:
            raise LookupError from error

    report = throw_at_every_switch(turns_it_round, turns=(0,))
    assert [type(each.error) for each in report.surprises] == [LookupError]


def test_a_semaphore_that_a_kill_leaks_is_found_and_a_with_leaks_none():
    semaphore = BoundedSemaphore(1)

    def leaky():
        semaphore.acquire()
        gevent.sleep(0.001)
        semaphore.release()

    def sound():
        with semaphore:
            gevent.sleep(0.001)

    def check(thrown):
        assert not semaphore.locked(), f"kept at point {thrown.point}"

    assert throw_at_every_switch(sound, after=check).points
    with pytest.raises(AssertionError, match="kept at point 1"):
        throw_at_every_switch(leaky, after=check)


def test_who_is_stuck_after_a_throw_is_told():
    never = Event()

    def refuses_to_die():
        try:
            gevent.sleep(0.001)
        except gevent.GreenletExit:
            never.wait()

    with pytest.raises(AssertionError, match="stuck after 2 switches, thrown at 1"):
        throw_at_every_switch(refuses_to_die, timeout=0.2)


PATCHED = """
from gevent import monkey
monkey.patch_all()
import threading, time
from gvcluster.testing import throw_at_every_switch
lock = threading.Lock()
def work():
    with lock:
        time.sleep(0.001)
report = throw_at_every_switch(work, KeyboardInterrupt, after=lambda _: lock.locked() and exit(1), turns=(0,))
assert report.outcomes == {"KeyboardInterrupt": 1}, report
"""


@pytest.mark.unaffected_by("patched")
def test_it_works_in_a_patched_process():
    done = subprocess.run([sys.executable, "-c", PATCHED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
