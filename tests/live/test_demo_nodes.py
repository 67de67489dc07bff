"""`gvcluster demo --nodes` on somebody's cluster: it does only what it says, and leaves not one key behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gvcluster.testing import LocalCluster

pytestmark = pytest.mark.unaffected_by("patched")

DEMO = (sys.executable, "-m", "gvcluster.cli", "demo", "--plain", "--nodes")
# All that the guest is allowed: its own keys, and what every client asks to know the cluster. What else it sent would
# be refused, which it counts as an error.
RIGHTS = (
    *("on", ">secret", "~gvcluster-demo:*", "-@all", "+get", "+set", "+getrange", "+strlen", "+mget", "+del"),
    *("+hello", "+auth", "+cluster|slots", "+cluster|myid"),
)


@pytest.fixture
def guest(live_cluster: LocalCluster) -> Iterator[dict[str, str]]:
    """A user with few rights, as the environment that tells the demo of it."""
    for node in live_cluster.nodes:
        node.command("ACL", "SETUSER", "guest", *RIGHTS)
    try:
        yield {"GVCLUSTER_USERNAME": "guest", "GVCLUSTER_PASSWORD": "secret"}
    finally:
        for node in live_cluster.nodes:
            node.command("ACL", "DELUSER", "guest")


def demo(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """The demo in a process of its own."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("GVCLUSTER_")}
    pipe = subprocess.PIPE
    return subprocess.Popen([*DEMO, *arguments], text=True, env={**known, **environment}, stdout=pipe, stderr=pipe)


def keys_of(servers: LocalCluster) -> dict[bytes, Any]:
    """Every key, and the seconds that it has to live; -1 if it lives for ever."""
    return {key: node.command("TTL", key) for node in servers.primaries() for key in node.command("KEYS", "*")}


def test_it_needs_no_right_but_to_its_own_keys_and_reports_what_it_saw(
    live_cluster: LocalCluster, guest: dict[str, str], protocol: int
) -> None:
    url = f"valkey://{live_cluster.seeds}/0?protocol={protocol}"
    with demo(url, "--seconds", "5", "--greenlets", "60", **guest) as process:
        printed, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, ""), printed + complaints
    assert keys_of(live_cluster) == {}
    assert re.search(r"^gvcluster \S+ demo: your cluster of 3 primaries, 60 greenlets, seed \d+$", printed, re.M)
    assert re.search(r"cleaned up: of 120 keys none is left$", printed, re.M)
    assert "secret" not in printed
    figures = dict(re.findall(r"^(\S.*?\S)  +([\d.,]+)(?: |$)", printed, re.M))
    assert int(figures["commands"].replace(",", "")) > 1000
    assert (figures["errors"], figures["wrong replies"], figures["redirects followed"]) == ("0", "0", "0")
    assert {f"node {node.address}" for node in live_cluster.primaries()} <= set(figures)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_no_key_and_until_then_each_has_an_expiry(
    live_cluster: LocalCluster, number: signal.Signals
) -> None:
    live_cluster.command(live_cluster.primary_of("theirs"), "SET", "theirs", "untouched")
    with demo(live_cluster.seeds, "--seconds", "60") as process:
        try:
            assert process.stdout is not None
            assert next(line for line in process.stdout if re.match(r" +\d\.\d s ", line))
            met = keys_of(live_cluster)
            process.send_signal(number)
            printed, complaints = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert "Traceback" not in complaints
    assert "cleaned up: of 1,000 keys none is left" in printed
    assert met.pop(b"theirs") == -1
    assert len(met) > 500
    assert {key[:15] for key in met} == {b"gvcluster-demo:"}
    assert min(met.values()) > 60
    assert keys_of(live_cluster) == {b"theirs": -1}


def test_when_a_greenlet_dies_of_a_defect_no_key_is_left_either(live_cluster: LocalCluster) -> None:
    program = (
        "import sys\n"
        "from gvcluster.cli import guest, main\n"
        "guest.GuestWorker._mget = lambda self: 1 / 0\n"
        f"sys.exit(main(['demo', '--plain', '--greenlets', '60', '--nodes', {live_cluster.seeds!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "FAILED: a greenlet died of ZeroDivisionError" in done.stdout
    assert keys_of(live_cluster) == {}


def test_without_a_right_to_write_it_says_so_and_ends(live_cluster: LocalCluster, guest: dict[str, str]) -> None:
    for node in live_cluster.nodes:
        node.command("ACL", "SETUSER", "guest", "-set")
    with demo(live_cluster.seeds, **guest) as process:
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = complaints.splitlines()
    assert line.startswith("gvcluster demo: the cluster can not be used: NOPERM")


@pytest.mark.needs("elections")
def test_a_failover_meanwhile_is_told_and_costs_nothing(live_cluster: LocalCluster) -> None:
    with demo(live_cluster.seeds, "--seconds", "6", "--greenlets", "60") as process:
        try:
            assert process.stdout is not None
            assert next(line for line in process.stdout if re.match(r" +\d\.\d s ", line))
            heir = live_cluster.failover(live_cluster.primaries()[0])
            with gevent.Timeout(60):
                printed, complaints = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, complaints) == (0, ""), printed
    assert re.search(rf"shard \d is served by {heir.address} now", printed)
    assert keys_of(live_cluster) == {}
