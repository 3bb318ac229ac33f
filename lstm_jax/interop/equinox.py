"""Conversion to and from equinox: nn.LSTMCell and nn.GRUCell.

LSTMCell    weight_ih [4H, D], weight_hh [4H, H], bias [4H]: rows i, f, g, o
GRUCell     weight_ih [3H, D], weight_hh [3H, H], bias [3H], bias_n [H]: rows r, z, n
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._checks import fail
from .._typing import Params
from ._kinds import known_kind
from ._layout import bias_params, count_gates, from_layout, on_gate, one_bias, to_layout
from ._nets import Layer, Part, check_cells, check_one_direction, join, take_apart
from ._source import Tensors

__all__ = ["from_equinox", "to_equinox"]
__dir__ = __all__.copy

HELD = {"LSTM": {"bias": None, "double_bias": None}, "GRU": {"bias": None, "double_bias": None}}
NAMES = ("weight_ih", "weight_hh", "bias", "bias_n")


def from_equinox(source: Any, *, dropout: float = 0.0) -> tuple[Any, Params]:
    """Read an equinox cell, or a list of cells to stack, as (net, params).

    Args:
        source: an LSTMCell or a GRUCell, or {name: array} of its arrays; or a list of these.
        dropout: rate of dropout between the layers of a stack; equinox's cells do not hold it.

    Raises:
        ValueError: not such a cell, or a subclass with another equation; a tensor that is
            missing, unexpected, of a wrong shape or not finite.
    """
    sources = source if isinstance(source, (list, tuple)) else [source]
    layers = [Layer((_read(f"source[{n}]", each),)) for n, each in enumerate(sources)]
    if not layers:
        raise fail("source", "no cells", "one or more", "pass an LSTMCell or a GRUCell")
    return join(layers, dropout)


def to_equinox(net: Any, params: Params) -> Any:
    """Write the NumPy arrays of equinox's cell, {name: array}; for a stack, a list of these.

        arrays = to_equinox(net, params)
        where = lambda cell: [getattr(cell, name) for name in arrays]
        cell = eqx.tree_at(where, cell, list(map(jnp.asarray, arrays.values())))

    Raises:
        ValueError: equinox has no such net.
    """
    layers = take_apart(net, params)
    check_cells(layers, "equinox", HELD)
    check_one_direction(layers, "equinox")
    cells = [_write(layer.parts[0]) for layer in layers]
    return cells[0] if len(cells) == 1 else cells


def _read(name: str, source: Any) -> Part:
    if not isinstance(source, Mapping):
        if known_kind(name, source, "equinox.nn", ("LSTMCell", "GRUCell")) is None:
            remedy = "pass such a cell, or its arrays by name"
            raise fail(name, f"a {type(source).__name__}", "an LSTMCell or a GRUCell", remedy)
        source = {key: array for key in NAMES if (array := getattr(source, key, None)) is not None}
    if "weight_hh" not in source:
        raise fail(name, f"{sorted(source)}", "an LSTMCell or a GRUCell", "pass such a cell")
    tensors = Tensors({f"{name}.{key}": array for key, array in source.items()}, "leave it out")
    w_hh = tensors.take(f"{name}.weight_hh", "[G*H, H]", None, None)
    rows, size = w_hh.shape
    kind = count_gates(f"{name}.weight_hh", rows, size)
    if kind not in HELD:
        raise fail(
            f"{name}.weight_hh", f"shape {w_hh.shape}", "[4H, H] or [3H, H]", "pass a cell's"
        )
    w_ih = tensors.take(f"{name}.weight_ih", "[G*H, D]", rows, None)
    bias = f"{name}.bias" in tensors
    cell = {"LSTM": LSTM, "GRU": GRU}[kind](size, bias=bias)
    params = {"w_ih": from_layout("equinox", kind, w_ih.T)}
    params["w_hh"] = from_layout("equinox", kind, w_hh.T)
    if bias:
        b = from_layout("equinox", kind, tensors.take(f"{name}.bias", "[G*H]", rows))
        b_hh = np.zeros_like(b)
        if kind == "GRU":
            b_n = tensors.take(f"{name}.bias_n", "[H]", size)
            b_hh = on_gate("GRU", "n", lambda _: b_n, b_hh)
        params |= bias_params(cell, b, b_hh)
    tensors.finish()
    return Part(cell, params)


def _write(part: Part) -> dict[str, np.ndarray]:
    cell, params = part
    kind = type(cell).__name__
    arrays = {"weight_ih": params["w_ih"], "weight_hh": params["w_hh"]}
    b, b_n = one_bias(cell, params)
    if cell.bias:
        arrays["bias"] = b
    arrays = {name: to_layout("equinox", kind, array) for name, array in arrays.items()}
    if cell.bias and kind == "GRU":
        arrays["bias_n"] = b_n
    return {name: np.array(array.T, order="C") for name, array in arrays.items()}
