"""The figures of S3, clipping and the penalty Omega."""

from typing import Any

import numpy as np

from ...charts import Chart, line
from .regimes import REGIMES, STARTS

__all__ = ["FRESH", "SOLVED", "WINDOW", "draw"]
__dir__ = __all__.copy

WINDOW = 20
"""Updates over which losses and gradient norms are averaged, as the authors' code does."""
FRESH = 10_000
"""Sequences, none of them seen before, over which errors are counted."""
SOLVED = 0.01
"""The task is solved when the share of errors among them is below this."""


def draw(data: dict[str, Any]) -> list[Chart]:
    shortest, longest = data["lengths"]
    task = f"length {longest}" if shortest == longest else f"lengths {shortest} to {longest}"
    return [
        *(_learning(data, n, task) for n in reversed(range(len(STARTS)))),
        _gradients(data),
        _radii(data),
    ]


def _learning(data: dict[str, Any], n: int, task: str) -> Chart:
    start = list(STARTS)[n]
    counts = np.isfinite(np.array(data["solved"][n], float)).sum(axis=-1)  # JSON has no inf.
    runs = len(data["solved"][n][0])
    said = ", ".join(f"{c} by {r}" for c, r in zip(counts, REGIMES, strict=True))
    return Chart(
        f"learning-{start.replace(' ', '-')}",
        f"{start.capitalize()}: of {runs} networks each, {said} solve the task",
        "updates",
        "cross entropy, nats",
        [line(r, data["update"], v) for r, v in zip(REGIMES, data["losses"][n], strict=True)],
        f"Temporal order, {task}. Without memory the loss is ln 4 = 1.386; solved: below "
        f"{SOLVED:.0%} errors in {FRESH:,} fresh sequences.",
    )


def _gradients(data: dict[str, Any]) -> Chart:
    growth = np.median(np.array(data["growth"][2], float), axis=-1)
    said = ", ".join(f"{g:.0f} by {r}" for g, r in zip(growth, REGIMES, strict=True))
    return Chart(
        "gradient",
        f"Smart tanh: the gradient grows with learning, by a factor of {said}",
        "updates",
        "norm of the gradient before clipping",
        [line(r, data["update"], v) for r, v in zip(REGIMES, data["norms"][2], strict=True)],
        f"Factors: the largest mean over {WINDOW} updates, over the first. The lines average "
        "over more.",
        log_y=True,
    )


def _radii(data: dict[str, Any]) -> Chart:
    last = np.median(np.array(data["radii"][2], float)[..., -1], axis=-1)
    said = ", ".join(f"{v:.2f} by {r}" for v, r in zip(last, REGIMES, strict=True))
    return Chart(
        "radius",
        f"Smart tanh: learning brings the spectral radius from 0.95 to {said}",
        "updates",
        "spectral radius of W_hh",
        [line(r, data["probed"], v) for r, v in zip(REGIMES, data["radii"][2], strict=True)],
        "Above 1 a linear network of these weights explodes.",
    )
