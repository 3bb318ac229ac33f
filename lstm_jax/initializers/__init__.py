"""Initial weights and biases, one gate block at a time.

Every initializer is a frozen dataclass named in lower case: what it prints is what makes it, two of
the same arguments are equal and hash alike, so a cell that holds one stays a static jit argument.
Called as `init(key, shape, dtype)`, the form of `jax.nn.initializers`, whose functions therefore
work in their place; but two of those are never equal, and a cell that holds one does not pickle.

A cell with G gates calls `blocks` for its matrices and `bias` for its biases. Both apply the
initializer to each gate alone (`[D, H]` for w_ih, `[H, H]` for w_hh, `(H,)` for b): the fans of the
whole `[D, G*H]` matrix count gates that share no unit, and a QR of it is orthogonal in no gate.
A `GateBias` sees all gates of b at once, because what it gives a gate depends on the gate's role;
a `GateMatrix` all gates of a matrix, for the starts of libraries that draw them together. `preset`
has these by name.

All draw in float32 or wider and round once, so bfloat16 and float16 work everywhere.

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
from ._structured import identity, orthogonal, spectral_radius

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


def __dir__() -> list[str]:
    """The public names alone, without what they are made with."""
    return __all__
