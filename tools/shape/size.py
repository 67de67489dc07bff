"""Rule 12: what fits on a screen and in a head.

Branches are counted as in the study that set the limit (1, and one more for each if, for, while, except, conditional
expression, comprehension, match case and further operand of and/or), so that "h11 keeps it in 91 % of its functions"
speaks of the same thing. A nested function counts its own branches and nesting; its lines count for the outer one too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from shape.source import Function, Offence, Source

MAX_CODE_LINES = 40
MAX_BRANCHES = 8
MAX_NESTING = 3
MAX_PARAMETERS = 7
MAX_FILE_LINES = 300
MAX_TEST_FILE_LINES = 600

_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.match_case)
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def check_functions(source: Source) -> Iterator[Offence]:
    """No function is longer, more branched, deeper or wider than the limits."""
    for name, function in source.functions:
        measures = (
            ("function-lines", code_lines(source, function), MAX_CODE_LINES, "code lines"),
            ("branches", branches(function), MAX_BRANCHES, "branches"),
            ("nesting", nesting(function), MAX_NESTING, "levels of nesting"),
            ("parameters", parameters(function), MAX_PARAMETERS, "parameters"),
        )
        for rule, measured, limit, unit in measures:
            if measured > limit:
                yield source.offence(function, rule, name, f"{name} has {measured} {unit}, the limit is {limit}")


def check_file(source: Source, limit: int = MAX_FILE_LINES) -> Iterator[Offence]:
    """No file is longer than the limit, comments and docstrings included."""
    lines = len(source.text.splitlines())
    if lines > limit:
        yield source.offence(None, "file-lines", "", f"the file has {lines} lines, the limit is {limit}")


def code_lines(source: Source, function: Function) -> int:
    """From `def` to the end, without docstrings, comments and blank lines."""
    return len(source.code_lines.intersection(range(function.lineno, (function.end_lineno or 0) + 1)))


def branches(function: Function) -> int:
    return 1 + sum(_branches_in(statement) for statement in function.body)


def nesting(function: Function) -> int:
    return max(_depth(statement) for statement in function.body)


def parameters(function: Function) -> int:
    """All of them but self or cls and a **options that is spelled out by an Unpack (rule 13 looks at that)."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    bound = bool(named) and named[0].arg in {"self", "cls"}
    return len(named) - bound + (arguments.vararg is not None)


def _branches_in(node: ast.AST) -> int:
    if isinstance(node, _SCOPES):
        return 0
    own = len(node.values) - 1 if isinstance(node, ast.BoolOp) else int(isinstance(node, _BRANCHES))
    return own + sum(_branches_in(child) for child in ast.iter_child_nodes(node))


def _depth(node: ast.AST) -> int:
    if isinstance(node, _SCOPES):
        return 0
    own = int(isinstance(node, _BLOCKS))
    return own + max((_depth(child) - _is_elif(node, child) for child in ast.iter_child_nodes(node)), default=0)


def _is_elif(node: ast.AST, child: ast.AST) -> bool:
    """An elif is an If alone in the orelse of an If, at the same column; an if within an else is further right."""
    return (
        isinstance(node, ast.If)
        and isinstance(child, ast.If)
        and node.orelse == [child]
        and child.col_offset == node.col_offset
    )
