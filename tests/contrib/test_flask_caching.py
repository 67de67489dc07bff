"""gvcluster.contrib.flask_caching: Flask-Caching over a cluster, also while a primary is killed."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from flask_support import need, through_a_failover

need("flask_caching")

from cachelib.serializers import JSONSerializer
from flask import Flask
from flask_caching import Cache

from gvcluster import Cluster, ConfigError, ConnectionLost, GvClusterError, PartialFailure, ReplyError, hash_slot
from gvcluster.contrib.flask_caching import GvClusterCache
from gvcluster.testing import FakeCluster, LocalCluster
from gvcluster.testing.answers import Close

BACKEND = "gvcluster.contrib.flask_caching.GvClusterCache"


@pytest.fixture
def cache(live_cluster: LocalCluster, protocol: int) -> Iterator[GvClusterCache]:
    made = GvClusterCache(live_cluster.seeds, key_prefix="test:", protocol=protocol)
    yield made
    made.cluster.close()


def backend_of(settings: dict[str, Any]) -> GvClusterCache:
    """What an application with these settings has."""
    app = Flask("app")
    app.config.from_mapping({"CACHE_TYPE": BACKEND, **settings})
    extension = Cache(app)
    with app.app_context():
        return extension.cache


def test_each_method_does_what_its_name_says(cache):
    assert cache.get("a") is None
    assert cache.set("a", {"any": ["thing", 1.5, None]}) is True
    assert cache.get("a") == {"any": ["thing", 1.5, None]}
    assert (cache.has("a"), cache.has("b")) == (True, False)
    assert (cache.add("a", 1), cache.add("b", True)) == (False, True)
    assert cache.get_dict("b", "a", "c") == {"b": True, "a": {"any": ["thing", 1.5, None]}, "c": None}
    assert (cache.delete("a"), cache.delete("a")) == (True, False)
    assert (cache.inc("n"), cache.inc("n", 4), cache.dec("n", 2), cache.dec("m"), cache.get("n")) == (1, 5, 3, -1, 3)
    assert cache.unlink("n", "m", "b", "x") == 3
    assert [cache.get_many(), cache.set_many({}), cache.delete_many(), cache.unlink()] == [[], [], [], 0]


def test_many_keys_may_be_in_as_many_slots(cache):
    values = {f"key{number}": number for number in range(100)}
    assert cache.set_many(values) == list(values)
    assert cache.get_many(*values, "none") == [*values.values(), None]
    half = list(values)[::2]
    assert cache.delete_many(*half, "none") == [*half, "none"]
    assert [cache.has(key) for key in values] == [False, True] * 50


def test_a_timeout_counts_from_when_the_value_is_stored(cache):
    def seconds_left(key: str) -> int:
        return cache.cluster.execute("TTL", f"test:{key}")

    cache.set("default", 1)
    cache.set("short", 1, 100)
    cache.set("delta", 1, timedelta(hours=1))
    cache.set("for ever", 1, 0)
    cache.add("added", 1, 200)
    cache.set_many({"m": 1, "n": 2}, 500)
    left = {key: seconds_left(key) for key in ("default", "short", "delta", "added", "m", "n")}
    most = {"default": 300, "short": 100, "delta": 3600, "added": 200, "m": 500, "n": 500}
    assert all(most[key] - 90 < left[key] <= most[key] for key in most), left
    assert seconds_left("for ever") == -1


def test_clear_deletes_what_has_the_prefix_whatever_is_in_it_and_nothing_else(cache):
    cache.key_prefix = "a*[b]?\\:"
    cache.set_many({f"key{number}": number for number in range(2500)})
    for other in ("a*[b]?", "aX[b]?\\:key1", "a*b?\\:key1", "b"):
        cache.cluster.execute("SET", other, 1)
    assert cache.clear() is True
    assert set(cache.cluster.scan_iter()) == {b"a*[b]?", b"aX[b]?\\:key1", b"a*b?\\:key1", b"b"}


def test_clear_without_a_prefix_refuses_to_empty_the_cluster(cache):
    cache.cluster.execute("SET", "precious", 1)
    cache.key_prefix = ""
    with pytest.raises(ConfigError, match="no prefix"):
        cache.clear()
    assert cache.has("precious")


def test_a_function_is_asked_for_the_prefix_each_time(cache):
    numbers = count()
    cache.key_prefix = lambda: f"v{next(numbers)}:"
    cache.set("a", 1)
    assert cache.get("a") is None
    assert cache.cluster.exists("v0:a")


def test_keys_and_values_are_those_of_the_stock_backend(cache, live_cluster):
    need("redis")
    from flask_caching.backends import RedisClusterCache

    stock = RedisClusterCache(live_cluster.seeds, password=None, key_prefix="test:")
    values = {"number": 7, "text": "é", "list": [1, {"a": b"b"}], "true": True}
    for key, value in values.items():
        cache.set(key, value)
        stock.set(f"stock {key}", value)
    assert {key: stock.get(key) for key in values} == values
    assert {key: cache.get(f"stock {key}") for key in values} == values
    stock._write_client.close()


def test_an_application_names_everything_in_its_settings(live_cluster):
    settings = {
        "CACHE_REDIS_CLUSTER": live_cluster.seeds,
        "CACHE_KEY_PREFIX": "mine:",
        "CACHE_DEFAULT_TIMEOUT": 77,
        "CACHE_IGNORE_ERRORS": True,
        "CACHE_SERIALIZER": JSONSerializer,
        "CACHE_OPTIONS": {"client_name": "my-app", "in_doubt": "repeat"},
    }
    cache = backend_of(settings)
    assert isinstance(cache, GvClusterCache)
    assert (cache.default_timeout, cache.ignore_delete_many_errors) == (77, True)
    cache.set("key", [1, "a"])
    assert cache.cluster.execute("GET", "mine:key") == b'[1, "a"]'
    assert cache.get_many("key", "none") == [[1, "a"], None]
    assert cache.cluster.execute("CLIENT", "GETNAME", route_key="mine:key") == b"my-app"
    cache.cluster.close()


def test_a_url_or_a_password_reaches_the_nodes():
    with FakeCluster(password="se cret") as fake:
        url = f"valkey://:se%20cret@{fake.seeds}"
        for settings in (
            {"CACHE_REDIS_URL": url},
            {"CACHE_REDIS_URL": url, "CACHE_REDIS_PASSWORD": "another's"},
            {"CACHE_REDIS_URL": f"valkey://{fake.seeds}", "CACHE_REDIS_PASSWORD": "se cret"},
            {"CACHE_OPTIONS": {"cluster": fake.seeds}, "CACHE_REDIS_PASSWORD": "se cret"},
            {"CACHE_REDIS_CLUSTER": fake.seeds, "CACHE_REDIS_PASSWORD": "se cret"},
            {"CACHE_ARGS": [url]},
        ):
            cache = backend_of(settings)
            assert cache.get("key") is None
            cache.cluster.close()


def test_a_cluster_that_exists_is_used_as_it_is():
    with FakeCluster() as fake, Cluster(fake.seeds) as cluster:
        cache = backend_of({"CACHE_OPTIONS": {"cluster": cluster}})
        assert cache.cluster is cluster
        with pytest.raises(ConfigError, match="takes no options, such as timeout"):
            GvClusterCache(cluster, timeout=3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "no cluster is named"),
        ({"CACHE_REDIS_CLUSTER": "h:1", "CACHE_OPTIONS": {"comand_timeout": 1}}, "did you mean command_timeout"),
        ({"CACHE_REDIS_CLUSTER": "h:1", "CACHE_OPTIONS": {"in_doubt": "guess"}}, "in_doubt must be 'raise' or"),
        ({"CACHE_REDIS_URL": "http://h:1"}, "must begin with"),
    ],
)
def test_settings_that_make_no_sense_are_refused_when_the_application_is_made(settings, told):
    with pytest.raises(ConfigError, match=told):
        backend_of(settings)


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster() as nodes:
        yield nodes


@pytest.fixture
def doubtful(fake: FakeCluster) -> Iterator[GvClusterCache]:
    """A cache whose writes are repeated in doubt."""
    made = GvClusterCache(fake.seeds, 0, in_doubt="repeat", ignore_delete_many_errors=True)
    yield made
    made.cluster.close()


WRITES = {
    "set": ("SET", b"+OK\r\n", lambda cache, key: cache.set(key, 1)),
    "set_many": ("SET", b"+OK\r\n", lambda cache, key: cache.set_many({key: 1})),
    "delete": ("DEL", b":1\r\n", lambda cache, key: cache.delete(key)),
    "unlink": ("UNLINK", b":1\r\n", lambda cache, key: cache.unlink(key)),
}


@pytest.mark.parametrize("method", WRITES)
def test_a_write_in_doubt_raises_or_is_repeated_as_it_was_told(fake, doubtful, method):
    command, reply, write = WRITES[method]
    node, plain = fake.nodes[0], GvClusterCache(fake.seeds, 0)
    answers = iter([Close(), reply, Close()])
    node.on(command, lambda *_: next(answers))
    write(doubtful, fake.key_at(node))
    assert len(node.commands(command)) == 2
    with pytest.raises(GvClusterError) as caught:
        write(plain, fake.key_at(node))
    assert caught.value.maybe_executed
    assert len(node.commands(command)) == 3
    plain.cluster.close()


def test_what_counts_or_claims_is_never_repeated(fake, doubtful):
    key, node = fake.key_at(fake.nodes[0]), fake.nodes[0]
    node.on("INCRBY", Close())
    node.on("SET", Close())
    for call in (lambda: doubtful.inc(key), lambda: doubtful.dec(key), lambda: doubtful.add(key, 1)):
        with pytest.raises(ConnectionLost):
            call()
    assert (len(node.commands("INCRBY")), len(node.commands("SET"))) == (2, 1)


def test_set_many_and_get_many_say_what_has_failed(fake, doubtful):
    keys = [fake.key_at(node) for node in fake.nodes]
    fake.nodes[1].on("SET", b"-OOM no\r\n")
    with pytest.raises(PartialFailure) as caught:
        doubtful.set_many(dict.fromkeys(keys, 1))
    assert [type(one) for one in caught.value.results] == [bytes, ReplyError, bytes]
    fake.nodes[1].on("MGET", b"-WRONGTYPE no\r\n")
    with pytest.raises(PartialFailure):
        doubtful.get_many(*keys)


def test_delete_many_names_those_that_are_gone_or_raises(fake, doubtful):
    keys = [fake.key_at(node) for node in fake.nodes]
    assert len({hash_slot(key) for key in keys}) == 3
    fake.nodes[1].on("DEL", b"-NOPERM no\r\n")
    assert doubtful.delete_many(*keys) == [keys[0], keys[2]]
    assert doubtful.delete_many(keys[1]) == []
    doubtful.ignore_delete_many_errors = False
    with pytest.raises(RuntimeError, match="not all of 3 keys") as caught:
        doubtful.delete_many(*keys)
    assert isinstance(caught.value.__cause__, PartialFailure)


def test_gvcluster_itself_imports_neither_adapters_nor_frameworks():
    code = "import gvcluster, sys; print([name for name in sys.modules if name.partition('.')[0] in sys.argv[1:]])"
    names = ["cachelib", "flask", "flask_caching", "limits", "redis"]
    told = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
    contrib = "import gvcluster, sys; print('gvcluster.contrib' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", contrib], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


@pytest.mark.needs("elections")
def test_no_request_fails_while_a_primary_is_killed(live_cluster, protocol):
    app = Flask("app")
    settings = {"CACHE_TYPE": BACKEND, "CACHE_REDIS_CLUSTER": live_cluster.seeds}
    app.config.from_mapping({**settings, "CACHE_OPTIONS": {"protocol": protocol, "timeout": 60}})
    extension, computed = Cache(app), count()

    @app.route("/<key>")
    @extension.cached()
    def page(key: str) -> str:
        next(computed)
        return f"page of {key}"

    def get(key: str) -> str:
        response = app.test_client().get(f"/{key}")
        assert response.status_code == 200
        return response.text

    with through_a_failover(live_cluster, get) as load:
        assert load.errors == []
        assert all(page == f"page of {key}" for key, page in load.ended)
        # What was cached is there still, but for what replication had not carried over, and what was in doubt.
        assert next(computed) < len(load.ended) / 2
    before = next(computed)
    get("afterwards")
    get("afterwards")
    assert next(computed) == before + 2
    with app.app_context():
        extension.cache.cluster.close()
