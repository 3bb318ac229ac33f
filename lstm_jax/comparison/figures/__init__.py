"""The figures of the comparison, as data: each says in its title what the numbers show."""

from typing import Any

from ...charts import Figure
from . import about_cells, about_claims, reading

__all__ = ["draw"]
__dir__ = __all__.copy


def draw(results: dict[str, Any]) -> list[Figure]:
    """Every figure of a study's results; a claim that was not tested has none."""
    sentence = reading.figure(results)
    return [
        *(function(results) for function in about_cells.FIGURES),
        *([] if sentence is None else [sentence]),
        *(
            about_claims.FIGURES[claim["id"]](results)
            for claim in results["claims"]
            if claim["checks"]
        ),
    ]
