"""Differentiation rules: the derivatives of the primitives are the primitives again.

    d run               linearized, of dp_t = (dwx_t, recur(dW, r_t)) for all t at once
    linearized^T        transposed
    transposed^T        linearized
    d linearized,       autodiff of their functions
    d transposed

A tangent or cotangent may be a symbolic zero, which becomes an array where a function needs one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress, repeat
from typing import Any

import jax
import jax.numpy as jnp

from ..._jax import Primitive, dense, is_asked, is_zero, set_rules
from ..._typing import Array, Carry, Params, Pre
from .. import equations
from ..engines import engine_of
from ..equations import Operands, Outputs, Ran, Residuals, Tangents
from ..products import product_tangent
from ..spec import Recurrence
from . import weights
from .binding import Static, bind, evaluate, linearized_p, out_structure, run_p, transposed_p
from .named import run_by


# ---- symbolic zeros ------------------------------------------------------------------------------
def _dense(tangents: Any) -> Any:
    """Replace symbolic zeros in `tangents` by arrays of zeros."""
    return _map(dense, tangents)


def _map(function: Callable[[Any], Any], tangents: Any) -> Any:
    """Map over leaves, counting symbolic zeros, which JAX takes for nodes without leaves."""
    return jax.tree.map(function, tangents, is_leaf=is_zero)


# ---- derivative of the recurrence ----------------------------------------------------------------
def _run_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, static: Static
) -> tuple[list[Array], list[Array]]:
    """Differentiate the recurrence: run it, then bind its linearisation at the result."""
    kept, static = static.kept or repeat(True), static._replace(kept=None)
    (ops,), (dops,) = static.tree.unflatten(primals), static.tree.unflatten(tangents)
    ops, dwx = _projected(static.recurrence, ops, dops)
    outs = bind(run_p, static, ops)
    res = _residuals(static.recurrence, ops, outs)
    previous = equations.previous_carries(res, static.reverse)
    dpre = _dpre(static, res, previous, _dense(dwx), dops.weights)
    given = Tangents(_dense(dops.extras), _dense(dops.carry), _dense(dops.origin), dpre)
    douts = bind(linearized_p, static, res, given)
    # A first derivative does not use the tangent of u, so jit removes it.
    du = _du(static, res, previous, given, douts.carries)
    both = outs, Ran(douts.final, douts.carries, du)
    values, slopes = (list(compress(jax.tree.leaves(each), kept)) for each in both)
    return values, slopes


def _projected(cell: Recurrence, ops: Operands, dops: Any) -> tuple[Operands, Pre]:
    """Return the operands as the residuals need them, and the tangent of wx."""
    if ops.projection is None:
        return ops, dops.wx
    dwx = product_tangent((ops.wx, *ops.projection), (dops.wx, *dops.projection))
    if cell.additive:
        return ops, dwx
    ops = equations.projected(ops)  # wx itself is a residual of a cell that is not additive.
    return ops, dwx if is_zero(dwx) else dwx.astype(ops.wx.dtype)


def _residuals(cell: Recurrence, ops: Operands, outs: Ran) -> Residuals:
    """Collect the residuals of a forward run: the point (W, wx, r) of linearisation."""
    return Residuals(
        ops.weights,
        ops.extras,
        ops.carry,
        ops.origin,
        outs.carries,
        (outs.u,) if cell.additive else (ops.wx, outs.u),
        ops.valid,
        ops.restart,
        ops.noise,
    )


def _dpre(
    static: Static, res: Residuals, previous: Carry, dwx: Pre, dweights: Params
) -> tuple[Pre, ...]:
    """Compute the part of dp_t known before the loop: (dwx, recur(dW, r)), or their sum.

    recur(dW, r) runs for all t at once; its transpose is the gradient of W in one matmul.
    """
    cell = static.recurrence
    if not all(map(is_zero, jax.tree.leaves(dweights, is_leaf=is_zero))):
        by_products = engine_of(static.engine).projects
        of_weights = weights.by_products if by_products else weights.by_recur
        du = of_weights(cell, res.weights, previous, _dense(dweights))
        return equations.joined(cell, dwx, du)
    if cell.additive:
        return (dwx.astype(res.pre[-1].dtype),)
    return (dwx, jnp.zeros_like(res.pre[-1]))


def _du(static: Static, res: Residuals, previous: Carry, given: Tangents, dcarries: Carry) -> Array:
    """Compute du_t for all t: the given part plus recur(W, dr_t), from the carries' tangents."""
    dprevious = equations.shifted(given.carry, given.origin, res.restart, dcarries, static.reverse)
    tangent = jax.vmap(partial(equations.recur_tangent, static.recurrence), in_axes=(None, 0, 0))
    return given.pre[-1] + tangent(res.weights, previous, dprevious)


# ---- derivatives of the linearisation and its transpose ------------------------------------------
def _linearized_transpose(cts: Sequence[Any], *leaves: Any, static: Static) -> list[Any]:
    res, given = _split(static, leaves)
    outputs = out_structure(linearized_p, static, leaves).unflatten(cts)
    # Omit a cotangent of all steps that is zero, as that of c mostly is, to save memory traffic.
    carries = _map(lambda ct: None if is_zero(ct) else ct, outputs.carries)
    out = bind(transposed_p, static, res, Outputs(_dense(outputs.final), carries))
    return _for_undefined(leaves, given, out)


def _transposed_transpose(cts: Sequence[Any], *leaves: Any, static: Static) -> list[Any]:
    res, given = _split(static, leaves)
    tangents = _dense(out_structure(transposed_p, static, leaves).unflatten(cts))
    out = bind(linearized_p, static, res, tangents)
    # Skip the cotangents that `_linearized_transpose` omitted: they are not operands.
    _, slots = static.tree.unflatten(range(len(leaves)))
    present = jax.tree.map(lambda o, slot: None if slot is None else o, out, slots)
    return _for_undefined(leaves, given, present)


def _split(static: Static, leaves: Sequence[Any]) -> tuple[Residuals, Sequence[Any]]:
    """Split the operands: the residuals, and flat those in which the primitive is linear."""
    residuals, _ = static.tree.children()
    count = residuals.num_leaves
    return residuals.unflatten(leaves[:count]), leaves[count:]


def _for_undefined(leaves: Sequence[Any], given: Sequence[Any], out: Any) -> list[Any]:
    """List the cotangents in `out` that JAX asked for, with None for the other operands."""
    pairs = zip(given, jax.tree.leaves(out), strict=True)
    asked = [o if is_asked(x) else None for x, o in pairs]
    return [None] * (len(leaves) - len(given)) + asked


def _autodiff_jvp(
    primitive: Primitive, primals: Sequence[Array], tangents: Sequence[Any], *, static: Static
) -> tuple[list[Array], list[Array]]:
    """Differentiate a derivative by autodiff of its defining function.

    Raises:
        NotImplementedError: another engine than "fused" was asked for by name, and it alone.
    """
    moving = [i for i, x in enumerate(primals) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]

    def function(*values):
        leaves = list(primals)
        for i, value in zip(moving, values, strict=True):
            leaves[i] = value
        return evaluate(primitive, *leaves, static=static)

    with run_by("fused", primitive, static, primals, TWICE):
        return jax.jvp(
            function, [primals[i] for i in moving], [_dense(tangents[i]) for i in moving]
        )


TWICE = "the derivative of a derivative is autodiff of its definition"


set_rules(run_p, jvp=_run_jvp)
set_rules(linearized_p, jvp=partial(_autodiff_jvp, linearized_p), transpose=_linearized_transpose)
set_rules(transposed_p, jvp=partial(_autodiff_jvp, transposed_p), transpose=_transposed_transpose)
