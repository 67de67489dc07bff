"""FakeCluster answers as a small cluster, or exactly as its scripts say, and leaves nothing behind."""

import gc
import os
from typing import Any

import gevent
import gevent.event
import gevent.socket
import pytest
from raw_client import END, Client, client_of

from gvcluster.core.slots import hash_slot
from gvcluster.core.topology import parse_nodes, parse_slots
from gvcluster.errors import ConfigError
from gvcluster.testing import FakeCluster, FakeNode
from gvcluster.testing.answers import NOT_HANDLED, Answer, Close, Delay, Pieces, Reset, encode_reply
from gvcluster.testing.fake_connection import FakeConnection
from gvcluster.testing.fake_node import Received

# -- the default answers -----------------------------------------------------------------------------------------------


def test_the_slots_are_shared_evenly_and_told_by_slots_and_nodes(fake: FakeCluster) -> None:
    for node in fake.nodes:
        with client_of(node) as client:
            by_slots = parse_slots(client.ask("CLUSTER", "SLOTS"), node.address)
            by_nodes = parse_nodes(client.ask("CLUSTER", "NODES"), node.address)
        for topology in (by_slots, by_nodes):
            assert topology.covered == 16384
            assert [primary.address for primary in topology.primaries] == [node.address for node in fake.nodes]
            assert [primary.id for primary in topology.primaries] == [node.id for node in fake.nodes]
        assert [by_slots.owners.count(primary) for primary in by_slots.primaries] == [5462, 5461, 5461]
    assert fake.seeds == ",".join(f"127.0.0.1:{node.address.port}" for node in fake.nodes)


@pytest.mark.parametrize("version", [2, 3])
def test_a_client_can_shake_hands_in_both_protocols(fake: FakeCluster, version: int) -> None:
    with client_of(fake.nodes[0]) as client:
        hello = client.ask("HELLO", version, "SETNAME", "test")
        told = hello if version == 3 else dict(zip(hello[::2], hello[1::2], strict=True))
        assert (told[b"proto"], told[b"mode"], told[b"role"]) == (version, b"cluster", b"master")
        assert client.ask("CLIENT", "SETINFO", "LIB-NAME", "x") == b"OK"
        assert client.ask("CLIENT", "GETNAME") == b"test"
        assert client.ask("CLIENT", "SETNAME", "other") == b"OK"
        assert client.ask("CLIENT", "ID") == 1
        assert client.ask("CLUSTER", "MYID") == fake.nodes[0].id.encode()
        assert client.ask("ROLE") == [b"master", 0, []]
        assert client.ask("GET", fake.key_at(fake.nodes[0])) is None
        assert client.ask("CLUSTER", "SLOTS")[0][2][3] == ({} if version == 3 else [])


def test_simple_commands_work_and_wrong_ones_are_errors(fake: FakeCluster) -> None:
    key = fake.key_at(fake.nodes[1])
    with client_of(fake.nodes[1]) as client:
        assert client.ask("PING") == b"PONG"
        assert client.ask("PING", "x") == b"x"
        assert client.ask("ECHO", b"\x00\r\n") == b"\x00\r\n"
        assert client.ask("SELECT", 0) == b"OK"
        assert client.ask("SELECT", 1) == "ERR DB index is out of range"
        assert client.ask("set", key, "7") == b"OK"
        assert client.ask("INCR", key) == 8
        assert client.ask("GET", key) == b"8"
        assert client.ask("DEL", key) == 1
        assert client.ask("DEL", key) == 0
        assert client.ask("SET", key, "x") == b"OK"
        assert client.ask("INCR", key) == "ERR value is not an integer or out of range"
        assert client.ask("GET") == "ERR wrong number of arguments for 'get' command"
        assert client.ask("DEL") == "ERR wrong number of arguments for 'del' command"
        assert client.ask("NOSUCH", 1) == "ERR unknown command 'NOSUCH'"
        assert client.ask("CLUSTER", "NOSUCH") == "ERR unknown subcommand 'NOSUCH'. Try CLUSTER HELP."
        assert client.ask("CLUSTER", "KEYSLOT", "123456789") == 12739
        assert client.ask("DEL", "a", "b") == "CROSSSLOT Keys in request don't hash to the same slot"
        assert client.ask("HELLO", 4) == "NOPROTO unsupported protocol version"


def test_a_password_is_asked_for_before_anything_else() -> None:
    with FakeCluster(1, username="u", password="p") as fake, client_of(fake.nodes[0]) as client:
        assert client.ask("PING") == "NOAUTH Authentication required."
        assert client.ask("HELLO", 3).startswith("NOAUTH ")
        assert client.ask("AUTH", "p").startswith("WRONGPASS ")
        assert client.ask("HELLO", 3, "AUTH", "u", "x").startswith("WRONGPASS ")
        assert client.ask("HELLO", 3, "AUTH", "u", "p")[b"proto"] == 3
        assert client.ask("PING") == b"PONG"
    with FakeCluster(1, password="p") as fake, client_of(fake.nodes[0]) as client:
        assert client.ask("AUTH", "p") == b"OK"
        assert client.ask("PING") == b"PONG"


def test_keys_of_other_nodes_are_moved_and_a_moved_slot_takes_its_keys_along(fake: FakeCluster) -> None:
    one, two, _ = fake.nodes
    key = fake.key_at(two)
    slot = hash_slot(key)
    with client_of(one) as at_one, client_of(two) as at_two:
        assert at_two.ask("SET", key, "v") == b"OK"
        assert at_one.ask("GET", key) == f"MOVED {slot} 127.0.0.1:{two.address.port}"
        fake.move_slot(slot, one)
        assert at_one.ask("GET", key) == b"v"
        assert at_two.ask("GET", key) == f"MOVED {slot} 127.0.0.1:{one.address.port}"
        told = parse_nodes(at_two.ask("CLUSTER", "NODES"), two.address)
        assert told.owner(slot) == told.node_at(one.address)
        assert told.epochs is not None
        assert told.epochs[slot] > max(
            epoch for at, epoch in enumerate(told.epochs) if told.owners[at] != told.owners[slot]
        )
        fake.move_slot(slot, None)
        assert at_one.ask("GET", key) == "CLUSTERDOWN Hash slot not served"
        assert parse_slots(at_one.ask("CLUSTER", "SLOTS"), one.address).owner(slot) is None


def test_an_open_slot_asks_for_missing_keys_and_asking_lasts_for_one_command(fake: FakeCluster) -> None:
    one, two, _ = fake.nodes
    key = fake.key_at(one)
    fake.begin_migration(hash_slot(key), two)
    with client_of(one) as source, client_of(two) as target:
        assert source.ask("GET", key) == f"ASK {hash_slot(key)} 127.0.0.1:{two.address.port}"
        assert target.ask("SET", key, "v") == f"MOVED {hash_slot(key)} 127.0.0.1:{one.address.port}"
        assert target.ask("ASKING") == b"OK"
        assert target.ask("SET", key, "v") == b"OK"
        assert target.ask("GET", key).startswith("MOVED ")
        one.data[key.encode()] = b"still here"
        assert source.ask("GET", key) == b"still here"


def test_replicas_serve_reads_after_readonly_and_can_be_promoted() -> None:
    with FakeCluster(2, replicas=1) as fake:
        one, _, replica, other = fake.nodes
        assert [node.role for node in fake.nodes] == ["primary", "primary", "replica", "replica"]
        key = fake.key_at(one)
        one.data[key.encode()] = b"v"
        with client_of(replica) as client:
            moved = f"MOVED {hash_slot(key)} 127.0.0.1:{one.address.port}"
            assert client.ask("GET", key) == moved
            assert client.ask("READONLY") == b"OK"
            assert client.ask("GET", key) == b"v"
            assert client.ask("SET", key, "w") == moved
            assert client.ask("READWRITE") == b"OK"
            assert client.ask("GET", key) == moved
            assert client.ask("ROLE") == [b"slave", b"127.0.0.1", one.address.port, b"connected", 0]
            fake.promote(replica)
            assert client.ask("SET", key, "w") == b"OK"
            assert client.ask("ROLE") == [b"master", 0, []]
            by_slots = parse_slots(client.ask("CLUSTER", "SLOTS"), replica.address)
            by_nodes = parse_nodes(client.ask("CLUSTER", "NODES"), replica.address)
        assert by_slots.same_routes(by_nodes)
        assert [str(node) for node in by_slots.replicas_of(by_slots.owners[0])] == [str(one.address)]  # type: ignore[arg-type]
        assert one.role == "replica"
        with pytest.raises(ConfigError, match="is a primary already"):
            fake.promote(replica)
        assert other.primary is fake.nodes[1]


# -- handlers ----------------------------------------------------------------------------------------------------------


def test_every_command_is_recorded_in_order_with_its_connection(fake: FakeCluster) -> None:
    node = fake.nodes[0]
    with client_of(node) as first, client_of(node) as second:
        first.ask("PING", "1")
        second.ask("ping", "2")
        first.ask("CLUSTER", "MYID")
        assert node.connections == (2, 2)
        assert node.received == [(1, [b"PING", b"1"]), (2, [b"ping", b"2"]), Received(1, [b"CLUSTER", b"MYID"])]
        assert node.commands("ping") == [[b"PING", b"1"], [b"ping", b"2"]]
        assert node.commands("CLUSTER MYID") == [[b"CLUSTER", b"MYID"]]
        assert node.commands("CLUSTER SLOTS") == []
    node.wait_until(lambda: node.connections.open == 0)
    assert node.connections.accepted == 2


def test_an_override_is_asked_first_then_the_handlers_then_the_default(fake: FakeCluster) -> None:
    node = fake.nodes[0]

    def override(_node: FakeNode, _connection: FakeConnection, args: list[bytes]) -> Answer:
        return b"+overridden\r\n" if args == [b"PING", b"me"] else NOT_HANDLED

    def handler(node: FakeNode, connection: FakeConnection, args: list[bytes]) -> Answer:
        return encode_reply([node.index, connection.number, *args], connection.protocol)

    node.override = override
    node.on("PING", handler, times=1)
    fake.on(0, "cluster myid", b"+constant\r\n")
    with client_of(node) as client:
        assert client.ask("PING", "me") == b"overridden"
        assert client.ask("PING") == [0, 1, b"PING"]
        assert client.ask("PING") == b"PONG"
        assert client.ask("CLUSTER", "MYID") == b"constant"
        assert client.ask("CLUSTER", "KEYSLOT", "a") == 15495
        node.on("CLUSTER MYID", NOT_HANDLED)
        assert client.ask("CLUSTER", "MYID") == node.id.encode()


def test_answers_can_close_reset_delay_cut_up_and_be_silent(fake: FakeCluster) -> None:
    node = fake.nodes[0]
    node.on("CLOSE", Close(b"+last\r\n"))
    node.on("RESET", Reset())
    node.on("PIECES", Pieces(b"+in pieces\r\n", size=1))
    node.on("DELAY", Delay(0.01, b"+late\r\n"))
    node.on("SILENT", None)
    with client_of(node) as client:
        assert (client.ask("CLOSE"), client.read()) == (b"last", END)
    with client_of(node) as client, pytest.raises(ConnectionResetError):
        client.ask("RESET")
    with client_of(node) as client:
        pieces: list[bytes] = []
        client.send("PIECES")
        while len(b"".join(pieces)) < len(b"+in pieces\r\n"):
            pieces.append(client.socket.recv(100))
        assert pieces == [bytes([byte]) for byte in b"+in pieces\r\n"]
        client.send("SILENT")
        client.send("DELAY")
        assert client.ask("PING") == b"late"
        assert client.read() == b"PONG"


def test_a_handler_may_wait_and_other_connections_go_on(fake: FakeCluster) -> None:
    node = fake.nodes[0]
    gate = gevent.event.Event()

    def wait_at_the_gate(_node: FakeNode, _connection: FakeConnection, _args: list[bytes]) -> Answer:
        gate.wait()
        return b"+through\r\n"

    node.on("GATE", wait_at_the_gate)
    with client_of(node) as waiting, client_of(node) as other:
        waiting.send("GATE")
        node.wait_until(lambda: node.commands("GATE"))
        assert other.ask("PING") == b"PONG"
        gate.set()
        assert waiting.read() == b"through"


def test_a_handler_may_stop_its_own_node(fake: FakeCluster) -> None:
    node = fake.nodes[0]

    def stop(node: FakeNode, _connection: FakeConnection, _args: list[bytes]) -> Answer:
        node.stop()
        return b"+never sent\r\n"

    node.on("DIE", stop)
    with client_of(node) as client, client_of(node) as other:
        assert client.ask("DIE") == END
        assert other.read() == END
    with pytest.raises(ConnectionRefusedError):
        Client(node.address)


def test_the_error_of_a_handler_closes_the_connection_and_ends_the_test() -> None:
    def broken(_node: FakeNode, _connection: FakeConnection, _args: list[bytes]) -> Answer:
        raise KeyError("mine")

    def no_answer(_node: FakeNode, _connection: FakeConnection, _args: list[bytes]) -> Any:
        return "text"

    fake = FakeCluster(2).start()
    fake.on(0, "GET", broken)
    fake.on(1, "GET", no_answer)
    for node in fake.nodes:
        with client_of(node) as client:
            assert client.ask("GET", "k") == END
    assert [repr(error)[:10] for error in fake.nodes[1].errors] == ["TypeError("]
    with pytest.raises(KeyError, match="mine"):
        fake.stop()


def test_an_error_of_the_test_itself_comes_first_and_gets_a_note() -> None:
    fake = FakeCluster(1)
    fake.nodes[0].errors.append(KeyError("mine"))
    with pytest.raises(ZeroDivisionError) as raised, fake:
        raise ZeroDivisionError
    assert raised.value.__notes__ == ["and KeyError('mine')"]


def test_what_is_no_command_gets_a_protocol_error_and_the_end(fake: FakeCluster) -> None:
    with client_of(fake.nodes[0]) as client:
        client.socket.sendall(b"PING\r\n")
        assert client.read().startswith("ERR Protocol error: ")
        assert client.read() == END


# -- bad days ----------------------------------------------------------------------------------------------------------


def test_a_stopped_node_refuses_and_comes_back_at_its_port_with_its_data(fake: FakeCluster) -> None:
    node = fake.nodes[0]
    key = fake.key_at(node)
    with client_of(node) as client:
        assert client.ask("SET", key, "v") == b"OK"
        node.stop()
        assert client.read() == END
    assert node.connections == (1, 0)
    with pytest.raises(ConnectionRefusedError):
        Client(node.address)
    node.start()
    with client_of(node) as client:
        assert client.ask("GET", key) == b"v"


def test_nobody_else_can_get_the_port_of_a_node_while_it_stops(fake: FakeCluster) -> None:
    """The socket that listened keeps it: between closing that and binding another one, the port was anybody's."""
    node = fake.nodes[0]
    for _ in range(2):
        assert node._listener is not None
        listening = os.fstat(node._listener.fileno()).st_ino
        node.stop()
        assert os.fstat(node._reserved.fileno()).st_ino == listening
        with pytest.raises(ConnectionRefusedError):
            gevent.socket.create_connection(node.address, timeout=5)
        node.start()
        gevent.socket.create_connection(node.address, timeout=5).close()


def test_connections_are_reset_or_closed_and_the_node_listens_on(fake: FakeCluster) -> None:
    node = fake.nodes[0]
    with client_of(node) as client:
        client.ask("PING")
        node.reset_connections()
        with pytest.raises(ConnectionResetError):
            client.read()
    with client_of(node) as client:
        client.ask("PING")
        node.reset_connections(rst=False)
        assert client.read() == END
    with client_of(node) as client:
        assert client.ask("PING") == b"PONG"


def test_a_frozen_node_takes_connections_and_answers_nobody_until_it_thaws(fake: FakeCluster) -> None:
    node = fake.nodes[0]
    with client_of(node) as old:
        old.ask("PING")
        node.freeze()
        old.send("PING", "while frozen")
        with client_of(node) as new:
            new.send("PING", "new")
            old.socket.settimeout(0.05)
            with pytest.raises(TimeoutError):
                old.read()
            assert node.connections.accepted == 1
            assert len(node.received) == 1
            assert "frozen" in repr(node)
            node.thaw()
            assert old.read() == b"while frozen"
            assert new.read() == b"new"


def test_who_is_stopped_while_frozen_never_answers(fake: FakeCluster) -> None:
    node = fake.nodes[0]
    with client_of(node) as client:
        client.ask("PING")
        node.freeze()
        client.send("PING", "lost")
        node.stop()
        with pytest.raises(ConnectionResetError):  # there were unread bytes
            client.read()
    assert len(node.received) == 1
    node.start()
    with client_of(node) as client:
        assert client.ask("PING") == b"PONG"


def test_before_the_start_the_ports_are_known_and_refuse() -> None:
    fake = FakeCluster(2)
    try:
        assert len({node.address for node in fake.nodes}) == 2
        with pytest.raises(ConnectionRefusedError):
            Client(fake.nodes[0].address)
    finally:
        fake.stop()


def test_nothing_is_left_behind() -> None:
    def count() -> tuple[int, int]:
        gevent.idle()  # whatever earlier tests have ended may still be on its way out
        gc.collect()
        alive = [it for it in gc.get_objects() if isinstance(it, gevent.Greenlet) and not it.dead]
        return len(os.listdir("/proc/self/fd")), len(alive)

    def live_a_life() -> None:
        with FakeCluster(3, replicas=1) as fake:
            clients = [Client(node.address) for node in fake.nodes]
            for client in clients:
                client.ask("PING")
            fake.nodes[0].freeze()
            clients[0].send("PING")
            fake.nodes[1].stop()
            fake.nodes[2].reset_connections()
            fake.on(3, "WAIT", Delay(60, b"+OK\r\n"))
            clients[3].send("WAIT")
            fake.nodes[3].wait_until(lambda: fake.nodes[3].commands("WAIT"))
        for client in clients:
            client.socket.close()

    live_a_life()  # what gevent opens once is open now
    before = count()
    live_a_life()
    assert count() == before


def test_a_cluster_without_primaries_is_refused() -> None:
    with pytest.raises(ConfigError):
        FakeCluster(0)
    with pytest.raises(ConfigError):
        FakeCluster(1, replicas=-1)


def test_waiting_for_what_never_happens_ends(fake: FakeCluster) -> None:
    with pytest.raises(TimeoutError, match=r"not true within .* s: <FakeNode 0 primary"):
        fake.nodes[0].wait_until(lambda: False, timeout=0.01)
