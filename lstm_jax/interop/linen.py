"""Conversion to and from flax.linen: its cells, RNN, Bidirectional and Sequential.

A cell is a tree of Dense layers, two for each gate, of the input side and the recurrent side:

    LSTM        ii if ig io {kernel}        hi hf hg ho {kernel, bias}
    GRU         ir iz in {kernel, bias}     hr hz {kernel}, hn {kernel, bias}
    MGU         if in {kernel, bias}        hf {kernel}, hn {kernel[, bias]}, bias if reset_gate
    SimpleCell  i {kernel, bias}            h {kernel}
    ConvLSTM    ih {kernel[, bias]}         hh {kernel[, bias]}, convolutions (`_conv.py`)

flax's carry of an LSTM is (c, h); here it is LSTMState(h, c).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._cells.gru import GRU
from .._cells.lstm import LSTM
from .._cells.minimal import MGU
from .._cells.rnn import ACTIVATIONS, RNN
from .._checks import fail
from .._typing import Params
from . import _conv
from ._flax import read_layers, write_layers
from ._layout import OURS, bias_params, join_gates, one_bias, split_gates
from ._nets import Part, check_cells, check_merge, join, take_apart
from ._source import Tensors

__all__ = ["from_linen", "to_linen"]
__dir__ = __all__.copy

HELD = {
    "RNN": {"activation": None, "bias": None, "double_bias": None},
    "LSTM": {"bias": None, "double_bias": None},
    "GRU": {"bias": None, "double_bias": None},
    "MGU": {"bias": None, "double_bias": None, "reset_gate": None},
    "ConvLSTM": _conv.HELD,
}
DENSE = {
    "RNN": {"i": "h", "h": "h"},
    "LSTM": {f"{side}{gate}": gate for gate in "ifgo" for side in "ih"},
    "GRU": {f"{side}{gate}": gate for gate in "rzn" for side in "ih"},
    "MGU": {f"{side}{gate}": gate for gate in "fn" for side in "ih"},
}
"""Dense layers of each cell, and their gates."""
LETTERS = {"kernel": "[D or H, H]", "bias": "[H]"}


def from_linen(
    params: Any,
    *,
    merge: str | None = "concat",
    activation: Any = "tanh",
    input_shape: Sequence[int] | None = None,
    double_bias: bool = False,
    dropout: float = 0.0,
) -> tuple[Any, Params]:
    """Read a tree of linen's parameters as (net, params).

    Args:
        params: the variables from `module.init`, or a part of them: the tree of a cell, of an RNN
            {"cell": ...}, of a Bidirectional {"forward_rnn": ..., "backward_rnn": ...}, or several
            of these under names that end in a number (layers_0, layers_1, ... of a Sequential),
            which become a stack. The tree does not tell the options below.
        merge: the merge of a Bidirectional.
        activation: the activation of a SimpleCell.
        input_shape: the spatial sizes of the inputs of a ConvLSTMCell, such as (28, 28).
        double_bias: keep the two biases of a ConvLSTMCell apart, to train exactly like linen. A
            ConvLSTMCell without biases gets one for f, for the constant one that linen adds there.
        dropout: rate of dropout between the layers of a stack.

    Returns:
        (net, params). They are wrong for a module with residual=True, another gate_fn or another
        padding, as the tree does not show these.

    Raises:
        ValueError: a tree of another form, or a tensor that is missing, of a wrong shape or not
            finite; a ConvLSTMCell without its input_shape.
    """

    def read(name: str, node: Mapping[str, Any]) -> Part:
        if set(node) != {"ih", "hh"}:
            return read_cell(name, node, activation)
        tensors = tensors_of(name, node)
        part = _conv.read_conv("linen", name, tensors, input_shape, double_bias)
        tensors.finish()
        return part

    layers = read_layers(params, read)
    return join([layer._replace(merge=merge) for layer in layers], dropout)


def to_linen(net: Any, params: Params) -> dict[str, Any]:
    """Write the variables {"params": ...} of linen's module, as NumPy arrays.

    The module of a cell is `nn.RNN(cell)`, of two directions `nn.Bidirectional`, of a stack
    `nn.Sequential` of these. A cell without a bias gets a bias of zeros, or of -1 for f of a
    ConvLSTM, to which linen adds one.

    Raises:
        ValueError: linen has no such net.
    """
    layers = take_apart(net, params)
    check_cells(layers, "linen", HELD)
    check_merge(layers, "linen", ("concat", "sum", "mul", "mean"))
    return {"params": write_layers(layers, write_cell)}


# ---- one cell ------------------------------------------------------------------------------------
def read_cell(name: str, node: Mapping[str, Any], activation: Any) -> Part:
    """Read the tree of one cell; the names of its Dense layers tell which cell it is."""
    kinds = [kind for kind, dense in DENSE.items() if set(dense) == set(node)]
    if not kinds:
        known = "; ".join(f"{kind}: {' '.join(dense)}" for kind, dense in DENSE.items())
        remedy = "pass the recurrent module's part of the tree"
        raise fail(name, f"keys {sorted(map(str, node))}", f"a cell's: {known}", remedy)
    kind = kinds[0]
    tensors = tensors_of(name, node)
    size = None
    sides: dict[str, dict[str, Any]] = {"i": {}, "h": {}}
    for dense, gate in DENSE[kind].items():
        path = f"{name}/{dense}/kernel"
        first = (None, None) if size is None else (None, size)
        shape = (size, size) if dense[0] == "h" and size else first
        sides[dense[0]][gate] = kernel = tensors.take(path, LETTERS["kernel"], *shape)
        size = kernel.shape[1]
    assert size is not None
    reset_gate = kind == "MGU" and f"{name}/hn/bias" in tensors
    biases = _read_biases(kind, name, tensors, size, sides["h"])
    tensors.finish()
    cell = {
        "RNN": lambda: RNN(size, activation),
        "LSTM": lambda: LSTM(size),
        "GRU": lambda: GRU(size),
        "MGU": lambda: MGU(size, reset_gate),
    }[kind]()
    weights = {"w_ih": join_gates(kind, sides["i"]), "w_hh": join_gates(kind, sides["h"])}
    return Part(cell, weights | bias_params(cell, *biases))


def tensors_of(name: str, node: Mapping[str, Any]) -> Tensors:
    """Flatten the arrays of a cell's Dense layers, {layer: {leaf: array}}."""
    flat = {}
    for layer, inner in node.items():
        if not isinstance(inner, Mapping):
            seen = f"a {type(inner).__name__}"
            raise fail(f"{name}/{layer}", seen, "{kernel[, bias]}", "pass a cell's tree")
        flat |= {f"{name}/{layer}/{leaf}": array for leaf, array in inner.items()}
    return Tensors(flat, "pass a cell's tree alone")


def _read_biases(
    kind: str, name: str, tensors: Tensors, size: int, like: Mapping[str, Any]
) -> list[np.ndarray]:
    """Take the biases of the input and the recurrent side, with zeros for a missing one.

    The kind of the cell tells which Dense layers must have a bias; others are not taken.
    """
    wanted = {"RNN": ["i"], "LSTM": ["hi", "hf", "hg", "ho"],
              "GRU": ["ir", "iz", "in", "hn"], "MGU": ["if", "in"]}[kind]  # fmt: skip
    if f"{name}/hn/bias" in tensors and kind == "MGU":
        wanted = [*wanted, "hn"]
    sides = {}
    for side in "ih":
        sides[side] = {gate: np.zeros_like(like[gate][0]) for gate in OURS[kind]}
    for dense in wanted:
        path = f"{name}/{dense}/bias"
        sides[dense[0]][DENSE[kind][dense]] = tensors.take(path, LETTERS["bias"], size)
    return [join_gates(kind, sides[side]) for side in "ih"]


def write_cell(part: Part) -> dict[str, Any]:
    """Write the tree of one cell."""
    cell, params = part
    kind = type(cell).__name__
    if kind == "ConvLSTM":
        return _conv.write_conv("linen", part)
    kernels = {"i": split_gates(kind, params["w_ih"]), "h": split_gates(kind, params["w_hh"])}
    tree = {
        dense: {"kernel": np.array(kernels[dense[0]][gate])} for dense, gate in DENSE[kind].items()
    }
    b, b_hn = one_bias(cell, params)
    side = "h" if kind == "LSTM" else "i"
    for dense, gate in DENSE[kind].items():
        if dense[0] == side:
            tree[dense]["bias"] = np.array(split_gates(kind, b)[gate])
    if kind == "GRU" or (kind == "MGU" and cell.reset_gate):
        tree["hn"]["bias"] = np.array(b_hn)
    return tree


def name_of(activation: Any) -> Any:
    """Convert a function of flax or JAX to this library's name of it, if there is one."""
    names = [name for name in ACTIVATIONS if is_jaxs(activation, name)]
    return names[0] if names else activation


def is_jaxs(function: Any, name: str) -> bool:
    """True if a function is JAX's or flax's function of this name, not a user's."""
    library = str(getattr(function, "__module__", "")).split(".")[0]
    return library in ("jax", "flax") and getattr(function, "__name__", "") == name
