"""Small numerical helpers: dtypes, selection without NaN, zeros that know their neighbours."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._typing import Array, DType


def sigmoid(x: Array) -> Array:
    """sigmoid(x) = (tanh(x/2) + 1) / 2.

    Written with tanh because XLA vectorises a gate block of tanh on CPU several times faster
    than one of exp and divide, and because it never overflows.
    """
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def promote(*dtypes: DType) -> np.dtype:
    """The type that all `dtypes` promote to, by JAX's lattice, whatever the promotion mode."""
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(functools.reduce(jnp.promote_types, dtypes))


def at_least_float32(dtype: DType) -> np.dtype:
    """float32 for floats of 16 bits and less, what float32 and the type promote to otherwise."""
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        return np.dtype(np.float32)  # Those of 8 bits promote to nothing.
    return promote(dtype, np.float32)


def common_dtype(*arrays: Array) -> np.dtype:
    """The type that all arrays promote to."""
    return promote(*map(jnp.result_type, arrays))


def cast(tree: Any, dtype: DType) -> Any:
    """Every leaf of `tree` as `dtype`; None stays None."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def concatenated(arrays: Sequence[Array]) -> Array:
    """Arrays beside each other in the last axis, in the dtype that all promote to."""
    return jnp.concatenate(cast(list(arrays), common_dtype(*arrays)), axis=-1)


def shared(tree: Any) -> Callable[[], Any]:
    """A function that gives `tree` inside a loop over steps, each of which reads it.

    Autodiff sums the cotangents of what a loop reads step by step, in its dtype; here in at least
    float32. In bfloat16 a sum stands still where its terms are below 1/512 of it.
    """
    wide = jax.tree.map(lambda x: x.astype(summable(x.dtype)), tree)
    return lambda: jax.tree.map(lambda x, w: w.astype(x.dtype), tree, wide)


def summable(dtype: DType) -> np.dtype:
    """A dtype to sum many numbers of `dtype` in: float32 for the 16-bit floats, else itself."""
    return at_least_float32(dtype) if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype)


def expand_to(mask: Array, leaf: Array) -> Array:
    """`mask` [*batch] with trailing axes of size one, so that it selects whole rows of `leaf`."""
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))


def multipliable(x: Array, sums: DType) -> Array:
    """`x` as a factor of many products at once with sums of `sums`.

    XLA has no such product of bfloat16 for a CPU; in float32 each product of two numbers is exact,
    so the sums are the same.
    """
    narrow = x.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    return x.astype(sums) if narrow else x


def clipped(x: Array, limit: float) -> Array:
    """x within [-limit, limit], which is a number of x's dtype and never a wider one."""
    limits = jnp.asarray(limit, x.dtype)
    return jnp.clip(x, -limits, limits)


def choose(mask: Array | None, on_true: Any, on_false: Any) -> Any:
    """`where(mask, on_true, on_false)` over pytrees, row by row; no mask means always true."""
    if mask is None:
        return on_true
    return jax.tree.map(lambda a, b: jnp.where(expand_to(mask, a), a, b), on_true, on_false)


def zero_where(mask: Array | None, tree: Any) -> Any:
    """`tree` with the rows where `mask` holds set to zero; no mask means nowhere."""
    if mask is None:
        return tree
    return choose(mask, jax.tree.map(jnp.zeros_like, tree), tree)


def batch_zero(xs: Array, feature_ndim: int) -> Array:
    """Zeros [*batch] that carry the batch's sharding and varying axes.

    xs: [T, *batch, *features]. A sum over no time steps: it is zero whatever xs holds (NaN too),
    and JAX types it like the batch, which a literal zero inside `shard_map` would not be.
    """
    features = tuple(range(xs.ndim - feature_ndim, xs.ndim))
    return jnp.sum(xs[:0], axis=(0, *features))


def varying_as(tree: Any, others: Any) -> Any:
    """`tree`, typed in `shard_map` as varying over the devices over which any of `others` does.

    A loop must begin with the type that it goes on with. By adding a zero: JAX knows how.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    zeros = [_no_sum(leaf) for leaf in jax.tree.leaves(others)]
    return jax.tree.map(lambda leaf: sum((z.astype(leaf.dtype) for z in zeros), leaf), tree)


def _no_sum(leaf: Array) -> Array:
    """A sum over no elements of `leaf`."""
    keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    leaf = jnp.atleast_1d(jax.random.key_data(leaf) if keys else lax.stop_gradient(leaf))
    return jnp.sum(leaf[:0], dtype=np.float32)


def row(vector: Array, like: Array) -> Array:
    """`vector` [N] as `like`'s dtype and repeated to its shape [..., N]."""
    return jnp.broadcast_to(vector.astype(like.dtype), like.shape)


def norm(arrays: Sequence[Array], batch_ndim: int = 0) -> Array:
    """The L2 norm over all but the first `batch_ndim` axes of all arrays together. -> [*batch]

        m = max |x|;   norm = m * sqrt(sum (x/m)^2);   0 if m = 0 and of no arrays

    in float32 or wider. Inf only if an entry is Inf or the norm itself is beyond the dtype; NaN
    only if an entry is. Its derivative is x / norm, and 0 at x = 0.
    """
    m, r = norm_factors(arrays, batch_ndim)
    return jnp.where(jnp.isfinite(m), m * r, m)


def norm_factors(arrays: Sequence[Array], batch_ndim: int = 0) -> tuple[Array, Array]:
    """m, near max |x|, and r = sqrt(sum (x/m)^2): norm = m * r. m is NaN or Inf if some x is."""
    dtype = promote(np.float32, *(at_least_float32(x.dtype) for x in arrays))
    wide = [x.astype(dtype) for x in arrays]
    axes = [tuple(range(batch_ndim, x.ndim)) for x in wide]
    m = jnp.zeros((), dtype)
    for x, axis in zip(wide, axes, strict=True):
        largest = jnp.max(jnp.abs(x), axis=axis, initial=0)
        m = jnp.maximum(jnp.broadcast_to(m, largest.shape), largest)
    # m cancels in m * r, so the derivative need not see it.
    m = _invertible(lax.stop_gradient(m))
    divisor, squares = nonzero(m), jnp.zeros_like(m)
    for x, axis in zip(wide, axes, strict=True):
        ratio = x / jnp.broadcast_to(expand_to(divisor, x), x.shape)
        squares = squares + jnp.sum(jnp.square(ratio), axis=axis)
    return m, safe_sqrt(squares)


def _invertible(m: Array) -> Array:
    """m moved to where 1/m is a normal number, or 0, or not finite.

    XLA divides by a scalar by multiplying with its inverse and counts denormals as 0, so x/m is 0
    for m above 1/tiny; and what is below tiny has norm 0 by the same rule.
    """
    info = jnp.finfo(m.dtype)
    capped = jnp.where(jnp.isfinite(m), jnp.minimum(m, info.max / 8), m)
    return jnp.where(m < info.tiny, 0, capped)


def nonzero(x: Array) -> Array:
    """x, and 1 where it is 0: something to divide by."""
    return jnp.where(x == 0, 1, x)


def safe_sqrt(x: Array) -> Array:
    """sqrt(x), with derivative 0 instead of infinity at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
