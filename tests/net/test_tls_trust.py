"""Whom TLS lets us talk to: certificates, names, versions, and what is said when it must not be."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import gevent.server
import gevent.socket
import gevent.ssl
import pytest
import trustme

from gvcluster import Cluster, connect
from gvcluster.core.address import Address
from gvcluster.core.topology import Node
from gvcluster.errors import ConfigError, ConnectFailed, GvClusterError, RetriesExhausted, TopologyUnavailable
from gvcluster.net.dial import Connection, dial
from gvcluster.net.loop import HubLoop
from gvcluster.net.tls import wait_tls
from gvcluster.options import Options, options_from
from gvcluster.testing.fake_connection import CommandReader
from gvcluster.tls import Tls, tls_from

CA, OTHER_CA = trustme.CA(), trustme.CA()
QUICK = {"protocol": 2, "client_info": False, "timeout": 3.0, "connect_timeout": 1.0}


class TlsNode:
    """A node that serves all slots, over TLS; without a certificate, over plain TCP. It knows GET, and shows itself."""

    def __init__(self, certificate: trustme.LeafCert | None, *, shown_as: str = "127.0.0.1", **more: Any) -> None:
        self.shown_as, self.metadata = shown_as, more.pop("metadata", b"*0\r\n")
        self.commands: list[list[bytes]] = []
        self.failures: list[Exception] = []
        self.accepted = 0
        self.redirect_to: Address | None = None
        self._context = None if certificate is None else self._context_for(certificate, **more)
        self._server = gevent.server.StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port = self._server.server_port

    def _context_for(
        self, certificate: trustme.LeafCert, *, clients: trustme.CA | None = None, highest: Any = ssl.TLSVersion.TLSv1_3
    ) -> Any:
        context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = highest
        certificate.configure_cert(context)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            clients.configure_trust(context)
        return context

    def _serve(self, sock: Any, _: object) -> None:
        self.accepted += 1
        reader = CommandReader()
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            while data := sock.recv(65536):
                reader.feed(data)
                for command in iter(reader.take, None):
                    self.commands.append(command)
                    sock.sendall(self._answer(command))
        except (OSError, ValueError) as error:
            self.failures.append(error)
        finally:
            sock.close()

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] == b"CLUSTER":
            host = self.shown_as.encode()
            node = b"*4\r\n$%d\r\n%s\r\n:%d\r\n$40\r\n%040d\r\n%s" % (len(host), host, self.port, 1, self.metadata)
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n" + node
        if self.redirect_to is not None:
            return f"-MOVED 7629 {self.redirect_to}\r\n".encode()
        return b"+OK\r\n"

    def rotate(self, certificate: trustme.LeafCert) -> None:
        """Show another certificate from now on."""
        self._context = self._context_for(certificate)

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def stop(self) -> None:
        self._server.stop()


Nodes = Callable[..., TlsNode]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made: list[TlsNode] = []

    def make(certificate: trustme.LeafCert | None, **more: Any) -> TlsNode:
        made.append(TlsNode(certificate, **more))
        return made[-1]

    yield make
    for node in made:
        node.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    CA.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, ca in (("client", CA), ("stranger", OTHER_CA)):
        certificate = ca.issue_cert("client@example.org")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    (folder / "empty.pem").write_text("")
    return folder


@pytest.fixture
def trusting(files: Path) -> dict[str, Any]:
    return {"tls": True, "tls_ca_file": str(files / "ca.pem"), **QUICK}


def refusal(seeds: Address, options: dict[str, Any]) -> str:
    """The text with which a node is refused; nothing may have been executed."""
    with pytest.raises(TopologyUnavailable) as caught:
        connect([seeds], **{**options, "timeout": 0.3})
    assert not caught.value.maybe_executed
    assert {type(error) for _, error in caught.value.failures} == {ConnectFailed}
    return str(caught.value)


# -- names ------------------------------------------------------------------------------------------------------------


def test_an_ip_address_in_the_certificate_is_enough(nodes, trusting):
    node = nodes(CA.issue_cert("127.0.0.1"))
    with connect([node.address], **trusting) as cluster:
        assert cluster.execute("GET", "k") == b"OK"


def test_the_host_of_a_seed_is_the_name_and_its_connection_serves_the_ip_address_of_the_map(nodes, trusting):
    node = nodes(CA.issue_cert("localhost"))
    with connect(f"localhost:{node.port}", **trusting) as cluster:
        assert cluster.execute("GET", "k") == b"OK"
        assert node.accepted == 1
    assert "not for '127.0.0.1'" in refusal(node.address, trusting)


@pytest.mark.parametrize("name", ["n1.example", lambda address: "n1.example" if address.host == "127.0.0.1" else None])
def test_tls_server_name_says_which_name_to_expect(nodes, trusting, name):
    node = nodes(CA.issue_cert("n1.example"))
    with connect([node.address], **trusting, tls_server_name=name) as cluster:
        assert cluster.execute("GET", "k") == b"OK"


def test_the_hostname_that_the_map_tells_beside_an_ip_address_is_the_name(nodes, trusting):
    metadata = b"*2\r\n$8\r\nhostname\r\n$10\r\nn1.example\r\n"
    named = nodes(CA.issue_cert("n1.example"), metadata=metadata)
    seed = nodes(CA.issue_cert("127.0.0.1"), metadata=metadata)
    seed.port, own = named.port, seed.port  # the seed's map shows the other node
    with connect([Address("127.0.0.1", own)], **trusting) as cluster:
        assert cluster.execute("GET", "k") == b"OK"
    assert [command[0] for command in named.commands] == [b"GET"]


@pytest.mark.parametrize(
    ("host", "hostname", "option", "name"),
    [
        ("10.0.0.1", None, None, "10.0.0.1"),
        ("10.0.0.1", "h", None, "h"),
        ("::1", "h", None, "h"),
        ("n", "h", None, "n"),
        ("10.0.0.1", "h", "o", "o"),
        ("n", "h", lambda address: address.host * 2, "nn"),
        ("n", "h", lambda _: None, "n"),
    ],
)
def test_the_first_name_that_there_is_counts(host, hostname, option, name):
    address = Address(host, 1)
    node = Node("", address, "primary", "s", None, hostname)
    assert Tls(ssl.create_default_context(), option).name_of(address, node) == name


def test_another_name_is_refused_with_the_name_that_was_expected_and_what_to_do(nodes, trusting):
    node = nodes(CA.issue_cert("10.9.8.7", "other.example"))
    text = refusal(node.address, trusting)
    assert "not for '127.0.0.1'" in text
    assert "tls_server_name" in text
    assert f"openssl s_client -connect {node.address}" in text
    assert node.commands == []
    with connect([node.address], **trusting, danger_accept_invalid_hostnames=True) as cluster:
        assert cluster.execute("GET", "k") == b"OK"


@pytest.mark.parametrize("name", ["", ".example", "a" * 300, "n\0", 1, None], ids=repr)
def test_a_name_that_can_not_be_one_is_refused_before_a_byte_is_sent(nodes, trusting, name):
    node = nodes(CA.issue_cert("127.0.0.1"))
    names = {"127.0.0.1": name} if name is not None else {}  # without a name: a function that raises
    assert "tls_server_name" in refusal(
        node.address, {**trusting, "tls_server_name": lambda address: names[address.host]}
    )
    assert node.commands == []


# -- certificates -----------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_ca_is_refused(nodes, trusting):
    node = nodes(OTHER_CA.issue_cert("127.0.0.1"))
    assert "check tls_ca_file" in refusal(node.address, trusting)
    assert node.commands == []
    assert "check tls_ca_file" in refusal(node.address, {**trusting, "danger_accept_invalid_hostnames": True})
    without_ca = {name: value for name, value in trusting.items() if name != "tls_ca_file"}
    assert "check tls_ca_file" in refusal(node.address, without_ca)
    with connect([node.address], **without_ca, danger_accept_invalid_certificates=True) as cluster:
        assert cluster.execute("GET", "k") == b"OK"


@pytest.mark.parametrize("years", [-1, 1])
def test_a_certificate_that_is_out_of_date_is_refused(nodes, trusting, years):
    now = datetime.datetime.now(datetime.UTC)
    begin, end = sorted((now + datetime.timedelta(days=years), now + datetime.timedelta(days=2 * years)))
    node = nodes(CA.issue_cert("127.0.0.1", not_before=begin, not_after=end))
    assert "out of date" in refusal(node.address, trusting)


def test_f37_a_certificate_that_is_replaced_is_looked_at_by_each_new_connection(nodes, trusting):
    node = nodes(CA.issue_cert("127.0.0.1"))
    with connect([node.address], **trusting) as cluster:
        assert cluster.execute("GET", "k") == b"OK"
        node.rotate(OTHER_CA.issue_cert("127.0.0.1"))
        assert cluster.execute("GET", "k") == b"OK"  # over the connection that is open
        cluster.close_idle()
        sent = len(node.commands)
        with pytest.raises(GvClusterError, match="not trusted") as refused:
            cluster.execute("SET", "k", "v", timeout=0.3)
        assert not refused.value.maybe_executed
        assert len(node.commands) == sent
        node.rotate(CA.issue_cert("127.0.0.1"))
        assert cluster.execute("GET", "k") == b"OK"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_node_that_wants_a_client_certificate_gets_ours_or_we_are_told(nodes, trusting, files, version):
    node = nodes(CA.issue_cert("127.0.0.1"), clients=CA, highest=version)
    # In TLS 1.3 the node refuses a client after the handshake: the first command of a connection tells.
    trusting["client_info"] = True
    assert "tls_cert_file" in refusal(node.address, trusting)
    assert "tls_cert_file" in refusal(node.address, {**trusting, "tls_cert_file": str(files / "stranger.pem")})
    assert node.commands == []
    with connect([node.address], **trusting, tls_cert_file=str(files / "client.pem")) as cluster:
        assert cluster.execute("GET", "k") == b"OK"


def test_no_version_below_the_minimum_is_spoken(nodes, trusting):
    node = nodes(CA.issue_cert("127.0.0.1"), highest=ssl.TLSVersion.TLSv1_2)
    with connect([node.address], **trusting) as cluster:
        assert cluster.execute("GET", "k") == b"OK"
    assert "tls_minimum_version" in refusal(node.address, {**trusting, "tls_minimum_version": "TLSv1.3"})


# -- no plain text ----------------------------------------------------------------------------------------------------


def test_a_port_without_tls_is_recognized_and_gets_nothing_in_the_clear(trusting):
    got = []

    def serve(sock: Any, _: object) -> None:
        got.append(sock.recv(65536))
        sock.sendall(b"-ERR what is this?\r\n")

    server = gevent.server.StreamServer(("127.0.0.1", 0), serve)
    server.start()
    text = refusal(Address("127.0.0.1", server.server_port), {**trusting, "password": "hunter2"})
    server.stop()
    assert "is this a port without TLS?" in text
    assert {data[0] for data in got} == {22}  # a TLS handshake
    assert b"hunter2" not in b"".join(got)


def test_a_redirect_to_a_node_without_tls_is_not_followed_in_the_clear(nodes, trusting):
    plain = nodes(None)
    node = nodes(CA.issue_cert("127.0.0.1"))
    with connect([node.address], **trusting) as cluster:
        node.redirect_to = plain.address
        with pytest.raises((RetriesExhausted, ConnectFailed)) as caught:
            cluster.execute("SET", "k", 1, timeout=0.3)
    assert not caught.value.maybe_executed
    assert plain.accepted
    assert plain.commands == []


# -- stalls, kills, callbacks -----------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[Any]:
    """A listener whose kernel accepts and which never says a word."""
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_stalled_handshake_ends_with_the_connect_timeout_and_closes_the_socket(silent, trusting):
    address = Address(*silent.getsockname())
    text = refusal(address, {**trusting, "connect_timeout": 0.05})
    assert "took too long" in text
    accepted, _ = silent.accept()
    with accepted:
        assert accepted.recv(65536)[0] == 22
        assert accepted.recv(65536) == b""


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, KeyError])
def test_a_kill_in_the_handshake_leaves_nothing_open_and_is_passed_on_as_it_is(silent, error):
    address = Address(*silent.getsockname())
    tls, loop = Tls(ssl.create_default_context()), HubLoop(gevent.get_hub())
    sock = dial(Connection(address, "multiplexed"), monotonic() + 5, Options(), loop)
    thrown = error()
    waiting = gevent.spawn(wait_tls, sock, loop, tls, (address, None), monotonic() + 5)
    accepted, _ = silent.accept()
    with accepted:
        accepted.recv(65536)
        waiting.kill(thrown)
        assert accepted.recv(65536) == b""
    assert waiting.exception is (None if error is gevent.GreenletExit else thrown)
    assert sock.fileno() == -1


def test_a_fork_in_the_handshake_leaves_it_to_the_parent(silent):
    address = Address(*silent.getsockname())
    tls, loop = Tls(ssl.create_default_context()), HubLoop(gevent.get_hub())
    sock = dial(Connection(address, "multiplexed"), monotonic() + 5, Options(), loop)
    waiting = gevent.spawn(wait_tls, sock, loop, tls, (address, None), monotonic() + 0.2)
    accepted, _ = silent.accept()
    with accepted:
        hello = accepted.recv(65536)
        child = os.fork()
        if child == 0:
            waiting.join(0.4)  # its deadline passes, and it was the parent's
            os._exit(0 if not waiting.dead and sock.fileno() == -1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(ConnectFailed, match="took too long"):
            waiting.get()
        assert hello[0] == 22
        assert accepted.recv(65536) == b""


def test_callbacks_are_told_before_the_handshake_and_when_it_fails(nodes, trusting):
    told: list[Any] = []
    node = nodes(OTHER_CA.issue_cert("127.0.0.1"))
    callbacks = {
        "on_connect": lambda connection, error: told.append((connection.socket.fileno() > 0, error)),
        "on_disconnect": lambda connection, error: told.append(type(error)),
    }
    refusal(node.address, {**trusting, **callbacks})
    assert told[:2] == [(True, None), ConnectFailed]


def test_a_node_that_fails_the_handshake_is_not_stormed(nodes, trusting):
    node = nodes(OTHER_CA.issue_cert("127.0.0.1"))
    cluster = Cluster([node.address], **{**trusting, "timeout": 0.5})
    calls = [gevent.spawn(cluster.execute, "GET", n) for n in range(100)]
    gevent.joinall(calls)
    cluster.close()
    assert all(call.exception is not None for call in calls)
    assert node.accepted < 10


# -- contexts and options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ssl.SSLContext, gevent.ssl.SSLContext])
def test_a_context_of_ones_own_is_used_as_it_is(nodes, kind):
    node = nodes(CA.issue_cert("127.0.0.1"))
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    with connect([node.address], tls=context, **QUICK) as cluster:
        assert cluster.execute("GET", "k") == b"OK"


def a_context(**changes: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name, value in changes.items():
        setattr(context, name, value)
    return context


UNNAMED = {"check_hostname": False}
UNCHECKED = {"check_hostname": False, "verify_mode": ssl.CERT_NONE}


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        (UNNAMED, {"danger_accept_invalid_hostnames": True}),
        (UNCHECKED, {"danger_accept_invalid_certificates": True}),
        (UNCHECKED, {"danger_accept_invalid_certificates": True, "danger_accept_invalid_hostnames": True}),
        ({"minimum_version": ssl.TLSVersion.TLSv1_3}, {"tls_minimum_version": "TLSv1.3"}),
        ({"minimum_version": ssl.TLSVersion.MAXIMUM_SUPPORTED}, {}),
        ({"minimum_version": ssl.TLSVersion.MINIMUM_SUPPORTED}, {}),
    ],
)
def test_a_context_that_checks_what_the_options_say_is_taken(changes, options):
    context = a_context(**changes)
    tls = tls_from(options_from({"tls": context, **options}))
    assert tls is not None
    assert tls.context is context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        (UNNAMED, {}, "danger_accept_invalid_hostnames"),
        (UNCHECKED, {}, "danger_accept_invalid_certificates"),
        (UNCHECKED, {"danger_accept_invalid_hostnames": True}, "danger_accept_invalid_certificates"),
        ({}, {"danger_accept_invalid_hostnames": True}, "check_hostname"),
        ({}, {"danger_accept_invalid_certificates": True}, "verify_mode"),
        ({}, {"tls_minimum_version": "TLSv1.3"}, "minimum_version"),
        ({"minimum_version": ssl.TLSVersion.MINIMUM_SUPPORTED}, {"tls_minimum_version": "TLSv1.2"}, "minimum_version"),
        ({"minimum_version": ssl.TLSVersion.TLSv1_1}, {}, "minimum_version"),
        ({}, {"tls_ca_file": "x"}, "tls_ca_file"),
        ({}, {"tls_key_password": "hunter2"}, "tls_key_password"),
    ],
)
def test_a_context_that_contradicts_the_options_is_refused(changes, options, text):
    with pytest.raises(ConfigError, match=text) as caught:
        Cluster("h:1", tls=a_context(**changes), **options)
    assert "hunter2" not in str(caught.value)


def test_a_context_for_servers_is_refused():
    with pytest.raises(ConfigError, match="servers"):
        Cluster("h:1", tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tls_ca_file": "x"}, "tls_ca_file needs tls=True"),
        ({"tls_minimum_version": "TLSv1.2"}, "tls_minimum_version needs tls=True"),
        ({"tls_server_name": "n"}, "tls_server_name needs tls=True"),
        ({"danger_accept_invalid_hostnames": True}, "danger_accept_invalid_hostnames needs tls=True"),
        ({"tls": "yes"}, "tls must be"),
        ({"tls": 1}, "tls must be"),
        ({"tls": None}, "tls must be"),
        ({"tls": True, "tls_ca_file": "/nowhere"}, "/nowhere"),
        ({"tls": True, "tls_ca_file": ""}, "tls_ca_file must be"),
        ({"tls": True, "tls_ca_file": b"x"}, "tls_ca_file must be"),
        ({"tls": True, "tls_cert_file": "/nowhere"}, "/nowhere"),
        ({"tls": True, "tls_key_file": "/nowhere"}, "need tls_cert_file"),
        ({"tls": True, "tls_key_password": "hunter2"}, "need tls_cert_file"),
        ({"tls": True, "tls_minimum_version": "TLSv1.1"}, "tls_minimum_version must be"),
        ({"tls": True, "tls_server_name": ""}, "tls_server_name must be"),
        ({"tls": True, "tls_server_name": 1}, "tls_server_name must be"),
        ({"tls": True, "danger_accept_invalid_hostnames": 1}, "must be True or False"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_sent(options, text):
    with pytest.raises(ConfigError, match=text) as caught:
        Cluster("h:1", **options)
    assert "hunter2" not in str(caught.value)


def test_an_empty_ca_file_is_refused(files):
    with pytest.raises(ConfigError, match=r"empty\.pem"):
        Cluster("h:1", tls=True, tls_ca_file=str(files / "empty.pem"))


@pytest.mark.parametrize("password", [None, "wrong-hunter2"])
def test_an_encrypted_key_needs_its_password_and_nobody_is_asked_on_the_terminal(tmp_path, password):
    from cryptography.hazmat.primitives import serialization

    certificate = CA.issue_cert("client@example.org")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    )
    (tmp_path / "key.pem").write_bytes(sealed)
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    given = {"tls": True, "tls_cert_file": str(tmp_path / "cert.pem"), "tls_key_file": str(tmp_path / "key.pem")}
    with pytest.raises(ConfigError, match="tls_cert_file") as caught:
        Cluster("h:1", **given, tls_key_password=password)
    assert "hunter2" not in str(caught.value)
    cluster = Cluster("h:1", **given, tls_key_password="hunter2")
    assert "hunter2" not in repr(cluster._state)


def test_a_url_with_an_s_more_speaks_tls(nodes, files):
    node = nodes(CA.issue_cert("127.0.0.1"))
    url = f"valkeys://{node.address}/0?tls_ca_file={files / 'ca.pem'}&protocol=2&client_info=0"
    with Cluster.from_url(url) as cluster:
        assert cluster.execute("GET", "k") == b"OK"
