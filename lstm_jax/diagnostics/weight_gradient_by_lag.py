"""Contributions of single time steps to the gradient of the recurrent weights."""

from typing import Any

import jax

from .._adjoints.back import diagnosed
from .._adjoints.cell import Layer, weight_gradients
from .._adjoints.record import Given
from .._adjoints.scaled import log_norms, restored
from .._cells.contract import Recurrent
from .._net import Net
from .._typing import Array, Carry, Key, Params
from .gradient_by_lag import Loss

__all__ = ["weight_gradient_by_lag", "weight_gradient_norms_by_lag"]
__dir__ = __all__.copy


def weight_gradient_by_lag(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    loss: Loss,
    carry: Carry | None = None,
    *,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    key: Key | None = None,
) -> Any:
    """Compute dL/dW_t for every t, the part of step t in the gradient of the recurrent weights.

        dL/dW = sum_t dL/dW_t,      dL/dW_t = dL/ds_t d+s_t/dW

    with d+ the immediate derivative, for constant s_{t-1}. It works for any cell that names its
    recurrent parameters in `cell.recurrent`.

    Args:
        cell, params, xs, loss, carry: as in `gradients_by_lag`.
        seq_lengths, mask, resets, reverse, key: as in `unroll`; a key means the noise of training.

    Returns:
        {name: [T, *shape]} for each recurrent parameter, summed over the batch, such as
        {"w_hh": [T, H, G*H]}, in the order of time: entry t has the lag T - 1 - t. For a net these
        are nested as its carry is, one for each cell. To save its memory use
        `weight_gradient_norms_by_lag`.

    Raises:
        ValueError: `cell.recurrent` has a name that is not a parameter; or as `unroll`.

    Source: Pascanu, Mikolov & Bengio (2013), eq. 3 to 5.
    """
    given = Given(seq_lengths, mask, resets, reverse, key)
    return diagnosed(cell, params, xs, loss, carry, given, _gradients)


def weight_gradient_norms_by_lag(
    cell: Recurrent | Net,
    params: Params,
    xs: Array,
    loss: Loss,
    carry: Carry | None = None,
    *,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    key: Key | None = None,
) -> Any:
    """Compute the Frobenius norm of dL/dW_t in nats for every t, with the memory of BPTT.

    Arguments and errors are those of `weight_gradient_by_lag`. Like `gradient_norms_by_lag` it
    neither under- nor overflows.

    Returns:
        {name: [T]}, in the order of time, ln of the norm of the gradient summed over the batch;
        for a net nested as its carry is.
    """
    given = Given(seq_lengths, mask, resets, reverse, key)
    return diagnosed(cell, params, xs, loss, carry, given, _norms)


def _gradients(cell: Recurrent, layer: Layer) -> Params:
    own = cell.weights(layer.run.params)
    each = weight_gradients(cell, layer, restored)
    return jax.tree.map(lambda gradient, w: gradient.astype(w.dtype), each, own)


def _norms(cell: Recurrent, layer: Layer) -> Params:
    return weight_gradients(cell, layer, log_norms)
