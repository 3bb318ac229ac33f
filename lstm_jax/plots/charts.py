"""Drawing of a study's charts as SVG: medians over the seeds with bands, formulas dotted."""

import html
import io
import textwrap
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from ..charts import Chart, Line, Point
from .axes import COLORS, GREY, LABELS, LIGHT, MARKERS, STYLES, band, ink, limit

__all__ = ["PALETTE", "Drawing", "draw", "spark"]
__dir__ = __all__.copy

PALETTE = ("#3b7dd8", "#d97706", "#2a9d5c", "#c2459a", "#7a6ff0", "#8c6d31")
"""Colours of variants, legible on white and on near black; the cells have colours of their own."""
_MARKS = 8
"""Markers on a line; a line with fewer points has one on each."""
_ABOVE, _BELOW = 62, 50
"""Characters that fit above and below a chart."""
_SPARK = (120, 32)


class Drawing(NamedTuple):
    """A chart as drawn.

    Attributes:
        svg: the file.
        beyond: what lies beyond the limits of its axis, as it is marked at the edge.
    """

    svg: bytes
    beyond: list[str]


def draw(chart: Chart, theme: Any = LIGHT) -> Drawing:
    """Draw a chart; the same chart gives the same bytes.

    The limits of the y axis hold every median; what single seeds reach far beyond them is marked
    at the edge with its value.
    """
    settings = {"svg.hashsalt": chart.name, "svg.fonttype": "path"}
    with matplotlib.rc_context(theme | settings):
        figure, beyond = _figure(chart)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Drawing(buffer.getvalue(), beyond)


def _figure(chart: Chart) -> tuple[Figure, list[str]]:
    """The figure of a chart, and what lies beyond its limits."""
    figure = Figure(figsize=(5.0, 3.7), layout="constrained")
    axes = figure.subplots()
    _scale(axes, chart)
    drawn = [_line(axes, *each) for each in zip(chart.lines, _styles(chart), strict=True)]
    beyond = limit(axes, drawn, whole=True)
    for points, (_, _, color) in zip(chart.marks, drawn, strict=True):
        for point in points:
            _mark(axes, point, color)
    if any(line.values.min() < 0 < line.values.max() for line in chart.lines):
        axes.axhline(0.0, color=GREY, lw=0.8)
    if any(line.theory for line in chart.lines):
        axes.plot([], [], **_formula(), label="formula")
    if chart.ticks:  # One at every step leaves no room for it within the axes.
        figure.legend(loc="outside lower left", ncols=3)
    else:
        axes.legend()
    return figure, beyond


def _scale(axes: Axes, chart: Chart) -> None:
    """Set up the axes."""
    axes.set_xlabel(textwrap.fill(chart.x, _BELOW))
    # Above the axis, not along it: nobody turns a phone to read it.
    axes.set_title(textwrap.fill(chart.y, _ABOVE), fontsize=10, fontweight="normal")
    if chart.ticks:
        axes.set_xticks(range(len(chart.ticks)), chart.ticks, family="monospace", fontsize=8)
        axes.tick_params(axis="x", length=2)
        axes.grid(axis="x", visible=False)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_yscale("log")
        # Less than two decades have labels between them.
        axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(2, 0.5)))
    axes.tick_params(which="minor", labelsize=8)


def _styles(chart: Chart) -> list[dict[str, Any]]:
    """Colour, marker and dashes of each line: a cell has its colour on every page."""
    styles, n = [], 0
    cells = {label: COLORS[name] for name, label in LABELS.items()}
    for line in chart.lines:
        if line.theory:
            styles.append(_formula())
            continue
        color = next((c for label, c in cells.items() if line.label.startswith(label)), None)
        before = line.label.startswith("before")
        styles.append(
            {
                "color": color or PALETTE[n % len(PALETTE)],
                "marker": MARKERS[n % len(MARKERS)],
                "ls": STYLES["before" if before else "after"],
            }
        )
        n += 1
    return styles


def _formula() -> dict[str, Any]:
    return {"ls": ":", "lw": 1.8, "color": ink()}


def _line(axes: Axes, line: Line, style: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, str]:
    """Plot a line; return it for `limit`."""
    if line.theory:
        axes.plot(line.x, line.middle, zorder=3, **style)
        return line.x, line.middle[None], style["color"]
    band(axes, line.x, line.values, line.label, markevery=max(len(line.x) // _MARKS, 1), **style)
    return line.x, line.values, style["color"]


def _mark(axes: Axes, point: Point, color: str) -> None:
    """Mark a point with its value."""
    axes.get_xlim()  # Settles the limits.
    across, _ = (axes.transData + axes.transAxes.inverted()).transform((point.x, point.y))
    right = across > 0.5
    axes.plot([point.x], [point.y], "o", mfc="none", mec=color, ms=9, zorder=4)
    axes.annotate(
        point.text,
        (point.x, point.y),
        (-9 if right else 9, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        color=color,
        fontsize=9,
    )


def spark(chart: Chart) -> str:
    """Draw the medians of a chart's measured lines as a small SVG element for a page."""
    width, height = _SPARK
    with matplotlib.rc_context(LIGHT):
        pairs = zip(chart.lines, _styles(chart), strict=True)
        lines = [(_points(line, chart), style["color"]) for line, style in pairs if not line.theory]
    lines = [(points, color) for points, color in lines if points.size]
    paths = ""
    if lines:
        every = np.concatenate([points for points, _ in lines])
        low, span = every.min(axis=0), np.ptp(every, axis=0)
        for points, color in lines:
            x, y = ((points - low) / np.where(span > 0, span, 1.0)).T
            x, y = 2 + x * (width - 4), height - 2 - y * (height - 4)
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
            paths += f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    label = html.escape(chart.seen)
    about = f'viewBox="0 0 {width} {height}" role="img" aria-label="{label}"'
    return f'<svg class="spark" {about}>{paths}</svg>'


def _points(line: Line, chart: Chart) -> np.ndarray:
    """Points [N, 2] of a median as its chart's axes have them, at most as many as can be seen."""
    x, y = line.x, line.middle
    known = np.isfinite(x) & np.isfinite(y)
    known &= ((x > 0) | (not chart.log_x)) & ((y > 0) | (not chart.log_y))
    x, y = x[known], y[known]
    points = np.stack([np.log(x) if chart.log_x else x, np.log(y) if chart.log_y else y], axis=1)
    return points[:: max(len(points) // (2 * _SPARK[0]), 1)]
