"""What the axes of every chart share: bands, limits robust to outliers, marks, powers of ten."""

import re
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterSciNotation

from ..charts import Point, middle

__all__ = ["Drawn", "Marks", "Powers", "band", "head", "limit", "scale_log"]
__dir__ = __all__.copy

_TAIL = 0.05
"""Share of the values, on each side, that may lie beyond the limits of an axis."""
_ABOVE, _BELOW = 62, 50
"""Characters that fit above and below a chart."""
_WIDE, _HIGH = 0.35, 0.07
"""Shares of the axes that the text of a mark takes."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


_PLAIN = (1e-3, 1e4)
"""Within these, numbers are written as such and not as powers."""


class Powers(LogFormatterSciNotation):
    """Labels of a logarithmic axis as plain text, 0.5 or 10⁻⁶, which stays text in a file."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        label = super().__call__(x, pos)
        axis: Any = self.axis
        low, high = sorted(axis.get_view_interval())
        if label and _PLAIN[0] <= low and high <= _PLAIN[1]:
            return f"{x:g}"
        label = label.replace(r"\times", "×").replace("$", "").replace(r"\mathdefault", "")
        raised = re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(_RAISED), label)
        return raised.strip("{}")


def head(axes: Axes, title: str, x: str, y: str) -> None:
    """Name the axes, and the chart where it has a title.

    What is on the y axis stands above it, not along it: nobody turns a phone to read it.
    """
    axes.set_xlabel(textwrap.fill(x, _BELOW))
    axes.set_title(textwrap.fill(y, _ABOVE))
    if title:
        place: Any = axes.get_figure()
        place.suptitle(textwrap.fill(title, _BELOW), x=0.01, ha="left", size=12, weight="bold")


def scale_log(axes: Axes, which: str) -> None:
    """Make the "x" or "y" axis logarithmic; less than two decades have labels between them."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(Powers())
    axis.set_minor_formatter(Powers(minor_thresholds=(2, 0.5)))
    axes.tick_params(which="minor", labelsize=8)


def band(axes: Axes, x: Any, table: np.ndarray, label: str | None, **style: Any) -> None:
    """Plot the median of [S, N] as a line, and the range of the seeds as a band.

    A single point is a dot with a bar.
    """
    known = np.isfinite(table)
    low = np.where(known, table, np.inf).min(axis=0)
    high = np.where(known, table, -np.inf).max(axis=0)
    if len(x) == 1:
        ends = np.array([middle(table) - low, high - middle(table)])
        dot = {"color": style["color"], "fmt": "o", "lw": 1.2, "capsize": 2.5}
        axes.errorbar(x, middle(table), np.where(np.isfinite(ends), ends, 0.0), **dot)
        return
    axes.plot(x, middle(table), label=label, **style)
    if len(table) > 1:
        shown = {"color": style.get("color"), "alpha": 0.18, "lw": 0}
        axes.fill_between(x, low, high, where=np.isfinite(low), **shown)


Drawn = list[tuple[np.ndarray, np.ndarray, str]]
"""Lines of a chart: (x [N], values [S, N], colour) each."""


def limit(drawn: Drawn, log: bool, whole: bool) -> tuple[float, float] | None:
    """Limits of a y axis by the bulk of the values; None if there are none.

    The bulk are the values without the highest and the lowest 5 %. Values farther from it than its
    height, on the scale of the axis, do not set the limits; if `whole`, no median is cut.
    """
    scale, unscale = (np.log, np.exp) if log else (np.asarray, np.asarray)

    def heights_of(values: np.ndarray) -> np.ndarray:
        return scale(values[np.isfinite(values) & ((values > 0) | (not log))])

    heights = heights_of(np.concatenate([table.ravel() for _, table, _ in drawn]))
    if not heights.size:
        return None
    low, high = np.quantile(heights, [_TAIL, 1 - _TAIL])
    reach = high - low + 0.1 * (1.0 if log else max(abs(low), abs(high)))
    near = heights[(heights >= low - reach) & (heights <= high + reach)]
    if whole:
        near = np.concatenate([near, *(heights_of(middle(table)) for _, table, _ in drawn)])
    bottom, top = near.min(), near.max()
    pad = 0.05 * (top - bottom) + 1e-6
    return float(unscale(bottom - pad)), float(unscale(top + pad))


class Marks:
    """Marks on one chart, whose texts keep clear of each other.

    Args:
        axes: the axes, with their limits set.
    """

    def __init__(self, axes: Axes):
        self._axes = axes
        self._taken: list[tuple[float, float]] = []

    def cut(self, line: tuple[np.ndarray, np.ndarray, str]) -> list[str]:
        """Mark the extremes of a line beyond the limits with their values; return the texts."""
        found = [self._cut(*line, highest) for highest in (False, True)]
        return [text for text in found if text]

    def _cut(self, x: np.ndarray, table: np.ndarray, color: str, highest: bool) -> str:
        edge = self._axes.get_ylim()[int(highest)]
        known = np.where(np.isfinite(table), table, -np.inf if highest else np.inf)
        place = known.argmax() if highest else known.argmin()
        extreme = float(known.flat[place])
        if not np.isfinite(extreme) or (extreme <= edge if highest else extreme >= edge):
            return ""
        text = f"{'peak' if highest else 'low'} {extreme:.2g}"
        across, _ = self._place(float(x[place % len(x)]), edge)
        align = "left" if across < 0.2 else "right" if across > 0.8 else "center"
        arrow, up = ("▲", 0.97) if highest else ("▼", 0.03)
        self._write(f"{arrow} {text}", across, up, align, color)
        return text

    def point(self, point: Point, color: str) -> None:
        """Mark a point, if it is within the limits, with its value."""
        across, up = self._place(point.x, point.y)
        if 0 <= up <= 1:
            self._axes.plot([point.x], [point.y], "o", mfc="none", mec=color, ms=9, zorder=4)
            side, align = (-0.03, "right") if across > 0.5 else (0.03, "left")
            self._write(point.text, across + side, up, align, color)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is, as shares of the axes."""
        self._axes.get_xlim()  # Settles the limits.
        across, up = (self._axes.transData - self._axes.transAxes).transform((x, y))
        return float(across), float(up)

    def _write(self, text: str, across: float, up: float, align: str, color: str) -> None:
        """Write at this place, or at the next free one towards the middle."""
        middle = across + {"left": 0.5, "right": -0.5, "center": 0.0}[align] * _WIDE
        up, step = min(max(up, 0.03), 0.97), -_HIGH if up > 0.5 else _HIGH
        while any(abs(middle - a) < _WIDE and abs(up - b) < _HIGH for a, b in self._taken):
            up += step
        self._taken.append((middle, up))
        where = {"transform": self._axes.transAxes, "ha": align, "va": "center"}
        self._axes.text(across, up, text, color=color, fontsize=9, **where)
