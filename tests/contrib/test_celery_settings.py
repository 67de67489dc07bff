"""URLs and settings of the Celery result backend. Nothing connects to anything."""

import logging
import ssl
import subprocess
import sys
from typing import Any

import celery_support  # the tests need Celery
import pytest

assert celery_support


def backend_of(url: str | None = "gvcluster://h1:7000,h2:7001", **conf: Any) -> Any:
    """The backend of an app with these settings."""
    from celery import Celery

    app = Celery("test", set_as_current=False)
    app.conf.update(result_backend=url, **conf)
    return app.backend


def options_of(*args: Any, **conf: Any) -> Any:
    """The checked options of its cluster."""
    return backend_of(*args, **conf).client._state.options


def refusal(*args: Any, **conf: Any) -> str:
    """Why the settings are refused."""
    from celery.exceptions import ImproperlyConfigured

    with pytest.raises(ImproperlyConfigured) as caught:
        backend_of(*args, **conf)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_the_entry_point_makes_a_backend_of_a_url_with_several_hosts():
    from gvcluster.contrib.celery import ClusterBackend

    backend = backend_of("gvcluster://user:p%40ss@h1:7000,h2:7001/3?timeout=5&max_connections=7")
    assert type(backend) is ClusterBackend
    options = backend.client._state.options
    assert (options.username, options.password, options.db) == ("user", "p@ss", 3)
    assert (options.timeout, options.max_connections, options.tls) == (5.0, 7, False)
    assert repr(backend.client) == "<Cluster h1:7000,h2:7001 no map yet>"


@pytest.mark.parametrize("scheme", ["valkeys", "rediss", "valkeys+cluster"])
def test_a_scheme_after_the_plus_can_ask_for_tls(scheme):
    assert options_of(f"gvcluster+{scheme}://h1:7000,h2:7001?tls_minimum_version=TLSv1.3").tls is True


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("gvcluster://h1:7000,h2:7001", "gvcluster://h1:7000,h2:7001"),
        ("gvcluster://me:secret@h1:7000,h2:7001/1", "gvcluster://me:**@h1:7000,h2:7001/1"),
        ("gvcluster://:secret@h1:7000", "gvcluster://:**@h1:7000"),
        ("gvcluster://me:pa@sec:ret@h1:7000", "gvcluster://me:**@h1:7000"),
        ("gvcluster+valkeys://me:sec%3Aret@[::1]:7000", "gvcluster+valkeys://me:**@[::1]:7000"),
    ],
)
def test_as_uri_shows_no_password_unless_asked_to(url, shown):
    backend = backend_of(url)
    assert backend.as_uri() == shown
    assert "sec" not in backend.as_uri()
    assert "sec" not in repr(backend.client)
    assert ("sec" in backend.as_uri(include_password=True)) == ("sec" in url)


def test_seeds_and_password_may_stand_in_settings_which_celery_report_can_show():
    from celery.app.utils import filter_hidden_settings

    conf = {
        "result_backend_transport_options": {"seeds": ["h1:7000", "h2:7001"], "cluster": {"password": "secret"}},
    }
    backend = backend_of("gvcluster://", **conf)
    assert repr(backend.client) == "<Cluster h1:7000,h2:7001 no map yet>"
    assert backend.client._state.options.password == "secret"
    assert backend.as_uri() == "gvcluster://"
    assert "secret" not in str(filter_hidden_settings(dict(conf, result_backend="gvcluster://")))


def test_the_settings_of_the_redis_backend_are_obeyed():
    options = options_of(
        redis_username="me",
        redis_password="secret",
        redis_client_name="web",
        redis_max_connections=9,
        redis_socket_timeout=3.0,
        redis_socket_connect_timeout=1.5,
        redis_db=2,
    )
    assert (options.username, options.password, options.client_name, options.db) == ("me", "secret", "web", 2)
    assert (options.max_connections, options.command_timeout, options.connect_timeout) == (9, 3.0, 1.5)


def test_celerys_own_default_of_two_minutes_is_no_choice_of_the_user():
    assert options_of().command_timeout == 5.0


def test_the_url_stands_above_settings_and_options_of_the_cluster_above_both():
    url = "gvcluster://:of-the-url@h1:7000?timeout=3"
    options = options_of(
        url, redis_password="of-settings", result_backend_transport_options={"cluster": {"timeout": 4.0}}
    )
    assert (options.password, options.timeout) == ("of-the-url", 4.0)


def test_one_host_may_be_named_by_the_settings():
    assert repr(backend_of("gvcluster://", redis_host="h9").client) == "<Cluster h9:6379 no map yet>"


def test_tls_settings_of_the_redis_backend_are_translated():
    options = options_of(redis_backend_use_ssl={"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False})
    assert (options.tls, options.danger_accept_invalid_certificates) == (True, True)
    assert options.danger_accept_invalid_hostnames is True
    assert options_of(redis_backend_use_ssl=True).danger_accept_invalid_certificates is False
    assert options_of(redis_backend_use_ssl={"ssl_cert_reqs": "required"}).danger_accept_invalid_certificates is False


class Provider:
    """As redis-py's credential providers."""

    def get_credentials(self) -> tuple[str, ...]:
        return ("me", "token")


class Passwords:
    def get_credentials(self) -> tuple[str, ...]:
        return ("token",)


def test_a_credential_provider_is_asked_for_each_connection():
    options = options_of(redis_backend_credential_provider=Provider(), redis_password="unused")
    assert options.credentials(None) == ("me", "token")
    assert options.password is None
    assert options_of(redis_backend_credential_provider=Passwords).credentials(None) == "token"


@pytest.mark.parametrize(
    ("url", "conf", "why"),
    [
        ("gvcluster://", {}, "no node is named"),
        ("gvcluster://h1", {}, "host:port"),
        ("gvcluster://h1:99999", {}, "no address"),
        ("gvcluster+http://h1:7000", {}, "must begin with one of"),
        ("gvcluster://me:secret@h1:7000?timeuot=3", {}, "did you mean timeout"),
        ("gvcluster://me:secret@h1:7000?timeout=long", {}, "timeout must be a number"),
        ("gvcluster://me:sec/ret@h1:7000", {}, "percent-encoded"),
        ("gvcluster://h1:7000", {"redis_backend_use_ssl": {"ssl_ca": "x"}}, "ssl_ca_certs"),
        ("gvcluster://h1:7000", {"redis_username": "me"}, "username needs a password"),
        ("gvcluster://h1:7000", {"redis_backend_credential_provider": object()}, "get_credentials"),
        ("gvcluster://h1:7000", {"result_backend_transport_options": {"key_fromat": "stock"}}, "mean 'key_format'"),
        ("gvcluster://h1:7000", {"result_backend_transport_options": {"key_format": "other"}}, "'tagged' or 'stock'"),
        ("gvcluster://h1:7000", {"result_backend_transport_options": {"push": "yes"}}, "push must be"),
        ("gvcluster://h1:7000", {"result_backend_transport_options": {"cluster": []}}, "a dict of options"),
        ("gvcluster://h1:7000", {"result_backend_transport_options": {"cluster": {"tiemout": 1}}}, "mean timeout"),
        ("gvcluster://h1:7000", {"result_backend_transport_options": {"retry_policy": {"max": 1}}}, "max_retries"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_backend_is_made(url, conf, why):
    said = refusal(url, **conf)
    assert why in said
    assert "sec" not in said.replace("seconds", "")


def test_options_of_other_transports_are_let_be_and_named_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        backend_of(result_backend_transport_options={"visibility_timeout": 3600})
    assert "visibility_timeout" in caplog.text


def test_keys_have_the_id_in_braces_or_are_those_of_celerys_own_backends():
    tagged = backend_of(result_backend_transport_options={"global_keyprefix": "mine"})
    assert tagged.get_key_for_task("a1") == b"mine_celery-task-meta-{a1}"
    assert tagged.get_key_for_group("g1") == b"mine_celery-taskset-meta-{g1}"
    assert tagged._strip_prefix(tagged.get_key_for_task("a1")) == "a1"
    stock = backend_of(result_backend_transport_options={"key_format": "stock"})
    assert stock.get_key_for_task("a1") == b"celery-task-meta-a1"
    assert stock.get_key_for_chord("g1") == b"chord-unlock-g1"
    assert stock._strip_prefix(b"celery-task-meta-a1") == "a1"


def test_all_threads_share_one_backend_unless_told_otherwise():
    assert backend_of().thread_safe is True
    assert backend_of(result_backend_thread_safe=False).thread_safe is False


def test_a_backend_survives_pickling():
    import pickle

    backend = backend_of("gvcluster+valkeys://:secret@h1:7000", result_expires=77)
    backend.app.set_current()
    copy = pickle.loads(pickle.dumps(backend))
    assert copy.url == "valkeys://:secret@h1:7000"
    assert copy.expires == 77
    assert copy.client._state.options.tls is True


def test_gvcluster_imports_no_celery_and_making_a_backend_makes_no_hub_and_no_thread():
    script = """
import sys, threading
import gvcluster
assert not [name for name in sys.modules if name.startswith(("celery", "kombu"))]
from celery import Celery
from gevent._hub_local import get_hub_if_exists
app = Celery("test", backend="gvcluster://h1:7000")
app.AsyncResult("id")
assert app.backend.as_uri() == "gvcluster://h1:7000"
assert get_hub_if_exists() is None and threading.active_count() == 1
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
