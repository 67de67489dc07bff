"""The first commands of a connection: HELLO or AUTH, SELECT, CLIENT …, CLUSTER MYID. Each reply is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gvcluster._version import __version__
from gvcluster.core.address import Address
from gvcluster.errors import AuthFailed, ConnectFailed, GvClusterError, ReplyError
from gvcluster.options import Options

Ask = Callable[..., Any]  # ask(*args) sends one command and returns its reply, or the error that came instead


def shake_hands(ask: Ask, options: Options, address: Address, expected_id: str | None = None) -> None:
    """Make the connection ours. AUTH always comes first and alone: nothing is sent before it has succeeded.

    Args:
        expected_id: the id of the node that the slot map has at this address; None: do not ask.

    Raises:
        AuthFailed: the node does not let this user in.
        ConnectFailed: the node refused something else, or is not the expected one, or the connection ended.
    """
    ask = _discreet(ask, options.password)
    _introduce(ask, options, address)
    if expected_id is not None:
        _identify(ask, address, expected_id)


def _introduce(ask: Ask, options: Options, address: Address) -> None:
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


def _discreet(ask: Ask, secret: str | None) -> Ask:
    """The same; but errors come without the password, which old servers and proxies repeat from what they refuse."""

    def ask_discreetly(*args: object) -> Any:
        reply = ask(*args)
        if not secret or not isinstance(reply, ReplyError):
            return reply
        code, blank, rest = reply.message.partition(" ")
        return type(reply)(code + blank + rest.replace(secret, "(password)"))

    return ask_discreetly


def _identify(ask: Ask, address: Address, expected_id: str) -> None:
    """Addresses are given to others when a node is gone: another cluster would take our writes without a word."""
    reply = ask("CLUSTER", "MYID")
    if isinstance(reply, ReplyError):
        return  # it does not know the command, or does not let this user ask
    _must(reply, "CLUSTER MYID", address)
    if reply not in (expected_id, expected_id.encode()):
        said = repr(reply[:40].decode("latin-1")) if isinstance(reply, bytes) else f"a {type(reply).__name__}"
        raise ConnectFailed(
            f"{address} is another node by now: CLUSTER MYID answers {said}, the slot map has {expected_id} there",
            address=address,
        )


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
        raise AuthFailed(f"{reply} ({step} at {address})")
    if isinstance(reply, ReplyError):
        raise ConnectFailed(f"{address} answered {step} with: {reply}", address=address)
    if isinstance(reply, GvClusterError):
        raise ConnectFailed(f"{address} did not answer {step}: {reply}", address=address) from reply
