"""Constructor arguments and URLs of the libraries, and what they come to. Nothing connects here."""

import importlib
import ssl
from types import SimpleNamespace
from typing import Any

import pytest
from compat_library import LIBRARY

from gvcluster.compat.arguments import Arguments, arguments_from
from gvcluster.core.address import Address


@pytest.fixture
def ours(facade: Any) -> Any:
    return facade._library


def options(ours: Any, **given: Any) -> dict[str, Any]:
    return read(ours, **given).options


def read(ours: Any, **given: Any) -> Arguments:
    return arguments_from({"host": "h", **given}, ours)


def test_an_unknown_argument_is_refused_with_the_nearest_name(facade: Any) -> None:
    with pytest.raises(TypeError, match="'sokcet_timeout'; did you mean 'socket_timeout'"):
        facade(host="h", sokcet_timeout=1)
    with pytest.raises(TypeError, match="'decode_response'; did you mean 'decode_responses'"):
        facade.from_url(f"{LIBRARY}://h?decode_response=1")


def test_every_argument_of_the_librarys_own_constructor_is_known(original: Any, ours: Any) -> None:
    import inspect

    from gvcluster.compat.arguments import KNOWN

    module = importlib.import_module(original.__module__)
    named = set(inspect.signature(original.__init__).parameters) - {"self", "kwargs"}
    allowed = set(getattr(module, ours.named("REDIS_ALLOWED_KEYS"), None) or module.VALKEY_ALLOWED_KEYS)
    # Left over from older versions, where nobody looks at them, or for the library's own use.
    unused = {"charset", "errors", "nodes_flag", "connection_pool_class", "himport_fieldsets"}
    unused |= {"cache_max_size", "cache_ttl", "cache_policy", "cache_deny_list", "cache_allow_list"}
    unused |= {"oss_cluster_maint_notifications_handler"}
    assert (named | allowed) - unused <= KNOWN


@pytest.mark.parametrize(
    "nodes",
    [
        "a:1,b:2",
        ["a:1", "b:2"],
        [("a", 1), ("b", 2)],
        [{"host": "a", "port": 1}, {"host": "b", "port": "2"}],
        [Address("a", 1), SimpleNamespace(host="b", port=2)],
    ],
)
def test_startup_nodes_are_objects_dicts_or_strings(ours: Any, nodes: Any) -> None:
    assert arguments_from({"startup_nodes": nodes}, ours).seeds == (("a", 1), ("b", 2))


def test_the_librarys_own_nodes_are_startup_nodes(ours: Any, facade: Any) -> None:
    node = ours.cluster.ClusterNode("127.0.0.1", 7000)
    assert arguments_from({"startup_nodes": [node]}, ours).seeds == (("127.0.0.1", 7000),)
    assert facade("127.0.0.1", 7001)._given.seeds == (("127.0.0.1", 7001),)


def test_times_are_those_of_one_reply_and_of_the_whole_call(ours: Any) -> None:
    assert options(ours, socket_timeout=20, socket_connect_timeout=3) | {"protocol": 0} == {
        "protocol": 0,
        "command_timeout": 20.0,
        "timeout": 40.0,
        "connect_timeout": 3,
    }
    assert options(ours, socket_timeout=None)["command_timeout"] > 3600
    assert "command_timeout" not in options(ours)


def test_names_that_mean_the_same_get_ours(ours: Any) -> None:
    def remap(address: Any) -> Any:
        return address

    got = options(
        ours,
        username="u",
        password="p",
        client_name="n",
        max_connections=7,
        timeout=2,
        address_remap=remap,
        protocol="3",
        lib_name=None,
        socket_keepalive=False,
    )
    assert got.pop("socket_options")
    assert got == {
        "username": "u",
        "password": "p",
        "client_name": "n",
        "max_connections": 7,
        "pool_timeout": 2,
        "address_map": remap,
        "protocol": 3,
        "client_info": False,
    }


def test_reads_go_where_the_strategy_says(ours: Any) -> None:
    assert options(ours, read_from_replicas=True)["read_from"] == "any"
    assert "read_from" not in options(ours, read_from_replicas=False)
    strategies = getattr(ours.cluster, "LoadBalancingStrategy", None)
    if strategies is not None:
        told = {each.name: options(ours, load_balancing_strategy=each)["read_from"] for each in strategies}
        assert told["ROUND_ROBIN"] == "any"
        assert told["ROUND_ROBIN_REPLICAS"] == "prefer_replica"


def test_no_retries_are_none_and_some_are_ours(ours: Any) -> None:
    retry = importlib.import_module(f"{LIBRARY}.retry").Retry
    backoff = importlib.import_module(f"{LIBRARY}.backoff").NoBackoff()
    assert options(ours, retry=retry(backoff, 0))["retry"] == "never"
    assert options(ours, cluster_error_retry_attempts=0)["retry"] == "never"
    assert "retry" not in options(ours, retry=retry(backoff, 5))


@pytest.mark.parametrize("told", [("u", "p"), ("p",)])
def test_a_credential_provider_is_asked_for_each_connection(ours: Any, told: Any) -> None:
    provider = SimpleNamespace(get_credentials=lambda: told)
    credentials = options(ours, credential_provider=provider)["credentials"]
    assert credentials(Address("h", 1)) == (told if len(told) == 2 else (None, "p"))


def test_ssl_arguments_are_tls_options(ours: Any) -> None:
    got = options(ours, ssl=True, ssl_ca_certs="ca", ssl_certfile="c", ssl_keyfile="k", ssl_check_hostname=False)
    assert got | {"protocol": 0} == {
        "protocol": 0,
        "tls": True,
        "tls_ca_file": "ca",
        "tls_cert_file": "c",
        "tls_key_file": "k",
        "danger_accept_invalid_hostnames": True,
    }
    assert options(ours, ssl=True, ssl_cert_reqs="none")["danger_accept_invalid_certificates"]
    assert options(ours, ssl=True, ssl_min_version=ssl.TLSVersion.TLSv1_3)["tls_minimum_version"] == "TLSv1.3"
    assert options(ours, ssl=True, ssl_ciphers="ECDHE+AESGCM")["tls"].check_hostname


@pytest.mark.parametrize("given", [{"db": 0}, {"cache": object()}, {"unix_socket_path": "/x"}])
def test_what_a_cluster_or_we_can_not_do_is_refused(facade: Any, ours: Any, given: Any) -> None:
    with pytest.raises(ours.error("RedisClusterException")):
        facade(host="h", **given)
    with pytest.raises(ours.error("RedisClusterException"), match="at least one node"):
        facade()


def test_a_url_says_what_the_library_reads_in_it(ours: Any) -> None:
    url = f"{LIBRARY}s://me:p%40ss@h:7000/0?socket_timeout=2.5&decode_responses=1".replace("rediss", "rediss")
    given = arguments_from({"url": url}, ours)
    assert given.seeds == (("h", 7000),)
    assert (given.options["username"], given.options["password"]) == ("me", "p@ss")
    assert (given.options["tls"], given.options["command_timeout"]) == (True, 2.5)
    assert given.decode_responses


@pytest.mark.parametrize("scheme", ["redis", "valkey", "redis+cluster", "valkey+cluster"])
def test_a_url_may_have_several_hosts_and_either_scheme(ours: Any, scheme: str) -> None:
    given = arguments_from({"url": f"{scheme}://:p@a:1,b:2,c/0"}, ours)
    assert sorted(given.seeds) == [("a", 1), ("b", 2), ("c", 6379)]
    assert given.options["password"] == "p"


def test_a_url_of_a_socket_or_another_database_is_refused(ours: Any, facade: Any) -> None:
    for url in ("unix:///tmp/x.sock", f"{LIBRARY}://h/3"):
        with pytest.raises(ours.error("RedisClusterException")):
            facade.from_url(url)


def test_what_flask_caching_passes_is_accepted(ours: Any) -> None:
    assert options(ours, skip_full_coverage_check=True, password="").keys() == {"protocol"}
