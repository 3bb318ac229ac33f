"""The recurrent matmul of any cell as one matrix: recur(W, s) = h @ matrix, h the first leaf of s.

`recur` is the cell's own. What it does to h is read off its jaxpr: it must be linear, row by row,
with a matmul in it. Then the matrix is what `recur` makes of the identity; where it is a plain
matmul, the matrix is one of the weights.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._jax import Literal, inner_jaxpr, name_of, needed
from ..._typing import Array, Carry, Params
from .jaxprs import VIEWS, Untranslatable, without_devices

ROWS, OTHERS = 65537, 65539
"""Numbers of sequences, which must not tell; an axis of a cell that is as long as one is no other.
"""


class Form(NamedTuple):
    """What `recur` does to h.

    u: the type of u for one sequence, [M].
    leaf: which of the weights is the matrix; None: it has to be computed.
    rounded: the dtype that h is rounded to before the matmul; None: it is not.
    """

    u: Any
    leaf: int | None = None
    rounded: np.dtype | None = None


def form(cell: Any, weights: Params, carry: Carry) -> Form:
    """How `cell.recur` makes u of weights and a carry of these types, leaves [*batch, ...].

    Raises:
        Untranslatable: it is no matmul of h; the message says so.
    """
    leaves, tree = jax.tree.flatten((weights, carry))
    count, lead = len(jax.tree.leaves(carry)), jax.tree.leaves(carry)[0].ndim - 1
    types = [(leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves]
    types[-count:] = [(shape[lead:], dtype) for shape, dtype in types[-count:]]
    return _form(cell, tree, tuple(types), count, jnp.result_type(float))


def matrix(cell: Any, of: Form, weights: Params, carry: Carry) -> Array | None:
    """[R, M] in the dtype of u; None where u has no elements."""
    if not of.u.size:
        return None
    if of.leaf is not None:
        return jax.tree.leaves(weights)[of.leaf].astype(of.u.dtype)
    h, *others = jax.tree.leaves(carry)
    lead, size = h.ndim - 1, h.shape[-1]
    rest = [jnp.zeros((size, *leaf.shape[lead:]), leaf.dtype) for leaf in others]
    states = jax.tree.structure(carry).unflatten([jnp.eye(size, dtype=h.dtype), *rest])
    return cell.recur(weights, states)


def _traced(cell: Any, tree: Any, types: Sequence[Any], count: int, rows: int) -> Any:
    """`cell.recur` of a carry, the last `count` of the types, with so many rows."""
    given = [*types[:-count], *(((rows, *shape), dtype) for shape, dtype in types[-count:])]
    arguments = [jax.ShapeDtypeStruct(*kind) for kind in given]
    with without_devices():
        return jax.make_jaxpr(lambda *leaves: cell.recur(*tree.unflatten(leaves)))(*arguments)


def _text(traced: Any, rows: int) -> tuple[str, list[bytes]]:
    """What is computed, whatever the number of rows. Of numbers "rows" is no part."""
    text = re.sub(rf"(?<![\w.]){rows}(?![\w.:])", "rows", str(traced))
    return text, [np.asarray(c).tobytes() for c in traced.consts]


@lru_cache(maxsize=1024)
def _form(cell: Any, tree: Any, types: Sequence[Any], count: int, widest: Any) -> Form:
    del widest  # float64 where JAX has it, on which the jaxpr depends.
    try:
        traced, other = (_traced(cell, tree, types, count, rows) for rows in (ROWS, OTHERS))
    except (TypeError, ValueError) as error:  # A mask beside the weights, of another batch.
        raise Untranslatable("its recur is not the same for every sequence") from error
    if _text(traced, ROWS) != _text(other, OTHERS):
        raise Untranslatable("its recur looks at the number of sequences")
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
    narrower = seen.dtype.itemsize < np.dtype(types[-count][1]).itemsize
    return Form(u, seen.leaf, seen.dtype if narrower else None)


# ---- what the values of the jaxpr are ------------------------------------------------------------
class Free(NamedTuple):
    """The same for every sequence. leaf: which of the weights it is, None: none of them."""

    leaf: int | None = None


class Linear(NamedTuple):
    """Linear in h, row by row.

    whole: it is h; plain: it is made of numbers of h; matmul: one has been applied to it; leaf: as
    of `Form`; dtype: the narrowest that h has had.
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
    """What one equation makes of its inputs."""
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
    """Whether the axis of the sequences is an axis of the result, with all before it as it was."""
    if aval.shape.count(ROWS) != 1:
        return False
    if name_of(eqn) != "reshape":
        return True
    before, at = eqn.invars[0].aval.shape, aval.shape.index(ROWS)
    return math.prod(before[: before.index(ROWS)]) == math.prod(aval.shape[:at])


def _converted(value: Linear, dtype: np.dtype) -> Linear:
    """Rounded: only h itself may be, before anything is done to it."""
    if dtype.itemsize >= value.dtype.itemsize:
        return value
    if not value.plain or not jnp.issubdtype(dtype, jnp.floating):
        raise Untranslatable(f"its recur rounds to {dtype} on the way")
    return value._replace(dtype=dtype)


def _leaf(eqn: Any, inputs: list[Any]) -> int | None:
    """Which of the weights a matmul h @ w is with."""
    h, w = inputs
    axes = eqn.params["dimension_numbers"]
    if isinstance(h, Linear) and h.whole and axes == (((1,), (0,)), ((), ())):
        return w.leaf
    return None
