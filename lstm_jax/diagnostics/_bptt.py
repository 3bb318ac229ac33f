"""Backpropagation through time, written out, so that every step can be looked at.

With s_t the carry, W the recurrent weights, and step t of `unroll` (its masks and restarts too)

    s_t, y_t = step(s_{t-1}, W, x_t)

the gradients of L(y_1 .. y_T) follow from one walk backwards, n_T = 0:

    n_{t-1}, dW_t = (d(s_t, y_t) / d(s_{t-1}, W))^T (n_t, dL/dy_t)      a vjp of the step
    a_t           = n_t + (dy_t/ds_t)^T dL/dy_t                         with y_t = output(s_t)

n_t is dL/ds_t through later steps alone, a_t with the effect on y_t as well: what a probe eps_t
added to s_t after step t would receive. dW_t is step t's part of dL/dW, their sum over t.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._cells.contract import Recurrent, check_run, checked_loss
from .._checks import fail
from .._numerics import zero_unless
from .._sequence import valid_steps
from .._typing import Array, Carry, Params
from .._unroll import unroll

Loss = Callable[[Array], Array]
"""`loss(ys) -> scalar`, of all outputs [T, *batch, H]."""
Collect = Callable[[Carry, Params], Any]
"""(a_t, dW_t) -> what is kept of step t, so that the rest need not be stored."""


class Flags(NamedTuple):
    """The keywords of `unroll` that say which steps are valid and which start an episode."""

    resets: Array | None = None
    seq_lengths: Array | None = None
    mask: Array | None = None


class Inputs(NamedTuple):
    """One step's, or with a leading axis all steps'. valid, reset: [*batch] bool or None."""

    x: Array
    valid: Array | None
    reset: Array | None


def backpropagated(
    cell: Recurrent,
    params: Params,
    xs: Array,
    loss: Loss,
    carry: Carry | None,
    flags: Flags,
    weights: Params,
    collect: Collect,
) -> Any:
    """`collect(a_t, dW_t)` for every t, stacked in the order of time; W those of `weights`."""
    params, xs = check_run(cell, params, xs, carry, "a gradient by lag")
    loss = checked_loss(loss)
    start, inputs = _prepared(cell, params, xs, carry, flags)

    def forward(carry, inputs_t):
        new, y = _step(cell, params, carry, inputs_t)
        return new, (carry, y)

    def backward(later, step):
        inputs_t, before, dy = step

        def run(carry, weights):
            return _step(cell, params | weights, carry, inputs_t)

        (after, _), pullback = jax.vjp(run, before, weights)
        earlier, dweights = pullback((later, dy))
        direct = _through_output(cell, params, after, inputs_t, dy)
        return earlier, collect(jax.tree.map(jnp.add, later, direct), dweights)

    _, (before, ys) = lax.scan(forward, start, inputs)
    dys = jax.grad(loss)(ys)
    nothing = jax.tree.map(jnp.zeros_like, start)
    return lax.scan(backward, nothing, (inputs, before, dys), reverse=True)[1]


def _prepared(
    cell: Recurrent, params: Params, xs: Array, carry: Carry | None, flags: Flags
) -> tuple[Carry, Inputs]:
    """The carry before the first step and every step's inputs, checked as `unroll` checks them."""
    jax.eval_shape(lambda: unroll(cell, params, xs, carry, **flags._asdict()))
    start, _ = unroll(cell, params, xs[:0], carry)
    valid = valid_steps(flags.mask, flags.seq_lengths, xs.shape[0])
    return start, Inputs(xs, valid, None if flags.resets is None else jnp.asarray(flags.resets))


def _step(cell: Recurrent, params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
    """(s_t, y_t): `unroll` over this one step, so that its semantics are `unroll`'s own."""
    x, valid, reset = jax.tree.map(lambda leaf: leaf[None], inputs)
    carry, ys = unroll(cell, params, x, carry, mask=valid, resets=reset, implementation="scan")
    return carry, ys[0]


def _through_output(
    cell: Recurrent, params: Params, carry: Carry, inputs: Inputs, dy: Array
) -> Carry:
    """(dy_t/ds_t)^T dy_t, where step t is valid."""
    params, x, _ = cell.prepare(params, inputs.x, carry)
    y, pullback = jax.vjp(lambda s: cell.emit(params, s, x.dtype), carry)
    if y.shape != dy.shape:
        wanted = f"shape {dy.shape}, that of y"
        raise fail("cell.output", f"shape {y.shape}", wanted, "override output beside step")
    return pullback(zero_unless(inputs.valid, dy).astype(y.dtype))[0]
