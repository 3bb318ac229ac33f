"""Charts of bars: a number for each of a few groups, one value per seed."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .lines import middle

__all__ = ["Bars"]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class Bars:
    """A chart of bars, one for each group and series.

    Attributes:
        name: its name in its figure.
        title: what is seen.
        x: what the groups are.
        y: what the height is, with its unit.
        groups: names of the G groups; a cell has its colour.
        series: {name: [S, G], one row per seed, NaN where there is no value}; two at most.
        limits: the lowest and the highest height of the axis; None: by the values.
        log_y: the axis of heights is logarithmic.
        level: (a height to compare with, what it is), or None.
    """

    name: str
    title: str
    x: str
    y: str
    groups: Sequence[str]
    series: Mapping[str, np.ndarray]
    limits: tuple[float | None, float | None] = (None, None)
    log_y: bool = False
    level: tuple[float, str] | None = None

    @property
    def seen(self) -> str:
        """The chart in words, for who cannot see it: medians."""
        said = []
        for name, values in self.series.items():
            each = zip(self.groups, middle(values), strict=True)
            said.append(f"{name}: {', '.join(f'{group} {_number(y)}' for group, y in each)}.")
        beside = f" A line at {_number(self.level[0])}: {self.level[1]}." if self.level else ""
        return f"{self.title}. Bars of {self.y}. {' '.join(said)}{beside}"

    @property
    def rows(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """(series, group, a value for each seed) of every bar."""
        for name, values in self.series.items():
            for group, column in zip(self.groups, values.T, strict=True):
                yield name, group, column


def _number(value: float) -> str:
    """A height with three significant digits, or as "no finite value"."""
    return f"{value:.3g}" if np.isfinite(value) else "no finite value"
