"""Drawing of charts of lines: medians over the seeds with bands, formulas dotted."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..charts import Chart, Line
from . import axes as drawing
from .theme import DASHES, FORMULA, GREY, MARKERS, PALETTE, color_of

__all__ = ["draw_lines", "limits", "styles"]
__dir__ = __all__.copy

_WITHIN, _ROW = 4, 0.18
"""Names in a legend within the axes; below them, inches for each row of two."""
_MARKS = 8
"""Markers on a line; a line with fewer points has one on each."""


def draw_lines(figure: Figure, chart: Chart, title: str, ylim: Any = None) -> list[str]:
    """Draw a chart; return what lies beyond its limits (None: its own), as it is marked there."""
    axes = figure.subplots()
    _scale(axes, chart, title)
    for line, style in zip(chart.lines, styles(chart), strict=True):
        _line(axes, line, style)
    drawn = _drawn(chart)
    axes.set_ylim(ylim or drawing.limit(drawn, chart.log_y, chart.whole))
    marks = drawing.Marks(axes)
    beyond = [text for line in drawn for text in marks.cut(line)]
    for points, (_, _, color) in zip(chart.marks, drawn, strict=True):
        for point in points:
            marks.point(point, color)
    if any(line.values.min() < 0 < line.values.max() for line in chart.lines):
        axes.axhline(0.0, color=GREY, lw=0.8)
    _legend(figure, axes, chart)
    return beyond


def limits(charts: list[Chart]) -> tuple[float, float] | None:
    """The limits of the y axes of charts that share them."""
    drawn = [line for chart in charts for line in _drawn(chart)]
    return drawing.limit(drawn, charts[0].log_y, charts[0].whole)


def _drawn(chart: Chart) -> drawing.Drawn:
    pairs = zip(chart.lines, styles(chart), strict=True)
    return [(line.x, _shown(line), style["color"]) for line, style in pairs]


def _shown(line: Line) -> np.ndarray:
    """The values of a line that are drawn; of a formula, one for each point."""
    return line.middle[None] if line.theory else line.values


def _scale(axes: Axes, chart: Chart, title: str) -> None:
    """Set up the axes."""
    drawing.head(axes, title, chart.x, chart.y)
    if chart.ticks:
        axes.set_xticks(range(len(chart.ticks)), chart.ticks, family="monospace", fontsize=11)
        axes.tick_params(axis="x", length=2)
        axes.grid(axis="x", visible=False)
    for which in [axis for axis in "xy" if getattr(chart, f"log_{axis}")]:
        drawing.scale_log(axes, which)


def styles(chart: Chart) -> list[dict[str, Any]]:
    """Colour, marker and dashes of each line: a cell has its colour on every page."""
    found, n = [], 0
    for line in chart.lines:
        if line.theory:
            found.append(FORMULA)
            continue
        found.append(
            {
                "color": color_of(line.label) or PALETTE[n % len(PALETTE)],
                "marker": MARKERS[n % len(MARKERS)],
                "ls": DASHES["untrained" if line.untrained else "trained"],
            }
        )
        n += 1
    return found


def _line(axes: Axes, line: Line, style: dict[str, Any]) -> None:
    """Plot a line."""
    if line.theory:
        axes.plot(line.x, line.middle, zorder=3, **style)
        return
    drawing.band(
        axes, line.x, line.values, line.label, markevery=max(len(line.x) // _MARKS, 1), **style
    )


def _legend(figure: Figure, axes: Axes, chart: Chart) -> None:
    """Name the lines, and once what formulas and dots are."""
    if any(line.theory for line in chart.lines):
        axes.plot([], [], **FORMULA, label=chart.formula)
    if any(len(line.x) == 1 for line in chart.lines):
        axes.plot([], [], "o", color=GREY, label=chart.dots)
    named = len(axes.get_legend_handles_labels()[1])
    if not chart.ticks and named <= _WITHIN:
        axes.legend()
        return
    # Ticks at every step, or many lines, leave no room for it within the axes.
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + _ROW * -(-named // 2))
    figure.legend(loc="outside lower left", ncols=2)
