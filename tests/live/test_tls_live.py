"""Against Redis 7.0's own TLS, client certificates included: the one server at hand that can. It runs in every run."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.ssl
import pytest
import trustme

from gvcluster import Cluster, Gap, Message, connect
from gvcluster.errors import GvClusterError, TopologyUnavailable
from gvcluster.testing import LocalCluster, ServerTls

CA = trustme.CA()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    folder = tmp_path_factory.mktemp("tls")
    certificate = CA.issue_cert("127.0.0.1")
    CA.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    return ServerTls(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))


@pytest.fixture(scope="module")
def servers(files: ServerTls) -> Iterator[LocalCluster]:
    with LocalCluster("redis-7.0.15", tls=files) as cluster:
        yield cluster


@pytest.fixture(params=["tls=True", "ssl.SSLContext", "gevent.ssl.SSLContext"])
def secure(request: pytest.FixtureRequest, files: ServerTls) -> dict[str, Any]:
    """The options that make a client secure, in each of the ways to say so."""
    if request.param == "tls=True":
        names = {"tls_ca_file": files.ca_file, "tls_cert_file": files.cert_file, "tls_key_file": files.key_file}
        return {"tls": True, **names}
    module = ssl if request.param == "ssl.SSLContext" else gevent.ssl
    context = module.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca_file)
    context.load_cert_chain(files.cert_file, files.key_file)
    return {"tls": context}


@pytest.fixture
def cluster(servers: LocalCluster, secure: dict[str, Any], protocol: int) -> Iterator[Cluster]:
    with connect(servers.seeds, protocol=protocol, **secure) as made:
        yield made


def opened(cluster: Cluster) -> list[int]:
    """How many connections each primary has got so far. Others may have been asked for the slot map."""
    primaries = {node.address for node in cluster.primaries()}
    return [node.opened for node in cluster.statistics().nodes if node.address in primaries]


@pytest.mark.parametrize("source", ["slots", "nodes"])
def test_the_map_that_is_asked_for_over_tls_names_the_ports_that_speak_it(servers, secure, protocol, source):
    with connect(servers.seeds, protocol=protocol, topology_source=source, **secure) as cluster:
        assert {node.address for node in cluster.primaries()} <= set(servers.addresses)
        for node in cluster.nodes():
            assert cluster.execute("PING", node=node) in (b"PONG", "PONG")


def test_every_slot_is_served_over_one_connection_for_each_node(servers, cluster):
    for n in range(500):
        cluster.execute("SET", f"key:{n}", n)
    assert [int(cluster.execute("GET", f"key:{n}")) for n in range(500)] == list(range(500))
    assert opened(cluster) == [1, 1, 1]


def test_values_of_8_MiB_go_both_ways_while_the_hub_goes_on(cluster):
    value, ticks = os.urandom(8 * 1024 * 1024), 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.001)
            ticks += 1

    ticker = gevent.spawn(tick)
    assert cluster.execute("SET", "large", value) == b"OK"
    after_set = ticks
    assert cluster.execute("GET", "large") == value
    ticker.kill()
    assert after_set >= 2  # one that waits inside OpenSSL lets nobody tick
    assert ticks - after_set >= 2


def test_200_greenlets_get_their_own_replies(cluster):
    def work(n: int) -> None:
        for turn in range(50):
            key = value = f"g{n}:{turn}"
            assert cluster.execute("SET", key, value * (1 + n % 50)) == b"OK"
            assert cluster.execute("GET", key) == (value * (1 + n % 50)).encode()

    gevent.joinall([gevent.spawn(work, n) for n in range(200)], raise_error=True)
    assert opened(cluster) == [1, 1, 1]


def test_a_storm_of_kills_mixes_nothing_up(cluster):
    cluster.warm_up()
    wrong: list[tuple[str, object]] = []
    answered = 0

    def work(n: int) -> None:
        nonlocal answered
        turn = 0
        while True:
            key = f"s{n}:{turn % 7}"
            with gevent.Timeout(0.001 * (1 + (n + turn) % 9), False):
                reply = cluster.execute("ECHO", key, route_key=key)
                answered += 1
                if reply != key.encode():
                    wrong.append((key, reply))
            turn += 1

    workers = [gevent.spawn(work, n) for n in range(100)]
    for round_ in range(30):
        gevent.sleep(0.02)
        for n in range(round_ % 3, 100, 3):
            workers[n].kill(block=False)
            workers[n] = gevent.spawn(work, n)
    gevent.killall(workers)
    assert wrong == []
    assert answered > 100
    assert [greenlet.exception for greenlet in workers if greenlet.exception] == []
    assert opened(cluster) == [1, 1, 1]


def test_a_failover_is_survived_over_tls(servers, cluster):
    servers.wait_until_agreed()
    primary = servers.primaries()[0]
    counted, failed, running = 0, 0, True

    def count() -> None:
        nonlocal counted, failed
        while running:
            try:
                cluster.execute("INCR", "counter:{06S}")
                counted += 1
            except GvClusterError as error:
                failed += error.maybe_executed

    cluster.execute("SET", "counter:{06S}", 0)
    counters = [gevent.spawn(count) for _ in range(20)]
    gevent.sleep(0.1)
    servers.failover(primary)
    before = counted
    while counted < before + 100:
        gevent.sleep(0.01)
    running = False
    gevent.joinall(counters, raise_error=True)
    assert counted <= int(cluster.execute("GET", "counter:{06S}")) <= counted + failed


def test_without_a_client_certificate_or_the_ca_nobody_is_let_in(servers, files):
    for options, text in (
        ({"tls_ca_file": files.ca_file}, "tls_cert_file"),
        ({"tls_cert_file": files.cert_file, "tls_key_file": files.key_file}, "tls_ca_file"),
    ):
        with pytest.raises(TopologyUnavailable, match=text) as caught:
            connect(servers.seeds, tls=True, timeout=1.0, **options)
        assert not caught.value.maybe_executed


def test_a_server_without_tls_is_recognized():
    with (
        LocalCluster("redis-7.0.15", primaries=1, replicas=0) as plain,
        pytest.raises(TopologyUnavailable, match="port without TLS"),
    ):
        connect(plain.seeds, tls=True, timeout=3.0, connect_timeout=0.5)


def test_subscriptions_come_through_tls_and_outlive_a_killed_connection(
    cluster: Cluster, servers: LocalCluster
) -> None:
    with cluster.pubsub(ping_interval=0.02) as pubsub:
        pubsub.subscribe("a")
        pubsub.ssubscribe("b")
        cluster.execute("PUBLISH", "a", b"x" * 200_000)
        message = pubsub.get(5)
        assert isinstance(message, Message)
        assert len(message.data) == 200_000
        for node in servers.nodes:
            node.command("CLIENT", "KILL", "TYPE", "pubsub")
        names: list[bytes] = []
        while len(names) < 2:
            gap = pubsub.get(5)
            assert isinstance(gap, Gap)
            names += [*gap.channels, *gap.shard_channels]
        assert sorted(names) == [b"a", b"b"]
        cluster.execute("SPUBLISH", "b", "y")
        assert pubsub.get(5) == Message(b"b", b"y", shard=True)
