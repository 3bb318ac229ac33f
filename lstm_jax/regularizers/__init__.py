"""Penalties to add to a loss: on the weights' size, their shape, and what they do to gradients.

Which of them acts on vanishing gradients is not a matter of taste. Shrinking W_hh (`l2`) cures
explosion and causes vanishing: the network becomes a point attractor in which information dies out
exponentially fast (Pascanu, Mikolov & Bengio 2013, section 3.1). Penalties that ask for norms to be
kept act on both: `orthogonality` asks it of W_hh in every direction, `omega` of the step Jacobian
in the direction of the error alone.

Each returns a scalar in float32 or wider, to be added as `loss + strength * penalty`; and where a
bound is to hold exactly, `keep_singular_values` projects after the update.
"""

from .activations import activation, norm_stabilizer, temporal_activation
from .omega import omega
from .projection import clip_singular_values, keep_singular_values
from .weights import l2, orthogonality, singular_value_margin

__all__ = [
    "activation",
    "clip_singular_values",
    "keep_singular_values",
    "l2",
    "norm_stabilizer",
    "omega",
    "orthogonality",
    "singular_value_margin",
    "temporal_activation",
]


def __dir__() -> list[str]:
    """The public names alone, without what they are made with."""
    return __all__
