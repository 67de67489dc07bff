"""Rule 13: no module-level mutable state, and no **kwargs that swallow unknown names."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from shape.source import Offence, Source

_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
_FACTORIES = frozenset(
    "list dict set bytearray deque defaultdict OrderedDict Counter ChainMap WeakSet WeakKeyDictionary"
    " WeakValueDictionary count cycle local Lock RLock Event Condition Semaphore Queue SimpleQueue".split()
)


def check_module_state(source: Source) -> Iterator[Offence]:
    """Module-level values are frozen: tuple, frozenset, MappingProxyType. Nothing rebinds them later."""
    for statement in _module_statements(source.tree):
        value = getattr(statement, "value", None)
        for name in _assigned_names(statement):
            if name != "__all__" and value is not None and _is_mutable(value):
                message = f"{name} can be changed by anyone: use a tuple, frozenset or MappingProxyType"
                yield source.offence(statement, "module-state", name, message)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            names = ", ".join(node.names)
            yield source.offence(node, "module-state", node.names[0], f"global {names}: the state of a module changes")


def check_open_kwargs(source: Source) -> Iterator[Offence]:
    """**kwargs are spelled out by Unpack[a TypedDict], or are a ParamSpec's."""
    for name, function in source.functions:
        kwargs = function.args.kwarg
        if kwargs is not None and not _is_spelled_out(kwargs.annotation):
            message = f"{name}: **{kwargs.arg} swallows unknown names: annotate it with Unpack[a TypedDict]"
            yield source.offence(function, "open-kwargs", name, message)


def _module_statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements that run at import: also those within a module-level if, try or with."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt) and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
            yield from _module_statements(child)


def _assigned_names(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return
    for target in targets:
        yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Tuple):
        return any(_is_mutable(element) for element in value.elts)
    return isinstance(value, _DISPLAYS) or (isinstance(value, ast.Call) and last_name(value.func) in _FACTORIES)


def _is_spelled_out(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.Subscript):
        return last_name(annotation.value) == "Unpack"
    return isinstance(annotation, ast.Attribute) and annotation.attr == "kwargs"


def last_name(expression: ast.expr) -> str:
    """`deque` of `collections.deque` and of `deque[int]`."""
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value):
            return last_name(value)
    return ""
