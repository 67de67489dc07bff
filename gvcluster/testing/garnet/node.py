"""One Garnet node of a FakeGarnet: a view of its own, keys of its own, and the commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from gvcluster.core.slots import hash_slot
from gvcluster.errors import ReplyError
from gvcluster.testing.answers import Answer
from gvcluster.testing.fake_connection import FakeConnection
from gvcluster.testing.fake_node import FakeNode
from gvcluster.testing.garnet import (
    cluster_commands,
    connecting,
    descriptions,
    moving,
    pubsub,
    storage,
    transactions,
    verify,
)
from gvcluster.testing.garnet.command import Command, encode
from gvcluster.testing.garnet.config import Config, Worker
from gvcluster.testing.garnet.transactions import Session

if TYPE_CHECKING:
    from gvcluster.testing.garnet.cluster import FakeGarnet

_BEFORE_AUTH = frozenset(("HELLO", "AUTH", "QUIT"))


class GarnetNode(FakeNode):
    """A node of a FakeGarnet. Made by the cluster.

    Beside what a FakeNode has:

    Attributes:
        config: What it believes of the cluster.
        data: Its keys: bytes, lists, dicts and sets. A replica shares those of its primary.
        hostname: What it tells beside its address; "" for none.
        is_recovering: It attaches to its primary (and sends reads there), or takes over (and answers CLUSTERDOWN).
        versions: How often each key was written here.
        offset: How far its log is: the number of writes.
        failover_state: What INFO tells of the last failover.
        unlinked: Ids of nodes to which its gossip has no connection.
        sent_readwrite: How often READWRITE came, which no client may send.
    """

    cluster: FakeGarnet
    data: dict[bytes, Any]

    def __init__(self, cluster: FakeGarnet, index: int, primary: FakeNode | None = None, *, port: int = 0) -> None:
        super().__init__(cluster, index, primary, port=port)
        host, port = self.address
        self.hostname = cluster.hostname
        self.config = Config(Worker(self.id, host, port, self.hostname, 0, primary.id if primary else None))
        self.is_recovering = False
        self.versions: Counter[bytes] = Counter()
        self.scripts: dict[bytes, bytes] = {}
        self.offset = 0
        self.failover_state = "no-failover"
        self.unlinked: set[str] = set()
        self.run_id = self.id[::-1]
        self._was_stopped = False
        self.table: dict[str, Command] = {
            **storage.COMMANDS,
            **connecting.COMMANDS,
            **transactions.COMMANDS,
            **pubsub.COMMANDS,
            **cluster_commands.COMMANDS,
            **descriptions.COMMANDS,
        }
        self._sessions: WeakKeyDictionary[FakeConnection, Session] = WeakKeyDictionary()

    @property
    def role(self) -> Literal["primary", "replica"]:
        """What it believes to be: `"primary"` or `"replica"`."""
        return "primary" if self.config.mine.primary_id is None else "replica"

    @property
    def sent_readwrite(self) -> int:
        """How often READWRITE came: after it a replica writes, and differs from its primary."""
        return len(self.commands("READWRITE"))

    def session(self, connection: FakeConnection) -> Session:
        """What a connection has begun."""
        return self._sessions.setdefault(connection, Session())

    def answer(self, connection: FakeConnection, args: list[bytes]) -> Answer:
        """Answer a command as Garnet does."""
        return encode(self._reply(connection, args), connection.protocol)

    def _reply(self, connection: FakeConnection, args: list[bytes]) -> object:
        name = args[0].decode("latin-1").upper()
        if self.cluster.password is not None and not connection.authenticated and name not in _BEFORE_AUTH:
            return ReplyError("NOAUTH Authentication required.")
        refused = pubsub.refused_to_subscriber(connection, name)
        session = self.session(connection)
        if refused is None and session.queue is not None and name not in transactions.AT_ONCE:
            return transactions.queue(self, session, args)
        return refused or self._checked(connection, name, args)

    def _checked(self, connection: FakeConnection, name: str, args: list[bytes]) -> object:
        command = self.table.get(name)
        if command is None or name in self.cluster.absent:
            return ReplyError("ERR unknown command")
        if not command.takes(args):
            return ReplyError(f"ERR wrong number of arguments for '{name}' command")
        return self.refusal(connection, command, args) or self.run(connection, args)

    def refusal(self, connection: FakeConnection, command: Command, args: list[bytes]) -> ReplyError | None:
        """What it answers instead of obeying, if it does not serve the command's keys."""
        keys = command.keys_of(args)
        if not keys:
            return None
        readwrite = self.session(connection).readwrite
        return verify.refusal(self, keys, writes=command.writes, asking=connection.asking, readwrite=readwrite)

    def run(self, connection: FakeConnection, args: list[bytes]) -> object:
        """Do what a command says, wherever its keys are."""
        command = self.table[args[0].decode("latin-1").upper()]
        try:
            reply = command.run(self, connection, args[1:])
        except ReplyError as error:
            reply = error
        except (LookupError, ValueError):
            reply = ReplyError("ERR syntax error")
        if command.writes and not isinstance(reply, ReplyError):
            self.versions.update(command.keys_of(args))
            self.offset += 1
            self.cluster.replicate(self, "log", args)
        return reply

    def start(self) -> None:
        """Listen; after a stop, hear what the others believe by now.

        Blocks:
            Never.
        """
        super().start()
        if self._was_stopped:
            self.cluster.woke(self)

    def stop(self) -> None:
        """Listen no more and close all connections, as a process does that ends. The others do not notice.

        Blocks:
            As `FakeNode.stop`.
        """
        super().stop()
        self._was_stopped = True

    # -- the others ----------------------------------------------------------------------------------------------------

    def is_linked(self, id_: str) -> bool:
        """Whether its gossip reaches a node."""
        return id_ not in self.unlinked

    def offset_of(self, worker: Worker) -> int:
        """How far a node's log is, as far as this one knows."""
        return self.offset if worker.id == self.id else 0

    def tell(self, id_: str, word: str, *values: Any) -> Any:
        """Say something to another node over its bus; None if it can not be reached."""
        worker = self.config.workers.get(id_)
        return None if worker is None else self.cluster.carry(self, worker.host, worker.port, word, *values)

    def tell_all(self, ids: Iterable[str], word: str, *values: Any) -> None:
        """Say the same to several nodes, but not to itself."""
        for id_ in ids:
            if id_ != self.id:
                self.tell(id_, word, *values)

    def hear(self, word: str, *values: Any) -> Any:
        """What another node says over the bus.

        gossip: what it believes; answered with what this one believes. import: it is about to send a slot.
        restore: keys. adopt: all keys of the slot were sent. publish: a message. copy: a replica wants all keys.
        log: the primary has written. stop_writes: a replica is to be primary.
        """
        match [word, *values]:
            case ["gossip", told]:
                self.config.hear(told)
                return self.config.told()
            case ["restore", dict(keys)]:
                self.data.update(keys)
                self.versions.update(keys.keys())
                self.cluster.replicate(self, "restore", keys)
            case ["publish", bytes(channel), bytes(data)]:
                pubsub.deliver(self, channel, data)
            case ["copy"]:
                return dict(self.data)
            case ["log", list(args)]:
                command = self.table[args[0].decode("latin-1").upper()]
                command.run(self, None, args[1:])
            case _:
                return moving.hear(self, word, *values)
        return True

    def keys_in(self, slot: int) -> list[bytes]:
        """Its keys of a slot."""
        return [key for key in self.data if hash_slot(key) == slot]

    def reset_connections_but(self, kept: FakeConnection) -> int:
        """End all connections but one, and count them: CLIENT KILL."""
        ending = [connection for connection in self.open_connections if connection is not kept]
        for connection in ending:
            connection.reset()
        return len(ending)
