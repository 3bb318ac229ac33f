"""The derivatives of the primitives, which are the primitives again.

    d run               linearized, of dp_t = (dwx_t, recur(dW, r_t)) for all t at once
    linearized^T        transposed
    transposed^T        linearized
    d linearized,       autodiff of their functions
    d transposed

A tangent or cotangent may be a symbolic zero, which is written out where a function needs numbers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress, repeat
from typing import Any

import jax
import jax.numpy as jnp

from ..._jax import Primitive, dense, is_asked, is_zero, set_rules
from ..._products import by_kernel, product_tangent
from ..._typing import Array, Carry, Params, Pre
from .. import base
from ..base import Operands, Outputs, Ran, Residuals, Tangents
from ..spec import Recurrence
from .binding import Static, bind, evaluate, linearized_p, out_structure, run_p, transposed_p
from .named import by_xla


# ---- symbolic zeros ------------------------------------------------------------------------------
def _dense(tangents: Any) -> Any:
    """`tangents` with symbolic zeros written out."""
    return _map(dense, tangents)


def _map(function: Callable[[Any], Any], tangents: Any) -> Any:
    """`jax.tree.map` to which a symbolic zero is a leaf (JAX counts it as a node without any)."""
    return jax.tree.map(function, tangents, is_leaf=is_zero)


# ---- of the recurrence ---------------------------------------------------------------------------
def _run_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, static: Static
) -> tuple[list[Array], list[Array]]:
    """The recurrence, and its linearisation at what it gave."""
    kept, static = static.kept or repeat(True), static._replace(kept=None)
    (ops,), (dops,) = static.tree.unflatten(primals), static.tree.unflatten(tangents)
    ops, dwx = _projected(static.cell, ops, dops)
    outs = bind(run_p, static, ops)
    res = _residuals(static.cell, ops, outs)
    previous = base.previous_carries(res, static.reverse)
    dpre = _dpre(static, res, previous, _dense(dwx), dops.weights)
    given = Tangents(_dense(dops.extras), _dense(dops.carry), _dense(dops.origin), dpre)
    douts = bind(linearized_p, static, res, given)
    # Nothing asks for the tangent of u in a first derivative: it costs nothing there under jit.
    du = _du(static, res, previous, given, douts.carries)
    both = outs, Ran(douts.final, douts.carries, du)
    values, slopes = (list(compress(jax.tree.leaves(each), kept)) for each in both)
    return values, slopes


def _projected(cell: Recurrence, ops: Operands, dops: Any) -> tuple[Operands, Pre]:
    """The operands as the residuals need them, and dwx."""
    if ops.projection is None:
        return ops, dops.wx
    dwx = product_tangent((ops.wx, *ops.projection), (dops.wx, *dops.projection))
    if cell.additive:
        return ops, dwx
    ops = base.projected(ops)  # A residual where wx and u are apart.
    return ops, dwx if is_zero(dwx) else dwx.astype(ops.wx.dtype)


def _residuals(cell: Recurrence, ops: Operands, outs: Ran) -> Residuals:
    """The point (W, wx, r) that the recurrence ran through."""
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
    """dp_t without its feedback part: (dwx, recur(dW, r)), or their sum for an additive cell.

    recur(dW, r) runs for all t at once; its transpose is the gradient of W in one matmul.
    """
    cell = static.cell
    if not all(map(is_zero, jax.tree.leaves(dweights, is_leaf=is_zero))):
        of_weights = partial(base.recur_all, cell, carries=previous)
        with by_kernel(static.native):
            _, du = jax.jvp(of_weights, (res.weights,), (_dense(dweights),))
        return base.joined(cell, dwx, du)
    if cell.additive:
        return (dwx.astype(res.pre[-1].dtype),)
    return (dwx, jnp.zeros_like(res.pre[-1]))


def _du(static: Static, res: Residuals, previous: Carry, given: Tangents, dcarries: Carry) -> Array:
    """du_t with its feedback part recur(W, dr_t), for all t at once."""
    dprevious = base.shifted(given.carry, given.origin, res.restart, dcarries, static.reverse)
    tangent = jax.vmap(partial(base.recur_tangent, static.cell), in_axes=(None, 0, 0))
    return given.pre[-1] + tangent(res.weights, previous, dprevious)


# ---- of its linearisation and the transpose of that ----------------------------------------------
def _linearized_transpose(cts: Sequence[Any], *leaves: Any, static: Static) -> list[Any]:
    res, given = _split(static, leaves)
    outputs = out_structure(linearized_p, static, leaves).unflatten(cts)
    # A stacked cotangent that is zero, as c's mostly is, is left out rather than written and read.
    carries = _map(lambda ct: None if is_zero(ct) else ct, outputs.carries)
    out = bind(transposed_p, static, res, Outputs(_dense(outputs.final), carries))
    return _for_undefined(leaves, given, out)


def _transposed_transpose(cts: Sequence[Any], *leaves: Any, static: Static) -> list[Any]:
    res, given = _split(static, leaves)
    tangents = _dense(out_structure(transposed_p, static, leaves).unflatten(cts))
    out = bind(linearized_p, static, res, tangents)
    # What was left out above is no operand.
    _, slots = static.tree.unflatten(range(len(leaves)))
    present = jax.tree.map(lambda o, slot: None if slot is None else o, out, slots)
    return _for_undefined(leaves, given, present)


def _split(static: Static, leaves: Sequence[Any]) -> tuple[Residuals, Sequence[Any]]:
    """The residuals, and the flat operands that the primitive is linear in."""
    residuals, _ = static.tree.children()
    count = residuals.num_leaves
    return residuals.unflatten(leaves[:count]), leaves[count:]


def _for_undefined(leaves: Sequence[Any], given: Sequence[Any], out: Any) -> list[Any]:
    """`out` for the operands that were asked for, None for the others and the residuals."""
    pairs = zip(given, jax.tree.leaves(out), strict=True)
    asked = [o if is_asked(x) else None for x, o in pairs]
    return [None] * (len(leaves) - len(given)) + asked


def _autodiff_jvp(
    primitive: Primitive, primals: Sequence[Array], tangents: Sequence[Any], *, static: Static
) -> tuple[list[Array], list[Array]]:
    """The derivative of a derivative: autodiff of the defining function.

    Raises:
        NotImplementedError: the kernel was asked for by name.
    """
    moving = [i for i, x in enumerate(primals) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]

    def function(*values):
        leaves = list(primals)
        for i, value in zip(moving, values, strict=True):
            leaves[i] = value
        return evaluate(primitive, *leaves, static=static)

    with by_xla(primitive, static, primals, TWICE):
        return jax.jvp(
            function, [primals[i] for i in moving], [_dense(tangents[i]) for i in moving]
        )


TWICE = "the derivative of a derivative is autodiff of its definition"


set_rules(run_p, jvp=_run_jvp)
set_rules(linearized_p, jvp=partial(_autodiff_jvp, linearized_p), transpose=_linearized_transpose)
set_rules(transposed_p, jvp=partial(_autodiff_jvp, transposed_p), transpose=_transposed_transpose)
