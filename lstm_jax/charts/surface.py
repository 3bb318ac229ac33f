"""Charts of a function of two variables as shades, with paths across it."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from .lines import Line

__all__ = ["Surface"]
__dir__ = __all__.copy


@dataclasses.dataclass(frozen=True)
class Surface:
    """A function of two variables as shades.

    Attributes:
        name: its name in its figure.
        title: what is seen.
        x, y, z: what lies across, up and in the shades, with units.
        across: [N], evenly spaced.
        up: [M], evenly spaced.
        values: [M, N], above 0; the shades are those of their logarithm.
        paths: lines with `x` across and a single row of values up.
    """

    name: str
    title: str
    x: str
    y: str
    z: str
    across: np.ndarray
    up: np.ndarray
    values: np.ndarray
    paths: Sequence[Line] = ()

    @property
    def seen(self) -> str:
        """The chart in words, for who cannot see it."""
        low, high = np.min(self.values), np.max(self.values)
        paths = [f"A path, {path.label}, {_ends(path)}." for path in self.paths]
        shades = f"Shades of {self.z}, {low:.2g} to {high:.2g}, over {self.x} and {self.y}."
        return " ".join([f"{self.title}.", shades, *paths])

    @property
    def rows(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """(what it is and at which height, x, the value) of every point and of the paths."""
        for height, row in zip(self.up, self.values, strict=True):
            for x, value in zip(self.across, row, strict=True):
                yield f"{self.z} at {self.y} {height:.6g}", f"{x:.6g}", np.array([value])
        for path in self.paths:
            for x, y in zip(path.x, path.middle, strict=True):
                yield f"{self.y} of the path, {path.label}", f"{x:.9g}", np.array([y])


def _ends(path: Line) -> str:
    points = zip(path.x[[0, -1]], path.middle[[0, -1]], strict=True)
    start, end = (f"({x:.3g}, {y:.3g})" for x, y in points)
    return f"from {start} to {end}"
