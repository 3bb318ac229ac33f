"""Backpropagation through time as an explicit scan, which exposes the gradients of every step.

With s_t the carry, W the recurrent weights, and step t of `unroll` (with masks and restarts)

    s_t, y_t = step(s_{t-1}, W, x_t)

the gradients of L(y_1 .. y_T) follow from one pass backwards, from n_T = 0:

    n_{t-1}, dW_t = (d(s_t, y_t) / d(s_{t-1}, W))^T (n_t, dL/dy_t)      a vjp of the step
    a_t           = n_t + (dy_t/ds_t)^T dL/dy_t                         with y_t = output(s_t)

n_t is dL/ds_t through later steps only; a_t includes the effect on y_t: it is the gradient of a
probe eps_t added to s_t after step t. dW_t is the contribution of step t to dL/dW = sum_t dW_t.
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
"""A loss: outputs of all steps ys [T, *batch, H] -> scalar."""
Collect = Callable[[Carry, Params], Any]
"""A function (a_t, dW_t) -> the result for step t; nothing else of the step is stored."""


class Flags(NamedTuple):
    """Arguments of `unroll` for valid steps and restarts."""

    resets: Array | None = None
    seq_lengths: Array | None = None
    mask: Array | None = None


class Inputs(NamedTuple):
    """Inputs of one step, or of all steps with a leading time axis; valid, reset: bool or None."""

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
    """Compute `collect(a_t, dW_t)` for every t, stacked in the order of time; W is `weights`."""
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
    """Check the arguments as `unroll` does; return the first carry and the inputs of all steps."""
    jax.eval_shape(lambda: unroll(cell, params, xs, carry, **flags._asdict()))
    start, _ = unroll(cell, params, xs[:0], carry)
    valid = valid_steps(flags.mask, flags.seq_lengths, xs.shape[0])
    return start, Inputs(xs, valid, None if flags.resets is None else jnp.asarray(flags.resets))


def _step(cell: Recurrent, params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
    """Compute (s_t, y_t) by `unroll` over this step, for the same masks and restarts."""
    x, valid, reset = jax.tree.map(lambda leaf: leaf[None], inputs)
    carry, ys = unroll(cell, params, x, carry, mask=valid, resets=reset, implementation="scan")
    return carry, ys[0]


def _through_output(
    cell: Recurrent, params: Params, carry: Carry, inputs: Inputs, dy: Array
) -> Carry:
    """Compute (dy_t/ds_t)^T dy_t, zero if step t is not valid."""
    params, x, _ = cell.prepare(params, inputs.x, carry)
    y, pullback = jax.vjp(lambda s: cell.emit(params, s, x.dtype), carry)
    if y.shape != dy.shape:
        wanted = f"shape {dy.shape}, that of y"
        raise fail("cell.output", f"shape {y.shape}", wanted, "override output beside step")
    return pullback(zero_unless(inputs.valid, dy).astype(y.dtype))[0]
