"""What the figures draw from results: values of each seed as tables, and numbers in words."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...charts import CELLS, Chart, Line, line, middle

__all__ = [
    "LAG",
    "Results",
    "by_lag",
    "carried",
    "last",
    "listed",
    "number",
    "of_cells",
    "or_nan",
    "relative",
    "stacked",
]
__dir__ = __all__.copy

LAG = "lag: steps before the last"
NORM = "gradient norm, relative to the last step"

Results = dict[str, Any]


def or_nan(value: float | None) -> float:
    """A number; None, which study.json holds for a diverged run, becomes NaN."""
    return float("nan") if value is None else float(value)


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


def carried(runs: list[Results], when: str) -> np.ndarray:
    """Gradient norms by lag, [S, T], along c of an LSTM, else h."""
    return relative(run[when]["norms"].get("c", run[when]["norms"]["h"]) for run in runs)


def of_cells(results: Results, problem: str, when: str, names: Iterable[str]) -> list[Line]:
    """Lines of the gradient norm against the lag, one for each of these cells."""
    return [
        line(
            CELLS[name] + (", c" if name == "lstm" else ""),
            np.arange(table.shape[1]),
            table,
            untrained=when == "before",
        )
        for name in names
        for table in [carried(results["cells"][name][problem], when)]
    ]


def by_lag(name: str, title: str, lines: list[Line], **options: Any) -> Chart:
    """A chart of gradient norms against the lag."""
    return Chart(name, title, LAG, NORM, lines, log_y=True, **options)


def last(line: Line) -> float:
    """The median of a line at its last point."""
    return float(middle(line.values)[-1])


def listed(parts: Iterable[str]) -> str:
    """Join words as in "a, b and c"."""
    *others, final = parts
    return f"{', '.join(others)} and {final}" if others else final


def number(value: float) -> str:
    """Format a number with two significant digits, or as "no finite value"."""
    return f"{value:.2g}" if np.isfinite(value) else "no finite value"
