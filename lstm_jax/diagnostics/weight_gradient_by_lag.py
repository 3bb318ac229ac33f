"""Contributions of single time steps to the gradient of the recurrent weights."""

import jax

from .._cells.contract import Recurrent, check_run
from .._checks import fail
from .._numerics import norm
from .._typing import Array, Carry, Params
from ._bptt import Flags, Loss, backpropagated

__all__ = ["weight_gradient_by_lag", "weight_gradient_norms_by_lag"]
__dir__ = __all__.copy


def weight_gradient_by_lag(
    cell: Recurrent,
    params: Params,
    xs: Array,
    loss: Loss,
    carry: Carry | None = None,
    *,
    resets: Array | None = None,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
) -> Params:
    """Compute dL/dW_t for every t, the part of step t in the gradient of the recurrent weights.

        dL/dW = sum_t dL/dW_t,      dL/dW_t = dL/ds_t d+s_t/dW

    with d+ the immediate derivative, for constant s_{t-1}. It works for any cell that names its
    recurrent parameters in `cell.recurrent`.

    Args:
        cell, params, xs, loss, carry, resets, seq_lengths, mask: as in `gradients_by_lag`.

    Returns:
        {name: [T, *shape]} for each recurrent parameter, summed over the batch, such as
        {"w_hh": [T, H, G*H]}, in the order of time: entry t has the lag T - 1 - t. To save its
        memory use `weight_gradient_norms_by_lag`.

    Raises:
        ValueError: `cell.recurrent` has a name that is not a parameter; or as `unroll`.

    Source: Pascanu, Mikolov & Bengio (2013), eq. 3 to 5.
    """
    params, xs = check_run(cell, params, xs, carry, "a gradient of the recurrent weights")
    flags, weights = Flags(resets, seq_lengths, mask), _recurrent(cell, params)
    return backpropagated(cell, params, xs, loss, carry, flags, weights, lambda _, dw: dw)


def weight_gradient_norms_by_lag(
    cell: Recurrent,
    params: Params,
    xs: Array,
    loss: Loss,
    carry: Carry | None = None,
    *,
    resets: Array | None = None,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
) -> dict[str, Array]:
    """Compute the Frobenius norm of dL/dW_t for every t, with no more memory than BPTT.

    Arguments and errors are those of `weight_gradient_by_lag`.

    Returns:
        {name: [T]}, in the order of time, of the gradient summed over the batch.
    """
    params, xs = check_run(cell, params, xs, carry, "a gradient of the recurrent weights")
    flags, weights = Flags(resets, seq_lengths, mask), _recurrent(cell, params)

    def norms(_: Carry, dweights: Params) -> dict[str, Array]:
        return jax.tree.map(lambda leaf: norm([leaf]), dweights)

    return backpropagated(cell, params, xs, loss, carry, flags, weights, norms)


def _recurrent(cell: Recurrent, params: Params) -> Params:
    """The parameters that `cell.recurrent` names."""
    missing = [name for name in cell.recurrent if name not in params]
    if missing:
        wanted = f"names in params, {sorted(params)}"
        remedy = "set `recurrent` on the class of the cell"
        raise fail("cell.recurrent", cell.recurrent, wanted, remedy)
    return cell.weights(params)
