"""Initial weights and biases, one gate block at a time.

Every initializer is a frozen dataclass named in lower case. Its repr is the call that makes it, and
two with the same arguments are equal and hash alike, so a cell that holds one stays a static jit
argument. It is called as `init(key, shape, dtype)`, like the functions of `jax.nn.initializers`.
Those work too, but no two of them are equal, and a cell that holds one cannot be pickled.

A cell with G gates calls `blocks` for its matrices and `bias` for its biases. Both apply the
initializer to each gate separately (`[D, H]` for w_ih, `[H, H]` for w_hh, `(H,)` for b): the fans
of the whole `[D, G*H]` matrix would count gates that share no unit, and its QR would be orthogonal
in no gate. A `GateBias` draws all gates of b at once, as the bias of a gate depends on its role. A
`GateMatrix` draws all gates of a matrix at once, as some other libraries do; `preset` has the
initialisations of those libraries by name.

All initializers draw in float32 or wider and round once, so bfloat16 and float16 work everywhere.

Shape letters: D input, H hidden, G gates.
"""

from ._cells import bias, blocks, two_biases
from ._draw import Initializer
from ._gates import GateBias, chrono, forget_bias, power_law, summed
from ._matrix import GateMatrix, Sizes, hidden_uniform, stacked, whole
from ._plain import (
    constant,
    glorot_normal,
    glorot_uniform,
    lecun_normal,
    normal,
    small_normal,
    truncated_normal,
    uniform,
    zeros,
)
from ._presets import PRESETS, preset
from ._structured import identity, orthogonal, rotations, spectral_radius

__all__ = [
    "PRESETS",
    "GateBias",
    "GateMatrix",
    "Initializer",
    "Sizes",
    "bias",
    "blocks",
    "chrono",
    "constant",
    "forget_bias",
    "glorot_normal",
    "glorot_uniform",
    "hidden_uniform",
    "identity",
    "lecun_normal",
    "normal",
    "orthogonal",
    "power_law",
    "preset",
    "rotations",
    "small_normal",
    "spectral_radius",
    "stacked",
    "summed",
    "truncated_normal",
    "two_biases",
    "uniform",
    "whole",
    "zeros",
]
__dir__ = __all__.copy
