"""Fake nodes that take transactions: as servers do, or as Garnet does, or as a test says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gvcluster.errors import ReplyError
from gvcluster.testing import FakeCluster, FakeNode, fake_server
from gvcluster.testing.answers import NOT_HANDLED, encode_reply
from gvcluster.testing.fake_connection import FakeConnection

OK, QUEUED = b"+OK\r\n", b"+QUEUED\r\n"
ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
_KNOWN = (b"GET", b"SET", b"DEL", b"INCR", b"MGET", b"ECHO", b"PING", b"EVAL", b"ROLE")


@dataclass
class _State:
    """What one connection has begun."""

    queued: list[list[bytes]] | None = None
    asking: bool = False
    flawed: bool = False
    watched: dict[bytes, bytes | None] = field(default_factory=dict)


class Multis:
    """Lets all nodes of a cluster do MULTI, EXEC, DISCARD, WATCH and UNWATCH.

    Args:
        garnet: Slots are checked at EXEC only, and ASKING has no effect then.

    Attributes:
        answers: name → what the next commands of this name are answered with, in order, before anything else: raw
            bytes, another Answer, or a function that returns one. NOT_HANDLED lets one pass.
            "PROBE" is the EXEC of an empty transaction, which every connection begins with.
    """

    def __init__(self, fake: FakeCluster, *, garnet: bool = False) -> None:
        self._garnet = garnet
        self._states: dict[tuple[int, int], _State] = {}
        self.answers: dict[str, list[Any]] = {}
        for node in fake.nodes:
            node.override = self

    def __call__(self, node: FakeNode, connection: FakeConnection, args: list[bytes]) -> Any:
        name = args[0].decode().upper()
        state = self._states.setdefault((node.index, connection.number), _State())
        answers = self.answers.get("PROBE" if name == "EXEC" and not state.queued else name)
        if answers and (answer := answers.pop(0)) is not NOT_HANDLED:
            if name in ("EXEC", "DISCARD"):
                self._states.pop((node.index, connection.number))
            elif state.queued is not None:
                state.flawed = True
            return answer() if callable(answer) and not isinstance(answer, bytes) else answer
        handler: Callable[..., Any] | None = getattr(self, f"_{name.lower()}", None)
        if handler is not None:
            return handler(node, connection, args, state)
        return NOT_HANDLED if state.queued is None else self._queue(node, connection, args, state)

    def _multi(self, _node: FakeNode, connection: FakeConnection, _args: Any, state: _State) -> bytes:
        if state.queued is not None:
            return b"-ERR MULTI calls can not be nested\r\n"
        state.queued, state.asking, state.flawed = [], connection.asking, False
        return OK

    def _watch(self, node: FakeNode, connection: FakeConnection, args: list[bytes], state: _State) -> bytes:
        refusal = fake_server._elsewhere(node, connection, args[1:])
        if refusal is not None:
            return encode_reply(refusal)
        state.watched |= {key: node.data.get(key) for key in args[1:]}
        return OK

    def _unwatch(self, _node: FakeNode, _connection: Any, _args: Any, state: _State) -> bytes:
        state.watched.clear()
        return OK

    def _discard(self, node: FakeNode, connection: FakeConnection, _args: Any, _state: _State) -> bytes:
        self._states.pop((node.index, connection.number))
        return OK

    def _queue(self, node: FakeNode, connection: FakeConnection, args: list[bytes], state: _State) -> bytes:
        refusal = None
        if args[0] not in _KNOWN:
            refusal = ReplyError("ERR unknown command")
        elif not self._garnet:
            refusal = self._refusal(node, connection, args, asking=state.asking)
        if refusal is not None:
            state.flawed = True
            return encode_reply(refusal)
        assert state.queued is not None
        state.queued.append(args)
        return QUEUED

    def _refusal(self, node: FakeNode, connection: FakeConnection, args: list[bytes], *, asking: bool) -> Any:
        if args[0] not in (b"GET", b"SET", b"DEL", b"INCR"):
            return None
        connection.asking = asking
        try:
            return fake_server._elsewhere(node, connection, args[1:2])
        finally:
            connection.asking = False

    def _exec(self, node: FakeNode, connection: FakeConnection, _args: Any, state: _State) -> bytes:
        del self._states[node.index, connection.number]
        if state.queued is None:
            return b"-ERR EXEC without MULTI\r\n"
        if state.flawed:
            return ABORTED
        for args in state.queued if self._garnet else ():
            refusal = self._refusal(node, connection, args, asking=False)
            if refusal is not None:
                return encode_reply(refusal)
        if any(node.data.get(key) != value for key, value in state.watched.items()):
            return encode_reply(None, 3) if connection.protocol == 3 else b"*-1\r\n"
        replies = []
        for args in state.queued:
            connection.asking = state.asking
            replies.append(fake_server.answer(node, connection, args))
        return b"*%d\r\n" % len(replies) + b"".join(replies)
