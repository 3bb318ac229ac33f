"""The ConvLSTM of linen and haiku: two convolutions that keep the shape, each with a bias.

    of x: kernel [*kernel_shape, D, 4H], bias [4H]    of h: kernel [*kernel_shape, H, 4H], bias [4H]

Channels i, g, f, o; every step adds one to f, with or without biases. The parameters do not tell
the spatial sizes of input and state.
"""

from typing import Any

import numpy as np

from .._cells.conv import ConvLSTM
from .._checks import fail
from ._layout import bias_params, from_layout, on_gate, to_layout, two_biases
from ._nets import Part
from ._source import Tensors

ONES = ((1,), (1, 1), (1, 1, 1))
HELD: dict[str, Any] = {
    "bias": None,
    "double_bias": None,
    "kernel_shape": None,
    "input_shape": None,
    "strides": ONES,
    "dilation": ONES,
}
"""Options of `ConvLSTM` that both libraries have."""
NAMES = {"linen": ("ih", "hh", "kernel", "bias"),
         "haiku": ("input_to_hidden", "hidden_to_hidden", "w", "b")}  # fmt: skip
"""Names of the two convolutions, then of the arrays in each."""


def read_conv(
    layout: str, name: str, tensors: Tensors, input_shape: Any, double_bias: bool
) -> Part:
    """Read the cell at `name`; without a bias it gets one for f, to which a one is added there."""
    w_ih, w_hh, biases = _take(layout, name, tensors)
    window = w_ih.shape[:-2]
    if input_shape is None:
        wanted = f"the {len(window)} sizes of space of the inputs, which {name} does not tell"
        remedy = f"pass them, such as input_shape={(28,) * len(window)}"
        raise fail("input_shape", None, wanted, remedy)
    cell = ConvLSTM(
        w_hh.shape[-2],
        kernel_shape=window,
        input_shape=input_shape,
        double_bias=double_bias and bool(biases),
    )
    zeros = np.zeros_like(w_ih[(0,) * (w_ih.ndim - 1)])
    arrays = [w_ih, w_hh, *(biases or (zeros, zeros))]
    w_ih, w_hh, b_ih, b_hh = (from_layout(layout, "ConvLSTM", array) for array in arrays)
    b_ih = on_gate("ConvLSTM", "f", lambda f: f + np.ones_like(f), b_ih)
    return Part(cell, {"w_ih": w_ih, "w_hh": w_hh} | bias_params(cell, b_ih, b_hh))


def _take(layout: str, name: str, tensors: Tensors) -> tuple[Any, Any, list[Any]]:
    """Take (kernel of x, kernel of h, the list of their biases)."""
    x, h, kernel, bias = NAMES[layout]
    axes = min(max(tensors.ndim(f"{name}/{x}/{kernel}") - 2, 1), 3)
    any_size = (None,) * (axes + 2)
    w_ih = tensors.take(f"{name}/{x}/{kernel}", "[*kernel_shape, D, 4H]", *any_size)
    size, rest = divmod(w_ih.shape[-1], 4)
    if rest:
        raise fail(f"{name}/{x}/{kernel}", f"shape {w_ih.shape}", "4H channels", "pass a ConvLSTM")
    sizes = (*w_ih.shape[:-2], size, 4 * size)
    w_hh = tensors.take(f"{name}/{h}/{kernel}", "[*kernel_shape, H, 4H]", *sizes)
    names = [f"{name}/{side}/{bias}" for side in (x, h)]
    biased = any(path in tensors for path in names)
    return w_ih, w_hh, [tensors.take(path, "[4H]", 4 * size) for path in names if biased]


def write_conv(layout: str, part: Part) -> dict[str, dict[str, np.ndarray]]:
    """Write a cell as {convolution: {array name: array}}."""
    cell, params = part
    x, h, kernel, bias = NAMES[layout]
    b_ih, b_hh = two_biases(cell, params)
    b_ih = on_gate("ConvLSTM", "f", lambda f: f - np.ones_like(f), b_ih)
    sides = {x: (params["w_ih"], b_ih), h: (params["w_hh"], b_hh)}
    return {
        side: {
            leaf: np.array(to_layout(layout, "ConvLSTM", array))
            for leaf, array in zip((kernel, bias), arrays, strict=True)
        }
        for side, arrays in sides.items()
    }
