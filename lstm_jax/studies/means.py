"""Means: running ones, those of windows that do not overlap, and of norms over a batch."""

import math

import jax
import numpy as np

from .._typing import Array

__all__ = ["log_rms", "running_means", "window_means"]
__dir__ = __all__.copy


def running_means(values: np.ndarray, width: int) -> np.ndarray:
    """The means over each `width` values in a row, [..., N] -> [..., N - width + 1]."""
    sums = np.cumsum(np.insert(values.astype(np.float64), 0, 0.0, axis=-1), axis=-1)
    return (sums[..., width:] - sums[..., :-width]) / width


def window_means(values: np.ndarray, width: int) -> np.ndarray:
    """The means over each window, [..., N] -> [..., N // width]; the rest is left out."""
    count = values.shape[-1] // width
    windows = values[..., : count * width].reshape(*values.shape[:-1], count, width)
    return windows.astype(np.float64).mean(axis=-1)


def log_rms(norms: Array) -> Array:
    """ln of the root mean square over the batch of norms in nats, by lag: [T, B] -> [T].

    Unlike a mean of logarithms it is finite where units are dead for some examples.
    """
    return jax.nn.logsumexp(2 * norms, axis=1)[::-1] / 2 - math.log(norms.shape[1]) / 2
