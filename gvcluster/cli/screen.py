"""How a demo looks: a picture that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import MappingProxyType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gvcluster.cli.meter import Status
from gvcluster.cli.summary import Row

# Columns where there is no terminal to ask.
_WIDTH = 100
# With more shards than that only their sum is shown, or the first.
_COLUMNS, _LINES = 5, 16
_BARS = " ▁▂▃▄▅▆▇█"
# All fits into 80 columns. The little diagrams go back 5.5 s.
_HISTORY, _BAR = 22, 20
_STYLES = MappingProxyType({"": "", "good": "green", "bad": "bold red"})


def open_screen(seconds: float, *, plain: bool) -> Screen:
    """The screen for this terminal, or for whatever standard output is. NO_COLOR is rich's business."""
    console = Console(highlight=False)
    if plain:
        console = Console(highlight=False, force_terminal=False, color_system=None)
    if not console.is_terminal:
        console.width = _WIDTH
    return Picture(console, seconds) if console.is_terminal and not console.is_dumb_terminal else Screen(console)


class Screen:
    """Plain lines. `period` is the time between two looks at the load, in seconds."""

    period = 1.0

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began: float | None = None
        self._has_header = False

    def title(self, name: str, text: str) -> None:
        """The first line."""
        self.console.print(Text.assemble((name, "bold"), f": {text}"), soft_wrap=True)

    def start_clock(self) -> None:
        """From now on lines begin with the time."""
        self._began = monotonic()

    def tell(self, text: str, mood: str = "") -> None:
        """A line of the story; mood is `good`, `bad` or nothing."""
        when = "" if self._began is None else f"{monotonic() - self._began:5.1f} s  "
        self.console.print(Text.assemble((when, "dim"), (text, _STYLES[mood])), soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        """While the load runs."""
        yield

    def show(self, status: Status) -> None:
        """How the load is doing."""
        shards = status.shards if len(status.shards) <= _COLUMNS else ()
        names = ["commands/s", *(f"shard {shard.number}" for shard in shards), "errors", "wrong replies"]
        values = [status.rate, *(shard.rate for shard in shards), status.errors, status.wrong]
        if not self._has_header:
            self._has_header = True
            self.console.print(f"{'':7}" + "".join(f"  {name:>10}" for name in names), soft_wrap=True)
        columns = "".join(f"  {value:>{max(10, len(name))},.0f}" for name, value in zip(names, values, strict=True))
        self.console.print(f"{status.elapsed:5.1f} s{columns}", soft_wrap=True)

    def table(self, rows: Iterable[Row]) -> None:
        """The figures at the end."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
        table.add_column()
        table.add_column(justify="right", no_wrap=True, style="bold")
        table.add_column(no_wrap=True)
        table.add_column(style="dim")
        for row in rows:
            table.add_row(Text(row.name), Text(row.value), Text(row.unit), Text(row.remark))
        self._print(table)
        self.console.file.write("\n")

    def _print(self, table: Table) -> None:
        with self.console.capture() as capture:
            self.console.print(table)
        self.console.file.write("\n" + "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))

    def phases(self, lines: Iterable[tuple[str, ...]]) -> None:
        """The table of the course; the first line is its heading."""
        heading, *lines = lines
        table = Table(box=None, show_header=True, header_style="dim", pad_edge=False, padding=(0, 1))
        for column, name in enumerate(heading):
            table.add_column(name, justify="right" if column else "left", no_wrap=True)
        for line in lines:
            table.add_row(*map(Text, line))
        self._print(table)

    def verdict(self, objections: list[str], praise: str) -> None:
        """The last lines."""
        if not objections:
            self.console.print(praise, style=_STYLES["good"], soft_wrap=True)
        for objection in objections:
            self.console.print(Text(f"FAILED: {objection}", _STYLES["bad"]), soft_wrap=True)


class Picture(Screen):
    """The same on a terminal: the shards with little diagrams of their rates, and a progress bar."""

    period = 0.25

    def __init__(self, console: Console, seconds: float) -> None:
        super().__init__(console)
        self._seconds = seconds
        self._history: dict[int, deque[float]] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        with self._live:
            yield

    def show(self, status: Status) -> None:
        self._live.update(Group(Text(), self._shards(status), self._progress(status)), refresh=True)

    def _shards(self, status: Status) -> RenderableType:
        for shard in status.shards:
            self._history.setdefault(shard.number, deque(maxlen=_HISTORY)).append(shard.rate)
        highest = max(1.0, *(max(rates) for rates in self._history.values()))
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "left", "right", "left"):
            table.add_column(justify=justify, no_wrap=True)
        for shard in status.shards[:_LINES]:
            colour = "red" if shard.is_out else "green"
            bars = "".join(_BARS[round(rate / highest * 8)] for rate in self._history[shard.number])
            table.add_row(
                f"shard {shard.number}",
                str(shard.primary),
                Text(bars.rjust(_HISTORY), colour),
                f"{shard.rate:,.0f}/s",
                Text(shard.state, colour),
            )
        return table

    def _progress(self, status: Status) -> RenderableType:
        line = Table.grid(padding=(0, 2))
        line.add_row(
            ProgressBar(
                self._seconds, min(status.elapsed, self._seconds), _BAR, complete_style="cyan", finished_style="cyan"
            ),
            f"{status.elapsed:.0f} of {max(self._seconds, status.elapsed):.0f} s",
            f"{status.rate:,.0f} commands/s",
            Text(f"errors {status.errors:,}", "yellow" if status.errors else ""),
            Text(f"wrong replies {status.wrong:,}", "bold red" if status.wrong else "green"),
        )
        return line
