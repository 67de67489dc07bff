"""Calls with options of their own: where these change nothing of the way, the first attempt is as short as without."""

import sys
from pathlib import Path

import gevent
import pytest
from calls import begin, ends, outcome

import gvcluster
from gvcluster import ConnectionLost, ReplyTimeout
from gvcluster.testing.answers import Close

OURS = str(Path(gvcluster.__file__).parent)


def functions_called(call):
    """How many functions of gvcluster's own a call enters, until it parks and from then on."""
    count = 0

    def note(frame, event, _argument):
        nonlocal count
        name = frame.f_code.co_filename
        count += event == "call" and name.startswith(OURS) and "testing" not in name

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_a_call_with_times_of_its_own_takes_no_long_way(fake, cluster):
    key = fake.key_at(fake.nodes[1])

    def cost(**options):
        cheapest = sys.maxsize
        for _ in range(20):  # others may be at work meanwhile, and are counted
            cheapest = min(cheapest, functions_called(lambda: cluster.execute("GET", key, **options)))
            gevent.sleep(0.005)
        return cheapest

    plain = cost()
    assert plain > 0
    # They are checked, and a time that is shorter than the others' has a timer.
    assert cost(timeout=30) <= plain + 12
    assert cost(retry="never", timeout=20) <= plain + 12
    assert cost(command_timeout=0.9) <= plain + 24
    assert cost(route_key=key) > plain + 24, "the long way, which is what is spared"


def test_its_own_times_count_from_the_first_attempt_on(fake, make):
    cluster = make(command_timeout=20, timeout=60)
    cluster.connect()
    node = fake.nodes[1]
    key = fake.key_at(node)
    assert cluster.execute("SET", key, "x", timeout=30) == b"OK"
    node.on("SET", None)
    node.on("GET", None)
    waiting = begin(cluster, "SET", key, "y")  # whose time is longer
    for options in ({"timeout": 0.2}, {"command_timeout": 0.2}):
        (told,) = ends(begin(cluster, "SET", key, "z", **options), within=10)
        assert isinstance(told, ReplyTimeout), options
        assert told.maybe_executed
    assert not waiting.ready()
    assert len(node.commands("SET")) == 4
    assert node.connections.accepted == 1
    waiting.kill()


@pytest.mark.parametrize(("retry", "sent"), [("never", 1), ("safe", 1), ("always", 2)])
def test_its_own_way_to_retry_counts_from_the_first_attempt_on(fake, cluster, retry, sent):
    node = fake.nodes[1]
    key = fake.key_at(node)
    assert cluster.execute("SET", key, "x", retry=retry) == b"OK"
    node.on("SET", Close(), times=1)
    told = outcome(cluster, "SET", key, "5", retry=retry)
    assert told == b"OK" if sent == 2 else isinstance(told, ConnectionLost) and told.maybe_executed
    assert len(node.commands("SET")) == 1 + sent


def test_a_redirect_is_followed_with_the_times_of_the_call(fake, cluster):
    source, target = fake.nodes[:2]
    key = fake.key_at(source)
    cluster.execute("SET", key, "x", timeout=30)
    fake.move_slot(cluster.hash_slot(key), target)
    target.on("GET", None)
    with gevent.Timeout(20):
        told = outcome(cluster, "GET", key, timeout=0.4)
    assert isinstance(told, gvcluster.GvClusterError)
    assert cluster.statistics().redirects == 1
    assert len(target.commands("GET")) == 1


def test_who_waits_longer_than_the_others_has_a_connection_of_its_own(fake, make):
    cluster = make(command_timeout=0.5, timeout=60)
    cluster.connect()
    node = fake.nodes[1]
    key = fake.key_at(node)
    cluster.execute("GET", key, command_timeout=0.5)
    assert node.connections.accepted == 1
    cluster.execute("GET", key, command_timeout=5)
    assert node.connections.accepted == 2
