"""The `ssl` arguments of the libraries against a server's own TLS: Redis 7.0 in every run, the one at hand that can."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import trustme
from compat_library import CLASS, LIBRARY

from gvcluster.testing import LocalCluster, ServerTls


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    """What the servers show, and ask of their clients."""
    return written(trustme.CA(), tmp_path_factory)


def written(ca: trustme.CA, folders: pytest.TempPathFactory) -> ServerTls:
    """A certificate for this machine, and its CA."""
    folder, certificate = folders.mktemp("tls"), ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    return ServerTls(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))


def arguments(files: ServerTls) -> dict[str, Any]:
    return {"ssl_ca_certs": files.ca_file, "ssl_certfile": files.cert_file, "ssl_keyfile": files.key_file}


@pytest.fixture(scope="module")
def servers(files: ServerTls) -> Iterator[LocalCluster]:
    with LocalCluster("redis-7.0.15", tls=files) as cluster:
        yield cluster


@pytest.fixture
def address(servers: LocalCluster) -> dict[str, Any]:
    for primary in servers.primaries():
        primary.command("FLUSHALL")
    node = servers.primaries()[0].address
    return {"host": node.host, "port": node.port}


@pytest.fixture(params=["arguments", "a URL"])
def secure(request: pytest.FixtureRequest, facade: Any, address: dict[str, Any], files: ServerTls) -> Iterator[Any]:
    """A facade that trusts the servers' CA and shows a certificate, in each of the ways to say so."""
    if request.param == "arguments":
        made = facade(**address, ssl=True, decode_responses=True, **arguments(files))
    else:
        query = "&".join(f"{name}={value}" for name, value in arguments(files).items())
        scheme = {"redis": "rediss", "valkey": "valkeys"}[LIBRARY]
        made = facade.from_url(f"{scheme}://{address['host']}:{address['port']}?{query}", decode_responses=True)
    yield made
    made.close()


def test_every_slot_is_served_in_all_ways(secure: Any) -> None:
    assert secure.mset({f"key{n}": n for n in range(100)})
    jobs = [gevent.spawn(secure.get, f"key{n}") for n in range(100)]
    assert [each.get(timeout=30) for each in jobs] == [str(n) for n in range(100)]
    with secure.pipeline() as pipe:
        assert pipe.incr("key1").get("key2").execute() == [2, "2"]
    with secure.lock("lock", timeout=60), secure.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        secure.publish("news", "x" * 100_000)
        with gevent.Timeout(30):
            while (message := pubsub.get_message(timeout=1)) is None:
                pass
    assert message["data"] == "x" * 100_000
    assert len(secure.get_primaries()) == 3


def test_the_librarys_own_client_says_the_same_with_the_same_arguments(
    original: Any, facade: Any, address: dict[str, Any], files: ServerTls
) -> None:
    theirs, ours = (kind(**address, ssl=True, **arguments(files)) for kind in (original, facade))
    try:
        assert ours.set("k", "v") is theirs.set("k", "v") is True
        assert ours.get("k") == theirs.get("k") == b"v"
        assert sorted(node.port for node in ours.get_nodes()) == sorted(node.port for node in theirs.get_nodes())
    finally:
        theirs.close()
        ours.close()


def refused(facade: Any, address: dict[str, Any], **given: Any) -> str:
    """What the first command is told, by an exception of the library's."""
    client = facade(**address, ssl=True, socket_connect_timeout=5, **given)
    try:
        with pytest.raises(client._library.error(f"{CLASS}Exception")) as caught:
            client.get("k")
    finally:
        client.close()
    return str(caught.value)


def test_who_does_not_trust_the_ca_is_told_so(
    facade: Any, address: dict[str, Any], files: ServerTls, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = written(trustme.CA(), tmp_path_factory)
    told = refused(facade, address, **(arguments(files) | {"ssl_ca_certs": stranger.ca_file}))
    assert "certificate" in told


def test_a_certificate_of_another_name_is_refused_unless_it_is_not_to_be_looked_at(
    facade: Any, address: dict[str, Any], files: ServerTls
) -> None:
    by_name = address | {"host": "localhost"}
    assert "localhost" in refused(facade, by_name, **arguments(files))
    careless = facade(**by_name, ssl=True, ssl_check_hostname=False, **arguments(files))
    assert careless.set("k", "v")
    careless.close()
    blind = facade(**by_name, ssl=True, ssl_cert_reqs="none", **(arguments(files) | {"ssl_ca_certs": None}))
    assert blind.get("k") == b"v"
    blind.close()


def test_who_shows_no_certificate_is_not_let_in(facade: Any, address: dict[str, Any], files: ServerTls) -> None:
    assert refused(facade, address, ssl_ca_certs=files.ca_file)


def test_who_speaks_in_the_clear_is_not_understood(facade: Any, address: dict[str, Any]) -> None:
    client = facade(**address, socket_connect_timeout=5)
    with pytest.raises(client._library.error(f"{CLASS}Exception")):
        client.get("k")
    client.close()
