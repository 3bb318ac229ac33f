"""How the gradient of a loss fades or grows on its way back through time, at every step at once."""

from typing import Any

import jax
import jax.numpy as jnp

from .._cells.contract import Recurrent
from .._checks import as_array, check_floating, fail
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
    """dL/ds_t for every t, s_t the carry that leaves step t, in one backward pass.

    Each leaf is a partial derivative, the others held: with eps_t added to h_t after step t,
    dL/dh_t = dL/deps_t counts the effect of h_t on y_t and on step t + 1 while c_t stays what it
    was, and dL/dc_t the effect of c_t on step t + 1 while h_t = o_t tanh(c_t) stays what it was.
    The dL/dc_t of the textbooks, which lets c_t act through h_t too, is

        dL/dc_t + o_t (1 - tanh(c_t)^2) dL/dh_t.

    So a loss on the last output alone has dL/dc_{T-1} = 0.

    The direct effect on y_t is that of `cell.output(params, carry)`, h_t by default. A cell that
    writes its own `step`, with outputs that are not so, must override `output` beside it: with
    what y_t is as a function of the carry or, where it is none, with zeros of its shape; then only
    later steps count. Everything else here is right whatever `output` says.

    At a step that is not valid the carry is held and y_t = 0, so dL/ds_t = dL/ds_{t+1}; before a
    reset nothing comes back, so only y_t counts.

    Args:
        cell: any cell.
        params: as from `cell.init`.
        xs: [T, *batch, D].
        loss: `loss(ys) -> scalar`, ys [T, *batch, H]. Its mean over a batch divides each example's
            gradient by B; a sum does not.
        carry: the carry before the first step; None: `cell.initial_carry`.
        resets, seq_lengths, mask: as in `unroll`.

    Returns:
        A NamedTuple of the carry's own type, leaves [T, *batch, H] in the order of time: entry t
        has the lag T - 1 - t to the last step. In units of the loss per unit of state.

    Raises:
        ValueError: as `unroll`; or `cell.output` has not the shape of ys.

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
    """|dL/ds_t|_2 for every t and each leaf s of the carry, example by example.

    Arguments, derivatives and errors are those of `gradients_by_lag`. The norm is scaled before it
    is squared, so it is right from the least number of the dtype to the largest, about 1e-38 to
    3e38 in float32. Below that a gradient is zero, and beyond it Inf and, once Inf has met a zero
    or another Inf, NaN; never zero again. Scale the loss to see further.

    Returns:
        A NamedTuple of the carry's own type, `LSTMState(h, c)` for an LSTM, leaves [T, *batch] in
        the order of time: entry t has the lag T - 1 - t. See `mean_log_norms`, `slope_per_step`.
    """
    flags = Flags(resets, seq_lengths, mask)

    def norms(a: Carry, _: Params) -> Carry:
        return jax.tree.map(lambda leaf: norm([leaf], leaf.ndim - 1), a)

    return backpropagated(cell, params, xs, loss, carry, flags, {}, norms)


def mean_log_norms(norms: Any) -> Any:
    """Mean over the batch of ln(norm): [T, *batch] -> [T], leaf by leaf.

    The mean of logarithms, not the logarithm of the mean, which the largest example alone would
    set. A zero counts as the least normal number of the dtype (ln is -87 in float32).
    """

    def mean_log(leaf: Array) -> Array:
        leaf = _checked(leaf)
        logs = jnp.log(jnp.maximum(leaf, jnp.finfo(leaf.dtype).tiny))
        return logs.mean(axis=tuple(range(1, leaf.ndim)))

    return jax.tree.map(mean_log, norms)


def slope_per_step(norms: Any) -> Any:
    """Least-squares slope of ln(norm) against the lag, in nats per step: < 0 where it vanishes.

        slope = sum_t w_t (k_t - k) ln n_t / sum_t w_t (k_t - k)^2,   k_t = T - 1 - t,  k their mean

    Steps whose norm is not a finite normal number have the weight w_t = 0, the others 1: an
    underflow to zero, or a c_{T-1} that the loss does not see, does not bend the line.

    Args:
        norms: [T, *batch], or a NamedTuple of such, as from `gradient_norms_by_lag`.

    Returns:
        [*batch] leaf by leaf; NaN with fewer than two usable steps.

    Raises:
        ValueError: there is no axis of time.
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
    """The norms as an array; raise unless they have an axis of time."""
    norms = jnp.asarray(as_array("norms", norms))
    check_floating("norms", norms)
    if norms.ndim == 0:
        raise fail("norms", "a scalar", "[T, *batch]", "pass the norms of all steps")
    return norms
