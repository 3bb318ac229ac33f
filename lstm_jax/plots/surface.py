"""Drawing of a function of two variables: its shades are an image, paths over them lines."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ..charts import Surface
from . import axes as drawing
from .theme import DASHES

__all__ = ["draw_surface"]
__dir__ = __all__.copy

_SHADES = colormaps["Greys_r"](np.linspace(0.05, 0.95, 14))
_BRIGHT, _DARK = "#fdfdfd", "#111111"
"""Of paths and legend, on a dark screen too: the shades are the same there."""


def draw_surface(figure: Figure, chart: Surface, title: str) -> None:
    """Draw the shades of the logarithm, with the paths over them."""
    axes = figure.subplots()
    drawing.head(axes, title, chart.x, chart.y)
    axes.grid(visible=False)
    left, right, bottom, top = (*chart.across[[0, -1]], *chart.up[[0, -1]])
    shades = axes.imshow(
        np.log10(np.maximum(chart.values, np.finfo(float).tiny)),
        ListedColormap(_SHADES),
        aspect="auto",
        origin="lower",
        extent=(left, right, bottom, top),
        interpolation="none",  # The file then has one pixel for each value.
    )
    bar = figure.colorbar(shades, ax=axes)
    bar.set_label(f"log10 of {chart.z}")
    for path, dashes in zip(chart.paths, (":", DASHES["trained"]), strict=False):
        x, y = np.clip(path.x, left, right), np.clip(path.middle, bottom, top)
        axes.plot(x, y, color=_BRIGHT, lw=3.5)
        axes.plot(x, y, dashes, color=_DARK, lw=1.8, marker=".", ms=4, label=path.label)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    if chart.paths:
        axes.legend(loc="upper right", frameon=True, facecolor=_BRIGHT, labelcolor=_DARK)
