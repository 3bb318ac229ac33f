"""Means over updates: running ones, and those of windows that do not overlap."""

import numpy as np

__all__ = ["running_means", "window_means"]
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
