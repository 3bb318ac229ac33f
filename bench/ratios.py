"""Ratios of the contenders of a run: a rival's number over ours, above 1 where we are faster."""

import math
import operator
from collections.abc import Callable
from typing import Any

from . import table
from .cases import Case

Document = dict[str, Any]
Ratios = dict[str, dict[str, float]]
"""Ratios by rival, then by case."""
Quantity = Callable[[dict[str, Any]], Any]
"""A function from a row to a number, or None."""


def modes(document: Document) -> list[str]:
    """Modes that were measured, in order."""
    return list(dict.fromkeys(row["mode"] for row in document["rows"]))


def by_case(document: Document) -> dict[str, table.Rows]:
    """Group the rows by case, in the order of the run."""
    groups: dict[str, table.Rows] = {}
    for row in document["rows"]:
        groups.setdefault(str(Case(**row["case"])), []).append(row)
    return groups


def ratios(
    document: Document, mode: str, quantity: Quantity = operator.itemgetter("median")
) -> Ratios:
    """Ratio of each contender's number to ours, in every case where both have one."""
    found: Ratios = {}
    for case, rows in by_case(document).items():
        ours = table.base(rows, mode)
        for row in rows:
            timed = row["mode"] == mode and row["status"] == "ok" and row is not ours
            if ours and timed and quantity(row) and quantity(ours):
                found.setdefault(row["contender"], {})[case] = quantity(row) / quantity(ours)
    return found


def best_of_jax(document: Document, found: Ratios) -> dict[str, float]:
    """Smallest ratio among the other libraries based on JAX, by case; {} if fewer than two."""
    compiled = {
        row["contender"] for row in document["rows"] if row.get("compile_s") and not row["ours"]
    }
    names = [name for name in found if name in compiled]
    cases = dict.fromkeys(case for name in names for case in found[name])
    least = {case: min(found[n][case] for n in names if case in found[n]) for case in cases}
    return least if len(names) > 1 else {}


def geometric_mean(values: Any) -> float:
    """Geometric mean, exp(mean(log))."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
