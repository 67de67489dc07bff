"""Options, seeds and URLs: what is taken, what is refused, and that no password is ever shown."""

import contextlib
import inspect
import random
import traceback
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvcluster import Cluster
from gvcluster.call_options import CallOptions
from gvcluster.core.address import Address
from gvcluster.errors import ConfigError, GvClusterError
from gvcluster.options import ClusterOptions, Options, options_from, refuse_unknown
from gvcluster.seeds import parse_seeds, parse_url

SECRET = "hunter2"


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_names_that_type_checkers_know_are_those_that_are_taken():
    assert set(ClusterOptions.__annotations__) == {each.name for each in fields(Options)}


def test_every_option_is_explained():
    told = inspect.getdoc(Options)
    assert [each.name for each in fields(Options) if each.name not in told] == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("pasword", "password"),
        ("user_name", "username"),
        ("max_redirect", "max_redirects"),
        ("comand_timeout", "command_timeout"),
        ("on_disconect", "on_disconnect"),
        ("clientname", "client_name"),
        ("Timeout", "timeout"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_nearest_known_name(name, near):
    with pytest.raises(ConfigError) as caught:
        options_from({name: SECRET})
    assert str(caught.value) == f"unknown option {name!r}; did you mean {near}?"


def test_an_option_like_no_other_is_refused_with_all_known_names():
    with pytest.raises(ConfigError) as caught:
        options_from({"xyzzy": SECRET})
    for each in fields(Options):
        assert each.name in str(caught.value)
    assert SECRET not in str(caught.value)


def test_options_of_a_call_are_checked_the_same_way():
    refuse_unknown({"node": 1, "retry": 2}, CallOptions.__annotations__)
    with pytest.raises(ConfigError, match="did you mean route_key"):
        refuse_unknown({"routekey": 1}, CallOptions.__annotations__)


# -- values -----------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_readme():
    options = Options()
    assert (options.connect_timeout, options.command_timeout, options.timeout) == (2.0, 5.0, 10.0)
    assert (options.protocol, options.db, options.max_redirects, options.retry) == (3, 0, 16, "safe")
    assert (options.username, options.password, options.client_name, options.client_info) == (None, None, None, True)
    assert options.topology_source == "slots"
    assert (options.lanes, options.max_in_flight, options.max_queued_bytes) == (1, 10_000, 64 * 2**20)
    assert options.max_waiting == 100_000
    assert options.on_connect is options.on_disconnect is options.on_event is None


def test_each_cluster_has_a_random_generator_of_its_own():
    assert Options().rng is not Options().rng
    mine = random.Random(7)
    assert Options(rng=mine).rng is mine


def test_options_are_frozen():
    with pytest.raises(AttributeError, match="never changes"):
        Options().timeout = 1.0  # type: ignore[misc]


GOOD = [
    ("connect_timeout", 0.001),
    ("command_timeout", 1),
    ("timeout", 1e9),
    ("protocol", 2),
    ("retry", "never"),
    ("topology_source", "nodes"),
    ("db", 15),
    ("max_redirects", 0),
    ("lanes", 1),
    ("max_in_flight", 1),
    ("max_queued_bytes", 1),
    ("max_waiting", 0),
    ("password", ""),
    ("password", "p w:/@?#%\u2603"),
    ("client_name", "worker-1"),
    ("client_info", False),
    ("refresh_interval", None),
    ("refresh_interval", 60),
    ("address_family", "prefer_ipv6"),
    ("mptcp", True),
    ("credentials", print),
    ("on_event", print),
    ("rng", random.SystemRandom()),
]
BAD = [
    *((name, value) for name in ("connect_timeout", "command_timeout", "timeout") for value in (
        0, -1, -0.5, float("nan"), float("inf"), True, "1", None, b"1", [1], 1j)),
    *(("refresh_interval", value) for value in (0, -1, float("inf"), True, "1")),
    *(("address_family", value) for value in ("ip", "", None, 4)),
    *(("socket_options", value) for value in (None, "", 1, {1: 2}, [1, 2, 1], [(1, 2)], [(1, 2, "1")], [(1, 2, True)])),
    ("mptcp", 1),
    *(("credentials", value) for value in ("me", ("me", SECRET), 1)),
    *(("protocol", value) for value in (0, 1, 4, "3", True, None)),
    *(("retry", value) for value in ("always", "Safe", "", True, None, 1)),
    *(("topology_source", value) for value in ("shards", "", None, True)),
    *((name, value) for name in ("db", "max_redirects", "max_waiting") for value in (-1, 1.0, "0", True, None)),
    *((name, value) for name in ("lanes", "max_in_flight", "max_queued_bytes") for value in (0, -1, 1.0, "1", True)),
    *((name, value) for name in ("username", "password", "client_name") for value in (
        b"bytes", 1, True, ["a"], "a\r\nb", "a\0b", "tab\t", "\x7f", "\x85", "\ud800")),
    ("client_name", ""),
    ("client_name", "two words"),
    ("client_info", "yes"),
    ("client_info", None),
    *(("rng", value) for value in (None, 7, random)),
    *((name, value) for name in ("on_connect", "on_disconnect", "on_event") for value in ("print", 1, True)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_a_good_value_is_taken_as_it_is(name, value):
    assert getattr(options_from({name: value}), name) is value


def test_socket_options_are_kept_as_they_are_now():
    given = [[1, 2, 1], (6, 18, b"\x01\x02")]
    options = options_from({"socket_options": given})
    given.clear()
    assert options.socket_options == ((1, 2, 1), (6, 18, b"\x01\x02"))


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_name(name, value):
    given = {name: value}
    if name == "username":
        given["password"] = SECRET
    with pytest.raises(ConfigError, match=rf"^{name}\b") as caught:
        options_from(given)
    assert isinstance(caught.value, ValueError)
    assert not caught.value.maybe_executed


def test_credentials_and_a_password_at_once_are_refused():
    with pytest.raises(ConfigError, match="credentials"):
        options_from({"password": SECRET, "credentials": lambda _: SECRET})


def test_a_username_without_a_password_is_refused_and_with_an_empty_one_is_not():
    with pytest.raises(ConfigError, match="username needs a password"):
        options_from({"username": "me"})
    assert options_from({"username": "me", "password": ""}).password == ""


# -- seeds ------------------------------------------------------------------------------------------------------------

A, B = Address("127.0.0.1", 7000), Address("node-2.example.com", 7001)


@pytest.mark.parametrize(
    ("seeds", "addresses"),
    [
        ("127.0.0.1:7000", (A,)),
        ("127.0.0.1:7000,node-2.example.com:7001", (A, B)),
        (" 127.0.0.1:7000 ,\tnode-2.example.com:7001 ", (A, B)),
        ("127.0.0.1:7000,127.0.0.1:7000", (A,)),
        (["127.0.0.1:7000", "node-2.example.com:7001"], (A, B)),
        ([A, B], (A, B)),
        ([("127.0.0.1", 7000), B, "127.0.0.1:7000"], (A, B)),
        ((A,), (A,)),
        ((each for each in (B, A)), (B, A)),
        ({A: "a", B: "b"}, (A, B)),
        ("[::1]:7000", (Address("::1", 7000),)),
        ("::1:7000,[fe80::1]:7001", (Address("::1", 7000), Address("fe80::1", 7001))),
        ([("::1", 7000)], (Address("::1", 7000),)),
    ],
)
def test_seeds_come_in_many_forms(seeds, addresses):
    assert parse_seeds(seeds) == addresses


@pytest.mark.parametrize(
    "seeds",
    [
        "",
        " ",
        ",",
        "127.0.0.1:7000,",
        ",127.0.0.1:7000",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:seven",
        ":7000",
        "?:7000",
        "127.0.0.1:7000;127.0.0.1:7001",
        "127.0.0.1:7000 127.0.0.1:7001",
        "valkey://127.0.0.1:7000",
        [],
        (),
        b"127.0.0.1:7000",
        7000,
        None,
        True,
        ("127.0.0.1", 7000),  # a pair is not a list of seeds
        [("127.0.0.1",)],
        [("127.0.0.1", 7000, 1)],
        [(b"127.0.0.1", 7000)],
        [("127.0.0.1", 0)],
        [("127.0.0.1", -1)],
        [("127.0.0.1", True)],
        [("127.0.0.1", 7000.0)],
        [("127.0.0.1", None)],
        [["127.0.0.1", 7000]],
        [None],
        [b"127.0.0.1:7000"],
        [Address("?", 7000)],
        [Address("", 7000)],
        [Address("host", 0)],
    ],
)
def test_seeds_that_name_no_node_are_refused(seeds):
    with pytest.raises(ConfigError):
        parse_seeds(seeds)


@given(st.text(max_size=60))
def test_any_text_is_a_seed_list_or_a_config_error(text):
    try:
        addresses = parse_seeds(text)
    except ConfigError:
        return
    assert addresses == parse_seeds([str(address) for address in addresses])


# -- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["valkey", "redis", "valkey+cluster", "redis+cluster"])
def test_a_url_begins_with_a_scheme_that_means_no_tls(scheme):
    assert parse_url(f"{scheme}://h1:1,h2:2") == ("h1:1,h2:2", {})


@pytest.mark.parametrize("scheme", ["valkeys", "rediss", "valkeys+cluster", "rediss+cluster"])
def test_a_url_with_an_s_more_means_tls(scheme):
    assert parse_url(f"{scheme}://h1:1,h2:2") == ("h1:1,h2:2", {"tls": True})
    assert Cluster.from_url(f"{scheme}://h1:1")._state.tls is not None


@pytest.mark.parametrize(
    ("rest", "seeds", "options"),
    [
        ("h1:1", "h1:1", {}),
        ("h1:1/", "h1:1", {}),
        ("h1:1/3", "h1:1", {"db": 3}),
        ("[::1]:1,h2:2/0", "[::1]:1,h2:2", {"db": 0}),
        (":pw@h1:1", "h1:1", {"username": None, "password": "pw"}),
        ("me:pw@h1:1,h2:2/0", "h1:1,h2:2", {"username": "me", "password": "pw", "db": 0}),
        ("me:@h1:1", "h1:1", {"username": "me", "password": ""}),
        ("me:a:b@h1:1", "h1:1", {"username": "me", "password": "a:b"}),
        ("me:a@b#c@h1:1", "h1:1", {"username": "me", "password": "a@b#c"}),
        ("m%65:%70%77@h1:1", "h1:1", {"username": "me", "password": "pw"}),
        (":%2F%3F%23%40%3A%25@h1:1", "h1:1", {"username": None, "password": "/?#@:%"}),
        (":a+b%20c@h1:1", "h1:1", {"username": None, "password": "a+b c"}),
        (":%2525@h1:1", "h1:1", {"username": None, "password": "%25"}),  # decoded once
        (":%E2%98%83@h1:1", "h1:1", {"username": None, "password": "\u2603"}),
        ("h1:1?command_timeout=1.5", "h1:1", {"command_timeout": 1.5}),
        ("h1:1/?timeout=3&connect_timeout=.5", "h1:1", {"timeout": 3.0, "connect_timeout": 0.5}),
        ("h1:1/0?protocol=2&max_redirects=5", "h1:1", {"db": 0, "protocol": 2, "max_redirects": 5}),
        ("h1:1?db=2", "h1:1", {"db": 2}),
        ("h1:1?lanes=2&max_in_flight=9&max_waiting=0", "h1:1", {"lanes": 2, "max_in_flight": 9, "max_waiting": 0}),
        ("h1:1?client_name=a%2Db&retry=never", "h1:1", {"client_name": "a-b", "retry": "never"}),
        ("h1:1?topology_source=nodes", "h1:1", {"topology_source": "nodes"}),
        ("h1:1?client_info=False", "h1:1", {"client_info": False}),
        ("h1:1?client_info=1", "h1:1", {"client_info": True}),
        ("h1:1?tls_ca_file=%2Fca.pem", "h1:1", {"tls_ca_file": "/ca.pem"}),
        ("h1:1?danger_accept_invalid_hostnames=true", "h1:1", {"danger_accept_invalid_hostnames": True}),
    ],
)
def test_a_url_gives_seeds_and_options(rest, seeds, options):
    assert parse_url("valkey://" + rest) == (seeds, options)
    assert options_from(options)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h1:1",
        "http://h1:1",
        "valkey:h1:1",
        "valkey:/h1:1",
        "VALKEY://h1:1",
        "unix:///tmp/socket",
        b"valkey://h1:1",
        None,
        "valkey://",
        "valkey:///0",
        "valkey://h1",
        "valkey://h1:x",
        "valkey://h1:1/x",
        "valkey://h1:1/-1",
        "valkey://h1:1/0/1",
        "valkey://h1:1/1.0",
        "valkey://h1:1/0?db=1",
        "valkey://h1:1?timeout=",
        "valkey://h1:1?timeout=abc",
        "valkey://h1:1?timeout=nan",
        "valkey://h1:1?timeout=-1",
        "valkey://h1:1?timeout=1&timeout=2",
        "valkey://h1:1?protocol=5",
        "valkey://h1:1?client_info=maybe",
        "valkey://h1:1?client_info=",
        "valkey://h1:1?retry=always",
        "valkey://h1:1?rng=1",
        "valkey://h1:1?on_event=print",
        "valkey://h1:1?nonsense=1",
        "valkey://h1:1?timeot=1",
        "valkey://h1:1?username=me",
        "valkey://me@h1:1",
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url):
    with pytest.raises(ConfigError):
        Cluster.from_url(url)


def test_a_url_that_names_no_node_is_not_blamed_on_its_scheme():
    with pytest.raises(ConfigError, match="and name nodes behind it: host:port,host:port"):
        Cluster.from_url("valkeys://")


def test_arguments_beside_a_url_win():
    cluster = Cluster.from_url("valkey://me:pw@h1:1/0?command_timeout=1.5", command_timeout=0.25)
    assert cluster.command_timeout == 0.25


@given(st.text(max_size=60))
def test_any_text_after_the_scheme_is_taken_or_a_config_error(text):
    with contextlib.suppress(ConfigError):
        Cluster.from_url("valkey://" + text)


SCHEME = st.sampled_from(["valkey://", "rediss://", "redis+cluster://", "http://", "valkey:"])
USER = st.sampled_from(["", "u:p@", ":p@", "u@", "%zz:%40@", "u:p@@"])
PLACE = st.sampled_from(["h:1", "h:1,g:2", "[::1]:1", "::1:1", "h", "h:0", "h:65536", ":1", "", "?:1", "h:1 "])
PATH = st.sampled_from(["", "/", "/0", "/7", "/x", "/-1", "/1/2"])
SETTING = st.sampled_from([*ClusterOptions.__annotations__, "password", "nosuch", ""])
VALUE = st.sampled_from(
    ["", "1", "0", "-1", "x", "true", "nan", "inf", "1e999", "9" * 5000, "%00", "slots", "/nowhere"]
)


@given(SCHEME, USER, PLACE, PATH, st.lists(st.tuples(SETTING, VALUE).map("=".join), max_size=3).map("&".join))
def test_whatever_a_url_is_made_of_it_is_taken_or_a_config_error(scheme, user, place, path, query):
    with contextlib.suppress(ConfigError):
        Cluster.from_url(f"{scheme}{user}{place}{path}?{query}")


# -- secrets ----------------------------------------------------------------------------------------------------------


def shown(error: BaseException) -> str:
    """Everything that a traceback says of an error, but for the lines of source code."""
    chain, told = error, ""
    while chain is not None:
        told += repr(chain) + str(chain) + repr(vars(chain))
        chain = None if chain.__suppress_context__ and not chain.__cause__ else chain.__cause__ or chain.__context__
    return told + "".join(traceback.format_exception_only(error))


def test_no_repr_shows_the_password():
    cluster = Cluster.from_url(f"valkey://me:{SECRET}@h1:1")
    for told in (repr(cluster), str(cluster), repr(options_from({"username": "me", "password": SECRET}))):
        assert SECRET not in told
    assert "password" not in repr(Options(password=SECRET))


@pytest.mark.parametrize(
    "given",
    [
        {"password": SECRET, "timeout": 0},
        {"password": SECRET + "\r\n"},
        {"password": [SECRET]},
        {"password": SECRET, "username": 5},
        {"password": SECRET, "usernam": "me"},
        {"pasword": SECRET},
        {"username": SECRET + "\0", "password": "x"},
    ],
)
def test_no_error_of_the_options_shows_the_password(given):
    with pytest.raises(GvClusterError) as caught:
        Cluster("h:1", **given)
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"valkey://me:{SECRET}@",
        f"valkey://me:{SECRET}@h1",
        f"valkey://me:{SECRET}@h1:x",
        f"valkey://me:{SECRET}@h1:1/x",
        f"valkey://me:{SECRET}@h1:1?timeout=x",
        f"valkey://me:{SECRET}@h1:1?nonsense=1",
        f"valkey://me:{SECRET}@h1:1,h2",
        f"valkey://me:{SECRET}%0d%0a@h1:1",
        f"valkey://me:{SECRET}/x@h1:1",  # characters that should have been percent-encoded
        f"valkey://me:x/{SECRET}@h1:1",
        f"valkey://me:{SECRET}?x@h1:1",
        f"valkey://me:x?{SECRET}@h1:1",
        f"valkey://me:x?timeout={SECRET}@h1:1",
        f"valkey://me:x?y={SECRET}@h1:1",
        f"valkey://:{SECRET}/@h1:1",
        f"valkey://:1/{SECRET}@h1:1",
        f"valkey://me:{SECRET} @h1:1 h2",
        f"valkey://{SECRET}@h1:1",
        f"valkey://h1:1?password={SECRET}",
        f"valkey://h1:1?passwd={SECRET}",
        f"valkey://h1:1?username={SECRET}",
        f"valkys://me:{SECRET}@h1:1",
        f"rediss://me:{SECRET}@h1",
        f"rediss://h1:1?tls_key_password={SECRET}",
        f"me:{SECRET}@h1:1",
    ],
)
def test_no_error_of_a_url_shows_the_password(url):
    with pytest.raises(ConfigError) as caught:
        Cluster.from_url(url).close()
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize("seeds", [f"me:{SECRET}@h1:1", f"h1:1,me:{SECRET}@h2", f"valkey://me:{SECRET}@h1:1"])
def test_no_error_of_a_seed_list_shows_the_password_of_a_misplaced_url(seeds):
    with pytest.raises(ConfigError) as caught:
        Cluster(seeds)
    assert SECRET not in shown(caught.value)
