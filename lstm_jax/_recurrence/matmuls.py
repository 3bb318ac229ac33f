"""The matmuls inside a function, replaced by the primitive `product`.

A `project` that is more than one matmul (of `SRU`, of `MinimalRNN`, of a layer-normalised cell, or
a user's own) spends its time in products over all steps, which an engine may compute itself.
"""

from collections.abc import Callable
from typing import Any

import jax

from .._jax import inner_jaxpr, jaxpr_as_fun, with_equations
from .products import BY_ROWS, product_p, serves

INLINED = ("pjit", "jit", "closed_call")
"""Calls that are looked into; not those with derivatives of their own."""


def by_products(function: Callable[..., Any], *operands: Any) -> Any:
    """Compute `function` of operands, each x [..., K] @ w [K, M] in it by `product`."""
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*operands)
    outs = jaxpr_as_fun(_rewritten(traced))(*jax.tree.leaves(operands))
    return jax.tree.structure(shapes).unflatten(outs)


def _rewritten(closed: Any) -> Any:
    """Replace the matmuls of a closed jaxpr."""
    return with_equations(closed, [_equation(eqn) for eqn in closed.jaxpr.eqns])


def _equation(eqn: Any) -> Any:
    """Replace one equation, or those in the call that it is."""
    name = eqn.primitive.name
    if name == "dot_general" and _is_served(eqn, *[atom.aval for atom in eqn.invars]):
        return eqn.replace(primitive=product_p, params=BY_ROWS)
    if name in INLINED and "jaxpr" in eqn.params:
        return eqn.replace(params=eqn.params | {"jaxpr": _rewritten(inner_jaxpr(eqn))})
    return eqn


def _is_served(eqn: Any, x: Any, w: Any) -> bool:
    """Check if the equation is x [..., K] @ w [K, M] with sums of a dtype that `product` has."""
    summed, batched = eqn.params["dimension_numbers"]
    by_rows = [tuple(axes) for axes in (*summed, *batched)] == [(x.ndim - 1,), (0,), (), ()]
    return by_rows and x.ndim > 1 and serves(x, w, eqn.outvars[0].aval.dtype)
