"""Conversion to and from PyTorch: nn.RNN, nn.LSTM, nn.GRU, their cells, and state dicts.

    RNN     h' = f(W_ih x + b_ih + W_hh h + b_hh), f tanh or relu
    LSTM    rows i, f, g, o; with proj_size h' = W_hr (o * tanh(c'))
    GRU     rows r, z, n; the reset gate after the matmul

Names: weight_ih_l{k}[_reverse] [G*H, D], weight_hh_l{k} [G*H, H or P], bias_ih_l{k}, bias_hh_l{k}
[G*H], weight_hr_l{k} [P, H]; those of a cell lack _l{k}.
"""

import io
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.rnn import RNN
from .._checks import fail
from .._typing import Params
from ._kinds import REMEDY, known_kind
from ._layout import bias_params, count_gates, from_layout, to_layout, two_biases
from ._nets import Layer, Part, check_alike, check_cells, check_merge, join, take_apart
from ._source import Tensors, existing, is_path, need, unreadable, write_whole

__all__ = ["from_torch", "to_torch"]
__dir__ = __all__.copy

HELD = {
    "RNN": {"activation": ("tanh", "relu"), "bias": None, "double_bias": None},
    "LSTM": {"bias": None, "double_bias": None, "projection_size": None},
    "GRU": {"bias": None, "double_bias": None},
}
KINDS = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
MODES = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}


def from_torch(
    source: Any,
    *,
    prefix: str = "",
    double_bias: bool = False,
    activation: str = "tanh",
    dropout: float = 0.0,
) -> tuple[Any, Params]:
    """Read a PyTorch module, state dict or file of one as (net, params).

    Files are loaded with `weights_only=True`, so they cannot run code.

    Args:
        source: nn.RNN, nn.LSTM, nn.GRU, RNNCell, LSTMCell, GRUCell, or any module that holds one at
            `prefix`; its state dict, also one inside a checkpoint ({"model": state_dict}); or the
            path of a .pt or .pth file of one of these.
        prefix: prefix of the names of the recurrent tensors, such as "encoder.rnn".
        double_bias: keep torch's two biases apart instead of adding them, to train exactly like
            torch: a step of SGD moves the sum of two biases twice as far.
        activation: for a state dict: the activation of an RNN, "tanh" or "relu".
        dropout: for a state dict: the rate of dropout between the layers.

    Returns:
        (net, params): a cell, a `bidirectional` net, or a `stack` of them. For batch_first inputs
        pass time_major=False to `unroll`.

    Raises:
        ValueError: a subclass, a hook or a parametrization that may change the equation; a tensor
            is missing, unexpected, of a wrong shape or not finite.
        FileNotFoundError: no such file.
        ImportError: a file is given, but torch is not installed.
    """
    prefix = prefix and prefix.rstrip(".") + "."
    if hasattr(source, "named_modules"):
        modules = dict(source.named_modules())
        module = modules.get(prefix.rstrip("."))  # None: reading the state dict will raise.
        _check_module(prefix.rstrip(".") or "source", module)
        activation, dropout = _options(module, activation, dropout)
        source = source.state_dict()
    elif is_path(source):
        source = _load(source)
    tensors = _under(prefix, _state_dict(source))
    layers = _read(tensors, double_bias, activation)
    tensors.finish()
    return join(layers, dropout)


def to_torch(
    net: Any, params: Params, *, prefix: str = "", cell: bool = False, file: Any = None
) -> dict[str, np.ndarray]:
    """Write the state dict of PyTorch's module, as NumPy arrays.

        module.load_state_dict({k: torch.from_numpy(v) for k, v in to_torch(net, params).items()})

    Args:
        net, params: a cell or a stack of equal layers, with or without both directions.
        prefix: prefix of every name.
        cell: use the names of an nn.RNNCell, LSTMCell or GRUCell.
        file: a path to write the state dict to, atomically; None: none.

    Raises:
        ValueError: PyTorch has no such net.
        ImportError: `file` is given, but torch is not installed.
    """
    layers = take_apart(net, params)
    check_cells(layers, "torch", HELD)
    check_merge(layers, "torch")
    check_alike(layers, "torch")
    if cell and (len(layers) > 1 or len(layers[0].parts) > 1):
        raise fail("cell", True, "False for layers and directions", "pass cell=False")
    biased = any(part.cell.bias for layer in layers for part in layer.parts)
    state = {}
    for k, layer in enumerate(layers):
        for part, direction in zip(layer.parts, ("", "_reverse"), strict=False):
            suffix = "" if cell else f"_l{k}{direction}"
            arrays = _write(part, biased)
            state |= {f"{prefix}{name}{suffix}": array for name, array in arrays.items()}
    if file is not None:
        _save(state, file)
    return state


# ---- in ------------------------------------------------------------------------------------------
def _check_module(name: str, module: Any) -> None:
    """Raise if a module has weights but is not an unchanged recurrent module of torch."""
    known = known_kind(name, module, "torch.nn.modules", KINDS)
    if parametrized := list(getattr(module, "parametrizations", ())):
        remedy = "call torch.nn.utils.parametrize.remove_parametrizations on each first"
        raise fail(name, f"parametrized {', '.join(parametrized)}", "weights themselves", remedy)
    if module is not None and known is None:
        weights = dict(module.named_parameters(recurse=False))
        if any(key.startswith("weight_") for key in weights):
            wanted = f"one of torch.nn's {', '.join(KINDS)}"
            raise fail(name, f"a {type(module).__name__}", wanted, REMEDY)


def _options(module: Any, activation: str, dropout: float) -> tuple[str, float]:
    mode = getattr(module, "mode", "")
    activation = MODES.get(mode, getattr(module, "nonlinearity", activation))
    return activation, float(getattr(module, "dropout", dropout))


def _state_dict(source: Any) -> Any:
    """Find the state dict in a checkpoint such as {"model": state_dict, "epoch": 3}."""
    found = dict(_state_dicts("source", source))
    if len(found) > 1:
        wanted, remedy = "one state dict", "load the file, and pass one of these"
        raise fail("source", f"recurrent tensors in {' and '.join(found)}", wanted, remedy)
    return next(iter(found.values()), source)


def _state_dicts(place: str, source: Any, depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Find the mappings that hold recurrent tensors, and their places."""
    if not isinstance(source, Mapping) or not depth:
        return
    if any(re.search("weight_[ih]h", str(name)) for name in source):
        yield place, source
        return
    for key, inner in source.items():
        yield from _state_dicts(f"{place}[{key!r}]", inner, depth - 1)


def _under(prefix: str, state: Any) -> Tensors:
    """Select the tensors whose names begin with `prefix`, and remove it."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        kind = type(state).__name__
        raise fail("source", f"a {kind}", "a module, a state dict or a path of one", "pass one")
    found = sorted({re.split(r"weight_ih", name)[0] for name in state if "weight_ih" in name})
    remedy = f"recurrent tensors begin with {found}: pass one of these as `prefix`"
    names = [name for name in state if name.startswith(prefix)]
    if not any(name.startswith(f"{prefix}weight_") for name in names):
        seen = f"{prefix!r}, and no weight_ih or weight_hh there"
        raise fail("prefix", seen, "that of a recurrent module", remedy)
    return Tensors({name[len(prefix) :]: state[name] for name in names}, remedy)


def _read(tensors: Tensors, double_bias: bool, activation: str) -> list[Layer]:
    if "weight_ih" in tensors:
        return [Layer((_read_part(tensors, "", None, double_bias, activation),))]
    numbers = [re.match(r"weight_[ih]h_l(\d+)", name) for name in tensors.names()]
    count = 1 + max((int(match[1]) for match in numbers if match), default=0)
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in tensors else ("",)
    layers: list[Layer] = []
    size = None
    for k in range(count):
        parts = [
            _read_part(tensors, f"_l{k}{suffix}", size, double_bias, activation)
            for suffix in suffixes
        ]
        layers.append(Layer(tuple(parts)))
        size = sum(part.params["w_hh"].shape[0] for part in parts)
    return layers


def _read_part(
    tensors: Tensors, suffix: str, size: int | None, double_bias: bool, activation: str
) -> Part:
    """Read one direction of one layer; `size` is its input size, if the layer below tells it."""
    w_hr = w_hh = tensors.take(f"weight_hh{suffix}", "[G*H, H]", None, None)
    projected = f"weight_hr{suffix}" in tensors
    if projected:
        w_hr = tensors.take(f"weight_hr{suffix}", "[P, H]", w_hh.shape[1], None)
    rows, hidden_size = len(w_hh), w_hr.shape[1]
    kind = count_gates(f"weight_hh{suffix}", rows, hidden_size)
    w_ih = tensors.take(f"weight_ih{suffix}", "[G*H, D]", rows, size)
    bias = f"bias_ih{suffix}" in tensors
    options: dict[str, Any] = {"bias": bias, "double_bias": double_bias and bias}
    if projected and kind != "LSTM":
        raise fail(f"weight_hr{suffix}", f"one of a {kind}", "one of an LSTM", "leave it out")
    if projected and len(w_hr) >= hidden_size:
        wanted = f"[P, H] with P < H = {hidden_size}"
        raise fail(f"weight_hr{suffix}", f"shape {w_hr.shape}", wanted, "torch allows no other")
    if projected:
        options["projection_size"] = len(w_hr)
    cell = _cell(kind, hidden_size, activation, options)
    arrays = {"w_ih": w_ih.T, "w_hh": w_hh.T} | ({"w_hr": w_hr.T} if projected else {})
    if bias:
        pair = [tensors.take(f"{name}{suffix}", "[G*H]", rows) for name in ("bias_ih", "bias_hh")]
        arrays |= bias_params(cell, *pair)
    gated = {n: a if n == "w_hr" else from_layout("torch", kind, a) for n, a in arrays.items()}
    return Part(cell, gated)


def _cell(kind: str, hidden_size: int, activation: str, options: dict[str, Any]) -> Any:
    if kind == "RNN":
        return RNN(hidden_size, activation, **options)
    return {"LSTM": LSTM, "GRU": GRU}[kind](hidden_size, **options)


def _load(path: Any) -> Any:
    torch = need("torch", "peers")
    with unreadable(existing(path), "tensors alone", Exception):  # A damaged file.
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # torch's message advises to unpickle.
            raise RuntimeError("not torch's, or with objects in it; save a state_dict") from None


# ---- out -----------------------------------------------------------------------------------------
def _write(part: Part, bias: bool) -> dict[str, np.ndarray]:
    """Write the arrays of one direction, by torch's names without suffix."""
    cell, params = part
    kind = type(cell).__name__
    if "w_hr" in params and params["w_hr"].shape[1] >= cell.hidden_size:
        seen = f"projection_size={params['w_hr'].shape[1]}"
        remedy = "torch's proj_size must be smaller: train with a smaller one"
        raise fail("net", seen, f"less than H = {cell.hidden_size}", remedy)
    arrays = {"weight_ih": params["w_ih"], "weight_hh": params["w_hh"]}
    if bias:
        arrays |= dict(zip(("bias_ih", "bias_hh"), two_biases(cell, params), strict=True))
    arrays = {name: to_layout("torch", kind, array) for name, array in arrays.items()}
    if "w_hr" in params:
        arrays["weight_hr"] = params["w_hr"]
    # Copy, as torch requires writable memory in C order.
    return {name: np.array(array.T, order="C") for name, array in arrays.items()}


def _save(state: dict[str, np.ndarray], path: Any) -> None:
    torch = need("torch", "peers")
    memory = io.BytesIO()
    torch.save({name: _tensor(torch, array) for name, array in state.items()}, memory)
    write_whole(path, memory.getvalue())


def _tensor(torch: Any, array: np.ndarray) -> Any:
    if array.dtype == jnp.bfloat16:  # torch cannot read NumPy's bfloat16.
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array)
