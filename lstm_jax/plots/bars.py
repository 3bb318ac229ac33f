"""Drawing of charts of bars: medians over the seeds with their range, each with its number."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..charts import Bars, middle
from . import axes as drawing
from .theme import FORMULA, GREY, INK, PAPER, color_of

__all__ = ["draw_bars"]
__dir__ = __all__.copy

_HATCHES = ("", "///")
_ROOM = 0.1
"""Share of the axes' height above the highest bar: its number needs room."""


def draw_bars(figure: Figure, chart: Bars, title: str) -> None:
    """Draw a chart of bars; the second series is hatched."""
    axes = figure.subplots()
    drawing.head(axes, title, "", chart.y)
    if chart.log_y:
        drawing.scale_log(axes, "y")
    width = 0.8 / len(chart.series)
    for n, values in enumerate(chart.series.values()):
        _draw(axes, chart, values, width * (n - (len(chart.series) - 1) / 2), width, _HATCHES[n])
    axes.set_xticks(range(len(chart.groups)), chart.groups)
    axes.grid(axis="x", visible=False)
    level = [axes.axhline(chart.level[0], **FORMULA, label=chart.level[1])] if chart.level else []
    axes.set_ylim(*_limits(chart, *axes.get_ylim()))
    handles = [
        Patch(facecolor=GREY, edgecolor=PAPER, hatch=hatch, label=name)
        for name, hatch in zip(chart.series, _HATCHES, strict=False)
    ]
    if len(handles) > 1 or level:
        figure.legend(handles=[*handles, *level], loc="outside lower left", ncols=3)


def _limits(chart: Bars, bottom: float, top: float) -> tuple[float, float]:
    """The chart's limits, or by those of the bars."""
    low, high = chart.limits
    low = bottom if low is None else low
    if high is None:
        high = top * (top / low) ** _ROOM if chart.log_y else top + _ROOM * (top - low)
    return low, high


def _draw(
    axes: Axes, chart: Bars, values: np.ndarray, offset: float, width: float, hatch: str
) -> None:
    """Draw the bars of a series, with numbers and the range of the seeds."""
    heights = middle(values)
    low, high = (np.where(np.isfinite(values), values, heights) for _ in range(2))
    drawn = axes.bar(
        np.arange(len(chart.groups)) + offset,
        np.nan_to_num(heights),
        0.95 * width,
        yerr=np.nan_to_num([heights - low.min(axis=0), high.max(axis=0) - heights]),
        error_kw={"ecolor": INK, "elinewidth": 1.2},
        color=[color_of(group) or GREY for group in chart.groups],
        hatch=hatch,
        edgecolor=PAPER,
    )
    numbers = [f"{height:.3g}" if np.isfinite(height) else "none" for height in heights]
    axes.bar_label(drawn, numbers, fontsize=8, padding=1)
