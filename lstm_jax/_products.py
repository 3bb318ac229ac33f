"""x @ w of all time steps at once, by XLA or, where the kernel of the CPU was asked for, by it.

XLA's own products of tall matrices lose much time to copies (the gradient of a weight, most), so
the kernel brings its own. A product of matrices is a primitive here, so that it can be replaced at
the very end; its derivatives are such products again.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._jax import Primitive, checked_as, is_asked, is_zero, set_lowering, set_rules, zero
from ._numerics import at_least_float32, common_dtype, row
from ._typing import Array

Made = list[tuple[Array, tuple[Array, ...]]]
_by_kernel = contextvars.ContextVar[Made | None]("by_kernel", default=None)


@contextlib.contextmanager
def by_kernel(yes: bool) -> Iterator[Made]:
    """Within it, `matmul` binds the primitive, which a CPU's kernel computes.

    Yields a list of what was made, with the operands of `product` for each: who can make it
    himself leaves the result alone, and nobody computes it.
    """
    made: Made = []
    token = _by_kernel.set(made if yes else None)
    try:
        yield made
    finally:
        _by_kernel.reset(token)


def matmul(
    x: Array, w: Array, dtype: Any, biases: Sequence[Array] = (), result: Any = None
) -> Array:
    """x [..., K] @ w [K, M] + b, with sums of `dtype`, and the result of it or as `result`."""
    result, made = result or dtype, _by_kernel.get()
    if made is not None and _serves(x, w, dtype):
        operands = (x, w, *([sum(biases[1:], biases[0]).astype(dtype)] if biases else []))
        made.append((product(*operands).astype(result), operands))
        return made[-1][0]
    y = jnp.matmul(x, w, preferred_element_type=dtype)
    for b in biases:
        y = y + row(b, y)
    return y.astype(result)


def product(x: Array, w: Array, *start: Array) -> Array:
    """x [..., K] @ w [K, M] + start [M], as the primitive; of bfloat16 in float32."""
    return product_p.bind(x, w, *start, **BY_ROWS)


def product_tangent(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The tangent of `product`; tangents, and the result, may be symbolic zeros."""
    if all(map(is_zero, tangents)):
        return zero(_type(*map(jax.typeof, primals), **BY_ROWS))
    return _jvp(primals, tangents, **BY_ROWS)[1]


def _serves(x: Array, w: Array, dtype: Any) -> bool:
    """Whether the kernel may have it: where devices share arrays, types say more than shapes."""
    if w.ndim != 2 or x.dtype != w.dtype or not jax.sharding.get_abstract_mesh().empty:
        return False
    return w.dtype in SERVED and dtype == at_least_float32(w.dtype)


SERVED = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(jnp.bfloat16))
BY_ROWS = {"a_axis": 1, "b_axis": 0, "members": 0}
product_p = Primitive("product")
"""out[i, j] = start[j] + sum_k a[i, k] b[k, j].

Sums and result are of the operands' common dtype, or of float32 for bfloat16. a and b have any
number of axes: k is the last one where a_axis (b_axis) is 1, and where it is 0 all
but the last; i and j are the others. Reshaping them instead would keep XLA from letting what
follows work in the result's place. Where `members` is 1, the first axis of all operands and of the
result counts products.
"""


def plain_product(
    a: Array, b: Array, *start: Array, a_axis: int, b_axis: int, members: int
) -> Array:
    """What the primitive computes, as XLA does it."""
    if members:
        one = partial(plain_product, a_axis=a_axis, b_axis=b_axis, members=0)
        return jax.vmap(one)(a, b, *start)
    contracted = ((_summed(a, a_axis), _summed(b, b_axis)), ((), ()))
    dtype = sums_dtype(a, b)
    y = lax.dot_general(a, b, contracted, preferred_element_type=dtype)
    return y + row(start[0], y) if start else y


def sums_dtype(a: Array, b: Array) -> np.dtype:
    """The dtype of the sums, and of the result."""
    return at_least_float32(common_dtype(a, b))


def _summed(x: Array, axis: int) -> tuple[int, ...]:
    """The axes that are k."""
    return (x.ndim - 1,) if axis else tuple(range(x.ndim - 1))


def _jvp(primals: Any, tangents: Any, **axes: int) -> Any:
    (a, b, *start), (da, db, *dstart) = primals, tangents
    out = product_p.bind(a, b, *start, **axes)
    parts = [] if is_zero(da) else [product_p.bind(da, b, **axes)]
    parts += [] if is_zero(db) else [product_p.bind(a, db, **axes)]
    repeated = jax.vmap(row) if axes["members"] else row
    parts += [repeated(d, out) for d in dstart if not is_zero(d)]
    return out, sum(parts[1:], parts[0])  # One at least is not zero, or JAX would not ask.


def _transpose(ct: Any, a: Any, b: Any, *, a_axis: int, b_axis: int, members: int) -> Any:
    """ct is [i, j]; what comes out has the axes and the dtype of the operand that was asked for."""
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
    """Where a or b alone has the new axis, that is more rows or columns of the same products, or
    else of products of their own; members of members are members."""
    (a, b, *start), (of_a, of_b, *of_start) = values, dims
    size = next(x.shape[d] for x, d in zip(values, dims, strict=True) if d is not None)
    lead = axes["members"]
    if of_b is None and set(of_start) <= {None}:
        if axes["a_axis"]:  # Rows may have any number of axes.
            return product_p.bind(jnp.moveaxis(a, of_a, lead), b, *start, **axes), lead
        a, rows = _beside(a, of_a)
        out = product_p.bind(a, b, *start, **axes)
        return out.reshape(*out.shape[:lead], size, rows, *out.shape[lead + 1 :]), lead
    if of_a is None and of_b is not None and not start:
        b, columns = _below(b, of_b) if axes["b_axis"] else _beside(b, of_b)
        out = product_p.bind(a, b, **axes)  # Columns have one axis, or there is no transpose.
        return out.reshape(*out.shape[:-1], size, columns), out.ndim - 1
    every = [moved(x, d, 0, size) for x, d in zip(values, dims, strict=True)]
    if not lead:
        return product_p.bind(*every, **(axes | {"members": 1})), 0
    out = product_p.bind(*[_merged(x) for x in every], **axes)
    return out.reshape(size, every[0].shape[1], *out.shape[1:]), 0


def _merged(x: Array) -> Array:
    """The first two axes as one."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _beside(x: Array, dim: int) -> tuple[Array, int]:
    """The members of x [.., N, .., M] beside each other in the last axis, [.., N * M]; and M."""
    x = jnp.moveaxis(x, dim, -2)
    *others, size, columns = x.shape
    return x.reshape(*others, size * columns), columns


def _below(x: Array, dim: int) -> tuple[Array, int]:
    """The members of x [.., N, .., M, K] below each other, [.., N * M, K]; and M."""
    x = jnp.moveaxis(x, dim, -3)
    *others, size, columns, depth = x.shape
    return x.reshape(*others, size * columns, depth), columns


def moved(x: Array, dim: int | None, axis: int, size: int) -> Array:
    """`x` with its batch axis at `axis`; repeated along a new one where it has none."""
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
