"""SGD with gradient clipping for recurrent networks, and what goes around an optimiser of optax.

A recurrent network's gradient is a sum of products of up to T Jacobians, so now and then its norm
is larger by many orders of magnitude (Pascanu, Mikolov & Bengio 2013, section 2). Scaling it down
to `max_norm` keeps its direction and bounds the update by learning_rate * max_norm.

`clipped_sgd` differs from `optax.chain(optax.clip_by_global_norm(c), optax.sgd(...))`:
1. the norm does not overflow: float32 gradients of 1e25 are clipped, not lost to g/inf = 0;
2. an update whose gradients hold NaN or Inf is skipped and counted; the parameters stay;
3. the state holds norms and counts for a training log (`report`).

`observed` around a clip of optax keeps such norms and counts too, for any optimiser behind it.
`guarded` says what happens where a loss or gradient is not finite, and `failures` what that was;
`average_params` keeps a moving average of the parameters; `dynamic_loss_scale` is for gradients in
float16. Everything is a transformation of optax, whose state holds all that the next update needs,
so that it is saved with the optimiser's.
"""

from ._report import report
from .averaged import AverageState, average_params, averaged
from .clipped import ClippedSGDState, clip_by_global_norm, clipped_sgd, global_norm
from .guarded import GuardState, failures, guarded
from .loss_scale import LossScaleState, dynamic_loss_scale, loss_scale
from .observed import ObservedState, observed

__all__ = [
    "AverageState",
    "ClippedSGDState",
    "GuardState",
    "LossScaleState",
    "ObservedState",
    "average_params",
    "averaged",
    "clip_by_global_norm",
    "clipped_sgd",
    "dynamic_loss_scale",
    "failures",
    "global_norm",
    "guarded",
    "loss_scale",
    "observed",
    "report",
]
__dir__ = __all__.copy
