"""Figures of charts side by side, and their numbers as CSV."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence

from .bars import Bars
from .lines import Chart
from .surface import Surface

__all__ = ["Figure", "alone", "table"]
__dir__ = __all__.copy

Panel = Chart | Bars | Surface


@dataclasses.dataclass(frozen=True)
class Figure:
    """Charts side by side that show one thing.

    Attributes:
        name: the name of its files.
        title: a sentence that says what is seen.
        panels: the charts; a title of one of several says which it is.
        caption: how to read it.
        level: the y axes of its charts of lines have the same limits.
    """

    name: str
    title: str
    panels: Sequence[Panel]
    caption: str = ""
    level: bool = False


def alone(chart: Chart) -> Figure:
    """The figure of a single chart."""
    return Figure(chart.name, chart.title, [chart], chart.caption)


def table(*panels: Panel) -> str:
    """Charts as CSV: line, x, and a column for each seed, in which a formula fills the first.

    Of several charts, the first column says which; it says what the numbers are where they differ.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    alike = len({(panel.x, panel.y) for panel in panels}) == 1
    x, y = (panels[0].x, f"{panels[0].y}, ") if alike else ("x", "")
    lines = [line for panel in panels for line in _lines(panel, alike)]
    runs = max(len(values) for *_, values in lines)
    which = ["panel"] if len(panels) > 1 else []
    writer.writerow([*which, "line", x, *(f"{y}run {n + 1}" for n in range(runs))])
    for of, line, at, values in lines:
        writer.writerow([*([of] if which else []), line, at, *(f"{v:.9g}" for v in values)])
    return buffer.getvalue()


def _lines(panel: Panel, alike: bool) -> Iterator[tuple]:
    """(panel, line, x, values) of every row of a chart."""
    number = panel.z if isinstance(panel, Surface) else panel.y
    of = panel.title if alike else f"{panel.title}: {number}"
    for row in panel.rows:
        yield of, *row
