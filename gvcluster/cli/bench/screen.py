"""How a run looks: tables with bars and a line that tells how far it is on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gvcluster.cli.bench.clients import GVCLUSTER
from gvcluster.cli.bench.tables import Table, plain

if TYPE_CHECKING:
    from rich.table import Table as Grid

_BLOCKS = " ▏▎▍▌▋▊▉█"
_WIDTH = 12
_STYLES = MappingProxyType({"NOT met": "bold red", "not measured": "yellow", "met": "green"})


def open_screen(seconds: float, *, plain: bool) -> Screen:
    """The screen for this terminal, or for whatever standard output is."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return Picture(seconds) if terminal and not plain and find_spec("rich") is not None else Screen()


class Screen:
    """Plain lines. What is next is told on standard error."""

    def __init__(self) -> None:
        self._said = ""

    def title(self, name: str, text: str, lines: Sequence[str]) -> None:
        """The first lines."""
        self._print("\n".join([f"{name}: {text}", *lines]))

    @contextmanager
    def live(self) -> Iterator[None]:
        """While it runs."""
        yield

    def tell(self, text: str) -> None:
        """What is next; one line for a round is enough."""
        line = text.rpartition(",")[0] if "round" in text else text
        if line != self._said:
            self._said = line
            print(line, file=sys.stderr, flush=True)

    def table(self, table: Table) -> None:
        """A case that is done."""
        self._print("\n" + plain(table))

    def notes(self, lines: Sequence[str]) -> None:
        """What is said at the end."""
        self._print("\n" + "\n".join(lines))

    def _print(self, text: str) -> None:
        print(text, flush=True)


class Picture(Screen):
    """Colours, bars, and a line at the bottom that tells how far it is."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._seconds = seconds
        self._began = monotonic()
        self._line = Live(console=self._console, auto_refresh=False, transient=True)

    def title(self, name: str, text: str, lines: Sequence[str]) -> None:
        from rich.text import Text

        self._console.print(Text.assemble((name, "bold"), f": {text}"))
        for line in lines:
            self._console.print(Text(line, "dim"))

    @contextmanager
    def live(self) -> Iterator[None]:
        with self._line:
            yield

    def tell(self, text: str) -> None:
        from rich.text import Text

        share = min(0.99, (monotonic() - self._began) / self._seconds)
        self._line.update(Text.assemble((_bar(share, 20), "cyan"), f" {share:4.0%}  ", (text, "dim")), refresh=True)

    def table(self, table: Table) -> None:
        from rich.text import Text

        self._console.print(Text(f"\n{table.title.partition('  [')[0]}", "bold"))
        self._console.print(_grid(table))
        for remark in table.remarks:
            self._console.print(Text(f"  {remark}", "yellow" if " failed in " in remark else "dim"))

    def notes(self, lines: Sequence[str]) -> None:
        from rich.text import Text

        self._console.print()
        for line in lines:
            self._console.print(Text(line, "dim"))


def _bar(share: float, width: int = _WIDTH) -> str:
    """A bar of so many characters, drawn to an eighth of one."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_BLOCKS[rest] if rest else "")).ljust(width)


def _grid(table: Table) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, header_style="dim", pad_edge=False, padding=(0, 1))
    grid.add_column(table.headings[0], no_wrap=True)
    if table.bars:
        grid.add_column("", no_wrap=True)
    for name in table.headings[1:]:
        grid.add_column(name, justify="right")
    for number, line in enumerate(table.lines):
        style = "bold green" if line[0] == GVCLUSTER else _STYLES.get(line[-1], "")
        drawn: list[Any] = [Text(_bar(table.bars[number]), "cyan")] if table.bars else []
        grid.add_row(Text(line[0], style), *drawn, *(Text(cell, style) for cell in line[1:]))
    return grid
