"""Rows of numbers beyond the range of floating point: each row has an exponent of its own.

    x = value * 2^exponent        value: leaves [*rows, ...];   exponent: int32 [*rows]

Scaling by a power of two is exact, so ten thousand steps add no error. A row is a time step of one
sequence; all leaves of a tree share its exponent.
"""

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
    """Rescale each row to a largest entry in [1/2, 1); Inf and NaN stay as they are."""
    largest = _largest(x)
    info = jnp.finfo(largest.dtype)
    usable = (largest > 0) & jnp.isfinite(largest)
    shift = jnp.clip(jnp.frexp(jnp.where(usable, largest, 1))[1], info.minexp + 2, info.maxexp - 2)
    exponent = jnp.where(largest == 0, _NOTHING, x.exponent + shift)
    return Scaled(_times_power(x.value, -shift), exponent)


def aligned(a: Scaled, b: Scaled) -> tuple[Any, Any, Array]:
    """Bring a and b to one exponent for each row: (value of a, value of b, exponent)."""
    exponent = jnp.maximum(a.exponent, b.exponent)
    values = (_times_power(x.value, x.exponent - exponent) for x in (a, b))
    return (*values, exponent)


def added(a: Scaled, b: Scaled) -> Scaled:
    """Compute a + b, leaf by leaf."""
    left, right, exponent = aligned(a, b)
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


def _largest(x: Scaled) -> Array:
    """The largest |value| of each row, over all leaves; NaN if there is one."""
    rows = x.exponent.ndim
    each = [
        jnp.max(jnp.abs(leaf), axis=tuple(range(rows, leaf.ndim)), initial=0)
        for leaf in jax.tree.leaves(x.value)
    ]
    each = each or [jnp.zeros(x.exponent.shape)]
    dtype = jnp.result_type(*each)
    return jnp.max(jnp.stack([leaf.astype(dtype) for leaf in each]), axis=0)


def _times_power(tree: Any, exponent: Array) -> Any:
    """Multiply the rows of leaves [*rows, ...] by 2^exponent; zero below the range of the dtype."""
    return jax.tree.map(lambda leaf: leaf * expand_to(_power(exponent, leaf.dtype), leaf), tree)


def _power(exponent: Array, dtype: Any) -> Array:
    """2^exponent by its bits, as XLA computes `ldexp` by a logarithm; zero below normal numbers."""
    info = jnp.finfo(dtype)
    integer = np.int64 if info.bits == 64 else np.int32
    biased = jnp.clip(exponent, info.minexp - 1, info.maxexp).astype(integer) - (info.minexp - 1)
    return lax.bitcast_convert_type(biased << info.nmant, dtype)
