"""Helpers of the figures: themes, panels, lines with bands, limits robust to outliers."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..charts import middle

__all__ = [
    "COLORS",
    "DARK",
    "GREY",
    "LABELS",
    "LAG",
    "LIGHT",
    "MARKERS",
    "NORM",
    "STYLES",
    "Drawn",
    "Picture",
    "Results",
    "band",
    "ink",
    "legend_above",
    "limit",
    "listed",
    "middle",
    "number",
    "panels",
    "relative",
    "stacked",
]
__dir__ = __all__.copy

COLORS = {"rnn-tanh": "#d1495b", "rnn-relu": "#c77f00", "lstm": "#0b8fa0", "gru": "#8a6bd1"}
"""One colour for each cell, legible on white and on near black."""
LABELS = {"rnn-tanh": "tanh RNN", "rnn-relu": "ReLU RNN", "lstm": "LSTM", "gru": "GRU"}
GREY = "#8a919c"
MARKERS = "os^Dv"
STYLES = {"before": "--", "after": "-"}
LIGHT: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
}
_INK, _PAPER = "#d7dce4", "#171b22"
DARK: Any = LIGHT | {
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "savefig.facecolor": _PAPER,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "hatch.color": _PAPER,
}
LAG = "lag: steps before the last"
NORM = "gradient norm, relative to the last step"

Results = dict[str, Any]
_TAIL = 0.05
"""Share of the values, on each side, that may lie beyond the limits of an axis."""


class Picture(NamedTuple):
    """A figure of equally wide panels side by side.

    Attributes:
        figure: the figure.
        seen: a description of each panel in words."""

    figure: Figure
    seen: tuple[str, ...]


def panels(count: int = 1, height: float = 4.2) -> tuple[Figure, list[Any]]:
    """Make a figure and the axes of its panels, each in its own subfigure, to be cut apart."""
    # A phone has 400 pixels for a panel.
    figure = Figure(figsize=(6.4 if count == 1 else 5.5 * count, height), layout="constrained")
    parts = figure.subfigures(1, count, squeeze=False)[0]
    return figure, [part.subplots() for part in parts]


def ink() -> str:
    """The colour of text in the current theme."""
    return matplotlib.rcParams["text.color"]


def stacked(values: Iterable[Any]) -> np.ndarray:
    """Stack sequences, one per seed, as [S, N] float64; None becomes NaN."""
    return np.array([np.asarray(of_seed, np.float64) for of_seed in values])


def relative(norms: Iterable[Any]) -> np.ndarray:
    """Divide norms by lag, one sequence per seed, by the first finite norm of each: [S, T].

    That is the norm at lag 0, or at lag 1 for c, which has no gradient at lag 0.
    """
    table = stacked(norms)
    firsts = [row[np.isfinite(row)][:1] for row in table]
    return table / np.array([first[0] if first.size else np.nan for first in firsts])[:, None]


def band(axes: Axes, x: Any, table: np.ndarray, label: str | None, **style: Any) -> None:
    """Plot the median of [S, N] as a line, and the range of the seeds as a band."""
    known = np.isfinite(table)
    low = np.where(known, table, np.inf).min(axis=0)
    high = np.where(known, table, -np.inf).max(axis=0)
    axes.plot(x, middle(table), label=label, **style)
    if len(table) > 1:
        shown = {"color": style.get("color"), "alpha": 0.18, "lw": 0}
        axes.fill_between(x, low, high, where=np.isfinite(low), **shown)


Drawn = list[tuple[np.ndarray, np.ndarray, str]]
"""Lines of a panel: (x [N], values [S, N], colour) each."""


def limit(axes: Axes, drawn: Drawn, beside: Drawn | None = None, whole: bool = False) -> list[str]:
    """Set y limits by the bulk of the values, and mark each extreme of a line beyond them.

    The bulk are the values without the highest and the lowest 5 %. Values farther from it than its
    height, on the scale of the axis, do not set the limits.

    Args:
        axes: the axes.
        drawn: the lines of these axes.
        beside: lines of other axes that shall have the same limits.
        whole: the medians are within the limits, whatever the bulk is.

    Returns:
        The texts of the marks.
    """
    log = axes.get_yscale() == "log"
    scale, unscale = (np.log, np.exp) if log else (np.asarray, np.asarray)

    def heights_of(values: np.ndarray) -> np.ndarray:
        return scale(values[np.isfinite(values) & ((values > 0) | (not log))])

    tables = [table for _, table, _ in [*drawn, *(beside or [])]]
    heights = heights_of(np.concatenate([table.ravel() for table in tables]))
    if not heights.size:
        return []
    low, high = np.quantile(heights, [_TAIL, 1 - _TAIL])
    reach = high - low + 0.1 * (1.0 if log else max(abs(low), abs(high)))
    near = heights[(heights >= low - reach) & (heights <= high + reach)]
    if whole:
        near = np.concatenate([near, *(heights_of(middle(table)) for table in tables)])
    bottom, top = near.min(), near.max()
    pad = 0.05 * (top - bottom) + 1e-6
    bottom, top = float(unscale(bottom - pad)), float(unscale(top + pad))
    axes.set_ylim(bottom, top)
    found = [_mark(axes, line, edge) for line in drawn for edge in (bottom, top)]
    return [text for text in found if text]


def _mark(axes: Axes, line: tuple[np.ndarray, np.ndarray, str], edge: float) -> str | None:
    """Mark the extreme of a line with its value if it lies beyond that edge of the axes."""
    x, table, color = line
    highest = edge == axes.get_ylim()[1]
    known = np.where(np.isfinite(table), table, -np.inf if highest else np.inf)
    place = known.argmax() if highest else known.argmin()
    extreme = float(known.flat[place])
    if not np.isfinite(extreme) or (extreme <= edge if highest else extreme >= edge):
        return None
    at = float(x[place % len(x)])
    side = (at - x[0]) / max(x[-1] - x[0], 1)
    text = f"{'peak' if highest else 'low'} {extreme:.2g}"
    axes.annotate(
        f"{'▲' if highest else '▼'} {text}",
        (at, 0.985 if highest else 0.015),
        xycoords=("data", "axes fraction"),
        va="top" if highest else "bottom",
        ha="left" if side < 0.2 else "right" if side > 0.8 else "center",
        color=color,
        fontsize=9,
    )
    return text


def legend_above(axes: Axes, columns: int = 2) -> None:
    """Put the legend above the axes, for bars that fill them."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns)


def listed(parts: Iterable[str]) -> str:
    """Join words as in "a, b and c"."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def number(value: float) -> str:
    """Format a number with two significant digits, or as "no finite value"."""
    return f"{value:.2g}" if np.isfinite(value) else "no finite value"
