"""What an optimiser's state tells of its clip."""

from typing import Any

import jax.numpy as jnp

from .._checks import fail
from .._typing import Array
from ._inside import states_of
from .clipped import ClippedSGDState
from .observed import ObservedState

__all__ = ["CLIPS", "report"]
__dir__ = __all__.copy

CLIPS = ClippedSGDState | ObservedState
"""States that tell of a clip."""


def report(state: Any) -> dict[str, Array]:
    """Norms and counts for a training log, from a state with one `clipped_sgd` or `observed` clip.

    Returns:
        A dict: norm_before, norm_after, float32, the gradient norms of the last update; clipped,
        steps, int32 counts since `init`; clip_rate, float32, clipped / steps (0 before the first
        update); of `clipped_sgd` also skipped, an int32 count.

    Raises:
        ValueError: if `state` holds no `ClippedSGDState` or `ObservedState`, or more than one.
    """
    found = states_of(CLIPS, state)
    if len(found) != 1:
        seen = f"{len(found)} ClippedSGDState or ObservedState inside"
        raise fail("state", seen, "one", "pass the state of one clipped_sgd or observed clip")
    s = found[0]
    rate = s.clipped.astype(jnp.float32) / jnp.maximum(s.count, 1).astype(jnp.float32)
    told = {
        "norm_before": s.norm_before,
        "norm_after": s.norm_after,
        "clip_rate": rate,
        "clipped": s.clipped,
        "steps": s.count,
    }
    if isinstance(s, ClippedSGDState):
        return told | {"skipped": s.skipped}
    return told | {"clip_rate": jnp.where(s.not_clips > 0, jnp.nan, rate)}
