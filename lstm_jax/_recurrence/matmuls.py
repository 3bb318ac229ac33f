"""The products in a cell's `project`, as an engine may compute them itself.

What `project` computes is read off its jaxpr. Where it is x @ w plus biases, w and the biases are
data, and an engine may make the product as it goes. Any other (of `SRU`, of `MinimalRNN`, of a
layer-normalised cell, or a user's own) has its matmuls replaced by the primitive `product`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._jax import Literal, inner_jaxpr, jaxpr_as_fun, name_of, needed, with_equations, with_result
from .._typing import Array, Params, Pre
from .products import BY_ROWS, product_p, serves

INLINED = ("pjit", "jit")
"""Calls that are looked into; not those with derivatives of their own."""


def projected(
    project: Callable[[Params, Array], Pre], params: Params, xs: Array
) -> tuple[Pre, tuple[Array, ...] | None]:
    """Return (xs, (w,) or (w, b)) where `project` is x @ w or x @ w + b, else (wx, None)."""
    traced, shapes = jax.make_jaxpr(project, return_shape=True)(params, xs)
    operands, structure = jax.tree.leaves((params, xs)), jax.tree.structure(shapes)
    alone = jax.tree_util.treedef_is_leaf(structure) and not traced.effects
    found = _single_matmul(traced.jaxpr) if alone else None
    if found is not None:
        w, *biases = [_value(traced, var, operands) for var in found]
        return xs, (w, sum(biases[1:], biases[0])) if biases else (w,)
    wx = jaxpr_as_fun(_rewritten(traced))(*operands)
    return structure.unflatten(wx), None


# ---- one matmul ----------------------------------------------------------------------------------
def _single_matmul(jaxpr: Any) -> list[Any] | None:
    """Find the variables [w, *biases] of a jaxpr that is x @ w + biases, x its last argument."""
    made = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    (out,), biases = jaxpr.outvars, []
    eqn = None if isinstance(out, Literal) else made.get(out)
    if eqn is not None and name_of(eqn) == "convert_element_type":
        eqn = None if isinstance(eqn.invars[0], Literal) else made.get(eqn.invars[0])
    while eqn is not None and name_of(eqn) == "add":
        bias, rest = _bias_and_rest(eqn, made)
        if bias is None:
            return None
        biases.insert(0, bias)
        eqn = rest
    if eqn is None or name_of(eqn) != "dot_general" or eqn.invars[0] is not jaxpr.invars[-1]:
        return None
    x, w = eqn.invars
    narrow: Any = out.aval
    served = _is_served(eqn, x.aval, w.aval) and narrow.dtype == w.aval.dtype
    return [w, *biases] if served else None


def _bias_and_rest(eqn: Any, made: dict[Any, Any]) -> tuple[Any, Any]:
    """Return (b, the equation of y) of an equation y + b with b [M] repeated, else (None, None)."""
    for y, repeated in (eqn.invars, eqn.invars[::-1]):
        of = None if isinstance(repeated, Literal) else made.get(repeated)
        if of is not None and name_of(of) == "broadcast_in_dim":
            (vector, *_), shape = of.invars, eqn.outvars[0].aval.shape
            last = of.params["broadcast_dimensions"] == (len(shape) - 1,)
            if last and vector.aval.shape == shape[-1:]:
                return vector, None if isinstance(y, Literal) else made.get(y)
    return None, None


def _value(closed: Any, var: Any, operands: Sequence[Any]) -> Array:
    """Compute one variable of a closed jaxpr, by the equations that it needs."""
    changed = with_result(closed, var)
    return jaxpr_as_fun(with_equations(changed, needed(changed.jaxpr)))(*operands)[0]


# ---- any function --------------------------------------------------------------------------------
def _rewritten(closed: Any) -> Any:
    """Replace the matmuls of a closed jaxpr."""
    return with_equations(closed, [_equation(eqn) for eqn in closed.jaxpr.eqns])


def _equation(eqn: Any) -> Any:
    """Replace one equation, or those in the call that it is."""
    name = eqn.primitive.name
    if name == "dot_general" and _is_served(eqn, *[atom.aval for atom in eqn.invars]):
        return eqn.replace(primitive=product_p, params=BY_ROWS)
    if name in INLINED:
        return eqn.replace(params=eqn.params | {"jaxpr": _rewritten(inner_jaxpr(eqn))})
    return eqn


def _is_served(eqn: Any, x: Any, w: Any) -> bool:
    """Check if the equation is x [..., K] @ w [K, M] with sums of a dtype that `product` has."""
    summed, batched = eqn.params["dimension_numbers"]
    by_rows = [tuple(axes) for axes in (*summed, *batched)] == [(x.ndim - 1,), (0,), (), ()]
    return by_rows and x.ndim > 1 and serves(x, w, eqn.outvars[0].aval.dtype)
