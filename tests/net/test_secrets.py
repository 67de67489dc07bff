"""No error, repr or log line ever shows a password or a command's values."""

import gc
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import gvcluster
from gvcluster.core.slots import hash_slot
from gvcluster.errors import ConnectFailed, GvClusterError, PartialFailure
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import Close

PASSWORD = "canary-password"
VALUE = "canary-value"
KEY = "canary-key"
SECRETS = (PASSWORD, VALUE, KEY)
SLOT = hash_slot(KEY)


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster(password=PASSWORD) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    out, err = capfd.readouterr()
    assert_no_secret(caplog.text, out, err)


def assert_no_secret(*texts: str | bytes) -> None:
    for text in texts:
        for secret in SECRETS:
            found = secret.encode() in text if isinstance(text, bytes) else secret in text
            assert not found, f"{secret} is shown: {text[:400]!r}"


def all_told(error: BaseException) -> Iterator[BaseException]:
    """The error, and all that it leads to."""
    seen: dict[int, BaseException] = {}
    todo: list[Any] = [error]
    while todo:
        one = todo.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen[id(one)] = one
        todo += [one.__cause__, one.__context__]
        todo += getattr(one, "attempts", ()) + getattr(one, "results", ())
        todo += [failure for _, failure in getattr(one, "failures", ())]
        yield one


def assert_discreet(error: BaseException, *, pickled: bool = True) -> None:
    """Nothing that the error shows, and nothing that it leads to, has a secret in it."""
    for one in all_told(error):
        assert_no_secret(str(one), repr(one), repr(one.args), *getattr(one, "__notes__", ()))
        if pickled and isinstance(one, GvClusterError):
            assert_no_secret(pickle.dumps(one))
    assert_no_secret("".join(traceback.format_exception(error)))


def everything_of_ours(root: object) -> list[object]:
    """Every object of the package that can be reached."""
    seen: dict[int, object] = {}
    todo = [root]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | FakeCluster | FakeNode):
            continue
        module = type(one).__module__
        if not module.startswith(("gvcluster", "builtins", "collections", "mappingproxy")) or callable(one):
            continue
        seen[id(one)] = one
        todo += gc.get_referents(one)
    return [one for one in seen.values() if type(one).__module__.startswith("gvcluster")]


def connected(fake: FakeCluster, protocol: int, **options: Any) -> gvcluster.Cluster:
    options.setdefault("password", PASSWORD)
    return gvcluster.connect(fake.seeds, protocol=protocol, timeout=options.pop("timeout", 2.0), **options)


def test_no_object_of_the_package_shows_a_secret_while_calls_are_in_flight(fake: FakeCluster, protocol: int) -> None:
    events: list[object] = []
    with connected(fake, protocol, on_event=events.append, client_name="me") as cluster:
        cluster.execute("SET", KEY, VALUE)
        owner = fake.node_for_key(KEY)
        assert owner is not None
        owner.on("SET", None)
        calls = [gevent.spawn(cluster.execute, "SET", KEY, VALUE, **extra) for extra in ({}, {"timeout": 1.9})]
        owner.wait_until(lambda: len(owner.commands("SET")) == 3)
        ours = everything_of_ours(cluster)
        kinds = {type(one).__name__ for one in ours}
        assert {
            "Cluster",
            "Options",
            "ClusterState",
            "NodePool",
            "MultiplexedConnection",
            "Waiter",
            "Topology",
        } <= kinds
        assert_no_secret(*(repr(one) + str(one) for one in ours))
        assert_no_secret(repr(cluster.statistics()), repr(events), repr(cluster.primaries()))
        gevent.killall(calls)
        cluster.close()  # a graceful end would wait for their replies


def shaped(text: str) -> Callable[[FakeNode], None]:
    def shape(node: FakeNode) -> None:
        node.on("SET", text.encode() + b"\r\n")

    return shape


def silent(node: FakeNode) -> None:
    node.on("SET", None)


def dying(node: FakeNode) -> None:
    node.on("SET", Close())


def gone(node: FakeNode) -> None:
    node.stop()


@pytest.mark.parametrize(
    "shape",
    [
        silent,
        dying,
        gone,
        shaped("-TRYAGAIN later"),
        shaped("-CLUSTERDOWN down"),
        shaped(f"-MOVED {SLOT} ?:0"),
        shaped("-OOM command not allowed"),
        shaped("!garbage"),
        shaped("%1\r\n*0\r\n+v"),
    ],
)
def test_no_failing_call_shows_a_secret(fake: FakeCluster, protocol: int, shape: Callable[[FakeNode], None]) -> None:
    with connected(fake, protocol) as cluster:
        owner = fake.node_for_key(KEY)
        assert owner is not None
        shape(owner)
        for retry in ("safe", "never", "always"):
            with pytest.raises(GvClusterError) as caught:
                cluster.execute("SET", KEY, VALUE, timeout=0.15, retry=retry)
            assert_discreet(caught.value)
        cluster.close()  # a graceful end would wait for the replies of the silent one


@pytest.mark.parametrize(
    "args",
    [
        ("SET", KEY, object()),
        ("SET", KEY, VALUE, None),
        ("SET", KEY, VALUE + "\ud800"),
        ("GET", KEY + "\ud800"),
        ("EVAL", VALUE, 1, KEY + "\ud800"),
        ("SET", KEY, float("nan")),
        ("GET",),
        ("MSET", KEY, VALUE, VALUE, KEY),
        (f"SET {KEY} {VALUE}",),
        ("SUBSCRIBE", VALUE),
        ("BLPOP", KEY, VALUE),
        ("EVAL", VALUE, VALUE, KEY),
        ("CLIENT", VALUE),
        ("XREAD", "COUNT", VALUE, KEY),
    ],
)
def test_no_call_that_makes_no_sense_shows_its_values(fake: FakeCluster, protocol: int, args: tuple[Any, ...]) -> None:
    with connected(fake, protocol) as cluster:
        with pytest.raises(GvClusterError) as caught:
            cluster.execute(*args)
        # A CrossSlot has the keys for whoever asks for them.
        assert_discreet(caught.value, pickled=not isinstance(caught.value, gvcluster.CrossSlot))


def test_the_arguments_that_servers_repeat_are_not_shown(fake: FakeCluster, protocol: int) -> None:
    owner = fake.node_for_key(KEY)
    assert owner is not None
    text = f"ERR unknown command 'NEW.SET', with args beginning with: '{KEY}' '{VALUE}' "
    owner.on("NEW.SET", f"-{text}\r\n".encode())
    with connected(fake, protocol) as cluster, pytest.raises(gvcluster.ReplyError) as caught:
        cluster.execute("NEW.SET", KEY, VALUE, route_key=KEY)
    assert_discreet(caught.value, pickled=False)
    assert str(caught.value) == "ERR unknown command 'NEW.SET'"
    assert caught.value.message == text


@pytest.mark.parametrize(
    "answer",
    [
        f"-ERR unknown command `AUTH`, with args beginning with: `default`, `{PASSWORD}`, ",
        f"-WRONGPASS {PASSWORD} is wrong",
        f"-NOAUTH {PASSWORD}",
        f"-ERR {PASSWORD}",
        f"-NOPERM this user has no {PASSWORD}",
        "!garbage",
        "-WRONGPASS invalid username-password pair",
    ],
)
@pytest.mark.parametrize("name", ["HELLO", "AUTH"])
def test_no_failed_handshake_shows_the_password(fake: FakeCluster, name: str, answer: str) -> None:
    for node in fake.nodes:
        node.on(name, answer.encode() + b"\r\n")
        if name == "AUTH":
            node.on("HELLO", b"-ERR unknown command 'HELLO'\r\n")
    for protocol in (2, 3):
        if (protocol, name) == (2, "HELLO"):
            continue
        cluster = gvcluster.Cluster(fake.seeds, protocol=protocol, password=PASSWORD, username="default", timeout=0.3)
        try:
            for args in (("GET", KEY), ("SET", KEY, VALUE)):
                try:
                    cluster.execute(*args)
                except GvClusterError as error:
                    assert_discreet(error)
                else:
                    assert (name, answer[:5]) == ("HELLO", "-ERR ")  # falls back to AUTH, which lets it in
            assert_no_secret(*(repr(one) for one in everything_of_ours(cluster)))
        finally:
            cluster.close()


def test_an_error_of_on_connect_does_not_bring_the_password_along(fake: FakeCluster, protocol: int) -> None:
    told: list[BaseException] = []

    def on_connect(_connection: object, error: BaseException | None) -> None:
        if error is not None:
            told.append(error)
        raise RuntimeError("no")

    cluster = gvcluster.Cluster(fake.seeds, protocol=protocol, password=PASSWORD, on_connect=on_connect, timeout=0.3)
    try:
        with pytest.raises(GvClusterError) as caught:
            cluster.connect()
    finally:
        cluster.close()
    assert_discreet(caught.value)
    for error in told:
        assert_discreet(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gvcluster.Cluster(f"user:{PASSWORD}@h:1"),
        lambda: gvcluster.Cluster([f"{PASSWORD}@h"]),
        lambda: gvcluster.Cluster("h:1", password=PASSWORD + "\n"),
        lambda: gvcluster.Cluster("h:1", password=PASSWORD.encode()),  # type: ignore[arg-type]
        lambda: gvcluster.Cluster("h:1", username=PASSWORD, pasword=PASSWORD),  # type: ignore[call-arg]
        lambda: gvcluster.Cluster.from_url(f"valkey://user:{PASSWORD}@h"),
        lambda: gvcluster.Cluster.from_url(f"valkey://{PASSWORD}@h:1"),
        lambda: gvcluster.Cluster.from_url(f"http://user:{PASSWORD}@h:1"),
        lambda: gvcluster.Cluster.from_url(f"valkey://user:{PASSWORD}@h:1/{PASSWORD}"),
        lambda: gvcluster.Cluster.from_url(f"valkey://user:{PASSWORD}@h:1?password={PASSWORD}"),
        lambda: gvcluster.Cluster.from_url(f"valkey://h:1?password={PASSWORD}"),
        lambda: gvcluster.Cluster.from_url(f"valkey://user:{PASSWORD}@h:port"),
        lambda: gvcluster.Cluster.from_url(f"valkey://user:{PASSWORD}/@h:1"),
        lambda: gvcluster.Cluster.from_url(f"user:{PASSWORD}@h:1"),
    ],
)
def test_no_option_or_url_that_makes_no_sense_shows_the_password(make: Callable[[], object]) -> None:
    with pytest.raises(gvcluster.ConfigError) as caught:
        make()
    assert_discreet(caught.value)


def test_options_that_make_sense_do_not_show_it_either() -> None:
    cluster = gvcluster.Cluster.from_url(f"valkey://user:{PASSWORD}@h:1/0")
    assert_no_secret(*(repr(one) + str(one) for one in everything_of_ours(cluster)))


def test_errors_survive_pickling() -> None:
    """They cross processes, such as Celery's."""
    inner = gvcluster.ReplyError("ERR \x1b " + "x" * 1000, maybe_executed=True)
    for error in (
        inner,
        ConnectFailed("no", address=gvcluster.Address("h", 1)),
        PartialFailure("p", results=(1, inner)),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.maybe_executed) == (type(error), str(error), error.maybe_executed)
        assert {name: repr(value) for name, value in vars(copy).items()} == {
            name: repr(value) for name, value in vars(error).items()
        }
