"""Faults of other sorts: nobody is let in, nobody lives, the process itself is in trouble."""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gevent.os

from gvcluster.cli.soak.scene import Scene
from gvcluster.testing import ControlConnection, LocalClusterError, Node
from gvcluster.testing.control import wait_for

if TYPE_CHECKING:
    from gvcluster.cli.soak.faults import Act

_PATIENCE = 60.0
# After so many seconds a client is to be at rest while nobody lives.
_NOTICED = 3.0
# How many calls a forked child makes, and how many seconds it lives at most.
_CALLS, _LIFE = 100, 20
_KILL = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def wait_until_primary(heirs: Sequence[Node], timeout: float) -> None:
    """Wait until one of them is primary."""

    def objection() -> str | None:
        return None if any(node.role == "primary" for node in heirs) else "no replica was promoted"

    wait_for(objection, timeout, "a replica takes over")


def kill_and_replace(scene: Scene, node: Node) -> None:
    """Kill a primary, wait until its replica has taken over, and start it again.

    Blocks: until all agree again.
    """
    heirs = scene.servers.replicas_of(node)
    node.kill()
    wait_until_primary(heirs, 10 * scene.node_timeout + 10)
    gevent.sleep(0.3)
    node.start(_PATIENCE)
    scene.servers.wait_until_agreed(_PATIENCE)


def maxclients(act: Act) -> None:
    """Let no more clients in, and end the connections that are open."""
    with act.scene.held() as connections:
        before = [connection.call("CONFIG", "GET", "maxclients")[1] for connection in connections]
        act.tell("maxclients 1, and CLIENT KILL")
        try:
            for connection in connections:
                connection.call("CONFIG", "SET", "maxclients", 1)
                connection.call(*_KILL)
            act.rest(2.0)
        finally:
            for connection, most in zip(connections, before, strict=True):
                connection.call("CONFIG", "SET", "maxclients", most)
        act.tell("maxclients as before")


def requirepass(act: Act) -> None:
    """Set a password that no client knows, and end the connections that are open; then take it away."""
    with act.scene.held() as connections:
        act.tell("requirepass, and CLIENT KILL")
        try:
            _tell_all(connections, "CONFIG", "SET", "requirepass", "soak")
            _tell_all(connections, *_KILL)
            act.rest(1.5)
        finally:
            _tell_all(connections, "CONFIG", "SET", "requirepass", "")
        act.tell("no password any more")


def acl(act: Act) -> None:
    """Take the right to GET away, and give it back."""
    with act.scene.held() as connections:
        while act.goes_on():
            act.tell("ACL SETUSER default -get, then +@all")
            try:
                _tell_all(connections, "ACL", "SETUSER", "default", "-get")
                act.rest(0.7)
            finally:
                _tell_all(connections, "ACL", "SETUSER", "default", "+@all")
            act.rest(0.7)


def _tell_all(connections: Sequence[ControlConnection], *command: object) -> None:
    for connection in connections:
        connection.call(*command)


def all_down(act: Act) -> None:
    """Kill all nodes, and start them again: what they had is gone."""
    act.tell("SIGKILL to all nodes")
    for node in act.scene.servers.nodes:
        node.kill()
    act.rest(_NOTICED)
    with act.desk.sparing():
        cpu, began = time.process_time(), time.monotonic()
        act.rest((act.until - began) * 0.6)
        act.cpu_down = (time.process_time() - cpu) / max(0.001, time.monotonic() - began)
    act.tell("all nodes are started again")
    for start in [gevent.spawn(node.start, _PATIENCE) for node in act.scene.servers.nodes]:
        start.get()
    act.scene.servers.wait_until_agreed(_PATIENCE)


def hub_stall(act: Act) -> None:
    """Let nothing run in this process for a while."""
    while act.goes_on():
        seconds = act.rng.uniform(0.5, 1.5)
        act.tell(f"the hub is held up for {seconds:.2f} s, and the garbage collected")
        time.sleep(seconds)
        gc.collect()
        act.rest(1.5)


def files(act: Act) -> None:
    """Allow no more open files than there are, and end the connections that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with act.scene.held() as connections:
        used = max(map(int, os.listdir("/proc/self/fd"))) + 1
        act.tell(f"at most {used} open files, and CLIENT KILL")
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            while act.goes_on():
                _tell_all(connections, *_KILL)
                act.rest(1.0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    act.tell(f"{soft} open files again")


def fork(act: Act) -> None:
    """Fork a child in the midst of the traffic, which makes calls of its own over a copy of the direct client."""
    for _ in range(2):
        act.tell(f"a child is forked, and makes {_CALLS} calls")
        told = _ask_child(act.scene)
        if told != b"ok":
            raise LocalClusterError(f"the forked child failed: {told.decode(errors='replace') or 'it said nothing'}")
        act.rest(1.0)


def _ask_child(scene: Scene) -> bytes:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(scene, writing)
    os.close(writing)
    try:
        return _read_all(reading)
    finally:
        os.close(reading)
        _reap(pid)


def _be_child(scene: Scene, writing: int) -> None:
    """Make calls, tell how they went, and go. Never returns."""
    signal.alarm(_LIFE)
    told = b"ok"
    try:
        cluster, place = scene.lines[0].cluster, scene.places[0]
        for number in range(_CALLS):
            token = b"child:%d:%d" % (os.getpid(), number)
            reply = cluster.execute("ECHO", token, route_key=place.tag)
            if reply != token:
                told = b"%r instead of %r" % (reply, token)
    except BaseException as error:
        told = repr(error).encode()
    finally:
        os.write(writing, told)
        os._exit(0)


def _read_all(reading: int) -> bytes:
    told = b""
    while data := gevent.os.tp_read(reading, 4096):
        told += data
    return told


def _reap(pid: int) -> None:
    """Wait for the child, which is about to end."""
    deadline = time.monotonic() + _LIFE
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        gevent.sleep(0.01)
