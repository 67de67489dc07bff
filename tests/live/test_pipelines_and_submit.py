"""Pipelines over all slots and thousands of submitted commands, on real servers."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

import gvcluster
from gvcluster import Cluster, ReplyError, hash_slot
from gvcluster.testing import LocalCluster


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[Cluster]:
    """A client that bears a machine with much else to do: thousands of calls at once are to be served, not in time."""
    with gvcluster.connect(live_cluster.seeds, protocol=protocol, timeout=60, command_timeout=60) as cluster:
        yield cluster


def one_key_for_each_slot() -> list[str]:
    keys: dict[int, str] = {}
    number = 0
    while len(keys) < 16384:
        keys.setdefault(hash_slot(f"k{number}"), f"k{number}")
        number += 1
    return [keys[slot] for slot in sorted(keys)]


@pytest.mark.smoke
def test_a_pipeline_over_all_slots_gets_each_reply_in_its_place(cluster: Cluster) -> None:
    keys = one_key_for_each_slot()
    random.Random(1).shuffle(keys)
    pipe = cluster.pipeline()
    for key in keys:
        pipe.append("SET", key, key)
        pipe.append("APPEND", key, "!")
        pipe.append("GET", key)
    replies = pipe.execute(raise_errors=True)
    assert replies[::3] == [b"OK"] * 16384
    assert replies[1::3] == [len(key) + 1 for key in keys]
    assert replies[2::3] == [f"{key}!".encode() for key in keys]
    statistics = cluster.statistics()
    assert (statistics.redirects, statistics.retries) == (0, 0)
    assert max(node.opened for node in statistics.nodes) == 1


def test_all_kinds_of_replies_and_errors_keep_their_places(cluster: Cluster) -> None:
    pipe = cluster.pipeline()
    for args in (
        ("RPUSH", "list", "a", "b"),
        ("LRANGE", "list", 0, -1),
        ("INCR", "list"),
        ("HSET", "hash", "f", "v"),
        ("HGETALL", "hash"),
        ("EVAL", "return false", 1, "list"),
        ("EVAL", "return {1, {err='ERR inside'}}", 1, "list"),
        ("SMEMBERS", "nothing"),
        ("GET", "nothing"),
        ("SCRIPT", "EXISTS", "0" * 40),
    ):
        try:
            pipe.append(*args)
        except gvcluster.NoKey:
            pipe.append(*args, node=cluster.primaries()[0])
    replies = pipe.execute()
    assert replies[:2] == [2, [b"a", b"b"]]
    assert isinstance(replies[2], ReplyError)
    assert replies[2].code == "WRONGTYPE"
    assert replies[3] == 1
    assert replies[4] in ({b"f": b"v"}, [b"f", b"v"])
    assert replies[5] is None
    assert list(replies[7]) == []
    assert replies[8:] == [None, [0]]


@pytest.mark.smoke
def test_ten_thousand_submitted_commands_are_each_told_once_in_the_hub(cluster: Cluster) -> None:
    told: Counter[int] = Counter()
    wrong: list[Any] = []

    def note(number: int) -> Any:
        def callback(reply: Any, error: Exception | None) -> None:
            told[number] += 1
            if error is not None or reply != b"%d" % number or gevent.getcurrent() is not get_hub():
                wrong.append((number, reply, error))

        return callback

    for number in range(10_000):
        cluster.submit("SET", f"k{number}", number)
        cluster.submit("GET", f"k{number}", callback=note(number))
    cluster.disconnect()
    assert not wrong
    assert set(told.values()) == {1}
    assert len(told) == 10_000
    assert max(node.opened for node in cluster.statistics().nodes) == 1


def test_ten_thousand_before_the_first_map_and_more_from_the_callbacks(
    live_cluster: LocalCluster, protocol: int
) -> None:
    cluster = Cluster(live_cluster.seeds, protocol=protocol, timeout=60, command_timeout=60)
    cluster.start()
    errors: list[Exception] = []
    left = [5000]

    def again(_reply: Any, error: Exception | None) -> None:
        if error is not None:
            errors.append(error)
        elif left[0]:
            left[0] -= 1
            cluster.submit("INCR", f"c{left[0] % 10}", callback=again)

    for number in range(10_000):
        cluster.submit("INCR", f"c{number % 10}", callback=again)
    with gevent.Timeout(60):
        while left[0]:
            gevent.sleep(0.01)
    cluster.disconnect()
    assert errors == []
    with gvcluster.connect(live_cluster.seeds, protocol=protocol) as other:
        assert sum(int(other.execute("GET", f"c{number}")) for number in range(10)) == 15_000


def test_killed_pipelines_never_disturb_the_others(cluster: Cluster) -> None:
    """A storm of kills and timeouts among pipelines and calls: no wrong reply, and the same three connections."""
    cluster.warm_up()
    draw = random.Random(2)
    wrong: list[Any] = []
    done = Counter[str]()

    def work(number: int) -> None:
        for round_ in range(40):
            tags = [f"{number}:{round_}:{each}" for each in range(draw.randrange(1, 12))]
            pipe = cluster.pipeline()
            for tag in tags:
                pipe.append("ECHO", tag, route_key=tag)
            with gevent.Timeout(draw.choice((0.001, 0.004, 0.02, 2.0)), False):
                replies = pipe.execute()
                if replies != [tag.encode() for tag in tags]:
                    wrong.append((tags, replies))
                done["whole"] += 1
                continue
            done["timed out"] += 1

    def call() -> None:
        for number in range(3000):
            if cluster.execute("ECHO", number, route_key=str(number)) != b"%d" % number:
                wrong.append(number)

    workers = [gevent.spawn(work, number) for number in range(40)] + [gevent.spawn(call) for _ in range(3)]
    killed = [gevent.spawn(work, 1000 + number) for number in range(200)]
    for victim in killed:
        gevent.sleep(0.001)
        victim.kill()
    gevent.joinall(workers, timeout=60, raise_error=True)
    assert all(worker.ready() for worker in workers)
    assert not wrong
    assert done["whole"] > 0
    assert done["timed out"] > 0
    assert max(node.opened for node in cluster.statistics().nodes) == 1
