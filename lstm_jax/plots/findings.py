"""What the figures of all cells show, each in a sentence for its title."""

from typing import Any

import numpy as np

from ..comparison.claims import LEARNED, scores
from . import axes as drawing
from .about_cells import carried
from .axes import LABELS, Results

__all__ = ["findings"]
__dir__ = __all__.copy


def findings(results: Results) -> dict[str, str]:
    """The title of each figure of `about_cells`, by its name."""
    task = f"the {results['task']['name']} task"
    return {
        "gradient-by-lag-task": _kept(results, "task", task),
        "gradient-by-lag-text": _kept(results, "text", "text"),
        "learning-task": _learned(results, "task", task),
        "learning-text": _learned(results, "text", "text"),
        "clipping": _clipped(results),
    }


def _middle(values: Any) -> float:
    """Median over the seeds; NaN if one has diverged."""
    return float(np.median([np.nan if value is None else value for value in values]))


def _kept(results: Results, problem: str, place: str) -> str:
    """Which cell keeps most of its gradient after training, and which least."""
    tables = {name: carried(cell[problem], "after") for name, cell in results["cells"].items()}
    steps = max(table.shape[1] for table in tables.values()) - 1
    kept = {name: float(drawing.middle(table)[-1]) for name, table in tables.items()}
    known = sorted((name for name in kept if np.isfinite(kept[name])), key=lambda name: -kept[name])
    if not known:
        return f"After training on {place} no gradient is finite"
    most, least = known[0], known[-1]
    said = (
        f"After training on {place} the {LABELS[most]} keeps {drawing.number(kept[most])} of its "
        f"gradient over {steps} steps"
    )
    others = f", the {LABELS[least]} {drawing.number(kept[least])}"
    return said + (others if least != most else "")


def _learned(results: Results, problem: str, place: str) -> str:
    """Which cells learn, and which not."""
    score = {name: _middle(scores(results, name, problem)) for name in results["cells"]}
    learned = [LABELS[name] for name, value in score.items() if value < LEARNED[problem]]
    others = [LABELS[name] for name in score if LABELS[name] not in learned]
    bound = f"{LEARNED[problem]:.0%} of the loss without memory"
    if not learned:
        return f"No cell gets below {bound} on {place}"
    rest = (
        f"; {drawing.listed(others)} {'does' if len(others) == 1 else 'do'} not" if others else ""
    )
    verb = "gets" if len(learned) == 1 else "get"
    return f"{drawing.listed(learned)} {verb} below {bound} on {place}{rest}"


def _clipped(results: Results) -> str:
    """The shares of clipped updates, and the largest gradient over the median one."""
    shares, ratios = [], {}
    for name, cell in results["cells"].items():
        for problem, place in (("task", "the task"), ("text", "text")):
            runs = cell[problem]
            shares.append(_middle(run["clip_rate"] for run in runs))
            ratios[f"the {LABELS[name]} on {place}"] = _middle(
                np.divide(run["gradient_norm_largest"] or np.nan, run["gradient_norm_median"] or 1)
                for run in runs
            )
    known = {who: ratio for who, ratio in ratios.items() if np.isfinite(ratio)}
    low, high = (f"{edge:.0%}" for edge in (min(shares), max(shares)))
    share = low if low == high else f"{low} to {high}"
    if not known:
        return f"{share} of the updates are clipped"
    who = max(known, key=lambda who: known[who])
    return (
        f"{share} of the updates are clipped; the largest gradient of {who} is "
        f"{drawing.number(known[who])} times its median"
    )
