"""Drawing of figures as SVG with matplotlib (extra `study`), without changing global state.

Each cell has one colour, variants have others; lines are dashed before training, solid during and
after it, and dotted where they are formulas. Lines are medians over the seeds, bands reach from the
lowest to the highest seed.
"""

from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure as Canvas

from ..charts import Bars, Chart, Figure, Surface, table
from ..charts.figures import Panel
from .bars import draw_bars
from .lines import draw_lines, limits
from .spark import spark
from .surface import draw_surface
from .svg import Drawing, element, inside
from .theme import SIZE, THEME

__all__ = ["Shown", "show", "spark"]
__dir__ = __all__.copy


class Shown(NamedTuple):
    """A figure as a page shows it.

    Attributes:
        stem: the name of its files, without an ending.
        title, caption: its texts.
        panels: an SVG element for each chart.
        files: an SVG of all charts side by side, and a CSV of their numbers, by name.
    """

    stem: str
    title: str
    caption: str
    panels: list[Markup]
    files: dict[str, bytes]


def show(figure: Figure, prefix: str = "") -> Shown:
    """Draw a figure; the same figure gives the same bytes.

    What lies far beyond the other values of a chart is cut, and marked at the edge with its value.
    """
    stem = prefix + figure.name
    charts = [panel for panel in figure.panels if isinstance(panel, Chart)]
    ylim = limits(charts) if figure.level else None
    drawings = [_draw(stem, figure, n, ylim) for n in range(len(figure.panels))]
    said = [drawing.seen for drawing in drawings]
    whole = said[0] if len(said) == 1 else " ".join([f"{figure.title}.", *said])
    files = {
        f"{stem}.svg": element(drawings, whole).encode(),
        f"{stem}.csv": table(*figure.panels).encode(),
    }
    panels = [Markup(element([drawing], drawing.seen)) for drawing in drawings]
    return Shown(stem, figure.title, figure.caption, panels, files)


def _draw(stem: str, figure: Figure, n: int, ylim: tuple[float, float] | None) -> Drawing:
    """Draw one chart of a figure, with its title where it is one of several."""
    panel = figure.panels[n]
    with matplotlib.rc_context(THEME | {"svg.hashsalt": f"{stem} {n}"}):
        canvas = Canvas(figsize=SIZE, layout="constrained")
        beyond = _onto(canvas, panel, panel.title if len(figure.panels) > 1 else "", ylim)
        content, size = inside(canvas)
    said = f" Beyond the axis, marked at its edge: {', '.join(beyond)}." if beyond else ""
    return Drawing(content, size, panel.seen + said)


def _onto(canvas: Canvas, panel: Panel, title: str, ylim: tuple[float, float] | None) -> list[str]:
    """Draw a chart of any kind; return what lies beyond its limits."""
    if isinstance(panel, Chart):
        return draw_lines(canvas, panel, title, ylim)
    if isinstance(panel, Bars):
        draw_bars(canvas, panel, title)
    elif isinstance(panel, Surface):
        draw_surface(canvas, panel, title)
    return []
