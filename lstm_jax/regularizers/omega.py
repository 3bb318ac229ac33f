"""Pascanu's Omega: a penalty on how much one step back in time changes the norm of the error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._cells.contract import Recurrent, check_run, checked_loss
from .._checks import check_choice
from .._numerics import (
    at_least_float32,
    choose,
    common_dtype,
    expand_to,
    mean_where,
    norm,
    safe_sqrt,
    zero_unless,
)
from .._sequence import valid_steps
from .._typing import Array, Carry, Params
from .._unroll import unroll

__all__ = ["omega"]
__dir__ = __all__.copy

_BOUND = 1e-10
"""Errors of a smaller norm do not count; its square is the 1e-20 of the authors' code."""


def omega(
    cell: Recurrent,
    params: Params,
    xs: Array,
    loss: Callable[[Array], Array],
    *,
    form: str = "squared_ratio",
    carry: Carry | None = None,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """Penalty Omega on the change of the error's norm by one step back in time.

    With x_k the whole carry after step k, x_0 the first one, E the loss and

        r_k = ||dE/dx_{k+1} dx_{k+1}/dx_k|| / ||dE/dx_{k+1}||

        form="ratio"           (r_k   - 1)^2            equation 9 of the paper
        form="squared_ratio"   (r_k^2 - 1)^2            its equation 10 and its authors' code

    summed over k, averaged over the batch, and divided by the number of steps that count (averaged
    over the batch too), as in the authors' code (the paper does not say): the mean over all pairs
    (step, sequence) that count. Pairs with ||dE/dx_{k+1}||^2 below 1e-20 and steps that are not
    valid do not count; if none counts the penalty is 0.

    x_k and dE/dx_{k+1} are held constant, so the gradient is the "immediate" one, of the
    `recurrent` parameters (w_hh) alone; that of every other parameter, of xs and of what `loss`
    closes over is exactly 0. For a cell that has `update` and `recur` the penalty uses

        dE/dx_{k+1} dx_{k+1}/dx_k = q + recur^T(w_hh, du),   (q, du) = J^T dE/dx_{k+1}

    with J the Jacobian of `update` at its fixed arguments: the gradient counts w_hh in `recur^T`,
    but not its effect on the activations at which J is taken. For an RNN, with x = h, this is the
    authors' code. In a cell that defines only `step` the two effects cannot be separated: there the
    gradient is that of the whole vjp of the step, for fixed x_k, and contains both.

    It costs a forward pass, a backward pass, and the vjp of one step, for all steps at once.

    Args:
        cell: any `Cell` whose outputs are y_t = output(carry_t).
        params: as from `cell.init`.
        xs: [T, *batch, D] floating.
        loss: ys [T, *batch, H] -> scalar; the readout is part of it.
        form: "squared_ratio" or "ratio". Published strengths are for the first: 4 in the paper's
            text, 2 in its code. The gradient of "ratio" is taken as 0 where r_k = 0.
        carry, seq_lengths, mask: as in `unroll`.

    Raises:
        ValueError: an unknown form, or arguments that `unroll` refuses.

    Source: Pascanu, Mikolov & Bengio (2013), section 3.3; github.com/pascanur/trainingRNNs.
    """
    params, xs = check_run(cell, params, xs, carry, "omega")
    check_choice("form", form, ("squared_ratio", "ratio"))
    loss = checked_loss(loss)
    run = _frozen_run(cell, params, xs, carry, seq_lengths, mask)
    errors = _errors(cell, run, loss)
    size = norm(_rows(errors, run.batch_ndim), 1 + run.batch_ndim)
    counts = ~(
        size < _BOUND
    )  # Not `size >= _BOUND`: NaN must count, so that it shows in the result.
    counts = counts if run.valid is None else counts & run.valid
    # A step back is linear in the error, so an error of norm 1 gives the ratio, without overflow.
    unit = zero_unless(counts, _divided(errors, size))
    weights = cell.weights(cell.prepare(params, xs, run.first)[0])
    back = jax.vmap(lambda point, error: _step_back(cell, run.params, weights, point, error))
    squared = _squared_norm(back(run.points, unit), run.batch_ndim)
    ratio = squared if form == "squared_ratio" else safe_sqrt(squared)
    return mean_where(counts, jnp.square(ratio - 1))


class _Run(NamedTuple):
    """A forward pass, with the gradient stopped."""

    params: Params
    first: Carry  # x_0, leaves [*batch, H]
    carries: Carry  # x_1 .. x_T, leaves [T, *batch, H]
    points: tuple[Any, ...]  # where each step is linearised: (x_k, wx, u), or (x_k, input)
    valid: Array | None  # [T, *batch] bool
    dtype: Any  # of ys
    batch_ndim: int


def _frozen_run(cell, params, xs, carry, seq_lengths, mask) -> _Run:
    params, xs, carry = lax.stop_gradient((params, xs, carry))
    lengths: dict[str, Any] = {"seq_lengths": seq_lengths, "mask": mask}
    _, carries = unroll(cell, params, xs, carry, return_carries=True, **lengths)
    batch = xs.shape[1 : xs.ndim - cell.input_ndim]
    first = cell.initial_carry(params, batch) if carry is None else carry
    params, xs, first = cell.prepare(params, xs, first)
    valid = valid_steps(mask, seq_lengths, xs.shape[0])
    previous = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs])[:-1], first, carries)
    xs = zero_unless(valid, xs)
    points = (previous, xs)
    if cell.factors:
        recur = jax.vmap(cell.recur, in_axes=(None, 0))
        points = (previous, cell.project(params, xs), recur(cell.weights(params), previous))
    return _Run(params, first, carries, points, valid, xs.dtype, len(batch))


def _errors(cell: Recurrent, run: _Run, loss: Callable[[Array], Array]) -> Carry:
    """The errors dE/dx_1 .. dE/dx_T as constants, leaves [T, *batch, H], by one backward pass.

    dE/dx_k = d+E/dx_k + dE/dx_{k+1} dx_{k+1}/dx_k, where d+ goes through y_k alone.
    """

    def immediate(carries):
        ys = cell.output(run.params, carries).astype(run.dtype)
        return loss(zero_unless(run.valid, ys))

    def body(later, inputs):
        direct, point, valid = inputs
        error = jax.tree.map(jnp.add, direct, later)
        before = _step_back(cell, run.params, cell.weights(run.params), point, error)
        return choose(valid, before, error), error

    direct = jax.grad(immediate)(run.carries)
    zeros = jax.tree.map(jnp.zeros_like, run.first)
    _, errors = lax.scan(body, zeros, (direct, run.points, run.valid), reverse=True)
    return lax.stop_gradient(errors)


def _step_back(cell: Recurrent, params: Params, weights: Params, point: Any, error: Carry) -> Carry:
    """The product of `error` and dx_{k+1}/dx_k at `point`; only `weights` get a gradient."""
    if not cell.factors:
        previous, x = point
        live = {**params, **weights}
        return jax.vjp(lambda carry: cell.step(live, carry, x)[0], previous)[1](error)[0]
    previous, wx, u = point

    def update(carry, u):
        return cell.advance(carry, wx, u, cell.extras(params))

    around, du = jax.vjp(update, previous, u)[1](error)
    (through,) = jax.vjp(lambda carry: cell.recur(weights, carry), previous)[1](du)
    return jax.tree.map(jnp.add, around, through)


def _rows(tree: Any, batch_ndim: int) -> list[Array]:
    """Reshape the leaves to [T, *batch, N], in the dtype of the norms."""
    leaves = jax.tree.leaves(tree)
    dtype = at_least_float32(common_dtype(*leaves))
    return [leaf.reshape(*leaf.shape[: 1 + batch_ndim], -1).astype(dtype) for leaf in leaves]


def _squared_norm(tree: Any, batch_ndim: int) -> Array:
    """Sum of squares of a whole carry, [T, *batch], from leaves [T, *batch, ...]."""
    squares = [jnp.sum(jnp.square(row), axis=-1) for row in _rows(tree, batch_ndim)]
    return jnp.sum(jnp.stack(squares), axis=0)


def _divided(tree: Any, divisor: Array) -> Any:
    """Divide each leaf [T, *batch, ...] by `divisor` [T, *batch]."""
    return jax.tree.map(lambda leaf: leaf / expand_to(divisor, leaf).astype(leaf.dtype), tree)
