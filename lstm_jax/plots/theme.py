"""Colours, markers and dashes, each with one meaning on every page, and matplotlib's settings."""

from typing import Any

from ..charts import CELLS

__all__ = [
    "COLORS",
    "DARK",
    "DASHES",
    "FORMULA",
    "GREY",
    "INK",
    "MARKERS",
    "PALETTE",
    "PAPER",
    "SIZE",
    "THEME",
    "color_of",
]
__dir__ = __all__.copy

COLORS = {
    CELLS["rnn-tanh"]: "#d1495b",
    CELLS["rnn-relu"]: "#c77f00",
    CELLS["lstm"]: "#0b8fa0",
    CELLS["gru"]: "#8a6bd1",
}
"""One colour for each cell, legible on white and on near black."""
PALETTE = ("#3b7dd8", "#d97706", "#2a9d5c", "#c2459a", "#7a6ff0", "#8c6d31")
"""Colours of variants, legible on white and on near black."""
GREY = "#8a919c"
"""What is neither a cell nor a variant."""
MARKERS = "os^Dv"
DASHES = {"untrained": "--", "trained": "-"}
INK, PAPER = "#1f2937", "#ffffff"
"""Colours of text and axes, and of what is behind them."""
DARK = {INK: "#d7dce4", PAPER: "#171b22"}
"""What they become on a dark screen."""
FORMULA: dict[str, Any] = {"ls": ":", "lw": 1.8, "color": INK}
SIZE = (5.0, 3.7)
"""Inches of a chart: a phone shows it at about its own size."""
THEME: Any = {
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
    "svg.fonttype": "none",
}


def color_of(label: str) -> str | None:
    """The colour of the cell that a label begins with; None for others."""
    return next((color for cell, color in COLORS.items() if label.startswith(cell)), None)
