"""Initial weights and biases, one gate block at a time.

Every initializer is a frozen dataclass named in lower case: what it prints is what makes it, two of
the same arguments are equal and hash alike, so a cell that holds one stays a static jit argument.
Called as `init(key, shape, dtype)`, the form of `jax.nn.initializers`, whose functions therefore
work in their place.

A cell with G gates calls `blocks` for its matrices and `bias` for its biases. Both apply the
initializer to each gate alone (`[D, H]` for w_ih, `[H, H]` for w_hh, `(H,)` for b): the fans of the
whole `[D, G*H]` matrix count gates that share no unit, and a QR of it is orthogonal in no gate.
A `GateBias` sees all gates of b at once, because what it gives a gate depends on the gate's role;
a `GateMatrix` all gates of a matrix, for the starts of libraries that draw them together. `preset`
has these by name.

All draw in float32 or wider and round once, so bfloat16 and float16 work everywhere.

Shape letters: D input, H hidden, G gates.
"""

from ._cells import bias as bias
from ._cells import blocks as blocks
from ._cells import two_biases as two_biases
from ._draw import Initializer as Initializer
from ._gates import GateBias as GateBias
from ._gates import chrono as chrono
from ._gates import forget_bias as forget_bias
from ._gates import power_law as power_law
from ._gates import summed as summed
from ._matrix import GateMatrix as GateMatrix
from ._matrix import Sizes as Sizes
from ._matrix import hidden_uniform as hidden_uniform
from ._matrix import stacked as stacked
from ._matrix import whole as whole
from ._plain import constant as constant
from ._plain import glorot_normal as glorot_normal
from ._plain import glorot_uniform as glorot_uniform
from ._plain import lecun_normal as lecun_normal
from ._plain import normal as normal
from ._plain import small_normal as small_normal
from ._plain import truncated_normal as truncated_normal
from ._plain import uniform as uniform
from ._plain import zeros as zeros
from ._presets import PRESETS as PRESETS
from ._presets import preset as preset
from ._structured import identity as identity
from ._structured import orthogonal as orthogonal
from ._structured import spectral_radius as spectral_radius
