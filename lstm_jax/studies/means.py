"""What becomes of losses and norms: means over updates, over windows, over a batch; first times."""

import math

import jax
import numpy as np

from .._typing import Array
from ..train import Runs

__all__ = ["log_rms", "running_means", "survived", "updates_until", "window_means"]
__dir__ = __all__.copy


def running_means(values: np.ndarray, width: int) -> np.ndarray:
    """The means over each `width` values in a row, [..., N] -> [..., N - width + 1]."""
    # Not by sums so far, in which one large value would hide all that follow.
    windows = np.lib.stride_tricks.sliding_window_view(values.astype(np.float64), width, axis=-1)
    return windows.mean(axis=-1)


def window_means(values: np.ndarray, width: int) -> np.ndarray:
    """The means over each window, [..., N] -> [..., N // width]; the rest is left out."""
    count = values.shape[-1] // width
    windows = values[..., : count * width].reshape(*values.shape[:-1], count, width)
    return windows.astype(np.float64).mean(axis=-1)


def survived(runs: Runs) -> np.ndarray:
    """The losses of a sweep, [C, S, N], float64; NaN from the update on at which a run diverged."""
    losses = runs.history["loss"].astype(np.float64)
    ended = np.arange(losses.shape[-1]) >= runs.steps_to_divergence[..., None]
    return np.where(ended, np.nan, losses)


def updates_until(reached: np.ndarray, first: int, stride: int = 1) -> np.ndarray:
    """Updates until a mean has reached its bound, [..., N] -> [...]; inf if it never has.

    Args:
        reached: whether each mean has.
        first: updates up to the first mean.
        stride: updates from one mean to the next.
    """
    return np.where(reached.any(-1), first + stride * reached.argmax(-1), np.inf)


def log_rms(norms: Array) -> Array:
    """ln of the root mean square over the batch of norms in nats, by lag: [T, B] -> [T].

    Unlike a mean of logarithms it is finite where units are dead for some examples.
    """
    return jax.nn.logsumexp(2 * norms, axis=1)[::-1] / 2 - math.log(norms.shape[1]) / 2
