"""The cliff, for the comparison: its surface, and many descents with and without clipping."""

from typing import Any

import numpy as np

from ..studies.cliff import STARTS, Descent, descend, neighbours, surface
from .jobs import advance_share

__all__ = ["study"]
__dir__ = __all__.copy

DESCENT = 0.45
"""Share of one descent in the cost of this study."""


def study() -> dict[str, Any]:
    """Run the study: the surface, and descents with and without clipping."""
    w, b = np.linspace(3.0, 8.0, 81), np.linspace(-5.0, -1.0, 81)
    starts = np.concatenate([neighbours(start) for start in STARTS])

    def descended(max_norm: float | None) -> dict[str, Any]:
        made = descend(
            max_norm, starts=starts, progress=lambda share: advance_share(DESCENT * share)
        )
        return _numbers(made)

    return {
        "w": w,
        "b": b,
        "surface": surface(w, b),
        "starts": STARTS,
        "plain": descended(None),
        "clipped": descended(1.0),
    }


def _numbers(descent: Descent) -> dict[str, Any]:
    """Statistics over the neighbours of each start; `path` is that of the first, every 20 steps."""
    moves = np.linalg.norm(np.diff(descent.points, axis=1), axis=-1)

    def by_start(values):
        return values.reshape(len(STARTS), -1, *values.shape[1:])

    final = by_start(descent.errors[:, -1])
    return {
        "path": by_start(descent.points[:, ::20])[:, 0],
        "final_error_median": np.median(final, axis=1),
        "share_off_the_minimum": np.mean(final > 0.05, axis=1),
        "largest_step_median": np.median(by_start(moves.max(axis=1)), axis=1),
        "largest_gradient_norm_median": np.median(by_start(descent.norms.max(axis=1)), axis=1),
    }
