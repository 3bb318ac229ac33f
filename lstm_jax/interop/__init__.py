"""Weights from other libraries and back: `from_X(source) -> (net, params)`, `to_X(net, params)`.

    net, params = lstm_jax.interop.from_torch(torch.nn.LSTM(3, 4, num_layers=2))
    carry, ys = lstm_jax.unroll(net, params, xs)
    state = lstm_jax.interop.to_torch(net, params)

The other library is not imported: its modules, trees and state dicts are read as they come, and
what goes back are NumPy arrays in its layout. Formats of files need the extra `interop`.
"""

from . import files as files
from .cudnn import from_cudnn as from_cudnn
from .cudnn import to_cudnn as to_cudnn
from .equinox import from_equinox as from_equinox
from .equinox import to_equinox as to_equinox
from .haiku import from_haiku as from_haiku
from .haiku import to_haiku as to_haiku
from .keras import from_keras as from_keras
from .keras import to_keras as to_keras
from .linen import from_linen as from_linen
from .linen import to_linen as to_linen
from .nnx import from_nnx as from_nnx
from .nnx import to_nnx as to_nnx
from .onnx import from_onnx as from_onnx
from .onnx import to_onnx as to_onnx
from .safetensors import from_safetensors as from_safetensors
from .safetensors import to_safetensors as to_safetensors
from .torch import from_torch as from_torch
from .torch import to_torch as to_torch
