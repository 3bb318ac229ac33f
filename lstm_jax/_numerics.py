"""Numerical helpers: dtypes, selection, norms, and zeros that inherit sharding and varying axes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ._typing import Array, DType


def sigmoid(x: Array) -> Array:
    """The logistic function, computed as (tanh(x/2) + 1) / 2.

    On a CPU XLA vectorises tanh several times faster than exp and divide, and tanh cannot overflow.
    """
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def promote(*dtypes: DType) -> np.dtype:
    """The dtype that all `dtypes` promote to by JAX's lattice, also in strict promotion mode."""
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(functools.reduce(jnp.promote_types, dtypes))


def at_least_float32(dtype: DType) -> np.dtype:
    """The dtype float32 for floats of at most 16 bits, else what float32 and `dtype` promote to."""
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        return np.dtype(np.float32)  # Floats of 8 bits promote to nothing.
    return promote(dtype, np.float32)


def common_dtype(*arrays: Array) -> np.dtype:
    """The dtype that all arrays promote to."""
    return promote(*map(jnp.result_type, arrays))


def cast(tree: Any, dtype: DType) -> Any:
    """Convert every leaf of `tree` to `dtype`; None stays None."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def concatenated(arrays: Sequence[Array]) -> Array:
    """Concatenate arrays along the last axis, in the dtype that all promote to."""
    return jnp.concatenate(_split_alike(cast(list(arrays), common_dtype(*arrays))), axis=-1)


def shared(tree: Any) -> Callable[[], Any]:
    """Make `tree` available inside a loop over steps as the result of the returned function.

    Autodiff adds up the cotangents of a loop's constants step by step, in their dtype. Here the sum
    is in at least float32: a bfloat16 sum no longer grows once its terms are below 1/512 of it.
    """
    wide = jax.tree.map(lambda x: x.astype(summable(x.dtype)), tree)
    return lambda: jax.tree.map(lambda x, w: w.astype(x.dtype), tree, wide)


def summable(dtype: DType) -> np.dtype:
    """The dtype for sums of many numbers of `dtype`: float32 for 16-bit floats, else `dtype`."""
    return at_least_float32(dtype) if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype)


def expand_to(mask: Array, leaf: Array) -> Array:
    """Append axes of size one to `mask` [*batch], so that it broadcasts against `leaf`."""
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))


def multipliable(x: Array, sums: DType) -> Array:
    """Convert `x` for a batched matmul with the accumulation dtype `sums`.

    XLA lacks that matmul in bfloat16 on a CPU; in float32 the product of two bfloat16 numbers is
    exact, so the result is the same.
    """
    narrow = x.dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    return x.astype(sums) if narrow else x


def matmul(
    x: Array, w: Array, dtype: DType, biases: Sequence[Array] = (), result: DType | None = None
) -> Array:
    """x [..., K] @ w [K, M] + b, with sums of `dtype`, and the result of it or as `result`."""
    y = jnp.matmul(x, w, preferred_element_type=np.dtype(dtype))
    for b in biases:
        y = y + row(b, y)
    return y.astype(result or dtype)


def clipped(x: Array, limit: float) -> Array:
    """Clip x to [-limit, limit], with the limit converted to x's dtype."""
    limits = jnp.asarray(limit, x.dtype)
    return jnp.clip(x, -limits, limits)


def choose(mask: Array | None, on_true: Any, on_false: Any) -> Any:
    """Select rows of pytrees by mask [*batch]: `where(mask, on_true, on_false)`; None: all True."""
    if mask is None:
        return on_true

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(split_as(expand_to(mask, a), a), a, b)

    return jax.tree.map(pick, on_true, on_false)


def zero_where(mask: Array | None, tree: Any) -> Any:
    """Set the rows of `tree` where `mask` is True to zero; None is all False."""
    if mask is None:
        return tree
    return choose(mask, jax.tree.map(jnp.zeros_like, tree), tree)


def zero_unless(valid: Array | None, tree: Any) -> Any:
    """Set the rows of `tree` where `valid` is False to zero; None: all are valid.

    It uses `where`, so that these rows, NaN included, reach neither values nor derivatives.
    """
    return choose(valid, tree, jax.tree.map(jnp.zeros_like, tree))


def mean_where(valid: Array | None, values: Array) -> Array:
    """Mean over valid elements, sum(valid * values) / max(sum(valid), 1); None: all are valid."""
    if valid is None:
        return jnp.sum(values) / max(values.size, 1)
    # Count in integers: float32 cannot count beyond 2**24.
    count = jnp.maximum(jnp.sum(valid, dtype=jnp.int32), 1)
    return jnp.sum(jnp.where(split_as(valid, values), values, 0)) / count.astype(values.dtype)


def batch_zero(xs: Array, feature_ndim: int) -> Array:
    """Zeros [*batch] that inherit the batch's sharding and varying axes.

    They are the sum of xs [T, *batch, *features] over no time steps: zero even if xs holds NaN, and
    typed like the batch inside `shard_map`, as a literal zero would not be.
    """
    features = tuple(range(xs.ndim - feature_ndim, xs.ndim))
    return jnp.sum(xs[:0], axis=(0, *features))


def varying_as(tree: Any, others: Any) -> Any:
    """Give `tree`, inside `shard_map`, the varying axes of all `others`.

    The initial carry of a loop must have the type of the later ones. Adding a zero computed from
    `others` gives it that type.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    zeros = [_no_sum(leaf) for leaf in jax.tree.leaves(others)]
    return jax.tree.map(lambda leaf: sum((z.astype(leaf.dtype) for z in zeros), leaf), tree)


def _no_sum(leaf: Array) -> Array:
    """A zero computed from `leaf`, as a sum over no elements."""
    keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    leaf = jnp.atleast_1d(jax.random.key_data(leaf) if keys else lax.stop_gradient(leaf))
    return jnp.sum(leaf[:0], dtype=np.float32)


def row(vector: Array, like: Array) -> Array:
    """Broadcast `vector` [N] to the shape [..., N] and dtype of `like`.

    On a mesh with explicit axes it is split as `like` is. A broadcast that all devices hold would
    be split afterwards; the transpose of that gathers the cotangents of all steps on every device.
    """
    return broadcast_as(vector.astype(like.dtype), like)


def has_explicit_axes(mesh: Any) -> bool:
    """True for a mesh with an axis over which the types of arrays say how they are split."""
    return AxisType.Explicit in mesh.axis_types


def broadcast_as(x: Array, like: Array) -> Array:
    """Broadcast `x` to the shape of `like`, and split it as `like` is where axes are explicit."""
    sharding = jax.typeof(like).sharding
    explicit = has_explicit_axes(sharding.mesh)
    return jnp.broadcast_to(x, like.shape, out_sharding=sharding if explicit else None)


def split_as(x: Array, like: Array) -> Array:
    """Broadcast `x` as `broadcast_as` does, however it is split, where axes are explicit.

    There `where` takes no condition that is split otherwise than what it chooses from: a mask that
    all devices hold, outputs that each has a part of. Elsewhere JAX splits by itself.
    """
    sharding = jax.typeof(like).sharding
    if not has_explicit_axes(sharding.mesh):
        return x
    return jax.sharding.reshard(jnp.broadcast_to(x, like.shape), sharding)


def whole_rows(x: Array) -> Array:
    """Give every device whole rows, the last axis of `x`, where axes are explicit.

    An entry of a row is then found without its neighbours; JAX does that by itself elsewhere.
    """
    sharding = jax.typeof(x).sharding
    if not has_explicit_axes(sharding.mesh) or sharding.spec[-1] is None:
        return x
    return jax.sharding.reshard(x, sharding.update(spec=P(*sharding.spec[:-1], None)))


def rows_as(indices: Array) -> Any:
    """How rows that `indices` choose are split: whole, and as these are; None: JAX decides."""
    sharding = jax.typeof(indices).sharding
    if not has_explicit_axes(sharding.mesh):
        return None
    return sharding.update(spec=P(*sharding.spec, None))


def norm(arrays: Sequence[Array], batch_ndim: int = 0) -> Array:
    """L2 norm over all arrays together, over all but the first `batch_ndim` axes. -> [*batch]

        m = max |x|;   norm = m * sqrt(sum (x/m)^2);   0 if m = 0 and of no arrays

    in float32 or wider. Inf only if an entry is Inf or the norm itself is beyond the dtype; NaN
    only if an entry is. Its derivative is x / norm, and 0 at x = 0.
    """
    m, r = norm_factors(arrays, batch_ndim)
    return jnp.where(jnp.isfinite(m), m * r, m)


def norm_factors(arrays: Sequence[Array], batch_ndim: int = 0) -> tuple[Array, Array]:
    """Factors of the norm: m, near max |x|, and r = sqrt(sum (x/m)^2). NaN or Inf in x is in m."""
    dtype = promote(np.float32, *(at_least_float32(x.dtype) for x in arrays))
    wide = [x.astype(dtype) for x in arrays]
    axes = [tuple(range(batch_ndim, x.ndim)) for x in wide]
    m = jnp.zeros((), dtype)
    for x, axis in zip(wide, axes, strict=True):
        largest = jnp.max(jnp.abs(x), axis=axis, initial=0)
        m = jnp.maximum(jnp.broadcast_to(m, largest.shape), largest)
    # m cancels in m * r, so it needs no derivative.
    m = _invertible(lax.stop_gradient(m))
    divisor, squares = nonzero(m), jnp.zeros_like(m)
    for x, axis in zip(wide, axes, strict=True):
        ratio = x / jnp.broadcast_to(expand_to(divisor, x), x.shape)
        squares = squares + jnp.sum(jnp.square(ratio), axis=axis)
    # XLA's maximum loses a NaN on a CPU where it takes several columns at a time; its sum does not.
    lost = lax.stop_gradient(jnp.isnan(squares)) & jnp.isfinite(m)
    return jnp.where(lost, _nan(m), m), safe_sqrt(squares)


def largest(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """The maximum, which is NaN if an entry is; XLA's own loses NaN on a CPU for some shapes."""
    return jnp.where(jnp.any(jnp.isnan(x), axis=axis), _nan(x), jnp.max(x, axis=axis))


def _split_alike(arrays: list[Array]) -> list[Array]:
    """Give every device whole rows where axes are explicit and not all arrays are split alike."""
    shardings = [jax.typeof(x).sharding for x in arrays]
    if not has_explicit_axes(shardings[0].mesh) or len(set(shardings)) == 1:
        return arrays
    leading = zip(*(sharding.spec[:-1] for sharding in shardings), strict=True)
    names = [next(filter(None, axes), None) for axes in leading]
    rows = shardings[0].update(spec=P(*names, None))
    return [jax.sharding.reshard(x, rows) for x in arrays]


def _nan(like: Array) -> Array:
    """NaN in the dtype of `like`: Python's is float64 where that is on."""
    return jnp.asarray(jnp.nan, like.dtype)


def _invertible(m: Array) -> Array:
    """Change m so that 1/m is a normal number, unless m is 0 or not finite.

    XLA divides by a scalar by multiplying with its inverse, and flushes denormals to 0, so x/m
    would be 0 for m above 1/tiny. For the same reason m below tiny counts as 0.
    """
    info = jnp.finfo(m.dtype)
    capped = jnp.where(jnp.isfinite(m), jnp.minimum(m, info.max / 8), m)
    return jnp.where(m < info.tiny, 0, capped)


def nonzero(x: Array) -> Array:
    """Replace zeros of x by 1, to divide by x."""
    return jnp.where(x == 0, 1, x)


def safe_sqrt(x: Array) -> Array:
    """Square root with derivative 0 instead of infinity at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
