"""Why a network does or does not learn: how gradients and states travel through time.

Pure functions of (cell, params, xs), for any cell, on its full carry, under jit and vmap. Rates
are in nats per step, everywhere.
"""

from .gates import GateStatistics as GateStatistics
from .gates import gate_statistics as gate_statistics
from .gradient_by_lag import gradient_norms_by_lag as gradient_norms_by_lag
from .gradient_by_lag import gradients_by_lag as gradients_by_lag
from .gradient_by_lag import mean_log_norms as mean_log_norms
from .gradient_by_lag import slope_per_step as slope_per_step
from .jacobian import carry_to_vector as carry_to_vector
from .jacobian import step_jacobian as step_jacobian
from .jacobian import vector_to_carry as vector_to_carry
from .lyapunov import LyapunovSpectrum as LyapunovSpectrum
from .lyapunov import entropy as entropy
from .lyapunov import kaplan_yorke_dimension as kaplan_yorke_dimension
from .lyapunov import lyapunov_spectrum as lyapunov_spectrum
from .singular_values import jacobian_product_singular_values as jacobian_product_singular_values
from .weight_gradient_by_lag import weight_gradient_by_lag as weight_gradient_by_lag
from .weight_gradient_by_lag import weight_gradient_norms_by_lag as weight_gradient_norms_by_lag
from .weights import gate_blocks as gate_blocks
from .weights import henrici as henrici
from .weights import spectral_norm as spectral_norm
from .weights import spectral_radius as spectral_radius
