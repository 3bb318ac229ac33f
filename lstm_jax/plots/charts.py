"""Drawing of a study's charts as SVG: medians over the seeds with bands, formulas dashed."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..studies.charts import Chart
from .axes import GREY, LIGHT, MARKERS, band, ink

__all__ = ["PALETTE", "svg"]
__dir__ = __all__.copy

PALETTE = ("#3b7dd8", "#d97706", "#2a9d5c", "#c2459a", "#7a6ff0", "#8c6d31")
"""Colours of variants, legible on white and on near black; the cells have colours of their own."""
_MARKS = 8
"""Markers on a line; a line with fewer points has one on each."""


def svg(chart: Chart, theme: Any = LIGHT) -> bytes:
    """Draw a chart; the same chart gives the same bytes."""
    settings = {"svg.hashsalt": chart.name, "svg.fonttype": "path"}
    with matplotlib.rc_context(theme | settings):
        figure = Figure(figsize=(5.0, 3.7), layout="constrained")
        axes = figure.subplots()
        if chart.log_x:
            axes.set_xscale("log")
        if chart.log_y:
            axes.set_yscale("log")
        for n, line in enumerate(chart.lines):
            color = PALETTE[n % len(PALETTE)]
            if line.theory:
                axes.plot(line.x, line.middle, ls="--", lw=1.4, color=ink())
                continue
            every = max(len(line.x) // _MARKS, 1)
            style = {"color": color, "marker": MARKERS[n % len(MARKERS)], "markevery": every}
            band(axes, line.x, line.values, line.label, **style)
        if any(line.values.min() < 0 < line.values.max() for line in chart.lines):
            axes.axhline(0.0, color=GREY, lw=0.8)
        if any(line.theory for line in chart.lines):
            axes.plot([], [], ls="--", lw=1.4, color=ink(), label="formula")
        axes.set_xlabel(chart.x)
        axes.set_ylabel(chart.y)
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
