"""Conversion of weights: `from_X(source) -> (net, params)` and `to_X(net, params)`.

    net, params = lstm_jax.interop.from_torch(torch.nn.LSTM(3, 4, num_layers=2))
    carry, ys = lstm_jax.unroll(net, params, xs)
    state = lstm_jax.interop.to_torch(net, params)

The other library need not be installed: its modules, trees and state dicts are read without it, and
`to_X` returns NumPy arrays in its layout. File formats need the extra `interop`.
"""

from . import files
from .cudnn import from_cudnn, to_cudnn
from .equinox import from_equinox, to_equinox
from .haiku import from_haiku, to_haiku
from .keras import from_keras, to_keras
from .linen import from_linen, to_linen
from .nnx import from_nnx, to_nnx
from .onnx import from_onnx, to_onnx
from .safetensors import from_safetensors, to_safetensors
from .torch import from_torch, to_torch

__all__ = [
    "files",
    "from_cudnn",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_onnx",
    "from_safetensors",
    "from_torch",
    "to_cudnn",
    "to_equinox",
    "to_haiku",
    "to_keras",
    "to_linen",
    "to_nnx",
    "to_onnx",
    "to_safetensors",
    "to_torch",
]
__dir__ = __all__.copy
