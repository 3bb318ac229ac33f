"""Charts of lines with one value per seed."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Chart", "Line", "Point", "counted", "line", "middle"]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: its name; one that begins with the name of a cell has that cell's colour.
        x: [N]; a single one is drawn as a dot.
        values: [S, N], one row per seed, NaN where there is no value.
        theory: the line is a formula, not a measurement.
        untrained: its networks have not learned yet, those of another line or chart have.
    """

    label: str
    x: np.ndarray
    values: np.ndarray
    theory: bool = False
    untrained: bool = False

    @property
    def middle(self) -> np.ndarray:
        """The median over the seeds that have a value, [N]."""
        return middle(self.values)


def middle(table: np.ndarray) -> np.ndarray:
    """Median over the seeds, [S, N] -> [N]; NaN where no seed has a value."""
    known = np.isfinite(table)
    filled = np.where(known.any(axis=0), table, 0.0)
    return np.where(
        known.any(axis=0), np.nanmedian(np.where(np.isinf(filled), np.nan, filled), 0), np.nan
    )


def counted(updates: float) -> str:
    """A number of updates in words: "never" if it is not finite."""
    return f"{updates:.0f}" if np.isfinite(updates) else "never"


def line(label: str, x: Any, values: Any, theory: bool = False, *, untrained: bool = False) -> Line:
    """Make a line; values are [S, N] or [N], with None where JSON had no number."""
    rows = np.array(values, np.float64)  # None becomes NaN.
    return Line(label, np.array(x, np.float64), np.atleast_2d(rows), theory, untrained)


class Point(NamedTuple):
    """A point of a line that a chart marks: "peak" or "low", and where it is."""

    kind: str
    x: float
    y: float

    @property
    def text(self) -> str:
        """The point in words."""
        return f"{self.kind} {self.y:.3g} at {self.x:.4g}"


_STANDS_OUT = 0.3
"""A point stands out that is beyond the ends of its line by this share of the chart's height."""


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of lines.

    Attributes:
        name: the name of its files.
        title: a sentence that says what is seen.
        x, y: what is on the axes, with units.
        lines: the lines.
        caption: how to read it.
        log_x, log_y: the axis is logarithmic.
        ticks: what stands below the x axis at 0, 1, 2, ..., such as the characters of a text.
        whole: the axis holds every median; else what rises far beyond the others is cut.
        formula: what the formulas are, for the legend.
        dots: what lines of a single point are, for the legend.
    """

    name: str
    title: str
    x: str
    y: str
    lines: Sequence[Line]
    caption: str = ""
    log_x: bool = False
    log_y: bool = False
    ticks: Sequence[str] = ()
    whole: bool = True
    formula: str = "formula"
    dots: str = "at the end"

    @property
    def marks(self) -> list[list[Point]]:
        """Of each measured line the highest and the lowest point, if they stand out."""
        heights = [self._heights(line)[1] for line in self.lines]
        every = np.concatenate(heights)
        least = _STANDS_OUT * np.ptp(every) if every.size else 0.0
        return [self._standing_out(line, least) for line in self.lines]

    def _heights(self, line: Line) -> tuple[np.ndarray, np.ndarray]:
        """The points of a line's median that the y axis can show, and how high it shows them."""
        middle = line.middle
        shown = np.flatnonzero(np.isfinite(middle) & ((middle > 0) | (not self.log_y)))
        return shown, np.log(middle[shown]) if self.log_y else middle[shown]

    def _standing_out(self, line: Line, least: float) -> list[Point]:
        shown, heights = self._heights(line)
        if len(shown) < 3 or line.theory:
            return []
        ends = heights[[0, -1]]
        found = []
        for kind, n, beyond in (
            ("peak", shown[heights.argmax()], heights.max() - ends.max()),
            ("low", shown[heights.argmin()], ends.min() - heights.min()),
        ):
            if beyond > least:
                found.append(Point(kind, float(line.x[n]), float(line.middle[n])))
        return found

    @property
    def seen(self) -> str:
        """The chart in words, for who cannot see it."""
        said = [_said(line, marks) for line, marks in zip(self.lines, self.marks, strict=True)]
        return f"{self.title}. Lines of {self.y} against {self.x}. {' '.join(said)}"

    @property
    def rows(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """(line, x, a value for each seed) of every point."""
        for line in self.lines:
            for x, values in zip(line.x, line.values.T, strict=True):
                yield line.label, f"{x:.9g}", values


def _said(line: Line, marks: list[Point]) -> str:
    """The ends of a line in words, and what stands out between them."""
    middle = line.middle
    known = np.flatnonzero(np.isfinite(middle))
    if not known.size:
        return f"{line.label}: no finite value."
    first, last = known[0], known[-1]
    ends = [f"{middle[n]:.3g} at {line.x[n]:.4g}" for n in dict.fromkeys((first, last))]
    return f"{line.label}: {', '.join([' to '.join(ends), *(mark.text for mark in marks)])}."
