"""What a clip of optax does, for a training log."""

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax

from .._typing import Array
from ._inside import check_optimizer
from .clipped import global_norm

__all__ = ["ObservedState", "observed"]
__dir__ = __all__.copy


class ObservedState(NamedTuple):
    """State of `observed`; its structure and dtypes never change, as `lax.scan` requires.

    Attributes:
        count: int32 [], the number of updates.
        clipped: int32 [], updates of which some entry was changed.
        not_clips: int32 [], updates of which some entry grew or changed its sign.
        norm_before: float32 [], the global norm of the last gradients before the clip.
        norm_after: float32 [], the global norm after it.
        inner: the state of the clip.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    clipped: Array
    not_clips: Array
    norm_before: Array
    norm_after: Array
    inner: optax.OptState


jax.export.register_namedtuple_serialization(
    ObservedState, serialized_name="lstm_jax.ObservedState"
)


def observed(clip: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Keep the norms before and after a clip, and how often it clips; the clip is as it was.

        tx = optax.chain(observed(optax.clip_by_global_norm(1.0)), optax.adamw(1e-3))

    Clips of optax keep nothing, so that nothing could be told of one inside an optimiser. With this
    around it `report` and the info of `lstm_jax.train.make_step` have its norms and clip rate. An
    update counts as clipped if the clip changed any entry of the gradient, by whatever rule:
    `optax.clip`, `optax.adaptive_grad_clip`, `optax.clip_by_block_rms`, `clip_by_global_norm` here.

    Args:
        clip: the clip alone, not the optimiser behind it. If an entry ever grows or changes its
            sign it is no clip, and the clip rate is NaN.

    Raises:
        ValueError: `clip` is no transformation of optax; in `update`, gradients that are not
            real floats.
    """
    check_optimizer(clip, "clip")
    clip = optax.with_extra_args_support(clip)

    def init(params: Any) -> ObservedState:
        # Distinct arrays: a donated state may not hold one buffer twice.
        count, clipped, not_clips = (jnp.zeros((), jnp.int32) for _ in range(3))
        before, after = (jnp.zeros((), jnp.float32) for _ in range(2))
        return ObservedState(count, clipped, not_clips, before, after, clip.init(params))

    def update(
        updates: Any, state: ObservedState, params: Any = None, **extra: Any
    ) -> tuple[Any, ObservedState]:
        after, inner = clip.update(updates, state.inner, params, **extra)
        return after, ObservedState(
            count=state.count + 1,
            clipped=state.clipped + _any(_is_changed, updates, after),
            not_clips=state.not_clips + _any(_is_no_clip, updates, after),
            norm_before=global_norm(updates).astype(jnp.float32),
            norm_after=global_norm(after).astype(jnp.float32),
            inner=inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _any(test: Any, before: Any, after: Any) -> Array:
    """1 if the test holds for any entry, else 0."""
    flags = jax.tree.leaves(jax.tree.map(lambda b, a: jnp.any(test(b, a)), before, after))
    return jnp.any(jnp.stack(flags)).astype(jnp.int32) if flags else jnp.zeros((), jnp.int32)


def _is_changed(before: Array, after: Array) -> Array:
    # NaN differs from itself.
    return (after != before) & ~jnp.isnan(before) & ~jnp.isnan(after)


def _is_no_clip(before: Array, after: Array) -> Array:
    rounding = 1 + 8 * jnp.finfo(jnp.result_type(before)).eps
    grown = jnp.abs(after) > jnp.abs(before) * rounding
    return grown | (jnp.sign(before) * jnp.sign(after) < 0)
