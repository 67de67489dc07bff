"""What the user tells of commands that gvcluster does not list: the option `command_table`, and `register_command`.

The option takes a JSON document that maps names to descriptions, as the files in Valkey's src/commands and those of
modules do, and the documentation's commands.json with all of them. Of a description these are read; `arity` is a must:

    {"MYMODULE.GET": {"arity": 2, "command_flags": ["READONLY"], "command_tips": [], "key_specs": [
        {"begin_search": {"index": {"pos": 1}}, "find_keys": {"range": {"lastkey": 0, "step": 1, "limit": 0}}}]}}
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from gvcluster.core.command_spec import Command
from gvcluster.core.commands import COMMANDS
from gvcluster.core.descriptions import command_from, described_by_server, described_in
from gvcluster.errors import ConfigError


def commands_from(told: object) -> Iterable[Command]:
    """Read the option `command_table`. Raises ConfigError."""
    if told is None:
        return ()
    document = told if isinstance(told, Mapping) else _read(told)
    return tuple(command_from(described, stranger=True) for described in described_in(document))


def registered(name: str, arity: int, keys: tuple[int, int, int], *, read_only: bool, blocking: bool) -> Command:
    """The Command that `Cluster.register_command` is told of. Raises ConfigError."""
    if not isinstance(name, str):
        raise ConfigError(f"a command's name must be a str, not {type(name).__name__}")
    if not isinstance(keys, tuple) or len(keys) != 3:
        raise ConfigError("keys must be (first, last, step), or None")
    flags = ["readonly"] * read_only + ["blocking"] * blocking
    (described,) = described_by_server([[name, arity, flags, *keys]])
    command = command_from(described, stranger=True)
    if COMMANDS.named(command.name) is not None:
        raise ConfigError(f"gvcluster lists {command.name} already")
    return command


def _read(told: Any) -> object:
    if not isinstance(told, str | os.PathLike):
        raise ConfigError(f"command_table must be a path or a mapping, not {type(told).__name__}")
    import json
    from pathlib import Path

    try:
        return json.loads(Path(told).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"command_table {os.fspath(told)!r} cannot be read: {error}") from error
