"""A process that stands in for garnet-server: one FakeGarnet node on the port it is told, with a bus to the others.

It takes Garnet's options, keeps those it was started with in its checkpointdir, and knows nobody at first: a cluster is
made of such processes by the commands that make one of Garnets.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from gevent.queue import Queue

from gvcluster.core.address import Address
from gvcluster.errors import GvClusterError
from gvcluster.testing import ControlConnection, FakeGarnet, GarnetNode
from gvcluster.testing.answers import Answer, encode_reply
from gvcluster.testing.fake_node import FakeNode
from gvcluster.testing.garnet.config import Config, Worker

_FLAGS = frozenset(("aof", "cluster", "lua", "recover"))


class StandIn(FakeGarnet):
    """A cluster of one node, whose others are other processes."""

    def __init__(self, port: int, password: str | None, *, aof: bool) -> None:
        self._port = port
        self._written: Queue[tuple[str, str, tuple[Any, ...]]] = Queue()
        super().__init__(1, aof=aof, password=password, hostname="stand-in")
        (self.node,) = self.nodes

    def _new_node(self, index: int, primary: FakeNode | None) -> GarnetNode:
        return GarnetNode(self, index, primary, port=self._port)

    def _introduce_all(self) -> None:
        (node,) = self.nodes
        node.id = f"{node.address.port:04x}" * 10
        node.config = Config(Worker(node.id, *node.address, self.hostname))
        node.on("CLUSTER BUS", self._hear_bus)

    def _hear_bus(self, node: FakeNode, _connection: object, args: list[bytes]) -> Answer:
        word, values = ast.literal_eval(args[2].decode())
        assert isinstance(node, GarnetNode)
        return encode_reply(repr(node.hear(word, *values)).encode())

    def run(self) -> None:
        """Listen, gossip and pass on what is written, until the process is ended."""
        self.start()
        print("* Ready to accept connections", flush=True)
        gevent.spawn(self._pass_on)
        while True:
            gevent.sleep(0.4)
            self._gossip_to_all()

    def _gossip_to_all(self) -> None:
        for id_ in [id_ for id_ in self.node.config.workers if id_ != self.node.id]:
            told = self.node.tell(id_, "gossip", self.node.config.told())
            (self.node.unlinked.add if told is None else self.node.unlinked.discard)(id_)
            if told is not None:
                self.node.config.hear(told)

    def _pass_on(self) -> None:
        for id_, word, values in self._written:
            self.node.tell(id_, word, *values)

    # -- what an ordinary FakeGarnet does among its own nodes ----------------------------------------------------------

    def carry(self, teller: GarnetNode, host: str, port: int, word: str, *values: Any) -> Any:
        try:
            with ControlConnection(Address(host, port), password=self.password, timeout=2) as connection:
                return ast.literal_eval(connection.call("CLUSTER", "BUS", repr((word, values))).decode())
        except GvClusterError:
            return None

    def changed(self, node: GarnetNode) -> None:
        gevent.spawn(self._gossip_to_all)

    def attach(self, node: GarnetNode, primary_id: str) -> None:
        node.data = node.tell(primary_id, "copy") or {}

    def promoted(self, node: GarnetNode, former_id: str) -> None:
        for worker in list(node.config.workers.values()):
            if worker.id != node.id and former_id in (worker.id, worker.primary_id):
                node.tell(worker.id, "follow", node.id)

    def replicate(self, node: GarnetNode, word: str, *values: Any) -> None:
        for replica in node.config.replicas_of(node.id):
            self._written.put((replica.id, word, values))


def options_of(arguments: list[str]) -> dict[str, str]:
    """The options as `--name value`, each once."""
    names = [name.lstrip("-") for name in arguments[::2]]
    assert len(set(names)) == len(names), arguments
    return dict(zip(names, arguments[1::2], strict=True))


def main() -> None:
    options = options_of(sys.argv[1:])
    folder = Path(options["checkpointdir"])
    with (folder / "arguments.json").open("a") as file:
        file.write(json.dumps(options) + "\n")
    assert all(options[flag] == "true" for flag in _FLAGS & options.keys())
    (folder / "cluster").mkdir(exist_ok=True)
    StandIn(int(options["port"]), options.get("password"), aof="aof" in options).run()
    Event().wait()
