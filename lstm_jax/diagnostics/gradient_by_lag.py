"""Gradients of a loss with respect to the carry at every step: vanishing and explosion by lag."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._adjoints.back import diagnosed
from .._adjoints.cell import Layer
from .._adjoints.record import Given
from .._adjoints.scaled import log_norms, restored
from .._cells.contract import Recurrent
from .._checks import as_array, check_floating, fail
from .._net import Net
from .._numerics import at_least_float32
from .._typing import Array, Carry, Key, Params

__all__ = ["gradient_norms_by_lag", "gradients_by_lag", "mean_log_norms", "slope_per_step"]
__dir__ = __all__.copy

Loss = Callable[[Any], Array]
"""A loss: the outputs of all steps ys [T, *batch, H] -> scalar."""


def gradients_by_lag(
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
    """Compute dL/ds_t for every t, with s_t the carry of a cell after step t, in one backward pass.

    Each leaf is a partial derivative with the other leaves held constant. dL/dh_t is the effect of
    h_t on y_t and on step t + 1 for constant c_t; dL/dc_t is the effect of c_t on step t + 1 for
    constant h_t. The dL/dc_t of the textbooks, in which c_t also acts through h_t = o_t tanh(c_t),
    is

        dL/dc_t + o_t (1 - tanh(c_t)^2) dL/dh_t.

    So for a loss on the last output alone, dL/dc_{T-1} = 0.

    In a net, y_t of a cell acts on the loss through all layers above it, at step t and later.

    The direct effect on y_t is that of `cell.output(params, carry)`, by default h_t. A cell that
    defines its own `step` with other outputs must override `output` too: with y_t as a function of
    the carry or, if it is not one, with zeros of its shape, so that only later steps count. The
    effect through later steps does not depend on `output`.

    A step that is not valid keeps the carry and has y_t = 0, so dL/ds_t = dL/ds_{t+1}; before a
    reset only y_t counts.

    Args:
        cell: any cell or net.
        params: as from `cell.init`.
        xs: [T, *batch, D].
        loss: `loss(ys) -> scalar`, of the outputs ys [T, *batch, H] of the whole net. A mean over
            the batch divides the gradient of each example by B; a sum does not.
        carry: the carry before the first step; None: `cell.initial_carry`.
        seq_lengths, mask, resets, reverse, key: as in `unroll`; a key means the noise of training.

    Returns:
        The gradients of the carry, nested as `cell.initial_carry`: for a cell a NamedTuple of the
        carry's type, leaves [T, *batch, H] in the order of time. Entry t has the lag T - 1 - t to
        the last step; in a layer that walks backwards in time it is dL/ds_t all the same, after
        the steps T - 1 .. t. The unit is that of the loss per unit of state. What is below the
        range of the dtype is zero: `gradient_norms_by_lag` has no such limit.

    Raises:
        ValueError: as `unroll`; or the shape of `cell.output` is not that of ys.

    Source: Pascanu, Mikolov & Bengio (2013), eq. 4 and 5, on the full carry.
    """
    given = Given(seq_lengths, mask, resets, reverse, key)
    return diagnosed(cell, params, xs, loss, carry, given, _gradients)


def gradient_norms_by_lag(
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
    """Compute the norms |dL/ds_t|_2 in nats, ln |dL/ds_t|, for every t and each example.

    Arguments, derivatives and errors are those of `gradients_by_lag`. Each step back rescales the
    gradient of each example by a power of two, so nothing under- or overflows: a factor of 0.5 a
    step gives -6931 nats after 10,000 steps, in float32 too. The leaves of a carry share that
    power: one that falls 87 nats below another at the same step (708 in float64) comes out as -inf.
    In bfloat16 each step rounds, as the backward pass of training does: by some 0.001 nats. What it
    costs is in bench/results/costs-cpu-avx2.md, in gradients.

    Returns:
        ln of the norms of every leaf of the carry, nested as the carry is: `LSTMState(h, c)` for an
        LSTM, a tuple for a stack. Leaves [T, *batch] in the order of time: entry t has the lag
        T - 1 - t. It is -inf where a gradient is zero. `mean_log_norms` and
        `slope_per_step` take these norms.
    """
    given = Given(seq_lengths, mask, resets, reverse, key)
    return diagnosed(cell, params, xs, loss, carry, given, _norms)


def _gradients(cell: Recurrent, layer: Layer) -> Carry:
    del cell
    gradients = restored(layer.after)
    return jax.tree.map(lambda g, s: g.astype(s.dtype), gradients, layer.run.steps.after)


def _norms(cell: Recurrent, layer: Layer) -> Carry:
    del cell
    return log_norms(layer.after)


def mean_log_norms(norms: Any) -> Any:
    """Average norms in nats over the batch: [T, *batch] -> [T], for each leaf.

    It is the mean of logarithms, as the logarithm of the mean would be that of the largest example.
    It is -inf if one of them is.

    Args:
        norms: in nats, as from `gradient_norms_by_lag`: [T, *batch], or a pytree of such.

    Raises:
        ValueError: there is no time axis.
    """

    def mean_log(leaf: Any) -> Array:
        leaf = _checked(leaf)
        return leaf.mean(axis=tuple(range(1, leaf.ndim)))

    return jax.tree.map(mean_log, norms)


def slope_per_step(norms: Any) -> Any:
    """Least-squares slope of norms in nats against the lag, in nats per step; < 0 if they vanish.

        slope = sum_t w_t (k_t - k) ln n_t / sum_t w_t (k_t - k)^2,   k_t = T - 1 - t,  k their mean

    Steps whose norm is zero or not finite have the weight w_t = 0, the others 1.

    Args:
        norms: in nats, as from `gradient_norms_by_lag`: [T, *batch], or a pytree of such.

    Returns:
        [*batch] for each leaf, in float32 or wider; NaN with fewer than two usable steps.

    Raises:
        ValueError: there is no time axis.
    """
    return jax.tree.map(_slope, norms)


def _slope(norms: Any) -> Array:
    norms = _checked(norms)
    norms = norms.astype(at_least_float32(norms.dtype))  # In 16 bits lags are no longer numbers.
    lag = jnp.arange(norms.shape[0] - 1, -1, -1, dtype=norms.dtype)
    lag = jnp.broadcast_to(lag.reshape(-1, *[1] * (norms.ndim - 1)), norms.shape)
    usable = jnp.isfinite(norms)

    def centred(x: Array) -> Array:
        x = jnp.where(usable, x, 0)
        return jnp.where(usable, x - jnp.mean(x, axis=0, where=usable, keepdims=True), 0)

    lag, logs = centred(lag), centred(norms)  # Both, as ln n_t may be far from zero.
    return jnp.sum(lag * logs, axis=0) / jnp.sum(lag**2, axis=0)


def _checked(norms: Any) -> Array:
    """Convert the norms to an array; raise unless it has a time axis."""
    norms = jnp.asarray(as_array("norms", norms))
    check_floating("norms", norms)
    if norms.ndim == 0:
        raise fail("norms", "a scalar", "[T, *batch]", "pass the norms of all steps")
    return norms
