"""The first commands of a connection: HELLO or AUTH, SELECT, CLIENT …, CLUSTER MYID. Each reply is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent

from gvcluster._version import __version__
from gvcluster.checks import word
from gvcluster.core.address import Address
from gvcluster.errors import AuthFailed, ConfigError, ConnectFailed, GvClusterError, ReplyError
from gvcluster.net.loop import remaining
from gvcluster.options import Options

Ask = Callable[..., Any]  # ask(*args) sends one command and returns its reply, or the error that came instead


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in, and with what; without a password nobody does."""

    username: str | None
    password: str | None = field(repr=False)


def credentials_for(options: Options, address: Address, deadline: float) -> Credentials:
    """What the options say, or what the user's function says now, until the deadline (monotonic clock).

    Raises:
        ConnectFailed: the function raised, took too long, or returned something else.

    Blocks: as long as that function does. Nobody else could open a connection if it never returned.
    """
    if options.credentials is None:
        return Credentials(options.username, options.password)
    try:
        with gevent.Timeout(remaining(deadline), TimeoutError):
            told = options.credentials(address)
        username, password = (None, told) if isinstance(told, str) else told
        if password is None:
            raise ConfigError("the password must be a str, not NoneType")
        word("the user name", username)
        word("the password", password)
    except Exception as cause:
        text = f"no credentials for {address}: the function raised {type(cause).__name__}"
        if isinstance(cause, TimeoutError):
            text = f"no credentials for {address} within connect_timeout"
        elif isinstance(cause, TypeError | ValueError):
            text = f"no credentials for {address}: the function must return a password or (user name, password)"
        raise ConnectFailed(text, address=address) from cause
    return Credentials(username, password)


def shake_hands(ask: Ask, options: Options, who: Credentials, address: Address, expected_id: str | None = None) -> None:
    """Make the connection ours. AUTH always comes first and alone: nothing is sent before it has succeeded.

    Args:
        ask: sends one command and returns its reply, or the error that came instead.
        options: protocol, database, names.
        who: logs in.
        address: of the node, for errors.
        expected_id: the id of the node that the slot map has at this address; None: do not ask.

    Raises:
        AuthFailed: the node does not let this user in.
        ConnectFailed: the node refused something else, or is not the expected one, or the connection ended.
    """
    ask = _discreet(ask, who.password)
    _introduce(ask, options, who, address)
    if expected_id is not None:
        _identify(ask, address, expected_id)


def _introduce(ask: Ask, options: Options, who: Credentials, address: Address) -> None:
    if options.protocol == 3:
        _hello(ask, who, address)
    elif who.password is not None:
        _must(ask(*_auth(who)), "AUTH", address)
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


def _hello(ask: Ask, who: Credentials, address: Address) -> None:
    auth = ("AUTH", who.username or "default", who.password) if who.password is not None else ()
    reply = ask("HELLO", 3, *auth)
    if isinstance(reply, ReplyError) and _knows_no_hello(reply):
        # A server without HELLO, or without RESP3: RESP2 serves as well.
        reply = ask(*_auth(who)) if auth else ask("PING")
    _must(reply, "HELLO 3", address)


def _knows_no_hello(error: ReplyError) -> bool:
    return error.code == "NOPROTO" or "unknown command" in error.message.lower()


def _auth(who: Credentials) -> tuple[str, ...]:
    words = (who.username, who.password) if who.username else (who.password,)
    return ("AUTH", *(word for word in words if word is not None))


def _must(reply: object, step: str, address: Address) -> None:
    """Go on only if the step succeeded. The step's text never holds a secret."""
    if isinstance(reply, AuthFailed):
        raise AuthFailed(f"{reply} ({step} at {address})")
    if isinstance(reply, ReplyError):
        raise ConnectFailed(f"{address} answered {step} with: {reply}", address=address)
    if isinstance(reply, GvClusterError):
        raise ConnectFailed(f"{address} did not answer {step}: {reply}", address=address) from reply
