"""Clipped SGD: the optimiser that makes long recurrences trainable, and says what it did.

A recurrent network's gradient is a sum of products of up to T Jacobians, so now and then it is
larger than usual by many orders of magnitude (Pascanu, Mikolov & Bengio 2013, section 2). Scaling
it back to `max_norm` keeps its direction and bounds the step by learning_rate * max_norm.

Differs from `optax.chain(optax.clip_by_global_norm(c), optax.sgd(...))` in three ways:
1. the norm does not overflow: float32 gradients of 1e25 are clipped, not lost to g/inf = 0;
2. a step whose gradients hold NaN or Inf is skipped and counted, not passed on to the parameters;
3. the state carries the norms and counts that a training log needs (`report`).
"""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax
from jax import Array


class ClippedSGDState(NamedTuple):
    """State of `clipped_sgd`: scalars, of the same structure and dtypes from `init` on."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    """int32 []: updates seen, skipped ones included."""
    clipped: Array
    """int32 []: updates whose norm was above max_norm."""
    skipped: Array
    """int32 []: updates that held NaN or Inf."""
    norm_before: Array
    """float32 []: global norm of the last gradients as they came (NaN or Inf if skipped)."""
    norm_after: Array
    """float32 []: global norm of the last gradients once clipped (0 if skipped)."""
    inner: optax.OptState
    """State of weight decay, momentum and schedule: momentum in float32 or wider."""


jax.export.register_namedtuple_serialization(
    ClippedSGDState, serialized_name="lstm_jax.ClippedSGDState"
)


def clipped_sgd(
    learning_rate: optax.ScalarOrSchedule,
    max_norm: float | None = 1.0,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """SGD on gradients clipped by their global norm (Pascanu et al. 2013, algorithm 1).

        norm = sqrt(sum of g^2 over every entry of every leaf)
        g    = g * max_norm / norm   if norm > max_norm
        g    = g + weight_decay * w
        buf  = momentum * buf + g
        g    = g + momentum * buf    if nesterov, else buf
        w    = w - learning_rate * g

    which is `torch.optim.SGD` after `torch.nn.utils.clip_grad_norm_`. If any gradient is NaN or Inf
    the step is skipped: updates are 0, momentum and the schedule's count stay, `skipped` rises.
    Arithmetic is in float32 or wider; updates come in the dtype of the gradients.

    Args:
        learning_rate: a number >= 0, or an optax schedule from step to number.
        max_norm: the largest norm let through; None switches clipping (not skipping) off.
        momentum: in [0, 1); 0 keeps no buffer.
        nesterov: look ahead along the momentum; needs momentum > 0.
        weight_decay: added after the clip, so it is not clipped; needs `params` in `update`.

    Raises:
        ValueError: for an argument out of its range, or gradients that are not real floats.
    """
    _check_arguments(learning_rate, max_norm, momentum, nesterov, weight_decay)
    inner = _sgd(learning_rate, momentum, nesterov, weight_decay)

    def init(params):
        # Five arrays, not one five times: a donated state may not hold a buffer twice.
        count, clipped, skipped = (jnp.zeros((), jnp.int32) for _ in range(3))
        before, after = (jnp.zeros((), jnp.float32) for _ in range(2))
        return ClippedSGDState(count, clipped, skipped, before, after, inner.init(_widen(params)))

    def update(updates, state, params=None):
        grads, info = _clip(updates, max_norm)
        wide = None if params is None else _widen(params)
        steps, inner_state = inner.update(_widen(grads), state.inner, wide)
        steps = jax.tree.map(lambda s: jnp.where(info.finite, s, 0), steps)
        steps = jax.tree.map(lambda s, g: s.astype(g.dtype), steps, grads)
        return steps, _next_state(state, info, inner_state)

    return optax.GradientTransformation(init, update)


def report(state: Any) -> dict[str, Array]:
    """What a training log needs, from the state of `clipped_sgd` or any state that holds one.

    Returns:
        norm_before, norm_after: float32, of the last step; clipped, skipped, steps: int32 counts
        since `init`; clip_rate: float32, clipped / steps (0 before the first step).

    Raises:
        ValueError: if `state` holds no `ClippedSGDState`, or more than one.
    """
    found = [s for s in jax.tree.leaves(state, is_leaf=_is_state) if _is_state(s)]
    if len(found) != 1:
        raise ValueError(
            f"state: got {len(found)} ClippedSGDState inside, wanted one; "
            "pass the state of a single clipped_sgd"
        )
    s = found[0]
    return {
        "norm_before": s.norm_before,
        "norm_after": s.norm_after,
        "clip_rate": s.clipped.astype(jnp.float32) / jnp.maximum(s.count, 1).astype(jnp.float32),
        "clipped": s.clipped,
        "skipped": s.skipped,
        "steps": s.count,
    }


def clip_by_global_norm(max_norm: float | None) -> optax.GradientTransformation:
    """The clip alone, to chain before another optimiser: g * max_norm / norm if norm > max_norm.

    Keeps no state. Unlike optax's, finite gradients never overflow the norm. If any gradient is NaN
    or Inf, all become NaN: loud, so that a wrapper such as `optax.apply_if_finite` catches it.

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
    """L2 norm of all entries of all leaves, [] in float32 (float64 if any leaf is).

        m = max |g|;   norm = m * sqrt(sum (g/m)^2);   0 if m = 0 and for an empty tree

    Inf only if an entry is Inf or the norm itself is beyond the dtype; NaN only if an entry is.
    Its derivative is g / norm, and 0 at g = 0.
    """
    m, r = _norm_factors(tree)
    return jnp.where(jnp.isfinite(m), m * r, m)


class _ClipInfo(NamedTuple):
    finite: Array
    clipped: Array
    norm_before: Array
    norm_after: Array


def _clip(grads: Any, max_norm: float | None) -> tuple[Any, _ClipInfo]:
    """Clipped gradients, zeros if any entry is not finite; and what was seen."""
    m, r = _norm_factors(grads)
    finite = jnp.isfinite(m)
    norm = jnp.where(finite, m * r, m)
    limit = jnp.asarray(jnp.inf if max_norm is None else max_norm, norm.dtype)
    # Without a limit an overflowed norm is not above it: inf > inf is False.
    clipped = finite & (norm > limit)
    # The factors one by one, for m * r may overflow where neither of them does.
    divisor, factor = jnp.where(clipped, m, 1), jnp.where(clipped, limit / _nonzero(r), 1)

    def clip_leaf(g):
        # Zeroed here too: a later 0 * NaN would spoil derivatives taken through a skipped step.
        g = jnp.where(finite, g, 0)
        return (g.astype(norm.dtype) / divisor * factor).astype(g.dtype)

    norm_after = jnp.where(finite, jnp.minimum(norm, limit), 0)
    return jax.tree.map(clip_leaf, grads), _ClipInfo(finite, clipped, norm, norm_after)


def _norm_factors(tree: Any) -> tuple[Array, Array]:
    """m, near max |g|, and r = sqrt(sum (g/m)^2): norm = m * r. m is NaN or Inf if some g is."""
    dtype = _accumulation_dtype(tree)
    leaves = [jnp.asarray(g).astype(dtype) for g in jax.tree.leaves(tree)]
    m = jnp.zeros((), dtype)
    for g in leaves:
        m = jnp.maximum(m, jnp.max(jnp.abs(g), initial=0))
    # m cancels in m * r, so the derivative need not see it.
    m = _invertible(jax.lax.stop_gradient(m))
    divisor = _nonzero(m)
    squares = sum((jnp.sum(jnp.square(g / divisor)) for g in leaves), jnp.zeros((), dtype))
    return m, jnp.where(squares > 0, jnp.sqrt(_nonzero(squares)), 0)


def _invertible(m: Array) -> Array:
    """m moved to where 1/m is a normal number, or 0, or not finite.

    XLA divides by a scalar by multiplying with its inverse and counts denormals as 0, so g/m is 0
    for m above 1/tiny; and gradients below tiny have norm 0 by the same rule.
    """
    info = jnp.finfo(m.dtype)
    capped = jnp.where(jnp.isfinite(m), jnp.minimum(m, info.max / 8), m)
    return jnp.where(m < info.tiny, 0, capped)


def _nonzero(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)


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
    if not _is_zero(weight_decay):
        pieces.append(optax.add_decayed_weights(weight_decay))
    if not _is_zero(momentum):
        pieces.append(optax.trace(momentum, nesterov))
    return optax.chain(*pieces, optax.scale_by_learning_rate(learning_rate))


def _widen(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x).astype(_accumulation_dtype(x)), tree)


def _accumulation_dtype(tree: Any) -> Any:
    dtypes = [jnp.result_type(x) for x in jax.tree.leaves(tree)]
    for dtype in dtypes:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"updates: got a leaf of dtype {dtype}, wanted real floating-point gradients; "
                "mask other leaves out with optax.masked"
            )
    return jnp.float64 if any(jnp.finfo(dtype).bits > 32 for dtype in dtypes) else jnp.float32


def _is_state(x: Any) -> bool:
    return isinstance(x, ClippedSGDState)


def _is_zero(x: Any) -> bool:
    return isinstance(x, numbers.Real) and x == 0


def _outside(x: Any, low: float, high: float = math.inf, open_low: bool = False) -> bool:
    """Whether the number x is not in [low, high); arrays may be traced and are not looked at."""
    if not isinstance(x, numbers.Real):
        return False
    value = float(x)
    return not (low < value < high if open_low else low <= value < high)


def _check_arguments(learning_rate, max_norm, momentum, nesterov, weight_decay) -> None:
    if _outside(learning_rate, 0):
        raise ValueError(
            f"learning_rate: got {learning_rate}, wanted a number >= 0 or an optax schedule; "
            "the sign of descent is added here"
        )
    _check_max_norm(max_norm)
    if _outside(momentum, 0, 1):
        raise ValueError(
            f"momentum: got {momentum}, wanted a number in [0, 1); pass momentum=0.9, or 0 for none"
        )
    if nesterov and _is_zero(momentum):
        raise ValueError(
            "nesterov: got True with momentum=0, wanted momentum > 0; pass momentum=0.9"
        )
    if _outside(weight_decay, 0):
        raise ValueError(
            f"weight_decay: got {weight_decay}, wanted a number >= 0; pass weight_decay=0 for none"
        )


def _check_max_norm(max_norm: Any) -> None:
    if max_norm is not None and _outside(max_norm, 0, open_low=True):
        raise ValueError(
            f"max_norm: got {max_norm}, wanted a positive number or None; "
            "pass max_norm=None to switch clipping off"
        )
