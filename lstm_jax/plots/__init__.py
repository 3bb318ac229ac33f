"""The figures of a study, drawn with matplotlib (extra `study`).

Each function takes the study's results and returns a `Picture`, without changing global state. Each
cell has one colour; lines are dashed before training and solid during or after it; markers and
hatches distinguish variants of one cell. Lines are medians over the seeds, bands reach from the
lowest to the highest seed.
"""

from typing import Any

import matplotlib

from . import about_cells, about_claims
from .axes import DARK, LABELS, LIGHT, Picture

__all__ = ["DARK", "LABELS", "LIGHT", "Picture", "draw"]
__dir__ = __all__.copy


def draw(results: dict[str, Any], theme: Any = LIGHT) -> dict[str, Picture]:
    """Draw every figure of a study: {name: Picture}; a claim that was not tested has none."""
    with matplotlib.rc_context(theme):
        figures = {name: function(results) for name, function in about_cells.FIGURES.items()}
        for claim in results["claims"]:
            if claim["checks"]:
                number = claim["id"]
                figures[f"claim-{number}"] = about_claims.FIGURES[number](results)
    return figures
