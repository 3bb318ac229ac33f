"""SGD on clipped gradients, with a report of what was clipped."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .._checks import as_array, check_bool, fail, is_real, shown
from .._numerics import norm, norm_factors

__all__ = [
    "ClippedSGDState",
    "clip_by_global_norm",
    "clipped_sgd",
    "global_norm",
]
__dir__ = __all__.copy


class ClippedSGDState(NamedTuple):
    """State of `clipped_sgd`; its structure and dtypes never change, as `lax.scan` requires."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """Number of updates, skipped ones included; int32 []."""
    clipped: Array
    """Number of updates whose gradient norm was above max_norm; int32 []."""
    skipped: Array
    """Number of updates skipped because a gradient was NaN or Inf; int32 []."""
    norm_before: Array
    """Global norm of the last gradients before clipping (NaN or Inf if skipped); float32 []."""
    norm_after: Array
    """Global norm of the last gradients after clipping (0 if skipped); float32 []."""
    inner: optax.OptState
    """State of weight decay, momentum (in float32 or wider) and schedule."""


jax.export.register_namedtuple_serialization(
    ClippedSGDState, serialized_name="lstm_jax.ClippedSGDState"
)


def clipped_sgd(
    learning_rate: optax.ScalarOrSchedule,
    max_norm: float | None = 1.0,
    momentum: float | None = None,
    nesterov: bool = False,
    weight_decay: float | None = None,
) -> optax.GradientTransformation:
    """SGD on gradients clipped by their global norm (Pascanu et al. 2013, algorithm 1).

        norm = sqrt(sum of g^2 over every entry of every leaf)
        g    = g * max_norm / norm   if norm > max_norm
        g    = g + weight_decay * w
        buf  = momentum * buf + g
        g    = g + momentum * buf    if nesterov, else buf
        w    = w - learning_rate * g

    This is `torch.optim.SGD` after `torch.nn.utils.clip_grad_norm_`. If any gradient is NaN or Inf
    the update is skipped: updates are 0, momentum and the schedule's count stay, `skipped` rises.
    Arithmetic is in float32 or wider; updates have the dtype of the gradients.

    Args:
        learning_rate: a number >= 0, or an optax schedule from step to number.
        max_norm: the largest global norm of a gradient; None or inf switches clipping (not
            skipping) off.
        momentum: in [0, 1); None or 0 keeps no buffer.
        nesterov: use Nesterov momentum; needs momentum > 0.
        weight_decay: added after the clip, so it is not clipped; needs `params` in `update`. None
            or 0: none.

    Each number may be an array, so that `optax.inject_hyperparams(clipped_sgd)` can change it
    during training. Which numbers are given decides what the state holds: a momentum or weight
    decay that is an array has a state even while it is 0.

    To accumulate gradients, write

        optax.MultiSteps(clipped_sgd(0.1), n, should_skip_update_fn=optax.skip_not_finite)

    Without the last argument a single micro-batch of NaN or Inf stays in MultiSteps' mean for ever,
    and every later update is skipped; `skipped` in `report` then keeps rising.

    Raises:
        ValueError: for an argument out of its range, gradients that are not real floats, or a
            weight decay without `params`.
    """
    _check_arguments(learning_rate, max_norm, momentum, nesterov, weight_decay)
    inner = _sgd(learning_rate, momentum, nesterov, weight_decay)

    def init(params):
        # Five distinct arrays: a donated state may not hold one buffer twice.
        count, clipped, skipped = (jnp.zeros((), jnp.int32) for _ in range(3))
        before, after = (jnp.zeros((), jnp.float32) for _ in range(2))
        return ClippedSGDState(count, clipped, skipped, before, after, inner.init(_widen(params)))

    def update(updates, state, params=None):
        if params is None and not _is_none(weight_decay):
            raise fail("params", None, "the parameters", "call tx.update(grads, state, params)")
        grads, info = _clip(updates, max_norm)
        wide = None if params is None else _widen(params)
        steps, inner_state = inner.update(_widen(grads), state.inner, wide)
        steps = jax.tree.map(lambda s: jnp.where(info.finite, s, 0), steps)
        steps = jax.tree.map(lambda s, g: s.astype(g.dtype), steps, grads)
        return steps, _next_state(state, info, inner_state)

    return optax.GradientTransformation(init, update)


def clip_by_global_norm(max_norm: float | None) -> optax.GradientTransformation:
    """Gradient clipping to chain before another optimiser: g * max_norm / norm if norm > max_norm.

    It has no state. Unlike with optax's, finite gradients never overflow the norm. If any gradient
    is NaN or Inf all become NaN, so that a wrapper such as `optax.apply_if_finite` catches it.

    Raises:
        ValueError: if max_norm is not positive, or gradients are not real floats.
    """
    _check_max_norm(max_norm)

    def update(updates, state, params=None):
        del params
        grads, info = _clip(updates, max_norm)
        grads = jax.tree.map(lambda g: jnp.where(info.finite, g, jnp.nan), grads)
        return grads, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def global_norm(tree: Any) -> Array:
    """L2 norm over all entries of all leaves, a float32 scalar (float64 if any leaf is).

        m = max |g|;   norm = m * sqrt(sum (g/m)^2);   0 if m = 0 and for an empty tree

    Inf only if an entry is Inf or the norm itself is beyond the dtype; NaN only if an entry is.
    Its derivative is g / norm, and 0 at g = 0.
    """
    return norm(jax.tree.leaves(_widen(tree)))


class _ClipInfo(NamedTuple):
    finite: Array
    clipped: Array
    norm_before: Array
    norm_after: Array


def _clip(grads: Any, max_norm: float | None) -> tuple[Any, _ClipInfo]:
    """Clip gradients: (clipped ones, all zero if any entry is not finite; `_ClipInfo`)."""
    m, r = norm_factors(jax.tree.leaves(_widen(grads)))
    finite = jnp.isfinite(m)
    before = jnp.where(finite, m * r, m)
    limit = jnp.asarray(jnp.inf if max_norm is None else max_norm, before.dtype)
    # Without a limit an overflowed norm is not above it: inf > inf is False.
    clipped = finite & (before > limit)
    # Apply the factors one by one: m * r may overflow where neither m nor r does.
    # Without a clip all are 1, as the derivative of inf / r would spoil others.
    divisor, over, under = (jnp.where(clipped, x, 1) for x in (m, limit, r))
    factor = over / under

    def clip_leaf(g):
        # Zero here too: a later 0 * NaN would spoil derivatives taken through a skipped update.
        g = jnp.where(finite, g, 0)
        return (g.astype(before.dtype) / divisor * factor).astype(g.dtype)

    after = jnp.where(finite, jnp.minimum(before, limit), 0)
    return jax.tree.map(clip_leaf, grads), _ClipInfo(finite, clipped, before, after)


def _next_state(state: ClippedSGDState, info: _ClipInfo, inner: Any) -> ClippedSGDState:
    return ClippedSGDState(
        count=state.count + 1,
        clipped=state.clipped + info.clipped.astype(jnp.int32),
        skipped=state.skipped + (~info.finite).astype(jnp.int32),
        norm_before=info.norm_before.astype(jnp.float32),
        norm_after=info.norm_after.astype(jnp.float32),
        inner=jax.tree.map(lambda new, old: jnp.where(info.finite, new, old), inner, state.inner),
    )


def _sgd(learning_rate, momentum, nesterov, weight_decay) -> optax.GradientTransformation:
    pieces = []
    if not _is_none(weight_decay):
        pieces.append(optax.add_decayed_weights(weight_decay))
    if momentum is not None and not _is_none(momentum):
        pieces.append(optax.trace(momentum, nesterov))
    return optax.chain(*pieces, optax.scale_by_learning_rate(learning_rate))


def _widen(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, _accumulation_dtype(x)), tree)


def _accumulation_dtype(tree: Any) -> Any:
    leaves = jax.tree.leaves(tree)
    arrays = [x if hasattr(x, "dtype") else as_array("updates", x) for x in leaves]
    dtypes = [jnp.result_type(x) for x in arrays]
    for dtype in dtypes:
        if not jnp.issubdtype(dtype, jnp.floating):
            remedy = "mask other leaves out with optax.masked"
            wanted = "real floating-point gradients"
            raise fail("updates", f"a leaf of dtype {dtype}", wanted, remedy)
    return jnp.float64 if any(jnp.finfo(dtype).bits > 32 for dtype in dtypes) else jnp.float32


def _is_none(x: Any) -> bool:
    """True for None and a plain 0, which need no state; an array may change from 0 later."""
    return x is None or (isinstance(x, numbers.Real) and x == 0)


def _is_array(x: Any) -> bool:
    """True for a scalar array: it may be traced or change later, so its value is not checked."""
    if not isinstance(x, (jax.Array, np.ndarray, np.generic)) or x.ndim:
        return False
    return any(jnp.issubdtype(x.dtype, kind) for kind in (np.floating, np.integer))


def _check_number(argument: str, x: Any, wanted: str, remedy: str, inside: Any) -> None:
    """Raise unless x is an array, or a Python number that is `inside`."""
    if not _is_array(x) and not (is_real(x) and inside(float(x))):
        raise fail(argument, shown(x), wanted, remedy)


def _check_arguments(learning_rate, max_norm, momentum, nesterov, weight_decay) -> None:
    if not callable(learning_rate) or isinstance(learning_rate, type):
        wanted = "a number >= 0 or an optax schedule"
        remedy = "the sign of descent is added here"
        _check_number("learning_rate", learning_rate, wanted, remedy, lambda x: 0 <= x < math.inf)
    _check_max_norm(max_norm)
    if momentum is not None:
        remedy = "pass momentum=0.9, or 0 for none"
        _check_number("momentum", momentum, "a number in [0, 1)", remedy, lambda x: 0 <= x < 1)
    check_bool("nesterov", nesterov)
    if nesterov and _is_none(momentum):
        raise fail(
            "nesterov", f"True with momentum={momentum}", "momentum > 0", "pass momentum=0.9"
        )
    if weight_decay is not None:
        remedy = "pass weight_decay=0 for none"
        wanted = "a number >= 0"
        _check_number("weight_decay", weight_decay, wanted, remedy, lambda x: 0 <= x < math.inf)


def _check_max_norm(max_norm: Any) -> None:
    if max_norm is not None:
        remedy = "pass max_norm=None to switch clipping off"
        _check_number("max_norm", max_norm, "a positive number or None", remedy, lambda x: x > 0)
