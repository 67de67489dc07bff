"""Who is believed: errors that a script makes up, addresses that others took over, and what `address_map` allows."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import gvcluster
from gvcluster.core.address import Address
from gvcluster.core.slots import hash_slot
from gvcluster.errors import ConfigError, ConnectFailed, ReplyError, TopologyUnavailable
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import Answer, encode_reply

KEY = "k"
SLOT = hash_slot(KEY)
PASSWORD = "TOPSECRET"


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster(password=PASSWORD) as cluster:
        yield cluster


@pytest.fixture
def stranger() -> Iterator[FakeNode]:
    """A node that listens and belongs to nobody we know."""
    with FakeCluster(nodes=1) as other:
        yield other.nodes[0]


@contextmanager
def client_of(fake: FakeCluster, protocol: int, **options) -> Iterator[gvcluster.Cluster]:
    options.setdefault("password", fake.password)
    cluster = gvcluster.connect(fake.seeds, protocol=protocol, timeout=5.0, **options)
    try:
        yield cluster
    finally:
        cluster.close()


def others(fake: FakeCluster, node: FakeNode) -> list[FakeNode]:
    return [each for each in fake.nodes if each is not node]


def script(cluster: gvcluster.Cluster):
    return cluster.execute("EVAL", "redis.call('incr', KEYS[1]) …", 1, KEY)


def runs(fake: FakeCluster) -> int:
    return sum(len(node.commands("EVAL")) for node in fake.nodes)


# -- errors that scripts make up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("EVAL", "…", 1, KEY), ("EVALSHA", "…", 1, KEY), ("FCALL", "f", 1, KEY)])
@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_forged_redirect_sends_no_byte_to_the_stranger_and_runs_the_script_once(
    fake: FakeCluster, stranger: FakeNode, protocol: int, word: str, command: tuple
) -> None:
    owner = fake.node_for_key(KEY)
    owner.on(command[0], f"-{word} {SLOT} {stranger.address}\r\n".encode())
    with client_of(fake, protocol) as cluster:
        with pytest.raises(ReplyError, match=f"^{word} ") as caught:
            cluster.execute(*command)
        statistics = cluster.statistics()
    assert caught.value.maybe_executed
    assert stranger.connections.accepted == 0
    assert len(owner.commands(command[0])) == 1
    assert (statistics.redirects, statistics.retries) == (0, 0)


@pytest.mark.parametrize(
    "text", ["TRYAGAIN x", "LOADING x", "READONLY x", "MASTERDOWN x", "CLUSTERDOWN x", "MIGRATING x", "UNBLOCKED x"]
)
def test_a_forged_come_back_later_runs_the_script_once(fake: FakeCluster, protocol: int, text: str) -> None:
    owner = fake.node_for_key(KEY)
    owner.on("EVAL", f"-{text}\r\n".encode())
    with client_of(fake, protocol) as cluster:
        refreshes = cluster.statistics().refreshes
        with pytest.raises(ReplyError, match=f"^{text}") as caught:
            script(cluster)
        assert cluster.statistics().refreshes == refreshes
    assert caught.value.maybe_executed
    assert runs(fake) == 1


def test_a_command_that_the_table_does_not_list_is_trusted_like_a_script(
    fake: FakeCluster, stranger: FakeNode, protocol: int
) -> None:
    fake.node_for_key(KEY).on("MY.COMMAND", f"-MOVED {SLOT} {stranger.address}\r\n".encode())
    with client_of(fake, protocol) as cluster, pytest.raises(ReplyError, match=r"^MOVED") as caught:
        cluster.execute("MY.COMMAND", KEY, route_key=KEY)
    assert caught.value.maybe_executed
    assert stranger.connections.accepted == 0


def test_a_forged_redirect_to_a_member_that_does_not_own_the_slot_is_not_followed(
    fake: FakeCluster, protocol: int
) -> None:
    owner = fake.node_for_key(KEY)
    bystander = others(fake, owner)[0]
    owner.on("EVAL", f"-MOVED {SLOT} {bystander.address}\r\n".encode())
    with client_of(fake, protocol) as cluster, pytest.raises(ReplyError, match=r"^MOVED"):
        script(cluster)
    assert runs(fake) == 1
    assert not bystander.commands("EVAL")


def test_an_error_inside_an_array_is_never_acted_upon(fake: FakeCluster, stranger: FakeNode, protocol: int) -> None:
    fake.node_for_key(KEY).on("LRANGE", f"*1\r\n-MOVED {SLOT} {stranger.address}\r\n".encode())
    with client_of(fake, protocol) as cluster:
        (inner,) = cluster.execute("LRANGE", KEY, 0, -1)
    assert isinstance(inner, ReplyError)
    assert stranger.connections.accepted == 0


def test_a_node_that_does_not_answer_the_question_confirms_nothing(
    fake: FakeCluster, stranger: FakeNode, protocol: int
) -> None:
    owner = fake.node_for_key(KEY)
    owner.on("EVAL", f"-MOVED {SLOT} {stranger.address}\r\n".encode())
    with client_of(fake, protocol) as cluster:
        owner.on("CLUSTER NODES", b"-NOPERM this user has no permissions\r\n")
        with pytest.raises(ReplyError, match=r"^MOVED"):
            script(cluster)
    assert stranger.connections.accepted == 0
    assert runs(fake) == 1


def test_a_true_moved_of_a_script_is_followed_and_the_script_runs_once(fake: FakeCluster, protocol: int) -> None:
    owner = fake.node_for_key(KEY)
    target = others(fake, owner)[0]
    with client_of(fake, protocol) as cluster:
        fake.move_slot(SLOT, target)
        owner.on("EVAL", f"-MOVED {SLOT} {target.address}\r\n".encode())
        target.on("EVAL", b":1\r\n")
        assert script(cluster) == 1
        assert cluster.statistics().redirects == 1
    assert len(owner.commands("CLUSTER NODES")) == 1
    assert (len(owner.commands("EVAL")), len(target.commands("EVAL"))) == (1, 1)


def test_a_true_ask_of_a_script_is_followed_with_asking(fake: FakeCluster, protocol: int) -> None:
    owner = fake.node_for_key(KEY)
    target = others(fake, owner)[0]
    fake.begin_migration(SLOT, target)
    owner.on("EVAL", f"-ASK {SLOT} {target.address}\r\n".encode())
    target.on("EVAL", b":1\r\n")
    with client_of(fake, protocol) as cluster:
        assert script(cluster) == 1
    assert (len(target.commands("ASKING")), len(target.commands("EVAL"))) == (1, 1)


def test_a_true_tryagain_of_a_script_is_tried_again(fake: FakeCluster, protocol: int) -> None:
    owner = fake.node_for_key(KEY)
    fake.begin_migration(SLOT, others(fake, owner)[0])
    owner.on("EVAL", b":1\r\n")
    owner.override = once(owner, "EVAL", b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n")
    with client_of(fake, protocol) as cluster:
        assert script(cluster) == 1
        assert cluster.statistics().retries == 1
    assert len(owner.commands("EVAL")) == 2


@pytest.mark.parametrize(
    ("text", "name", "proof"),
    [
        ("LOADING x", "PING", b"-LOADING the dataset\r\n"),
        ("READONLY x", "ROLE", encode_reply([b"slave", b"h", 1, b"connected", 0])),
        ("MASTERDOWN x", "ROLE", encode_reply([b"slave", b"h", 1, b"connect", 0])),
        ("CLUSTERDOWN x", "CLUSTER INFO", encode_reply(b"cluster_state:fail\r\n")),
    ],
)
def test_a_state_that_the_node_confirms_is_waited_out(
    fake: FakeCluster, protocol: int, text: str, name: str, proof: bytes
) -> None:
    owner = fake.node_for_key(KEY)
    owner.on("EVAL", b":1\r\n")
    owner.on(name, proof)
    owner.override = once(owner, "EVAL", f"-{text}\r\n".encode())
    with client_of(fake, protocol) as cluster:
        assert script(cluster) == 1
        assert cluster.statistics().retries == 1


def test_a_confirmed_refusal_counts_as_not_executed(fake: FakeCluster, protocol: int) -> None:
    owner = fake.node_for_key(KEY)
    owner.on("EVAL", b"-CLUSTERDOWN x\r\n")
    owner.on("CLUSTER INFO", encode_reply(b"cluster_state:fail\r\n"))
    with client_of(fake, protocol) as cluster, pytest.raises(ReplyError) as caught:
        cluster.execute("EVAL", "…", 1, KEY, retry="never")
    assert not caught.value.maybe_executed


def once(node: FakeNode, name: str, answer: bytes):
    """Answer the first command of this name, and no other."""

    def handle(_node: FakeNode, _connection: object, args: list[bytes]) -> Answer:
        if args[0] != name.encode():
            return gvcluster.testing.answers.NOT_HANDLED
        node.override = None
        return answer

    return handle


# -- ordinary commands: a member's redirect is its own word -----------------------------------------------------------


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_redirect_of_an_ordinary_command_is_followed_at_once_to_a_node_that_no_map_lists(
    fake: FakeCluster, protocol: int, word: str
) -> None:
    with FakeCluster(nodes=1, password=PASSWORD) as new:
        target = new.nodes[0]
        target.on("GET", b"$1\r\n1\r\n")
        fake.node_for_key(KEY).on("GET", f"-{word} {SLOT} {target.address}\r\n".encode(), times=1)
        with client_of(fake, protocol) as cluster:
            for node in fake.nodes:
                node.on("CLUSTER SLOTS", None)  # this map says otherwise, and may come before the connection
            assert cluster.execute("GET", KEY) == b"1"
            assert cluster.statistics().redirects == 1
        assert not any(node.commands("CLUSTER NODES") for node in fake.nodes)
        assert len(target.commands("ASKING")) == (word == "ASK")


def test_the_asks_of_a_scale_out_to_a_new_primary_without_slots_are_followed_at_once(protocol: int) -> None:
    with FakeCluster(nodes=2) as fake:
        old, new = fake.nodes
        for slot in range(16384):
            fake.move_slot(slot, old)
        fake.begin_migration(SLOT, new)
        with client_of(fake, protocol) as cluster:
            assert cluster.execute("SET", KEY, 1) == b"OK"
            assert cluster.execute("GET", KEY) == b"1"
            assert [node.address for node in cluster.primaries()] == [old.address]
            assert (cluster.statistics().redirects, cluster.statistics().retries) == (2, 0)
        assert new.data == {KEY.encode(): b"1"}


# -- addresses that others have taken over ----------------------------------------------------------------------------


def test_a_new_connection_asks_the_node_who_it_is_where_the_map_names_an_id(fake: FakeCluster, protocol: int) -> None:
    with client_of(fake, protocol) as cluster:
        for node in cluster.primaries():
            cluster.execute("PING", node=node)
    # The first one was connected before there was a map.
    assert sorted(len(node.commands("CLUSTER MYID")) for node in fake.nodes) == [0, 1, 1]


def test_nobody_is_asked_with_client_info_off(fake: FakeCluster, protocol: int) -> None:
    with client_of(fake, protocol, client_info=False) as cluster:
        for node in cluster.primaries():
            cluster.execute("PING", node=node)
    assert not any(node.commands("CLUSTER MYID") for node in fake.nodes)


@pytest.mark.parametrize(
    "refusal", ["NOPERM no permissions", "ERR unknown command", "ERR This instance has cluster support disabled"]
)
def test_a_server_that_refuses_to_say_who_it_is_is_used(fake: FakeCluster, protocol: int, refusal: str) -> None:
    for node in fake.nodes:
        node.on("CLUSTER MYID", f"-{refusal}\r\n".encode())
    with client_of(fake, protocol) as cluster:
        assert [cluster.execute("PING", node=node) for node in cluster.primaries()] == [b"PONG"] * 3


@pytest.mark.parametrize("answer", [b"$3\r\nabc\r\n", b"$-1\r\n", b":1\r\n", b"*0\r\n", b"+\x1b[31m\r\n"])
def test_f21_another_node_at_a_known_address_gets_no_command_and_the_map_is_fetched(
    fake: FakeCluster, protocol: int, answer: bytes
) -> None:
    seed, owner = others(fake, fake.node_for_key(KEY))[0], fake.node_for_key(KEY)
    owner.on("CLUSTER MYID", answer)
    cluster = gvcluster.connect(str(seed.address), protocol=protocol, password=PASSWORD, timeout=0.5)
    try:
        fetched = len(seed.commands("CLUSTER SLOTS"))
        with pytest.raises(ConnectFailed, match="is another node by now: CLUSTER MYID answers") as caught:
            cluster.execute("SET", KEY, 1, retry="never")
        assert str(caught.value).isprintable()
        assert not caught.value.maybe_executed
        seed.wait_until(lambda: len(seed.commands("CLUSTER SLOTS")) > fetched)
    finally:
        cluster.close()
    assert not owner.commands("SET")
    assert owner.commands("CLUSTER MYID")


def test_when_nobody_is_who_he_was_the_seeds_are_believed_again(protocol: int) -> None:
    """All nodes were set up anew at their old addresses: there is nobody left who could tell the new ids."""
    with FakeCluster() as fake, client_of(fake, protocol) as cluster:
        for node in fake.nodes:
            node.id = node.id[::-1].replace("0", "f")
            node.reset_connections()
        assert cluster.execute("SET", KEY, 1) == b"OK"
        cluster.refresh()
        assert {node.id for node in cluster.primaries()} == {node.id for node in fake.nodes}


# -- address_map ------------------------------------------------------------------------------------------------------


def hidden(fake: FakeCluster):
    """Let the nodes name addresses that lead nowhere, and return the map that leads to the real ones."""
    real = {Address("node.invalid", 1 + node.index): node.address for node in fake.nodes}
    told = {address: name for name, address in real.items()}

    def slots(_node: FakeNode, connection, _args) -> bytes:
        ranges = [
            [
                first,
                last,
                *(
                    [
                        told[Address(each[0].decode(), each[1])].host.encode(),
                        told[Address(each[0].decode(), each[1])].port,
                        each[2],
                        {},
                    ]
                    for each in nodes
                ),
            ]
            for first, last, *nodes in fake.slot_ranges()
        ]
        return encode_reply(ranges, connection.protocol)

    for node in fake.nodes:
        node.on("CLUSTER SLOTS", slots)
    return real, told


@pytest.mark.parametrize("as_tuple", [False, True])
def test_address_map_leads_to_the_nodes_of_a_map_and_of_a_redirect(
    fake: FakeCluster, protocol: int, as_tuple: bool
) -> None:
    real, told = hidden(fake)
    address_map = (lambda address: tuple(real[address])) if as_tuple else real.__getitem__
    owner = fake.node_for_key(KEY)
    target = others(fake, owner)[0]
    with client_of(fake, protocol, address_map=address_map) as cluster:
        assert {node.address for node in cluster.primaries()} == {node.address for node in fake.nodes}
        owner.on("GET", f"-ASK {SLOT} {told[target.address]}\r\n".encode(), times=1)
        target.on("GET", b"$1\r\n1\r\n")
        assert cluster.execute("GET", KEY) == b"1"
        owner.on("GET", f"-MOVED {SLOT} {told[target.address]}\r\n".encode(), times=1)
        assert cluster.execute("GET", KEY) == b"1"
        assert cluster.statistics().redirects == 2


def test_a_true_redirect_of_a_script_is_confirmed_by_the_names_that_the_nodes_use(
    fake: FakeCluster, protocol: int
) -> None:
    owner = fake.node_for_key(KEY)
    target = others(fake, owner)[0]
    fake.begin_migration(SLOT, target)
    owner.on("EVAL", f"-ASK {SLOT} {target.address}\r\n".encode())
    target.on("EVAL", b":1\r\n")
    asked = []
    with client_of(fake, protocol, address_map=lambda address: asked.append(address) or address) as cluster:
        assert script(cluster) == 1
    assert asked.count(target.address) > 1


@pytest.mark.parametrize(
    "junk", [None, "127.0.0.1:1", ("h", 0), ("h", 70000), ("", 1), ("h", "1"), ("a b", 1), (1, 1), 7]
)
def test_a_node_that_address_map_makes_no_address_of_is_left_out_of_the_map(
    fake: FakeCluster, protocol: int, junk: object
) -> None:
    refused = fake.node_for_key(KEY)
    with client_of(fake, protocol, address_map=lambda told: junk if told == refused.address else told) as cluster:
        assert refused.address not in {node.address for node in cluster.primaries()}
        assert len(cluster.primaries()) == 2
        with pytest.raises(gvcluster.SlotNotCovered):
            cluster.execute("GET", KEY)
    assert not refused.commands("GET")


def refuse(address: Address) -> Address:
    raise PermissionError("not in this house")


def test_an_address_map_that_refuses_all_of_a_map_leaves_no_map(fake: FakeCluster, protocol: int) -> None:
    with pytest.raises(TopologyUnavailable, match="address_map refuses every node that has slots"):
        gvcluster.connect(fake.seeds, protocol=protocol, password=PASSWORD, address_map=refuse, timeout=0.5)


def test_a_map_that_is_refused_later_leaves_the_old_one_in_place(fake: FakeCluster, protocol: int) -> None:
    allowed = []
    with client_of(fake, protocol, address_map=lambda told: refuse(told) if allowed else told) as cluster:
        allowed.append(False)
        with pytest.raises(TopologyUnavailable, match="address_map refuses"):
            cluster.refresh()
        assert len(cluster.primaries()) == 3
        assert cluster.execute("SET", KEY, 1) == b"OK"


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_redirect_that_address_map_refuses_fails_and_says_so(
    fake: FakeCluster, stranger: FakeNode, protocol: int, word: str
) -> None:
    fake.node_for_key(KEY).on("GET", f"-{word} {SLOT} {stranger.address}\r\n".encode())
    known = {node.address for node in fake.nodes}
    with client_of(fake, protocol, address_map=lambda told: told if told in known else refuse(told)) as cluster:
        with pytest.raises(ConnectFailed, match=r"^address_map refused 127\.0\.0\.1:\d+: not in this house") as caught:
            cluster.execute("GET", KEY)
        assert caught.value.address == stranger.address
        assert isinstance(caught.value.__cause__, ValueError)
        assert not caught.value.maybe_executed
    assert stranger.connections.accepted == 0


def test_address_map_must_be_callable_and_is_not_for_urls() -> None:
    with pytest.raises(ConfigError, match="address_map must be callable"):
        gvcluster.Cluster("h:1", address_map={})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="address_map cannot be given in a URL"):
        gvcluster.Cluster.from_url("valkey://h:1?address_map=x")
