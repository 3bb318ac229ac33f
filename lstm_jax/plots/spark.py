"""A chart in the size of a word."""

import html

import numpy as np

from ..charts import Chart, Line
from .lines import styles

__all__ = ["spark"]
__dir__ = __all__.copy

_SPARK = (120, 32)


def spark(chart: Chart) -> str:
    """Draw the medians of a chart's measured lines as a small SVG element for a page."""
    width, height = _SPARK
    pairs = zip(chart.lines, styles(chart), strict=True)
    lines = [(_points(line, chart), style["color"]) for line, style in pairs if not line.theory]
    lines = [(points, color) for points, color in lines if points.size]
    paths = ""
    if lines:
        every = np.concatenate([points for points, _ in lines])
        low, span = every.min(axis=0), np.ptp(every, axis=0)
        for points, color in lines:
            x, y = ((points - low) / np.where(span > 0, span, 1.0)).T
            x, y = 2 + x * (width - 4), height - 2 - y * (height - 4)
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
            paths += f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    label = html.escape(chart.seen)
    about = f'viewBox="0 0 {width} {height}" role="img" aria-label="{label}"'
    return f'<svg class="spark" {about}>{paths}</svg>'


def _points(line: Line, chart: Chart) -> np.ndarray:
    """Points [N, 2] of a median as its chart's axes have them, at most as many as can be seen."""
    x, y = line.x, line.middle
    known = np.isfinite(x) & np.isfinite(y)
    known &= ((x > 0) | (not chart.log_x)) & ((y > 0) | (not chart.log_y))
    x, y = x[known], y[known]
    points = np.stack([np.log(x) if chart.log_x else x, np.log(y) if chart.log_y else y], axis=1)
    return points[:: max(len(points) // (2 * _SPARK[0]), 1)]
