"""Rule 9: what users touch says what it does, and whether it can switch."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from shape.source import Function, Offence, Source
from shape.state import last_name

_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def is_public_module(path: str) -> bool:
    """Users read the docstrings of these files."""
    return path in {"gvcluster/__init__.py", "gvcluster/cluster.py"} or path.startswith("gvcluster/testing/")


def check_docstrings(source: Source) -> Iterator[Offence]:
    """The module and all public classes, functions and methods have a docstring."""
    if ast.get_docstring(source.tree) is None:
        yield source.offence(None, "docstring", "", "the module has no docstring")
    for name, node in public_names(source):
        if ast.get_docstring(node) is None:
            yield source.offence(node, "docstring", name, f"{name} has no docstring")


def check_blocks(source: Source, no_switch: Collection[str]) -> Iterator[Offence]:
    """Each public function either says `Blocks:` or is listed as one that never switches."""
    for name, node in _public_functions(source).items():
        says_blocks = "Blocks:" in (ast.get_docstring(node) or "")
        if says_blocks and name in no_switch:
            yield source.offence(node, "blocks", name, f'{name} says "Blocks:" but is listed in NO_SWITCH')
        if not says_blocks and name not in no_switch:
            message = f'{name} must say "Blocks:" (what it waits for, what a kill leaves), or be listed in NO_SWITCH'
            yield source.offence(node, "blocks", name, message)


def check_no_switch_list(source: Source, no_switch: Collection[str]) -> Iterator[Offence]:
    """The list of those that never switch names nothing that is not there."""
    for name in sorted(set(no_switch) - set(_public_functions(source))):
        yield source.offence(None, "stale", name, f"NO_SWITCH lists {name}, which is not here: remove it there")


def public_names(source: Source) -> Iterator[tuple[str, _Documented]]:
    """The public functions and classes, and the public methods of these."""
    for node in _public(source.tree):
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{method.name}", method) for method in _public(node))


def _public_functions(source: Source) -> dict[str, Function]:
    return {name: node for name, node in public_names(source) if isinstance(node, Function)}


def _public(parent: ast.Module | ast.ClassDef) -> Iterator[_Documented]:
    for node in parent.body:
        if isinstance(node, _Documented) and not node.name.startswith("_") and not _is_documented_elsewhere(node):
            yield node


def _is_documented_elsewhere(node: _Documented) -> bool:
    """An overload and the setter of a property speak through the function that they belong to."""
    return any(last_name(decorator) in {"overload", "setter", "deleter"} for decorator in node.decorator_list)
