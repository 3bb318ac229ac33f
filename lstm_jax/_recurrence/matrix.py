"""The recurrent matmul of any cell as one matrix: recur(W, s) = h @ matrix, h the first leaf of s.

A cell may write `recur` in any way. Its jaxpr shows what it does to h: it must be linear, treat
each row of h (each sequence) alike, and contain a matmul. The matrix is then `recur` of the
identity matrix; where `recur` is a plain matmul, the matrix is simply one of the weights.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._jax import Literal, inner_jaxpr, name_of, needed
from .._numerics import promote
from .._typing import Array, Carry, Params
from .alike import check_alike
from .jaxprs import ROWS, VIEWS, Untranslatable, without_settings


class Form(NamedTuple):
    """Description of `recur` as a matmul of h.

    Attributes:
        u: shape [M] and dtype of u for one sequence.
        leaf: index of the weight that is the matrix; None: the matrix has to be computed.
        rounded: dtype to which h is rounded before the matmul; None: h is not rounded.
    """

    u: Any
    leaf: int | None = None
    rounded: np.dtype | None = None


def form(cell: Any, weights: Params, carry: Carry) -> Form:
    """Describe `cell.recur` as a matmul, for weights and a carry of these shapes and dtypes.

    Args:
        carry: a carry with leaves [*batch, ...].

    Raises:
        Untranslatable: `recur` is not a matmul of h.
    """
    leaves, tree = jax.tree.flatten((weights, carry))
    count, lead = len(jax.tree.leaves(carry)), jax.tree.leaves(carry)[0].ndim - 1
    types = [(leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves]
    types[-count:] = [(shape[lead:], dtype) for shape, dtype in types[-count:]]
    recur = _Recur(cell, tree, tuple(types), count, jnp.result_type(float))
    of = _form(recur)
    _check_for(recur, math.prod(jax.tree.leaves(carry)[0].shape[:-1]))
    return of


def matrix(cell: Any, of: Form, weights: Params, carry: Carry) -> Array | None:
    """Compute the recurrent matrix [R, M] in the dtype of u; None where u has no elements."""
    if not of.u.size:
        return None
    if of.leaf is not None:
        return jax.tree.leaves(weights)[of.leaf].astype(of.u.dtype)
    h, *others = jax.tree.leaves(carry)
    lead, size = h.ndim - 1, h.shape[-1]
    rest = [jnp.zeros((size, *leaf.shape[lead:]), leaf.dtype) for leaf in others]
    states = jax.tree.structure(carry).unflatten([jnp.eye(size, dtype=h.dtype), *rest])
    return cell.recur(weights, states)


class _Recur(NamedTuple):
    """`recur` of a cell for operands of given types; hashable.

    Attributes:
        tree: tree structure of (weights, carry).
        types: shape and dtype of each leaf, those of the carry without batch axes.
        count: number of leaves of the carry.
        widest: for the key of a cache: the jaxpr depends on jax_enable_x64.
    """

    cell: Any
    tree: Any
    types: tuple[tuple[tuple[int, ...], np.dtype], ...]
    count: int
    widest: Any

    def trace(self, rows: int) -> Any:
        """Make its closed jaxpr for `rows` sequences."""
        axes = [()] * (len(self.types) - self.count) + [(rows,)] * self.count
        given = zip(axes, self.types, strict=True)
        arguments = [jax.ShapeDtypeStruct((*a, *shape), dtype) for a, (shape, dtype) in given]
        try:
            with without_settings():
                return jax.make_jaxpr(lambda *x: self.cell.recur(*self.tree.unflatten(x)))(
                    *arguments
                )
        except (TypeError, ValueError) as error:
            # Weights with a mask for each sequence do not fit this batch size.
            raise Untranslatable("its recur is not the same for every sequence") from error


@lru_cache(maxsize=1024)
def _check_for(recur: _Recur, rows: Any) -> None:
    check_alike(_translated(recur), recur.trace, rows, "its recur")


@lru_cache(maxsize=1024)
def _translated(recur: _Recur) -> Any:
    """The closed jaxpr of which the form is read, for ROWS sequences."""
    return recur.trace(ROWS)


@lru_cache(maxsize=1024)
def _form(recur: _Recur) -> Form:
    traced, types, count = _translated(recur), recur.types, recur.count
    if traced.effects:
        raise NO_MATMUL
    u = jax.ShapeDtypeStruct(traced.out_avals[0].shape[1:], traced.out_avals[0].dtype)
    if not math.prod(u.shape):
        return Form(u)
    weights = [Free(k) for k in range(len(types) - count)]
    h = Linear(True, True, False, None, np.dtype(types[-count][1]))
    (seen,) = _walk(traced.jaxpr, [*weights, h, *[OTHER] * (count - 1)])
    if not isinstance(seen, Linear) or not seen.matmul or len(u.shape) != 1:
        raise NO_MATMUL
    return Form(u, seen.leaf, None if seen.dtype == types[-count][1] else seen.dtype)


# ---- kinds of values in the jaxpr ----------------------------------------------------------------
class Free(NamedTuple):
    """A value that all sequences share. leaf: index of the weight that it is, or None."""

    leaf: int | None = None


class Linear(NamedTuple):
    """A value that is linear in h, row by row.

    Attributes:
        whole: True if the value is h itself.
        plain: True if its numbers are numbers of h, rearranged.
        matmul: True if a matmul has been applied.
        leaf: index of the weight that is the matrix, as in `Form`.
        dtype: narrowest dtype that h has been converted to.
    """

    whole: bool
    plain: bool
    matmul: bool
    leaf: int | None
    dtype: np.dtype


OTHER = "another leaf of the carry"
NO_MATMUL = Untranslatable("its recur is not a matmul of h")
LINEAR = (*VIEWS, "neg", "transpose", "reduce_sum")
SUMS = ("add", "add_any", "sub", "concatenate")


def _walk(jaxpr: Any, values: Sequence[Any]) -> list[Any]:
    env = dict(zip(jaxpr.invars, values, strict=True))
    env |= {var: _free(var.aval.shape) for var in jaxpr.constvars}

    def read(atom: Any) -> Any:
        return Free() if isinstance(atom, Literal) else env[atom]

    for eqn in needed(jaxpr):
        inputs, inner = [read(atom) for atom in eqn.invars], inner_jaxpr(eqn)
        if inner is not None and not name_of(eqn).startswith("custom"):
            consts = [_free(np.shape(const)) for const in inner.consts]
            outs = _walk(inner.jaxpr, [*inputs, *consts][-len(inner.jaxpr.invars) :])
        else:
            outs = [_result(eqn, inputs, var.aval) for var in eqn.outvars]
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _free(shape: Sequence[int]) -> Free:
    if ROWS in shape:
        raise Untranslatable("its recur is not the same for every sequence")
    return Free()


def _result(eqn: Any, inputs: list[Any], aval: Any) -> Any:
    """Find the kind of the result of one equation, from the kinds of its inputs."""
    name, found = name_of(eqn), [v for v in inputs if isinstance(v, Linear)]
    if OTHER in inputs:
        raise NO_MATMUL
    if not found:
        return Free() if inputs else _free(aval.shape)
    first, one = found[0], len(found) == 1
    linear = (
        name in LINEAR
        or (name in SUMS and len(found) == len(inputs))
        or (name in ("mul", "dot_general") and one)
        or (name == "div" and one and isinstance(inputs[0], Linear))
    )
    if not linear or not _by_rows(eqn, aval):
        raise NO_MATMUL
    if name == "convert_element_type":
        return _converted(first, np.dtype(aval.dtype))
    if name == "dot_general":
        return first._replace(whole=False, plain=False, matmul=True, leaf=_leaf(eqn, inputs))
    plain = first.plain and name in LINEAR and name not in ("neg", "reduce_sum")
    return first._replace(whole=False, plain=plain, matmul=any(v.matmul for v in found), leaf=None)


def _by_rows(eqn: Any, aval: Any) -> bool:
    """True if the result keeps the batch axis as one axis of its own, separate from all others."""
    if aval.shape.count(ROWS) != 1:
        return False
    if name_of(eqn) != "reshape":
        return True
    before, at = eqn.invars[0].aval.shape, aval.shape.index(ROWS)
    return math.prod(before[: before.index(ROWS)]) == math.prod(aval.shape[:at])


def _converted(value: Linear, dtype: np.dtype) -> Linear:
    """Convert to `dtype`: only numbers of h, not yet computed with, may be rounded."""
    wider = promote(value.dtype, dtype)
    if wider == dtype:
        return value
    if wider != value.dtype or not value.plain or not jnp.issubdtype(dtype, jnp.floating):
        raise Untranslatable(f"its recur rounds to {dtype} on the way")
    return value._replace(dtype=dtype)


def _leaf(eqn: Any, inputs: list[Any]) -> int | None:
    """Return the index of the weight w if the matmul is h @ w, else None."""
    h, w = inputs
    axes = eqn.params["dimension_numbers"]
    if isinstance(h, Linear) and h.whole and axes == (((1,), (0,)), ((), ())):
        return w.leaf
    return None
