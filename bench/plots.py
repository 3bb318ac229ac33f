"""The figure of a comparison, drawn with matplotlib (extra `study`)."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from .ratios import by_case, modes, ratios

COLORS = ("#d1495b", "#00798c", "#edae49", "#5b4b8a", "#2e7d32", "#8d6e63", "#607d8b", "#c2185b")
MARKERS = "osD^vP*X"
LABEL = "their median / ours: right of the line we are faster"


def comparison(document: dict[str, Any]) -> Figure:
    """Plot the ratio of medians by case, with a panel per mode and a mark per rival."""
    measured, cases = modes(document), list(by_case(document))
    size = 3 + 4.2 * len(measured), 1.8 + 0.32 * len(cases)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(measured), squeeze=False, sharey=True)[0]
    names = list(dict.fromkeys(n for mode in measured for n in ratios(document, mode)))
    for axes, mode in zip(panels, measured, strict=True):
        _panel(axes, mode, ratios(document, mode), cases, names)
    panels[0].set_yticks(range(len(cases)), cases, fontsize=8)
    panels[0].set_ylim(len(cases) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel(LABEL, fontsize=9)
    return figure


def _panel(axes: Axes, mode: str, found: Any, cases: list[str], names: list[str]) -> None:
    for n, name in enumerate(names):
        points = found.get(name, {})
        rows = [row for row, case in enumerate(cases) if case in points]
        look: Any = {"marker": MARKERS[n % len(MARKERS)], "color": COLORS[n % len(COLORS)]}
        axes.plot(
            [points[cases[r]] for r in rows], rows, linestyle="", alpha=0.85, label=name, **look
        )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.8), max(high, 1.25))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.axvspan(axes.get_xlim()[0], 1.0, color="#d1495b", alpha=0.07)
    axes.grid(alpha=0.25)
    axes.set_title(mode, loc="left", fontweight="bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
