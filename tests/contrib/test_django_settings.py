"""What CACHES says: where the nodes are, which options hold, what is refused, and who shares a cluster with whom."""

import subprocess
import sys
from typing import Any

import gevent
import pytest
from contrib_django import BACKEND, Plain, made
from django.core import signals
from django.core.cache import caches as handler
from django.core.exceptions import ImproperlyConfigured
from gevent.monkey import get_original

from gvcluster.contrib.django import _CLUSTERS
from gvcluster.testing import FakeCluster, LocalCluster

NODES = "127.0.0.1:7000,127.0.0.1:7001"
REFUSED = [
    ({"OPTIONS": {"command_timout": 1}}, "did you mean command_timeout"),
    ({"OPTIONS": {"serialiser": "x"}}, "did you mean serializer"),
    ({"OPTIONS": {"MAX_ENTRIES": 30}}, "unknown option 'MAX_ENTRIES'"),
    ({"OPTIONS": {"timeout": -1}}, "timeout must be a number of seconds greater than 0, not -1"),
    ({"OPTIONS": {"retry": "often"}}, "retry must be 'safe' or 'never', not 'often'"),
    ({"OPTIONS": {"clear": "all"}}, "clear must be 'prefix' or 'database', not 'all'"),
    ({"OPTIONS": {"serializer": "shop.json.Serializer"}}, "serializer: No module named 'shop'"),
    ({"OPTIONS": {"serializer": "json.JSONEncoder"}}, "serializer must have dumps and loads: JSONEncoder has not"),
    ({"LOCATION": ""}, "LOCATION names no node"),
    ({"LOCATION": []}, "LOCATION names no node"),
    ({"LOCATION": 6379}, "seeds must be"),
    ({"LOCATION": "127.0.0.1"}, "127.0.0.1"),
    ({"LOCATION": "http://127.0.0.1:7000"}, "the URL must begin with one of"),
    ({"LOCATION": ["redis://h1:1/1", "redis://h2:1/2"]}, "the URLs of LOCATION may differ in the node only"),
    ({"LOCATION": ["redis://h1:1", "h2:1"]}, "the URL must begin with one of"),
    ({"LOCATION": "redis://h1:1?command_timout=1"}, "did you mean command_timeout"),
]


@pytest.mark.parametrize(("wrong", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_what_makes_no_sense_is_refused_when_the_cache_is_first_used(wrong: dict[str, Any], told: str) -> None:
    with made(default={"LOCATION": NODES, **wrong}) as caches, pytest.raises(ImproperlyConfigured) as refused:
        caches["default"]
    assert told in str(refused.value)
    assert "GvClusterCache" in str(refused.value)


def test_no_refusal_shows_a_password() -> None:
    location = ["redis://:open-sesame@h1:1?command_timout=1", "redis://:open-sesame@h2:1"]
    with made(default={"LOCATION": location}) as caches, pytest.raises(ImproperlyConfigured) as refused:
        caches["default"]
    error: BaseException | None = refused.value
    while error is not None:
        assert "sesame" not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "form",
    [
        "{0},{1}",
        "{0};{1}",
        ["{0}", "{1}"],
        ("{0}", "{1}"),
        "valkey://{0},{1}",
        "redis://{0},{1}/0?client_name=shop",
        "redis://{0},redis://{1}",
        "redis://{0}, redis://{1}",
        "redis://{0};redis://{1}",
        ["redis://{0}", "redis://{1}"],
    ],
    ids=str,
)
def test_each_form_of_location_leads_to_the_cluster_by_its_last_node_too(form: Any, live_cluster: LocalCluster) -> None:
    nobody, somebody = "127.0.0.1:1", str(live_cluster.primaries()[0].address)
    location = (
        form.format(nobody, somebody) if isinstance(form, str) else [each.format(nobody, somebody) for each in form]
    )
    with made(default={"LOCATION": location}) as caches:
        caches["default"].set("form", str(form))
        assert caches["default"].get("form") == str(form)


def test_options_of_the_url_hold_and_those_of_options_win() -> None:
    location = "valkeys://user:secret@h1:1/0?command_timeout=1.5&client_name=theirs"
    with made(default={"LOCATION": location, "OPTIONS": {"client_name": "ours"}}) as caches:
        options = caches["default"].cluster._state.options
        assert (options.username, options.password, options.tls) == ("user", "secret", True)
        assert (options.command_timeout, options.client_name) == (1.5, "ours")


@pytest.mark.parametrize("given", ["contrib_django.Plain", Plain, Plain()], ids=["path", "class", "object"])
def test_a_serializer_is_named_or_given(given: Any, live_cluster: LocalCluster) -> None:
    with made(default={"LOCATION": live_cluster.seeds, "OPTIONS": {"serializer": given}}) as caches:
        caches["default"].set_many({"a": "one", "b": "two"})
        assert caches["default"].get("a") == "read one"
        assert caches["default"].get_many(["a", "b"]) == {"a": "read one", "b": "read two"}


def test_caches_with_the_same_settings_share_one_cluster_and_others_have_their_own() -> None:
    one = {"LOCATION": ["h1:1", "h2:1"], "OPTIONS": {"timeout": 3}}
    given = {
        "one": one,
        "again": {**one, "LOCATION": ("h1:1", "h2:1"), "OPTIONS": {"timeout": 3}, "KEY_PREFIX": "other"},
        "nodes": {**one, "LOCATION": ["h1:1"]},
        "options": {**one, "OPTIONS": {"timeout": 4}},
    }
    with made(**given) as caches:
        cluster = caches["one"].cluster
        assert caches["again"].cluster is cluster
        assert len({id(caches[alias].cluster) for alias in given}) == 3
        seen = [gevent.spawn(lambda: (caches["one"], caches["one"].cluster)) for _ in range(3)]
        gevent.joinall(seen, raise_error=True)
        assert [each.value[1] for each in seen] == [cluster] * 3
        assert len(_CLUSTERS) == 3, "none was made for nothing"


class Overtaken(str):
    """A LOCATION at whose first reading somebody else makes the same cache."""

    made: Any = None

    def replace(self, *args: Any) -> str:
        if Overtaken.made is None:
            Overtaken.made = ()
            Overtaken.made = handler.create_connection("default")
        return super().replace(*args)


def test_two_threads_that_come_first_share_one_cluster_all_the_same() -> None:
    with made(default={"LOCATION": Overtaken(NODES)}) as caches:
        assert caches["default"].cluster is Overtaken.made.cluster


def test_each_thread_has_a_cache_of_its_own_and_all_have_one_cluster(live_cluster: LocalCluster) -> None:
    """Native threads, each with a hub: what Django's threaded servers and its async views are."""
    go, pool = get_original("threading", "Event")(), gevent.get_hub().threadpool
    with made(default={"LOCATION": live_cluster.seeds}) as caches:

        def use(number: int) -> tuple[int, int, int]:
            go.wait(20)
            caches["default"].set(f"thread:{number}", number)
            return id(caches["default"]), id(caches["default"].cluster), caches["default"].get(f"thread:{number}")

        results = [pool.spawn(use, number) for number in range(4)]
        go.set()
        found = [result.get(timeout=60) for result in results]
        assert [value for _, _, value in found] == [0, 1, 2, 3]
        assert len({cluster for _, cluster, _ in found}) == 1


def test_the_end_of_a_request_closes_nothing(live_cluster: LocalCluster) -> None:
    with made(default={"LOCATION": live_cluster.seeds}) as caches:
        opened = []
        for _ in range(3):
            caches["default"].set("kept", 1)
            opened.append(sum(node.opened for node in caches["default"].cluster.statistics().nodes))
            signals.request_finished.send(sender=None)
        assert caches["default"].get("kept") == 1
        assert opened == [opened[0]] * 3


def test_a_cache_is_made_without_a_node() -> None:
    with FakeCluster(1) as fake:
        with made(default={"LOCATION": fake.seeds}) as caches:
            assert repr(caches["default"]) == f"<GvClusterCache '' over <Cluster {fake.seeds} no map yet>>"
            gevent.sleep(0.01)
        assert fake.nodes[0].received == []


def test_gvcluster_imports_no_framework() -> None:
    program = "import gvcluster, sys; print([name for name in sys.modules if 'django' in name or '.contrib' in name])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_the_backend_is_where_the_documents_say() -> None:
    from django.utils.module_loading import import_string

    assert import_string(BACKEND).__name__ == "GvClusterCache"
