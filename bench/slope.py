"""Microseconds per time step: a linear fit of the median time of a case in T.

    t(T) = intercept + slope * T        least squares over the measured lengths

The slope is the cost of one more step, the intercept that of a call without steps.
"""

from typing import Any

import numpy as np

from .cases import Case


def slopes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit each program: {case (of the longest T), contender, mode, T, slope_s, intercept_s}."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in (row for row in rows if row["status"] == "ok"):
        shape = tuple(sorted((k, str(v)) for k, v in row["case"].items() if k != "T"))
        groups.setdefault((shape, row["contender"], row["mode"]), []).append(row)
    return [_line(group) for group in groups.values() if len({r["case"]["T"] for r in group}) > 1]


def _line(group: list[dict[str, Any]]) -> dict[str, Any]:
    longest = max(group, key=lambda row: row["case"]["T"])
    lengths = [row["case"]["T"] for row in group]
    slope, intercept = np.polyfit(lengths, [row["median"] for row in group], 1)
    kept = {key: longest[key] for key in ("case", "contender", "mode")}
    return kept | {"T": lengths, "slope_s": float(slope), "intercept_s": float(intercept)}


def text(lines: list[dict[str, Any]]) -> str:
    """Format the fits as a table."""
    rows = [
        f"{line['mode']:6} {line['contender']:20} {1e6 * line['slope_s']:10.3f} us a step "
        f"{1e6 * line['intercept_s']:+12.1f} us  {Case(**line['case'])}"
        for line in lines
    ]
    return "\n".join(["slope and intercept in T", *rows])
