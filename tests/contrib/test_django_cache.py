"""Django's cache API over a cluster: what Django's own tests (tools/django_cache_tests.py) do not look at."""

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from contrib_django import made
from django.core.exceptions import ImproperlyConfigured

from gvcluster import ConnectionLost, PartialFailure, ReplyError, hash_slot
from gvcluster.testing import FakeCluster, LocalCluster
from gvcluster.testing.answers import NOT_HANDLED, Close

OK = b"+OK\r\n"
GLOB = "s[h]o?p*\\"


def of_no_tag(key: str, prefix: str, version: int) -> str:
    """A KEY_FUNCTION whose keys do not tell whose they are."""
    return key


def of_no_prefix(key: str, prefix: str, version: int) -> str:
    """One whose keys could be anybody's that begin with a number."""
    return f"{version}:{key}"


def hashed(key: str, prefix: str, version: int) -> str:
    """One of which nothing can be known."""
    return str(hash_slot(f"{prefix}:{version}:{key}"))


def turned(key: str, prefix: str, version: int) -> str:
    """One that puts the version last."""
    return f"{prefix}/{key}@{version}"


@pytest.fixture
def cache(live_cluster: LocalCluster, protocol: int) -> Iterator[Any]:
    """The default cache."""
    with made(default={"LOCATION": live_cluster.seeds, "OPTIONS": {"protocol": protocol}}) as caches:
        yield caches["default"]


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster() as fake:
        yield fake


def key_at(fake: FakeCluster, node: int, number: int = 0) -> str:
    """The so-many-th key that the cache stores at this node."""
    keys = (f"key{each}" for each in range(1000))
    return [key for key in keys if fake.owner(hash_slot(f":1:{key}")) is fake.nodes[node]][number]


# -- values and times -------------------------------------------------------------------------------------------------


def test_many_keys_of_all_slots_are_set_had_and_deleted(cache: Any) -> None:
    values = {f"key:{number}": {"number": number} for number in range(500)}
    assert cache.set_many(values) == []
    assert cache.get_many([*values, "missing"]) == values
    cache.delete_many(values)
    assert cache.get_many(values) == {}


def test_none_of_many_is_no_call(fake: FakeCluster) -> None:
    with made(default={"LOCATION": fake.seeds}) as caches:
        assert caches["default"].get_many([]) == {}
        assert caches["default"].set_many({}) == []
        caches["default"].delete_many(iter([]))
    assert [node.work() for node in fake.nodes] == [[], [], []]


def test_many_keys_of_one_node_go_there_in_one_write(fake: FakeCluster) -> None:
    """Nobody is answered before the last has come: it can not have waited for an answer."""
    (node, *_), keys = fake.nodes, [key_at(fake, 0, number) for number in range(10)]
    node.on("SET", lambda *_: OK * 10 if len(node.commands("SET")) == 10 else b"")
    with made(default={"LOCATION": fake.seeds}) as caches:
        assert caches["default"].set_many(dict.fromkeys(keys, 1), timeout=60) == []
    assert [command[1:] for command in node.commands("SET")] == [
        [f":1:{key}".encode(), b"1", b"PX", b"60000"] for key in keys
    ]


def test_each_value_has_its_time(cache: Any, live_cluster: LocalCluster) -> None:
    times = {"default": {}, "day": {"timeout": 86_400}, "ever": {"timeout": None}}
    for key, time in times.items():
        cache.set(key, 1, **time)
        assert cache.set_many({f"{key}:of-many": 1}, **time) == []
        assert cache.add(f"{key}:added", 1, **time) is True
    left = {
        key: [cache.cluster.execute("PTTL", f":1:{key}{more}") for more in ("", ":of-many", ":added")] for key in times
    }
    assert all(290_000 < each <= 300_000 for each in left["default"])
    assert all(86_000_000 < each <= 86_400_000 for each in left["day"])
    assert left["ever"] == [-1, -1, -1]


def test_parts_of_a_second_count(fake: FakeCluster) -> None:
    node, key = fake.nodes[0], key_at(fake, 0)
    node.on("SET", OK)
    node.on("PEXPIRE", b":1\r\n")
    with made(default={"LOCATION": fake.seeds}) as caches:
        caches["default"].set(key, 1, timeout=0.5)
        caches["default"].touch(key, timeout=0.0001)
    assert [command[-1] for command in node.work()] == [b"500", b"1"]


@pytest.mark.parametrize("timeout", [0, -1, 0.0])
def test_what_is_to_be_kept_for_no_time_is_gone(cache: Any, timeout: float) -> None:
    cache.set_many({"a": 1, "b": 1, "c": 1})
    cache.set("a", 2, timeout=timeout)
    assert cache.set_many({"b": 2}, timeout=timeout) == []
    assert cache.touch("c", timeout=timeout) is True
    assert cache.add("d", 2, timeout=timeout) is True
    assert cache.get_many("abcd") == {}
    cache.set("d", 1)
    assert cache.add("d", 2, timeout=timeout) is False
    assert cache.get("d") == 1


def test_touch_tells_whether_there_is_one_whatever_its_time(cache: Any) -> None:
    cache.set("key", 1)
    assert [cache.touch("key", None), cache.touch("key", None)] == [True, True]
    assert cache.cluster.execute("TTL", ":1:key") == -1
    assert cache.touch("key", 60) is True
    assert 0 < cache.cluster.execute("TTL", ":1:key") <= 60
    assert [cache.touch("missing", None), cache.touch("missing", 60)] == [False, False]


def test_values_are_those_that_django_s_own_backend_writes_and_reads(cache: Any) -> None:
    cache.set_many({"number": -42, "truth": True, "text": "42"})
    stored = [cache.cluster.execute("GET", f":1:{key}") for key in ("number", "truth", "text")]
    assert stored[0] == b"-42"
    assert [pickle.loads(each) for each in stored[1:]] == [True, "42"]


# -- counting ---------------------------------------------------------------------------------------------------------


def test_counting_keeps_the_time_and_makes_no_key(cache: Any) -> None:
    cache.set("count", 41, timeout=60)
    assert cache.incr("count") == 42
    assert cache.decr("count", 2) == 40
    assert 0 < cache.cluster.execute("TTL", ":1:count") <= 60
    with pytest.raises(ValueError, match="'missing' not found"):
        cache.incr("missing")
    assert cache.has_key("missing") is False


def test_counting_is_exact_beyond_what_lua_can_count(cache: Any) -> None:
    cache.set("count", 2**53)
    assert cache.incr("count") == 2**53 + 1
    assert cache.incr("count", 2) == 2**53 + 3


def test_greenlets_that_count_at_once_lose_nothing(cache: Any) -> None:
    cache.set("count", 0)
    counted = [gevent.spawn(cache.incr, "count") for _ in range(200)]
    gevent.joinall(counted, timeout=60, raise_error=True)
    assert sorted(each.value for each in counted) == list(range(1, 201))


def test_what_is_no_number_is_not_counted(cache: Any) -> None:
    cache.set("text", "x")
    with pytest.raises(ReplyError, match="not an integer"):
        cache.incr("text")


# -- clear ------------------------------------------------------------------------------------------------------------

OTHERS = (
    "plain",
    "shop",
    "shop:orders:7",
    "shop:2eu:1:key",
    "shop:-:1:key",
    "shop:eu:1:key",
    "shopping:1:key",
    ":1:key",
    "x:shop:1:key",
    "shop/key",
)


def test_clear_deletes_the_keys_of_this_prefix_and_of_all_versions(live_cluster: LocalCluster) -> None:
    nodes = {"LOCATION": live_cluster.seeds}
    with made(default={**nodes, "KEY_PREFIX": "shop"}, eu={**nodes, "KEY_PREFIX": "shop:eu"}) as caches:
        cache, cluster = caches["default"], caches["default"].cluster
        cluster.mset(dict.fromkeys(OTHERS, "kept"))
        caches["eu"].set("key", "kept")
        assert cache.set_many({f"key-{number}": number for number in range(2500)}) == []
        cache.set("key", 1, version=-2)
        cache.set("key", 1, version=12)
        cache.clear()
        assert sorted(key.decode() for key in cluster.scan_iter()) == sorted(OTHERS)
        assert caches["eu"].get("key") == "kept"


@pytest.mark.parametrize(
    ("cache", "others"),
    [
        ({"KEY_PREFIX": GLOB}, ["shop:1:key", "shoXpY:1:key", "s[h]o?p*:1:key"]),
        ({"KEY_PREFIX": ""}, ["a:1:key", "1:key", "::1:key"]),
        ({"KEY_PREFIX": "shop", "KEY_FUNCTION": turned}, ["shop:1:key", "shop/key", "shop/key@x"]),
    ],
    ids=["glob", "none", "KEY_FUNCTION"],
)
def test_clear_takes_the_prefix_as_it_is(live_cluster: LocalCluster, cache: dict[str, Any], others: list[str]) -> None:
    with made(default={"LOCATION": live_cluster.seeds, **cache}) as caches:
        caches["default"].cluster.mset(dict.fromkeys(others, "kept"))
        caches["default"].set("key", 1)
        caches["default"].set("a:b", 1, version=3)
        caches["default"].clear()
        assert sorted(key.decode() for key in caches["default"].cluster.scan_iter()) == sorted(others)


def test_clear_of_the_database_deletes_whatever_is_there(live_cluster: LocalCluster) -> None:
    with made(default={"LOCATION": live_cluster.seeds, "OPTIONS": {"clear": "database"}}) as caches:
        caches["default"].cluster.mset({str(number): number for number in range(100)})
        caches["default"].clear()
        assert caches["default"].cluster.execute("DBSIZE") == 0


def test_clear_knows_a_version_of_the_settings_that_is_no_number(live_cluster: LocalCluster) -> None:
    with made(default={"LOCATION": live_cluster.seeds, "KEY_PREFIX": "shop", "VERSION": "r*2"}) as caches:
        caches["default"].cluster.mset(dict.fromkeys(["shop:rs2:key", "shop:other:key"], "kept"))
        caches["default"].set("key", 1)
        caches["default"].set("key", 1, version=7)
        caches["default"].clear()
        assert sorted(caches["default"].cluster.scan_iter()) == [b"shop:other:key", b"shop:rs2:key"]


@pytest.mark.parametrize("function", [of_no_tag, of_no_prefix, hashed], ids=lambda each: each.__name__)
def test_clear_is_refused_where_keys_do_not_tell_whose_they_are(fake: FakeCluster, function: Any) -> None:
    refused = pytest.raises(ImproperlyConfigured, match='"clear": "database"')
    with made(default={"LOCATION": fake.seeds, "KEY_FUNCTION": function}) as caches, refused:
        caches["default"].clear()
    assert [node.work() for node in fake.nodes] == [[], [], []]


# -- when something goes wrong ----------------------------------------------------------------------------------------


def test_set_many_returns_the_keys_that_failed_and_why(fake: FakeCluster) -> None:
    keys = [key_at(fake, node) for node in range(3)]
    for node in fake.nodes:
        node.on("SET", OK)
    fake.nodes[1].on("SET", b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")
    with made(default={"LOCATION": fake.seeds}) as caches:
        failed = caches["default"].set_many(dict.fromkeys(keys, 1))
    assert failed == [keys[1]]
    assert failed.errors[keys[1]].code == "OOM"


def test_reading_or_deleting_many_names_the_keys_that_failed(fake: FakeCluster) -> None:
    keys = [key_at(fake, node) for node in range(3)]
    fake.nodes[0].on("UNLINK", b":1\r\n")
    fake.nodes[1].on("UNLINK", b":1\r\n")
    for name in ("MGET", "UNLINK"):
        fake.nodes[2].on(name, b"-ERR no\r\n")
    with made(default={"LOCATION": fake.seeds}) as caches:
        with pytest.raises(PartialFailure) as failed:
            caches["default"].get_many(keys)
        assert failed.value.keys == (f":1:{keys[2]}",)
        with pytest.raises(PartialFailure) as failed:
            caches["default"].delete_many(keys)
        assert failed.value.keys == (f":1:{keys[2]}",)


HARMLESS = {
    "SET": lambda cache, key: cache.set(key, 1),
    "SET ": lambda cache, key: cache.set_many({key: 1}) and pytest.fail("not set"),
    "UNLINK": lambda cache, key: cache.delete(key),
    "UNLINK ": lambda cache, key: cache.delete_many([key]),
    "PEXPIRE": lambda cache, key: cache.touch(key, 60),
    "PERSIST": lambda cache, key: cache.touch(key, None),
}


def lose_first(node: Any, name: str, then: bytes) -> None:
    """The first time the connection ends before the reply; then it is answered."""
    node.on("EXISTS", b":1\r\n")
    node.on(name, lambda *_: Close() if len(node.commands(name)) == 1 else then)


@pytest.mark.parametrize("what", HARMLESS)
def test_with_always_what_does_a_cache_no_harm_is_sent_again(fake: FakeCluster, what: str) -> None:
    name = what.strip()
    lose_first(fake.nodes[0], name, OK if name == "SET" else b":1\r\n")
    with made(default={"LOCATION": fake.seeds, "OPTIONS": {"retry": "always"}}) as caches:
        HARMLESS[what](caches["default"], key_at(fake, 0))
    assert len(fake.nodes[0].commands(name)) == 2


@pytest.mark.parametrize("what", ["SET", "UNLINK", "PEXPIRE", "PERSIST"])
def test_without_it_nothing_is_written_twice(fake: FakeCluster, what: str) -> None:
    lose_first(fake.nodes[0], what, OK if what == "SET" else b":1\r\n")
    with made(default={"LOCATION": fake.seeds}) as caches, pytest.raises(ConnectionLost) as lost:
        HARMLESS[what](caches["default"], key_at(fake, 0))
    assert lost.value.maybe_executed
    assert len(fake.nodes[0].commands(what)) == 1


def test_adding_and_counting_are_never_done_twice(fake: FakeCluster) -> None:
    node, key = fake.nodes[0], key_at(fake, 0)
    node.override = lambda _node, _connection, args: (
        Close() if args[0] in (b"SET", b"EVAL", b"EVALSHA") else NOT_HANDLED
    )
    with made(default={"LOCATION": fake.seeds, "OPTIONS": {"retry": "always"}}) as caches:
        for call in (caches["default"].add, caches["default"].incr):
            with pytest.raises(ConnectionLost) as lost:
                call(key, 1)
            assert lost.value.maybe_executed
    assert [len(node.commands("SET")), len(node.commands("EVAL")) + len(node.commands("EVALSHA"))] == [1, 1]


# -- asyncio ----------------------------------------------------------------------------------------------------------


def test_the_async_methods_do_what_the_others_do(cache: Any) -> None:
    async def use() -> list[Any]:
        await cache.aset("count", 1, 60)
        return [
            await cache.aset_many({"a": 1, "b": 2}),
            await cache.aget_many(["a", "b", "c"]),
            await cache.aincr("count"),
            await cache.adecr("count", 3),
            await cache.aadd("a", 2),
            await cache.ahas_key("a"),
            await cache.atouch("a", 60),
            await cache.aget_or_set("made", lambda: "made"),
            await cache.adelete_many(["a", "b"]),
            await cache.aget("a"),
            await cache.aincr_version("made"),
            await cache.adelete("made", version=2),
        ]

    outcome = asyncio.run(use())
    assert outcome == [[], {"a": 1, "b": 2}, 2, -1, False, True, True, "made", None, None, 2, True]
    assert 0 < cache.cluster.execute("TTL", ":1:count") <= 60, (
        "counted by the server: a set would have begun its time anew"
    )
