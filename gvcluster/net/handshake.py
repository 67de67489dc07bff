"""The first commands of a connection: HELLO or AUTH, SELECT, CLIENT …, CLUSTER MYID, READONLY; and their replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent

from gvcluster._version import __version__
from gvcluster.checks import word
from gvcluster.core.address import Address
from gvcluster.errors import AuthFailed, ConfigError, ConnectFailed, GvClusterError, ReplyError
from gvcluster.net.loop import remaining
from gvcluster.options import Options
from gvcluster.records import Record

Words = tuple[object, ...]  # a command and its arguments
# ask(*commands) sends them in one write: of each the reply, or the error that came instead
Ask = Callable[..., list[Any]]
Step = tuple[Words, Callable[[Any], None]]  # a command, and what looks at its reply


class Credentials(Record):
    """Who logs in, and with what; without a password nobody does."""

    _unsaid = ("password",)
    username: str | None
    password: str | None


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


def shake_hands(
    ask: Ask,
    options: Options,
    who: Credentials,
    address: Address,
    expected_id: str | None = None,
    *,
    read_only: bool = False,
) -> None:
    """Make the connection ours. AUTH always comes first and alone: nothing is sent before it has succeeded.

    What follows goes in one write: a hub with much to do takes a while for each answer, and all of them have to come
    within one connect timeout.

    Args:
        ask: sends commands in one write, and returns their replies, or the errors that came instead.
        options: protocol, database, names.
        who: logs in.
        address: of the node, for errors.
        expected_id: the id of the node that the slot map has at this address; None: do not ask.
        read_only: the connection is for reading from a replica.

    Raises:
        AuthFailed: the node does not let this user in.
        ConnectFailed: the node refused something else, or is not the expected one, or the connection ended.
    """
    ask = _discreet(ask, who.password)
    if options.protocol == 3:
        _hello(ask, who, address)
    elif who.password is not None:
        _must(_one(ask, *_auth(who)), "AUTH", address)
    steps = list(_steps(options, address, expected_id, read_only=read_only))
    replies = ask(*(words for words, _ in steps)) if steps else []
    for (_, look), reply in zip(steps, replies, strict=True):
        look(_with_reason(reply, replies))


def _steps(options: Options, address: Address, expected_id: str | None, *, read_only: bool) -> Iterator[Step]:
    def needed(*words: object, name: str) -> Step:
        return words, lambda reply: _must(reply, name, address)

    if options.db:
        yield needed("SELECT", options.db, name=f"SELECT {options.db}")
    if options.client_name is not None:
        yield needed("CLIENT", "SETNAME", options.client_name, name="CLIENT SETNAME")
    if options.client_info:
        # Servers before Valkey 8 and Redis 7.2 do not know it; nothing depends on it.
        for field, value in (("LIB-NAME", "gvcluster"), ("LIB-VER", __version__)):
            words = ("CLIENT", "SETINFO", field, value)
            yield words, lambda reply: _may_refuse(reply, "CLIENT SETINFO", address)
    if expected_id is not None:
        yield ("CLUSTER", "MYID"), lambda reply: _identify(reply, address, expected_id)
    if read_only:
        yield needed("READONLY", name="READONLY")


def _with_reason(reply: Any, replies: list[Any]) -> Any:
    """Where none came, say also what the server refused before: with too many clients it refuses whatever is first."""
    refused = next((each for each in replies if isinstance(each, ReplyError)), None)
    if refused is None or isinstance(reply, ReplyError) or not isinstance(reply, GvClusterError):
        return reply
    error = GvClusterError(f"{reply} (before that it said: {refused})")
    error.__cause__ = reply
    return error


def _one(ask: Ask, *words: object) -> Any:
    """Ask for one thing alone."""
    return ask(words)[0]


def _discreet(ask: Ask, secret: str | None) -> Ask:
    """The same; but errors come without the password, which old servers and proxies repeat from what they refuse."""

    def without_secret(reply: Any) -> Any:
        if not secret or not isinstance(reply, ReplyError):
            return reply
        code, blank, rest = reply.message.partition(" ")
        return type(reply)(code + blank + rest.replace(secret, "(password)"))

    return lambda *commands: list(map(without_secret, ask(*commands)))


def _identify(reply: Any, address: Address, expected_id: str) -> None:
    """Addresses are given to others when a node is gone: another cluster would take our writes without a word."""
    _may_refuse(reply, "CLUSTER MYID", address)  # it does not know the command, or does not let this user ask
    if isinstance(reply, ReplyError) or reply in (expected_id, expected_id.encode()):
        return
    said = repr(reply[:40].decode("latin-1")) if isinstance(reply, bytes) else f"a {type(reply).__name__}"
    raise ConnectFailed(
        f"{address} is another node by now: CLUSTER MYID answers {said}, the slot map has {expected_id} there",
        address=address,
    )


def _hello(ask: Ask, who: Credentials, address: Address) -> None:
    auth = ("AUTH", who.username or "default", who.password) if who.password is not None else ()
    reply = _one(ask, "HELLO", 3, *auth)
    if isinstance(reply, ReplyError) and _knows_no_hello(reply):
        # A server without HELLO, or without RESP3: RESP2 serves as well.
        reply = _one(ask, *_auth(who)) if auth else _one(ask, "PING")
    _must(reply, "HELLO 3", address)


def _knows_no_hello(error: ReplyError) -> bool:
    text = error.message.lower()
    # Garnet has no code for it.
    return error.code == "NOPROTO" or "unknown command" in text or "unsupported protocol version" in text


def _auth(who: Credentials) -> tuple[str, ...]:
    words = (who.username, who.password) if who.username else (who.password,)
    return ("AUTH", *(word for word in words if word is not None))


def _may_refuse(reply: object, step: str, address: Address) -> None:
    if not isinstance(reply, ReplyError):
        _must(reply, step, address)


def _must(reply: object, step: str, address: Address) -> None:
    """Go on only if the step succeeded. The step's text never holds a secret."""
    if isinstance(reply, AuthFailed):
        raise AuthFailed(f"{reply} ({step} at {address})")
    if isinstance(reply, ReplyError):
        raise ConnectFailed(f"{address} answered {step} with: {reply}", address=address)
    if isinstance(reply, GvClusterError):
        raise ConnectFailed(f"{address} did not answer {step}: {reply}", address=address) from reply
