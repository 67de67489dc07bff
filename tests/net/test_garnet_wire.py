"""A FakeGarnet answers, byte for byte, as Garnet's source says that a Garnet does."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from raw_client import END, Client, client_of

from gvcluster.core.slots import hash_slot
from gvcluster.core.topology import parse_nodes, parse_slots
from gvcluster.errors import ConfigError
from gvcluster.testing import FakeCluster, FakeGarnet, GarnetNode
from gvcluster.testing.garnet import maps, verify
from gvcluster.testing.garnet.config import Config, OpenSlot, Worker

A, B, C = "A" * 40, "B" * 40, "C" * 40


def wire(text: str) -> bytes:
    """`*1 $2 ip :7` as it is on the wire; what follows `$2` is the bulk string."""
    words = iter(text.replace("A40", A).replace("B40", B).split())
    return b"".join(
        f"{word}\r\n".encode() + (f"{next(words)}\r\n".encode() if word[0] == "$" and word != "$-1" else b"")
        for word in words
    )


def view(endpoint_type: str, mine: Worker, *others: Worker, owner: str = A) -> GarnetNode:
    """A node that was never started, and believes this."""
    fake = FakeGarnet(1, endpoint_type=endpoint_type)  # type: ignore[arg-type]
    (node,) = fake.nodes
    node.release()
    node.id, node.config = mine.id, Config(mine)
    node.config.workers |= {worker.id: worker for worker in others}
    node.config.owners = [owner] * 16384
    return node


def worker(id_: str, port: int, hostname: str = "box.a", primary: str | None = None, epoch: int = 1) -> Worker:
    return Worker(id_, "127.0.0.1", port, hostname, epoch, primary)


@pytest.fixture
def clients(garnet: FakeGarnet) -> Iterator[Callable[[GarnetNode], Client]]:
    """One raw client for each node."""
    made: dict[GarnetNode, Client] = {}

    def client_of_node(node: GarnetNode) -> Client:
        if node not in made:
            made[node] = Client(node.address)
        return made[node]

    yield client_of_node
    for client in made.values():
        client.socket.close()


# -- facts/garnet.md, section 15 ---------------------------------------------------------------------------------------


def test_hello_tells_the_garnet_version_as_its_third_pair(garnet: FakeGarnet) -> None:
    fields = (
        "$6 server $5 redis $7 version $5 7.4.3 $14 garnet_version $5 2.1.4 $5 proto {}"
        " $2 id :1 $4 mode $7 cluster $4 role $6 master $7 modules *0"
    )
    for version, head in (("3", "%8"), ("2", "*16")):
        with client_of(garnet.nodes[int(version) - 2]) as client:
            client.send("HELLO", version)
            assert received(client) == wire(f"{head} {fields.format(':' + version)}")


def received(client: Client) -> bytes:
    """The bytes of what comes, which is one segment here."""
    return bytes(client.socket.recv(65536))


@pytest.mark.parametrize(
    ("kind", "hostname", "node"),
    [
        ("ip", "box.a", "*4 $9 127.0.0.1 :7000 $40 A40 *2 $8 hostname $5 box.a"),
        ("ip", "", "*4 $9 127.0.0.1 :7000 $40 A40 *0"),
        ("hostname", "box.a", "*4 $5 box.a :7000 $40 A40 *2 $2 ip $9 127.0.0.1"),
        ("hostname", "", "*4 $1 ? :7000 $40 A40 *2 $2 ip $9 127.0.0.1"),
        ("unknown", "box.a", "*4 $-1 :7000 $40 A40 *4 $2 ip $9 127.0.0.1 $8 hostname $5 box.a"),
        ("unknown", "", "*4 $-1 :7000 $40 A40 *2 $2 ip $9 127.0.0.1"),
    ],
)
def test_slots_by_type_of_endpoint(kind: str, hostname: str, node: str) -> None:
    assert maps.slots(view(kind, worker(A, 7000, hostname))) == wire(f"*1 *3 :0 :16383 {node}")


def test_slots_name_the_replica() -> None:
    node = view("ip", worker(A, 7000), worker(B, 7001, primary=A))
    nodes = (
        "*4 $9 127.0.0.1 :7000 $40 A40 *2 $8 hostname $5 box.a *4 $9 127.0.0.1 :7001 $40 B40 *2 $8 hostname $5 box.a"
    )
    assert maps.slots(node) == wire(f"*1 *4 :0 :16383 {nodes}")


def test_in_shards_the_replica_that_is_asked_is_offline() -> None:
    node = view("ip", worker(B, 7001, primary=A), worker(A, 7000))
    node.offset = 64
    each = "*16 $2 id $40 {}40 $4 port :700{} $2 ip $9 127.0.0.1 $8 endpoint $9 127.0.0.1 $8 hostname $5 box.a $4 role "
    first = each.format("A", 0) + "$6 master $18 replication-offset :0 $6 health $6 online"
    second = each.format("B", 1) + "$5 slave $18 replication-offset :64 $6 health $7 offline"
    assert maps.shards(node) == wire(f"*1 *4 $5 slots *2 :0 :16383 $5 nodes *2 {first} {second}")


def test_nodes_at_a_migrating_source_and_about_a_replica() -> None:
    node = view("ip", worker(A, 7000), worker(B, 7001, epoch=2), worker(C, 7002, primary=A, epoch=3))
    node.config.open[949] = OpenSlot("migrating", B)
    first, second, third = maps.nodes(node).decode().splitlines()
    assert first == f"{A} 127.0.0.1:7000@17000,box.a myself,master - 0 0 1 connected 0-16383 [949->-{B}]"
    # The ticks are those of the moment.
    assert second.split()[:4] == [B, "127.0.0.1:7001@17001,box.a", "master", "-"]
    assert second.split()[6:] == ["2", "connected"]
    assert third.split()[:4] == [C, "127.0.0.1:7002@17002,box.a", "slave", A]


def test_an_empty_cluster_is_ok_and_has_one_shard_without_slots() -> None:
    node = view("ip", worker(A, 7000))
    node.config.owners = [None] * 16384
    assert maps.slots(node) == b"*0\r\n"
    assert maps.shards(node).startswith(b"*1\r\n*4\r\n$5\r\nslots\r\n*0\r\n$5\r\nnodes\r\n*1\r\n")
    told = maps.info(node).decode()
    assert "cluster_state:ok\r\ncluster_slots_assigned:0\r\n" in told
    assert "cluster_known_nodes:1\r\ncluster_size:1\r\n" in told


def test_in_resp3_shard_messages_are_pushes_and_confirmations_are_lists(garnet: FakeGarnet) -> None:
    owner = garnet.node_for_key("ch")
    assert owner is not None
    with client_of(owner) as subscriber, client_of(owner) as publisher:
        subscriber.ask("HELLO", 3)
        subscriber.send("SSUBSCRIBE", "ch")
        assert received(subscriber) == wire("*3 $10 ssubscribe $2 ch :1")
        assert publisher.ask("SPUBLISH", "ch", "m") == 1
        assert received(subscriber) == wire(">3 $7 message $2 ch $1 m")
        subscriber.send("UNSUBSCRIBE", "ch")
        assert received(subscriber) == wire("*3 $11 unsubscribe $2 ch :0")


def test_a_transaction_on_the_wrong_node_is_queued_and_exec_is_moved(garnet: FakeGarnet, clients: Any) -> None:
    owner = garnet.owner(949)
    assert owner is not None
    other = next(node for node in garnet.nodes if node.role == "primary" and node is not owner)
    client = clients(other)
    assert [client.ask("MULTI"), client.ask("SET", "wxz", 1), client.ask("GET", "wxz")] == [b"OK", b"QUEUED", b"QUEUED"]
    client.send("EXEC")
    assert received(client) == f"-MOVED 949 {owner.address}\r\n".encode()
    assert client.ask("PING") == b"PONG"
    assert client.ask("EXEC") == "ERR EXEC without MULTI"
    assert owner.data == {}


# -- section 1: errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "reply"),
    [
        (("NOSUCH",), "ERR unknown command"),
        (("RESET",), "ERR unknown command"),
        (("WAIT", 1, 1), "ERR unknown command"),
        (("SUNSUBSCRIBE", "ch"), "ERR unknown command"),
        (("CLUSTER", "LINKS"), "ERR unknown subcommand 'LINKS'. Try CLUSTER HELP"),
        (("CLUSTER", "SETSLOTRANGE", 1), "ERR unknown subcommand 'SETSLOTRANGE'. Try CLUSTER HELP"),
        (("CLUSTER", "MEET", "h"), "ERR wrong number of arguments for 'cluster|meet' command"),
        (("CLIENT", "NO-EVICT", "ON"), "ERR unknown subcommand 'NO-EVICT'."),
        (("CLIENT", "TRACKING", "ON"), "ERR unknown subcommand 'TRACKING'."),
        (("CLIENT", "SETINFO", "Lib-Name", "x"), "ERR syntax error"),
        (("PUBSUB", "SHARDCHANNELS"), "ERR unknown subcommand 'SHARDCHANNELS'."),
        (("SELECT", 1), "ERR SELECT is not allowed in cluster mode"),
        (("HELLO", 4), "ERR Unsupported protocol version"),
        (("HELLO", "x"), "ERR Protocol version is not an integer or out of range."),
        (("HELLO", 3, "NOPE"), "ERR Syntax error in HELLO option 'NOPE'"),
        (("HELLO", 3, "AUTH", "u", "p"), "WRONGPASS Invalid username/password combination"),
        (("AUTH", "p"), "ERR Client sent AUTH, but configured authenticator does not accept passwords"),
        (("EVAL", "return 1", 0), "ERR This instance has Lua scripting support disabled"),
        (("EVALSHA", "0" * 40, 0), "ERR This instance has Lua scripting support disabled"),
        (("SCRIPT", "LOAD", "return 1"), "ERR This instance has Lua scripting support disabled"),
        (("MGET", "a", "b"), "CROSSSLOT Keys in request do not hash to the same slot"),
        (("COMMAND", "GETKEYS", "PING"), "The command has no key arguments"),
        (("COMMAND", "GETKEYS", "NOSUCH"), "Invalid command specified"),
        (("CLUSTER", "SETSLOT", 1, "MIGRATING", "0" * 40), f"ERR I don't know about node {'0' * 40}."),
        (("CLUSTER", "FORGET", "0" * 40), f"ERR I don't know about node {'0' * 40}."),
        (("CLUSTER", "COUNTKEYSINSLOT", 16384), "ERR Slot out of range"),
        (("CLUSTER", "COUNTKEYSINSLOT", "x"), "ERR Invalid or out of range slot"),
        (("MIGRATE", "h", 1, "", 0, 1, "KEYS", "k"), "ERR Unknown endpoint"),
        (("CLUSTER", "FAILOVER"), "ERR Node is not configured as a REPLICA"),
    ],
)
def test_the_words_of_errors(garnet: FakeGarnet, clients: Any, args: tuple[object, ...], reply: str) -> None:
    assert clients(garnet.nodes[0]).ask(*args) == reply


def test_with_a_password_hello_tells_who_it_is_and_everything_else_is_noauth() -> None:
    with FakeGarnet(1, password="s3") as fake, client_of(fake.nodes[0]) as client:
        assert client.ask("HELLO", 3)[b"garnet_version"] == b"2.1.4"
        assert client.ask("GET", "k") == "NOAUTH Authentication required."
        assert client.ask("AUTH", "no") == "WRONGPASS Invalid password"
        assert client.ask("AUTH", "u", "no") == "WRONGPASS Invalid username/password combination"
        assert client.ask("HELLO", 2, "AUTH", "u", "no") == "WRONGPASS Invalid username/password combination"
        assert client.ask("HELLO", 3, "AUTH", "anybody", "s3")[b"proto"] == 3
        assert client.ask("GET", "k") is None


def test_quit_is_answered_and_ends_the_connection(garnet: FakeGarnet, clients: Any) -> None:
    client = clients(garnet.nodes[0])
    assert [client.ask("QUIT"), client.read()] == [b"OK", END]


# -- section 3: who answers what ---------------------------------------------------------------------------------------


def test_who_answers_what_for_one_key(garnet: FakeGarnet, clients: Any) -> None:
    source, target, third = garnet.nodes[:3]
    replica = garnet.nodes[3]
    key = garnet.key_at(source).encode()
    slot = hash_slot(key)
    moved, ask = f"MOVED {slot} {source.address}", f"ASK {slot} {target.address}"
    at = {name: clients(node) for name, node in zip("stwr", (source, target, third, replica), strict=True)}

    def both(name: str, *first: str) -> list[Any]:
        replies = []
        for command in (("GET", key), ("SET", key, "v")):
            for word in first:
                assert at[name].ask(word) == b"OK"
            replies.append(at[name].ask(*command))
        return replies

    assert (both("s"), both("t"), both("w")) == ([None, b"OK"], [moved, moved], [moved, moved])
    # The replica serves reads without READONLY, and sends writers away; READWRITE lets them in, READONLY undoes that.
    assert both("r") == [b"v", moved]
    assert both("r", "READONLY") == [b"v", moved]
    assert both("r", "READWRITE") == [b"v", b"OK"]
    assert both("r", "READONLY") == [b"v", moved]

    garnet.begin_migration(slot, target)
    assert (both("s"), both("t"), both("w")) == ([b"v", b"OK"], [moved, moved], [moved, moved])
    garnet.move_keys(key)
    assert both("s") == [ask, ask]
    assert both("t") == [moved, moved]
    assert both("t", "ASKING") == [b"v", b"OK"]
    assert at["t"].ask("ASKING") == at["t"].ask("READONLY") == b"OK"
    assert at["t"].ask("GET", key) == moved  # ASKING was for READONLY
    assert both("r") == [None, moved]  # replicas do not know of migrations

    garnet.move_slot(slot, target)
    moved_on = f"MOVED {slot} {target.address}"
    assert (both("s"), both("t"), both("w")) == ([moved_on] * 2, [b"v", b"OK"], [moved_on] * 2)


def test_a_slot_without_an_owner_and_a_primary_that_recovers(garnet: FakeGarnet, clients: Any) -> None:
    primary, replica = garnet.nodes[0], garnet.nodes[3]
    key = garnet.key_at(primary)
    slot = hash_slot(key)
    primary.is_recovering = replica.is_recovering = True
    assert clients(primary).ask("GET", key) == clients(primary).ask("SET", key, 1) == verify.CLUSTERDOWN
    assert clients(replica).ask("GET", key) == f"MOVED {slot} {primary.address}"
    primary.is_recovering = replica.is_recovering = False
    garnet.move_slot(slot, None)
    assert clients(primary).ask("GET", key) == clients(replica).ask("GET", key) == verify.CLUSTERDOWN
    assert clients(replica).ask("SET", key, 1) == f"MOVED {slot} unassigned:0"
    garnet.endpoint_type = "unknown"
    assert clients(replica).ask("SET", key, 1) == f"MOVED {slot} ?:0"


def test_several_keys_some_of_which_have_gone(garnet: FakeGarnet, clients: Any) -> None:
    source, target = garnet.nodes[:2]
    tag = garnet.key_at(source)
    keys = [f"{{{tag}}}{letter}".encode() for letter in "ab"]
    assert clients(source).ask("MSET", keys[0], 1, keys[1], 2) == b"OK"
    garnet.begin_migration(hash_slot(tag), target)
    garnet.move_keys(keys[0])
    tryagain = "TRYAGAIN Multiple keys request during rehashing of slot"
    assert clients(source).ask("MGET", *keys) == clients(source).ask("DEL", *keys) == tryagain
    assert clients(source).ask("MGET", keys[1], "{x}") == "CROSSSLOT Keys in request do not hash to the same slot"
    assert clients(target).ask("ASKING") == b"OK"
    assert clients(target).ask("MGET", *keys) == [b"1", None]  # no TRYAGAIN on this side
    garnet.move_keys(keys[1])
    assert clients(source).ask("MGET", *keys) == f"ASK {hash_slot(tag)} {target.address}"


def test_what_is_not_slot_checked_runs_wherever_it_comes(garnet: FakeGarnet, clients: Any) -> None:
    primary, replica = garnet.nodes[1], garnet.nodes[4]
    clients(primary).ask("SET", garnet.key_at(primary), 1)
    assert [clients(node).ask("DBSIZE") for node in garnet.nodes] == [0, 1, 0, 0, 1, 0]
    assert clients(garnet.nodes[0]).ask("MEMORY", "USAGE", garnet.key_at(primary)) is None
    assert clients(replica).ask("FLUSHALL") == "ERR You can't write against a read only replica."
    assert clients(primary).ask("FLUSHALL") == b"OK"


# -- section 5: transactions -------------------------------------------------------------------------------------------


def test_exec_sums_up_all_keys_and_watched_ones(garnet: FakeGarnet, clients: Any) -> None:
    node, other = garnet.nodes[:2]
    key, elsewhere = garnet.key_at(node), garnet.key_at(other)
    client = clients(node)
    assert client.ask("WATCH", elsewhere) == f"MOVED {hash_slot(elsewhere)} {other.address}"
    assert client.ask("WATCH", key) == b"OK"
    assert [client.ask("MULTI"), client.ask("SET", elsewhere, 1)] == [b"OK", b"QUEUED"]
    assert client.ask("EXEC") == "CROSSSLOT Keys in request do not hash to the same slot"
    for first, reply in ((("NOSUCH",), "ERR unknown command"), (("MULTI",), "ERR MULTI calls can not be nested")):
        assert client.ask("MULTI") == b"OK"
        assert client.ask("WATCH", key) == "ERR WATCH inside MULTI is not allowed"
        assert client.ask(*first) == reply
        assert client.ask("EXEC") == "EXECABORT Transaction discarded because of previous errors."


@pytest.mark.parametrize(("version", "null"), [(2, b"*-1\r\n"), (3, b"_\r\n")])
def test_a_watched_key_that_changed_makes_exec_null(
    garnet: FakeGarnet, clients: Any, version: int, null: bytes
) -> None:
    node = garnet.nodes[0]
    key = garnet.key_at(node)
    with client_of(node) as client:
        client.ask("HELLO", version)
        assert client.ask("WATCH", key) == b"OK"
        clients(node).ask("INCR", key)
        assert [client.ask("MULTI"), client.ask("INCR", key)] == [b"OK", b"QUEUED"]
        client.send("EXEC")
        assert received(client) == null
        assert [client.ask("MULTI"), client.ask("INCR", key), client.ask("EXEC")] == [b"OK", b"QUEUED", [2]]


def test_asking_has_expired_when_exec_comes(garnet: FakeGarnet, clients: Any) -> None:
    source, target = garnet.nodes[:2]
    key = garnet.key_at(source)
    garnet.begin_migration(hash_slot(key), target)
    client = clients(target)
    assert [client.ask(*words) for words in (["ASKING"], ["MULTI"], ["ASKING"], ["GET", key])][1:] == [
        b"OK",
        b"QUEUED",
        b"QUEUED",
    ]
    assert client.ask("EXEC") == f"MOVED {hash_slot(key)} {source.address}"


def test_a_transaction_that_only_reads_runs_on_a_replica(garnet: FakeGarnet, clients: Any) -> None:
    key = garnet.key_at(garnet.nodes[0])
    client = clients(garnet.nodes[3])
    assert [client.ask("MULTI"), client.ask("GET", key), client.ask("EXEC")] == [b"OK", b"QUEUED", [None]]


# -- sections 6 to 8 ---------------------------------------------------------------------------------------------------


def test_with_lua_scripts_are_known_node_by_node(clients: Any) -> None:
    with FakeGarnet(2, lua=True) as fake, client_of(fake.nodes[0]) as one, client_of(fake.nodes[1]) as other:
        fake.scripts[b"return 7"] = lambda _node, _keys, _args: 7
        digest = one.ask("SCRIPT", "LOAD", "return 7")
        assert one.ask("EVALSHA", digest, 0) == 7
        assert other.ask("EVALSHA", digest, 0) == "NOSCRIPT No matching script. Please use EVAL."
        assert other.ask("SCRIPT", "EXISTS", digest) == [0]
        assert other.ask("EVAL", "return 7", 1, fake.key_at(fake.nodes[0])).startswith("MOVED ")
        assert other.ask("EVAL", "return 8", 0).startswith("ERR Lua encountered an error: ")


def test_a_subscriber_in_resp2_may_do_little_else(garnet: FakeGarnet, clients: Any) -> None:
    client = clients(garnet.nodes[0])
    assert client.ask("SUBSCRIBE", "a") == [b"subscribe", b"a", 1]
    assert client.ask("SUBSCRIBE", "a") == [b"subscribe", b"a", 1]
    assert client.ask("PING") == [b"pong", b""]
    assert client.ask("GET", "k").startswith("ERR Can't execute 'GET': only (P|S)SUBSCRIBE / ")
    assert client.ask("PUNSUBSCRIBE") == [b"punsubscribe", None, 1]


def test_publish_reaches_all_nodes_and_counts_its_own_subscribers(garnet: FakeGarnet, clients: Any) -> None:
    subscriber, publisher = clients(garnet.nodes[0]), clients(garnet.nodes[1])
    subscriber.ask("SUBSCRIBE", "ch")
    assert publisher.ask("PUBLISH", "ch", "m") == 0
    assert subscriber.read() == [b"message", b"ch", b"m"]
    assert clients(garnet.nodes[2]).ask("PUBSUB", "NUMSUB", "ch") == [b"ch", 0]


def test_a_plain_subscriber_gets_the_shards_messages_too(garnet: FakeGarnet, clients: Any) -> None:
    owner = garnet.node_for_key("ch")
    assert isinstance(owner, GarnetNode)
    replica = next(node for node in garnet.nodes if node.primary is owner)
    clients(replica).ask("SUBSCRIBE", "ch")
    assert clients(owner).ask("SPUBLISH", "ch", "m") == 0
    assert clients(replica).read() == [b"message", b"ch", b"m"]


def test_info_is_verbatim_in_resp3_and_names_garnet(garnet: FakeGarnet) -> None:
    with client_of(garnet.nodes[3]) as client:
        client.send("INFO", "server")
        assert b"garnet_version:2.1.4\r\n" in client.read()
        assert b"role:slave\r\n" in client.ask("INFO", "replication")
        client.ask("HELLO", 3)
        client.send("INFO", "replication")
        assert received(client).startswith(b"=")
        assert client.ask("ROLE")[0] == b"slave"


def test_command_info_has_capitals_and_sets(garnet: FakeGarnet) -> None:
    with client_of(garnet.nodes[0]) as client:
        (get, nothing) = client.ask("COMMAND", "INFO", "get", "nosuch")
        assert (len(get), get[0], get[1], get[2][1], get[3:6], nothing) == (10, b"GET", 2, b"readonly", [1, 1, 1], None)
        assert client.ask("COMMAND", "INFO", "EVAL")[0][3:6] == [0, 0, 0]
        client.ask("HELLO", 3)
        client.send("COMMAND", "INFO", "GET")
        assert b"\r\n~2\r\n+fast\r\n+readonly\r\n" in received(client)
        assert client.ask("COMMAND", "GETKEYS", "MSET", "a", 1, "b", 2) == [b"a", b"b"]


# -- sections 4 and 10: views, moves, failovers ------------------------------------------------------------------------


def test_views_are_old_until_gossip_comes_and_have_holes_if_the_old_owner_speaks_first(clients: Any) -> None:
    with FakeGarnet(3, gossips=False) as fake:
        source, target, third = fake.nodes
        slot = hash_slot(key := fake.key_at(source))
        fake.move_slot(slot, target)
        with client_of(third) as client:
            assert client.ask("GET", key) == f"MOVED {slot} {source.address}"
            fake.gossip(source, third)
            # It was told of the new owner as well: by the source, whose own view the target has corrected.
            assert client.ask("GET", key) == f"MOVED {slot} {target.address}"


def test_a_hole_is_no_slot_and_not_in_the_map() -> None:
    third = view("ip", worker(C, 7002), worker(A, 7000, epoch=1), worker(B, 7001, epoch=2))
    source = Config(worker(A, 7000, epoch=3))
    source.owners = [None if slot == 5 else A for slot in range(16384)]
    third.config.hear(source.told())
    assert third.config.owners[4:7] == [A, None, A]
    assert verify.refusal(third, [key_in(5)], writes=False, asking=False, readwrite=False) is not None
    assert maps.slots(third).startswith(b"*2\r\n")
    target = Config(worker(B, 7001, epoch=4))
    target.owners[5] = B
    third.config.hear(target.told())
    assert third.config.owners[4:7] == [A, B, A]
    third.config.hear(source.told())  # old news
    assert third.config.owners[5] == B


def test_of_two_nodes_with_one_epoch_the_greater_id_takes_the_next() -> None:
    lesser, greater = Config(worker(A, 7000, epoch=5)), Config(worker(B, 7001, epoch=5))
    lesser.hear(greater.told())
    greater.hear(lesser.told())
    assert (lesser.mine.epoch, greater.mine.epoch) == (5, 6)


def key_in(slot: int) -> bytes:
    return next(key for key in map(b"%d".__mod__, range(10**6)) if hash_slot(key) == slot)


def test_operators_move_a_slot_by_hand(garnet: FakeGarnet, clients: Any) -> None:
    source, target, third = garnet.nodes[:3]
    key = garnet.key_at(source)
    slot = hash_slot(key)
    s, t = clients(source), clients(target)
    s.ask("SET", key, "v")
    assert t.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", third.id) == f"ERR Slot {slot} is not owned by {third.id}"
    assert s.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", source.id) == "ERR Can't MIGRATE to myself"
    assert t.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", source.id) == f"ERR I'm not the owner of hash slot {slot}"
    migrate = ("MIGRATE", *target.address, "", 0, 1000, "KEYS", key)
    assert s.ask(*migrate) == "ERR slot state not set to MIGRATING state"
    assert t.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id) == b"OK"
    assert s.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id) == b"OK"
    assert s.ask("CLUSTER", "SLOTSTATE", slot) == f"{slot} > {target.id}".encode()
    assert f"[{slot}->-{target.id}]".encode() in s.ask("CLUSTER", "NODES")
    assert f"[{slot}-<-{source.id}]".encode() in t.ask("CLUSTER", "NODES")
    assert b"cluster_slots_ok:16383\r\n" in s.ask("CLUSTER", "INFO")
    assert s.ask(*migrate) == b"OK"
    assert t.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id) == b"OK"
    assert s.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id) == b"OK"
    assert clients(third).ask("GET", key) == f"MOVED {slot} {target.address}"
    assert t.ask("GET", key) == b"v"
    assert t.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    assert s.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == f"MOVED {slot} {target.address}"


def test_migrate_slotsrange_moves_whole_slots_at_once(garnet: FakeGarnet, clients: Any) -> None:
    source, target = garnet.nodes[:2]
    key = garnet.key_at(source)
    slot = hash_slot(key)
    clients(source).ask("RPUSH", key, "a", "b")
    begin = ("MIGRATE", *target.address, "", 0, -1)
    assert clients(source).ask(*begin, "SLOTSRANGE", slot) == "ERR incomplete slotrange"
    assert clients(target).ask(*begin, "SLOTS", slot) == f"ERR slot {slot} not owned by current node."
    assert clients(source).ask(*begin, "SLOTSRANGE", slot, slot) == b"OK"
    assert clients(source).ask("CLUSTER", "MTASKS") == 0
    assert clients(target).ask("LRANGE", key, 0, -1) == [b"a", b"b"]
    assert clients(garnet.nodes[2]).ask("LLEN", key) == f"MOVED {slot} {target.address}"


def test_a_failover_is_a_ping_pong_of_moved_then_clusterdown_then_ok(garnet: FakeGarnet, clients: Any) -> None:
    old, new = garnet.nodes[0], garnet.nodes[3]
    key = garnet.key_at(old)
    slot = hash_slot(key)
    garnet.begin_failover(new)
    assert clients(old).ask("SET", key, 1) == f"MOVED {slot} {new.address}"
    assert clients(new).ask("SET", key, 1) == f"MOVED {slot} {old.address}"
    assert clients(old).ask("GET", key) is None
    assert clients(new).ask("GET", key) == f"MOVED {slot} {old.address}"
    garnet.promote(new)
    new.is_recovering = True
    assert clients(new).ask("SET", key, 1) == "CLUSTERDOWN Hash slot not served"
    new.is_recovering = False
    assert clients(new).ask("SET", key, 1) == b"OK"
    assert (clients(old).ask("GET", key), old.role, new.role) == (b"1", "replica", "primary")
    assert b"last_failover_state:failover-completed" in clients(new).ask("INFO", "replication")


def test_a_dead_primary_keeps_its_slots_until_somebody_says_takeover(garnet: FakeGarnet, clients: Any) -> None:
    old, new, third = garnet.nodes[0], garnet.nodes[3], garnet.nodes[1]
    key = garnet.key_at(old)
    slot = hash_slot(key)
    clients(old).ask("SET", key, "v")
    old.stop()
    assert clients(third).ask("GET", key) == f"MOVED {slot} {old.address}"
    assert clients(new).ask("CLUSTER", "FAILOVER", "TAKEOVER") == b"OK"
    assert clients(third).ask("GET", key) == f"MOVED {slot} {new.address}"
    assert clients(new).ask("APPEND", key, "w") == 2
    old.start()
    with client_of(old) as client:
        assert client.ask("APPEND", key, "x") == f"MOVED {slot} {new.address}"


def test_without_a_log_there_is_no_failover() -> None:
    with FakeGarnet(1, replicas=1, aof=False) as fake, client_of(fake.nodes[1]) as client:
        assert client.ask("CLUSTER", "FAILOVER").startswith("ERR Replication unaivalable because AOF is switched off")


# -- section 11: making a cluster --------------------------------------------------------------------------------------


def test_each_nodes_map_is_whole_in_all_its_forms(garnet: FakeGarnet, clients: Any) -> None:
    for node in garnet.nodes:
        by_slots = parse_slots(clients(node).ask("CLUSTER", "SLOTS"), node.address)
        by_nodes = parse_nodes(clients(node).ask("CLUSTER", "NODES"), node.address)
        for topology in (by_slots, by_nodes):
            assert topology.covered == 16384
            assert {each.address for each in topology.primaries} == {each.address for each in garnet.nodes[:3]}
            assert len(topology.replicas) == 3


def test_dialects_have_names() -> None:
    with pytest.raises(ConfigError, match=r"for 'garnet' use FakeGarnet"):
        FakeCluster(dialect="garnet")
    with pytest.raises(ConfigError, match="endpoint_type"):
        FakeGarnet(endpoint_type="dns")  # type: ignore[arg-type]
    with FakeCluster(1, dialect="redis") as fake, client_of(fake.nodes[0]) as client:
        assert client.ask("HELLO", 3)[b"server"] == b"redis"
        assert client.ask("CLIENT", "SETINFO", "LIB-NAME", "x").startswith("ERR unknown subcommand")
