"""Definitions of the recurrence, its linearisation and its transpose, as three functions.

With recur linear in the weights W and in the carry s, and `update` elementwise:

    r_t  = restart_t ? origin : s_{t-1}                 previous carry, after a restart
    u_t  = recur(W, r_t)
    s_t  = valid_t ? update(r_t, wx_t, u_t) : r_t

Linearised at (W, wx, r), with p = (wx, u) the other inputs of `update`:

    dr_t = restart_t ? dorigin : ds_{t-1}
    du_t = recur(dW, r_t) + recur(W, dr_t)              the first term for all t in one matmul
    ds_t = valid_t ? J_s dr_t + J_p dp_t : dr_t         J: the Jacobian of `update`, a jvp

Transposed, with a_t the cotangent of s_t and t walking backwards (BPTT):

    n_t, o_t = valid_t ? (a_t, 0) : (0, a_t)            through the update, and around it
    q_t, dp_t = J^T n_t                                 a vjp of `update`
    q_t  = q_t + recur^T(W, du_t) + o_t
    a_{t-1} = ct_{t-1} + (restart_t ? 0 : q_t),   dorigin += restart_t ? q_t : 0

The cotangent of W is sum_t r_t (x) du_t: the transpose of recur(dW, r) over all t, so one matmul
after the loop. Source: Werbos (1990); the split into one matmul is cuDNN's.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._numerics import choose, summable, zero_unless, zero_where
from .._typing import Array, Carry, Params, Pre
from .loops import PLAIN, Loop, scan
from .products import product
from .rounding import rounded, rounded_to, with_rounded
from .spec import Recurrence


class Operands(NamedTuple):
    """Operands of the recurrence; `valid`, `restart`, `origin` and `noise` may be None (absent)."""

    weights: Params  # parameters that recur takes
    extras: Params  # other parameters, which update takes as keywords
    carry: Carry  # s_0, leaves [B, ...]
    origin: Carry | None  # the carry after a restart
    wx: Pre  # leaves [T, B, ...]; x where `projection` is given
    valid: Array | None  # [T, B] bool
    restart: Array | None  # [T, B] bool
    noise: Any = None  # random numbers of training, leaves [T, B, ...]; without a gradient
    projection: tuple[Array, ...] | None = None  # (w,) or (w, b): wx = x @ w + b, in w's dtype


class Ran(NamedTuple):
    """Results of the recurrence.

    u is kept for the backward pass: recomputing it in one matmul after the loop was slower on a
    CPU, and an additive cell needs only the sum wx + u, so wx can be dropped.
    """

    final: Carry  # s_T, leaves [B, ...]
    carries: Carry  # s_1 .. s_T, each at its own t also in reverse, leaves [T, B, ...]
    u: Array  # u_t, or wx_t + u_t of an additive cell, [T, B, G*H]


class Residuals(NamedTuple):
    """Point of linearisation: the values of the forward run at which derivatives are taken.

    r_t is not stored: it follows from `carry`, `carries`, `origin` and `restart`.
    """

    weights: Params
    extras: Params
    carry: Carry  # s_0, leaves [B, ...]
    origin: Carry | None
    carries: Carry  # s_1 .. s_T, leaves [T, B, ...]
    pre: tuple[Pre, ...]  # p_t: (wx, u), or (wx + u,) of an additive cell; [T, B, ...]
    valid: Array | None
    restart: Array | None
    noise: Any = None


class Tangents(NamedTuple):
    """Tangents (or cotangents) of the inputs in which the linearised recurrence is linear."""

    extras: Params
    carry: Carry
    origin: Carry | None
    pre: tuple[Pre, ...]  # dp_t


class Outputs(NamedTuple):
    """Tangents or cotangents of the carries.

    In a cotangent a leaf of `carries` may be None: a zero that is then neither written nor read.
    """

    final: Carry
    carries: Carry


TIMED = {"wx", "valid", "restart", "noise", "pre", "carries", "u"}
"""Time-major fields of operands and results: their first axis is T, and vmap adds its axis at 1."""


def run(
    cell: Recurrence, reverse: bool, ops: Operands, kept: Ran | None = None, *, loop: Loop = PLAIN
) -> Ran:
    """Run the recurrence forwards.

    Args:
        kept: a flag for each result; those with False are None in what is returned.
        loop: the way in which XLA's loop is written.
    """
    ops, (final, carries, u) = projected(ops), (None, None, None) if kept is None else kept
    narrow = None  # A carry that restarts is rounded after that.
    if loop.launches and ops.restart is None:
        narrow = rounded_to(cell, ops.weights, ops.carry)

    def step(state, inputs):
        carry, h = state
        wx, valid, restart, noise = inputs
        carry = choose(restart, ops.origin, carry) if restart is not None else carry
        pre = joined(cell, wx, cell.recur(ops.weights, with_rounded(carry, h)))
        carry = choose(valid, advance(cell, noise)(carry, pre, ops.extras), carry)
        carry, h = loop.once((carry, rounded(carry, narrow)))
        return (carry, h), (only(carries, carry), only(u, pre[-1]))

    xs = (ops.wx, ops.valid, ops.restart, ops.noise)
    (last, _), stacked = scan(step, (ops.carry, rounded(ops.carry, narrow)), xs, reverse, loop)
    return Ran(only(final, last), *stacked)


def projected(ops: Operands) -> Operands:
    """Compute wx = x @ w + b if the operands carry a projection that is still to be applied."""
    if ops.projection is None:
        return ops
    wx = product(ops.wx, *ops.projection).astype(ops.projection[0].dtype)
    return ops._replace(wx=wx, projection=None)


def all_kept(ops: Operands) -> Ran:
    """Flags that keep every result of `run`."""
    return Ran(*jax.tree.map(lambda _: True, (ops.carry, ops.carry, 0)))


def only(kept: Any, tree: Any) -> Any:
    """Replace the leaves of `tree` that are false in `kept` by None; `kept=None` keeps all."""
    if kept is None:
        return tree
    return jax.tree.map(lambda keep, leaf: leaf if keep else None, kept, tree)


def linearized(
    cell: Recurrence, reverse: bool, res: Residuals, tangents: Tangents, *, loop: Loop = PLAIN
) -> Outputs:
    """Compute the tangents of the carries, linear in `tangents`."""

    def step(dcarry, inputs):
        previous, pre, dpre, valid, restart, noise = inputs
        dcarry = choose(restart, tangents.origin, dcarry) if restart is not None else dcarry
        du = dpre[-1] + recur_tangent(cell, res.weights, previous, dcarry).astype(dpre[-1].dtype)
        primals = (previous, pre, res.extras)
        dprimals = (dcarry, (*dpre[:-1], du), tangents.extras)
        _, dnew = jax.jvp(advance(cell, noise), primals, dprimals)
        dcarry = choose(valid, dnew, dcarry)
        return dcarry, dcarry

    previous = previous_carries(res, reverse)
    xs = (previous, res.pre, tangents.pre, res.valid, res.restart, res.noise)
    return Outputs(*scan(step, tangents.carry, xs, reverse, loop))


def transposed(
    cell: Recurrence, reverse: bool, res: Residuals, cts: Outputs, *, loop: Loop = PLAIN
) -> Tangents:
    """Backpropagation through time: the transpose of `linearized`."""
    # Where launches count, the loop computes what its next step needs, and the rest comes after.
    later = loop.launches and few_extras(res) and (len(res.pre) == 2 or bool(res.extras))

    def step(state, inputs):
        ct, dextras, dorigin = state
        ct_t, previous, pre, valid, restart, noise = inputs
        ct = added(ct, ct_t)
        through = zero_unless(valid, ct)
        _, pullback = jax.vjp(advance(cell, noise), previous, pre, res.extras)
        dprevious, dpre, dextras_t = pullback(through)
        *dwx, du = loop.once(dpre)
        dprevious = added(dprevious, recur_transposed(cell, res.weights, previous, du))
        if valid is not None:
            dprevious = added(dprevious, zero_where(valid, ct))
        if restart is not None:
            dorigin = added(dorigin, zero_where(~restart, dprevious))
            dprevious = zero_where(restart, dprevious)
        if later:
            return (dprevious, dextras, dorigin), (through, du)
        return (dprevious, added(dextras, dextras_t), dorigin), (*dwx, du)

    summed = (res.extras, cts.final if res.restart is not None else None)
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, dtype=summable(x.dtype)), summed)
    previous = previous_carries(res, reverse)
    xs = (cts.carries, previous, res.pre, res.valid, res.restart, res.noise)
    (dcarry, *sums), stacked = scan(step, (cts.final, *zeros), xs, not reverse, loop)
    if later:
        through, du = stacked
        *dwx, sums[0] = others_transposed(cell, res, previous, through)
        stacked = (*dwx, du)
    dextras, dorigin = jax.tree.map(lambda x, total: total.astype(x.dtype), summed, tuple(sums))
    return Tangents(dextras, dcarry, dorigin, stacked)


def few_extras(res: Residuals) -> bool:
    """Check that the cotangents of the extras at all steps are no larger than those of p."""
    each = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(res.extras))
    return each <= max(leaf.shape[-1] for leaf in jax.tree.leaves(res.pre))


def others_transposed(
    cell: Recurrence, res: Residuals, previous: Carry, through: Carry
) -> tuple[Any, ...]:
    """Cotangents (dwx, dextras) or (dextras,) of all steps at once, which the loop does not need.

    through: n_t, the cotangents of the results of `update`, leaves [T, B, ...].
    """
    extras = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (res.pre[-1].shape[0], *x.shape)), res.extras
    )

    def pulled(previous, pre, extras, noise, through):
        (*wx, u), function = pre, advance(cell, noise)
        _, pullback = jax.vjp(lambda wx, extras: function(previous, (*wx, u), extras), wx, extras)
        return pullback(through)

    dwx, dextras = jax.vmap(pulled)(previous, res.pre, extras, res.noise, through)
    return (*dwx, jax.tree.map(lambda x: jnp.sum(x, 0, dtype=summable(x.dtype)), dextras))


def previous_carries(res: Residuals, reverse: bool) -> Carry:
    """Compute the carry r_t before each step, leaves [T, B, ...]."""
    return shifted(res.carry, res.origin, res.restart, res.carries, reverse)


def shifted(
    first: Carry, origin: Carry | None, restart: Array | None, carries: Carry, reverse: bool
) -> Carry:
    """Carry before each step, from s_0, the carry after a restart and all s_t (or of tangents)."""

    def before(first, stacked):
        if reverse:
            return jnp.concatenate([stacked, first[None]], axis=0)[1:]
        return jnp.concatenate([first[None], stacked], axis=0)[: stacked.shape[0]]

    previous = jax.tree.map(before, first, carries)
    if restart is None:
        return previous
    origin = jax.tree.map(lambda s, all_t: jnp.broadcast_to(s, all_t.shape), origin, previous)
    return choose(restart, origin, previous)


def joined(cell: Recurrence, wx: Pre, u: Array) -> tuple[Pre, ...]:
    """Combine wx and u into p: the pair (wx, u), or (wx + u,) for an additive cell."""
    return (wx.astype(u.dtype) + u,) if cell.additive else (wx, u)


def recur_tangent(cell: Recurrence, weights: Params, carry: Carry, dcarry: Carry) -> Array:
    """Compute recur(W, ds) as a jvp, which is right for a user's `recur` that is not linear too."""
    return jax.jvp(lambda carry: cell.recur(weights, carry), (carry,), (dcarry,))[1]


def recur_transposed(cell: Recurrence, weights: Params, carry: Carry, du: Array) -> Carry:
    """Compute recur^T(W, du) as a vjp of `recur`."""
    return jax.vjp(lambda carry: cell.recur(weights, carry), carry)[1](du)[0]


def advance(cell: Any, noise: Any) -> Any:
    """Make `cell.advance` a function of (carry, p, extras). cell: a `Recurrence` or a `Flat`."""

    def function(carry, pre, extras):
        wx, u = pre if len(pre) == 2 else (pre[0], jnp.zeros_like(pre[0]))
        return cell.advance(carry, wx, u, extras, noise)

    return function


def added(tree: Any, other: Any) -> Any:
    """Sum two trees leaf by leaf, in the dtypes of `tree`; None in `other` counts as zero."""
    return jax.tree.map(lambda a, b: a if b is None else a + b.astype(a.dtype), tree, other)
