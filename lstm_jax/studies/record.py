"""The record of a study: published numbers beside ours, and the verdicts on them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._checks import check_choice
from ..charts import Chart

__all__ = [
    "HARD",
    "HOLDS",
    "KINDS",
    "LEAST_SEEDS",
    "MISSES",
    "PROVENANCE",
    "RULE",
    "SCALES",
    "UNVERIFIED",
    "Anchor",
    "Findings",
    "Setting",
    "Study",
    "verdict_of_study",
]
__dir__ = __all__.copy

HOLDS, MISSES, UNVERIFIED = "HOLDS", "MISSES", "UNVERIFIED"
SCALES = ("ci", "cpu", "gpu")
"""Sizes of a study: a minute, some minutes on two cores, the paper's own."""
LEAST_SEEDS = 3
"""A verdict on fewer seeds would be one on luck."""

PROVENANCE = {
    "V": "read in the paper's own text, code or log",
    "R": "measured by somebody who repeated the experiment",
    "S": "read in another paper's table or abstract",
    "C": "computed, by a formula or, where the source has a figure alone, by an earlier program",
    "M": "remembered, not checked",
}
HARD = "VRC"
"""Provenances that a verdict may rest on; a number of any other is shown, and UNVERIFIED."""

RULE = (
    "An anchor is a published or computed number with a tolerance that was fixed before the "
    "measurement. It HOLDS if ours is within the tolerance for every seed, or in the median over "
    "the seeds where it says so, and MISSES if not. It is UNVERIFIED if the number was not read at "
    "a source or computed, or if this scale or fewer than three seeds cannot tell. A study HOLDS "
    "if an anchor holds and none misses."
)


class _Kind(NamedTuple):
    """How a tolerance is meant: the test (ours, published, tolerance) and its words."""

    accepts: Callable[[float, float, float], bool]
    words: str


KINDS = {
    "absolute": _Kind(lambda x, p, t: abs(x - p) <= t, "{p} \N{PLUS-MINUS SIGN} {t}"),
    "relative": _Kind(
        lambda x, p, t: abs(x - p) <= t * abs(p), "{p} \N{PLUS-MINUS SIGN} {percent} %"
    ),
    "factor": _Kind(lambda x, p, t: p / t <= x <= p * t, "{p} within a factor of {t}"),
    "above": _Kind(lambda x, p, t: x > t, "above {t}"),
    "below": _Kind(lambda x, p, t: x < t, "below {t}"),
}
"""Kinds of anchors; for "above" and "below" the tolerance is the bound itself."""


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A number that a study must reproduce.

    Attributes:
        id: its name in the results.
        quantity: what is measured, in words, with its unit.
        published: the number; None where only an order was published.
        provenance: a letter of `PROVENANCE`.
        kind: one of `KINDS`.
        tolerance: as the kind says.
        source: the paper or formula.
        convention: form of the task, optimiser and whatever else the number depends on.
        median: compare the median over the seeds, not each seed.
        scales: the scales at which it can be tested.
    """

    id: str
    quantity: str
    published: float | None
    provenance: str
    kind: str
    tolerance: float
    source: str
    convention: str = ""
    median: bool = False
    scales: tuple[str, ...] = SCALES

    def __post_init__(self) -> None:
        check_choice("provenance", self.provenance, PROVENANCE)
        check_choice("kind", self.kind, KINDS)

    @property
    def wanted(self) -> str:
        """The values that the anchor accepts, in words."""
        p, t = self.published, self.tolerance
        numbers = {"p": "" if p is None else f"{p:.6g}", "t": f"{t:.6g}"}
        return KINDS[self.kind].words.format(**numbers, percent=f"{100 * t:.6g}")

    def accepts(self, value: float) -> bool:
        """Whether one number is within the tolerance; NaN never is."""
        published = math.nan if self.published is None else self.published
        return bool(KINDS[self.kind].accepts(value, published, self.tolerance))

    def judge(self, values: Sequence[float] | None, scale: str) -> tuple[str, str]:
        """The verdict on one value per seed, and its reason; None: not measured."""
        if self.provenance not in HARD:
            return UNVERIFIED, f"the number was {PROVENANCE[self.provenance]}"
        if scale not in self.scales:
            return UNVERIFIED, f"needs --scale {self.scales[0]}"
        if values is None:
            return UNVERIFIED, "not measured"
        if len(values) < LEAST_SEEDS:
            return UNVERIFIED, f"needs {LEAST_SEEDS} seeds"
        if self.median:
            middle = float(np.median(values))
            return (HOLDS if self.accepts(middle) else MISSES), f"median {middle:.4g}"
        held = sum(map(self.accepts, values))
        return (HOLDS if held == len(values) else MISSES), f"{held} of {len(values)} seeds"


class Setting(NamedTuple):
    """What a study runs with.

    Attributes:
        scale: one of `SCALES`.
        seeds: the random seeds, consecutive.
        path: name -> a file for a sweep, from which an interrupted one goes on; or None.
    """

    scale: str
    seeds: tuple[int, ...]
    path: Callable[[str], Path | None] = lambda name: None


class Findings(NamedTuple):
    """What a study found.

    Attributes:
        measured: {id of an anchor: one number per seed}; an anchor left out was not measured.
        data: everything that the figures need: dicts, lists, numbers, strings, NumPy arrays.
        notes: {quantity: one number per seed}, measured with no published number beside it.
    """

    measured: dict[str, Sequence[float]]
    data: dict[str, Any]
    notes: dict[str, Sequence[float]] = {}


@dataclasses.dataclass(frozen=True)
class Study:
    """An experiment on gradient flow, published before, that can be run here.

    Attributes:
        id: its name in the catalogue, such as "S9".
        title: the title.
        question: what it asks, in a sentence or two.
        anchors: the numbers that it must reproduce.
        run: setting -> what it found.
        draw: `Findings.data`, as read from JSON, -> figures.
        remark: why an anchor misses, where an experiment among the notes has told.
    """

    id: str
    title: str
    question: str
    anchors: tuple[Anchor, ...]
    run: Callable[[Setting], Findings]
    draw: Callable[[dict[str, Any]], Sequence[Chart]]
    remark: str = ""

    def judge(self, findings: Findings, scale: str) -> list[dict[str, Any]]:
        """The anchors with our numbers and verdicts, as JSON has them.

        Raises:
            KeyError: a number was measured that no anchor has asked for.
        """
        unknown = findings.measured.keys() - {anchor.id for anchor in self.anchors}
        if unknown:
            raise KeyError(f"{self.id} measured {sorted(unknown)}, which no anchor asks for")
        judged = []
        for anchor in self.anchors:
            found = findings.measured.get(anchor.id)
            values = None if found is None else [float(value) for value in found]
            verdict, reason = anchor.judge(values, scale)
            ours = {"measured": values, "verdict": verdict, "reason": reason}
            judged.append(dataclasses.asdict(anchor) | {"wanted": anchor.wanted} | ours)
        return judged


def verdict_of_study(anchors: Sequence[Mapping[str, Any]]) -> str:
    """MISSES if an anchor misses, else HOLDS if one holds, else UNVERIFIED."""
    seen = {anchor["verdict"] for anchor in anchors}
    return next((v for v in (MISSES, HOLDS) if v in seen), UNVERIFIED)
