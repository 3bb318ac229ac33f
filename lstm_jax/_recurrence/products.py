"""The product x @ w over all steps as a JAX primitive, which an engine may compute itself.

On a CPU, XLA loses much time to copies in products of tall matrices, above all in the gradient of
a weight. As the product is a primitive, the engine is chosen when the program is lowered; its
derivatives are such products again.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._jax import Primitive, checked_as, is_asked, is_zero, set_lowering, set_rules, zero
from .._numerics import at_least_float32, common_dtype, row
from .._typing import Array


def product(x: Array, w: Array, *start: Array) -> Array:
    """Compute x [..., K] @ w [K, M] + start [M] by the primitive; float32 for bfloat16 operands."""
    return product_p.bind(x, w, *start, **BY_ROWS)


def product_tangent(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Compute the tangent of `product`; tangents, and the result, may be symbolic zeros."""
    if all(map(is_zero, tangents)):
        return zero(_type(*map(jax.typeof, primals), **BY_ROWS))
    return _jvp(primals, tangents, **BY_ROWS)[1]


def serves(x: Array, w: Array, sums: Any) -> bool:
    """Check if `product` can compute x @ w, summing in the dtype `sums`.

    It cannot under an explicit mesh: the kernel does not honour sharding in types.
    """
    if w.ndim != 2 or x.dtype != w.dtype or not jax.sharding.get_abstract_mesh().empty:
        return False
    return w.dtype in SERVED and sums == at_least_float32(w.dtype)


SERVED = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(jnp.bfloat16))
BY_ROWS = {"a_axis": 1, "b_axis": 0, "members": 0}
product_p = Primitive("product")
"""Matrix product: out[i, j] = start[j] + sum_k a[i, k] b[k, j].

Sums and result have the operands' common dtype, or float32 for bfloat16. a and b have any number of
axes. Where a_axis (b_axis) is 1, k is the last axis; where it is 0, k stands for all axes but the
last; i and j stand for the remaining axes. (Were the operands reshaped to matrices instead, XLA
could not reuse the memory of the result for later operations.) Where `members` is 1, the first axis
of all operands and of the result enumerates independent products.
"""


def plain_product(
    a: Array, b: Array, *start: Array, a_axis: int, b_axis: int, members: int
) -> Array:
    """Compute the primitive's result by XLA: its definition."""
    if members:
        one = partial(plain_product, a_axis=a_axis, b_axis=b_axis, members=0)
        return jax.vmap(one)(a, b, *start)
    contracted = ((_summed(a, a_axis), _summed(b, b_axis)), ((), ()))
    dtype = sums_dtype(a, b)
    y = lax.dot_general(a, b, contracted, preferred_element_type=dtype)
    return y + row(start[0], y) if start else y


def sums_dtype(a: Array, b: Array) -> np.dtype:
    """Dtype of the sums and of the result."""
    return at_least_float32(common_dtype(a, b))


def _summed(x: Array, axis: int) -> tuple[int, ...]:
    """Axes of `x` that are summed over (k)."""
    return (x.ndim - 1,) if axis else tuple(range(x.ndim - 1))


def _jvp(primals: Any, tangents: Any, **axes: int) -> Any:
    (a, b, *start), (da, db, *dstart) = primals, tangents
    out = product_p.bind(a, b, *start, **axes)
    parts = [] if is_zero(da) else [product_p.bind(da, b, **axes)]
    parts += [] if is_zero(db) else [product_p.bind(a, db, **axes)]
    repeated = jax.vmap(row) if axes["members"] else row
    parts += [repeated(d, out) for d in dstart if not is_zero(d)]
    return out, sum(parts[1:], parts[0])  # JAX calls this only if some tangent is not zero.


def _transpose(ct: Any, a: Any, b: Any, *, a_axis: int, b_axis: int, members: int) -> Any:
    """Cotangent of a or of b, in its own axes and dtype, from the cotangent ct [i, j]."""
    if is_zero(ct):
        return None, None
    if is_asked(a):
        pair = (ct, b, 1, 1 - b_axis) if a_axis else (b, ct, 1 - b_axis, 1)
        of_a = product_p.bind(*pair[:2], a_axis=pair[2], b_axis=pair[3], members=members)
        return of_a.astype(a.aval.dtype), None
    pair = (ct, a, 0, 1 - a_axis) if b_axis else (a, ct, 1 - a_axis, 0)
    of_b = product_p.bind(*pair[:2], a_axis=pair[2], b_axis=pair[3], members=members)
    return None, of_b.astype(b.aval.dtype)


def _batch(values: Any, dims: Any, **axes: int) -> tuple[Array, int]:
    """Apply vmap: a new axis of a or b alone becomes more rows i or columns j of one product.

    Otherwise the new axis enumerates independent products (`members`); nested vmaps fold into one.
    """
    (a, b, *start), (of_a, of_b, *of_start) = values, dims
    size = next(x.shape[d] for x, d in zip(values, dims, strict=True) if d is not None)
    lead = axes["members"]
    if of_b is None and set(of_start) <= {None}:
        if axes["a_axis"]:  # i may stand for any number of axes.
            return product_p.bind(jnp.moveaxis(a, of_a, lead), b, *start, **axes), lead
        a, rows = _beside(a, of_a)
        out = product_p.bind(a, b, *start, **axes)
        return out.reshape(*out.shape[:lead], size, rows, *out.shape[lead + 1 :]), lead
    if of_a is None and of_b is not None and not start:
        b, columns = _below(b, of_b) if axes["b_axis"] else _beside(b, of_b)
        out = product_p.bind(a, b, **axes)  # j must be one axis, or `_transpose` fails.
        return out.reshape(*out.shape[:-1], size, columns), out.ndim - 1
    every = [moved(x, d, 0, size) for x, d in zip(values, dims, strict=True)]
    if not lead:
        return product_p.bind(*every, **(axes | {"members": 1})), 0
    out = product_p.bind(*[_merged(x) for x in every], **axes)
    return out.reshape(size, every[0].shape[1], *out.shape[1:]), 0


def _merged(x: Array) -> Array:
    """Merge the first two axes."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _beside(x: Array, dim: int) -> tuple[Array, int]:
    """Put the N members of x [.., N, .., M] side by side: return ([.., N * M], M)."""
    x = jnp.moveaxis(x, dim, -2)
    *others, size, columns = x.shape
    return x.reshape(*others, size * columns), columns


def _below(x: Array, dim: int) -> tuple[Array, int]:
    """Put the N members of x [.., N, .., M, K] below each other: return ([.., N * M, K], M)."""
    x = jnp.moveaxis(x, dim, -3)
    *others, size, columns, depth = x.shape
    return x.reshape(*others, size * columns, depth), columns


def moved(x: Array, dim: int | None, axis: int, size: int) -> Array:
    """Move the vmapped axis `dim` of x to `axis`; None: repeat x along a new axis there."""
    if dim is not None:
        return jnp.moveaxis(x, dim, axis)
    x = jnp.expand_dims(x, axis)
    return jnp.broadcast_to(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


def _type(*types: Any, **axes: int) -> Any:
    (aval,) = jax.jit(partial(plain_product, **axes)).trace(*types).jaxpr.out_avals
    return aval


product_p.def_impl(jax.jit(plain_product, static_argnames=tuple(BY_ROWS)))
product_p.def_abstract_eval(_type)
set_lowering(product_p, plain_product)
set_rules(product_p, jvp=_jvp, transpose=_transpose, batch=_batch)
checked_as(product_p, plain_product)
