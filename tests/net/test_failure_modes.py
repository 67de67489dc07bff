"""Failure modes of docs/reliability.md that no other test of this folder shows. Their numbers are in the names."""

import re
import subprocess as blocking_subprocess
import sys
from pathlib import Path

import gevent
import pytest
from calls import ends
from gevent import subprocess

import gvcluster
from gvcluster import ConnectFailed, hash_slot
from gvcluster.testing import FakeCluster
from gvcluster.testing.answers import Close, Delay, encode_reply

PACKAGE = Path(gvcluster.__file__).parent


def run(script, *arguments):
    """A script in a process of its own; the hub goes on meanwhile, and with it the nodes. Returns what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=blocking_subprocess.PIPE,
        stderr=blocking_subprocess.PIPE,
        text=True,
    )
    told, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    return told.split("\n")[:-1]


def test_f13_a_server_that_has_too_many_clients_says_so_to_whatever_is_asked_first(fake, make):
    node, cluster = fake.nodes[0], make(client_info=True)
    node.on("CLIENT SETINFO", Close(b"-ERR max number of clients reached\r\n"))
    with pytest.raises(ConnectFailed, match="max number of clients reached") as caught:
        cluster.execute("PING", node=node.address)
    assert caught.value.address == node.address


def test_f19_all_known_members_are_gone_and_the_seeds_lead_to_those_that_took_their_place(make):
    with FakeCluster(1) as door, FakeCluster(2) as old, FakeCluster(2) as new:
        (seed,) = door.nodes
        shown = [old]
        seed.on("CLUSTER SLOTS", lambda *_: encode_reply(shown[0].slot_ranges()))
        cluster = make(door.seeds, timeout=20)
        cluster.connect()
        keys = [new.key_at(node) for node in new.nodes]
        assert [cluster.execute("SET", key, "x") for key in keys] == [b"OK"] * 2
        shown[0] = new
        for node in old.nodes:
            node.stop()
        assert [cluster.execute("GET", key) for key in keys] == [None] * 2, "those that have taken their place"
        assert {node.address for node in cluster.primaries()} == {node.address for node in new.nodes}


def test_f24_a_hundred_nodes_and_every_slot_alone(make):
    with FakeCluster(100) as fake:
        fake._owners[:] = [fake.nodes[slot % 100] for slot in range(16384)]
        ranges = fake.slot_ranges()
        assert len(ranges) == 16384
        answer = encode_reply(ranges)
        for node in fake.nodes:
            node.on("CLUSTER SLOTS", answer)
        cluster = make(fake.seeds)
        cluster.connect()
        keys = [f"key:{number}" for number in range(300)]
        served = [gevent.spawn(cluster.execute, "SET", key, key) for key in keys]
        cluster.refresh()
        assert ends(*served, within=20) == [b"OK"] * 300
        assert all(fake.nodes[hash_slot(key) % 100].data[key.encode()] == key.encode() for key in keys)
        statistics = cluster.statistics()
        assert (statistics.redirects, statistics.retries) == (0, 0)
        assert len(cluster.primaries()) == 100


def test_f43_five_thousand_at_once_on_a_cold_client_open_one_connection_to_each_node(fake, make):
    cluster = make(timeout=60, command_timeout=60)
    keys = [fake.key_at(node) for node in fake.nodes]
    crowd = [gevent.spawn(cluster.execute, "ECHO", number, route_key=keys[number % 3]) for number in range(5000)]
    assert ends(*crowd, within=60) == [b"%d" % number for number in range(5000)]
    assert [node.connections.accepted for node in fake.nodes] == [1, 1, 1]
    assert cluster.statistics().refreshes == 1


RECURSION = """
import atexit, gc, os, signal, sys, gevent, gvcluster
cluster = gvcluster.connect(sys.argv[1], client_info=False, protocol=int(sys.argv[2]))

def call(where):
    try:
        print(where, cluster.execute("ECHO", where, route_key="k").decode(), flush=True)
    except gvcluster.GvClusterError as error:
        print(where, type(error).__name__, flush=True)

class Finalized:
    def __init__(self):
        self.me = self
    def __del__(self):
        call("del")

Finalized()
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: call("handler"))
waiting = gevent.spawn(cluster.execute, "ECHO", "beside", route_key="k")
os.kill(os.getpid(), signal.SIGUSR1)
print("beside", waiting.get(timeout=5).decode(), flush=True)
gevent.signal_handler(signal.SIGUSR2, call, "gevent")
os.kill(os.getpid(), signal.SIGUSR2)
gevent.sleep(0.1)
told = cluster.submit("ECHO", "x", route_key="k", callback=lambda reply, error: call("callback"))
told.get(timeout=5)
atexit.register(call, "atexit")
"""


def test_f46_a_command_in_a_finalizer_a_signal_handler_a_callback_and_at_exit_is_answered_or_refused(fake, protocol):
    told = dict(line.split() for line in run(RECURSION, fake.seeds, protocol))
    assert told.pop("callback") == "BlockedInHub"
    assert told == {name: name for name in ("del", "handler", "beside", "gevent", "atexit")}


NO_FILES = """
import errno, os, resource, socket, sys, gvcluster
from gvcluster import GvClusterError

def files():
    return len(os.listdir("/proc/self/fd"))

def chain(error):
    while error is not None:
        yield getattr(error, "errno", None)
        error = error.__cause__

keys = sys.argv[3:]
cluster = gvcluster.connect(sys.argv[1], client_info=False, protocol=int(sys.argv[2]))
assert cluster.execute("SET", keys[0], "x") == b"OK"
before = files()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
hoard = []
try:
    while True:
        hoard.append(socket.socket())
except OSError as error:
    assert error.errno == errno.EMFILE
assert cluster.execute("GET", keys[0]) == b"x"
for key in keys[1:]:
    try:
        cluster.execute("SET", key, "x", timeout=0.3)
    except GvClusterError as error:
        assert not error.maybe_executed
        print(type(error).__name__, "files" if "Too many open files" in str(error) else str(error).replace(" ", "_"))
try:
    with cluster.connection(route_key=keys[0], timeout=0.3):
        pass
except GvClusterError as error:
    print("connection", type(error).__name__)
while hoard:
    hoard.pop().close()
assert files() <= before, "nothing half made is kept"
print("back", [cluster.execute("SET", key, "y") for key in keys] == [b"OK"] * len(keys))
cluster.close()
"""


def test_f48_without_files_what_is_open_serves_and_the_rest_fails_unsent_and_recovers(fake, protocol):
    # Those without a connection yet: nobody asked them for the map, for it comes from the one that is the seed.
    seed = str(fake.nodes[0].address)
    told = run(NO_FILES, seed, protocol, *(fake.key_at(node) for node in fake.nodes))
    assert told[-1] == "back True"
    assert told[-2].startswith("connection ")
    assert len(told) == 4
    assert all("files" in line for line in told[:2]), told


JUMPING = """
import itertools, sys, time
jumps = itertools.cycle([0.0, 1e9, -1e9, 3.6e3, 4e9])
time.time = lambda: next(jumps)
time.time_ns = lambda: int(next(jumps) * 1e9)
import gevent, gvcluster
began = time.monotonic()
with gvcluster.connect(sys.argv[1], client_info=False, protocol=int(sys.argv[2]), refresh_interval=0.05) as cluster:
    for number in range(200):
        assert cluster.execute("ECHO", number, route_key=str(number)) == b"%d" % number
        gevent.sleep(0.001)
    with cluster.connection(route_key="k") as connection:
        assert connection.execute("ECHO", "x") == b"x"
    try:
        cluster.execute("INCR", "silent", timeout=0.2)
    except gvcluster.ReplyTimeout as error:
        print("timed out")
    told = cluster.statistics()
    print(told.retries, told.redirects, told.refreshes < 10 + 2 * (time.monotonic() - began) / 0.05)
    cluster.close()
"""


def test_f54_a_clock_that_jumps_by_years_is_not_looked_at(fake, protocol):
    # Not for ever silent, for a slot map may be asked for behind it: replies come in the order of the commands.
    for node in fake.nodes:
        node.on("INCR", lambda *_: Delay(1.0, b":1\r\n"))
    assert run(JUMPING, fake.seeds, protocol) == ["timed out", "0 0 True"]
    floors = [*PACKAGE.glob("*.py"), *(PACKAGE / "core").rglob("*.py"), *(PACKAGE / "net").rglob("*.py")]
    assert len(floors) > 50
    wall = re.compile(r"\btime\.time\(\)[^`]|\bfrom time import .*\btime$|\bdatetime\b", re.MULTILINE)
    # It tells users when a message came, and decides nothing by it.
    assert [path.name for path in floors if wall.search(path.read_text())] == ["subscriber.py"]


def test_f18_who_waits_for_a_cluster_that_is_down_is_woken_when_its_primary_serves_again(one_node, make, monkeypatch):
    """Back-offs grow up to a second, and those of a crowd that began together end together: the watch asks for all."""
    (node,) = one_node.nodes
    cluster = make(one_node.seeds, timeout=60)
    cluster.connect()
    for name in ("SHORTEST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(f"gvcluster.core.retry.{name}", 40.0)
    state = [b"fail"]
    node.on("GET", lambda *_: b"-CLUSTERDOWN The cluster is down\r\n" if state == [b"fail"] else b"$1\r\nx\r\n")
    node.on("CLUSTER INFO", lambda *_: encode_reply(b"cluster_state:%b\r\n" % state[0]))
    waiting = [gevent.spawn(cluster.execute, "GET", "k") for _ in range(5)]
    node.wait_until(lambda: len(node.commands("CLUSTER INFO")) >= 3)
    assert len(node.commands("GET")) == 5
    state[0] = b"ok"
    assert ends(*waiting, within=10) == [b"x"] * 5
    assert len(node.commands("GET")) == 10
