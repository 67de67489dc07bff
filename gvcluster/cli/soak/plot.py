"""Curves over time as SVG, with bands behind them for what happened meanwhile. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 1040, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 10, 40, 26
# Where the names of the curves begin, behind the title.
_LEGEND = 330.0
# About so many lines across.
_LINES = 5
# A curve of more points is drawn with the highest of each few.
_POINTS = 1500
_FLOOR = 0.1
# A band gets its name if it is so wide, pixels.
_NAMED = 11


class Curve(NamedTuple):
    """A line through points (seconds, value)."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


class Band(NamedTuple):
    """What happened from one time to another."""

    begin: float
    end: float
    name: str
    colour: str


def plot(
    title: str, curves: Sequence[Curve], bands: Sequence[Band], *, logarithmic: bool = False, names: bool = False
) -> str:
    """Draw one picture.

    Args:
        title: What the values are, with their unit.
        curves: Drawn one over the other.
        bands: Drawn behind them.
        logarithmic: The scale of the values.
        names: Whether the bands show their names, upright; then the picture is higher.
    """
    return _Picture(curves, bands, logarithmic=logarithmic, top=_TOP + (78 if names else 0)).draw(title, names)


class _Picture:
    def __init__(self, curves: Sequence[Curve], bands: Sequence[Band], *, logarithmic: bool, top: int) -> None:
        self._curves, self._bands, self._logarithmic, self._top = curves, bands, logarithmic, top
        self._height = _HEIGHT + top - _TOP
        times = [at for curve in curves for at, _ in curve.points] + [band.end for band in bands]
        values = [value for curve in curves for _, value in curve.points]
        self._end = max(times, default=0.0) or 1.0
        self._ticks = _powers(max(values, default=1.0)) if logarithmic else _steps(max(values, default=1.0))

    def draw(self, title: str, names: bool) -> str:
        """The whole SVG."""
        box = f'viewBox="0 0 {_WIDTH} {self._height}" font-family="system-ui, sans-serif" font-size="12"'
        inside = "".join([*self._backgrounds(names), *self._grid(), *self._lines(), *self._legend(title)])
        return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {box}>{inside}</svg>'

    def _x(self, at: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * at / self._end, 1)

    def _y(self, value: float) -> float:
        low, high = self._ticks[0], self._ticks[-1]
        part = (value - low) / (high - low)
        if self._logarithmic:
            part = math.log(max(value, low) / low) / math.log(high / low)
        return round(self._height - _BOTTOM - (self._height - _BOTTOM - self._top) * min(1.0, part), 1)

    def _backgrounds(self, names: bool) -> Iterator[str]:
        for band in self._bands:
            left, width = self._x(band.begin), self._x(band.end) - self._x(band.begin)
            size = f'width="{max(1.0, width):.1f}" height="{self._height - _BOTTOM - self._top}"'
            yield (
                f'<rect x="{left}" y="{self._top}" {size} fill="{band.colour}">'
                f"<title>{escape(band.name)}</title></rect>"
            )
            if names and width >= _NAMED:
                x = left + width / 2 + 4
                yield (
                    f'<text x="{x:.1f}" y="{self._top - 5}" fill="#5b6775"'
                    f' transform="rotate(-90 {x:.1f} {self._top - 5})">{escape(band.name)}</text>'
                )

    def _grid(self) -> Iterator[str]:
        bottom = self._height - _BOTTOM
        for tick in self._ticks:
            y = self._y(tick)
            yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#00000018"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end" fill="#5b6775">{tick:,g}</text>'
        unit, name = (60.0, "min") if self._end > 300 else (1.0, "s")
        for tick in _steps(self._end / unit, lines=8):
            if tick * unit <= self._end:
                x = self._x(tick * unit)
                yield f'<text x="{x}" y="{bottom + 17}" text-anchor="middle" fill="#5b6775">{tick:,g} {name}</text>'
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}" stroke="#5b6775"/>'

    def _lines(self) -> Iterator[str]:
        for curve in self._curves:
            points = " ".join(f"{self._x(at)},{self._y(value)}" for at, value in _thinned(curve.points))
            yield f'<polyline points="{points}" fill="none" stroke="{curve.colour}" stroke-width="1.6"/>'

    def _legend(self, title: str) -> Iterator[str]:
        yield f'<text x="0" y="15" font-size="14" font-weight="600" fill="#1d2733">{escape(title)}</text>'
        x, y = _LEGEND, 15
        for curve in self._curves if len(self._curves) > 1 else ():
            width = 34 + 6.5 * len(curve.name)
            if x + width > _WIDTH:
                x, y = _LEGEND, y + 16
            yield f'<rect x="{x:.0f}" y="{y - 7}" width="12" height="4" fill="{curve.colour}"/>'
            yield f'<text x="{x + 17:.0f}" y="{y}" fill="#1d2733">{escape(curve.name)}</text>'
            x += width


def _steps(most: float, lines: int = _LINES) -> list[float]:
    """Round numbers from 0 to above the most."""
    rough = max(most, 1e-9) / lines
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.ceil(most / step) + 1)] if most > 0 else [0.0, 1.0]


def _powers(most: float) -> list[float]:
    """Powers of ten, from the floor to above the most."""
    count = max(1, math.ceil(math.log10(max(most, _FLOOR) / _FLOOR)))
    return [_FLOOR * 10**number for number in range(count + 1)]


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    each = -(-len(points) // _POINTS)
    if each <= 1:
        return points
    return [max(points[start : start + each], key=lambda point: point[1]) for start in range(0, len(points), each)]
