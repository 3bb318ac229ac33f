"""Verdicts on claims, by comparisons of measured numbers with bounds, for each seed.

A claim **holds** if every comparison holds for every seed, or for one where the claim is only that
something happens in some network; it is **refuted** if a comparison fails, and **not tested** if
none fails but the condition of one is not met.
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
    "fails refutes it. Where the claim is that something happens in some network, one seed for "
    "which the comparison holds is enough, and the comparison says so. What needs trained networks "
    "is not tested where they did not learn."
)

_WORDS = {"<": "below", ">": "above"}
_RELATIONS: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt}


@dataclasses.dataclass(frozen=True)
class Check:
    """A comparison of a number with a bound, for each seed.

    Attributes:
        quantity: the name of the number.
        values: one value per seed; a single one if nothing is random. NaN, from a diverged run,
            fails.
        relation: "<" or ">".
        bound: the bound, which the values must be below or above.
        unit: the unit of values and bound.
        given: a condition: this check counts for a seed only if `given` holds for that seed.
        asks: in a check used as a condition: what a study needs to meet it, in words.
        every: it must hold for every seed; False: one for which it holds is enough, as for a claim
            that something can happen.
    """

    quantity: str
    values: Sequence[float]
    relation: str
    bound: float
    unit: str = ""
    given: "Check | None" = None
    asks: str = ""
    every: bool = True

    @property
    def holds(self) -> list[bool | None]:
        """The outcome for each seed; None: not tested, as `given` does not hold."""
        compare = _RELATIONS[self.relation]
        tested = [True] * len(self.values) if self.given is None else self.given.holds
        return [
            compare(value, self.bound) if given else None
            for value, given in zip(self.values, tested, strict=True)
        ]

    @property
    def passed(self) -> bool | None:
        """The outcome over the seeds; None: not tested."""
        decides = not self.every
        if decides in self.holds:
            return decides
        return None if None in self.holds else self.every

    @property
    def lacking(self) -> "Check | None":
        """The innermost condition in the chain of `given` that does not hold for every seed."""
        given = self.given
        while given is not None and given.given is not None and not all(given.given.holds):
            given = given.given
        return given

    @property
    def text(self) -> str:
        """The comparison in one line."""
        values = ", ".join(figure(value) for value in self.values)
        unit = f" {self.unit}" if self.unit else ""
        wanted = f"wanted {_WORDS[self.relation]} {figure(self.bound)}{unit}"
        of = "" if self.every else " for at least one seed"
        return f"{self.quantity}: {wanted}{of}; ours {values}"

    @property
    def outcome(self) -> str:
        """The outcome in words, with the numbers of seeds."""
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
        """The check for a report: text and numbers."""
        return {
            "quantity": self.quantity,
            "values": list(self.values),
            "relation": self.relation,
            "bound": self.bound,
            "unit": self.unit,
            "holds": self.holds,
            "passed": self.passed,
            "text": f"{self.text}; {self.outcome}",
        }


def weigh(checks: Sequence[Check], needs: str | None = None) -> dict[str, Any]:
    """Decide one claim: {"verdict", "reason", "needs", "checks"}.

    "reason" has the comparisons that refute it; "needs" is `needs`, or the conditions that the
    untested comparisons lack. Either may be None.
    """
    failed = [check for check in checks if check.passed is False]
    lacking = [check.lacking for check in checks if check.lacking and None in check.holds]
    needs = needs or _needed(lacking)
    return {
        "verdict": "refuted" if failed else "not tested" if needs else "holds",
        "reason": _listed(f"{check.text} ({check.outcome})" for check in failed),
        "needs": needs,
        "checks": [check.describe() for check in checks],
    }


def _needed(lacking: Iterable[Check]) -> str | None:
    """What a study needs, each once, with the conditions that show it in brackets."""
    shown: dict[str, list[str]] = {}
    for check in lacking:
        shown.setdefault(check.asks, []).append(check.text)
    return _listed(f"{asks} ({_listed(texts)})" for asks, texts in shown.items())


def _listed(texts: Iterable[str]) -> str | None:
    return "; ".join(dict.fromkeys(texts)) or None


def figure(value: float) -> str:
    """Format a number with three significant digits; "diverged" if it is not finite."""
    return f"{value:.3g}" if math.isfinite(value) else "diverged"


def median(values: Iterable[float]) -> float:
    """Median over the seeds; NaN if one is NaN."""
    return float(np.median(list(values)))
