"""Rule 7 and the vocabulary: one word per thing, and every file named after its job."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from shape.source import Offence, Source

# A file with such a name has no job of its own, so everything ends up in it.
_JOBLESS = frozenset({"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"})

# banned word → what this house says
_VOCABULARY = (
    ("master", "primary"),
    ("slave", "replica"),
    ("initialize", "refresh, or connect"),
    ("initialise", "refresh, or connect"),
    ("reload", "refresh"),
)


def check_file_name(source: Source) -> Iterator[Offence]:
    """The file is named after its job."""
    for word in _JOBLESS.intersection(source.stem.split("_")):
        yield source.offence(None, "file-name", "", f'"{word}" names no job: say what the file is for')


def check_not_empty(source: Source) -> Iterator[Offence]:
    """There is code in it, or, in the `__init__.py` of a package, at least a docstring."""
    statements = source.tree.body
    has_docstring = ast.get_docstring(source.tree) is not None
    if len(statements) > has_docstring or (has_docstring and source.stem == "__init__"):
        return
    yield source.offence(None, "empty-file", "", "nothing lives here: build the room when something does")


def check_vocabulary(source: Source) -> Iterator[Offence]:
    """No name that this file gives to something has a banned word in it; strings may, the wire has them."""
    for node in ast.walk(source.tree):
        name = _given_name(node)
        for banned, instead in _VOCABULARY:
            if banned in name.lower():
                yield source.offence(node, "vocabulary", name, f'{name}: not "{banned}" but {instead}')


def _given_name(node: ast.AST) -> str:
    """The name that this node introduces, "" if it introduces none."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
            return name
        case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            return name
    return ""
