"""What real Lua scripts make up is not obeyed; what real servers say of a slot on the move is."""

import socket
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest

import gvcluster
from gvcluster.core.slots import hash_slot
from gvcluster.errors import ReplyError
from gvcluster.testing import LocalCluster

KEY = "{script}k"
OTHER = "{script}other"
SLOT = hash_slot(KEY)

# Counts its runs, then answers with an error of its own making.
FORGE = "redis.call('incr', KEYS[1]); return redis.error_reply(ARGV[1])"
READ_TWO = "return {redis.call('get', KEYS[1]), redis.call('get', KEYS[2])}"


@pytest.fixture
def cluster(live_cluster: LocalCluster, protocol: int) -> Iterator[gvcluster.Cluster]:
    """A client that logs in: it has something that nobody else must get."""
    for node in live_cluster.live_nodes():
        node.command("ACL", "SETUSER", "scripter", "on", ">TOPSECRET", "~*", "&*", "+@all")
    client = gvcluster.connect(
        live_cluster.seeds, protocol=protocol, timeout=10.0, username="scripter", password="TOPSECRET"
    )
    try:
        yield client
    finally:
        client.close()
        for node in live_cluster.live_nodes():
            node.command("ACL", "DELUSER", "scripter")


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """A socket that listens and belongs to nobody. Whoever connects is in its backlog."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_f61_a_redirect_that_a_script_makes_up_leads_nowhere_and_the_script_runs_once(
    cluster: gvcluster.Cluster, stranger: socket.socket, word: str
) -> None:
    port = stranger.getsockname()[1]
    with pytest.raises(ReplyError, match=f"^{word} {SLOT} ") as caught:
        cluster.execute("EVAL", FORGE, 1, KEY, f"{word} {SLOT} 127.0.0.1:{port}")
    assert caught.value.maybe_executed
    assert cluster.execute("GET", KEY) == b"1"
    with pytest.raises(BlockingIOError):
        stranger.accept()
    assert cluster.statistics().redirects == 0


@pytest.mark.parametrize("code", ["TRYAGAIN", "LOADING", "CLUSTERDOWN", "READONLY", "MASTERDOWN"])
def test_f61_a_state_that_a_script_makes_up_does_not_run_it_again(cluster: gvcluster.Cluster, code: str) -> None:
    with pytest.raises(ReplyError, match=f"^{code} ") as caught:
        cluster.execute("EVAL", FORGE, 1, KEY, f"{code} so I say")
    assert caught.value.maybe_executed
    assert cluster.execute("GET", KEY) == b"1"
    assert cluster.statistics().retries == 0


def test_a_script_on_a_slot_on_the_move_is_answered_by_whoever_has_the_keys(
    live_cluster: LocalCluster, cluster: gvcluster.Cluster
) -> None:
    target = next(node for node in live_cluster.primaries() if node is not live_cluster.primary_of(SLOT))
    assert cluster.execute("EVAL", "return redis.call('incr', KEYS[1])", 1, KEY) == 1
    move = live_cluster.begin_move(SLOT, target)
    assert cluster.execute("EVAL", "return redis.call('incr', KEYS[1])", 1, KEY) == 2
    assert cluster.statistics().redirects == 0
    # A key that the source has not: ASK, confirmed by the source's CLUSTER NODES.
    assert cluster.execute("EVAL", "return redis.call('incr', KEYS[1])", 1, OTHER) == 1
    move.move_keys(KEY)
    assert cluster.execute("EVAL", "return redis.call('incr', KEYS[1])", 1, KEY) == 3
    assert cluster.statistics().redirects == 2
    live_cluster.finish_move(move)
    # The client still has the old map: MOVED, confirmed.
    assert cluster.execute("EVAL", READ_TWO, 2, KEY, OTHER) == [b"3", b"1"]


def test_a_script_whose_keys_are_on_two_nodes_waits_until_they_are_together(
    live_cluster: LocalCluster, cluster: gvcluster.Cluster
) -> None:
    target = next(node for node in live_cluster.primaries() if node is not live_cluster.primary_of(SLOT))
    cluster.execute("MSET", KEY, 1, OTHER, 2)
    move = live_cluster.begin_move(SLOT, target)
    move.move_keys(OTHER)
    reading = gevent.spawn(cluster.execute, "EVAL", READ_TWO, 2, KEY, OTHER)
    while not cluster.statistics().retries and not cluster.statistics().redirects:
        gevent.sleep(0.001)  # the first TRYAGAIN, or ASK on Redis 6.2, has come and was confirmed
    live_cluster.finish_move(move)
    assert reading.get(timeout=10) == [b"1", b"2"]
