"""Rows of numbers beyond the range of floating point: each row has an exponent of its own.

    x = value * 2^exponent        value: leaves [*rows, ...];   exponent: int32 [*rows]

Scaling by a power of two is exact, so ten thousand steps add no error. A row is a time step of one
sequence; all leaves of a tree share its exponent.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._numerics import at_least_float32, expand_to, norm
from .._typing import Array

_NOTHING = -(2**28)  # Exponent of a row of zeros, below any other and far from overflow.


class Scaled(NamedTuple):
    """The rows value * 2^exponent; value in float32 or wider, at most about one in size."""

    value: Any
    exponent: Array


def scaled(tree: Any, row_ndim: int) -> Scaled:
    """Scale leaves [*rows, ...] with `row_ndim` axes of rows."""
    value = jax.tree.map(lambda leaf: leaf.astype(at_least_float32(leaf.dtype)), tree)
    rows = jax.tree.leaves(tree)[0].shape[:row_ndim]
    return normalized(Scaled(value, jnp.zeros(rows, jnp.int32)))


def normalized(x: Scaled) -> Scaled:
    """Rescale each row to entries of at most one, the largest near it; Inf and NaN stay."""
    exponent = tight(x)
    return Scaled(_times_power(x.value, x.exponent - exponent), exponent)


def tight(x: Scaled) -> Array:
    """The exponent with which the entries of each row are at most one, the largest near it."""
    size = _size(x)
    info = jnp.finfo(size.dtype)
    shift = jnp.frexp(jnp.where(jnp.isnan(size), 1, size))[1]
    shift = jnp.where(jnp.isinf(size), info.maxexp, shift)
    shift = jnp.clip(shift, info.minexp + 2, info.maxexp - 2)  # 2^-shift is a normal number.
    return jnp.where(size == 0, _NOTHING, x.exponent + shift)


def aligned(a: Scaled, b: Scaled) -> tuple[Any, Any, Array]:
    """Bring a, whatever its values, and b, normalized, to one exponent for each row.

    Returns:
        (value of a, value of b, exponent).
    """
    exponent = jnp.maximum(tight(a), b.exponent)
    values = (_times_power(x.value, x.exponent - exponent) for x in (a, b))
    return (*values, exponent)


def added(a: Scaled, b: Scaled) -> Scaled:
    """Compute a + b, leaf by leaf."""
    left, right, exponent = aligned(a, normalized(b))
    return normalized(Scaled(jax.tree.map(jnp.add, left, right), exponent))


def aligned_rows(x: Scaled) -> Scaled:
    """Bring all rows to the largest exponent, a scalar."""
    exponent = jnp.max(x.exponent, initial=_NOTHING)
    return Scaled(_times_power(x.value, x.exponent - exponent), exponent)


def restored(x: Scaled) -> Any:
    """Convert to plain numbers: zero below the range of the dtype, Inf above it."""
    half = x.exponent // 2  # 2^exponent alone may be out of range where the product is not.
    return _times_power(_times_power(x.value, half), x.exponent - half)


def log_norms(x: Scaled) -> Any:
    """ln of the L2 norm of each row, for each leaf: [*rows]; -inf for a row of zeros."""

    def log_norm(leaf: Array) -> Array:
        size = norm([leaf], x.exponent.ndim)
        positive = jnp.where(size == 0, 1, size)
        shift = x.exponent.astype(size.dtype) * np.log(2).astype(size.dtype)
        return jnp.where(size == 0, -jnp.inf, jnp.log(positive) + shift)

    return jax.tree.map(log_norm, x.value)


def _size(x: Scaled) -> Array:
    """The sum of |value| of each row: its largest entry but for a factor of their number.

    It is a matmul, which XLA makes in one pass where it makes a maximum in three.
    """
    rows = x.exponent.shape
    leaves = jax.tree.leaves(x.value)
    flat = [jnp.abs(leaf).reshape(*rows, math.prod(leaf.shape[len(rows) :])) for leaf in leaves]
    sums = [leaf @ jnp.ones(leaf.shape[-1], leaf.dtype) for leaf in flat]
    return sum(sums[1:], sums[0]) if sums else jnp.zeros(rows)


def _times_power(tree: Any, exponent: Array) -> Any:
    """Multiply the rows of leaves [*rows, ...] by 2^exponent; zero below the range of the dtype."""
    return jax.tree.map(lambda leaf: leaf * expand_to(_power(exponent, leaf.dtype), leaf), tree)


def _power(exponent: Array, dtype: Any) -> Array:
    """2^exponent by its bits, as XLA computes `ldexp` by a logarithm; zero below normal numbers.

    It is finite, so that a zero times it is zero.
    """
    info = jnp.finfo(dtype)
    integer = np.int64 if info.bits == 64 else np.int32
    limited = jnp.clip(exponent, info.minexp - 1, info.maxexp - 1).astype(integer)
    return lax.bitcast_convert_type((limited - (info.minexp - 1)) << info.nmant, dtype)
