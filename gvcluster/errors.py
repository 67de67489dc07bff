"""Every exception that gvcluster raises on purpose.

    GvClusterError              .maybe_executed: the command has run, or may still run later
    ├── ConfigError             (ValueError) the arguments make no sense; nothing was sent
    ├── ClosedError             you closed this cluster
    ├── BlockedInHub            a method that waits was called in the hub
    ├── PoolError               .address .limit .waiting
    │   ├── PoolTimeout         (TimeoutError) no connection came free in time
    │   └── PoolFull            too many callers wait already
    ├── NodeError               .address
    │   ├── ConnectFailed       no connection could be opened: nothing was sent
    │   ├── ConnectionLost      an open connection ended
    │   ├── ReplyTimeout        (TimeoutError) the reply did not come in time
    │   └── ProtocolError       the node sent what is not RESP, or not an answer to what was asked
    ├── RoutingError            no node can be chosen
    │   ├── CrossSlot           .keys belong to several slots
    │   ├── SlotNotCovered      .slot has no owner in a fresh slot map
    │   ├── NoKey               the command names no key and no node
    │   ├── UnknownCommand      the command table does not list it
    │   ├── StatefulCommand     it would change a connection that others share
    │   └── TopologyUnavailable .failures: what each node that was asked answered
    ├── RetriesExhausted        .attempts: what each attempt met; __cause__ is the last
    ├── PartialFailure          .results: values and errors, in order or by node
    ├── TransactionAborted      a watched key changed
    └── ReplyError              .code .message: the server refused
        ├── AuthFailed          NOAUTH, WRONGPASS, NOPERM
        ├── NoScript            NOSCRIPT
        ├── ReadOnly            READONLY
        ├── Busy                BUSY
        └── Redirected          MOVED or ASK, where the client may not follow

`maybe_executed` is False unless an error says otherwise: only then is it proved that the server did not run the
command. True means that it has run, or may still run later, also after commands that you send next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gvcluster.core.address import Address


class GvClusterError(Exception):
    """The root of the tree: catch it to catch whatever gvcluster raises.

    `maybe_executed`: False where it is proved that the server did not run the command, and never will. True: it has
    run, or may still run later.
    """

    def __init__(self, message: str = "", *, maybe_executed: bool = False) -> None:
        super().__init__(message)
        self.maybe_executed = maybe_executed


class ConfigError(GvClusterError, ValueError):
    """The arguments make no sense. Nothing was sent."""


class ClosedError(GvClusterError):
    """The cluster was closed by its user."""


class BlockedInHub(GvClusterError):
    """A method that waits was called in the hub, where waiting would stop every greenlet. Spawn a greenlet for it."""


class PoolError(GvClusterError):
    """A node's pool could not serve the call. Never the fault of the node.

    `address`: of the node.
    `limit`: how many may be lent, or in flight.
    `waiting`: how many callers waited then.
    """

    def __init__(self, message: str = "", *, address: Address | None = None, limit: int = 0, waiting: int = 0) -> None:
        super().__init__(message)
        self.address, self.limit, self.waiting = address, limit, waiting


class PoolTimeout(PoolError, TimeoutError):
    """No connection came free in time."""


class PoolFull(PoolError):
    """Too many callers wait already."""


class NodeError(GvClusterError):
    """A node could not be talked to. `address` is where it listens."""

    def __init__(self, message: str = "", *, address: Address | None = None, maybe_executed: bool = False) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        self.address = address


class ConnectFailed(NodeError):
    """No connection could be opened: nothing was sent."""


class ConnectionLost(NodeError):
    """An open connection ended before the reply was in."""


class ReplyTimeout(NodeError, TimeoutError):
    """The reply did not come in time."""


class ProtocolError(NodeError):
    """The node sent bytes that are not RESP, or an answer that does not fit what was asked."""


class RoutingError(GvClusterError):
    """No node can be chosen for the command."""


class CrossSlot(RoutingError):
    """The command's keys, which are in `keys`, belong to several slots. Give them one hash tag, such as `{user:1}`."""

    def __init__(self, message: str = "", *, keys: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class SlotNotCovered(RoutingError):
    """A slot map fetched after the call began names no owner for the slot, whose number is `slot`."""

    def __init__(self, message: str = "", *, slot: int | None = None, maybe_executed: bool = False) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        self.slot = slot


class NoKey(RoutingError):
    """The command names no key by which to choose a node. Name the node with `node=`."""


class UnknownCommand(RoutingError):
    """The command table does not list the command."""


class StatefulCommand(RoutingError):
    """The command would change a connection that other greenlets share."""


class TopologyUnavailable(RoutingError):
    """Nobody gave a usable slot map. `failures` lists (address, error) for each node that was asked."""

    def __init__(self, message: str = "", *, failures: Sequence[tuple[Address, Exception]] = ()) -> None:
        super().__init__(message)
        self.failures = tuple(failures)


class RetriesExhausted(GvClusterError):
    """The deadline or the number of redirects ended the call. `attempts` lists what each attempt met, in order."""

    def __init__(
        self, message: str = "", *, attempts: Sequence[GvClusterError] = (), maybe_executed: bool = False
    ) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        self.attempts = tuple(attempts)


class PartialFailure(GvClusterError):
    """Some parts of the call failed. `results` lists the values and errors, in order.

    Of a command for several nodes it is a dict: Address → value or error.

    `keys`: those that failed, where it is a command with many keys.
    """

    def __init__(
        self,
        message: str = "",
        *,
        results: Sequence[Any] | Mapping[Address, Any] = (),
        keys: Sequence[Any] = (),
        maybe_executed: bool = False,
    ) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        self.results: Any = dict(results) if isinstance(results, Mapping) else tuple(results)
        self.keys = tuple(keys)


class TransactionAborted(GvClusterError):
    """A watched key changed, or the watch was lost because its slot moved: nothing of the transaction was executed."""


# Longer than any error of the servers themselves; scripts and modules may write what they like.
_SHOWN = 256
# After this the servers repeat the arguments of a command that they do not know: keys, values, even passwords.
_ECHO = ", with args beginning with:"


def _fit_for_a_log(message: str) -> str:
    text = message.partition(_ECHO)[0]
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}…"
    return text if text.isprintable() else repr(text)[1:-1]


class ReplyError(GvClusterError):
    """The server refused the command. `code` is the first word of its answer, `message` the whole of it.

    `str` and `repr` are fit for a log: shortened, control characters escaped, and without the arguments that servers
    repeat for a command they do not know.
    """

    def __init__(self, message: str = "", *, maybe_executed: bool = False) -> None:
        super().__init__(_fit_for_a_log(message), maybe_executed=maybe_executed)
        self.message = message
        self.code = message.split(" ", 1)[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,), self.__dict__


class AuthFailed(ReplyError):
    """NOAUTH, WRONGPASS or NOPERM: the server does not let this user in, or not do this."""


class NoScript(ReplyError):
    """NOSCRIPT: the server does not know the script's digest."""


class ReadOnly(ReplyError):
    """READONLY: a replica was asked to write."""


class Busy(ReplyError):
    """BUSY: the server runs a script that takes long."""


class Redirected(ReplyError):
    """MOVED or ASK on a call that may not be redirected (`node=`)."""
