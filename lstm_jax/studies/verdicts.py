"""How a claim is judged: comparisons of measured numbers with bounds, seed by seed.

A claim **holds** if every comparison holds for every seed, it is **refuted** if one of them fails
for one seed, and **not tested** where nothing refutes it but a comparison lacked what it needs.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["RULE", "Check", "figure", "median", "weigh"]
__dir__ = __all__.copy

RULE = (
    "A claim holds if each of its comparisons holds for every seed; one seed for which one of them "
    "fails refutes it. What needs trained networks is not tested where they did not learn."
)

_RELATIONS: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt}


@dataclasses.dataclass(frozen=True)
class Check:
    """A comparison with a bound, of one number a seed.

    Attributes:
        quantity: what the numbers are, in words.
        values: one a seed; a single one where nothing is random. NaN, of a run that diverged, is
            beyond no bound.
        relation: "<" or ">".
        bound: what the values must be below or above.
        unit: of both.
        given: another check, without which this one says nothing: it counts for a seed only where
            `given` holds for that seed.
        asks: what a check that is `given` asks for, in words.
    """

    quantity: str
    values: Sequence[float]
    relation: str
    bound: float
    unit: str = ""
    given: "Check | None" = None
    asks: str = ""

    @property
    def holds(self) -> list[bool | None]:
        """For each seed; None: not tested, as `given` does not hold."""
        compare = _RELATIONS[self.relation]
        tested = [True] * len(self.values) if self.given is None else self.given.holds
        return [
            compare(value, self.bound) if given else None
            for value, given in zip(self.values, tested, strict=True)
        ]

    @property
    def lacking(self) -> "Check | None":
        """The first of the chain of `given` that does not hold for every seed."""
        given = self.given
        while given is not None and given.given is not None and not all(given.given.holds):
            given = given.given
        return given

    @property
    def text(self) -> str:
        """The arithmetic in one line."""
        values = ", ".join(figure(value) for value in self.values)
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.quantity}: {values} {self.relation} {figure(self.bound)}{unit}"

    @property
    def outcome(self) -> str:
        """Whether it holds, and for how many seeds."""
        holds = self.holds
        if len(holds) == 1:
            return {True: "holds", False: "fails", None: "not tested"}[holds[0]]
        found = [
            f"{word} for {holds.count(value)} of {len(holds)} seeds"
            for value, word in ((True, "holds"), (False, "fails"), (None, "not tested"))
            if value in holds
        ]
        return ", ".join(found)

    def describe(self) -> dict[str, Any]:
        """What a report prints, and every number that it rests on."""
        return {
            "quantity": self.quantity,
            "values": list(self.values),
            "relation": self.relation,
            "bound": self.bound,
            "unit": self.unit,
            "holds": self.holds,
            "text": f"{self.text}; {self.outcome}",
        }


def weigh(checks: Sequence[Check], needs: str | None = None) -> dict[str, Any]:
    """{"verdict", "reason", "needs", "checks"} of one claim.

    "reason": the comparisons that refute it; "needs": `needs`, or what those that were not tested
    lack. Either is None where there is none.
    """
    failed = [check for check in checks if False in check.holds]
    lacking = [check.lacking for check in checks if check.lacking and None in check.holds]
    needs = needs or _listed(f"{check.asks}: {check.text} for every seed" for check in lacking)
    return {
        "verdict": "refuted" if failed else "not tested" if needs else "holds",
        "reason": _listed(f"{check.text} ({check.outcome})" for check in failed),
        "needs": needs,
        "checks": [check.describe() for check in checks],
    }


def _listed(texts: Iterable[str]) -> str | None:
    return "; ".join(dict.fromkeys(texts)) or None


def figure(value: float) -> str:
    """Three significant digits; "diverged" for what is not finite."""
    return f"{value:.3g}" if math.isfinite(value) else "diverged"


def median(values: Iterable[float]) -> float:
    """Over the seeds; NaN as soon as one is."""
    return float(np.median(list(values)))
