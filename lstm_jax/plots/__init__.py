"""The figures of a study, drawn with matplotlib (extra `study`).

Each function takes the study's results and returns a `Picture`; nothing global is touched. A colour
stands for a cell and for nothing else; dashed lines are from before training, solid ones from after
it or during it; markers and hatches tell variants of one cell apart. Lines are medians over the
seeds, bands reach from the lowest to the highest.
"""

from typing import Any

import matplotlib

from . import about_cells, about_claims
from .axes import DARK, LABELS, LIGHT, Picture

__all__ = ["DARK", "LABELS", "LIGHT", "Picture", "draw"]
__dir__ = __all__.copy


def draw(results: dict[str, Any], theme: Any = LIGHT) -> dict[str, Picture]:
    """Every figure of a study by name; a claim on cells that were left out has none."""
    with matplotlib.rc_context(theme):
        figures = {name: function(results) for name, function in about_cells.FIGURES.items()}
        for claim in results["claims"]:
            if claim["checks"]:
                number = claim["id"]
                figures[f"claim-{number}"] = about_claims.FIGURES[number](results)
    return figures
