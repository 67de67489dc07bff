"""Our errors → those of the library, as its own client would have raised them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gvcluster.compat.library import Library
from gvcluster.errors import (
    AuthFailed,
    ClosedError,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    CrossSlot,
    GvClusterError,
    PartialFailure,
    PoolError,
    ProtocolError,
    Redirected,
    ReplyError,
    ReplyTimeout,
    RetriesExhausted,
    RoutingError,
    SlotNotCovered,
    StatefulCommand,
    TopologyUnavailable,
    TransactionAborted,
    UnknownCommand,
)

# The first word of an error reply → the exception. (redis/_parsers/base.py and redis/cluster.py, ClusterParser.)
_BY_CODE: Mapping[str, str] = MappingProxyType(
    {
        "OOM": "OutOfMemoryError",
        "WRONGPASS": "AuthenticationError",
        "EXECABORT": "ExecAbortError",
        "LOADING": "BusyLoadingError",
        "NOSCRIPT": "NoScriptError",
        "READONLY": "ReadOnlyError",
        "NOAUTH": "AuthenticationError",
        "NOPERM": "NoPermissionError",
        "ASK": "AskError",
        "TRYAGAIN": "TryAgainError",
        "MOVED": "MovedError",
        "CLUSTERDOWN": "ClusterDownError",
        "CROSSSLOT": "ClusterCrossSlotError",
        "MASTERDOWN": "MasterDownError",
    }
)

_MODULE = "Error loading the extension. Please check the server logs."
_MODULE_TYPE = "Error unloading module: the module exports one or more module-side data types, can't unload"
_NO_PASSWORD = (
    "AUTH <password> called without any password configured for the default user. Are you sure your configuration is"
    " correct?"
)

# What follows ERR → the exception.
_BY_TEXT: Mapping[str, str] = MappingProxyType(
    {
        "max number of clients reached": "ConnectionError",
        "invalid password": "AuthenticationError",
        "wrong number of arguments for 'auth' command": "AuthenticationWrongNumberOfArgsError",
        "wrong number of arguments for 'AUTH' command": "AuthenticationWrongNumberOfArgsError",
        "Client sent AUTH, but no password is set": "AuthenticationError",
        _NO_PASSWORD: "AuthenticationError",
        "problem with LDAP service": "ExternalAuthProviderError",
        _MODULE: "ModuleError",
        _MODULE_TYPE: "ModuleError",
        "Error unloading module: no such module with that name": "ModuleError",
        "Error unloading module: operation not possible.": "ModuleError",
        "no such fieldset": "NoSuchFieldsetError",
    }
)

_UNREACHABLE = "{} Cluster cannot be connected. Please provide at least one reachable node: {}"


class Translator:
    """Translates for one library. What it makes has our error as `__cause__`, and its `maybe_executed`."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.response_error = library.error("ResponseError")
        self.root, self.error = library.error("RedisError"), library.error
        # Long commands in errors of pipelines: since redis 6, as its transactions.
        self.shortens = library.has_transactions

    def cross_slot_transaction(self) -> Exception:
        """What is raised where a transaction's keys are of several slots."""
        return self.error("CrossSlotTransactionError", "RedisClusterException")(
            "All keys involved in a cluster transaction must map to the same slot"
        )

    def translate(self, error: Exception, args: tuple[Any, ...] = ()) -> Exception:
        """The library's exception for one of ours; others stay as they are.

        Args:
            error: What was raised, or is a reply.
            args: The command, as the user gave it.
        """
        if not isinstance(error, GvClusterError):
            return error
        if isinstance(error, PartialFailure) and isinstance(error.__cause__, GvClusterError):
            told = self.translate(error.__cause__, args)
        elif isinstance(error, RetriesExhausted) and error.attempts:
            told = self._exhausted(error, args)
        elif isinstance(error, ReplyError):
            told = self._refused(error)
        else:
            told = self._ours(error, args)
        told.__cause__ = error
        told.maybe_executed = error.maybe_executed  # type: ignore[attr-defined]
        return told

    def _refused(self, error: ReplyError) -> Exception:
        code, _, text = error.message.partition(" ")
        library = self._library
        name = _BY_TEXT.get(text, "ResponseError") if code == "ERR" else _BY_CODE.get(code)
        if name is None:
            return library.error("ResponseError")(error.message)
        made: Callable[..., Exception] = library.error(name, "ResponseError")
        try:
            return made(text, status_code=code) if library.has_status_codes else made(text)
        except ValueError:  # it says MOVED or ASK, and not where to: scripts do, too
            return library.error("ResponseError")(error.message)

    def _exhausted(self, error: RetriesExhausted, args: tuple[Any, ...]) -> Exception:
        last = error.attempts[-1]
        if isinstance(last, Redirected):
            return self._library.error("ClusterError")("TTL exhausted.")
        told = self.translate(last, args)
        if not isinstance(last, ReplyError):
            told.args = (str(error),)
        return told

    def _ours(self, error: GvClusterError, args: tuple[Any, ...]) -> Exception:
        library = self._library
        if isinstance(error, TopologyUnavailable):
            return self._unreachable(error)
        if isinstance(error, RoutingError) or (isinstance(error, ConfigError) and len(args) == 1):
            return self._nowhere(error, args)
        for kind, names in _BY_CLASS:
            if isinstance(error, kind):
                return library.error(*names)(str(error))
        return library.error("RedisClusterException")(str(error))

    def _nowhere(self, error: GvClusterError, args: tuple[Any, ...]) -> Exception:
        """No node could be chosen."""
        library, name = self._library, args[0] if args else "command"
        cluster_exception = library.error("RedisClusterException")
        if isinstance(error, CrossSlot):
            return cluster_exception(f"{name} - all keys must map to the same key slot")
        if isinstance(error, SlotNotCovered):
            return library.error("SlotNotCoveredError")(str(error))
        if isinstance(error, UnknownCommand):
            return library.error("RedisError")(f"{str(name).upper()} command doesn't exist in {library.title} commands")
        if isinstance(error, StatefulCommand):
            return cluster_exception(str(error))
        return cluster_exception(
            f"No way to dispatch this command to {library.title} Cluster. Missing key.\n"
            f"You can execute the command by specifying target nodes.\nCommand: {args}"
        )

    def _unreachable(self, error: TopologyUnavailable) -> Exception:
        for _, failure in error.failures:
            if isinstance(failure, AuthFailed):
                return self._refused(failure)
        return self._library.error("RedisClusterException")(_UNREACHABLE.format(self._library.title, error))


_BY_CLASS: tuple[tuple[type[GvClusterError], tuple[str, ...]], ...] = (
    (TransactionAborted, ("WatchError",)),
    (ReplyTimeout, ("TimeoutError",)),
    (PoolError, ("MaxConnectionsError", "ConnectionError")),
    (ConnectFailed, ("ConnectionError",)),
    (ConnectionLost, ("ConnectionError",)),
    (ClosedError, ("ConnectionError",)),
    (ProtocolError, ("InvalidResponse",)),
    (ConfigError, ("DataError",)),
    (RetriesExhausted, ("ClusterError",)),
)
