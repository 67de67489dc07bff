"""`gvcluster exec`: one command, its reply or its error, and an exit code that tells which.

The command is never shown: it may hold a secret. What a server says of a command that does is not shown either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gvcluster.cli.inspect.replies import as_json, as_page, as_raw, as_text
from gvcluster.cli.inspect.target import Target, with_hint
from gvcluster.cluster import Cluster
from gvcluster.errors import (
    ConfigError,
    CrossSlot,
    GvClusterError,
    NodeError,
    NoKey,
    PartialFailure,
    ReplyError,
    StatefulCommand,
    TopologyUnavailable,
    TransactionAborted,
    UnknownCommand,
)
from gvcluster.reports import Explanation

REFUSED, SENSELESS, NOT_DONE, MAYBE_DONE = 1, 2, 3, 4

# What may hold a password, by the command's first words.
_SECRET = frozenset(("AUTH", "HELLO", "ACL SETUSER", "CONFIG SET", "MIGRATE"))
# Their replies are texts of many lines.
_PAGES = frozenset(
    ("INFO", "LOLWUT", "CLUSTER NODES", "CLUSTER INFO", "CLIENT LIST", "CLIENT INFO", "LATENCY DOCTOR", "MEMORY DOCTOR")
)
_EXIT_CODES = MappingProxyType(
    {
        (ConfigError, CrossSlot, NoKey, StatefulCommand, UnknownCommand): SENSELESS,
        (ReplyError, PartialFailure, TransactionAborted): REFUSED,
    }
)


# Their texts come from us, or from a handshake: never from a server that repeats a command.
_OUR_WORDS = (ConfigError, StatefulCommand, NodeError, TopologyUnavailable)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants done, and how to show it. `form`: "text", "page", "raw" or "json"."""

    command: tuple[bytes, ...]
    node: str | None
    form: str
    explain: bool


def holds_secret(command: Sequence[bytes]) -> bool:
    """Whether it is of a kind that may hold a password."""
    return not _SECRET.isdisjoint(_names(command))


def shows_secret(command: Sequence[bytes]) -> bool:
    """Whether its arguments do hold one, as far as can be told."""
    match [word.decode("latin-1").lower() for word in command]:
        case ["auth", _, *_]:
            return True
        case ["config", "set", *settings]:
            return any(name.endswith(("pass", "auth")) for name in settings[::2])
        case ["acl", "setuser", _, *rules]:
            return any(rule.startswith((">", "<")) for rule in rules)
        case ["hello" | "migrate", *rest]:
            return not {"auth", "auth2"}.isdisjoint(rest)
    return False


def is_page(command: Sequence[bytes]) -> bool:
    """Whether its reply is a text of many lines."""
    return not _PAGES.isdisjoint(_names(command))


def arguments_of(words: Sequence[str], *, last_from_stdin: bool) -> tuple[bytes, ...]:
    """The command as bytes, as the shell has given them. The last one may come from standard input, to its end."""
    last = (sys.stdin.buffer.read(),) if last_from_stdin else ()
    return (*map(os.fsencode, words), *last)


def run(target: Target, wish: Wish) -> int:
    """Execute the command, or explain it, and print what came of it.

    Returns:
        The exit code.

    Blocks: until the reply is in, or the call has failed.
    """
    cluster = target.cluster()
    try:
        if wish.explain:
            cluster.connect()
            _print_explanation(cluster.explain(*wish.command), wish)
        else:
            _print_reply(_execute(cluster, wish), wish.form)
        return 0
    except GvClusterError as error:
        return _print_error(error, wish)
    finally:
        cluster.close()


def _execute(cluster: Cluster, wish: Wish) -> Any:
    return cluster.execute(*wish.command, node=wish.node) if wish.node else cluster.execute(*wish.command)


def _names(command: Sequence[bytes]) -> set[str]:
    words = [word.decode("latin-1").upper() for word in command[:2]]
    return {words[0], " ".join(words)} if words else set()


def _print_reply(reply: Any, form: str) -> None:
    if form == "raw":
        sys.stdout.flush()
        sys.stdout.buffer.write(as_raw(reply) + b"\n")
        sys.stdout.buffer.flush()
        return
    print({"json": as_json, "page": as_page, "text": as_text}[form](reply))


def _print_explanation(told: Explanation, wish: Wish) -> None:
    nodes = (wish.node,) if wish.node else told.nodes or filter(None, (told.node,))
    facts = {
        "command": told.command,
        "keys": [] if holds_secret(wish.command) else list(told.keys),
        "slot": told.slot,
        "nodes": list(map(str, nodes)),
        "readers": [str(node) for node in told.readers],
        "read_only": told.read_only,
        "blocking": told.blocking,
    }
    if wish.form == "json":
        print(as_json(facts))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):10} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(each if isinstance(each, str) else as_text(each) for each in value) or "-"
    return "-" if value is None else str(value)


def _print_error(error: GvClusterError, wish: Wish) -> int:
    code = next((code for kinds, code in _EXIT_CODES.items() if isinstance(error, kinds)), NOT_DONE)
    if error.maybe_executed:
        code = MAYBE_DONE
    parts = {"results": error.results} if isinstance(error, PartialFailure) else {}
    if holds_secret(wish.command):
        parts = {}
    text = _what(error, wish.command)
    if wish.form == "json":
        told = {"error": text, "kind": type(error).__name__, "maybe_executed": error.maybe_executed}
        print(as_json({**told, **parts}))
    else:
        for each in parts.values():
            _print_reply(each, wish.form)
        doubt = " (it may have been executed, or may still be)" if error.maybe_executed else ""
        print(f"gvcluster exec: {text}{doubt}", file=sys.stderr)
    return code


def _what(error: GvClusterError, command: Sequence[bytes]) -> str:
    """The error's text, but for what servers say of a command that may hold a secret."""
    if not holds_secret(command) or isinstance(error, _OUR_WORDS):
        return with_hint(str(error))
    if isinstance(error, ReplyError):
        return f"{error.code} (the rest is not shown: this command may hold a secret)"
    return f"{type(error).__name__} (more is not shown: this command may hold a secret)"
