"""Penalties on a network's outputs: their size, and their change from step to step.

Each is a mean over the valid steps (or pairs of steps) of all sequences, in float32 or wider; 0 if
there is no such step.
"""

from typing import Any

import jax.numpy as jnp

from .._checks import as_array, check_flags, check_floating, fail
from .._numerics import mean_where, norm, zero_unless
from .._typing import Array
from .weights import wide

__all__ = ["activation", "norm_stabilizer", "temporal_activation"]
__dir__ = __all__.copy


def activation(ys: Array, *, mask: Array | None = None) -> Array:
    """Activation regularisation (AR): mean over steps and units of ys^2.

    Args:
        ys: [T, *batch, H], outputs (after dropout, in the paper).
        mask: [T, *batch] bool, True where a step is valid.

    Raises:
        ValueError: shapes that do not fit.

    Source: Merity, McCann & Socher (2017), arXiv 1708.01009.
    """
    ys, valid = _checked(ys, mask)
    return mean_where(valid, jnp.mean(jnp.square(ys), axis=-1))


def temporal_activation(
    ys: Array, *, mask: Array | None = None, resets: Array | None = None
) -> Array:
    """Temporal AR (TAR): mean over pairs of steps and over units of (y_{t+1} - y_t)^2.

    Args:
        ys: [T, *batch, H], outputs (before dropout, in the paper).
        mask: [T, *batch] bool; a pair counts where both of its steps are valid.
        resets: [T, *batch] bool; a pair does not count across a restart.

    Raises:
        ValueError: shapes that do not fit.

    Source: Merity, McCann & Socher (2017), arXiv 1708.01009.
    """
    ys, valid = _checked(ys, mask)
    change = jnp.mean(jnp.square(ys[1:] - ys[:-1]), axis=-1)
    return mean_where(_pairs(valid, resets), change)


def norm_stabilizer(hs: Array, *, mask: Array | None = None, resets: Array | None = None) -> Array:
    """Norm stabiliser: mean over pairs of steps of (||h_{t+1}|| - ||h_t||)^2.

    Arguments as in `temporal_activation`, with hs [T, *batch, H]. The gradient of the norm of a
    zero vector is taken as 0.

    Source: Krueger & Memisevic (2016), arXiv 1511.08400, equation 1.
    """
    hs, valid = _checked(hs, mask)
    norms = norm([hs], hs.ndim - 1)
    return mean_where(_pairs(valid, resets), jnp.square(norms[1:] - norms[:-1]))


def _checked(ys: Array, mask: Array | None) -> tuple[Array, Array]:
    ys = jnp.asarray(as_array("ys", ys))
    check_floating("ys", ys)
    if ys.ndim < 2:
        raise fail("ys", f"shape {ys.shape}", "[T, *batch, H]", "add the missing axes")
    mask = check_flags("mask", mask, ys.shape[:-1], "[T, *batch]")
    valid: Any = jnp.ones(ys.shape[:-1], bool) if mask is None else jnp.asarray(mask)
    return zero_unless(valid, wide(ys)), valid


def _pairs(valid: Array, resets: Array | None) -> Array:
    """Mask of pairs [T - 1, *batch]: steps t and t + 1 are valid, with no restart between them."""
    resets = check_flags("resets", resets, valid.shape, "[T, *batch]")
    pairs = valid[1:] & valid[:-1]
    return pairs if resets is None else pairs & ~jnp.asarray(resets)[1:]
