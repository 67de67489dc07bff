"""Turns the house's docstrings into reStructuredText: plain words, `Args:` … `Blocks:`, indented examples, rows.

A docstring is read in a terminal first, so it has no markup but backticks. What they hold becomes a link where it names
something that is documented, else it is set as code.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from gvcluster import errors
from gvcluster.records import Record

# `Blocks:`, or several at once: `Args, Raises, Blocks: as get.`
_KNOWN = "Args|Attributes|Returns|Raises|Blocks|Source"
_HEADING = re.compile(rf"((?:{_KNOWN})(?:, (?:{_KNOWN}))*):(?: (.+))?$")
_TITLES = {"Args": "Arguments"}
# `timeout, retry: as for …`, `on_event(event): see …`, and options in a row of their own: "`node`: a Node …"
_NAME = r"\*{0,2}[A-Za-z_][\w.]*(?:\([\w, ]*\))?"
_ROW = re.compile(rf"({_NAME}(?:, {_NAME})*(?: = \S+)?): (.+)$")
_OPTION = re.compile(rf"((?:`{_NAME}`)(?:, `{_NAME}`)*): (.+)$")
_NEXT_OPTION = re.compile(rf"(?<=\.) (?=`{_NAME}`(?:, `{_NAME}`)*: )")


def to_rst(lines: Iterable[str]) -> list[str]:
    """The reStructuredText of a docstring, which begins at the margin.

    Args:
        lines: Of the docstring.

    Returns:
        Lines.
    """
    return [line for block in _blocks(list(lines)) for line in (*_block(block), "")]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Paragraphs; a section, and an indented example, with the blank lines in it."""
    block: list[str] = []
    for line in [*lines, ""]:
        ends = not line.strip()
        begins = bool(_HEADING.match(line)) or (line[:1] not in {"", " "} and not (block and _is_open(block)))
        if block and not ends and begins and (_is_long(block) or _HEADING.match(line)):
            yield _trimmed(block)
            block = []
        if ends and block and not _is_long(block):
            yield block
            block = []
        elif not ends or block:
            block.append(line)
    if _trimmed(block):
        yield _trimmed(block)


def _is_long(block: list[str]) -> bool:
    """Whether blank lines do not end it."""
    return bool(_HEADING.match(block[0])) or block[0].startswith("    ")


def _is_open(block: list[str]) -> bool:
    """Whether a line at the margin goes on with it."""
    return not _is_long(block)


def _trimmed(block: list[str]) -> list[str]:
    while block and not block[-1].strip():
        block = block[:-1]
    return block


def _block(block: list[str]) -> Iterator[str]:
    heading = _HEADING.match(block[0])
    if heading is not None:
        yield from _section(heading[1], heading[2], block[1:])
    elif block[0].startswith("    "):
        yield from _example(textwrap.dedent("\n".join(block)).splitlines())
    else:
        yield from _text(block)


def _section(names: str, first: str | None, lines: list[str]) -> Iterator[str]:
    lines = textwrap.dedent("\n".join(lines)).splitlines()
    body = [*([first] if first else []), *lines]
    yield f":{', '.join(_TITLES.get(name, name) for name in names.split(', '))}:"
    if names in {"Args", "Attributes", "Raises"} and not first:
        told = _items(body, _ROW, links=names == "Raises")
    else:
        told = _text(body)
    yield from _indented(told)


def _example(lines: list[str]) -> Iterator[str]:
    try:
        ast.parse("\n".join(lines))
        language = "python"
    except SyntaxError:
        language = "none"
    yield from (f".. code-block:: {language}", "", *_indented(lines))


def _text(lines: list[str]) -> Iterator[str]:
    """A paragraph, or rows of names, or a paragraph with rows of options at its end."""
    if len(lines) > 1 and _ROW.match(lines[0]) and all(_ROW.match(line) or line.startswith(" ") for line in lines):
        yield from _items(lines, _ROW)
        return
    if lines[0].startswith("- "):
        yield from _bullets(lines)
        return
    start = next((number for number, line in enumerate(lines) if _OPTION.match(line.strip())), len(lines))
    options = _NEXT_OPTION.sub("\n", "\n".join(line.strip() for line in lines[start:])).splitlines()
    if sum(1 for line in options if _OPTION.match(line)) > 1:
        yield from (_inline(" ".join(line.strip() for line in lines[:start])), "")
        yield from _items(options, _OPTION)
        return
    for is_blank, some in groupby(lines, key=lambda line: not line.strip()):
        if not is_blank:
            yield from (_inline(" ".join(line.strip() for line in some)), "")


def _bullets(lines: list[str]) -> Iterator[str]:
    for line in re.split(r"\n(?=- )", "\n".join(lines)):
        yield f"* {_inline(' '.join(line[2:].split()))}"
    yield ""


def _items(lines: list[str], row: re.Pattern[str], *, links: bool = False) -> Iterator[str]:
    """A list of what begins with a name; what goes on is indented, or of the form that begins none."""
    items: list[tuple[str, list[str]]] = []
    for line in lines:
        begins = None if line.startswith(" ") else row.match(line)
        if begins is not None:
            items.append((begins[1], [begins[2]]))
        elif items:
            items[-1][1].append(line[4:] if line.startswith("    ") else line)
        elif line.strip():
            items.append(("", [line]))
    for name, told in items:
        body = list(_text(told))
        yield f"* {_name(name, links)}{body[0]}"
        yield from _indented(body[1:], 2)
    yield ""


def _name(name: str, links: bool) -> str:
    if not name:
        return ""
    name, _, default = name.partition(" = ")
    each = [one.strip("`") for one in name.split(", ")]
    told = ", ".join(_linked(one) if links else f"**{_escaped(one)}**" for one in each)
    return f"{told} = ``{default}`` – " if default else f"{told} – "


def _linked(name: str) -> str:
    return f":py:exc:`.{name}`" if hasattr(errors, name) else f":py:exc:`{name}`"


def _inline(text: str) -> str:
    """Backticks hold code; everything else is plain."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(_code(part) if number % 2 else _escaped(part) for number, part in enumerate(parts))


def _code(text: str) -> str:
    if re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", text):
        return rf"\ :py:obj:`{text.removesuffix('()')}`\ " if not text.endswith("()") else rf"\ :py:func:`{text}`\ "
    return rf"\ ``{text}``\ "


def _escaped(text: str) -> str:
    return re.sub(r"([*|\\]|_\b|(?<=\w)_(?=\W|$))", r"\\\1", text)


def _indented(lines: Iterable[str], by: int = 4) -> Iterator[str]:
    return (" " * by + line if line else "" for line in lines)


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(_with_defaults(obj, lines) if _is_settings(obj) else lines)


def _with_defaults(obj: Any, lines: list[str]) -> Iterator[str]:
    """Rows of a dataclass of options, each with the default behind the name."""
    told = {field.name: field.default for field in dataclasses.fields(obj)}
    for line in lines:
        begins = _ROW.match(line)
        defaults = (
            [told.get(name.partition("(")[0], dataclasses.MISSING) for name in begins[1].split(", ")] if begins else []
        )
        shown = {repr(each) for each in defaults if type(each) not in (type(dataclasses.MISSING), type(None), object)}
        if begins and len(shown) == 1:
            line = f"{begins[1]} = {_number(shown.pop())}: {begins[2]}"
        yield line


def _number(text: str) -> str:
    """A default as one writes it here: 10_000, "safe"."""
    return f"{int(text):_}" if text.isdigit() else text.replace("'", '"')


def _sign(app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any) -> Any:
    """Signatures that tell nothing are left out: of what is made by others, of errors, of dozens of options."""
    if not signature:
        return None
    if what == "exception" or (what == "class" and (_is_settings(obj) or not _is_made_by_users(obj))):
        return "", None
    if what == "class" and issubclass(obj, Record):
        return f"({', '.join(obj.__match_args__)})", None
    return None


def _is_settings(obj: Any) -> bool:
    return isinstance(obj, type) and dataclasses.is_dataclass(obj) and len(dataclasses.fields(obj)) > 20


def _is_made_by_users(kind: type) -> bool:
    told = f"{kind.__doc__}{kind.__init__.__doc__}"
    return "Args:" in told or issubclass(kind, (Record, tuple)) or dataclasses.is_dataclass(kind)


def setup(app: Any) -> dict[str, bool]:
    """Have autodoc ask for each docstring and each signature."""
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _sign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
