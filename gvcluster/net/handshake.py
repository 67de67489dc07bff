"""The first commands of a connection: HELLO or AUTH, SELECT, CLIENT SETNAME and SETINFO. Each reply is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gvcluster._version import __version__
from gvcluster.core.address import Address
from gvcluster.errors import AuthFailed, ConnectFailed, GvClusterError, ReplyError
from gvcluster.options import Options

Ask = Callable[..., Any]  # ask(*args) sends one command and returns its reply, or the error that came instead


def shake_hands(ask: Ask, options: Options, address: Address) -> None:
    """Make the connection ours. AUTH always comes first and alone: nothing is sent before it has succeeded.

    Raises:
        AuthFailed: the node does not let this user in.
        ConnectFailed: the node refused something else, or the connection ended.
    """
    if options.protocol == 3:
        _hello(ask, options, address)
    elif options.password is not None:
        _must(ask(*_auth(options)), "AUTH", address)
    if options.db:
        _must(ask("SELECT", options.db), f"SELECT {options.db}", address)
    if options.client_name is not None:
        _must(ask("CLIENT", "SETNAME", options.client_name), "CLIENT SETNAME", address)
    if options.client_info:
        for field, value in (("LIB-NAME", "gvcluster"), ("LIB-VER", __version__)):
            reply = ask("CLIENT", "SETINFO", field, value)
            if isinstance(reply, ReplyError):
                break  # servers before Valkey 8 and Redis 7.2 do not know it; nothing depends on it
            _must(reply, "CLIENT SETINFO", address)


def _hello(ask: Ask, options: Options, address: Address) -> None:
    auth = ("AUTH", options.username or "default", options.password) if options.password is not None else ()
    reply = ask("HELLO", 3, *auth)
    if isinstance(reply, ReplyError) and _knows_no_hello(reply):
        # A server without HELLO, or without RESP3: RESP2 serves as well.
        reply = ask(*_auth(options)) if auth else ask("PING")
    _must(reply, "HELLO 3", address)


def _knows_no_hello(error: ReplyError) -> bool:
    return error.code == "NOPROTO" or "unknown command" in error.message.lower()


def _auth(options: Options) -> tuple[str, ...]:
    words = (options.username, options.password) if options.username else (options.password,)
    return ("AUTH", *(word for word in words if word is not None))


def _must(reply: object, step: str, address: Address) -> None:
    """Go on only if the step succeeded. The step's text never holds a secret."""
    if isinstance(reply, AuthFailed):
        raise AuthFailed(f"{reply.message} ({step} at {address})") from reply
    if isinstance(reply, GvClusterError):
        raise ConnectFailed(f"{address} answered {step} with: {reply}", address=address) from reply
