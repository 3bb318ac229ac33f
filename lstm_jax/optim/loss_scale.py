"""Dynamic loss scaling, for gradients computed in float16."""

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax

from .._checks import check_positive_int, fail, is_real, shown
from .._numerics import summable
from .._typing import Array
from ._inside import check_optimizer, only

__all__ = ["LossScaleState", "dynamic_loss_scale", "loss_scale"]
__dir__ = __all__.copy

LARGEST = 2.0**24
"""The largest scale: far above the range of float16, and far from overflow in float32."""


class LossScaleState(NamedTuple):
    """State of `dynamic_loss_scale`.

    Attributes:
        scale: float32 [], what the next loss is to be multiplied by; at least 1.
        row: int32 [], the number of finite gradients since the scale last changed.
        overflows: int32 [], the number of updates that were left out.
        overflowed: bool [], whether the last one was.
        inner: the state of the optimiser inside.
    """

    scale: Array
    row: Array
    overflows: Array
    overflowed: Array
    inner: optax.OptState


jax.export.register_namedtuple_serialization(
    LossScaleState, serialized_name="lstm_jax.LossScaleState"
)


def dynamic_loss_scale(
    tx: optax.GradientTransformation, *, initial: float = 2.0**15, period: int = 2000
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimiser so that it takes the gradient of a scaled loss (Micikevicius et al. 2018).

        tx = dynamic_loss_scale(clipped_sgd(0.1))
        grads = jax.grad(lambda p: loss(p) * loss_scale(opt_state))(params)
        updates, opt_state = tx.update(grads, opt_state, params)

    Below 6e-8 a number is zero in float16, and so are many gradients. Of a loss times 2^15 they are
    not. `lstm_jax.train.make_step` multiplies the loss by itself; here the gradient is divided by
    the scale before `tx`, its clipping included, sees it. The scale finds its size alone: where the
    gradient overflows, the update is left out and the scale halved; after `period` finite gradients
    in a row it is doubled. At a scale of 1 no smaller one would help, and a gradient that is not
    finite goes on to `tx`, which may be `guarded`.

    The range of bfloat16 is that of float32: it needs no scale.

    Args:
        tx: the optimiser.
        initial: the first scale, from 1 to 2^24.
        period: finite gradients in a row until the scale is doubled.

    Raises:
        ValueError: an argument out of its range; parameters of 16 bits, whose small updates would
            be lost: keep them in float32, and compute in float16 by the cell's `dtype`.
    """
    if not is_real(initial) or not 1 <= initial <= LARGEST:
        raise fail("initial", shown(initial), "a number in [1, 2^24]", "pass for example 2.0**15")
    check_positive_int("period", period)
    check_optimizer(tx)
    tx = optax.with_extra_args_support(tx)

    def init(params: Any) -> LossScaleState:
        _check_wide(params)
        row, overflows = (jnp.zeros((), jnp.int32) for _ in range(2))
        scale, overflowed = jnp.full((), initial, jnp.float32), jnp.zeros((), bool)
        return LossScaleState(scale, row, overflows, overflowed, tx.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda g: g / state.scale.astype(g.dtype), updates)
        finite = jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]).all()
        overflowed = ~finite & (state.scale > 1)
        steps, inner = tx.update(grads, state.inner, params, **extra)
        old = jax.tree.map(jnp.zeros_like, steps), state.inner
        steps, inner = jax.tree.map(lambda a, b: jnp.where(overflowed, a, b), old, (steps, inner))
        row = jnp.where(finite, state.row + 1, 0) % period
        up = jnp.where(finite & (row == 0), jnp.minimum(state.scale * 2, LARGEST), state.scale)
        scale = jnp.where(overflowed, jnp.maximum(state.scale / 2, 1), up)
        overflows = state.overflows + overflowed.astype(jnp.int32)
        return steps, LossScaleState(scale, row, overflows, overflowed, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def loss_scale(state: Any) -> Array | None:
    """The scale of the next loss, from any state that holds one `LossScaleState`; None without."""
    found = only(LossScaleState, state)
    return None if found is None else found.scale


def _check_wide(params: Any) -> None:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if summable(dtype) != dtype:
            seen = f"dtype {dtype} at {jax.tree_util.keystr(keys) or 'the only leaf'}"
            remedy = (
                'keep parameters in float32, and compute in float16 by the cell\'s dtype="float16"'
            )
            raise fail("params", seen, "float32 or wider", remedy)
