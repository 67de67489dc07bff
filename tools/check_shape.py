#!/usr/bin/env python3
"""Check the shape of the house: size, names, state, docstrings and imports, as CONTRIBUTING.md lists them.

    python tools/check_shape.py [ROOT]

Prints each offence as `path:line: [rule] message` and exits with 1 if there is one. The rules are in `tools/shape/`;
here is what they are applied to, and who is exempt.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shape import docstrings, imports, names, size, state
from shape.source import Offence, Source


@dataclass(frozen=True)
class Exemption:
    """Somebody who may break a rule, and why. One that is no longer needed is an offence."""

    path: str
    subject: str
    rule: str
    reason: str


_HEART = "gvcluster/net/multiplexed.py"
_LOOP = "the hot loop: a call or a lookup less is 2 % of a command; one sees all that can happen to a waiter at once"
EXEMPTIONS: tuple[Exemption, ...] = (
    Exemption(_HEART, "", "file-lines", "its rules hold only together: who splits it has to prove them again"),
    Exemption(_HEART, "MultiplexedConnection._flush", "branches", _LOOP),
    Exemption(_HEART, "MultiplexedConnection._deliver", "branches", _LOOP),
    Exemption(_HEART, "MultiplexedConnection._deliver", "nesting", _LOOP),
    Exemption("gvcluster/net/forks.py", "_EVERYBODY", "module-state", "Python offers no other way to hear of a fork"),
    Exemption(
        "gvcluster/contrib/django.py",
        "_CLUSTERS",
        "module-state",
        "Django makes a cache for each thread or greenlet, and forgets it with these: nobody else can keep the Cluster",
    ),
    Exemption(
        "gvcluster/records.py", "_first_init_of.first_init", "open-kwargs", "what it compiles refuses unknown names"
    ),
    Exemption("gvcluster/records.py", "replace", "open-kwargs", "the class that it calls refuses unknown names"),
    Exemption("gvcluster/cluster.py", "", "file-lines", "the public surface in one place; two thirds are docstrings"),
)

# Public functions of gvcluster/cluster.py that never switch; all others say "Blocks:" in their docstring.
_NO_SWITCH = (
    "close close_idle command_timeout explain from_url hash_slot pipeline pubsub register_command route_version script"
    " start statistics submit submit_command"
)
NO_SWITCH = frozenset(f"Cluster.{name}" for name in _NO_SWITCH.split())

# Their signatures are those of redis-py and valkey-py, whose mixins call them with options of their own; what a
# constructor is given is checked by name all the same (compat/arguments.py).
# So are those of what frameworks call.
FOREIGN_SIGNATURES = ("gvcluster/compat/", "gvcluster/contrib/")

# Written by a tool and read by nobody: any length.
GENERATED = frozenset({"gvcluster/core/command_table.py"})


def check_tree(root: Path, exemptions: Sequence[Exemption], no_switch: Collection[str]) -> list[Offence]:
    """All offences in gvcluster/, tools/ and tests/ below root, in the order of the files."""
    offences: list[Offence] = []
    used: set[Exemption] = set()
    for source in _sources(root):
        for offence in _check(source, no_switch):
            pardons = [exemption for exemption in exemptions if _covers(exemption, offence)]
            used.update(pardons)
            if not pardons:
                offences.append(offence)
    return offences + [_stale(exemption) for exemption in exemptions if exemption not in used]


def _sources(root: Path) -> Iterator[Source]:
    for folder in ("gvcluster", "tools", "tests"):
        for file in sorted((root / folder).rglob("*.py")):
            yield Source(root, file)


def _check(source: Source, no_switch: Collection[str]) -> Iterator[Offence]:
    yield from names.check_file_name(source)
    yield from names.check_not_empty(source)
    if source.path.startswith("tests/"):
        yield from size.check_file(source, size.MAX_TEST_FILE_LINES)
        return
    if source.path not in GENERATED:
        yield from size.check_file(source)
    yield from size.check_functions(source)
    if source.path.startswith("gvcluster/"):
        yield from _check_package(source, no_switch)


def _check_package(source: Source, no_switch: Collection[str]) -> Iterator[Offence]:
    yield from names.check_vocabulary(source)
    yield from state.check_module_state(source)
    if not source.path.startswith(FOREIGN_SIGNATURES):
        yield from state.check_open_kwargs(source)
    yield from imports.check_core_is_pure(source)
    yield from imports.check_import_order(source)
    if docstrings.is_public_module(source.path):
        yield from docstrings.check_docstrings(source)
    if source.path == "gvcluster/cluster.py":
        yield from docstrings.check_blocks(source, no_switch)
        yield from docstrings.check_no_switch_list(source, no_switch)


def _covers(exemption: Exemption, offence: Offence) -> bool:
    return (exemption.path, exemption.subject, exemption.rule) == (offence.path, offence.subject, offence.rule)


def _stale(exemption: Exemption) -> Offence:
    message = f"{exemption.subject or 'the file'} no longer needs its exemption from {exemption.rule}: remove it"
    return Offence(exemption.path, 1, "stale", exemption.subject, message)


def main(arguments: Sequence[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1]
    if not (root / "gvcluster").is_dir():
        print(f"{root} is no house: it has no gvcluster/")
        return 2
    offences = check_tree(root, EXEMPTIONS, NO_SWITCH)
    for offence in offences:
        print(offence)
    print(f"{len(offences)} offences" if offences else "The house is in shape.")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
