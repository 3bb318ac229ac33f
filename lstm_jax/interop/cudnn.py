"""Conversion to and from jax.experimental.rnn, cuDNN's LSTM with all weights in one vector.

The vector holds every matrix, then every bias, layer by layer and forward before backward:

    w_ih [4H, D], w_hh [4H, H]; ...; b_ih [4H], b_hh [4H]; ...      rows i, f, g, o
"""

from typing import Any

import numpy as np

from .._cells.lstm import LSTM
from .._checks import check_positive_int, fail
from .._typing import Params
from ._layout import bias_params, from_layout, to_layout, two_biases
from ._nets import Layer, Part, check_alike, check_cells, check_merge, join, take_apart
from ._source import as_numpy, check_tensor

__all__ = ["from_cudnn", "to_cudnn"]
__dir__ = __all__.copy

HELD = {"LSTM": {"bias": None, "double_bias": None}}


def from_cudnn(
    weights: Any,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bidirectional: bool = False,
    *,
    double_bias: bool = False,
    dropout: float = 0.0,
) -> tuple[Any, Params]:
    """Read the weight vector of `jax.experimental.rnn` as (net, params).

    Args:
        weights: [N] float32, as `jax.experimental.rnn.init_lstm_weight` returns.
        input_size, hidden_size, num_layers, bidirectional: as for `jax.experimental.rnn.lstm`.
        double_bias: keep the two biases apart, to train exactly like cuDNN.
        dropout: rate of dropout between the layers.

    Raises:
        ValueError: a size below one; a vector of the wrong length, or one that is not finite.
    """
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for name, size in sizes.items():
        check_positive_int(name, size)
    shapes = _shapes(input_size, hidden_size, num_layers, bidirectional)
    total = sum(int(np.prod(shape)) for shape in shapes)
    flat = check_tensor("weights", weights, "[N], N by the four sizes", total)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    blocks = [a.reshape(s) for a, s in zip(np.split(flat, ends), shapes, strict=True)]
    middle = len(blocks) // 2
    matrices, biases = blocks[:middle], blocks[middle:]
    pairs = zip(matrices[::2], matrices[1::2], biases[::2], biases[1::2], strict=True)
    parts = [_read(hidden_size, double_bias, *arrays) for arrays in pairs]
    directions = 2 if bidirectional else 1
    ranges = range(0, len(parts), directions)
    return join([Layer(tuple(parts[n : n + directions])) for n in ranges], dropout)


def to_cudnn(net: Any, params: Params) -> np.ndarray:
    """Write the weight vector [N] of `jax.experimental.rnn.lstm`.

    Raises:
        ValueError: the net is not an LSTM or a stack of equal ones.
    """
    layers = take_apart(net, params)
    check_cells(layers, "cudnn", HELD)
    check_merge(layers, "cudnn")
    check_alike(layers, "cudnn")
    parts = [part for layer in layers for part in layer.parts]
    matrices = [part.params[name] for part in parts for name in ("w_ih", "w_hh")]
    biases = [bias for part in parts for bias in two_biases(*part)]
    arrays = [to_layout("cudnn", "LSTM", array).T for array in (*matrices, *biases)]
    if any(array.dtype != np.float32 for array in arrays):
        raise fail("params", "another dtype", "float32, which is all that cudnn has", "cast them")
    return np.concatenate([np.ravel(array) for array in arrays])


def _shapes(size: int, hidden: int, layers: int, bidirectional: bool) -> list[tuple[int, ...]]:
    """Shapes of the matrices and biases in the vector, in order."""
    directions = 2 if bidirectional else 1
    matrices = []
    for layer in range(layers):
        inputs = size if layer == 0 else directions * hidden
        matrices += [(4 * hidden, inputs), (4 * hidden, hidden)] * directions
    return matrices + [(4 * hidden,)] * len(matrices)


def _read(hidden_size: int, double_bias: bool, *arrays: Any) -> Part:
    cell = LSTM(hidden_size, double_bias=double_bias)
    w_ih, w_hh, b_ih, b_hh = (from_layout("cudnn", "LSTM", as_numpy(a).T) for a in arrays)
    return Part(cell, {"w_ih": w_ih, "w_hh": w_hh} | bias_params(cell, b_ih, b_hh))
