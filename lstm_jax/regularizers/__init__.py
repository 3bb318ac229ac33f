"""Penalties to add to a loss: on weights, on outputs, and on the step Jacobian.

Shrinking w_hh (`l2`) cures exploding gradients and causes vanishing ones: the network becomes a
point attractor, in which information decays exponentially (Pascanu, Mikolov & Bengio 2013, section
3.1). Penalties on the change of a norm act on both: `orthogonality` makes w_hh keep the norm in
every direction, `omega` makes the step Jacobian keep it in the direction of the error.

Each penalty is a scalar in float32 or wider, to be added as `loss + strength * penalty`. To keep
singular values within exact bounds, use `keep_singular_values`, which projects after each update,
or `Orthogonal` and `NearOrthogonal`, which train other parameters from which w_hh is computed.
"""

from .activations import activation, norm_stabilizer, temporal_activation
from .omega import omega
from .parametrized import NearOrthogonal, Orthogonal
from .projection import clip_singular_values, keep_singular_values
from .weights import l2, manifold_attractor, orthogonality, singular_value_margin

__all__ = [
    "NearOrthogonal",
    "Orthogonal",
    "activation",
    "clip_singular_values",
    "keep_singular_values",
    "l2",
    "manifold_attractor",
    "norm_stabilizer",
    "omega",
    "orthogonality",
    "singular_value_margin",
    "temporal_activation",
]
__dir__ = __all__.copy
