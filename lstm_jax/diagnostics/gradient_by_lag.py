"""Gradients of a loss with respect to the carry at every step: vanishing and explosion by lag."""

from typing import Any

import jax
import jax.numpy as jnp

from .._cells.contract import Recurrent
from .._checks import as_array, check_floating, concrete, fail
from .._numerics import norm
from .._typing import Array, Carry, Params
from ._bptt import Flags, Loss, backpropagated

__all__ = ["gradient_norms_by_lag", "gradients_by_lag", "mean_log_norms", "slope_per_step"]
__dir__ = __all__.copy


def gradients_by_lag(
    cell: Recurrent,
    params: Params,
    xs: Array,
    loss: Loss,
    carry: Carry | None = None,
    *,
    resets: Array | None = None,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
) -> Carry:
    """Compute dL/ds_t for every t, with s_t the carry after step t, in one backward pass.

    Each leaf is a partial derivative with the other leaves held constant. dL/dh_t is the effect of
    h_t on y_t and on step t + 1 for constant c_t; dL/dc_t is the effect of c_t on step t + 1 for
    constant h_t. The dL/dc_t of the textbooks, in which c_t also acts through h_t = o_t tanh(c_t),
    is

        dL/dc_t + o_t (1 - tanh(c_t)^2) dL/dh_t.

    So for a loss on the last output alone, dL/dc_{T-1} = 0.

    The direct effect on y_t is that of `cell.output(params, carry)`, by default h_t. A cell that
    defines its own `step` with other outputs must override `output` too: with y_t as a function of
    the carry or, if it is not one, with zeros of its shape, so that only later steps count. The
    effect through later steps does not depend on `output`.

    A step that is not valid keeps the carry and has y_t = 0, so dL/ds_t = dL/ds_{t+1}; before a
    reset only y_t counts.

    Args:
        cell: any cell.
        params: as from `cell.init`.
        xs: [T, *batch, D].
        loss: `loss(ys) -> scalar`, ys [T, *batch, H]. A mean over the batch divides the gradient
            of each example by B; a sum does not.
        carry: the carry before the first step; None: `cell.initial_carry`.
        resets, seq_lengths, mask: as in `unroll`.

    Returns:
        A NamedTuple of the carry's type, leaves [T, *batch, H] in the order of time: entry t has
        the lag T - 1 - t to the last step. The unit is that of the loss per unit of state.

    Raises:
        ValueError: as `unroll`; or the shape of `cell.output` is not that of ys.

    Source: Pascanu, Mikolov & Bengio (2013), eq. 4 and 5, on the full carry.
    """
    flags = Flags(resets, seq_lengths, mask)
    return backpropagated(cell, params, xs, loss, carry, flags, {}, lambda a, _: a)


def gradient_norms_by_lag(
    cell: Recurrent,
    params: Params,
    xs: Array,
    loss: Loss,
    carry: Carry | None = None,
    *,
    resets: Array | None = None,
    seq_lengths: Array | None = None,
    mask: Array | None = None,
) -> Carry:
    """Compute the norms |dL/ds_t|_2 for every t, each leaf s of the carry and each example.

    Arguments, derivatives and errors are those of `gradients_by_lag`. The norm is scaled before it
    is squared, so it is accurate over the range of the dtype, 1e-38 to 3e38 in float32. Below this
    range a gradient is zero, above it Inf or, once Inf has met a zero or another Inf, NaN. Scale
    the loss to shift the range.

    Returns:
        A NamedTuple of the carry's type, `LSTMState(h, c)` for an LSTM, leaves [T, *batch] in the
        order of time: entry t has the lag T - 1 - t. Both `mean_log_norms` and `slope_per_step`
        take these norms.
    """
    flags = Flags(resets, seq_lengths, mask)

    def norms(a: Carry, _: Params) -> Carry:
        return jax.tree.map(lambda leaf: norm([leaf], leaf.ndim - 1), a)

    return backpropagated(cell, params, xs, loss, carry, flags, {}, norms)


def mean_log_norms(norms: Any) -> Any:
    """Average ln(norm) over the batch: [T, *batch] -> [T], for each leaf.

    It is the mean of logarithms, as the logarithm of the mean would be that of the largest example.
    A zero counts as the smallest normal number of the dtype (its ln is -87 in float32).
    """

    def mean_log(leaf: Array) -> Array:
        leaf = _checked(leaf)
        logs = jnp.log(jnp.maximum(leaf, jnp.finfo(leaf.dtype).tiny))
        return logs.mean(axis=tuple(range(1, leaf.ndim)))

    return jax.tree.map(mean_log, norms)


def slope_per_step(norms: Any) -> Any:
    """Least-squares slope of ln(norm) against the lag, in nats per step; < 0 if gradients vanish.

        slope = sum_t w_t (k_t - k) ln n_t / sum_t w_t (k_t - k)^2,   k_t = T - 1 - t,  k their mean

    Steps whose norm is not a finite normal number have the weight w_t = 0, the others 1, so that an
    underflow to zero does not bend the line.

    Args:
        norms: [T, *batch], or a NamedTuple of such, as from `gradient_norms_by_lag`.

    Returns:
        [*batch] for each leaf; NaN with fewer than two usable steps.

    Raises:
        ValueError: there is no time axis, or a norm is negative.
    """
    return jax.tree.map(_slope, norms)


def _slope(norms: Array) -> Array:
    norms = _checked(norms)
    lag = jnp.arange(norms.shape[0] - 1, -1, -1, dtype=norms.dtype)
    lag = jnp.broadcast_to(lag.reshape(-1, *[1] * (norms.ndim - 1)), norms.shape)
    usable = jnp.isfinite(norms) & (norms >= jnp.finfo(norms.dtype).tiny)
    logs = jnp.log(jnp.where(usable, norms, 1))
    lag = lag - jnp.mean(lag, axis=0, where=usable, keepdims=True)
    lag = jnp.where(usable, lag, 0)
    return jnp.sum(lag * logs, axis=0) / jnp.sum(lag**2, axis=0)


def _checked(norms: Any) -> Array:
    """Convert the norms to an array; raise unless it has a time axis, or if one is negative."""
    norms = jnp.asarray(as_array("norms", norms))
    check_floating("norms", norms)
    if norms.ndim == 0:
        raise fail("norms", "a scalar", "[T, *batch]", "pass the norms of all steps")
    values = concrete(norms)
    if values is not None and (values < 0).any():
        remedy = "pass the norms themselves, not their logarithms"
        raise fail("norms", f"values down to {values.min():.3g}", "values of at least 0", remedy)
    return norms
