"""Run by test_partition.py in a network namespace of its own: one primary is cut off from all other servers.

Each server has an address of its own on the namespace's loopback, 127.0.0.11 and so on. Routing rules swallow what the
victim and the others send each other, both ways, without any refusal; the client reaches all of them all the time.
Prints a JSON object of what was seen.
"""

import itertools
import json
import subprocess
import sys
from dataclasses import replace

import gevent

import gvcluster
from gvcluster import Address, Cluster, GvClusterError
from gvcluster.testing import LocalCluster, Node

SERVER = sys.argv[1]


def run(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Apart(Node):
    """A server that listens, and calls its cluster, at an address of its own."""

    host = ""

    def launch(self, timeout: float) -> None:
        mine = {"bind": self.host, "cluster-announce-ip": self.host}
        if self._options.server.version >= (7,):
            mine["bind-source-addr"] = self.host
        self._options = replace(self._options, config={**self._options.config, **mine})
        self.address = Address(self.host, 7000)
        self.start(timeout)


class Spread(LocalCluster):
    """Servers that can be cut off from each other."""

    def _new_node(self, number: int) -> Node:
        watchdog = self._running()
        node = Apart(self._options, watchdog, watchdog.folder / f"node-{number}")
        node.host = f"127.0.0.{10 + number}"
        return node

    def cut(self, victim: Node, action: str) -> None:
        """`add` cuts the victim off, `del` ends it."""
        for other in self.nodes:
            if other is not victim:
                for one, two in itertools.permutations((victim.address.host, other.address.host)):
                    run("rule", action, "pref", "10", "from", one, "to", two, "blackhole")


class Worker:
    """Counts a key of its own. `wrong` is a count that is more than was asked for, or a foreign reply."""

    def __init__(self, cluster: Cluster, tag: str) -> None:
        self.cluster, self.tag = cluster, tag
        self.asked = self.rounds = 0
        self.errors: list[str] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        while True:
            self.asked += 1
            try:
                count = self.cluster.execute("INCR", f"{{{self.tag}}}count")
                echoed = self.cluster.execute("ECHO", self.tag, route_key=self.tag)
                if count > self.asked or echoed != self.tag.encode():
                    self.wrong.append(f"{count} of {self.asked}, {echoed!r}")
                self.rounds += 1
            except GvClusterError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            gevent.sleep(0.005)


def wait_until(condition: object, what: str) -> None:
    with gevent.Timeout(30, RuntimeError(f"never: {what}")):
        while not condition():  # type: ignore[operator]
            gevent.sleep(0.01)


def served(workers: list[Worker]) -> None:
    before = [worker.rounds for worker in workers]
    wait_until(lambda: all(w.rounds > b + 1 for w, b in zip(workers, before, strict=True)), "all are served")


def told_state(node: Node) -> str:
    told: bytes = node.command("CLUSTER", "INFO")
    return told.split(b"cluster_state:")[1].split()[0].decode()


def main() -> None:
    run("link", "set", "lo", "up")
    # The table of local addresses comes first by default, and no rule would ever be asked.
    run("rule", "add", "pref", "100", "lookup", "local")
    run("rule", "del", "pref", "0", "lookup", "local")
    # A server that can not call another one from its own address would try it from this one.
    run("rule", "add", "pref", "9", "from", "127.0.0.1", "ipproto", "tcp", "dport", "17000", "blackhole")
    with Spread(SERVER) as servers, gvcluster.connect(servers.seeds) as cluster:
        victim = servers.primaries()[0]
        (heir,) = servers.replicas_of(victim)
        owners = [cluster.node_for_key(f"tag-{number}") for number in range(30)]
        workers = [Worker(cluster, f"tag-{number}") for number in range(30)]
        working = [gevent.spawn(worker.run) for worker in workers]
        served(workers)
        before = cluster.statistics()
        servers.cut(victim, "add")
        wait_until(lambda: heir.role == "primary" and told_state(heir) == "ok", "the heir is elected")
        wait_until(lambda: told_state(victim) == "fail", "the victim sees that it is alone")
        served(workers)
        both_claim = victim.role
        during = cluster.statistics()
        servers.cut(victim, "del")
        wait_until(lambda: victim.role == "replica", "the victim follows its heir")
        served(workers)
        gevent.killall(working)
        ended = cluster.statistics()
        others = [w for w, owner in zip(workers, owners, strict=True) if owner and owner.address != victim.address]
        print(
            json.dumps(
                {
                    "claimed by": both_claim,
                    "wrong": [text for worker in workers for text in worker.wrong],
                    "errors": [text for worker in workers for text in worker.errors],
                    "errors of others": [text for worker in others for text in worker.errors],
                    "maps": ended.route_version - before.route_version,
                    "refreshes": during.refreshes - before.refreshes,
                    "retries": ended.retries,
                }
            )
        )


main()
