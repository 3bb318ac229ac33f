"""Pascanu's Omega: a penalty on how much one step back in time changes the norm of the error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._adjoints.back import collected
from .._adjoints.cell import Layer, through_recur, through_step, typed
from .._adjoints.record import (
    CellRun,
    Given,
    Steps,
    cell_runs,
    equations,
    forward,
    params_of_cells,
    turned,
)
from .._adjoints.scaled import Scaled, log_norms
from .._cells.contract import Recurrent
from .._checks import check_choice, unboxed
from .._net import Net
from .._numerics import (
    at_least_float32,
    expand_to,
    mean_where,
    nonzero,
    norm,
    safe_sqrt,
    zero_unless,
)
from .._typing import Array, Carry, Key, Params

__all__ = ["omega"]
__dir__ = __all__.copy

_BOUND = 1e-10
"""Errors of a smaller norm do not count; its square is the 1e-20 of the authors' code."""


def omega(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    loss: Callable[[Any], Array],
    *,
    form: str = "squared_ratio",
    carry: Carry | None = None,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    key: Key | None = None,
) -> Array:
    """Penalty Omega on the change of the error's norm by one step back in time.

    With x_k the whole carry of a cell after step k, x_0 the first one, E the loss and

        r_k = ||dE/dx_{k+1} dx_{k+1}/dx_k|| / ||dE/dx_{k+1}||

        form="ratio"           (r_k   - 1)^2            equation 9 of the paper
        form="squared_ratio"   (r_k^2 - 1)^2            its equation 10 and its authors' code

    summed over k, averaged over the batch, and divided by the number of steps that count (averaged
    over the batch too), as in the authors' code (the paper does not say): the mean over all
    (step, sequence) that count, in a net over those of all cells. Steps with
    ||dE/dx_{k+1}||^2 below 1e-20 and steps that are not valid do not count; if none counts the
    penalty is 0.

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
        cell: any cell or net whose cells' outputs are y_t = output(carry_t).
        params: as from `cell.init`.
        xs: [T, *batch, D] floating.
        loss: the outputs of the whole net, ys [T, *batch, H] -> scalar.
        form: "squared_ratio" or "ratio". Published strengths are for the first: 4 in the paper's
            text, 2 in its code. The gradient of "ratio" is taken as 0 where r_k = 0.
        carry, seq_lengths, mask, key: as in `unroll`.

    Raises:
        ValueError: an unknown form, or arguments that `unroll` refuses.

    Source: Pascanu, Mikolov & Bengio (2013), section 3.3; github.com/pascanur/trainingRNNs.
    """
    check_choice("form", form, ("squared_ratio", "ratio"))
    run = forward(cell, params, xs, carry, Given(seq_lengths, mask, key=key), constant=True)
    nested = lax.stop_gradient(collected(cell, run, loss, _errors))
    errors = jax.tree.leaves(nested, is_leaf=lambda x: isinstance(x, _Errors))
    live = params_of_cells(cell, unboxed(params))
    squares = [
        _squared_ratio(part, own, run_of_cell, each)
        for (part, run_of_cell), own, each in zip(cell_runs(cell, run), live, errors, strict=True)
    ]
    if not squares:  # A net without a cell.
        return jnp.zeros((), at_least_float32(jnp.result_type(xs)))
    squared = jnp.stack(squares)
    ratio = squared if form == "squared_ratio" else safe_sqrt(squared)
    return mean_where(jnp.stack([each.counts for each in errors]), jnp.square(ratio - 1))


class _Errors(NamedTuple):
    """The errors dE/dx_1 .. dE/dx_T of a cell, divided by their norms.

    A step back is linear in the error, so an error of norm 1 gives the ratio, without overflow.
    """

    unit: Carry  # leaves [T, *batch, H], 0 where the step does not count
    pulled: Any  # (around, du) of a cell that factors, from `unit` through `update`; else None
    counts: Array  # [T, *batch] bool


def _errors(cell: Recurrent, layer: Layer) -> _Errors:
    errors = layer.after
    rows = errors.exponent.ndim
    size = norm(jax.tree.leaves(errors.value), rows)
    log_size = log_norms(Scaled(size, errors.exponent))
    counts = ~(log_size < np.log(_BOUND))  # Not `>=`: NaN must count, to show in the result.
    valid = layer.run.steps.valid
    counts = counts if valid is None else counts & valid
    unit = jax.tree.map(lambda leaf: leaf / expand_to(nonzero(size), leaf), errors.value)
    unit = zero_unless(counts, unit)
    unit = typed(unit, layer.run.steps.after)
    pulled = None
    if cell.factors:
        around, _, du = jax.vmap(lambda pull, error: pull(error))(layer.pulls, unit)
        pulled = (around, du)
    return _Errors(unit, pulled, counts)


def _squared_ratio(cell: Recurrent, params: Params, run: CellRun, errors: _Errors) -> Array:
    """Compute r_k^2 of all steps of a cell, [T, *batch]; only its recurrent weights are live."""
    own = {**lax.stop_gradient(params), **cell.weights(params)}
    live, _, _ = equations(cell, own, run.xs, run.key)
    live = {**run.live, **cell.weights(live)}
    errors = turned(errors, run.reverse)
    back = jax.vmap(lambda steps, each: _step_back(cell, live, steps, *each))
    before = jax.tree.leaves(back(run.steps, (errors.unit, errors.pulled)))
    squared = sum(_sum_of_squares(leaf, errors.counts.ndim) for leaf in before)
    return turned(squared, run.reverse)


def _sum_of_squares(leaf: Array, row_ndim: int) -> Array:
    axes = tuple(range(row_ndim, leaf.ndim))
    return jnp.sum(jnp.square(leaf.astype(at_least_float32(leaf.dtype))), axis=axes)


def _step_back(cell: Recurrent, live: Params, steps: Steps, error: Carry, pulled: Any) -> Carry:
    """The product of `error` and dx_{k+1}/dx_k; only the weights in `live` get a gradient."""
    if not cell.factors:
        return through_step(cell, live, steps, error)
    around, du = pulled
    return jax.tree.map(jnp.add, around, through_recur(cell, live, steps.before, du))
