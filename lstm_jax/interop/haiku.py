"""Conversion to and from dm-haiku: LSTM, GRU, VanillaRNN, Conv1DLSTM, Conv2DLSTM, Conv3DLSTM.

lstm/linear     w [D+H, 4H], b [4H]: columns i, g, f, o; every step adds one to f
gru             w_i [D, 3H], w_h [H, 3H], b [3H]: columns z, r, a; the reset gate before the
                matmul; h' = (1 - z) * h + z * a, so z is one minus ours
vanilla_rnn     linear {w [D, H], b}, linear_1 {w [H, H][, b]}: relu
conv2_dlstm     input_to_hidden {w, b}, hidden_to_hidden {w, b}: convolutions (`_conv.py`)
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._checks import counted, fail
from .._typing import Params
from . import _conv
from ._layout import bias_params, from_layout, on_gate, one_bias, to_layout, two_biases
from ._nets import Layer, Part, check_cells, check_one_direction, join, take_apart
from ._source import Tensors

__all__ = ["from_haiku", "to_haiku"]
__dir__ = __all__.copy

HELD = {
    "RNN": {"activation": ("relu",), "bias": (True,), "double_bias": None},
    "LSTM": {"bias": None, "double_bias": None},
    "GRU": {"bias": None, "double_bias": None, "reset_after": (False,)},
    "ConvLSTM": _conv.HELD,
}
INNER = r"linear(_1)?|input_to_hidden|hidden_to_hidden"
"""Names of the modules inside a core."""
NAMES = {"RNN": "vanilla_rnn", "LSTM": "lstm", "GRU": "gru"}


def from_haiku(
    params: Mapping[str, Mapping[str, Any]],
    *,
    names: Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
    double_bias: bool = False,
    dropout: float = 0.0,
) -> tuple[Any, Params]:
    """Read the parameters of a haiku network as (net, params).

    Args:
        params: the parameters from `transformed.init`: {module: {name: array}}.
        names: the recurrent modules to take, in order, such as ["lstm", "lstm_1"] or
            ["agent/~/gru"]; None: all modules, which must then be recurrent, of one class, in the
            order of their numbers. Several become a stack, as in a DeepRNN.
        input_shape: the spatial sizes of the inputs of a convolutional LSTM, as haiku has them,
            such as (28, 28); the parameters do not tell.
        double_bias: keep the two biases of a VanillaRNN or a convolutional LSTM apart, to train
            exactly like haiku.
        dropout: rate of dropout between the layers of a stack; the parameters do not tell.

    Returns:
        (net, params). They are wrong for a core of your own with haiku's name and another equation,
        as the parameters do not show it.

    Raises:
        ValueError: a module that is not recurrent or not there; a tensor that is missing,
            unexpected, of a wrong shape or not finite; a convolutional LSTM without its
            input_shape.
    """
    modules = _modules(params)
    chosen = _in_order(modules) if names is None else list(names)
    if missing := [name for name in chosen if name not in modules]:
        raise fail("names", missing, f"names among {sorted(modules)}", "pass some of these")
    options = input_shape, double_bias
    return join([Layer((_read(name, modules[name], *options),)) for name in chosen], dropout)


def to_haiku(
    net: Any, params: Params, *, names: Sequence[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Write the parameters of haiku's modules, as NumPy arrays.

    A cell without a bias gets a bias of zeros, or of -1 for f, to which haiku adds one.

    Args:
        net, params: a cell or a stack of cells: LSTM, GRU(reset_after=False), RNN("relu"),
            ConvLSTM.
        names: one module name per cell; None: haiku's own (lstm, lstm_1, gru, ...).

    Raises:
        ValueError: haiku has no such net.
    """
    layers = take_apart(net, params)
    check_cells(layers, "haiku", HELD)
    check_one_direction(layers, "haiku")
    kinds = [_kind(layer.parts[0].cell) for layer in layers]
    names = _numbered(kinds) if names is None else names
    if len(names) != len(layers):
        raise fail("names", list(names), counted(len(layers), "name"), "pass one a cell")
    modules = [_write(name, layer.parts[0]) for name, layer in zip(names, layers, strict=True)]
    return {path: arrays for module in modules for path, arrays in module.items()}


# ---- names ---------------------------------------------------------------------------------------
def _modules(params: Any) -> dict[str, dict[str, Any]]:
    """Group the arrays by recurrent module: {module: {path inside it: array}}."""
    if not isinstance(params, Mapping) or not all(isinstance(p, Mapping) for p in params.values()):
        remedy = "pass what transformed.init gives"
        raise fail("params", f"a {type(params).__name__}", "{module: {name: array}}", remedy)
    modules: dict[str, dict[str, Any]] = {}
    for path, arrays in params.items():
        name, _, inner = path.rpartition("/")
        core, place = (name, f"{inner}/") if re.fullmatch(INNER, inner) else (path, "")
        modules.setdefault(core, {}).update({f"{place}{n}": a for n, a in arrays.items()})
    return modules


def _in_order(modules: Mapping[str, Any]) -> list[str]:
    """Order the modules by the numbers in their names; raise if these do not tell the order."""
    bases = {re.sub(r"_\d+$", "", name) for name in modules}
    if len(bases) != 1:
        remedy = f"pass those to take as names, in order, from {sorted(modules)}"
        raise fail("params", f"modules {sorted(modules)}", "recurrent modules of one class", remedy)
    return sorted(modules, key=lambda name: int((re.findall(r"_(\d+)$", name) or [0])[0]))


def _kind(cell: Any) -> str:
    """Name of a cell in haiku, such as "conv2_dlstm" for two spatial axes."""
    kind = type(cell).__name__
    return f"conv{len(cell.kernel_shape)}_dlstm" if kind == "ConvLSTM" else NAMES[kind]


def _numbered(kinds: Sequence[str]) -> list[str]:
    counts = [kinds[:n].count(kind) for n, kind in enumerate(kinds)]
    return [f"{kind}_{n}" if n else kind for kind, n in zip(kinds, counts, strict=True)]


# ---- one cell ------------------------------------------------------------------------------------
def _read(name: str, arrays: Mapping[str, Any], input_shape: Any, double_bias: bool) -> Part:
    tensors = Tensors({f"{name}/{key}": array for key, array in arrays.items()},
                      "name the recurrent modules in `names`")  # fmt: skip
    if f"{name}/w_h" in tensors:
        part = _read_gru(name, tensors)
    elif any("_to_hidden/" in path for path in tensors.names()):
        part = _conv.read_conv("haiku", name, tensors, input_shape, double_bias)
    elif f"{name}/linear_1/w" in tensors:
        part = _read_rnn(name, tensors, double_bias)
    else:
        part = _read_lstm(name, tensors)
    tensors.finish()
    return part


def _read_rnn(name: str, tensors: Tensors, double_bias: bool) -> Part:
    w_hh = tensors.take(f"{name}/linear_1/w", "[H, H]", None, None)
    size = w_hh.shape[1]
    w_ih = tensors.take(f"{name}/linear/w", "[D, H]", None, size)
    biases = [tensors.take(f"{name}/linear/b", "[H]", size)]
    if f"{name}/linear_1/b" in tensors:
        biases.append(tensors.take(f"{name}/linear_1/b", "[H]", size))
    cell = RNN(size, "relu", double_bias=double_bias and len(biases) == 2)
    return Part(cell, {"w_ih": w_ih, "w_hh": w_hh} | bias_params(cell, *biases))


def _read_lstm(name: str, tensors: Tensors) -> Part:
    w = tensors.take(f"{name}/linear/w", "[D+H, 4H]", None, None)
    rows, columns = w.shape
    size = columns // 4
    if columns % 4 or rows <= size:
        raise fail(f"{name}/linear/w", f"shape {w.shape}", "[D+H, 4H]", "pass an LSTM's")
    b = tensors.take(f"{name}/linear/b", "[4H]", columns)
    w, b = (from_layout("haiku", "LSTM", array) for array in (w, b))
    b = on_gate("LSTM", "f", lambda f: f + np.ones_like(f), b)
    return Part(LSTM(size), {"w_ih": w[:-size], "w_hh": w[-size:], "b": b})


def _read_gru(name: str, tensors: Tensors) -> Part:
    w_hh = tensors.take(f"{name}/w_h", "[H, 3H]", None, None)
    size = len(w_hh)
    if w_hh.shape[1] != 3 * size:
        raise fail(f"{name}/w_h", f"shape {w_hh.shape}", "[H, 3H]", "pass a GRU's")
    w_ih = tensors.take(f"{name}/w_i", "[D, 3H]", None, 3 * size)
    b = tensors.take(f"{name}/b", "[3H]", 3 * size)
    arrays = {"w_ih": w_ih, "w_hh": w_hh, "b": b}
    params = {n: _negate_z(from_layout("haiku", "GRU", a)) for n, a in arrays.items()}
    return Part(GRU(size, reset_after=False), params)


def _negate_z(array: Any) -> Any:
    """Convert between haiku's z and ours, which is 1 - z: sigmoid(-x) = 1 - sigmoid(x)."""
    return on_gate("GRU", "z", np.negative, array)


def _write(name: str, part: Part) -> dict[str, dict[str, np.ndarray]]:
    cell, params = part
    kind, w_ih, w_hh = type(cell).__name__, params["w_ih"], params["w_hh"]
    if kind == "ConvLSTM":
        arrays = _conv.write_conv("haiku", part)
        return {f"{name}/{inner}": leaves for inner, leaves in arrays.items()}
    b, _ = one_bias(cell, params)
    if kind == "LSTM":
        b = on_gate("LSTM", "f", lambda f: f - np.ones_like(f), b)
        w = np.concatenate([w_ih, w_hh])
        w, b = (np.array(to_layout("haiku", "LSTM", array)) for array in (w, b))
        return {f"{name}/linear": {"w": w, "b": b}}
    if kind == "GRU":
        arrays = {"w_i": w_ih, "w_h": w_hh, "b": b}
        return {name: {n: to_layout("haiku", "GRU", _negate_z(a)) for n, a in arrays.items()}}
    linear = {"w": np.array(w_ih), "b": np.array(b)}
    linear_1 = {"w": np.array(w_hh)}
    if cell.double_bias:
        linear["b"], linear_1["b"] = map(np.array, two_biases(cell, params))
    return {f"{name}/linear": linear, f"{name}/linear_1": linear_1}
