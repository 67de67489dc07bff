"""The server is asked where the keys are, for every command that it knows and many ways to call each."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import command_sources
import hiredis
import pytest

from gvcluster.core.commands import COMMANDS, Command, key_positions
from gvcluster.core.resp import encode
from gvcluster.testing.servers import find_server

pytestmark = pytest.mark.needs("redis-server")

CALLS_PER_COMMAND = 20
# Values that are also options: they must not be taken for them where a value stands.
OPTION_LIKE = ("STORE", "KEYS", "STREAMS", "block", "GET", "limit", "AUTH")
# The second is what Redis 7.0 says of a command that is a name only.
NO_KEYS = ("ERR The command has no key arguments", "ERR wrong number of arguments for 'command|getkeys' command")
Ask = Callable[..., Any]


@pytest.fixture(scope="module", params=["valkey-9.1.2", "redis-7.0.15"])
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """A function from a command to the reply of a server; errors are returned."""
    server = find_server(request.param).path()
    with command_sources.running(server) as port, command_sources.connect("127.0.0.1", port) as connection:
        reader = hiredis.Reader(encoding="latin-1", notEnoughData=...)

        def ask(*args: str) -> Any:
            connection.sendall(encode(args))
            return command_sources.read_reply(connection, reader)

        ask("HELLO", "3")
        yield ask


@pytest.fixture(scope="module")
def syntax(ask: Ask) -> dict[str, list[Any]]:
    """The arguments of each command as COMMAND DOCS describes them."""
    described = {}
    for name, docs in ask("COMMAND", "DOCS").items():
        for each, entry in ((name, docs), *docs.get("subcommands", {}).items()):
            described[each.upper().replace("|", " ")] = entry.get("arguments", [])
    return described


class Caller:
    """Writes calls of a command that the server would take."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._number = itertools.count()

    def call(self, name: str, syntax: list[Any]) -> list[str]:
        """One call. What stands behind `numkeys` are so many keys, each perhaps with a value."""
        args = name.split(" ")
        keys_follow = False
        for argument in syntax:
            values = ["numkeys"] if argument["name"] == "numkeys" else self._argument(argument)
            if keys_follow:
                args[-1] = str(len(values) // (2 if argument["type"] == "block" else 1))
            keys_follow = argument["name"] == "numkeys"
            args += values
        return args

    def _argument(self, argument: Any) -> list[str]:
        flags = argument.get("flags", ())
        if "optional" in flags and self._rng.random() < 0.5:
            return []
        times = self._rng.randint(1, 3) if "multiple" in flags else 1
        token = [argument["token"]] if "token" in argument and argument["type"] != "pure-token" else []
        values = [token * (i == 0 or "multiple_token" in flags) + self._value(argument) for i in range(times)]
        return list(itertools.chain(*values))

    def _value(self, argument: Any) -> list[str]:
        match argument["type"]:
            case "key":
                return [f"key{next(self._number)}"]
            case "integer" | "double" | "unix-time":
                return [str(self._rng.randint(0, 3))]
            case "pure-token":
                return [self._rng.choice([argument["token"], argument["token"].lower()])]
            case "oneof":
                return self._argument(self._rng.choice(argument["arguments"]))
            case "block" if argument["name"] == "streams":  # as many ids as keys
                keys = [f"key{next(self._number)}" for _ in range(self._rng.randint(1, 3))]
                return keys + [self._rng.choice(["0", *OPTION_LIKE]) for _ in keys]
            case "block":
                return list(itertools.chain(*map(self._argument, argument["arguments"])))
        return [self._rng.choice([f"value{next(self._number)}", self._rng.choice(OPTION_LIKE)])]


def test_every_command_has_its_keys_where_the_server_finds_them(ask: Ask, syntax: dict[str, list[Any]]) -> None:
    caller = Caller(random.Random(1))
    agreed = set()
    for command in commands_to_compare(syntax):
        for _ in range(CALLS_PER_COMMAND):
            args = caller.call(command.name, syntax[command.name])
            reply = ask("COMMAND", "GETKEYS", *args)
            if isinstance(reply, list):
                found = [args[position] for position in key_positions(command, args)]
                assert found == [key for key in reply if key not in overridden(args)], args
                agreed.add(command.name)
            elif str(reply) in NO_KEYS:
                assert command.keys == (), args
                agreed.add(command.name)
    assert agreed == {command.name for command in commands_to_compare(syntax)}


def overridden(args: list[str]) -> set[str]:
    """The destination of GEORADIUS that a later one replaces: Redis 7.0 lists it, though nothing is written to it."""
    if not args[0].startswith("GEORADIUS"):
        return set()
    return {args[i + 1] for i, word in enumerate(args[:-2]) if word == "STORE" and args[i + 2] == "STOREDIST"}


def commands_to_compare(syntax: dict[str, list[Any]]) -> list[Command]:
    """All that the server knows, but containers, and what has arguments that are only hashed like keys."""
    known = [command for command in COMMANDS if command.name in syntax and not COMMANDS.is_container(command)]
    return [command for command in known if not any(spec.not_key for spec in command.keys)]
