"""A file that is being checked, and what a rule says about it."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass(frozen=True)
class Offence:
    """One broken rule. `subject` is the function, class or name at fault ("" for the file): exemptions name it."""

    path: str
    line: int
    rule: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: [{self.rule}] {self.message}"


class Source:
    """One Python file, parsed."""

    def __init__(self, root: Path, file: Path) -> None:
        self.path = file.relative_to(root).as_posix()
        self.stem = file.stem
        self.text = file.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, self.path)

    def offence(self, node: ast.AST | None, rule: str, subject: str, message: str) -> Offence:
        return Offence(self.path, getattr(node, "lineno", 1), rule, subject, message)

    @cached_property
    def module(self) -> str:
        """The dotted name it is imported by."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def functions(self) -> list[tuple[str, Function]]:
        """Every function with its qualified name: `Class.method`, `outer.inner`."""
        return list(_named_functions(self.tree, ""))

    @cached_property
    def code_lines(self) -> frozenset[int]:
        """The lines that hold code: neither blank, nor comment, nor docstring."""
        code: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in _LAYOUT:
                code.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            code -= _docstring_lines(node)
        return frozenset(code)


def _named_functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
        below = f"{prefix}{child.name}." if isinstance(child, Function | ast.ClassDef) else prefix
        yield from _named_functions(child, below)


def _docstring_lines(node: ast.AST) -> set[int]:
    if not isinstance(node, Function | ast.ClassDef | ast.Module) or ast.get_docstring(node, clean=False) is None:
        return set()
    first = node.body[0]
    return set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
