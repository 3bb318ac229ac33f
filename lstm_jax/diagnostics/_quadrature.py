"""Means over Gaussian variables by the dense trapezoid, and roots of functions, in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np

_REACH = 10.0  # Standard deviations; what is beyond weighs 1e-23.
_STEP = 0.4
"""Largest step between values: tanh(a)'s poles are at a distance of pi / 2, so that the error of
its slope, exp(-pi^2 / 0.4) times a power, stays below 1e-7."""


def gaussian(mean: float, variance: float, count: int = 4001) -> np.ndarray:
    """Values of a Gaussian variable, whose weights are those of `mean`: at least `count`, and as
    many as tanh and the logistic function need."""
    return mean + np.sqrt(variance) * nodes(variance, count)


def nodes(variance: float, count: int) -> np.ndarray:
    """Values of a Gaussian variable of variance one, which stands for one of this variance."""
    needed = int(2 * _REACH * np.sqrt(variance) / _STEP) + 1
    return np.linspace(-_REACH, _REACH, max(count, needed))


def mean(values: Any) -> Any:
    """Mean over the last axis, which runs over the values of `gaussian`.

    For analytic functions the trapezoid converges exponentially: its error is about
    exp(-2 pi d / s), for steps of s and poles at a distance d from the real axis.
    """
    nodes = np.linspace(-_REACH, _REACH, np.shape(values)[-1])
    weights = np.exp(-(nodes**2) / 2)
    # Not @, for which BLAS may start threads that then wait for each other.
    return np.einsum("...k,k", values, weights / weights.sum())


def sigmoid(a: Any) -> Any:
    """The logistic function."""
    return 0.5 * np.tanh(0.5 * a) + 0.5


def slope(s: Any) -> Any:
    """Derivative of the logistic function, from its value s."""
    return s * (1 - s)


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """A root between low and high, where the signs of the function differ (Ridders 1979)."""
    at_low, at_high = function(low), function(high)
    if at_low == 0 or at_high == 0:
        return low if at_low == 0 else high
    before = high
    while True:
        middle = (low + high) / 2
        at_middle = function(middle)
        by = np.sqrt(at_middle**2 - at_low * at_high)
        new = middle + (middle - low) * np.sign(at_low - at_high) * at_middle / by
        if abs(new - before) <= 1e-10 * abs(new) or at_middle == 0:
            return float(new)
        at_new, before = function(new), new
        if at_new == 0:
            return float(new)
        if at_middle * at_new < 0:
            ends = (middle, at_middle), (new, at_new)
        elif at_low * at_new < 0:
            ends = (low, at_low), (new, at_new)
        else:
            ends = (new, at_new), (high, at_high)
        (low, at_low), (high, at_high) = sorted(ends)
