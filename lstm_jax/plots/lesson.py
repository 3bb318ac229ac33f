"""Numbers and curves of the report's lesson: slopes, powers of a factor, and its two sliders."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["lesson"]
__dir__ = __all__.copy

LAGS = (1, 10, 50, 100)
WIDTH, HEIGHT = 300.0, 150.0
RADII = [round(0.5 + 0.05 * n, 2) for n in range(15)]
BIASES = [round(0.5 * n - 1, 1) for n in range(15)]
STEPS = 100
RADIUS = "Tanh RNN: spectral radius ρ of W (the size of its largest eigenvalue)"
BIAS = "LSTM: forget bias b; the forget gate is σ(b) where the input and h are 0"


def lesson() -> dict[str, Any]:
    """What the template of the lesson shows; every number is computed here."""
    return {
        "slopes": [
            _slopes("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2, -1.05),
            _slopes("σ", _sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x)), -0.05),
        ],
        "lags": LAGS,
        "powers": [
            *[_powers(f"{factor:g}", factor) for factor in (0.5, 0.9, 1.0, 1.1)],
            *[
                _powers(f"forget gate σ({b:g}) = {_sigmoid(b):.3f}", _sigmoid(b))
                for b in (1.0, 5.0)
            ],
        ],
        "sliders": {
            "lags": STEPS,
            "radius": _slider(RADIUS, "ρ = {:g}", RADII, float, 0.9),
            "bias": _slider(
                BIAS, "b = {0:g}, a factor of σ({0:g}) = {1:.3f} a step", BIASES, _sigmoid, 1.0
            ),
        },
    }


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _slopes(name: str, function: Callable, slope: Callable, low: float) -> dict[str, Any]:
    """Curves of a function and of its slope over [-4, 4]."""
    x = np.linspace(-4, 4, 81)

    def curve(values: np.ndarray) -> str:
        return _path(_across(x, -4, 4, 10), HEIGHT - _across(values, low, 1.05, 5))

    largest = float(slope(np.zeros(1))[0])
    return {
        "function": curve(function(x)),
        "slope": curve(slope(x)),
        "zero": round(HEIGHT - float(_across(np.zeros(1), low, 1.05, 5)[0]), 1),
        "largest": f"{largest:g}",
        "seen": f"{name}, dashed, and its slope: {largest:g} at 0, {slope(x)[-1]:.2g} at 4 and −4.",
    }


def _powers(name: str, factor: float) -> dict[str, Any]:
    powers = [factor**lag for lag in LAGS]
    return {"name": name, "powers": [f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in powers]}


def _slider(
    title: str, chosen: str, values: list[float], factor: Callable, start: float
) -> dict[str, Any]:
    """Curves of ln10 of factor^k for each value, and what is left after all steps.

    `chosen` says a value and its factor in words.
    """
    factors = [float(factor(value)) for value in values]
    return {
        "title": title,
        "start": values.index(start),
        "said": [
            f"{chosen.format(value, factor)}: {_left(factor)}"
            for value, factor in zip(values, factors, strict=True)
        ],
        "paths": [_decay(each) for each in factors],
    }


def _left(factor: float) -> str:
    """What a factor leaves after all steps, in words."""
    left = factor**STEPS
    change = f"{left:,.0f} times" if left >= 10 else f"{left:.2g} of"
    return f"after {STEPS} steps {change} the gradient"


def _decay(factor: float) -> str:
    """The line of factor^k over k = 0 .. STEPS, up to a factor of 10^6 either way."""
    rate = math.log10(factor)
    last = min(STEPS, 6 / abs(rate)) if rate else STEPS
    k = np.array([0.0, last])
    return _path(30 + 2.6 * k, 75 - k * rate * 65 / 6)


def _across(values: np.ndarray, low: float, high: float, margin: float) -> np.ndarray:
    """Map [low, high] to the width or height that `margin` leaves."""
    size = WIDTH if margin == 10 else HEIGHT
    return margin + (values - low) / (high - low) * (size - 2 * margin)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """An SVG path through the points."""
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]
    return "M" + "L".join(points)
