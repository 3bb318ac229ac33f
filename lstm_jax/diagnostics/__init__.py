"""Diagnostics of gradients and states through time: do they vanish, explode or persist?

Pure functions of (cell, params, xs), for any cell or net, on full carries, under jit and vmap.
Norms of gradients are in nats (ln of the norm), rates in nats per step.
"""

from .fixed_points import FixedPoints, fixed_points
from .gates import GateStatistics, gate_statistics, gates
from .gradient_by_lag import gradient_norms_by_lag, gradients_by_lag, mean_log_norms, slope_per_step
from .gradient_by_path import gradient_norms_by_path
from .jacobian import carry_to_vector, step_jacobian, vector_to_carry
from .leading_singular_values import LeadingSingularValues, leading_singular_values
from .lyapunov import LyapunovSpectrum, entropy, kaplan_yorke_dimension, lyapunov_spectrum
from .mean_field import MeanField, critical_gain, mean_field
from .singular_values import jacobian_product_singular_values
from .smoothness import LocalSmoothness, local_smoothness
from .weight_gradient_by_lag import weight_gradient_by_lag, weight_gradient_norms_by_lag
from .weights import gate_blocks, henrici, spectral_norm, spectral_radius

__all__ = [
    "FixedPoints",
    "GateStatistics",
    "LeadingSingularValues",
    "LocalSmoothness",
    "LyapunovSpectrum",
    "MeanField",
    "carry_to_vector",
    "critical_gain",
    "entropy",
    "fixed_points",
    "gate_blocks",
    "gate_statistics",
    "gates",
    "gradient_norms_by_lag",
    "gradient_norms_by_path",
    "gradients_by_lag",
    "henrici",
    "jacobian_product_singular_values",
    "kaplan_yorke_dimension",
    "leading_singular_values",
    "local_smoothness",
    "lyapunov_spectrum",
    "mean_field",
    "mean_log_norms",
    "slope_per_step",
    "spectral_norm",
    "spectral_radius",
    "step_jacobian",
    "vector_to_carry",
    "weight_gradient_by_lag",
    "weight_gradient_norms_by_lag",
]
__dir__ = __all__.copy
